"""
What a report is: its columns, what it may be asked for, and how it sees time.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from storage.errors import FleetpulseError, UnknownName, shown
from storage.model import Table
from storage.names import is_name
from storage.store import Rows

#: Runs the statement of that name in the file of a report, with the report's parameters.
Ask = Callable[[str], Rows]

#: As many as a person reads in one line.
MAX_NAMED = 20


class UnknownReport(FleetpulseError):
    """A report, or a filter or an option of a report, is asked for that there is not."""


class UnknownValue(UnknownReport, UnknownName):
    """
    There is nothing of the name that a filter asks for.

    Attributes:
        kind: The filter: ``agent``.
        name: What was asked for.
    """

    def __init__(self, kind: str, name: str, remedy: str) -> None:
        found = f'"{name}"' if is_name(name) else shown(name)
        FleetpulseError.__init__(self, f"{kind.replace('_', ' ')} {found} does not exist: {remedy}")
        self.kind = kind
        self.name = name


class Span(Enum):
    """What a report needs to know about time."""

    #: It says how things are now.
    NOW = "now"
    #: It takes any window as it is.
    EXACT = "exact"
    #: Its window is widened to whole minutes, below the 1m horizon to whole hours.
    MINUTES = "minutes"
    #: It is told by minutes for a short window, by hours for a long one.
    SERIES = "series"
    #: Its window is widened to whole days of the reader's time zone.
    DAYS = "days"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a report."""

    name: str
    #: ``ms``, ``s``, ``%``, ``1`` (a plain number), ``ratio`` (0 to 1), ``slots``, ``n`` (a count), ``id`` (what
    #: a row is known by), ``By`` (bytes), ``utc`` (a moment), ``date`` (a day of
    #: the reader's time zone) or empty.
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
class Option:
    """A number that a report may be asked with, a parameter of its statement."""

    #: With its unit: ``…_s`` is a duration, which people write as ``30m``.
    name: str
    #: What it is in one line, with its unit.
    description: str
    default: float
    #: Least and greatest value that make sense.
    low: float
    high: float
    #: A whole number.
    whole: bool = False

    @property
    def is_duration(self) -> bool:
        """Tell whether it is a time, in seconds."""
        return self.name.endswith("_s")

    @property
    def word(self) -> str:
        """Return what people call it: its name without the unit."""
        return self.name.removesuffix("_s")

    def allows(self, value: float) -> bool:
        """Tell whether *value* makes sense; what is no number at all, NaN, does not."""
        return self.low <= value <= self.high and (not self.whole or value == int(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A report."""

    name: str
    #: One line for people.
    description: str
    span: Span
    #: Names of the filters that it takes, each a parameter of its statement, NULL where it was not given.
    filters: tuple[str, ...]
    columns: tuple[Column, ...]
    options: tuple[Option, ...] = ()
    #: Filters that it cannot do without.
    required: tuple[str, ...] = ()
    #: The table whose tiers say how far back it can be asked for.
    table: Table = Table.HEALTH
    #: How far back it looks when nobody says.
    usual: timedelta = timedelta(hours=24)
    #: Option that says how long the end of the window is that it looks at once more.
    recent: str = ""
    #: Makes the rows out of the statements of its file, where one statement cannot: ways through a graph, for instance.
    finish: Callable[[Ask], Sequence[tuple[object, ...]]] | None = None


def columns(*described: str) -> tuple[Column, ...]:
    """Return columns from ``name``, ``name:unit``, ``name?`` for flags, and ``~`` in front of those that can be spared."""
    parts = ((each.strip("~?").partition(":"), each.endswith("?"), each.startswith("~")) for each in described)
    return tuple(Column(name=name, unit=unit, flag=flag, spare=spare) for (name, _, unit), flag, spare in parts)


def digits(value: float) -> str:
    """Return a number with all the digits that it has; a whole one without a point."""
    try:
        return repr(float(value)).removesuffix(".0")
    except OverflowError:
        return shown(value)


def suggestion(name: str, known: Sequence[str]) -> str:
    """
    Return the end of a message about *name*: the nearest of *known*, or some of them when none is near.

    Whoever writes it in other letters, capital or small, has meant it.
    """
    if not known:
        return "there is none yet"
    spellings = {each.casefold(): each for each in reversed(known)}
    near = difflib.get_close_matches(name.casefold(), spellings, n=1)
    if near:
        return f'did you mean "{spellings[near[0]]}"'
    more = f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else ""
    return f"expected {', '.join(known[:MAX_NAMED])}{more}"
