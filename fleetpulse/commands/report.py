"""
``fleetpulse report``: the reports of the catalogue.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from fleetpulse.commands.options import Config, DatabaseUrl, Home, Rows, Until, settings_of
from fleetpulse.console import RowFormat, note, show, width, write, write_json
from fleetpulse.database import opened
from fleetpulse.moments import parse_window
from reports.catalogue import CATALOGUE, definition
from reports.render import iso, to_csv, to_json, to_table
from reports.run import Report, run
from storage.errors import SettingsError


def report(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the report; --list names them.")] = None,
    list: Annotated[bool, typer.Option("--list", help="List the reports.")] = False,
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="MOMENT", help='Start of the window: back from now ("90m", "7d"), or ISO 8601 in UTC.'
        ),
    ] = "24h",
    until: Until = "now",
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", show_default=False, help="Only this agent.")
    ] = None,
    type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", show_default=False, help="Only agents of this type.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="NAME", show_default=False, help="Only this host.")
    ] = None,
    form: Rows = RowFormat.TABLE,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Answer a question about the fleet: availability, fleet_health, incidents, system_load.
    """
    if list:
        _show_catalogue(form)
        return
    if name is None:
        raise SettingsError(f"report has no name: expected one of {', '.join(CATALOGUE)}")
    definition(name)
    settings = settings_of(config, database_url, home)
    window = parse_window(since, until, datetime.now(UTC))
    given = {"agent": agent, "type": type, "host": host}
    filters = {key: value for key, value in given.items() if value is not None}
    with opened(settings) as store:
        answer = run(store, name, window=window, filters=filters)
    if form is RowFormat.CSV:
        write(to_csv(answer))
    elif form is RowFormat.JSON:
        write(to_json(answer))
    else:
        show(to_table(answer, width()))
        note(_remark(answer))


def _remark(answer: Report) -> str:
    count = len(answer.rows)
    rows = f"{count} row" if count == 1 else f"{count} rows"
    if answer.window is None:
        return f"{answer.name}: {rows}"
    return f"{answer.name}: {rows}, {iso(answer.window.start)} to {iso(answer.window.end)}"


def _show_catalogue(form: RowFormat) -> None:
    if form is RowFormat.JSON:
        write_json(
            [
                {
                    "name": each.name,
                    "description": each.description,
                    "filters": each.filters,
                    "columns": [{"name": column.name, "unit": column.unit} for column in each.columns],
                }
                for each in CATALOGUE.values()
            ]
        )
        return
    if form is RowFormat.CSV:
        raise SettingsError("--format is csv, expected table or json for --list")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("report", "what it answers", "filters"):
        table.add_column(heading)
    for each in CATALOGUE.values():
        table.add_row(each.name, each.description, ", ".join(f"--{name}" for name in each.filters))
    show(table)
