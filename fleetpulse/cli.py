"""
The command line: what is typed, to a command; what goes wrong, to one line and an exit code.

Exit codes: 0 done, 1 failed, 2 usage (what was typed, or the settings, is wrong), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import typer
from pydantic import ValidationError

from fleetpulse.commands import agents, db, export, fleet, maintain, report, retention, rollup, run, status
from fleetpulse.console import STANDARD_OUTPUT, ReaderGone, complain, flush, give_up, note, write
from reports.definition import UnknownReport
from storage.errors import DuplicateName, FleetpulseError, InputError, SettingsError, UnknownName
from storage.versions import release

#: What typer raises for what was typed; it brings its own copy of click along, or uses the one that is installed.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]

#: What is wrong with what was typed, or with the settings; all else is not the caller's fault.
_TYPED = (SettingsError, UnknownReport, InputError, DuplicateName, UnknownName)

#: Kinds of values that options have, by what the library calls a mistake in them.
_EXPECTED: Mapping[str, str] = MappingProxyType(
    {
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "bool_parsing": "yes or no",
        "greater_than_equal": "{ge} or more",
        "less_than_equal": "{le} or less",
    }
)

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
    if sys.stdout is None:
        # The next file that is opened would become it.
        complain(f"{STANDARD_OUTPUT} is closed")
        return 1
    invocation = Invocation(debug=bool(os.environ.get("FLEETPULSE_DEBUG")))
    try:
        try:
            found = app(args=arguments, prog_name="fleetpulse", standalone_mode=False, obj=invocation)
        finally:
            flush()
        return found if isinstance(found, int) else 0
    except _ClickException as exc:
        return _usage(exc)
    except (ReaderGone, BrokenPipeError):
        # The reader has what it wanted.
        give_up()
        return 0
    except FleetpulseError as exc:
        if invocation.debug:
            raise
        complain(str(exc))
        return 2 if isinstance(exc, _TYPED) else 1
    except OSError as exc:
        if exc.filename == STANDARD_OUTPUT:
            give_up()
        if invocation.debug:
            raise
        complain(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130


def _usage(exc: Exception) -> int:
    message = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    if type(exc).__name__ == "NoArgsIsHelpError":
        note(message)
        return 2
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "fleetpulse"
    message = _in_plain_words(exc) or f"{message[:1].lower()}{message[1:]}".rstrip(".")
    complain(f'{message}: see "{command} --help"')
    return int(getattr(exc, "exit_code", 2))


def _in_plain_words(exc: Exception) -> str | None:
    """Return what is wrong with the value of an option, where its library says so in words of its own."""
    context, option, wrong = getattr(exc, "ctx", None), getattr(exc, "param", None), exc.__cause__
    if context is None or option is None or not isinstance(wrong, ValidationError):
        return None
    source = context.get_parameter_source(option.name)
    whence = " (from the environment)" if source is not None and source.name == "ENVIRONMENT" else ""
    first = wrong.errors()[0]
    found = f'{max(option.opts, key=len)}{whence} is "{first["input"]}"'
    said = first["msg"].removeprefix("Value error, ").rstrip(".")
    choices = said.partition(" is not one of ")[2].replace("'", "")
    expected = f"one of {choices}" if choices else _EXPECTED.get(first["type"])
    if expected is None:
        return f"{found}: {said[:1].lower()}{said[1:]}"
    return f"{found}, expected {expected.format(**first.get('ctx', {}))}"


def main() -> None:
    """Run the command that the process was started with, and end with its exit code."""
    sys.exit(call())
