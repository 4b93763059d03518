"""
What one minute's refresh reads: it must follow the marks, not the history.

A day of 10,000 series at one sample a minute is written in the order in which a collector would. Then the pages that the
refresh of a minute touches are counted by EXPLAIN (ANALYZE, BUFFERS), in a transaction that is rolled back: for the
second minute of the day, for the last but one, and for that one again with 30 days of history beside it. The
history has fewer series, so that it fits on a small disk; its partitions, and the plan over them, are the real ones.
The measured minute has been refreshed before, as a late row would find it.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from bench.figures import Figure, show
from storage import schema
from storage.embedded import EmbeddedServer
from storage.model import Table, Tier, Window
from storage.open import open_store
from storage.pg.rollups import recompute_statements
from storage.store import Store

DAY = datetime(2026, 3, 31, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
#: Series of the measured day and of each day of history.
SERIES = 10_000
HISTORY_SERIES = 200
HISTORY_DAYS = 30


def fill(store: Store, day: datetime, series: int) -> None:
    """Write one sample a minute for *series* series, minute by minute, as committed hours."""
    store.ensure_partitions(Window(day, day + timedelta(days=1)))
    for hour in range(24):
        start = day + timedelta(hours=hour)
        with store.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO agent_metrics (ts, agent_id, metric_id, value)"
                    " SELECT at, 1 + k / 10, 1 + k % 10, random() * 1000"
                    " FROM generate_series(CAST(:start AS timestamptz), :end, INTERVAL '1 minute') AS at"
                    " CROSS JOIN generate_series(0, :last) AS k ORDER BY at, k"
                ),
                {"start": start, "end": start + timedelta(minutes=59), "last": series - 1},
            )
            connection.execute(
                text(
                    "INSERT INTO marks (tbl, tier, bucket) SELECT 2, 1, at"
                    " FROM generate_series(CAST(:start AS timestamptz), :end, INTERVAL '1 minute') AS at"
                ),
                {"start": start, "end": start + timedelta(minutes=59)},
            )


def buffers(store: Store, minute: datetime) -> int:
    """Return the pages that a refresh of *minute* touches, hit or read."""
    window = Window(minute, minute + MINUTE)
    touched = 0
    with store.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        for statement in recompute_statements(Table.AGENT, Tier.M1, window):
            words = statement.as_string(driver)
            if words.startswith("INSERT"):
                # What is read is the SELECT's; the pages of the rows that are put in are the same for every minute.
                words = words[words.index("SELECT") :]
            plan = connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {words}")).scalar_one()
            touched += plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
        connection.rollback()
    return touched


def settle(store: Store) -> None:
    """Refresh what is marked, as the daemon would: with it go the planner's statistics and the BRIN summaries."""
    while store.refresh(Table.AGENT, Tier.M1, closed_before=DAY + timedelta(days=1)).buckets:
        pass


def measure(store: Store, series: int, history_series: int) -> list[Figure]:
    """Return the figures of the rollup bar."""
    fill(store, DAY, series)
    settle(store)
    early, late = buffers(store, DAY + MINUTE), buffers(store, DAY + timedelta(hours=23, minutes=58))
    for back in range(1, HISTORY_DAYS + 1):
        fill(store, DAY - timedelta(days=back), history_series)
    settle(store)
    with_history = buffers(store, DAY + timedelta(hours=23, minutes=58))
    return [
        Figure(
            name=f"rollup: pages of the 23:58 minute / of the 00:01 minute, {series} series",
            value=late / early,
            bar=3.0,
            better="less",
            detail=f"{late} / {early} pages",
        ),
        Figure(
            name=f"rollup: pages of the 23:58 minute with {HISTORY_DAYS} days of history / without",
            value=with_history / late,
            bar=1.2,
            better="less",
            detail=f"{with_history} / {late} pages, {history_series} series a day of history",
        ),
    ]


def run(series: int = SERIES, history_series: int = HISTORY_SERIES) -> bool:
    """Measure on an embedded server of its own and print the figures; return whether every bar is met."""
    with tempfile.TemporaryDirectory(prefix="fleetpulse-bench-") as folder, EmbeddedServer(Path(folder)) as server:
        store = open_store(server.url)
        try:
            schema.upgrade(store.engine)
            store.provision()
            return show(measure(store, series, history_series))
        finally:
            store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=SERIES)
    parser.add_argument("--history-series", type=int, default=HISTORY_SERIES)
    arguments = parser.parse_args()
    raise SystemExit(0 if run(arguments.series, arguments.history_series) else 1)
