"""
Making, listing and dropping partitions.

A function of the database makes one, with the rights of the tables' owner: who may insert rows need not be who may
make tables. A partition is detached CONCURRENTLY and dropped after that, so that a report that still reads it holds up
nobody. Both under an advisory lock, in transactions of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import psycopg
from psycopg import sql

from storage.layout import TABLE_CODE, TIER_CODE, Slice, parent, slice_from_name, slices
from storage.model import Table, Tier, Window
from storage.pg.layout import PARTITION_LOCK, current_schema
from storage.queries import load
from storage.store import Partition

log = logging.getLogger(__name__)


@contextmanager
def partition_lock(connection: psycopg.Connection) -> Iterator[None]:
    """Hold the session lock under which partitions come and go; waits no longer than ``lock_timeout``."""
    connection.execute("SELECT pg_advisory_lock(%s, 0)", (PARTITION_LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, 0)", (PARTITION_LOCK,))


def make_function(connection: psycopg.Connection) -> None:
    """Make, or make anew, the function that makes partitions; nobody but its owner may call it until that is granted."""
    schema = current_schema(connection)
    function = sql.Identifier(schema, "make_partition")
    connection.execute(
        sql.SQL(load("storage", "sql/postgresql/partitions.sql")["make_partition"]).format(
            function=function, schema=sql.Literal(schema), lock=sql.Literal(PARTITION_LOCK)
        )
    )
    connection.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(function))


def ensure(connection: psycopg.Connection, table: Table, tiers: Sequence[Tier], window: Window) -> int:
    """
    Make the missing partitions of *tiers* that *window* touches; return how many were made.

    Nothing is made below a tier's closed horizon: a dropped partition never comes back empty.
    """
    wanted = [(tier, part) for tier in tiers for part in slices(table, tier, window)]
    missing = _missing(connection, table, wanted)
    made = 0
    for tier, part in missing:
        row = connection.execute(
            "SELECT make_partition(%s::smallint, %s::smallint, %s)",
            (TABLE_CODE[table], TIER_CODE[tier], part.window.start),
        ).fetchone()
        made += row == (True,)
    return made


def _missing(
    connection: psycopg.Connection, table: Table, wanted: Sequence[tuple[Tier, Slice]]
) -> list[tuple[Tier, Slice]]:
    closed = closed_horizons(connection, table)
    there = {row[0] for tier in {tier for tier, _ in wanted} for row in _attached(connection, table, tier)}
    return [(tier, part) for tier, part in wanted if part.name not in there and part.window.end > closed[tier]]


def closed_horizons(connection: psycopg.Connection, table: Table) -> dict[Tier, datetime]:
    """Return the moment of each tier of *table* below which nothing is written."""
    codes = {code: tier for tier, code in TIER_CODE.items()}
    rows = connection.execute("SELECT tier, closed_before FROM horizons WHERE tbl = %s", (TABLE_CODE[table],))
    return {codes[code]: closed for code, closed in rows}


def _attached(connection: psycopg.Connection, table: Table, tier: Tier) -> list[tuple[str, bool]]:
    return list(
        connection.execute(
            "SELECT c.relname, i.inhdetachpending"
            " FROM pg_inherits AS i"
            " JOIN pg_class AS c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(%s)"
            " ORDER BY c.relname",
            (parent(table, tier),),
        )
    )


def listed(connection: psycopg.Connection, table: Table, tier: Tier) -> list[Partition]:
    """
    Return the partitions of *tier* with their sizes, ascending.

    Those that were detached by a drop that went no further are among them: they take up disk space, and are found by name.
    """
    rows = connection.execute(
        "SELECT c.relname, pg_total_relation_size(c.oid)"
        " FROM pg_class AS c"
        " JOIN pg_class AS p ON p.oid = to_regclass(%s) AND p.relnamespace = c.relnamespace"
        " WHERE c.relkind = 'r' AND starts_with(c.relname, %s)"
        " ORDER BY c.relname",
        (parent(table, tier), f"{parent(table, tier)}_"),
    ).fetchall()
    found: list[Partition] = []
    for name, size in rows:
        part = slice_from_name(table, tier, name)
        if part is not None:
            found.append(Partition(table=table, tier=tier, name=name, window=part.window, size_bytes=size))
    return found


def drop_before(connection: psycopg.Connection, table: Table, tier: Tier, boundary: datetime) -> list[Partition]:
    """
    Detach and drop the partitions of *tier* that end at or before *boundary*, oldest first; return them.

    Takes up where an earlier call that did not get a lock in time left off.
    """
    above = sql.Identifier(parent(table, tier))
    gone = [part for part in listed(connection, table, tier) if part.window.end <= boundary]
    with partition_lock(connection):
        for name, pending in _attached(connection, table, tier):
            if pending:
                connection.execute(
                    sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(above, sql.Identifier(name))
                )
        attached = {name for name, _ in _attached(connection, table, tier)}
        for part in gone:
            leaf = sql.Identifier(part.name)
            if part.name in attached:
                connection.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY").format(above, leaf))
            connection.execute(sql.SQL("DROP TABLE {}").format(leaf))
    return gone
