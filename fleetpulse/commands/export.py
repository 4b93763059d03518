"""
``fleetpulse export``: time series and tables, to Parquet and CSV.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from fleetpulse.commands.options import Config, DatabaseUrl, Home, Until, settings_of
from fleetpulse.console import ReaderGone, TextFormat, note, show, write_json
from fleetpulse.database import opened
from fleetpulse.moments import parse_window
from fleetpulse.quantities import parse_duration
from reports.exports.extra import frames_extra
from reports.exports.targets import Compression, Format, Target, format_of, insist_free
from reports.render import iso, several
from reports.table import blank
from storage.errors import SettingsError
from storage.model import Table, Tier

#: How far back the window of time series begins where nobody says.
USUAL = timedelta(hours=24)

Several = list[str] | None


def export(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help="health, agent_metrics, system_metrics, a tier such as health_1h, or a table or view such as tasks; "
            "--list names them.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE", show_default=False, help="F.parquet or F.csv; - is CSV on standard output."
        ),
    ] = None,
    list: Annotated[bool, typer.Option("--list", help="List what can be exported, or the one that is named.")] = False,
    form: Annotated[
        TextFormat | None,
        typer.Option(
            "--format",
            "-f",
            # Whoever has said what form answers have has not said it of files.
            envvar="FLEETPULSE_EXPORT_FORMAT",
            show_default=False,
            help="Of --list; by default table.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="MOMENT",
            show_default=False,
            help='Start of the window: back from now ("90m", "7d"), or ISO 8601 in UTC. '
            "By default 24h for time series, and everything for tables.",
        ),
    ] = None,
    until: Until = "now",
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            metavar="STEP",
            show_default=False,
            help="Of time series: raw, auto, or the width of a bucket (15m, 1h, 1d).",
        ),
    ] = None,
    agent: Annotated[
        Several, typer.Option("--agent", metavar="NAME", show_default=False, help="Only this agent; can be repeated.")
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            "--type", metavar="TYPE", show_default=False, help="Only agents, or rows of a table, of this type."
        ),
    ] = None,
    host: Annotated[
        Several, typer.Option("--host", metavar="NAME", show_default=False, help="Only this host; can be repeated.")
    ] = None,
    metric: Annotated[
        Several, typer.Option("--metric", metavar="NAME", show_default=False, help="Only this metric; can be repeated.")
    ] = None,
    workflow: Annotated[
        Several,
        typer.Option("--workflow", metavar="NAME", show_default=False, help="Only this workflow; can be repeated."),
    ] = None,
    ids: Annotated[
        bool, typer.Option("--ids/--names", help="Keep ids, or have the names of agents, hosts and metrics instead.")
    ] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Of time series: one column per series.")] = False,
    value: Annotated[
        str | None,
        typer.Option("--value", metavar="COLUMN", show_default=False, help="What --wide spreads, such as max."),
    ] = None,
    compression: Annotated[
        Compression | None, typer.Option("--compression", show_default=False, help="Of Parquet; by default zstd.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Write time series, or a table or view, to a Parquet or CSV file.
    """
    with frames_extra("fleetpulse export"):
        from reports.exports import asked, relations
        from reports.exports.run import export_relation, export_series
        from reports.exports.series import Series
        from reports.exports.tables import Shape
    if list:
        names = [*relations.SERIES, *relations.RELATIONS] if table is None else [table]
        _show([{"name": name, **relations.described(name)} for name in names], form or TextFormat.TABLE)
        return
    if table is None:
        raise SettingsError("export has no table: name one, --list tells which there are")
    _refuse("export without --list", {"--format": form})
    target = _target(out, compression, force=force)
    insist_free(target)
    given = {"agent": agent, "host": host, "metric": metric, "workflow": workflow, "type": type}
    filters = {name: asked.names(name, values) for name, values in given.items() if values is not None and values != []}
    now = datetime.now(UTC)
    found = relations.SERIES.get(table)
    with _ended_by_signals():
        if found is None:
            relations.insist_known(table)
            _refuse(table, {"--step": step, "--wide": wide or None, "--value": value})
            whole = since is None and until == "now"
            window = None if whole else parse_window("1970-01-01" if since is None else since, until, now)
            with opened(settings_of(config, database_url, home)) as store, _bar(table) as progress:
                done = export_relation(store, table, target, progress, window=window, filters=filters, ids=ids)
        else:
            which, tier = found
            there = {"agent", "type"} if which is not Table.SYSTEM else {"host"}
            there |= {"metric"} if which is not Table.HEALTH else set()
            _refuse(table, {f"--{name}": values for name, values in filters.items() if name not in there})
            series = Series(
                table=which,
                entities=filters.get("agent", filters.get("host", ())),
                type=asked.type_of(type),
                metrics=filters.get("metric", ()),
            )
            raw, step_width = _step(step, table, tier)
            shape = Shape(raw=raw, step=step_width, ids=ids, wide=wide, value=value)
            window = parse_window(since, until, now, usual=USUAL)
            with opened(settings_of(config, database_url, home)) as store, _bar(table) as progress:
                done = export_series(store, series, window, shape, target, progress)
    when = f", {iso(done.window.start)} to {iso(done.window.end)}" if done.window else ""
    note(f"{done.relation}: {several(done.rows, 'row')} to {'standard output' if out == '-' else out}{when}")


def _show(known: Sequence[Mapping[str, str]], form: TextFormat) -> None:
    if form is TextFormat.JSON:
        write_json(known)
        return
    table = blank()
    for heading in known[0]:
        table.add_column(heading)
    for each in known:
        table.add_row(*each.values())
    show(table)


def _target(out: str | None, compression: Compression | None, *, force: bool) -> Target:
    if out is None:
        raise SettingsError("missing option '--out': name a .parquet or .csv file, or - for CSV on standard output")
    if out == "-":
        form, path = Format.CSV, None
    else:
        path = Path(out)
        form = format_of(path)
    if compression is not None and form is Format.CSV:
        raise SettingsError(f"--compression is {compression}, expected none for CSV: write to a .parquet file")
    return Target(
        path=path,
        format=form,
        compression=compression or Compression.ZSTD,
        force=force,
        stream=None if path else sys.stdout.buffer,
    )


def _step(step: str | None, table: str, tier: Tier | None) -> tuple[bool, timedelta | None]:
    """
    Return whether raw rows are wanted, and the step of buckets; ``None`` is for the window to choose.

    Args:
        tier: What the name of the table says; it has the last word where that is a tier.
    """
    if tier is not None and tier is not Tier.RAW:
        if step is not None:
            raise SettingsError(f"--step is {step}, {table} has a step of its own: leave one of them out")
        return False, tier.step
    if step == "raw" or (step is None and tier is Tier.RAW):
        return True, None
    if step in (None, "auto"):
        return False, None
    try:
        return False, parse_duration(step)
    except (ValueError, OverflowError) as exc:
        raise SettingsError(f'--step is "{step}", expected raw, auto or a duration ("15m", "1h", "1d")') from exc


def _refuse(table: str, given: dict[str, object]) -> None:
    for flag, value in given.items():
        if value is not None:
            raise SettingsError(f"{flag} means nothing for {table}: leave it out")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """
    Have SIGINT, SIGTERM and SIGHUP end the block as an error does, so that nothing half-written is left.

    A driver may take what a handler raises for a failure of its own, so that what came counts, not what left the block.
    """
    came: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    # Whoever had it ignore one of them, as nohup does, wants that.
    numbers = [
        each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    except BaseException as exc:
        if came:
            raise typer.Exit(128 + came[0]) from exc
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bar(table: str) -> Iterator[Callable[[int, float | None], None]]:
    """Show on a terminal how far the export has come; a share that is not known shows as a bar that only moves."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
    )
    rows = 0
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task(table, total=None, rows=0)

            def told(more: int, share: float | None) -> None:
                nonlocal rows
                rows += more
                bar.update(task, rows=rows, total=None if share is None else 1.0, completed=share or 0.0)

            yield told
    except BrokenPipeError as exc:
        raise ReaderGone from exc
