"""
``fleetpulse agents``: what is polled.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from collector.daemon import file_agents, insist_on_probes
from fleetpulse.commands.options import Config, DatabaseUrl, Home, Rows, Text, settings_of
from fleetpulse.console import RowFormat, TextFormat, note, show, width, write, write_json
from fleetpulse.database import opened
from fleetpulse.quantities import format_duration, parse_duration
from reports.definition import Column
from reports.render import cell, several, to_csv, to_json
from reports.run import Report
from reports.table import left_out, to_table
from storage.errors import SettingsError
from storage.model import AgentSpec, usual_timeout_s
from storage.repositories import AgentRecord, AgentRepository

app = typer.Typer(no_args_is_help=True, help="List, add, retire, pause and resume agents.")

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of agents.")]

_COLUMNS = (
    *(Column(name=name) for name in ("agent", "type", "state", "status")),
    *(Column(name="since", unit="utc"), Column(name="interval_s", unit="s"), Column(name="probe", spare=True)),
    *(Column(name="endpoint"), Column(name="source", spare=True)),
)


@app.command("list")
def list_agents(
    all: Annotated[bool, typer.Option("--all", help="Retired ones as well.")] = False,
    type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", show_default=False, help="Only agents of this type.")
    ] = None,
    form: Rows = RowFormat.TABLE,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    List agents with their status.
    """
    with opened(settings_of(config, database_url, home)) as store:
        found = AgentRepository(store.engine).list(include_retired=all)
    rows = [
        (
            *(each.spec.name, each.spec.type, each.state, each.status, each.status_due),
            *(each.spec.interval_s, each.spec.probe, each.spec.endpoint, each.spec.source),
        )
        for each in found
        if type is None or each.spec.type == type
    ]
    answer = Report(name="agents", columns=_COLUMNS, rows=rows, window=None)
    if form is RowFormat.CSV:
        write(to_csv(answer))
    elif form is RowFormat.JSON:
        write(to_json(answer))
    else:
        fitted = to_table(answer, width())
        show(fitted.table)
        if fitted.left_out:
            note(f"{several(len(rows), 'agent')}{left_out(fitted)}")


@app.command("show")
def show_agent(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")],
    form: Text = TextFormat.TABLE,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Show everything that is known of one agent.
    """
    with opened(settings_of(config, database_url, home)) as store:
        found = AgentRepository(store.engine).get(name)
    known = _known(found)
    if form is TextFormat.JSON:
        write_json(known)
        return
    longest = max(len(key) for key in known)
    for key, value in known.items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        write(f"{key.ljust(longest)}  {cell(Column(name=key), text).plain}\n")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique name; ids and history follow it.")],
    endpoint: Annotated[
        str, typer.Option("--endpoint", "-e", metavar="WHERE", help="URL, host:port or process pattern to point at.")
    ] = "",
    probe: Annotated[str, typer.Option("--probe", metavar="KIND", help="http, tcp, process or heartbeat.")] = "http",
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help="Free text that groups agents.")] = "agent",
    interval: Annotated[str, typer.Option("--interval", metavar="DURATION", help="Time between polls.")] = "15s",
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            show_default=False,
            help="Deadline of one poll; 10s, or the interval where that is shorter.",
        ),
    ] = None,
    rise: Annotated[int, typer.Option("--rise", metavar="N", help="Good checks until a down agent is up.")] = 1,
    fall: Annotated[int, typer.Option("--fall", metavar="N", help="Bad checks until an up agent is down.")] = 2,
    credential: Annotated[
        str, typer.Option("--credential", metavar="NAME", help="Credential of the settings file to send.")
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", show_default=False, help="Label; may be given again."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="KEY=JSON", show_default=False, help="Setting of the probe; may be given again."
        ),
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Begin in planned maintenance.")] = False,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Add an agent; a running daemon begins to poll it within seconds.
    """
    interval_s = _seconds(interval, "--interval")
    spec = AgentSpec(
        name=name,
        type=type,
        probe=probe,
        endpoint=endpoint,
        labels=dict(_pair(text, "--label") for text in label or ()),
        interval_s=interval_s,
        timeout_s=usual_timeout_s(interval_s) if timeout is None else _seconds(timeout, "--timeout"),
        rise=rise,
        fall=fall,
        credential=credential,
        options={key: _json(value) for key, value in (_pair(text, "--option") for text in option or ())},
        source="api",
        paused=paused,
    )
    settings = settings_of(config, database_url, home)
    # Credentials are the daemon's to know: its settings file may be another one than that of this machine.
    collector = settings.collector_config()
    insist_on_probes(replace(collector, agents=(replace(spec, credential=""),)))
    with opened(settings) as store:
        added = AgentRepository(store.engine).add(spec, datetime.now(UTC))
    note(f"added {added.spec.name} with id {added.id}")


@app.command()
def retire(names: Names, config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Stop polling agents for good; their history stays.
    """
    with opened(settings_of(config, database_url, home)) as store:
        for name in names:
            AgentRepository(store.engine).retire(name, datetime.now(UTC))
            note(f"retired {name}")


@app.command()
def pause(names: Names, config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Begin planned maintenance: slots end as paused, never as down.
    """
    with opened(settings_of(config, database_url, home)) as store:
        for name in names:
            AgentRepository(store.engine).pause(name, datetime.now(UTC))
            note(f"paused {name}")


@app.command()
def resume(names: Names, config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    End planned maintenance.
    """
    with opened(settings_of(config, database_url, home)) as store:
        for name in names:
            AgentRepository(store.engine).resume(name, datetime.now(UTC))
            note(f"resumed {name}")


@app.command()
def sync(config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Make the agents of the settings file those of the database; agents added by hand are left alone.
    """
    settings = settings_of(config, database_url, home)
    if settings.file is None:
        # Without this check a forgotten --config would retire every agent of the file.
        raise SettingsError("there is no settings file to take agents from: name one with --config")
    with opened(settings) as store:
        result = AgentRepository(store.engine).sync(file_agents(settings.collector_config()), "file", datetime.now(UTC))
    for verb, names in (("added", result.added), ("changed", result.changed), ("retired", result.retired)):
        for name in names:
            write(f"{verb} {name}\n")
    note(
        f"{len(result.added)} added, {len(result.changed)} changed, {len(result.retired)} retired, "
        f"{len(result.unchanged)} unchanged"
    )


def _known(found: AgentRecord) -> dict[str, Any]:
    spec = found.spec
    return {
        "name": spec.name,
        "id": found.id,
        "type": spec.type,
        "state": found.state,
        "status": found.status,
        "since": found.status_due,
        "reason": found.status_reason,
        "probe": spec.probe,
        "endpoint": spec.endpoint,
        "interval": format_duration(timedelta(seconds=spec.interval_s)),
        "timeout": format_duration(timedelta(seconds=spec.timeout_s)),
        "rise": spec.rise,
        "fall": spec.fall,
        "credential": spec.credential,
        "labels": dict(spec.labels),
        "options": dict(spec.options),
        "source": spec.source,
        "created_at": found.created_at,
        "retired_at": found.retired_at,
    }


def _seconds(text: str, flag: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as exc:
        raise SettingsError(f'{flag} is "{text}", {exc}') from exc


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise SettingsError(f'{flag} is "{text}", expected KEY=VALUE')
    return key, value


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        # A plain word needs no quotes.
        return text
