"""
``fleetpulse run``: the daemon.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from collector import daemon
from collector.logs import JsonFormatter, TextFormatter, configure
from collector.simulator.faults import parse_faults
from collector.simulator.fleet import FleetProcess
from fleetpulse.commands.options import Config, DatabaseUrl, Home, settings_of
from fleetpulse.console import note, stdout
from fleetpulse.database import is_ours, located, make_ready, store_at
from fleetpulse.live import Screen, drawn, looks_live, summary
from fleetpulse.quantities import format_duration, parse_duration
from fleetpulse.settings import Settings
from storage.errors import SettingsError
from storage.model import AgentSpec
from storage.urls import redact

#: How the agents of the demo are polled: often enough that something happens while one looks on.
DEMO_INTERVAL_S = 2.0
DEMO_TIMEOUT_S = 1.5
DEMO_LOG = "demo-fleet.jsonl"
#: Where log lines go while the live table has the terminal; two files of this size at most.
LOG_FILE = "fleetpulse.log"
_LOG_BYTES = 10 * 1024**2


class LogFormat(StrEnum):
    """Forms of log lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def run(
    run_for: Annotated[
        str | None,
        typer.Option(
            "--for", envvar="FLEETPULSE_RUN_FOR", metavar="DURATION", show_default=False, help="End after this long."
        ),
    ] = None,
    demo_fleet: Annotated[
        int, typer.Option("--demo-fleet", metavar="N", min=0, help="Simulate N agents and poll them; 0 for none.")
    ] = 0,
    faults: Annotated[
        str,
        typer.Option("--faults", metavar="SPEC", help="What goes wrong in the demo fleet and when; empty for nothing."),
    ] = "demo",
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", envvar="FLEETPULSE_LOG_FORMAT", help="Form of log lines.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", envvar="FLEETPULSE_LOG_LEVEL", help="Least level that is logged.")
    ] = LogLevel.INFO,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Poll the fleet until interrupted: live table on a terminal, log lines otherwise.
    """
    settings = settings_of(config, database_url, home)
    run_for_s = None if run_for is None else _seconds(run_for)
    # Before anything is made: the child would say the same, later.
    parse_faults(faults if demo_fleet else "", max(1, demo_fleet))
    formatter = JsonFormatter() if log_format is LogFormat.JSON else TextFormatter()
    configure(sys.stderr, as_json=log_format is LogFormat.JSON, level=logging.getLevelNamesMapping()[log_level.upper()])
    # What migrations say of their inner workings is for those who debug them.
    logging.getLogger("alembic").setLevel(logging.DEBUG if log_level is LogLevel.DEBUG else logging.WARNING)
    collector = settings.collector_config()
    daemon.insist_on_probes(collector)
    named = settings.database_url()
    if named is not None:
        # The writer opens it, and may take its time; an address that cannot be read is told at once.
        store_at(settings, named).close()
    bound = format_duration(timedelta(seconds=run_for_s)) if run_for_s is not None else ""
    screen = Screen(f"fleetpulse {settings.collector.name}", bound)
    console = stdout()
    with ExitStack() as stack:
        url = stack.enter_context(located(settings, create=True))
        _make_ready(url, settings)
        # After the embedded server, which gives the folder the mode that its own user needs.
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if demo_fleet:
            specs = _start_fleet(stack, settings.home / DEMO_LOG, demo_fleet, faults)
            collector = replace(collector, agents=(*collector.agents, *specs))
        if looks_live(console):
            stack.enter_context(_table(screen, console, settings.home / LOG_FILE, formatter))
        code = daemon.main(
            collector,
            lambda: store_at(settings, url),
            policy=settings.retention_policy(),
            run_for_s=run_for_s,
            on_snapshot=screen.publish,
        )
    _tell_end(screen, settings, demo_fleet, flags=_flags(config, database_url, home))
    raise typer.Exit(code)


def _make_ready(url: str, settings: Settings) -> None:
    """
    Bring a database that is ours alone up to this code.

    Another one is for the daemon's writer to check: it may be away just now, and its schema is not ours to change.
    """
    if is_ours(settings):
        with closing(store_at(settings, url)) as store:
            make_ready(store, settings)


def _start_fleet(stack: ExitStack, log: Path, agents: int, faults: str) -> tuple[AgentSpec, ...]:
    fleet = stack.enter_context(FleetProcess(agents=agents, faults=faults, log=log))
    note(f"demo fleet of {agents} agents serves on {fleet.manifest.base_url}, its log is {log}")
    return tuple(
        # The slot that a poll was for stands in the fleet's log then, beside what was served.
        replace(spec, options={**spec.options, "due_header": True})
        for spec in fleet.specs(DEMO_INTERVAL_S, DEMO_TIMEOUT_S)
    )


@contextmanager
def _table(screen: Screen, console: Console, log: Path, formatter: logging.Formatter) -> Iterator[None]:
    """Draw the live table; log lines go to a file meanwhile, unless standard error is one already."""
    root = logging.getLogger()
    before = list(root.handlers)
    added: list[logging.Handler] = [_Bottom(screen)]
    if sys.stderr.isatty():
        file = RotatingFileHandler(log, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
        file.setFormatter(formatter)
        added.append(file)
        for handler in before:
            root.removeHandler(handler)
        note(f"log: {log}")
    for handler in added:
        root.addHandler(handler)
    try:
        with drawn(screen, console):
            yield
    finally:
        for handler in added:
            root.removeHandler(handler)
            handler.close()
        for handler in before:
            if handler not in root.handlers:
                root.addHandler(handler)


class _Bottom(logging.Handler):
    """Shows the latest warning at the bottom of the live table."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show *record*."""
        at = datetime.fromtimestamp(record.created, UTC)
        self._screen.tell(f"{at:%H:%M:%S} {record.levelname.lower()}: {record.getMessage()}")


def _tell_end(screen: Screen, settings: Settings, demo_fleet: int, flags: str) -> None:
    latest = screen.latest
    if latest is not None:
        url = settings.database_url() or ""
        where = ", at the same --database-url" if redact(url) != url else ""
        note(summary(latest, flags=flags, where=where, psql=not url.startswith("sqlite")))
    if demo_fleet:
        note(f"what the demo fleet served: {settings.home / DEMO_LOG}")


def _flags(config: Path | None, database_url: str | None, home: Path | None) -> str:
    """Return the flags that lead other commands to the same database, but for an address that holds a password."""
    shown = database_url if database_url is not None and redact(database_url) == database_url else None
    given = (("--config", config), ("--database-url", shown), ("--home", home))
    return "".join(f" {flag} {shlex.quote(str(path))}" for flag, path in given if path is not None)


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text).total_seconds()
    except ValueError as exc:
        raise SettingsError(f'--for is "{text}", {exc}') from exc
    if seconds <= 0:
        raise SettingsError(f'--for is "{text}", expected more than 0s')
    return seconds
