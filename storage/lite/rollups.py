"""
Refreshing tiers and proving them, on SQLite.

A refresh is one writing transaction, so that there is one at a time, and no writer beside it: it reads marks, computes
their buckets anew, appends the marks of the next tier, and deletes the marks that it read, by id.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from storage.layout import TABLE_CODE, TIER_CODE, key_columns, parent, rollup_columns
from storage.lite.layout import bucket, differences, floored, names, step_us, time_column
from storage.lite.partitions import held
from storage.lite.provision import series_table
from storage.model import ROLLUPS, Table, Tier, Window, ceil, from_us, to_us
from storage.store import Mismatch, RefreshResult

#: Differences that one call reports; a tier that is wrong everywhere need not be listed row by row.
MISMATCH_LIMIT = 100
#: A refresh takes no further buckets after this: whoever writes waits for it to end.
HOLD_S = 0.5
#: How much a proof computes at a time, so that what it holds in memory is bounded: 240,000 rows of 1,000 series at 15 s.
PROOF_STRIDE = timedelta(hours=1)


def dirty(connection: sqlite3.Connection, table: Table, tier: Tier, closed_before: datetime) -> list[datetime]:
    """Return the marked buckets of *tier* that end at or before *closed_before*, ascending."""
    return [from_us(us) for us in _dirty(connection, table, tier, closed_before, limit=-1)]


def is_dirty(connection: sqlite3.Connection, table: Table, tier: Tier, closed_before: datetime) -> bool:
    """Tell whether any marked bucket of *tier* ends at or before *closed_before*."""
    return bool(_dirty(connection, table, tier, closed_before, limit=1))


def _dirty(connection: sqlite3.Connection, table: Table, tier: Tier, closed_before: datetime, limit: int) -> list[int]:
    rows = connection.execute(
        "SELECT DISTINCT bucket FROM marks WHERE tbl = ? AND tier = ? AND bucket <= ? ORDER BY bucket LIMIT ?",
        (TABLE_CODE[table], TIER_CODE[tier], to_us(closed_before - tier.step), limit),
    )
    return [row[0] for row in rows]


def refresh(
    connection: sqlite3.Connection, table: Table, tier: Tier, closed_before: datetime, limit: int
) -> RefreshResult:
    """
    Recompute up to *limit* dirty, closed buckets of *tier*, oldest first, inside the caller's transaction.

    Stops early when it has held up others for long; one bucket is always done.
    """
    started = time.monotonic()
    buckets = rows = marks = 0
    touched: set[int] = set()
    for start in _dirty(connection, table, tier, closed_before, limit):
        if buckets and time.monotonic() - started > HOLD_S:
            break
        rows += _recompute(connection, table, tier, start)
        marks += _remove_marks(connection, table, tier, start)
        buckets += 1
        if tier.coarser is not None:
            touched.add(start - start % step_us(tier.coarser))
    if tier.coarser is not None:
        connection.executemany(
            "INSERT INTO marks (tbl, tier, bucket) VALUES (?, ?, ?)",
            [(TABLE_CODE[table], TIER_CODE[tier.coarser], bucket) for bucket in sorted(touched)],
        )
    return RefreshResult(buckets=buckets, rows=rows, marks=marks)


def _recompute(connection: sqlite3.Connection, table: Table, tier: Tier, start: int) -> int:
    """Empty the bucket at *start* and fill it anew from the tier below; return how many rows it has."""
    target, columns = parent(table, tier), names(rollup_columns(table))
    connection.execute(f"DELETE FROM {target} WHERE bucket = ?", (start,))  # noqa: S608  # names of our own
    return connection.execute(
        f"INSERT INTO {target} ({columns})\n{bucket(table, tier)}",
        {"start": start, "end": start + step_us(tier)},
    ).rowcount


def _remove_marks(connection: sqlite3.Connection, table: Table, tier: Tier, start: int) -> int:
    """Remove the marks of the bucket at *start*, by id; return how many there were."""
    seen = connection.execute(
        "SELECT mark_id FROM marks WHERE tbl = ? AND tier = ? AND bucket = ?",
        (TABLE_CODE[table], TIER_CODE[tier], start),
    ).fetchall()
    connection.executemany("DELETE FROM marks WHERE mark_id = ?", seen)
    return len(seen)


def dropped_horizon(connection: sqlite3.Connection, table: Table, tier: Tier) -> datetime:
    """Return the moment below which nothing of *tier* is held or computed."""
    row = connection.execute(
        "SELECT dropped_before FROM horizons WHERE tbl = ? AND tier = ?", (TABLE_CODE[table], TIER_CODE[tier])
    ).fetchone()
    if row is None:
        raise AssertionError(f"BUG: {table} {tier} has no horizon")
    return from_us(row[0])


def markable(connection: sqlite3.Connection, table: Table, window: Window) -> list[tuple[Tier, Window]]:
    """Return what ``mark`` has to go through within *window*: slices of each tier in which anything is held."""
    horizon = dropped_horizon(connection, table, Tier.RAW)
    found: list[tuple[Tier, Window]] = []
    for tier in ROLLUPS:
        whole, lowest = window.aligned(tier.step), ceil(horizon, tier.step)
        start, end = max(whole.start, lowest), max(whole.end, lowest)
        sources = (tier, Tier.RAW) if tier is Tier.M1 else (tier,)
        parts = {part.window for source in sources for part in held(connection, table, source, Window(start, end))}
        found.extend((tier, Window(max(part.start, start), min(part.end, end))) for part in sorted(parts))
    return found


def mark(connection: sqlite3.Connection, table: Table, tier: Tier, window: Window) -> int:
    """Mark every bucket of *tier* that holds something within *window*, from the raw horizon on; count them."""
    start = max(window.start, ceil(dropped_horizon(connection, table, Tier.RAW), tier.step))
    sources = {tier: "bucket"}
    if tier is Tier.M1:
        sources[Tier.RAW] = floored("ts", tier.step)
    looks = " UNION ".join(
        f"SELECT {start_of} AS bucket FROM {parent(table, source)}"  # noqa: S608  # names of our own
        f" WHERE {time_column(source)} >= :start AND {time_column(source)} < :end"
        for source, start_of in sources.items()
    )
    return connection.execute(
        f"INSERT INTO marks (tbl, tier, bucket) SELECT DISTINCT :tbl, :tier, h.bucket FROM ({looks}) AS h"  # noqa: S608  # names of our own
        " ORDER BY h.bucket",
        {"tbl": TABLE_CODE[table], "tier": TIER_CODE[tier], "start": to_us(start), "end": to_us(window.end)},
    ).rowcount


def list_series(connection: sqlite3.Connection, table: Table) -> int:
    """
    List every series that has raw rows and is not listed; return how many those were.

    The writer lists them; this repairs what somebody else has done. One search in an index for each series.
    """
    key = key_columns(table)
    series, relation, columns = series_table(table), table.value, names(key)
    places = ", ".join("?" * len(key))
    listed = 0
    at: tuple[int, ...] = (-1,) * len(key)
    while True:
        found = connection.execute(
            f"SELECT {columns} FROM {relation} WHERE ({columns}) > ({places}) ORDER BY {columns} LIMIT 1",  # noqa: S608  # names of our own
            at,
        ).fetchone()
        if found is None:
            return listed
        at = found
        listed += connection.execute(
            f"INSERT OR IGNORE INTO {series} ({columns}) VALUES ({places})",  # noqa: S608  # names of our own
            at,
        ).rowcount


def verify_tier(
    connection: sqlite3.Connection, table: Table, tier: Tier, window: Window, against: Tier
) -> list[Mismatch]:
    """Compare the public view of *tier* with a GROUP BY over *against*, horizon included, in the caller's snapshot."""
    if against not in (Tier.RAW, tier.finer):
        raise AssertionError(f"BUG: {tier} cannot be computed from {against} in one step")
    whole = window.aligned(tier.step)
    start = max(whole.start, ceil(dropped_horizon(connection, table, against), tier.step))
    stride = max(PROOF_STRIDE, tier.step)
    found: list[Mismatch] = []
    while start < whole.end and len(found) < MISMATCH_LIMIT:
        end = min(start + stride, whole.end)
        found.extend(_differences(connection, table, tier, Window(start, end), against))
        start = end
    return found[:MISMATCH_LIMIT]


def _differences(
    connection: sqlite3.Connection, table: Table, tier: Tier, window: Window, against: Tier
) -> Iterator[Mismatch]:
    keys = ["bucket", *key_columns(table)]
    compared = [name for name in rollup_columns(table) if name not in keys]
    middle = len(keys) + len(compared)
    rows = connection.execute(
        differences(table, tier, against, MISMATCH_LIMIT), {"start": to_us(window.start), "end": to_us(window.end)}
    )
    for row in rows:
        yield Mismatch(
            table=table,
            tier=tier,
            bucket=from_us(row[0]),
            key=dict(zip(keys[1:], row[1 : len(keys)], strict=True)),
            found=dict(zip(compared, row[len(keys) : middle], strict=True)),
            expected=dict(zip(compared, row[middle:], strict=True)),
        )
