"""
Values that every package shares: tables, tiers, outcomes, windows, agents.

Nothing here knows a database, a network or a clock. Times are aware UTC; ranges are half-open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import cast

from storage.errors import InputError, InvalidWindow, shown

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

#: Two finite float64 samples of 1e308 overflow a sum, and an overflowed sum stops every rollup above it.
MAX_ABS_VALUE = 1e290

#: What is nearer to zero is stored as zero: PostgreSQL refuses a quotient that underflows, and one such average
#: would stop every query over it.
MIN_ABS_VALUE = 1e-290

#: How far ahead of the collector's clock a sample may be dated when it is accepted.
MAX_AHEAD = timedelta(minutes=5)

#: How far ahead of the database's clock a row may be dated when it is written: more than two clocks ever differ by, and
#: little enough that a garbage date makes no partition, and moves no watermark, years ahead.
MAX_DATED_AHEAD = timedelta(days=1)


class Outcome(IntEnum):
    """How one slot ended. The numbers are stored; they never change."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2
    STALLED = 3
    TIMEOUT = 4
    REFUSED = 5
    ERROR = 6
    SKIPPED = 7
    PAUSED = 8

    @property
    def label(self) -> str:
        """Return the name as stored in views and shown to people, in lower case."""
        return self.name.lower()


#: The agent answered and can do its work.
UP = frozenset({Outcome.HEALTHY, Outcome.DEGRADED})
#: The agent was asked and cannot do its work.
DOWN = frozenset({Outcome.UNHEALTHY, Outcome.STALLED, Outcome.TIMEOUT, Outcome.REFUSED, Outcome.ERROR})
#: Nobody looked, or nobody was meant to: says nothing about the agent.
UNOBSERVED = frozenset({Outcome.SKIPPED, Outcome.PAUSED})

#: Status of an agent that was never observed.
UNKNOWN = "unknown"


class Kind(StrEnum):
    """What the values of a metric mean."""

    GAUGE = "gauge"
    #: Stored as increases between polls; only ``n`` and ``sum`` of its rollups mean something.
    COUNTER = "counter"


class Table(StrEnum):
    """A time-series table."""

    HEALTH = "health_checks"
    AGENT = "agent_metrics"
    SYSTEM = "system_metrics"

    @property
    def entity(self) -> str:
        """Return the column that holds the entity's id."""
        return "host_id" if self is Table.SYSTEM else "agent_id"

    def relation(self, tier: Tier) -> str:
        """Return the public name of this table at *tier*: ``health_checks`` or ``health_1h``."""
        if tier is Tier.RAW:
            return self.value
        return f"{self.value.removesuffix('_checks')}_{tier.value}"


class Tier(StrEnum):
    """A resolution of a time-series table."""

    RAW = "raw"
    M1 = "1m"
    H1 = "1h"
    D1 = "1d"

    @property
    def step(self) -> timedelta:
        """Return the width of a bucket; zero for raw rows."""
        return _STEPS[self]

    @property
    def finer(self) -> Tier:
        """Return the tier that this one is computed from; raw has none."""
        order = list(Tier)
        if self is Tier.RAW:
            raise AssertionError("BUG: raw is computed from nothing")
        return order[order.index(self) - 1]

    @property
    def coarser(self) -> Tier | None:
        """Return the tier that is computed from this one."""
        order = list(Tier)
        place = order.index(self) + 1
        return order[place] if place < len(order) else None


_STEPS: Mapping[Tier, timedelta] = MappingProxyType(
    {
        Tier.RAW: timedelta(0),
        Tier.M1: timedelta(minutes=1),
        Tier.H1: timedelta(hours=1),
        Tier.D1: timedelta(days=1),
    }
)
#: Tiers that are computed, finest first: the order in which a refresh must go.
ROLLUPS = (Tier.M1, Tier.H1, Tier.D1)


def floor(moment: datetime, step: timedelta) -> datetime:
    """Return the start of the bucket of width *step* that holds *moment*, counted from the Unix epoch."""
    return moment - (moment - EPOCH) % step


def ceil(moment: datetime, step: timedelta) -> datetime:
    """Return the first bucket start that is not before *moment*."""
    start = floor(moment, step)
    return start if start == moment else start + step


def aware(moment: datetime, what: str = "moment") -> datetime:
    """
    Return *moment* in UTC.

    Args:
        what: As messages call it: ``due_at``.

    Raises:
        InputError: It has no time zone: which moment it is would depend on the zone of a machine or a session; or it is
            no moment, or none that UTC has a year for.
    """
    if not isinstance(moment, datetime):
        raise InputError(f"{what} is {shown(moment)}, expected an aware datetime in UTC")
    # Nearly always, and the cheapest thing to ask.
    if moment.tzinfo is UTC:
        return moment
    try:
        if moment.utcoffset() is None:
            raise InputError(f"{what} {moment.isoformat()} has no time zone, expected aware UTC: add tzinfo=UTC")
        return moment.astimezone(UTC)
    except (OverflowError, ValueError) as exc:
        # What pandas has in place of a moment that is missing has no offset to tell.
        raise InputError(f"{what} {moment.isoformat()} is out of range, expected the years 1 to 9999 in UTC") from exc


def to_us(moment: datetime) -> int:
    """Return *moment*, which is aware, in microseconds since the Unix epoch, exactly."""
    return (aware(moment) - EPOCH) // MICROSECOND


def from_us(us: int) -> datetime:
    """Return the aware UTC moment *us* microseconds after the Unix epoch."""
    return EPOCH + timedelta(microseconds=us)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """
    A half-open time range ``[start, end)``, both ends aware.

    Raises:
        InvalidWindow: An end is no moment or has no time zone, or the range ends before it starts.
    """

    #: First moment inside.
    start: datetime
    #: First moment after.
    end: datetime

    def __post_init__(self) -> None:
        for name, moment in (("start", self.start), ("end", self.end)):
            try:
                aware(moment, f"window {name}")
            except InputError as exc:
                raise InvalidWindow(str(exc)) from exc
        if self.end < self.start:
            raise InvalidWindow(f"window ends before it starts: {self.start.isoformat()} to {self.end.isoformat()}")

    @property
    def empty(self) -> bool:
        """Tell whether no moment lies inside."""
        return self.start >= self.end

    def aligned(self, step: timedelta) -> Window:
        """Return the smallest window of whole buckets of width *step* around this one."""
        return Window(floor(self.start, step), ceil(self.end, step))

    def buckets(self, step: timedelta) -> Iterator[datetime]:
        """Yield the start of each bucket of width *step* that this window touches, ascending."""
        start = floor(self.start, step)
        while start < self.end:
            yield start
            start += step


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKey:
    """A metric as the collector knows it, before the database has given it an id."""

    name: str
    #: Label pairs sorted by name; part of the identity.
    labels: tuple[tuple[str, str], ...] = ()
    kind: Kind = Kind.GAUGE
    #: UCUM-like unit (``ms``, ``By``, ``1``) or empty; not part of the identity.
    unit: str = field(default="", compare=False)
    #: One line for people; not part of the identity.
    description: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of an agent's status, decided by the collector's rise/fall state machine."""

    agent: str
    #: Due time of the check that completed the change.
    due: datetime
    #: Status before and after: an outcome's label or ``unknown``.
    old: str
    new: str
    #: Why, in the words of the check; empty when it speaks for itself.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Slots of one agent that will never have a check, and why."""

    agent: str
    #: First and last due time that was lost, both included.
    from_due: datetime
    to_due: datetime
    #: Number of slots.
    n: int
    #: ``spool_full``, ``spool_age``, ``spool_corrupt``, ``below_horizon``, ``quarantined``.
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of a collector, or of a client that writes what it saw itself."""

    #: Random identity, chosen by whoever runs; the database maps it to a small integer.
    uuid: str
    #: Configured collector name, whose vitals are those of agent ``fleetpulse/<name>``; or what the client calls itself.
    name: str
    host: str
    pid: int
    version: str
    started_at: datetime
    #: A client's session says nothing of whether anybody polls.
    is_collector: bool = True


def usual_timeout_s(interval_s: object) -> float:
    """Return the deadline of a poll for which nobody has set one: 10 s, or the interval where that is shorter."""
    # What is no number is refused with the rest of the agent.
    return min(10.0, interval_s) if isinstance(interval_s, int | float) else 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """What to poll and how: an agent as configuration or the database describes it."""

    #: Unique, stable; ids follow names.
    name: str
    #: Free text that groups agents: ``worker``, ``llm``, ``service``.
    type: str = "agent"
    #: ``http``, ``tcp``, ``process``, ``command``, ``heartbeat`` or ``host``; see ``collector/probes``.
    probe: str = "http"
    #: What the probe is pointed at: a URL, ``host:port``, a process pattern, a command line; nothing for the last two.
    endpoint: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Seconds between polls.
    interval_s: float = 15.0
    #: Deadline of one poll, never longer than the interval; by default ``usual_timeout_s``.
    timeout_s: float = cast(float, None)
    #: Consecutive good checks until a down agent counts as up.
    rise: int = 1
    #: Consecutive bad checks until an up agent counts as down.
    fall: int = 2
    #: Name of a credential in the local settings; secrets themselves are never part of an agent.
    credential: str = ""
    #: Further settings of the probe (``headers``, ``expect_status``, ``body_limit_bytes``, …).
    options: Mapping[str, object] = field(default_factory=dict)
    #: ``file`` (settings) or ``api`` (command line, service): a sync touches only its own.
    source: str = "file"
    #: Planned maintenance: slots end as ``paused``, never as down.
    paused: bool = False

    def __post_init__(self) -> None:
        if cast(float | None, self.timeout_s) is None:
            object.__setattr__(self, "timeout_s", usual_timeout_s(self.interval_s))
