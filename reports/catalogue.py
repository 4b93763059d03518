"""
The reports that there are: what each answers, what it may be asked for, and what its columns mean.

``docs/reports.md`` defines every column; the statement of a report is the file of its name in ``reports/sql``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from types import MappingProxyType

from storage.errors import FleetpulseError


class UnknownReport(FleetpulseError):
    """A report, or a filter of a report, is asked for that there is not."""


class Span(Enum):
    """What a report needs to know about time."""

    #: It says how things are now.
    NOW = "now"
    #: It takes any window as it is.
    EXACT = "exact"
    #: Its window is widened to whole minutes, below the 1m horizon to whole hours.
    MINUTES = "minutes"
    #: It has one row per minute of a short window, or per hour of a long one.
    SERIES = "series"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a report."""

    name: str
    #: ``ms``, ``s``, ``%``, ``1`` (a plain number), ``ratio`` (0 to 1), ``slots``, ``utc`` (a moment) or empty.
    unit: str = ""
    #: Yes or no.
    flag: bool = False
    #: Left out of a table that is too wide for its terminal; the last one goes first.
    spare: bool = False

    @property
    def python_type(self) -> type | None:
        """Return the Python type that an engine may have to be told of, ``None`` where each knows it."""
        if self.unit == "utc":
            return datetime
        return bool if self.flag else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A report."""

    name: str
    #: One line for people.
    description: str
    span: Span
    #: Names of the filters that it takes, each a parameter of its statement.
    filters: tuple[str, ...]
    columns: tuple[Column, ...]


def _columns(*described: str) -> tuple[Column, ...]:
    """Return columns from ``name``, ``name:unit``, ``name?`` for flags, and ``~`` in front of those that can be spared."""
    parts = ((each.strip("~?").partition(":"), each.endswith("?"), each.startswith("~")) for each in described)
    return tuple(Column(name=name, unit=unit, flag=flag, spare=spare) for (name, _, unit), flag, spare in parts)


_ALL = (
    Definition(
        name="availability",
        description="slots of each agent in the window: expected, up, down, unobserved, paused",
        span=Span.MINUTES,
        filters=("agent", "type"),
        columns=_columns(
            *("agent", "~type", "expected:slots", "up:slots", "down:slots", "unobserved:slots"),
            *("~skipped:slots", "~lost:slots", "paused:slots", "availability:ratio", "coverage:ratio"),
        ),
    ),
    Definition(
        name="fleet_health",
        description="how each agent is now, what is down first",
        span=Span.NOW,
        filters=("agent", "type"),
        columns=_columns(
            *("agent", "~type", "~state", "status", "stale?", "since:utc", "reason"),
            *("~last_due:utc", "~last_outcome", "last_latency_ms:ms", "~interval_s:s"),
        ),
    ),
    Definition(
        name="incidents",
        description="times in which an agent was down, the latest first",
        span=Span.EXACT,
        filters=("agent", "type"),
        columns=_columns(
            *("agent", "~type", "started_at:utc", "~ended_at:utc", "duration_s:s"),
            *("first_status", "~last_status", "reason", "open?"),
        ),
    ),
    Definition(
        name="system_load",
        description="how busy each host was, per minute up to 6 hours of window, per hour beyond",
        span=Span.SERIES,
        filters=("host",),
        columns=_columns(
            *("bucket:utc", "host", "cpu_percent:%", "~cpu_percent_max:%", "load1:1"),
            *("memory_used_percent:%", "swap_used_percent:%", "filesystem_used_percent:%"),
        ),
    ),
)

#: Every report by its name, in alphabetical order.
CATALOGUE: Mapping[str, Definition] = MappingProxyType({each.name: each for each in _ALL})


def definition(name: str) -> Definition:
    """
    Return the report called *name*.

    Raises:
        UnknownReport: There is none; the message names the nearest.
    """
    found = CATALOGUE.get(name)
    if found is None:
        raise UnknownReport(f'report "{name}" does not exist: {suggestion(name, list(CATALOGUE))}')
    return found


def suggestion(name: str, known: list[str]) -> str:
    """Return the end of a message about *name*: the nearest of *known*, or all of them when none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f'did you mean "{near[0]}"' if near else f"expected {', '.join(known) or 'nothing'}"
