"""
Ingest beside raw COPY: the same rows into the same tables and indexes, in the same run, batch by batch in turns.

The rival sends bytes that were encoded beforehand, commits, and does nothing else. ``Store.write`` encodes, looks ids up,
writes ledger, day counts and marks. Both are durable with each batch, as the server is set up.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import psycopg
from psycopg import sql

from bench.databases import fresh_store
from bench.figures import Figure, show
from storage.batch import Batch, make_samples
from storage.copyformat import encode_rows
from storage.layout import leaf
from storage.model import Kind, MetricKey, Session, Table, Window, to_us
from storage.store import Store

START = datetime(2026, 3, 10, tzinfo=UTC)
AGENTS, METRICS = 1_000, 10
#: 500 batches of 10,000 rows, fifteen seconds apart.
ROUNDS = 500
STEP = timedelta(seconds=15)
SESSION = Session(
    uuid="6a0f6f8e-0000-4000-8000-00000000be0c", name="bench", host="bench", pid=1, version="0", started_at=START
)


def batch(number: int, spool: object, dice: np.random.Generator) -> Batch:
    """Return one round of every series."""
    rows = AGENTS * METRICS
    return Batch(
        spool_id=spool,  # type: ignore[arg-type]  # a UUID
        seq=number + 1,
        session=SESSION,
        agents=tuple(f"agent-{k:04}" for k in range(AGENTS)),
        metrics=tuple(MetricKey(name=f"metric_{k}", kind=Kind.GAUGE) for k in range(METRICS)),
        agent_samples=make_samples(
            ts_us=np.full(rows, to_us(START + number * STEP)),
            entity=np.repeat(np.arange(AGENTS), METRICS),
            metric=np.tile(np.arange(METRICS), AGENTS),
            value=dice.random(rows),
        ),
    )


def encoded(one: Batch) -> bytes:
    """Return the rows of *one* as binary COPY takes them, with ids as both databases give them."""
    rows = one.agent_samples
    values = (rows.ts_us, rows.entity + np.int32(1), rows.metric + np.int32(1), rows.value)
    return b"".join(encode_rows(("timestamptz", "int4", "int4", "float8"), values, {}))


def measure(ours: Store, rival: Store, rounds: int) -> list[Figure]:
    """Return the ratio of the two rates."""
    dice, spool = np.random.default_rng(1), uuid4()
    for store in (ours, rival):
        store.ensure_partitions(Window(START, START + rounds * STEP))
    relation = "agent_metrics" if ours.engine_name == "timescaledb" else leaf(Table.AGENT, START.date())
    statement = sql.SQL("COPY {} (ts, agent_id, metric_id, value) FROM STDIN (FORMAT binary)").format(
        sql.Identifier(relation)
    )
    address = rival.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    ours_s = rival_s = 0.0
    with psycopg.connect(address, autocommit=True) as connection:
        for number in range(rounds):
            one = batch(number, spool, dice)
            data = encoded(one)
            for turn in (number % 2, 1 - number % 2):
                started = time.perf_counter()
                if turn:
                    ours.write(one)
                else:
                    with connection.cursor() as cursor, cursor.copy(statement) as copy:
                        copy.write(data)
                spent = time.perf_counter() - started
                if number >= 2:  # ids are made, chunks and caches warm
                    ours_s, rival_s = (ours_s + spent, rival_s) if turn else (ours_s, rival_s + spent)
    rows = (rounds - 2) * AGENTS * METRICS
    count = "SELECT count(*) FROM agent_metrics"
    if ours.query(count).rows != rival.query(count).rows:
        raise AssertionError("BUG: the two databases hold different numbers of rows")
    return [
        Figure(
            name=f"ingest: rows per second / of raw COPY, {ours.engine_name}",
            value=rival_s / ours_s,
            bar=0.9,
            better="more",
            detail=f"{rows / ours_s:,.0f} / {rows / rival_s:,.0f} rows/s, {rows:,} rows in batches of "
            f"{AGENTS * METRICS:,}, fsync {ours.query('SHOW fsync').rows[0][0]}",
        )
    ]


def run(server_url: str | None = None, rounds: int = ROUNDS) -> bool:
    """Measure in two fresh databases and print the figure; return whether the bar is met."""
    with fresh_store(server_url) as ours, fresh_store(server_url) as rival:
        return show(measure(ours, rival, rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", help="server to measure on; by default embedded ones")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    raise SystemExit(0 if run(arguments.database_url, arguments.rounds) else 1)
