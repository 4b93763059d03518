"""
Running a report: from a name, a window and filters to rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reports.catalogue import Column, Definition, Span, UnknownReport, definition, suggestion
from storage.errors import NotRolledUp
from storage.model import Table, Tier, Window, ceil, floor
from storage.queries import load
from storage.store import Store

MINUTE, HOUR, DAY = Tier.M1.step, Tier.H1.step, Tier.D1.step

#: Up to this much window a series has one row per minute: 360 rows are still read by a person.
MINUTES_UP_TO = timedelta(hours=6)

#: Where the entities of a filter are named; a name that is not there is refused instead of answered by no rows.
_NAMES = {"agent": "SELECT name FROM agents ORDER BY name", "host": "SELECT name FROM hosts ORDER BY name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer of a report."""

    name: str
    columns: tuple[Column, ...]
    #: One tuple per row, in the order of ``columns``; moments are aware UTC.
    rows: Sequence[tuple[object, ...]]
    #: What was really answered for; ``None`` where the report is about now.
    window: Window | None


def run(store: Store, name: str, *, window: Window, filters: Mapping[str, str] | None = None) -> Report:
    """
    Run the report *name* and return everything it answers.

    Args:
        window: Half-open. Reports that count widen it to whole minutes, or to whole hours where minutes are no longer
            kept; what is returned names the window that was used. A report about now ignores it.
        filters: ``agent``, ``type`` or ``host`` to the one value wanted, as the report allows.

    Raises:
        UnknownReport: There is no such report, filter, agent or host.
        NotRolledUp: All of *window* lies below what is kept.
        TransientStorageError: The database could not answer.
    """
    report = definition(name)
    wanted = dict(filters or {})
    _check_filters(store, report, wanted)
    parameters: dict[str, object] = {each: wanted.get(each) for each in report.filters}
    effective: Window | None = window
    if report.span is Span.NOW:
        effective = None
    elif report.span is Span.EXACT:
        parameters |= {"start": window.start, "end": window.end}
    elif report.span is Span.MINUTES:
        effective, hours = split_hours(window, *_horizons(store, Table.HEALTH))
        days = split_days(hours)
        parameters |= {
            "start": effective.start,
            "end": effective.end,
            "hours_start": hours.start,
            "hours_end": hours.end,
            "days_start": days.start,
            "days_end": days.end,
        }
    else:
        effective, by_hour = choose_step(window, *_horizons(store, Table.SYSTEM))
        parameters |= {"start": effective.start, "end": effective.end, "by_hour": int(by_hour)}
    types = {column.name: column.python_type for column in report.columns if column.python_type is not None}
    answer = store.query(load("reports", f"sql/{name}.sql")[name], parameters, types=types)
    expected = tuple(column.name for column in report.columns)
    if answer.columns != expected:
        raise AssertionError(f"BUG: report {name} answers {answer.columns}, its catalogue says {expected}")
    return Report(name=name, columns=report.columns, rows=answer.rows, window=effective)


def split_hours(window: Window, minutes_from: datetime, hours_from: datetime) -> tuple[Window, Window]:
    """
    Return *window* in whole minutes, and the whole hours inside it.

    Args:
        minutes_from: From when on the 1m tier is kept.
        hours_from: From when on the 1h tier is kept.

    Returns:
        The effective window: whole minutes, whole hours at an end that lies below the 1m tier, cut off below the 1h
        tier. And the whole hours in it; where there is none, an empty window at its end.

    Raises:
        NotRolledUp: All of it lies below the 1h tier.
    """
    start, end = floor(window.start, MINUTE), ceil(window.end, MINUTE)
    if start < minutes_from:
        start = floor(start, HOUR)
    if end < minutes_from:
        end = ceil(end, HOUR)
    start = max(start, ceil(hours_from, HOUR))
    if start > end:
        raise NotRolledUp(
            f"window ends at {end.isoformat()}, hours are kept from {hours_from.isoformat()} on: ask for a later one"
        )
    hours = (ceil(start, HOUR), floor(end, HOUR))
    whole = Window(*hours) if hours[0] <= hours[1] else Window(end, end)
    return Window(start, end), whole


def split_days(hours: Window) -> Window:
    """Return the whole UTC days in *hours*; where there is none, an empty window at their end."""
    start, end = ceil(hours.start, DAY), floor(hours.end, DAY)
    return Window(start, end) if start < end else Window(hours.end, hours.end)


def choose_step(window: Window, minutes_from: datetime, hours_from: datetime) -> tuple[Window, bool]:
    """
    Return *window* in whole buckets of a series and whether these are hours; arguments as in ``split_hours``.

    Raises:
        NotRolledUp: All of it lies below the 1h tier.
    """
    if window.end - window.start <= MINUTES_UP_TO and window.start >= minutes_from:
        return window.aligned(MINUTE), False
    whole = window.aligned(HOUR)
    start = max(whole.start, ceil(hours_from, HOUR))
    if start > whole.end:
        raise NotRolledUp(
            f"window ends at {whole.end.isoformat()}, hours are kept from {hours_from.isoformat()} on: "
            "ask for a later one"
        )
    return Window(start, whole.end), True


def _horizons(store: Store, table: Table) -> tuple[datetime, datetime]:
    """Return the moments from which on the 1m and the 1h tier of *table* are kept."""
    kept = {each.tier: each.dropped_before for each in store.horizons() if each.table is table}
    return kept[Tier.M1], kept[Tier.H1]


def _check_filters(store: Store, report: Definition, wanted: Mapping[str, str]) -> None:
    for name, value in wanted.items():
        if name not in report.filters:
            expected = ", ".join(report.filters)
            raise UnknownReport(f'report {report.name} has no filter "{name}": expected {expected}')
        if name in _NAMES:
            known = [str(row[0]) for row in store.query(_NAMES[name]).rows]
            if value not in known:
                raise UnknownReport(f'{name} "{value}" does not exist: {suggestion(value, known)}')
