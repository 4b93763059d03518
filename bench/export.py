"""
What a frame costs beside the libraries that it is made with, and what memory a file of ten million rows takes.

Ten million samples of 10,000 series are made in the database, one minute after the other. A frame of a million of them is
loaded three ways, in turns, to the same index, categoricals (agent, metric, labels) and numbers: by ``fleetpulse.frames``; by hand with Arrow's
driver, its own ``to_pandas`` and a table of ids; by ``pandas.read_sql`` over SQLAlchemy. All of them are exported by
the command line in a process of its own, whose largest size the system tells.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import chain, permutations
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from adbc_driver_postgresql import dbapi
from sqlalchemy import text

from bench.databases import alone, fresh_store
from bench.figures import Figure, show
from fleetpulse import frames
from storage.model import Tier, Window, floor
from storage.store import Store

AGENTS, METRICS = 1_000, 10
#: One sample a minute of each series.
MINUTES = 1_000
#: A million rows.
LOADED_MINUTES = 100

_RELATIONAL = (
    "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall, credential, options,"
    " source, created_at) SELECT 'agent-' || k, 'bench', 'http', '', '{}', 60, 10, 1, 1, '', '{}', 'api', :start"
    " FROM generate_series(1, :agents) AS k",
    "INSERT INTO metrics (name, labels, kind, labels_digest)"
    " SELECT 'metric_' || k, '{}', 'gauge', decode(md5(k::text), 'hex') FROM generate_series(1, :metrics) AS k",
)
_SAMPLES = (
    "INSERT INTO agent_metrics (ts, agent_id, metric_id, value) SELECT at, a.id, m.id, 1000 * random()"
    " FROM generate_series(CAST(:start AS timestamptz), :last, INTERVAL '1 minute') AS at"
    " CROSS JOIN agents AS a CROSS JOIN metrics AS m ORDER BY at, a.id, m.id"
)
_IDS = "SELECT ts, agent_id, metric_id, value FROM agent_metrics WHERE ts >= '{start}'::timestamptz AND ts < '{end}'::timestamptz"
_LISTED = {
    "agent": "SELECT id, name FROM agents",
    "metric": "SELECT id, name FROM metrics",
    "labels": "SELECT id, CAST(labels AS text) AS name FROM metrics",
}
_NAMED = text(
    "SELECT s.ts, a.name AS agent, m.name AS metric, CAST(m.labels AS text) AS labels, s.value FROM agent_metrics AS s"
    " JOIN agents AS a ON a.id = s.agent_id JOIN metrics AS m ON m.id = s.metric_id"
    " WHERE s.ts >= :start AND s.ts < :end"
)

#: Runs a command and prints the largest size of its process, KiB. In a small process of its own: the kernel counts to a
#: child what the process was that it was forked from.
_MEASURED = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
    " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def fill(store: Store, start: datetime) -> None:
    """Write the samples, a hundred minutes at a time."""
    store.ensure_partitions(Window(start, start + timedelta(days=1)))
    with store.engine.begin() as connection:
        for statement in _RELATIONAL:
            connection.execute(text(statement), {"start": start, "agents": AGENTS, "metrics": METRICS})
    for minute in range(0, MINUTES, LOADED_MINUTES):
        first = start + timedelta(minutes=minute)
        with store.engine.begin() as connection:
            last = first + timedelta(minutes=LOADED_MINUTES - 1)
            connection.execute(text(_SAMPLES), {"start": first, "last": last})
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE agent_metrics"))


def by_hand(url: str, window: Window) -> pd.DataFrame:
    """Load the same frame with Arrow's driver, as a careful user would write it."""
    statement = _IDS.format(start=window.start.isoformat(), end=window.end.isoformat())
    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        names: dict[str, pd.DataFrame] = {}
        for column, listed in _LISTED.items():
            cursor.execute(listed)
            names[column] = cursor.fetch_arrow_table().to_pandas()
        cursor.execute(statement)
        frame: pd.DataFrame = cursor.fetch_arrow_table().to_pandas()
    for column, known in names.items():
        named = known["name"].astype("category")
        codes = np.full(known["id"].max() + 1, -1, dtype=np.int32)
        codes[known["id"]] = named.cat.codes
        ids = frame["agent_id" if column == "agent" else "metric_id"].to_numpy()
        frame[column] = pd.Categorical.from_codes(codes[ids], categories=named.cat.categories)
    frame = frame.drop(columns=["agent_id", "metric_id"])
    frame = frame.set_index("ts")
    return frame if frame.index.is_monotonic_increasing else frame.sort_index(kind="stable")


def by_read_sql(store: Store, window: Window) -> pd.DataFrame:
    """Load the same frame with pandas over SQLAlchemy."""
    frame = pd.read_sql(_NAMED, store.engine, params={"start": window.start, "end": window.end}, index_col="ts")
    frame = frame.astype(dict.fromkeys(("agent", "metric", "labels"), "category"))
    return frame if frame.index.is_monotonic_increasing else frame.sort_index(kind="stable")


def _seconds(*ways: Callable[[], pd.DataFrame]) -> list[float]:
    """
    Return how long each way takes.

    They are gone in turns, so that what else runs slows all of them, and in every order: what one has taken from the
    system and not given back yet makes the next one faster.
    """
    took: dict[Callable[[], pd.DataFrame], list[float]] = {way: [] for way in ways}
    orders = list(permutations(ways))
    for way in chain.from_iterable(orders):
        started = time.perf_counter()
        frame = way()
        took[way].append(time.perf_counter() - started)
        if len(frame) != AGENTS * METRICS * LOADED_MINUTES or str(frame.index.dtype) != "datetime64[us, UTC]":
            raise AssertionError(f"BUG: a frame of {len(frame)} rows, index {frame.index.dtype}")
        del frame
    return [median(each) for each in took.values()]


def _export(url: str, window: Window, path: Path) -> tuple[float, float]:
    """Export all rows into *path*; return the seconds that it took and the largest size of the process, MB."""
    command = [sys.executable, "-m", "fleetpulse", "export", "agent_metrics", "--database-url", url, "--out", str(path)]
    command += ["--since", window.start.isoformat(), "--until", window.end.isoformat()]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command], check=True, capture_output=True, text=True, timeout=1800
    )
    return time.perf_counter() - started, float(done.stdout.split()[-1]) * 1024 / 1e6


def measure(store: Store) -> list[Figure]:
    """Return what frames and files cost."""
    start = floor(datetime.now(UTC), Tier.D1.step) - timedelta(days=1)
    fill(store, start)
    url = store.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    window = Window(start, start + timedelta(minutes=LOADED_MINUTES))
    ours, hand, read_sql = _seconds(
        lambda: frames.agent_samples(store, None, window),
        lambda: by_hand(url, window),
        lambda: by_read_sql(store, window),
    )
    told = f"1M samples, {store.engine_name}: {ours:.2f} s"
    figures = [
        Figure(
            name="frame beside Arrow's driver by hand: ratio",
            value=hand / ours,
            bar=0.9,
            better="more",
            detail=f"{told}, {hand:.2f} s",
        ),
        Figure(
            name="frame beside pandas.read_sql: ratio",
            value=read_sql / ours,
            bar=8,
            better="more",
            detail=f"{told}, {read_sql:.2f} s",
        ),
    ]
    whole = Window(start, start + timedelta(minutes=MINUTES))
    with tempfile.TemporaryDirectory(prefix="fleetpulse-bench-") as folder:
        for form in ("parquet", "csv"):
            path = Path(folder) / f"samples.{form}"
            took, size_mb = _export(url, whole, path)
            rows = AGENTS * METRICS * MINUTES
            figures.append(
                Figure(
                    name=f"export of {rows / 1e6:.0f} M samples to {form}: MB of memory",
                    value=size_mb,
                    bar=300,
                    better="less",
                    detail=f"{took:.0f} s, file of {path.stat().st_size / 1e6:.0f} MB",
                )
            )
    return figures


def run(server_url: str | None = None) -> bool:
    """Measure in a fresh database and print the figures; return whether every bar is met."""
    with fresh_store(server_url) as store:
        return show(measure(store))


if __name__ == "__main__":
    alone(run, __doc__, "server to measure on; by default an embedded one")
