"""
Where the rows of a batch go, and how: the one part of a write in which the engines of the PostgreSQL family differ.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Protocol

import psycopg
from psycopg import sql

from storage.admission import Stored
from storage.copyformat import encode_rows
from storage.layout import leaf
from storage.model import Table, Tier, Window
from storage.pg import partitions


class Sink(Protocol):
    """Takes the rows of one table, all of one UTC day."""

    def put(self, connection: psycopg.Connection, table: Table, day: date, rows: Stored) -> int:
        """Write *rows* and return how many they were; driver errors come out as they are."""
        ...

    def make_room(self, connection: psycopg.Connection, table: Table, day: date) -> None:
        """Make what rows of *day* need, after a ``put`` that found no table."""
        ...


class LeafCopy:
    """Binary COPY straight into the partition of the day: routing through the parent costs a third of the rate."""

    def put(self, connection: psycopg.Connection, table: Table, day: date, rows: Stored) -> int:
        return _copy(connection, leaf(table, day), rows)

    def make_room(self, connection: psycopg.Connection, table: Table, day: date) -> None:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        partitions.ensure(connection, table, [Tier.RAW], Window(start, start + timedelta(days=1)))


class TableCopy:
    """Binary COPY into the table, which finds the place of each row by itself."""

    def put(self, connection: psycopg.Connection, table: Table, day: date, rows: Stored) -> int:
        return _copy(connection, table.value, rows)

    def make_room(self, connection: psycopg.Connection, table: Table, day: date) -> None:
        raise AssertionError(f"BUG: {table} is not there, and is not made by days")


def _copy(connection: psycopg.Connection, relation: str, rows: Stored) -> int:
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(sql.Identifier(relation), _names(rows))
    with connection.cursor() as cursor:
        with cursor.copy(statement) as stream:
            for part in encode_rows(rows.types, rows.values, rows.nulls):
                stream.write(part)
        return cursor.rowcount


def _names(rows: Stored) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, rows.columns))
