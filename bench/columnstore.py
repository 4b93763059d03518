"""
What the columnstore saves: a day of 200 agents with 20 metrics each, every minute, before and after.

Values are seeded random walks with their full mantissa, the worst that a gauge does; indexes count on both sides.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
from sqlalchemy import text

from bench.databases import alone, fresh_store
from bench.figures import Figure, show
from bench.ingest import SESSION
from storage.batch import Batch, make_samples
from storage.model import Kind, MetricKey, Table, Tier, to_us
from storage.store import Capability, Store

DAY = datetime(2026, 3, 10, tzinfo=UTC)
AGENTS, METRICS, MINUTES = 200, 20, 1440
#: Minutes that one batch holds.
FLUSH = 10


def fill(store: Store) -> None:
    """Write the day."""
    dice, spool, series = np.random.default_rng(1), uuid4(), AGENTS * METRICS
    value = dice.normal(100, 10, series)
    for number in range(MINUTES // FLUSH):
        steps = np.cumsum(dice.normal(0, 1, (FLUSH, series)), axis=0) + value
        value = steps[-1]
        moments = [to_us(DAY + timedelta(minutes=number * FLUSH + k)) for k in range(FLUSH)]
        store.write(
            Batch(
                spool_id=spool,
                seq=number + 1,
                session=SESSION,
                agents=tuple(f"agent-{k:03}" for k in range(AGENTS)),
                metrics=tuple(MetricKey(name=f"metric_{k}", kind=Kind.GAUGE) for k in range(METRICS)),
                agent_samples=make_samples(
                    ts_us=np.repeat(moments, series),
                    entity=np.tile(np.repeat(np.arange(AGENTS), METRICS), FLUSH),
                    metric=np.tile(np.arange(METRICS), AGENTS * FLUSH),
                    value=steps.ravel(),
                ),
            )
        )


def measure(store: Store) -> list[Figure]:
    """Return how many times smaller the day gets."""
    store.require(Capability.COLUMNSTORE)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # The day is long past: the policy would begin before the last row is there.
        connection.execute(text("CALL remove_columnstore_policy('agent_metrics')"))
    fill(store)
    before = store.partitions(Table.AGENT, Tier.RAW)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for (chunk,) in store.query("SELECT show_chunks('agent_metrics')::text").rows:
            connection.execute(text(f"CALL convert_to_columnstore('{chunk}')"))
    after = store.partitions(Table.AGENT, Tier.RAW)
    held, shrunk = (sum(part.size_bytes for part in parts) for parts in (before, after))
    rows = store.query("SELECT count(*) FROM agent_metrics").rows[0][0]
    return [
        Figure(
            name="columnstore: bytes of a day by rows / by columns",
            value=held / shrunk,
            bar=10.0,
            better="more",
            detail=f"{held / 1e6:.0f} / {shrunk / 1e6:.1f} MB, {rows:,} rows of {AGENTS} agents × {METRICS} metrics",
        )
    ]


def run(server_url: str | None = None) -> bool:
    """Measure on TimescaleDB and print the figure; return whether the bar is met."""
    if server_url is None:
        print("left out columnstore: it needs a TimescaleDB server, give one by --database-url", flush=True)
        return True
    with fresh_store(server_url) as store:
        return show(measure(store))


if __name__ == "__main__":
    alone(run, __doc__, "TimescaleDB server whose user may make databases")
