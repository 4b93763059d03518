"""
Names, codes and columns of the time series on the PostgreSQL family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType

from psycopg import sql

from storage.model import Table, Tier, Window
from storage.queries import load

TABLE_CODE: Mapping[Table, int] = MappingProxyType({Table.HEALTH: 1, Table.AGENT: 2, Table.SYSTEM: 3})
TIER_CODE: Mapping[Tier, int] = MappingProxyType({Tier.RAW: 0, Tier.M1: 1, Tier.H1: 2, Tier.D1: 3})

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

_HEALTH_ROLLUP = (
    *("bucket", "agent_id", "n"),
    *("healthy", "degraded", "unhealthy", "stalled", "timeout", "refused", "error", "skipped", "paused"),
    *("latency_n", "latency_sum", "latency_min", "latency_max", "latency_last"),
    *("late_max", "last_outcome", "latency_bins"),
)


def rollup_columns(table: Table) -> list[str]:
    """Return the columns of a materialised tier of *table*, in order."""
    if table is Table.HEALTH:
        return list(_HEALTH_ROLLUP)
    return ["bucket", table.entity, "metric_id", "n", "sum", "min", "max", "last"]


def key_columns(table: Table) -> list[str]:
    """Return the columns that identify a rollup row besides its bucket."""
    return [table.entity] if table is Table.HEALTH else [table.entity, "metric_id"]


def parent(table: Table, tier: Tier) -> str:
    """Return the partitioned table that holds *tier*."""
    return table.value if tier is Tier.RAW else f"{table.relation(tier)}_mat"


def interval(step: timedelta) -> sql.Composable:
    """Return *step* as an SQL literal."""
    return sql.SQL(f"INTERVAL '{int(step.total_seconds())} seconds'")


def moment(value: datetime) -> sql.Composable:
    """Return *value* as a literal in UTC, whatever the session's time zone."""
    return sql.SQL(f"TIMESTAMPTZ '{value.astimezone(UTC).isoformat(sep=' ')}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One partition: its name and what it holds."""

    name: str
    window: Window


def slice_of(table: Table, tier: Tier, at: datetime) -> Slice:
    """
    Return the partition of *tier* that holds *at*: days for raw and 1m, months for 1h, years for 1d.

    Thirty days of a tier are some thirty partitions at the most: planning stays below a millisecond.
    """
    at = at.astimezone(UTC)
    if tier in (Tier.RAW, Tier.M1):
        start = at.replace(hour=0, minute=0, second=0, microsecond=0)
        end, suffix = start + timedelta(days=1), f"{start:%Y%m%d}"
    elif tier is Tier.H1:
        start = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end, suffix = (start + timedelta(days=31)).replace(day=1), f"{start:%Y%m}"
    else:
        start = at.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
        end, suffix = start.replace(year=start.year + 1), f"{start:%Y}"
    return Slice(name=f"{parent(table, tier)}_{suffix}", window=Window(start, end))


def slices(table: Table, tier: Tier, window: Window) -> list[Slice]:
    """Return the partitions that *window* touches, ascending."""
    found: list[Slice] = []
    at = window.start
    while at < window.end:
        found.append(slice_of(table, tier, at))
        at = found[-1].window.end
    return found


def slice_from_name(table: Table, tier: Tier, name: str) -> Slice | None:
    """Return the partition called *name*, ``None`` when it is not one of *tier*."""
    match = re.fullmatch(rf"{parent(table, tier)}_(\d{{4}})(\d{{2}})?(\d{{2}})?", name)
    if match is None:
        return None
    year, month, day = (int(part) if part else 1 for part in match.groups())
    at = date(year, month, day)
    found = slice_of(table, tier, datetime(at.year, at.month, at.day, tzinfo=UTC))
    return found if found.name == name else None


def leaf(table: Table, day: date) -> str:
    """Return the raw partition of a UTC day."""
    return f"{table.value}_{day:%Y%m%d}"


_ROLLUPS = "sql/postgresql/rollups.sql"


def computed(
    table: Table, tier: Tier, source: sql.Composable, start: sql.Composable, end: sql.Composable
) -> sql.Composed:
    """Return the SELECT that computes *tier* from *source*, the rows of the tier below in ``[start, end)``."""
    return _computed(table, tier, "raw" if tier.finer is Tier.RAW else "tier", source, start, end)


def computed_from_raw(table: Table, tier: Tier, start: sql.Composable, end: sql.Composable) -> sql.Composed:
    """Return the SELECT that computes *tier* from raw rows in one step: what every tier must equal."""
    return _computed(table, tier, "raw", sql.Identifier(table.value), start, end)


def _computed(
    table: Table, tier: Tier, below: str, source: sql.Composable, start: sql.Composable, end: sql.Composable
) -> sql.Composed:
    family = "health" if table is Table.HEALTH else "samples"
    return sql.SQL(load("storage", _ROLLUPS)[f"{family}_from_{below}"]).format(
        step=interval(tier.step),
        origin=ORIGIN,
        source=source,
        start=start,
        end=end,
        entity=sql.Identifier(table.entity),
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


def view(table: Table, tier: Tier) -> sql.Composed:
    """Return the statement that makes the public view of *tier*."""
    averages = (
        sql.SQL("u.latency_sum / nullif(u.latency_n, 0) AS latency_avg")
        if table is Table.HEALTH
        else sql.SQL("u.sum / nullif(u.n, 0) AS avg")
    )
    return sql.SQL(load("storage", _ROLLUPS)["view"]).format(
        view=sql.Identifier(table.relation(tier)),
        columns=sql.SQL(", ").join(sql.Identifier("u", name) for name in rollup_columns(table)),
        averages=averages,
        exact=exact(table, tier),
    )
