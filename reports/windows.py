"""
How a report sees time: which buckets of which tier answer for a window, and what a statement is told of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as clock
from functools import cache
from typing import NamedTuple
from zoneinfo import available_timezones

from reports.definition import Definition, Span
from storage.errors import InputError, NotRolledUp
from storage.model import Table, Tier, Window, ceil, floor
from storage.store import Store

MINUTE, HOUR, DAY = Tier.M1.step, Tier.H1.step, Tier.D1.step

#: Up to this much window a series has one row per minute: 360 rows are still read by a person.
MINUTES_UP_TO = timedelta(hours=6)


class Kept(NamedTuple):
    """From when on the tiers of a table are kept."""

    minutes: datetime
    hours: datetime
    days: datetime


def spanned(
    store: Store, report: Definition, window: Window, options: Mapping[str, float], tz: tzinfo
) -> tuple[Window | None, dict[str, object]]:
    """
    Return the window that *report* really answers for, ``None`` for now, and what its statement is told of it.

    Args:
        options: Those of the report, all of them; a report may name one that says how long a part of its window is.

    Raises:
        NotRolledUp: All of *window* lies below what is kept.
        InputError: The report counts by days of a zone that databases do not know.
    """
    if report.span is Span.NOW:
        return None, {}
    now = datetime.now(UTC)
    if report.span is Span.EXACT:
        passed_s = (_until(window, now) - window.start).total_seconds()
        return window, {**_ends(window), "now": now, "passed_s": passed_s}
    kept = _kept(store, report.table)
    if report.span is Span.DAYS:
        whole, tier = choose_days(window, kept, tz)
        return whole, {**_ends(whole), "zone": zone_name(tz), "tier": tier.value}
    if report.span is Span.SERIES:
        minutes_up_to_s = options.get("minutes_up_to_s", MINUTES_UP_TO.total_seconds())
        whole, by_hour = choose_step(window, kept, timedelta(seconds=minutes_up_to_s))
        # A bucket that goes on lasts until now.
        until = _until(whole, now)
        step = HOUR if by_hour else MINUTE
        return whole, {
            **_ends(whole),
            "by_hour": int(by_hour),
            "step_s": step.total_seconds(),
            "until": until,
            "last_whole": until - step,
        }
    whole, hours = split_hours(window, kept)
    days = split_days(hours)
    until = _until(whole, now)
    parameters = {
        **_ends(whole),
        **_ends(hours, "hours_"),
        **_ends(days, "days_"),
        "until": until,
    }
    if report.recent:
        length = timedelta(seconds=options[report.recent])
        recent, recent_hours = split_hours(Window(max(whole.start, until - length), until), kept)
        parameters |= {**_ends(recent, "recent_"), **_ends(recent_hours, "recent_hours_")}
    return whole, parameters


def _until(window: Window, now: datetime) -> datetime:
    """Return the end of the part of *window* that has passed: what lies ahead has not happened."""
    return max(window.start, min(window.end, now))


def _ends(window: Window, prefix: str = "") -> dict[str, object]:
    return {f"{prefix}start": window.start, f"{prefix}end": window.end}


def _kept(store: Store, table: Table) -> Kept:
    below = {each.tier: each.dropped_before for each in store.horizons() if each.table is table}
    return Kept(below[Tier.M1], below[Tier.H1], below[Tier.D1])


def _insist_kept(end: datetime, kept_from: datetime, tier: str) -> None:
    if end <= kept_from:
        raise NotRolledUp(
            f"window ends at {end.isoformat()}, {tier} are kept from {kept_from.isoformat()} on: ask for a later one"
        )


def split_hours(window: Window, kept: Kept) -> tuple[Window, Window]:
    """
    Return *window* in whole minutes, and the whole hours inside it.

    Returns:
        The effective window: whole minutes, whole hours at an end that lies below the 1m tier, cut off below the 1h
        tier. And the whole hours in it; where there is none, an empty window at its end.

    Raises:
        NotRolledUp: All of it lies below the 1h tier.
    """
    start, end = floor(window.start, MINUTE), ceil(window.end, MINUTE)
    if start < kept.minutes:
        start = floor(start, HOUR)
    if end < kept.minutes:
        end = ceil(end, HOUR)
    _insist_kept(end, kept.hours, "hours")
    start = max(start, ceil(kept.hours, HOUR))
    hours = (ceil(start, HOUR), floor(end, HOUR))
    whole = Window(*hours) if hours[0] <= hours[1] else Window(end, end)
    return Window(start, end), whole


def split_days(hours: Window) -> Window:
    """Return the whole UTC days in *hours*; where there is none, an empty window at their end."""
    start, end = ceil(hours.start, DAY), floor(hours.end, DAY)
    return Window(start, end) if start < end else Window(hours.end, hours.end)


def choose_step(window: Window, kept: Kept, minutes_up_to: timedelta = MINUTES_UP_TO) -> tuple[Window, bool]:
    """
    Return *window* in whole buckets of a series and whether these are hours.

    Args:
        minutes_up_to: The longest window that is told by minutes, as far as these are kept.

    Raises:
        NotRolledUp: All of it lies below the 1h tier.
    """
    if window.end - window.start <= minutes_up_to and window.start >= kept.minutes:
        return window.aligned(MINUTE), False
    whole = window.aligned(HOUR)
    _insist_kept(whole.end, kept.hours, "hours")
    return Window(max(whole.start, ceil(kept.hours, HOUR)), whole.end), True


def choose_days(window: Window, kept: Kept, tz: tzinfo) -> tuple[Window, Tier]:
    """
    Return *window* in whole days of *tz* and the tier that these can be counted from: 1d where a day is one of UTC, 1h
    where it begins on the hour, else 1m.

    Raises:
        NotRolledUp: All of it lies below that tier.
    """
    first, last = window.start.astimezone(tz).date(), window.end.astimezone(tz).date()
    start, end = _midnight(first, tz), _midnight(last, tz)
    if end < window.end:
        end = _midnight(last + DAY, tz)
    offsets = {at.astimezone(tz).utcoffset() or timedelta(0) for at in (*Window(start, end).buckets(DAY), start, end)}
    if offsets == {timedelta(0)}:
        tier, kept_from, name = Tier.D1, kept.days, "days"
    elif not any(offset % HOUR for offset in offsets):
        tier, kept_from, name = Tier.H1, kept.hours, "hours"
    else:
        tier, kept_from, name = Tier.M1, kept.minutes, "minutes"
    _insist_kept(end, kept_from, name)
    if start < kept_from:
        # A day that is kept in part would look like one that was different.
        start = _midnight((kept_from - timedelta(microseconds=1)).astimezone(tz).date() + DAY, tz)
    return Window(min(start, end), end), tier


def _midnight(day: date, tz: tzinfo) -> datetime:
    return datetime.combine(day, clock(), tz).astimezone(UTC)


def zone_name(tz: tzinfo) -> str:
    """
    Return the name by which databases know *tz*.

    Raises:
        InputError: They do not know it.
    """
    name = "UTC" if tz is UTC else getattr(tz, "key", None)
    if name != "UTC" and name not in zone_names():
        raise InputError(f'time zone is {tz}, expected one of the IANA, such as ZoneInfo("Europe/Berlin")')
    return str(name)


@cache
def zone_names() -> frozenset[str]:
    """Return the names of time zones that databases know: those of the IANA, not other files that lie beside them."""
    # Whatever the machine is set to, under a name of its own.
    return frozenset(available_timezones() - {"localtime"})
