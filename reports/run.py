"""
Running a report: from a name, a window and filters to rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from numbers import Real

from reports.arguments import insist_store, insist_type, insist_window, is_storable, mapping
from reports.catalogue import definition
from reports.definition import Ask, Column, Definition, Option, UnknownReport, UnknownValue, digits, suggestion
from reports.windows import spanned
from storage.model import Window
from storage.queries import load
from storage.store import Rows, Store

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
    window: Window | None = None,
    filters: Mapping[str, str] | None = None,
    options: Mapping[str, float] | None = None,
    tz: tzinfo = UTC,
) -> Report:
    """
    Run the report *name* and return everything it answers.

    Args:
        window: Half-open. Reports that count widen it to whole minutes, or to whole hours where minutes are no longer
            kept; what is returned names the window that was used. A report about now ignores it. What the report
            usually looks back to, when not given.
        filters: ``agent``, ``type``, ``host``, ``workflow``, … to the one value wanted, as the report allows.
        options: Numbers that the report takes, such as ``target``, or ``burn_for_s`` in seconds; its defaults stand for
            those that are not given.
        tz: In whose days it counts, where it counts by days, and in whose time people read it; the answer is in UTC.

    Raises:
        UnknownReport: There is no such report, filter or option, a filter is missing that the report needs, or an option
            makes no sense; as ``UnknownValue``, which is an ``UnknownName`` too, nothing of the name that a filter asks for.
        NotRolledUp: All of *window* lies below what is kept.
        InputError: An argument is not what it should be: *store* no store, *window* none or not in the years 1970 to 2199
            (as ``InvalidWindow``), a filter no text, an option no number, *tz* no time zone, or, where the report counts
            by days, none that databases know.
        TransientStorageError: The database could not answer.
    """
    insist_store(store)
    report = definition(name)
    insist_type("tz", tz, tzinfo, 'a time zone, such as zoneinfo.ZoneInfo("Europe/Berlin")')
    if window is None:
        now = datetime.now(UTC)
        window = Window(now - report.usual, now)
    insist_window(window)
    wanted = mapping("filters", filters, '{"agent": "worker-1"}')
    given = mapping("options", options, '{"target": 0.99}')
    insist_taken(report, wanted, given)
    numbers = _numbers(report, given)
    _insist_known(store, wanted)
    effective, times = spanned(store, report, window, numbers, tz)
    parameters: dict[str, object] = {**{each: wanted.get(each) for each in report.filters}, **numbers, **times}
    types = {column.name: column.python_type for column in report.columns if column.python_type is not None}
    statements = load("reports", f"sql/{name}.sql")

    def ask(statement: str) -> Rows:
        # Only where one statement for all engines cannot be.
        chosen = statements.get(f"{statement}_{store.engine_name}", statements[statement])
        return store.query(chosen, parameters, types=types)

    rows = _rows(report, ask) if report.finish is None else report.finish(ask)
    return Report(name=name, columns=report.columns, rows=rows, window=effective, tz=tz)


def _rows(report: Definition, ask: Ask) -> Sequence[tuple[object, ...]]:
    answer = ask(report.name)
    expected = tuple(column.name for column in report.columns)
    if answer.columns != expected:
        raise AssertionError(f"BUG: report {report.name} answers {answer.columns}, its catalogue says {expected}")
    return answer.rows


def insist_taken(report: Definition, filters: Iterable[str], options: Iterable[str]) -> None:
    """
    Insist that *report* takes filters and options of these names.

    Raises:
        UnknownReport: There is no such filter or option, or one is missing.
    """
    known = tuple(option.name for option in report.options)
    for kind, names, expected in (("filter", filters, report.filters), ("option", options, known)):
        for name in names:
            if name not in expected:
                raise UnknownReport(
                    f'report {report.name} has no {kind} "{name}": expected {", ".join(expected) or "none"}'
                )
    for name in report.required:
        if name not in filters:
            raise UnknownReport(f"report {report.name} needs a filter: expected {name}")


def _insist_known(store: Store, wanted: Mapping[str, str]) -> None:
    for name, value in wanted.items():
        insist_type(f"filter {name}", value, str, "one name")
        table, column = _NAMES[name]
        if not (is_storable(value) and _is_there(store, table, column, value)):
            known = store.query(f"SELECT DISTINCT {column} FROM {table} ORDER BY {column} LIMIT {_NEAR}").rows  # noqa: S608  # our own names
            raise UnknownValue(name, value, suggestion(value, [str(row[0]) for row in known]))


def _is_there(store: Store, table: str, column: str, value: str) -> bool:
    return bool(store.query(f"SELECT 1 FROM {table} WHERE {column} = :value LIMIT 1", {"value": value}).rows)  # noqa: S608  # our own names


def _numbers(report: Definition, given: Mapping[str, float]) -> dict[str, float]:
    for option in report.options:
        if option.name in given:
            _insist_allowed(report, option, given[option.name])
    return {each.name: _number(each, given.get(each.name, each.default)) for each in report.options}


def _insist_allowed(report: Definition, option: Option, value: float) -> None:
    what = f"report {report.name} option {option.name}"
    insist_type(what, value, Real, "a number")
    if not option.allows(value):
        kind = "a whole number from " if option.whole else ""
        raise UnknownReport(f"{what} is {digits(value)}, expected {kind}{digits(option.low)} to {digits(option.high)}")


def _number(option: Option, value: float) -> float:
    return int(value) if option.whole else float(value)
