"""
``fleetpulse db``: the schema, and the embedded server.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from fleetpulse.commands import roles
from fleetpulse.commands.options import Config, DatabaseUrl, Home, Text, settings_of
from fleetpulse.commands.retention import size
from fleetpulse.console import TextFormat, complain, note, show, show_facts, write
from fleetpulse.database import database_file, located, opened, store_at
from fleetpulse.settings import Settings
from reports.render import several
from reports.table import blank
from rollups.audit import findings
from storage import schema
from storage.cluster import Cluster
from storage.database import upgrade
from storage.embedded import EmbeddedServer
from storage.errors import CapabilityMissing, SchemaMismatch, SettingsError, StorageError
from storage.model import EPOCH, Table, Tier
from storage.store import Store

app = typer.Typer(no_args_is_help=True, help="Upgrade and inspect the schema, control the embedded server.")


@app.command("upgrade")
def upgrade_schema(config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Bring the schema up to this version of fleetpulse; makes the embedded database where there is none.
    """
    settings = settings_of(config, database_url, home)
    with located(settings, create=True) as url, closing(store_at(settings, url)) as store:
        before = schema.current(store.engine)
        upgrade(store)
        store.check_schema()
        after = schema.current(store.engine)
    note(f"schema is at revision {after}" + (f", it was at {before or 'none'}" if before != after else ""))


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(metavar="REVISION", help="Revision to go back to; base for nothing.")],
    drop_timeseries: Annotated[
        bool, typer.Option("--drop-timeseries", help="Drop checks, samples and rollups first: all of that data.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this flag the plan is printed.")] = False,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Take the schema back to an earlier revision: prints the plan, and does it with --apply.
    """
    with opened(settings_of(config, database_url, home), check=False) as store:
        steps = _undone(store, revision)
        for line in (*(_timeseries(store) if drop_timeseries else ()), *steps):
            write(f"{line}\n")
        if not apply:
            note("nothing was changed: --apply does it" if steps or drop_timeseries else "nothing to do")
            return
        if drop_timeseries:
            store.drop()
        try:
            schema.downgrade(store.engine, revision)
        except StorageError as exc:
            # 2BP01: views of the time series read the tables that would go.
            if getattr(exc, "sqlstate", None) != "2BP01":
                raise
            raise StorageError(
                f"revision {revision} cannot be reached while there are time series: their views read the tables that "
                "would go; --drop-timeseries drops them first, data included"
            ) from exc
    note(f"schema is at revision {revision}")


@app.command()
def current(config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Print the revision of the database.
    """
    with opened(settings_of(config, database_url, home), check=False) as store:
        write(f"{schema.current(store.engine) or 'none'}\n")
    note(f"code needs {schema.head()}")


@app.command()
def history() -> None:
    """
    Print the revisions that this version of fleetpulse knows, oldest first.
    """
    for each in schema.history():
        write(f"{each.revision}  {each.description}\n")


@app.command()
def status(
    form: Text = TextFormat.TABLE, config: Config = None, database_url: DatabaseUrl = None, home: Home = None
) -> None:
    """
    Show engine, server and versions of the database, and for each tier what it holds and what is still marked.
    """
    with opened(settings_of(config, database_url, home), check=False) as store:
        at, needed = store.timeseries_version()
        answer: dict[str, Any] = {
            "engine": store.engine_name,
            "server": store.server_version(),
            "revision": schema.current(store.engine),
            "revision_needed": schema.head(),
            "timeseries": at,
            "timeseries_needed": needed,
            "tiers": _tiers(store) if at == needed else [],
        }
    if form is TextFormat.JSON:
        write(json.dumps(answer, indent=2, default=str) + "\n")
        return
    show_facts(
        {
            "engine": answer["engine"],
            "server": answer["server"],
            "revision": f"{answer['revision'] or 'none'}, code needs {answer['revision_needed']}",
            "time series": f"version {at or 'none'}, code needs {needed}",
        }
    )
    if answer["tiers"]:
        show(_table(answer["tiers"]))


def _table(tiers: list[dict[str, Any]]) -> RichTable:
    table = blank()
    table.add_column("tier")
    for heading in ("parts", "size", "marked"):
        table.add_column(heading, justify="right")
    table.add_column("kept from")
    for each in tiers:
        kept_from = each["kept_from"]
        table.add_row(
            *(each["relation"], f"{each['parts']:,}", size(each["size_bytes"]), f"{each['marked']:,}"),
            f"{kept_from:%Y-%m-%d %H:%M}Z" if kept_from > EPOCH else "everything",
        )
    return table


def _tiers(store: Store) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    found: list[dict[str, Any]] = []
    for horizon in store.horizons():
        parts = store.partitions(horizon.table, horizon.tier)
        marked = [] if horizon.tier is Tier.RAW else store.dirty(horizon.table, horizon.tier, now)
        found.append(
            {
                "relation": horizon.table.relation(horizon.tier),
                "parts": len(parts),
                "size_bytes": sum(part.size_bytes for part in parts),
                "marked": len(marked),
                "kept_from": max([horizon.dropped_before, *(part.window.start for part in parts[:1])]),
            }
        )
    return found


@app.command()
def check(config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Compare the database with what this version of fleetpulse needs; exit 1 when they differ.

    Looks at the server's own jobs, too, where it has any: what they would lose is told.
    """
    settings = settings_of(config, database_url, home)
    with opened(settings, check=False) as store:
        try:
            store.check_schema()
            differences = schema.check(store.engine)
        except SchemaMismatch as exc:
            complain(str(exc))
            raise typer.Exit(1) from exc
        dangers = findings(store, settings.retention_policy())
        version = store.server_version()
    for each in (*differences, *dangers):
        write(f"{each}\n")
    if differences:
        complain(f"schema differs in {several(len(differences), 'place')} from what revision {schema.head()} says")
    if dangers:
        complain(f"rollups are in danger in {several(len(dangers), 'way')}")
    if differences or dangers:
        raise typer.Exit(1)
    note(f"schema is at revision {schema.head()}, as it should be; {version}")


app.command("roles")(roles.roles)


# ---------------------------------------------------------------- embedded server


@app.command()
def start(config: Config = None, home: Home = None) -> None:
    """
    Start the embedded server and keep it until "db stop", also when nobody uses it.
    """
    server = _embedded(settings_of(config, None, home))
    # First the server: a pin on one that cannot start would be of no use.
    with server:
        server.pin()
        url = server.url
    write(f"{url}\n")


@app.command()
def stop(config: Config = None, home: Home = None) -> None:
    """
    Stop the embedded server, or let it end with the last one who uses it.
    """
    server = _embedded(settings_of(config, None, home))
    if not server.running:
        server.unpin()
        note("embedded server does not run")
        return
    note("stopped" if server.unpin() else "in use: it stops with the last one who uses it")


@app.command()
def url(config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Print the address of the database, with its password if it has one.
    """
    settings = settings_of(config, database_url, home)
    found = settings.database_url()
    write(f"{EmbeddedServer(settings.home).url if found is None else found}\n")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context, config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Open psql on the database; further arguments go to psql, such as -c "SELECT …".
    """
    settings = settings_of(config, database_url, home)
    named = settings.database_url()
    if named is not None and named.startswith("sqlite"):
        raise SettingsError(f"psql does not read SQLite: open {database_file(named) or 'the file'} with sqlite3")
    with located(settings) as address:
        code = _run_psql(address, context.args, prefer_own=settings.database_url() is None)
    raise typer.Exit(code)


@app.command("upgrade-server")
def upgrade_server(config: Config = None, home: Home = None) -> None:
    """
    Bring an embedded database of an older PostgreSQL to the one of this version; the old files are kept.
    """
    kept = _embedded(settings_of(config, None, home)).upgrade()
    note(f"embedded database is upgraded; the old one is in {kept}, delete it when the new one has proved itself")


def _embedded(settings: Settings) -> EmbeddedServer:
    if settings.database_url() is not None:
        raise SettingsError(
            "database.url names a server of your own: fleetpulse starts and stops the embedded one alone"
        )
    return EmbeddedServer(settings.home)


def _run_psql(address: str, arguments: list[str], *, prefer_own: bool) -> int:
    try:
        parsed = make_url(address).set(drivername="postgresql")
    except SQLAlchemyError as exc:
        raise SettingsError("database address cannot be read, expected postgresql://user@host:port/database") from exc
    environment = dict(os.environ)
    if parsed.password is not None:
        # Arguments are seen by everybody on the machine, the environment is not.
        environment["PGPASSWORD"] = str(parsed.password)
        parsed = parsed.set(password=None)
    command = [_psql_program(prefer_own), "-d", parsed.render_as_string(hide_password=False), *arguments]
    # Ctrl-C is for psql: it cancels a query, and must not end us and with us the server.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, env=environment, preexec_fn=_default_interrupt)  # noqa: PLW1509, RUF100  # no threads here
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _psql_program(prefer_own: bool) -> str:
    """Return a psql: the wheel's is of the embedded server's version, the system's knows the system's set-up."""
    system = shutil.which("psql")
    try:
        own = Cluster(EmbeddedServer().data).programs() / "psql"
        wheel = str(own) if own.is_file() else None
    except CapabilityMissing:
        wheel = None
    found = (wheel or system) if prefer_own else (system or wheel)
    if found is None:
        raise StorageError("psql is not installed: install the client programs of PostgreSQL")
    return found


# ---------------------------------------------------------------- downgrade


def _undone(store: Store, revision: str) -> list[str]:
    """Return a line per revision that a downgrade to *revision* takes back, newest first."""
    steps = schema.history()
    names = [step.revision for step in steps]
    if revision != "base" and revision not in names:
        raise SettingsError(f'revision "{revision}" does not exist: expected base or one of {", ".join(names)}')
    found = schema.current(store.engine)
    upto = names.index(found) if found in names else -1
    target = -1 if revision == "base" else names.index(revision)
    if target > upto:
        raise SettingsError(
            f'database is at revision {found or "none"}, older than {revision}: run "fleetpulse db upgrade"'
        )
    return [f"take back {step.revision}: {step.description}" for step in reversed(steps[target + 1 : upto + 1])]


def _timeseries(store: Store) -> list[str]:
    held = [part for table in Table for tier in Tier for part in store.partitions(table, tier)]
    size_bytes = sum(part.size_bytes for part in held)
    return [f"drop the time series: {several(len(held), 'partition')}, {size(size_bytes)}"]
