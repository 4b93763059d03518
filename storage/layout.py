"""
Names, codes, columns and slices of the time series, the same on every engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType

from storage.model import Table, Tier, Window, aware

TABLE_CODE: Mapping[Table, int] = MappingProxyType({Table.HEALTH: 1, Table.AGENT: 2, Table.SYSTEM: 3})
TIER_CODE: Mapping[Tier, int] = MappingProxyType({Tier.RAW: 0, Tier.M1: 1, Tier.H1: 2, Tier.D1: 3})

#: How far ahead partitions are made: an hour before midnight the next day's are long there.
AHEAD = timedelta(days=2)

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
    """Return the relation that holds the rows of *tier*."""
    return table.value if tier is Tier.RAW else f"{table.relation(tier)}_mat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a tier that is dropped as a whole: its name and what it holds."""

    name: str
    window: Window


def slice_of(table: Table, tier: Tier, at: datetime) -> Slice:
    """
    Return the partition of *tier* that holds *at*: days for raw and 1m, months for 1h, years for 1d.

    Thirty days of a tier are some thirty partitions at the most: planning stays below a millisecond.
    """
    at = aware(at).astimezone(UTC)
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
