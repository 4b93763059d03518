"""
The command line: what is typed, to a command; what goes wrong, to one line and an exit code.

Exit codes: 0 done, 1 failed, 2 usage (what was typed, or the settings, is wrong), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from fleetpulse.commands import agents, db, export, fleet, maintain, report, retention, rollup, run, status
from fleetpulse.console import ReaderGone, complain, write
from reports.definition import UnknownReport
from storage.errors import DuplicateName, FleetpulseError, InputError, SettingsError
from storage.versions import release

#: What typer raises for what was typed; it brings its own copy of click along, or uses the one that is installed.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="fleetpulse",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "FLEETPULSE", "help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("maintain")(maintain.maintain)
app.command("fleet")(fleet.fleet)
app.command("status")(status.status)
app.add_typer(agents.app, name="agents")
app.add_typer(db.app, name="db")
app.add_typer(rollup.app, name="rollup")
app.add_typer(retention.app, name="retention")
app.command("verify")(rollup.verify)
app.command("report")(report.report)
app.command("export")(export.export)


@dataclass(slots=True)
class Invocation:
    """What the options before the command said."""

    #: Show where an error came from.
    debug: bool = False


def _print_version(wanted: bool) -> None:
    if wanted:
        write(f"fleetpulse {release()}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="FLEETPULSE_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", envvar="FLEETPULSE_VERSION", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """
    Health and metrics pipeline for fleets of agents.
    """
    context.ensure_object(Invocation).debug = debug


def call(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    invocation = Invocation(debug=bool(os.environ.get("FLEETPULSE_DEBUG")))
    try:
        try:
            found = app(args=arguments, prog_name="fleetpulse", standalone_mode=False, obj=invocation)
        finally:
            sys.stdout.flush()
        return found if isinstance(found, int) else 0
    except _ClickException as exc:
        return _usage(exc)
    except (ReaderGone, BrokenPipeError):
        # The reader has what it wanted. The interpreter would try again to write the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FleetpulseError as exc:
        if invocation.debug:
            raise
        complain(str(exc))
        return 2 if isinstance(exc, SettingsError | UnknownReport | InputError | DuplicateName) else 1
    except OSError as exc:
        if invocation.debug:
            raise
        complain(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130


def _usage(exc: Exception) -> int:
    message = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    if type(exc).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{message}\n")
        return 2
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "fleetpulse"
    message = message.rstrip(".")
    complain(f'{message[:1].lower()}{message[1:]}: see "{command} --help"')
    return int(getattr(exc, "exit_code", 2))


def main() -> None:
    """Run the command that the process was started with, and end with its exit code."""
    sys.exit(call())
