"""
``fleetpulse retention``: keeping the disk bounded.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

import typer

from fleetpulse.commands.options import Config, DatabaseUrl, Home, Text, settings_of
from fleetpulse.console import TextFormat, complain, note, show, write_json
from fleetpulse.database import opened
from reports.render import several
from reports.table import blank
from rollups.maintenance import insist_owner
from rollups.retention import RetentionResult, Step, Verdict, past_work
from rollups.retention import apply as apply_plan
from rollups.retention import plan as make_plan
from storage.repositories.past import PastWork

app = typer.Typer(no_args_is_help=True, help="Show and drop what is older than it has to be kept.")


@app.command()
def plan(
    form: Text = TextFormat.TABLE, config: Config = None, database_url: DatabaseUrl = None, home: Home = None
) -> None:
    """
    Show what retention would drop now; nothing is changed.
    """
    settings = settings_of(config, database_url, home)
    with opened(settings) as store:
        now = datetime.now(UTC)
        steps = make_plan(store, settings.retention_policy(), now)
        work = past_work(store, settings.retention_policy(), now)
    if form is TextFormat.JSON:
        write_json({"partitions": [_document(step) for step in steps], "work": asdict(work)})
    else:
        table = blank()
        for heading in ("table", "tier", "closed and dropped below"):
            table.add_column(heading)
        for heading in ("partitions", "size"):
            table.add_column(heading, justify="right")
        for step in steps:
            table.add_row(
                step.table.value,
                step.tier.value,
                f"{step.boundary:%Y-%m-%d %H:%M}",
                str(len(step.partitions)),
                size(step.size_bytes),
            )
        if steps:
            show(table)
    count = sum(len(step.partitions) for step in steps)
    note(
        f"{several(count, 'partition')}, {size(sum(step.size_bytes for step in steps))}, {_words(work)} would go"
        + (': "fleetpulse retention apply" drops them' if count or work.rows else "")
    )


@app.command()
def apply(config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Close, settle, prove and drop what the plan shows; exit 1 when a step has to be tried again.
    """
    settings = settings_of(config, database_url, home)
    with opened(settings) as store:
        insist_owner(store, "retention")
        result = apply_plan(store, settings.retention_policy(), datetime.now(UTC))
    tell(result)
    if not result.ok:
        raise typer.Exit(1)


def tell(result: RetentionResult) -> None:
    """Say what was dropped, and what has to be tried again."""
    for each in result.steps:
        about = f"{each.step.table} {each.step.tier.value} below {each.step.boundary:%Y-%m-%d %H:%M}"
        if each.verdict is Verdict.DONE:
            freed = size(sum(part.size_bytes for part in each.dropped))
            note(f"{about}: dropped {several(len(each.dropped), 'partition')}, {freed}")
        else:
            complain(f"{about}: {each.verdict.value}: {each.message}")
    note(f"the ledger forgot {several(result.purged, 'batch', 'batches')}")
    if result.unpurged:
        complain(f"ledger: {Verdict.BUSY.value}: {result.unpurged}")
    if result.work.rows:
        note(f"forgot {_words(result.work)}")
    if result.unfinished:
        complain(f"work: {Verdict.BUSY.value}: {result.unfinished}")


def _words(work: PastWork) -> str:
    counts = {"workflow": work.workflows, "task": work.tasks, "message": work.messages}
    return ", ".join(several(n, what) for what, n in counts.items())


def size(size_bytes: float) -> str:
    """Return a number of bytes in the largest unit that keeps it above one: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def _document(step: Step) -> dict[str, object]:
    return {
        "table": step.table.value,
        "tier": step.tier.value,
        "boundary": step.boundary,
        "size_bytes": step.size_bytes,
        "partitions": [{"name": part.name, "size_bytes": part.size_bytes} for part in step.partitions],
    }
