"""
What a tier holds, day by day, month by month, year by year: SQLite has one table for all of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from types import MappingProxyType

from storage.batch import END_US
from storage.layout import Slice, parent, slice_of
from storage.lite.layout import time_column
from storage.model import EPOCH, Table, Tier, Window, from_us, to_us
from storage.store import Partition

#: All that may be stored.
EVER = Window(EPOCH, from_us(END_US))
#: Disk space of a row with its part of the indexes, bytes, by whether it is of checks: measured after 26 hours of 1,000
#: series and 100 agents at 15 s, whose latencies fill some 160 bins in an hour.
ROW_BYTES = MappingProxyType(
    {
        (True, Tier.RAW): 74,
        (True, Tier.M1): 130,
        (True, Tier.H1): 1_400,
        (True, Tier.D1): 4_200,
        (False, Tier.RAW): 74,
        (False, Tier.M1): 82,
        (False, Tier.H1): 82,
        (False, Tier.D1): 90,
    }
)


def held(connection: sqlite3.Connection, table: Table, tier: Tier, within: Window = EVER) -> Iterator[Slice]:
    """Yield the slices of *tier* that hold rows *within*, ascending: one search in an index for each."""
    relation, time = parent(table, tier), time_column(tier)
    at = to_us(within.start)
    while True:
        first = connection.execute(
            f"SELECT min({time}) FROM {relation} WHERE {time} >= ? AND {time} < ?",  # noqa: S608  # names of our own
            (at, to_us(within.end)),
        ).fetchone()[0]
        if first is None:
            return
        part = slice_of(table, tier, from_us(first))
        yield part
        at = to_us(part.window.end)


def counted(connection: sqlite3.Connection, table: Table, tier: Tier, window: Window) -> int:
    """Return the number of rows of *tier* in *window*, by reading a part of an index."""
    relation, time = parent(table, tier), time_column(tier)
    found: int = connection.execute(
        f"SELECT count(*) FROM {relation} WHERE {time} >= ? AND {time} < ?",  # noqa: S608  # names of our own
        (to_us(window.start), to_us(window.end)),
    ).fetchone()[0]
    return found


def listed(connection: sqlite3.Connection, table: Table, tier: Tier, within: Window = EVER) -> list[Partition]:
    """
    Return the slices of *tier* that hold rows *within*, ascending.

    Their size is an estimate, rows times the usual size of one: SQLite keeps no account of it.
    """
    row_bytes = ROW_BYTES[table is Table.HEALTH, tier]
    return [
        Partition(
            table=table,
            tier=tier,
            name=part.name,
            window=part.window,
            size_bytes=counted(connection, table, tier, part.window) * row_bytes,
        )
        for part in held(connection, table, tier, within)
    ]
