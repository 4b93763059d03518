"""
``fleetpulse export``: what it writes where, what it refuses, and what is left when it fails.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from fleetpulse import cli
from fleetpulse.commands import export
from reports.exports.relations import RELATIONS, SERIES
from storage import schema
from storage.errors import TransientStorageError
from storage.model import Outcome, Window
from storage.open import open_store
from tests.batches import NOON, Spool, every
from tests.daemon.conditions import eventually
from tests.series import HOUR, fill, work

ROOT = Path(__file__).resolve().parents[2]
SINCE = ("--since", HOUR.start.isoformat(), "--until", HOUR.end.isoformat())


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings nor a database of whoever runs the tests get in."""
    for name in os.environ:
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEETPULSE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the address of a file with the small fleet."""
    address = f"sqlite:///{tmp_path}/fleet.db"
    with closing(open_store(address)) as store:
        schema.upgrade(store.engine)
        store.provision()
        fill(store)
        work(store)
    return address


def process(*arguments: str, before: str = "pass", **options: Any) -> subprocess.Popen[str]:
    """
    Start a command in a process of its own, after the statements *before*; it heeds signals.

    A shell has what it starts in the background ignore SIGINT, ``nohup`` SIGHUP, and what that starts in turn.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    program = f"import signal, sys; {heed}; {before}; from fleetpulse import cli; sys.exit(cli.call(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], text=True, env={**os.environ, "PYTHONPATH": path}, **options
    )


def test_dash_is_csv_on_standard_output(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Data goes to standard output, the remark about it to standard error."""
    code = cli.call(["export", "health_checks", "--out", "-", *SINCE, "--agent", "ünï-✓", "--database-url", url])
    captured = capfd.readouterr()

    assert code == 0
    assert list(csv.reader(io.StringIO(captured.out))) == [
        ["ts", "agent", "outcome", "late_ms", "latency_ms", "http_status", "reason"],
        ["2026-03-10T12:00:05.000000Z", "ünï-✓", "degraded", "1", "30", "200", "busy"],
    ]
    assert captured.err == ("health_checks: 1 row to standard output, 2026-03-10T12:00:00Z to 2026-03-10T13:00:00Z\n")


def test_each_kind_of_table_is_written(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Raw rows, a tier, a step, a pivot and a table, each with the relation that was read in the remark."""
    asked = {
        "agent_metrics: 7 rows": ["agent_metrics", *SINCE],
        "agent_metrics_1m: 5 rows": ["agent_metrics", "--step", "auto", *SINCE],
        "health_1h: 3 rows": ["health_1h", *SINCE],
        "health_1m: 4 rows": ["health", "--step", "5m", *SINCE],
        "health_checks: 4 rows": ["health", "--step", "raw", "--type", "web", *SINCE],
        "agent_metrics_1m: 2 rows": ["agent_metrics_1m", "--wide", "--value", "max", "--metric", "depth", *SINCE],
        "system_metrics: 2 rows": ["system_samples", "--wide", "--host", "host-a", *SINCE],
        "tasks: 3 rows": ["tasks", "--workflow", "night"],
        "task_runs: 2 rows": ["task_runs", "--agent", "web-1", "--agent", "web-1", *SINCE],
        "messages: 0 rows": ["messages", "--until", "2026-03-01"],
    }
    for said, arguments in asked.items():
        code = cli.call(["export", *arguments, "--out", "x.parquet", "--force", "--database-url", url])

        assert (code, capsys.readouterr().err.partition(" to ")[0]) == (0, said)
        assert len(pd.read_parquet("x.parquet")) == int(said.split()[1])
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(("x", "."))] == ["x.parquet"]


#: What is typed, and the beginning of what is said about it.
WRONG: list[tuple[list[str], str]] = [
    (["agnets", "--out", "x.csv"], 'table "agnets" does not exist: did you mean "agents"'),
    (["healht", "--out", "x.csv"], 'table "healht" does not exist: did you mean "health"'),
    (["health"], "missing option '--out'"),
    (["health", "--out", "x.xlsx"], "file x.xlsx ends in .xlsx, expected .parquet or .csv"),
    (["health", "--out", "x"], "file x ends in nothing, expected .parquet or .csv"),
    (["health", "--out", "taken.csv"], "file taken.csv is there already: name another, or"),
    (["health", "--out", "folder.csv", "--force"], "folder.csv is not a file: name another"),
    (["health", "--out", "x.csv", "--since", "1h", "--until", "2h"], "window is empty: --since 1h is"),
    (["health", "--out", "x.csv", "--since", "soon"], '--since is "soon", expected a duration back from now'),
    (["health", "--out", "x.csv", "--step", "soon"], '--step is "soon", expected raw, auto or a duration'),
    (["health", "--out", "x.csv", "--step", "90s"], "step is 90 s, expected whole minutes"),
    (["health_1m", "--out", "x.csv", "--step", "1h"], "--step is 1h, health_1m has a step of its own"),
    (["tasks", "--out", "x.csv", "--step", "1h"], "--step means nothing for tasks: leave it out"),
    (["tasks", "--out", "x.csv", "--wide"], "--wide means nothing for tasks: leave it out"),
    (["health", "--out", "x.csv", "--metric", "x"], "--metric means nothing for health: leave it out"),
    (["system_metrics", "--out", "x.csv", "--agent", "x"], "--agent means nothing for system_metrics"),
    (["hosts", "--out", "x.csv", "--agent", "web-1"], "hosts has no agent to choose by, expected host, name"),
    (["task_dependencies", "--out", "x.csv", "--since", "1h"], "task_dependencies has no time of its own"),
    (["health", "--out", "x.csv", "--compression", "zstd"], "--compression is zstd, expected none for CSV"),
    (["health", "--out", "x.csv", "--value", "max"], "column to spread is max, expected none unless"),
    (["health", "--out", "x.csv", "--ids", "--wide"], "ids stand in raw rows and tiers as they are"),
    (
        ["health", "--out", "x.csv", "--wide", "--value", "mean", *SINCE],
        "frame has no column mean, expected one of",
    ),
    (
        ["health", "--out", "x.csv", "--wide", "--value", "last_outcome", *SINCE],
        "column last_outcome is of type category, expected one of numbers: n, healthy",
    ),
    (["health", "--out", "x.csv", "--agent", "web-2"], 'there is no agent "web-2": did you mean "web-1"'),
    (["tasks", "--out", "x.csv", "--workflow", "nite"], 'there is no workflow "nite": did you mean "night"'),
    (["health", "--out", "x.csv", "--type", ""], "type is '', expected the type of agents"),
    (["tasks", "--out", "x.csv", "--type", ""], "there is no type of tasks '': expected think, write"),
    (["health", "--out", "x.csv", "--agent", "\udcff"], "agent is '\\udcff', expected text without NUL and"),
    (["tasks", "--out", "x.csv", "--step", ""], "--step means nothing for tasks: leave it out"),
    (["tasks", "--out", "x.csv", "--format", "json"], "--format means nothing for export without --list"),
    ([], "export has no table: name one, --list tells which there are"),
    (["--list", "healht"], 'table "healht" does not exist: did you mean "health"'),
]


def test_wrong_usage_is_one_line_exit_2_and_no_file(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever mistypes learns what was found and what was expected, and finds no file."""
    (tmp_path / "taken.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    for arguments, said in WRONG:
        code = cli.call(["export", *arguments, "--database-url", url])
        captured = capsys.readouterr()

        assert (code, captured.out) == (2, "")
        assert captured.err.startswith(f"error: {said}")
        assert captured.err.count("\n") == 1
    assert (tmp_path / "taken.csv").read_text() == "mine"
    assert not list(tmp_path.glob("*x*"))
    assert not list(tmp_path.glob(".*"))


def test_folder_that_is_not_there_is_exit_1(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was typed may be right: the machine is not as it should be."""
    code = cli.call(["export", "health", "--out", "nowhere/x.csv", "--database-url", url])
    captured = capsys.readouterr()

    assert (code, captured.out) == (1, "")
    assert captured.err.startswith("error: file nowhere/x.csv cannot be written: there is no folder nowhere")
    assert captured.err.count("\n") == 1


def test_what_can_be_exported_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Every name that is taken, with what it is and its column of time; no database is needed for it."""
    assert cli.call(["export", "--list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert cli.call(["export", "--list", "task_runs"]) == 0
    one = capsys.readouterr().out

    assert [each["name"] for each in listed] == [*SERIES, *RELATIONS]
    assert {each["name"]: (each["kind"], each["time"]) for each in listed}.items() >= {
        "health": ("time series", "bucket"),
        "agent_metrics": ("time series", "ts"),
        "tasks": ("table", "created_at"),
        "task_dependencies": ("table", ""),
        "incidents": ("view", "started_at"),
    }.items()
    heading, _, row = (line.split() for line in one.splitlines())
    assert (heading, row) == (["name", "kind", "time"], ["task_runs", "view", "started_at"])


def _many(url: str) -> None:
    """Write 60,000 checks."""
    spool = Spool()
    with closing(open_store(url)) as store:
        store.ensure_partitions(Window(NOON, NOON))
        due = every(NOON, 0.1, 30_000)
        checks = [(agent, at, Outcome.HEALTHY, k % 9973 / 7) for k, at in enumerate(due) for agent in ("a", "b")]
        store.write(spool.batch(checks=checks))


#: What a file is written in: rows are read while others have been written already.
PIECES = "from reports.exports import files; files.GROUP_BYTES = 1"


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_full_disk_leaves_no_file(url: str, tmp_path: Path, name: str) -> None:
    """The kernel refuses to write on: one line, exit 1, and the folder is as it was."""
    _many(url)
    before = sorted(each.name for each in tmp_path.iterdir())
    # Python ignores the signal that comes with the limit, so that the kernel's refusal is what a full disk's is.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    with process(
        *("export", "health_checks", *SINCE, "--out", name, "--database-url", url),
        before=f"{limit}; {PIECES}",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as exporting:
        out, err = exporting.communicate(timeout=60)

    assert (exporting.returncode, out) == (1, "")
    assert err.startswith(f"error: file {name} cannot be written: file too large: nothing is left of it")
    assert err.count("\n") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_folder_that_may_not_be_written_is_named(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is read for a file that cannot be made."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code = cli.call(["export", "agents", "--out", str(locked / "x.csv"), "--database-url", url])

    assert code == 1
    assert capsys.readouterr().err.startswith(f"error: file {locked}/x.csv cannot be written: permission denied")


def test_reader_that_has_enough_is_no_failure(url: str) -> None:
    """A closed pipe ends the export quietly."""
    _many(url)
    reader, writer = os.pipe()
    with process(
        *("export", "health_checks", *SINCE, "--out", "-", "--database-url", url),
        before=PIECES,
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as exporting:
        os.close(writer)
        assert os.read(reader, 20).startswith(b'"ts","agent"')
        os.close(reader)
        _, err = exporting.communicate(timeout=60)

    assert (exporting.returncode, err) == (0, "")


def test_signals_leave_no_file(url: str, tmp_path: Path) -> None:
    """Whoever ends an export in the middle finds the folder as it was, and hears nothing but the exit code."""
    _many(url)
    before = sorted(each.name for each in tmp_path.iterdir())
    # The first rows have been read, the next wait.
    held = "files._gathered = lambda tables: (signal.pause() or each for each in tables)"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with process(
            *("export", "health_checks", *SINCE, "--out", "x.parquet", "--database-url", url),
            before=f"{PIECES}; {held}",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as exporting:
            eventually(lambda: list(tmp_path.glob(".x.parquet.*.part")), "the file was begun")
            exporting.send_signal(number)
            try:
                out, err = exporting.communicate(timeout=60)
            finally:
                exporting.kill()

        assert (exporting.returncode, out, err) == (128 + number, "", "")
        assert sorted(each.name for each in tmp_path.iterdir()) == before


def _interrupted(*numbers: signal.Signals) -> None:
    """Do what a driver does whose callback is interrupted."""
    try:
        for each in numbers:
            signal.raise_signal(each)
    except KeyboardInterrupt as exc:
        raise TransientStorageError("reading failed: interrupted") from exc
    raise TransientStorageError("reading failed")


def test_signals_count_whatever_a_driver_makes_of_them() -> None:
    """What a handler raises may come out as another error; what is ignored stays ignored, and all is as it was behind it."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(typer.Exit) as left, export._ended_by_signals():
            _interrupted(signal.SIGHUP, signal.SIGTERM)
        with pytest.raises(TransientStorageError, match=r"^reading failed$"), export._ended_by_signals():
            _interrupted(signal.SIGHUP)

        assert left.value.exit_code == 143
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {each: signal.getsignal(each) for each in before} == before


def _terminal(*arguments: str) -> Iterator[bytes]:
    """Run a command with a terminal as standard error and yield what it shows."""
    ours, theirs = pty.openpty()
    with process(*arguments, stdout=subprocess.DEVNULL, stderr=theirs) as exporting:
        os.close(theirs)
        while True:
            try:
                yield os.read(ours, 4096)
            except OSError:
                # The kernel's word for a terminal that nobody has open any more.
                break
        exporting.wait(timeout=60)
    os.close(ours)


def test_terminal_shows_how_far_it_has_come(url: str) -> None:
    """A bar with rows on standard error, on a terminal only; it goes when it is done."""
    _many(url)
    shown = b"".join(_terminal("export", "health_checks", *SINCE, "--out", "x.parquet", "--database-url", url))

    assert b"rows" in shown
    assert "━".encode() in shown
    assert shown.rstrip().endswith(b"60,006 rows to x.parquet, 2026-03-10T12:00:00Z to 2026-03-10T13:00:00Z")


def test_without_the_extra_there_is_one_line_with_the_remedy(url: str) -> None:
    """Whoever has not installed it learns what to install; every other command works."""
    library = "pyarrow"
    hidden = f"sys.modules['{library}'] = None"
    remedy = f'needs {library}, found none: run pip install "fleetpulse[frames]"\n'
    for arguments, code, said in (
        (["export", "agents", "--out", "x.csv", "--database-url", url], 1, f"error: fleetpulse export {remedy}"),
        (["agents", "list", "--database-url", url], 0, ""),
    ):
        with process(*arguments, before=hidden, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
            _, err = running.communicate(timeout=60)

        assert (running.returncode, err) == (code, said)
    importing = subprocess.run(
        [sys.executable, "-c", f"import sys; {hidden}; import fleetpulse.frames"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert importing.stderr.endswith(f"ExtraMissing: fleetpulse.frames {remedy}")
