"""
Locks, literals and the statements that compute rollups on the PostgreSQL family.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from storage.layout import TABLE_CODE, TIER_CODE, parent, rollup_columns
from storage.model import Table, Tier, aware
from storage.queries import load

#: Where buckets are counted from.
ORIGIN = sql.SQL("TIMESTAMPTZ '1970-01-01 00:00:00+00'")

#: Advisory locks, (class, table code): ``flp`` in ASCII and a digit.
#: Held shared by every transaction that writes rows, exclusive by the one that moves a horizon.
GATE_LOCK = 0x666C7001
#: Held by the one refresher of a table.
REFRESH_LOCK = 0x666C7002
#: Held by whoever makes or drops partitions, or provisions.
PARTITION_LOCK = 0x666C7003
#: Held by the one collector of the database.
COLLECTOR_LOCK = 0x666C7004


def current_schema(connection: psycopg.Connection) -> str:
    """Return the schema that *connection* makes things in."""
    row = connection.execute("SELECT current_schema()").fetchone()
    if row is None or row[0] is None:
        raise AssertionError("BUG: a connection without a schema")
    return str(row[0])


def interval(step: timedelta) -> sql.Composable:
    """Return *step* as an SQL literal."""
    return sql.SQL(f"INTERVAL '{int(step.total_seconds())} seconds'")


def moment(value: datetime) -> sql.Composable:
    """Return *value* as a literal in UTC, whatever the session's time zone."""
    return sql.SQL(f"TIMESTAMPTZ '{aware(value).astimezone(UTC).isoformat(sep=' ')}'")


_ROLLUPS = "sql/postgresql/rollups.sql"


def computed(
    table: Table, tier: Tier, source: sql.Composable, start: sql.Composable, end: sql.Composable
) -> sql.Composed:
    """Return the SELECT that computes *tier* from *source*, the rows of the tier below in ``[start, end)``."""
    return _bounded(table, tier, tier.finer, source, start, end)


def computed_from_raw(table: Table, tier: Tier, start: sql.Composable, end: sql.Composable) -> sql.Composed:
    """Return the SELECT that computes *tier* from raw rows in one step: what every tier must equal."""
    return _bounded(table, tier, Tier.RAW, sql.Identifier(table.value), start, end)


def _bounded(
    table: Table, tier: Tier, below: Tier, source: sql.Composable, start: sql.Composable, end: sql.Composable
) -> sql.Composed:
    time = sql.Identifier("r", time_column(below))
    return aggregated(
        table,
        below,
        source,
        bucket=sql.SQL("date_bin({}, {}, {})").format(interval(tier.step), time, ORIGIN),
        epoch=sql.SQL("date_part('epoch', {})").format(time),
        within=sql.SQL("{} >= {}\n  AND {} < {}").format(time, start, time, end),
    )


def time_column(tier: Tier) -> str:
    """Return the column of *tier* that holds the time."""
    return "ts" if tier is Tier.RAW else "bucket"


def aggregated(
    table: Table,
    below: Tier,
    source: sql.Composable,
    *,
    bucket: sql.Composable,
    epoch: sql.Composable,
    within: sql.Composable,
) -> sql.Composed:
    """
    Return the SELECT that aggregates rows *r* of *source*, a relation of the tier *below*.

    Args:
        bucket: What puts a row into its bucket.
        epoch: A row's time in seconds.
        within: Condition on the rows that are read.
    """
    family = "health" if table is Table.HEALTH else "samples"
    return sql.SQL(load("storage", _ROLLUPS)[f"{family}_from_{'raw' if below is Tier.RAW else 'tier'}"]).format(
        bucket=bucket, epoch=epoch, source=source, within=within, entity=sql.Identifier(table.entity)
    )


def exact(
    table: Table, tier: Tier, start: sql.Composable | None = None, end: sql.Composable | None = None
) -> sql.Composed:
    """
    Return the SELECT of the exact rows of *tier*, everywhere or in ``[start, end)``.

    Dirty buckets read the exact rows of the tier below, within their own bounds, down to raw.
    """
    if tier is Tier.RAW:
        raise AssertionError("BUG: raw rows are exact as they are")
    dirty = f"d_{tier.value}"
    low = sql.SQL("{}.bucket").format(sql.Identifier(dirty))
    high = sql.SQL("{} + {}").format(low, interval(tier.step))
    source = (
        sql.Identifier(table.value)
        if tier.finer is Tier.RAW
        else sql.SQL("(\n{}\n)").format(exact(table, tier.finer, low, high))
    )
    everywhere = sql.SQL("true")
    bounded = start is not None and end is not None
    return sql.SQL(load("storage", _ROLLUPS)["exact"]).format(
        columns=sql.SQL(", ").join(sql.Identifier("m", name) for name in rollup_columns(table)),
        answered=sql.SQL(", ").join(
            sql.Identifier(dirty if name == "bucket" else "x", name) for name in rollup_columns(table)
        ),
        mat=sql.Identifier(parent(table, tier)),
        within_mat=_within("m", start, end) if bounded else everywhere,
        within_marks=_within("k", start, end) if bounded else everywhere,
        tbl=sql.Literal(TABLE_CODE[table]),
        tiers=sql.SQL("'{{{}}}'::smallint[]").format(
            sql.SQL(",").join(sql.SQL(str(code)) for code in range(1, TIER_CODE[tier] + 1))
        ),
        step=interval(tier.step),
        origin=ORIGIN,
        dirty=sql.Identifier(dirty),
        computed=computed(table, tier, source, low, high),
    )


def _within(alias: str, start: sql.Composable | None, end: sql.Composable | None) -> sql.Composable:
    column = sql.Identifier(alias, "bucket")
    return sql.SQL("{} >= {} AND {} < {}").format(column, start, column, end)


def view(table: Table, tier: Tier, rows: sql.Composable) -> sql.Composed:
    """Return the statement that makes the public view of *tier* over *rows*, a relation or a parenthesised SELECT."""
    averages = (
        sql.SQL("u.latency_sum / nullif(u.latency_n, 0) AS latency_avg")
        if table is Table.HEALTH
        else sql.SQL("u.sum / nullif(u.n, 0) AS avg")
    )
    return sql.SQL(load("storage", _ROLLUPS)["view"]).format(
        view=sql.Identifier(table.relation(tier)),
        columns=sql.SQL(", ").join(sql.Identifier("u", name) for name in rollup_columns(table)),
        averages=averages,
        rows=rows,
    )
