"""
``fleetpulse rollup`` and ``fleetpulse verify``: rollups up to date, proven, computed anew.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from fleetpulse.commands.options import Config, DatabaseUrl, Home, Text, Until, settings_of
from fleetpulse.console import TextFormat, note, write, write_json
from fleetpulse.database import opened
from fleetpulse.moments import parse_window
from reports.render import iso, several
from rollups.maintenance import insist_owner
from rollups.refresh import RefreshSummary, rebuild, refresh_all
from rollups.verify import Proof
from rollups.verify import verify as prove
from storage.model import Window
from storage.store import Mismatch

app = typer.Typer(no_args_is_help=True, help="Refresh, verify and rebuild rollups.")


@app.command()
def refresh(config: Config = None, database_url: DatabaseUrl = None, home: Home = None) -> None:
    """
    Compute every closed bucket that is marked; the daemon does so all the time.
    """
    with opened(settings_of(config, database_url, home)) as store:
        insist_owner(store, "refreshing rollups")
        _tell(refresh_all(store, datetime.now(UTC)))


@app.command("rebuild")
def rebuild_window(
    since: Annotated[
        str, typer.Option("--since", metavar="MOMENT", help='Start: back from now ("7d"), or ISO 8601 in UTC.')
    ],
    until: Until = "now",
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Compute the rollups of a window anew from raw rows; below what raw rows are kept for, nothing is touched.
    """
    now = datetime.now(UTC)
    window = parse_window(since, until, now)
    with opened(settings_of(config, database_url, home)) as store:
        insist_owner(store, "rebuilding rollups")
        _tell(rebuild(store, window, now))


@app.command("verify")
def verify_window(
    since: Annotated[
        str, typer.Option("--since", metavar="MOMENT", help='Start: back from now ("7d"), or ISO 8601 in UTC.')
    ] = "24h",
    until: Until = "now",
    form: Text = TextFormat.TABLE,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Compare the rollups of a window with a computation from raw rows; exit 1 when they differ.
    """
    now = datetime.now(UTC)
    window = parse_window(since, until, now)
    with opened(settings_of(config, database_url, home)) as store:
        _show(prove(store, now, window), form)


def verify(
    form: Text = TextFormat.TABLE, config: Config = None, database_url: DatabaseUrl = None, home: Home = None
) -> None:
    """
    Prove everything that is kept: rollups against raw rows, raw rows against the ledger; exit 1 when they differ.
    """
    now = datetime.now(UTC)
    with opened(settings_of(config, database_url, home)) as store:
        proof = prove(store, now)
    # Partitions are made ahead, and what is told is what there is.
    until = max(proof.window.start, min(proof.window.end, now.replace(microsecond=0)))
    _show(replace(proof, window=Window(proof.window.start, until)), form)


def _tell(summary: RefreshSummary) -> None:
    busy = f", left to another refresher: {', '.join(summary.busy)}" if summary.busy else ""
    done = f"{several(summary.buckets, 'bucket')}, {several(summary.rows, 'row')}"
    note(f"computed {done} in {summary.duration_s:.2f} s{busy}")
    if summary.busy:
        raise typer.Exit(1)


def _show(proof: Proof, form: TextFormat) -> None:
    if form is TextFormat.JSON:
        write_json(_document(proof))
    else:
        for table, n in proof.rows.items():
            write(f"{table}: {several(n, 'row')}\n")
        for mismatch in proof.mismatches:
            write(f"{_line(mismatch)}\n")
        for day in proof.ledger:
            said = several(day.ledger, "row")
            write(f"{day.table} {day.day}: the ledger says {said}, the table holds {day.stored:,}\n")
    found = len(proof.mismatches) + len(proof.ledger)
    verdict = "holds" if proof.holds else several(found, "difference")
    if proof.unsettled:
        left = several(proof.unsettled, "closed bucket")
        verdict += f"; not compared: {left} still marked, because nobody refreshes, or another refresher holds them"
    note(f"{iso(proof.window.start)} to {iso(proof.window.end)}: {verdict}")
    if not proof.holds:
        raise typer.Exit(1)


def _line(mismatch: Mismatch) -> str:
    key = ", ".join(f"{name} {value}" for name, value in mismatch.key.items())
    names = [*dict.fromkeys((*mismatch.found, *mismatch.expected))]
    differing = [name for name in names if mismatch.found.get(name) != mismatch.expected.get(name)]
    told = ", ".join(
        f"{name} is {mismatch.found.get(name)}, expected {mismatch.expected.get(name)}" for name in differing
    )
    return f"{mismatch.table.relation(mismatch.tier)} {iso(mismatch.bucket)} {key}: {told}"


def _document(proof: Proof) -> dict[str, object]:
    return {
        "holds": proof.holds,
        "window": {"start": proof.window.start, "end": proof.window.end},
        "rows": {str(table): n for table, n in proof.rows.items()},
        "mismatches": [
            {
                "relation": each.table.relation(each.tier),
                "bucket": each.bucket,
                "key": dict(each.key),
                "found": dict(each.found),
                "expected": dict(each.expected),
            }
            for each in proof.mismatches
        ],
        "unsettled": proof.unsettled,
        "ledger": [
            {"table": str(day.table), "day": day.day.isoformat(), "ledger": day.ledger, "stored": day.stored}
            for day in proof.ledger
        ],
    }
