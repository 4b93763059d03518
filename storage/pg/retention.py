"""
Moving horizons and dropping what lies below them, on the PostgreSQL family; ``rollups.retention`` decides when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import psycopg
from psycopg import sql

from storage.errors import NotSettled, StorageError
from storage.layout import TABLE_CODE, TIER_CODE
from storage.model import Table, Tier, aware
from storage.pg.connection import insist_direct
from storage.pg.layout import GATE_LOCK
from storage.pg.rollups import dropped_horizon, refresh_lock
from storage.queries import load
from storage.store import Horizon, LedgerDay, Partition

_LEDGER = "sql/postgresql/ledger.sql"


def horizons(connection: psycopg.Connection) -> list[Horizon]:
    """Return the horizon of every table and tier."""
    tables = {code: table for table, code in TABLE_CODE.items()}
    tiers = {code: tier for tier, code in TIER_CODE.items()}
    rows = connection.execute("SELECT tbl, tier, closed_before, dropped_before FROM horizons ORDER BY tbl, tier")
    return [
        Horizon(table=tables[table], tier=tiers[tier], closed_before=closed, dropped_before=dropped)
        for table, tier, closed, dropped in rows
    ]


def close_below(connection: psycopg.Connection, table: Table, tier: Tier, boundary: datetime) -> None:
    """
    Move the closed horizon of *tier* up to *boundary*; never down.

    The exclusive lock is had once every transaction that holds the gate has ended; whoever enters after that reads
    the new horizon. ``lock_timeout`` bounds the wait, and with it how long new writers queue behind it.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (GATE_LOCK, TABLE_CODE[table]))
        connection.execute(
            "UPDATE horizons SET closed_before = greatest(closed_before, %s) WHERE tbl = %s AND tier = %s",
            (boundary, TABLE_CODE[table], TIER_CODE[tier]),
        )


def drop_below(
    connection: psycopg.Connection,
    table: Table,
    tier: Tier,
    boundary: datetime,
    drop: Callable[[psycopg.Connection, Table, Tier, datetime], Sequence[Partition]],
) -> Sequence[Partition]:
    """Have *drop* take what *tier* holds below *boundary*, which must be closed and clean; see ``Store.drop_below``."""
    insist_direct(connection)
    with refresh_lock(connection, table, wait=True):
        with connection.transaction():
            _insist_settled(connection, table, tier, boundary)
            connection.execute(
                "UPDATE horizons SET dropped_before = greatest(dropped_before, %s) WHERE tbl = %s AND tier = %s",
                (boundary, TABLE_CODE[table], TIER_CODE[tier]),
            )
        return drop(connection, table, tier, boundary)


def _insist_settled(connection: psycopg.Connection, table: Table, tier: Tier, boundary: datetime) -> None:
    row = connection.execute(
        "SELECT closed_before FROM horizons WHERE tbl = %s AND tier = %s", (TABLE_CODE[table], TIER_CODE[tier])
    ).fetchone()
    if row is None or row[0] < aware(boundary):
        found = row[0].isoformat() if row else "nothing"
        raise StorageError(
            f"{table} {tier} cannot be dropped below {boundary.isoformat()}: it is closed below {found} only"
        )
    if tier is not Tier.RAW and dropped_horizon(connection, table, tier.finer) < boundary:
        raise StorageError(
            f"{table} {tier} cannot be dropped below {boundary.isoformat()}: {tier.finer} still holds rows there, "
            "drop those first"
        )
    # Whatever is marked below the boundary still has to be computed from rows that would be gone.
    left = connection.execute(
        "SELECT count(*), min(bucket) FROM marks WHERE tbl = %s AND tier > %s AND bucket < %s",
        (TABLE_CODE[table], TIER_CODE[tier], boundary),
    ).fetchone()
    if left is not None and left[0]:
        raise NotSettled(
            f"{table} {tier} cannot be dropped below {boundary.isoformat()}: "
            f"{left[0]} marks are left from {left[1].isoformat()} on, refresh first"
        )


def ledger_days(connection: psycopg.Connection) -> list[LedgerDay]:
    """Return each UTC day above the raw horizons with what the ledger claims and what the tables hold."""
    found: list[LedgerDay] = []
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            for table, code in TABLE_CODE.items():
                rows = connection.execute(
                    sql.SQL(load("storage", _LEDGER)["days"]).format(table=sql.Identifier(table.value)), {"tbl": code}
                )
                found.extend(LedgerDay(table=table, day=day, ledger=ledger, stored=n) for day, ledger, n in rows)
    finally:
        if not connection.closed:
            connection.isolation_level = None
    return found


def purge_ledger(connection: psycopg.Connection, before: datetime, limit: int) -> int:
    """Forget up to *limit* batches that were committed before *before*, with their day counts; return how many."""
    with connection.transaction():
        return connection.execute(
            sql.SQL(load("storage", _LEDGER)["purge"]), {"before": before, "limit": limit}
        ).rowcount
