"""
``fleetpulse report``: the reports of the catalogue.

Filters and options are those that its reports take, so that a new report brings its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Annotated

import typer

from fleetpulse.commands.options import Config, DatabaseUrl, Home, Rows, settings_of
from fleetpulse.console import RowFormat, note, show, width, write, write_json
from fleetpulse.database import opened
from fleetpulse.moments import parse_window, parse_zone
from fleetpulse.quantities import format_duration, parse_duration
from reports.catalogue import CATALOGUE, definition
from reports.definition import Definition, Option, Span, UnknownReport, digits
from reports.render import iso, several, to_csv, to_json
from reports.run import Report, insist_taken, run
from reports.table import blank, left_out, to_table
from storage.errors import SettingsError

#: What each filter keeps; each takes one value.
_FILTERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "agent": ("NAME", "Only this agent."),
        "type": ("TYPE", "Only agents of this type."),
        "host": ("NAME", "Only this host."),
        "metric": ("NAME", "Only this metric."),
        "workflow": ("NAME", "Only this workflow."),
        "workflow_type": ("TYPE", "Only workflows of this type."),
        "task_type": ("TYPE", "Only tasks of this type."),
    }
)


def report(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the report; --list names them.")] = None,
    list: Annotated[bool, typer.Option("--list", help="List the reports, or one, and what they take.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="MOMENT",
            show_default=False,
            help='Start of the window: back from now ("90m", "7d"), or ISO 8601; the default is that of the report.',
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="MOMENT",
            show_default=False,
            help="End of the window, in the same form as --since, or now; by default now.",
        ),
    ] = None,
    tz: Annotated[
        str,
        typer.Option(
            "--tz", metavar="ZONE", help="Time zone, such as Europe/Berlin: of --since, of days, of the answer."
        ),
    ] = "UTC",
    form: Rows = RowFormat.TABLE,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
    **asked: str | float | None,
) -> None:
    """
    Answer a question about the fleet and its work; --list names the questions.
    """
    if list:
        _show_catalogue(form, [definition(name)] if name is not None else CATALOGUE.values())
        return
    if name is None:
        raise SettingsError(f"report has no name: expected one of {', '.join(CATALOGUE)}")
    chosen, zone = definition(name), parse_zone(tz)
    filters = {key: str(value) for key in _FILTERS if (value := asked[key]) is not None}
    insist_taken(chosen, filters, [option.name for option in _options() if asked[option.word] is not None])
    options = {
        option.name: _number(option, value) for option in chosen.options if (value := asked[option.word]) is not None
    }
    if chosen.span is Span.NOW and (since is not None or until is not None):
        raise UnknownReport(f"report {name} is about now: expected neither --since nor --until")
    window = parse_window(since, "now" if until is None else until, datetime.now(UTC), zone, usual=chosen.usual)
    with opened(settings_of(config, database_url, home)) as store:
        answer = run(store, name, window=window, filters=filters, options=options, tz=zone)
    if form is RowFormat.CSV:
        write(to_csv(answer))
    elif form is RowFormat.JSON:
        write(to_json(answer))
    else:
        fitted = to_table(answer, width())
        show(fitted.table)
        note(_remark(answer) + left_out(fitted))


def _options() -> Iterator[Option]:
    """Yield the options of all reports, each once."""
    yield from {option.name: option for each in CATALOGUE.values() for option in each.options}.values()


def _parameters() -> Iterator[inspect.Parameter]:
    """Yield a parameter for each filter and for each option that some report takes."""
    for name, (metavar, text) in _FILTERS.items():
        yield _parameter(name, str, metavar, text)
    for option in _options():
        takers = [
            f"{_typed(own, own.default)} of {each.name}"
            for each in CATALOGUE.values()
            for own in each.options
            if own.name == option.name
        ]
        kind, metavar = (str, "DURATION") if option.is_duration else (int, "N") if option.whole else (float, "NUMBER")
        text = f"{option.description[:1].upper()}{option.description[1:]}; by default {', '.join(takers)}."
        yield _parameter(option.word, kind, metavar, text)


def _parameter(name: str, kind: type, metavar: str, text: str) -> inspect.Parameter:
    described = typer.Option(_flag(name), metavar=metavar, show_default=False, help=text)
    annotation = Annotated[kind | None, described]  # type: ignore[valid-type]  # known at run time only
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_parameters() -> inspect.Signature:
    """Return what the command line is to know of ``report``: ``asked`` becomes what the catalogue knows."""
    known = inspect.signature(report, eval_str=True).parameters.values()
    fixed = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in known if each.name != "asked"]
    place = 1 + [each.name for each in fixed].index("tz")
    return inspect.Signature([*fixed[:place], *_parameters(), *fixed[place:]])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _typed(option: Option, value: float) -> str:
    """Return a value of *option* as it would be typed."""
    return format_duration(timedelta(seconds=value)) if option.is_duration else digits(value)


def _number(option: Option, value: str | float) -> float:
    flag = _flag(option.word)
    try:
        found = parse_duration(value).total_seconds() if option.is_duration else float(value)
    except ValueError as exc:
        raise SettingsError(f'{flag} is "{value}", {exc}') from exc
    if not option.allows(found):
        kind = "a whole number from " if option.whole else ""
        bounds = f"{_typed(option, option.low)} to {_typed(option, option.high)}"
        raise SettingsError(f"{flag} is {value if option.is_duration else digits(found)}, expected {kind}{bounds}")
    return found


def _remark(answer: Report) -> str:
    rows = several(len(answer.rows), "row")
    zone = "" if answer.tz is UTC else f", times in {answer.tz}"
    if answer.window is None:
        return f"{answer.name}: {rows}{zone}"
    start, end = (iso(at.replace(microsecond=0), answer.tz) for at in (answer.window.start, answer.window.end))
    return f"{answer.name}: {rows}, {start} to {end}{zone}"


def _show_catalogue(form: RowFormat, reports: Iterable[Definition]) -> None:
    if form is RowFormat.JSON:
        write_json(
            [
                {
                    "name": each.name,
                    "description": each.description,
                    "filters": each.filters,
                    "required": each.required,
                    "options": [
                        {"name": option.name, "description": option.description, "default": option.default}
                        for option in each.options
                    ],
                    "columns": [{"name": column.name, "unit": column.unit} for column in each.columns],
                }
                for each in reports
            ]
        )
        return
    if form is RowFormat.CSV:
        raise SettingsError("--format is csv, expected table or json for --list")
    table = blank()
    for heading in ("report", "what it answers", "takes"):
        table.add_column(heading)
    for each in reports:
        options = [f"{_flag(option.word)} {_typed(option, option.default)}" for option in each.options]
        filters = [_flag(name) + " (required)" * (name in each.required) for name in each.filters]
        table.add_row(each.name, each.description, ", ".join((*filters, *options)))
    show(table)


# The command line reads what it takes from here.
report.__signature__ = _with_parameters()  # type: ignore[attr-defined]  # functions have one only if it is given
