"""
Running a report: from a name, a window and filters to rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from reports.catalogue import definition
from reports.definition import Column, Definition, Option, Span, UnknownReport, suggestion
from storage.errors import NotRolledUp
from storage.model import Table, Tier, Window, ceil, floor
from storage.queries import load
from storage.store import Store

MINUTE, HOUR, DAY = Tier.M1.step, Tier.H1.step, Tier.D1.step

#: Up to this much window a series has one row per minute: 360 rows are still read by a person.
MINUTES_UP_TO = timedelta(hours=6)

#: Where what a filter may name is known: whether it is there, and what is. A name that is not there is refused instead
#: of answered by no rows.
_NAMES: Mapping[str, tuple[str, str]] = {
    "agent": ("agents", "name"),
    "type": ("agents", "type"),
    "host": ("hosts", "name"),
    "metric": ("metrics", "name"),
    "workflow": ("workflows", "name"),
    "workflow_type": ("workflows", "type"),
    "task_type": ("tasks", "type"),
}
#: Names that a message about an unknown one is made from: one of these will be near, or the list is of no use.
_NEAR = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer of a report."""

    name: str
    columns: tuple[Column, ...]
    #: One tuple per row, in the order of ``columns``; moments are aware UTC.
    rows: Sequence[tuple[object, ...]]
    #: What was really answered for; ``None`` where the report is about now.
    window: Window | None
    #: In whose time people read it; what is stored and exported is UTC.
    tz: tzinfo = UTC


def run(
    store: Store,
    name: str,
    *,
    window: Window,
    filters: Mapping[str, str] | None = None,
    options: Mapping[str, float] | None = None,
    tz: tzinfo = UTC,
) -> Report:
    """
    Run the report *name* and return everything it answers.

    Args:
        window: Half-open. Reports that count widen it to whole minutes, or to whole hours where minutes are no longer
            kept; what is returned names the window that was used. A report about now ignores it.
        filters: ``agent``, ``type``, ``host``, ``workflow``, … to the one value wanted, as the report allows.
        options: Numbers that the report takes, such as ``target``; its defaults stand for those that are not given.
        tz: In whose days and hours it is told.

    Raises:
        UnknownReport: There is no such report, filter or option, nothing of the name that a filter asks for, a filter is
            missing that the report needs, or an option makes no sense.
        NotRolledUp: All of *window* lies below what is kept.
        TransientStorageError: The database could not answer.
    """
    report = definition(name)
    wanted = dict(filters or {})
    _check_filters(store, report, wanted)
    parameters: dict[str, object] = {each: wanted.get(each) for each in report.filters}
    parameters |= _options(report, options or {})
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
    statements = load("reports", f"sql/{name}.sql")
    # Only where one statement for all engines cannot be.
    statement = statements.get(f"{name}_{store.engine_name}", statements[name])
    answer = store.query(statement, parameters, types=types)
    expected = tuple(column.name for column in report.columns)
    if answer.columns != expected:
        raise AssertionError(f"BUG: report {name} answers {answer.columns}, its catalogue says {expected}")
    return Report(name=name, columns=report.columns, rows=answer.rows, window=effective, tz=tz)


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
            expected = ", ".join(report.filters) or "none"
            raise UnknownReport(f'report {report.name} has no filter "{name}": expected {expected}')
        table, column = _NAMES[name]
        if not store.query(f"SELECT 1 FROM {table} WHERE {column} = :value LIMIT 1", {"value": value}).rows:  # noqa: S608  # our own names
            known = store.query(f"SELECT DISTINCT {column} FROM {table} ORDER BY {column} LIMIT {_NEAR}").rows  # noqa: S608  # likewise
            raise UnknownReport(
                f'{name.replace("_", " ")} "{value}" does not exist: {suggestion(value, [str(row[0]) for row in known])}'
            )
    for name in report.required:
        if name not in wanted:
            raise UnknownReport(f"report {report.name} needs a filter: expected {name}")


def _options(report: Definition, given: Mapping[str, float]) -> dict[str, object]:
    known = {option.name: option for option in report.options}
    for name, value in given.items():
        if name not in known:
            expected = ", ".join(known) or "none"
            raise UnknownReport(f'report {report.name} has no option "{name}": expected {expected}')
        option = known[name]
        if not (math.isfinite(value) and option.low <= value <= option.high) or (option.whole and value != int(value)):
            kind = "a whole number from " if option.whole else ""
            raise UnknownReport(
                f"report {report.name} option {name} is {value:g}, expected {kind}{option.low:g} to {option.high:g}"
            )
    return {name: _number(option, given.get(name, option.default)) for name, option in known.items()}


def _number(option: Option, value: float) -> float | int:
    return int(value) if option.whole else float(value)
