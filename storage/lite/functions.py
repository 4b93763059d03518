"""
Functions of SQL that SQLite lacks: what views, rollups and reports call, with the numbers of PostgreSQL.

Moments are integers of microseconds since the Unix epoch, latency bins JSON (``[[bin,n],…]``, ascending, one pair per
bin; no latency is NULL). They exist on the connections that fleetpulse opens; a shell of its own does not know them.

A driver that runs a function answers its error with words of its own that say nothing. What was wrong is kept for
``explain``, which puts it into the driver's error.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Context, Decimal
from functools import cache, lru_cache, wraps
from types import MappingProxyType
from typing import Any, NoReturn, ParamSpec, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

P = ParamSpec("P")
R = TypeVar("R")

#: The bins of latencies: bin k > 0 holds (0.1 * 1.02^(k-1), 0.1 * 1.02^k] ms, 0 what is faster, 708 what is slower than
#: 120 s. A constant of the format, the same on every engine.
GAMMA = 1.02
FASTEST_MS = 0.1
SLOWEST_MS = 120_000.0
LAST_BIN = 707
OVERFLOW_BIN = 708

#: SQLSTATE of an argument that a function cannot take: the statement is at fault, trying again cannot help.
INVALID_ARGUMENT = "22023"

#: How the driver's words for an error inside a function begin.
_DRIVER_SAYS = "user-defined "

#: What the last function of this thread complained about: SQLite calls functions in the thread that runs the statement.
_complaint = threading.local()


class _ArgumentError(ValueError):
    """A function was called with what it cannot take."""


def register(connection: sqlite3.Connection) -> None:
    """
    Make the functions known on *connection*; done once for each new one.

    Scalars: ``slots_between``, ``lost_between``, ``seconds_between``, ``local_day``, ``latency_bin``,
    ``latency_quantile``. Aggregates:
    ``latency_bins_of(ms)``, ``latency_bins_merge(bins)``, ``percentile_cont(value, q)``, ``percentile_disc(value, q)``.
    """
    for name, (arguments, function) in _SCALARS.items():
        connection.create_function(name, arguments, _complaining(function), deterministic=True)
    for name, (arguments, aggregate) in _AGGREGATES.items():
        connection.create_aggregate(name, arguments, aggregate)


def explain(error: BaseException) -> None:
    """
    Put what a function complained about in place of the driver's words, if *error* is the driver's for that.

    Called once for each error of a statement, in the thread that ran it.
    """
    said = getattr(_complaint, "said", None)
    _complaint.said = None
    if said is not None and isinstance(error, sqlite3.OperationalError) and str(error).startswith(_DRIVER_SAYS):
        error.args = (said,)
        error.sqlstate = INVALID_ARGUMENT  # type: ignore[attr-defined]  # read by storage.sqlstate


def _complaining(function: Callable[P, R]) -> Callable[P, R]:
    """Return *function* with its complaints kept for ``explain``."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except _ArgumentError as exc:
            _complaint.said = str(exc)
            raise

    return called


def _refuse(function: str, argument: str, found: object, expected: str) -> NoReturn:
    shown = repr(found)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise _ArgumentError(f"{function}: {argument} is {shown}, expected {expected}")


def _whole(function: str, argument: str, value: object, unit: str) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    _refuse(function, argument, value, f"an integer ({unit})")


def _number(function: str, argument: str, value: object, unit: str = "any unit") -> float:
    if isinstance(value, int | float):
        return value
    _refuse(function, argument, value, f"a number ({unit})")


def _microseconds(function: str, argument: str, value: object) -> int:
    seconds = _number(function, argument, value, "seconds")
    if not math.isfinite(seconds):
        _refuse(function, argument, value, "a finite number (seconds)")
    return round(seconds * 1e6)


# ---------------------------------------------------------------- slots


def slots_between(
    window_start: object, window_end: object, from_ts: object, to_ts: object, interval_s: object, offset_s: object
) -> int:
    """
    Return the slots of one schedule row that are due in a window.

    Due times lie at offset_s + k * interval_s seconds since the Unix epoch, from *from_ts* (inclusive) to *to_ts*
    (exclusive; NULL for an open row). In whole microseconds: no rounding moves a slot across a bound.
    """
    name, unit = "slots_between", "microseconds since the Unix epoch"
    starts = [
        _whole(name, argument, value, unit)
        for argument, value in (("window_start", window_start), ("from_ts", from_ts))
        if value is not None
    ]
    ends = [
        _whole(name, argument, value, unit)
        for argument, value in (("window_end", window_end), ("to_ts", to_ts))
        if value is not None
    ]
    if interval_s is None or offset_s is None or not starts or not ends:
        return 0
    interval_us = _microseconds(name, "interval_s", interval_s)
    offset_us = _microseconds(name, "offset_s", offset_s)
    if interval_us <= 0:
        _refuse(name, "interval_s", interval_s, "a microsecond or more")
    # Due times before the end, less those before the start.
    before_end = -((offset_us - min(ends)) // interval_us)
    before_start = -((offset_us - max(starts)) // interval_us)
    return max(0, before_end - before_start)


def lost_between(window_start: object, window_end: object, from_due: object, to_due: object, n: object) -> int | None:
    """Return the slots of one loss that were due in a window: *n* slots, evenly over both ends; NULL for any NULL."""
    if window_start is None or window_end is None or from_due is None or to_due is None or n is None:
        return None
    name, unit = "lost_between", "microseconds since the Unix epoch"
    start, end = _whole(name, "window_start", window_start, unit), _whole(name, "window_end", window_end, unit)
    first, last = _whole(name, "from_due", from_due, unit), _whole(name, "to_due", to_due, unit)
    slots = _whole(name, "n", n, "slots")
    if slots < 2 or first == last:
        return slots if start <= first < end else 0
    # Half a microsecond below the bound, so that a slot on it is behind it; doubled, all is whole.
    span, gaps = 2 * (last - first), slots - 1
    before_end = min(slots, max(0, -((1 - 2 * (end - first)) * gaps // span)))
    before_start = min(slots, max(0, -((1 - 2 * (start - first)) * gaps // span)))
    return before_end - before_start


# ---------------------------------------------------------------- time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_DAY = _EPOCH.toordinal()
#: Of one zone's answers, so many are kept: thirty days of minutes, which each series of a report asks for again.
_DAYS_KEPT = 43_200


def seconds_between(from_ts: object, to_ts: object) -> float | None:
    """Return the seconds from one moment to another, exact to the microsecond; NULL for any NULL."""
    if from_ts is None or to_ts is None:
        return None
    name, unit = "seconds_between", "microseconds since the Unix epoch"
    return (_whole(name, "to_ts", to_ts, unit) - _whole(name, "from_ts", from_ts, unit)) / 1e6


def local_day(ts: object, zone: object) -> int | None:
    """
    Return the day of the calendar, as people of a time zone have it: days since 1 January 1970; NULL for any NULL.

    Args:
        zone: A name of the IANA: ``Europe/Berlin``.
    """
    if ts is None or zone is None:
        return None
    if not isinstance(zone, str):
        _refuse("local_day", "zone", zone, "the name of a time zone")
    return _local_day(_whole("local_day", "ts", ts, "microseconds since the Unix epoch"), zone)


@lru_cache(maxsize=_DAYS_KEPT)
def _local_day(ts: int, zone: str) -> int:
    try:
        return (_EPOCH + timedelta(microseconds=ts)).astimezone(_zone(zone)).toordinal() - _FIRST_DAY
    except OverflowError:
        _refuse("local_day", "ts", ts, "microseconds since the Unix epoch, in the years 1 to 9999")


@cache
def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # Not known, not a name, or the name of a folder of them.
        _refuse("local_day", "zone", name, "the name of a time zone")


# ---------------------------------------------------------------- latencies

_LN_GAMMA = math.log(GAMMA)


def latency_bin(ms: object) -> int | None:
    """Return the logarithmic bin of a latency; NULL for NULL."""
    if ms is None:
        return None
    value = _number("latency_bin", "ms", ms, "milliseconds")
    if value <= FASTEST_MS:
        return 0
    if value > SLOWEST_MS:
        return OVERFLOW_BIN
    return max(1, min(LAST_BIN, math.ceil(math.log(value / FASTEST_MS) / _LN_GAMMA)))


def latency_quantile(bins: object, q: object, max_ms: object) -> float | None:
    """
    Return the *q*-th quantile in ms, within 1 % of ``percentile_disc``; NULL where there is no latency.

    Args:
        bins: As ``latency_bins_of`` and ``latency_bins_merge`` answer them.
        q: 0 to 1.
        max_ms: The greatest latency, which answers for what the last bin holds.
    """
    if bins is None or q is None:
        return None
    name = "latency_quantile"
    share = _number(name, "q", q, "0 to 1")
    highest = None if max_ms is None else float(_number(name, "max_ms", max_ms, "milliseconds"))
    counts = sorted(_pairs(name, bins))
    wanted = max(1, math.ceil(share * sum(n for _, n in counts)))
    upto = 0
    for number, n in counts:
        upto += n
        if upto >= wanted:
            if number == OVERFLOW_BIN:
                return highest
            value = FASTEST_MS if number == 0 else _middles()[number]
            return value if highest is None else min(value, highest)
    return None


@cache
def _middles() -> tuple[float, ...]:
    """
    Return what each bin answers: the value that is within 1 % of all that it holds.

    In decimal, with as many digits as PostgreSQL's numeric has, so that engines agree to the last bit.
    """
    exact, divisor = Context(prec=60), Decimal("2.02")
    middles = [FASTEST_MS]
    for number in range(1, LAST_BIN + 1):
        power = exact.power(Decimal("1.02"), number)
        power = power.quantize(Decimal(1).scaleb(power.adjusted() - 16), context=exact)
        doubled = exact.multiply(power, Decimal("0.2"))
        # numeric counts digits in groups of four, and gives a quotient sixteen of them behind its first group.
        group = doubled.adjusted() // 4
        first = int(doubled.scaleb(-4 * group)) > int(divisor)
        places = 16 - 4 * (group if first else group - 1)
        middles.append(float(round(exact.divide(doubled, divisor), places)))
    return tuple(middles)


def _pairs(function: str, bins: object) -> list[list[int]]:
    """Return the pairs of *bins*, checked: other text in their place must not become a number."""
    expected = "JSON pairs of bin and count: [[bin,n],...]"
    if not isinstance(bins, str):
        _refuse(function, "bins", bins, expected)
    try:
        pairs = json.loads(bins)
    except ValueError:
        _refuse(function, "bins", bins, expected)
    if not isinstance(pairs, list):
        _refuse(function, "bins", bins, expected)
    for pair in pairs:
        match pair:
            case [int(number), int()] if 0 <= number <= OVERFLOW_BIN:
                continue
            case _:
                _refuse(function, "bins", bins, expected)
    return pairs


class _Bins:
    """What the aggregates over latencies share: counts by bin."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def finalize(self) -> str | None:
        """Return the pairs, NULL where there are none."""
        return json.dumps(sorted(self._counts.items()), separators=(",", ":")) if self._counts else None


class _BinsOf(_Bins):
    """``latency_bins_of(ms)``: raw latencies by bin."""

    __slots__ = ()

    @_complaining
    def step(self, ms: object) -> None:
        """Count one latency; NULL is none."""
        number = latency_bin(ms)
        if number is not None:
            self._counts[number] = self._counts.get(number, 0) + 1


class _BinsMerge(_Bins):
    """``latency_bins_merge(bins)``: adds up bins over rows, agents or tiers."""

    __slots__ = ()

    @_complaining
    def step(self, bins: object) -> None:
        """Add one row's bins; NULL has none."""
        if bins is None:
            return
        for number, n in _pairs("latency_bins_merge", bins):
            self._counts[number] = self._counts.get(number, 0) + n


# ---------------------------------------------------------------- percentiles


class _Percentile:
    """What the two percentiles share: the values of a group, and the one fraction that is asked for."""

    __slots__ = ("_asked", "_share", "_values")
    _name = ""

    def __init__(self) -> None:
        # Integers of more than 53 bits stay what they are.
        self._values: list[float] = []
        self._asked = False
        self._share: float | None = None

    @_complaining
    def step(self, value: object, q: object) -> None:
        """Take one value; NULL is none."""
        share = None if q is None else _number(self._name, "q", q, "0 to 1")
        if not self._asked:
            if share is not None and not 0 <= share <= 1:
                _refuse(self._name, "q", q, "0 to 1")
            self._asked, self._share = True, share
        elif share != self._share:
            _refuse(self._name, "q", q, f"the same for all rows, {self._share}")
        if value is not None:
            self._values.append(_number(self._name, "value", value))

    def _sorted(self) -> tuple[list[float], float] | None:
        if self._share is None or not self._values:
            return None
        self._values.sort()
        return self._values, self._share


class _PercentileCont(_Percentile):
    """``percentile_cont(value, q)``: interpolated between the two values that are nearest."""

    __slots__ = ()
    _name = "percentile_cont"

    def finalize(self) -> float | None:
        """Return the percentile, NULL where there is no value."""
        found = self._sorted()
        if found is None:
            return None
        values, share = found
        place = share * (len(values) - 1)
        low, high = float(values[math.floor(place)]), float(values[math.ceil(place)])
        return low + (place - math.floor(place)) * (high - low)


class _PercentileDisc(_Percentile):
    """``percentile_disc(value, q)``: the first value that the share *q* of all does not exceed."""

    __slots__ = ()
    _name = "percentile_disc"

    def finalize(self) -> float | None:
        """Return the percentile, NULL where there is no value."""
        found = self._sorted()
        if found is None:
            return None
        values, share = found
        return values[max(1, math.ceil(share * len(values))) - 1]


# ---------------------------------------------------------------- names

#: Name to number of arguments and function.
_SCALARS: Mapping[str, tuple[int, Callable[..., float | None]]] = MappingProxyType(
    {
        "slots_between": (6, slots_between),
        "lost_between": (5, lost_between),
        "seconds_between": (2, seconds_between),
        "local_day": (2, local_day),
        "latency_bin": (1, latency_bin),
        "latency_quantile": (3, latency_quantile),
    }
)
#: Name to number of arguments and class. The types of sqlite3 know aggregates over integers alone.
_AGGREGATES: Mapping[str, tuple[int, Callable[[], Any]]] = MappingProxyType(
    {
        "latency_bins_of": (1, _BinsOf),
        "latency_bins_merge": (1, _BinsMerge),
        "percentile_cont": (2, _PercentileCont),
        "percentile_disc": (2, _PercentileDisc),
    }
)
