"""
Moving horizons and dropping what lies below them, on SQLite; ``rollups.retention`` decides when.

The horizon moves first: from then on no view, refresh or proof looks below it. The rows go after that, in deletes that
are bounded, each in a transaction of its own, so that no writer waits for long; what a call leaves, the next one finds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from storage.errors import NotSettled, StorageError
from storage.layout import TABLE_CODE, TIER_CODE, key_columns, parent
from storage.lite.layout import names, time_column
from storage.lite.partitions import EVER, counted, held, listed
from storage.lite.provision import series_table
from storage.lite.rollups import dropped_horizon
from storage.model import EPOCH, Table, Tier, Window, from_us, to_us
from storage.queries import load
from storage.store import Horizon, LedgerDay, Partition

_LEDGER = "sql/sqlite/ledger.sql"

#: Rows that one transaction deletes: some 50 ms, indexes included.
DELETE_ROWS = 10_000
#: What a day frees, the next one fills: with raw rows of a week that is a seventh. Only what is free beyond a quarter of
#: the file goes back to the disk, down to an eighth: giving back more would move pages about to take them up again.
FREE_SHARE = 0.25
KEPT_SHARE = 0.125
#: Answer of ``PRAGMA auto_vacuum`` for a file that can give pages back; one in memory cannot, nor one that was made by
#: another program.
INCREMENTAL = 2
#: Pages that are given back at a time: some 20 ms.
VACUUM_PAGES = 1_000


def horizons(connection: sqlite3.Connection) -> list[Horizon]:
    """Return the horizon of every table and tier."""
    tables = {code: table for table, code in TABLE_CODE.items()}
    tiers = {code: tier for tier, code in TIER_CODE.items()}
    rows = connection.execute("SELECT tbl, tier, closed_before, dropped_before FROM horizons ORDER BY tbl, tier")
    return [
        Horizon(table=tables[table], tier=tiers[tier], closed_before=from_us(closed), dropped_before=from_us(dropped))
        for table, tier, closed, dropped in rows
    ]


def close_below(connection: sqlite3.Connection, table: Table, tier: Tier, boundary: datetime) -> None:
    """Move the closed horizon of *tier* up to *boundary*, never down; no writer is beside the caller's transaction."""
    connection.execute(
        "UPDATE horizons SET closed_before = max(closed_before, ?) WHERE tbl = ? AND tier = ?",
        (to_us(boundary), TABLE_CODE[table], TIER_CODE[tier]),
    )


def move_dropped(connection: sqlite3.Connection, table: Table, tier: Tier, boundary: datetime) -> list[Partition]:
    """Move the dropped horizon of *tier* up to *boundary*; return the slices that are to go, see ``Store.drop_below``."""
    row = connection.execute(
        "SELECT closed_before FROM horizons WHERE tbl = ? AND tier = ?", (TABLE_CODE[table], TIER_CODE[tier])
    ).fetchone()
    if row is None or row[0] < to_us(boundary):
        found = from_us(row[0]).isoformat() if row else "nothing"
        raise StorageError(
            f"{table} {tier} cannot be dropped below {boundary.isoformat()}: it is closed below {found} only"
        )
    if tier is not Tier.RAW and dropped_horizon(connection, table, tier.finer) < boundary:
        raise StorageError(
            f"{table} {tier} cannot be dropped below {boundary.isoformat()}: {tier.finer} still holds rows there, "
            "drop those first"
        )
    # Whatever is marked below the boundary still has to be computed from rows that would be gone.
    left, first = connection.execute(
        "SELECT count(*), min(bucket) FROM marks WHERE tbl = ? AND tier > ? AND bucket < ?",
        (TABLE_CODE[table], TIER_CODE[tier], to_us(boundary)),
    ).fetchone()
    if left:
        raise NotSettled(
            f"{table} {tier} cannot be dropped below {boundary.isoformat()}: "
            f"{left} marks are left from {from_us(first).isoformat()} on, refresh first"
        )
    connection.execute(
        "UPDATE horizons SET dropped_before = max(dropped_before, ?) WHERE tbl = ? AND tier = ?",
        (to_us(boundary), TABLE_CODE[table], TIER_CODE[tier]),
    )
    return [part for part in listed(connection, table, tier, Window(EPOCH, boundary)) if part.window.end <= boundary]


def delete_below(connection: sqlite3.Connection, table: Table, tier: Tier, cut: datetime) -> int:
    """Delete up to ``DELETE_ROWS`` rows of *tier* below *cut*, oldest first; return how many."""
    relation, time = parent(table, tier), time_column(tier)
    key = "rowid" if tier is Tier.RAW else names(["bucket", *key_columns(table)])
    return connection.execute(
        f"DELETE FROM {relation} WHERE ({key}) IN"  # noqa: S608  # names of our own
        f" (SELECT {key} FROM {relation} WHERE {time} < ? ORDER BY {time} LIMIT ?)",
        (to_us(cut), DELETE_ROWS),
    ).rowcount


def forget_series(connection: sqlite3.Connection, table: Table) -> None:
    """Forget the series that have no raw rows left: nothing of theirs can be marked."""
    same = " AND ".join(f"r.{name} = s.{name}" for name in key_columns(table))
    connection.execute(
        f"DELETE FROM {series_table(table)} AS s"  # noqa: S608  # names of our own
        f" WHERE NOT EXISTS (SELECT 1 FROM {table.value} AS r WHERE {same})"
    )


def surplus_pages(connection: sqlite3.Connection) -> int:
    """Return how many free pages are too many, 0 while they are fewer than ``FREE_SHARE`` of the file."""
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
        return 0
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    # The file gets smaller by what is given back, and what is kept is a share of that.
    return int((free - KEPT_SHARE * pages) / (1 - KEPT_SHARE)) if free > FREE_SHARE * pages else 0


def give_back(connection: sqlite3.Connection, pages: int) -> None:
    """Give free pages back to the disk, outside of a transaction of the caller's."""
    # As a statement of its own it would stop at the first page.
    connection.executescript(f"PRAGMA incremental_vacuum({pages})")


def ledger_days(connection: sqlite3.Connection) -> list[LedgerDay]:
    """Return each UTC day above the raw horizons with what the ledger claims and what the tables hold."""
    found: list[LedgerDay] = []
    for table, code in TABLE_CODE.items():
        since = dropped_horizon(connection, table, Tier.RAW)
        claimed: dict[str, int] = dict(
            connection.execute(
                load("storage", _LEDGER)["days"], {"tbl": code, "since": since.date().isoformat()}
            ).fetchall()
        )
        days = [part.window for part in held(connection, table, Tier.RAW, Window(since, EVER.end))]
        stored = {
            day.start.date().isoformat(): counted(connection, table, Tier.RAW, Window(max(day.start, since), day.end))
            for day in days
        }
        found.extend(
            LedgerDay(
                table=table,
                day=datetime.fromisoformat(day).date(),
                ledger=claimed.get(day, 0),
                stored=stored.get(day, 0),
            )
            for day in sorted({*claimed, *stored})
        )
    return found


def purge_ledger(connection: sqlite3.Connection, before: datetime, limit: int) -> int:
    """Forget up to *limit* batches that were committed before *before*, with what hangs on them; return how many."""
    statements = load("storage", _LEDGER)
    gone = 0
    tables: Sequence[str] = ("ingest_batch_days", "ingest_rejections", "ingest_batches")
    for table in tables:
        gone = connection.execute(
            statements["forget"].format(table=table, old=statements["old"]),
            {"before": to_us(before), "limit": limit},
        ).rowcount
    return gone
