"""
The command line on a database: what commands change, and what they say.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fleetpulse import cli
from rollups.refresh import refresh_all
from storage.model import Loss, Outcome, Table, Tier, Transition
from storage.open import open_store
from storage.store import Store
from tests.batches import NOON, Spool, every


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return standard output as JSON."""
        return json.loads(self.out)


class Terminal:
    """Calls commands on one database."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        """Run a command that takes a database."""
        code = cli.call([*arguments, "--database-url", self.url])
        captured = self._capsys.readouterr()
        return Answer(code, captured.out, captured.err)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings nor a database of whoever runs the tests get in."""
    for name in os.environ:
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEETPULSE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def terminal(database_url: str, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Return a terminal on a fresh database."""
    return Terminal(database_url, capsys)


@pytest.fixture
def direct(terminal: Terminal) -> Iterator[Store]:
    """Return a store on the terminal's database."""
    with closing(open_store(terminal.url)) as store:
        yield store


def test_agents_are_added_shown_paused_resumed_and_retired(terminal: Terminal) -> None:
    """The whole life of an agent by hand; each change of state is one row of its schedule."""
    added = terminal(
        *("agents", "add", "w-1", "-e", "http://127.0.0.1:9/health", "--type", "worker", "--interval", "1m"),
        *("--label", "zone=a", "-l", "team=b=c", "--option", "expect_status=204", "-o", "method=HEAD"),
    )
    shown = terminal("agents", "show", "w-1", "--format", "json")
    twice = terminal("agents", "add", "w-1", "-e", "http://127.0.0.1:9/health")
    paused = terminal("agents", "pause", "w-1")
    listed = terminal("agents", "list", "--format", "csv")
    resumed = terminal("agents", "resume", "w-1")
    retired = terminal("agents", "retire", "w-1")
    left = terminal("agents", "list", "--format", "json")
    every_one = terminal("agents", "list", "--all", "--format", "json")
    with closing(open_store(terminal.url)) as store:
        states = store.query("SELECT state, to_ts IS NULL FROM agent_schedules ORDER BY id").rows

    assert (added.code, added.out, added.err) == (0, "", "added w-1 with id 1\n")
    assert shown.json | {"created_at": None} == {
        "name": "w-1",
        "id": 1,
        "type": "worker",
        "state": "active",
        "status": "unknown",
        "since": None,
        "reason": "",
        "probe": "http",
        "endpoint": "http://127.0.0.1:9/health",
        "interval": "1m",
        "timeout": "10s",
        "rise": 1,
        "fall": 2,
        "credential": "",
        "labels": {"zone": "a", "team": "b=c"},
        "options": {"expect_status": 204, "method": "HEAD"},
        "source": "api",
        "created_at": None,
        "retired_at": None,
    }
    assert (twice.code, twice.err) == (
        2,
        'error: agent "w-1" is there already: it comes from the database, choose another name or retire it first\n',
    )
    assert (paused.err, resumed.err, retired.err) == ("paused w-1\n", "resumed w-1\n", "retired w-1\n")
    assert [row["state"] for row in csv.DictReader(io.StringIO(listed.out))] == ["paused"]
    assert left.json["rows"] == []
    assert [row["state"] for row in every_one.json["rows"]] == ["retired"]
    assert states == [("active", False), ("paused", False), ("active", False)]


def test_agents_of_unknown_name_are_refused(terminal: Terminal) -> None:
    """A name that is nobody's is a mistake of who typed it, told with the nearest."""
    terminal("agents", "add", "worker-1", "-e", "http://127.0.0.1:9/")
    answer = terminal("agents", "pause", "worker-2")

    assert (answer.code, answer.err) == (2, 'error: there is no agent "worker-2": did you mean worker-1\n')


def test_agents_sync_takes_those_of_the_file(terminal: Terminal, tmp_path: Path) -> None:
    """What the file names is there afterwards, what it no longer names is retired, what was added by hand stays."""
    terminal("agents", "add", "by-hand", "-e", "http://127.0.0.1:9/")
    settings = tmp_path / "fleetpulse.toml"
    settings.write_text(
        '[[agents]]\nname = "a"\nendpoint = "http://127.0.0.1:9/"\n'
        '[[agents]]\nname = "b"\nendpoint = "http://127.0.0.1:9/"\n'
    )
    first = terminal("agents", "sync")
    settings.write_text('[[agents]]\nname = "b"\nendpoint = "http://127.0.0.1:8/"\n')
    second = terminal("agents", "sync")

    assert (first.code, first.out, first.err) == (
        0,
        "added a\nadded b\nadded fleetpulse/main\n",
        "3 added, 0 changed, 0 retired, 0 unchanged\n",
    )
    assert second.out == "changed b\nretired a\n"
    listed = terminal("agents", "list", "--format", "json").json["rows"]
    assert [(row["agent"], row["source"]) for row in listed] == [
        ("b", "file"),
        ("by-hand", "api"),
        ("fleetpulse/main", "file"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-e", "ftp://127.0.0.1/"], "ftp"),
        (["-e", "http://127.0.0.1/", "-o", "foo=1"], 'unknown option "foo" for probe http'),
        (
            ["-e", "http://me:S3cret@127.0.0.1/"],
            "put the secret into a credential",
        ),
        (
            ["-e", "http://127.0.0.1/", "-o", 'headers={"Authorization": "S3cret"}'],
            "options.headers holds Authorization",
        ),
    ],
)
def test_agents_add_refuses_what_cannot_be_polled(terminal: Terminal, arguments: list[str], message: str) -> None:
    """What no probe understands, and what nobody may store, is refused at once, without repeating a secret."""
    answer = terminal("agents", "add", "a", *arguments)

    assert answer.code == 2
    assert message in answer.err
    assert "S3cret" not in answer.err
    assert terminal("agents", "list", "--format", "json").json["rows"] == []


def test_report_in_every_form(terminal: Terminal, direct: Store) -> None:
    """Table, CSV and JSON of one report hold the same; the window stands beside the table."""
    terminal("agents", "add", "a", "-e", "http://127.0.0.1:9/", "--interval", "1m")
    with direct.engine.begin() as connection:
        connection.execute(text("UPDATE agent_schedules SET from_ts = :at, offset_s = 0"), {"at": NOON})
    spool = Spool()
    rows = [("a", at, Outcome.HEALTHY if k else Outcome.TIMEOUT, None) for k, at in enumerate(every(NOON, 60, 8))]
    batch = spool.batch(checks=rows)
    direct.write(batch)
    direct.close_session(batch.session)
    window = ("--since", "2026-03-10T12:00", "--until", "2026-03-10T12:10")
    table = terminal("report", "availability", *window)
    document = terminal("report", "availability", *window, "--format", "json")
    sheet = terminal("report", "availability", *window, "--format", "csv")

    assert (table.code, document.code, sheet.code) == (0, 0, 0)
    assert table.out.splitlines()[2].split() == [
        *["a", "agent", "10", "7", "1", "2", "0", "0", "0"],
        "87.50",
        "%",
        "80.00",
        "%",
    ]
    assert table.err == "availability: 1 row, 2026-03-10T12:00:00Z to 2026-03-10T12:10:00Z\n"
    assert document.json["rows"][0] == {
        "agent": "a",
        "type": "agent",
        "expected": 10,
        "up": 7,
        "down": 1,
        "unobserved": 2,
        "skipped": 0,
        "lost": 0,
        "paused": 0,
        "availability": 0.875,
        "coverage": 0.8,
    }
    assert sheet.out.splitlines()[1] == "a,agent,10,7,1,2,0,0,0,0.875,0.8"
    assert (document.err, sheet.err) == ("", "")


def test_report_of_unknown_agent_is_refused(terminal: Terminal) -> None:
    """A filter that nobody answers to is a mistake, not a report without rows."""
    nobody = terminal("report", "incidents", "--agent", "ghost")
    terminal("agents", "add", "Writer-1", "-e", "http://127.0.0.1:9/")
    shouted = terminal("report", "incidents", "--agent", "WRITER-1")
    # As the shell hands over what is no UTF-8.
    broken = terminal("report", "incidents", "--agent", "\udcff")

    assert (nobody.code, nobody.err) == (2, 'error: agent "ghost" does not exist: there is none yet\n')
    assert (shouted.code, shouted.err) == (2, 'error: agent "WRITER-1" does not exist: did you mean "Writer-1"\n')
    assert (broken.code, broken.err) == (2, "error: agent '\\udcff' does not exist: expected Writer-1\n")


def test_what_agents_say_does_not_reach_the_terminal_as_control(terminal: Terminal, direct: Store) -> None:
    """An agent's words are shown, not obeyed."""
    change = Transition(agent="a", due=NOON, old="unknown", new="error", reason="\x1b[2Jgone [red]x[/red]\r\n")
    direct.write(Spool().batch(transitions=[change]))
    answer = terminal("report", "incidents", "--since", "2026-03-01")

    assert "�[2Jgone [red]x[/red]��" in answer.out


def test_status_counts_agents_slots_and_marks(terminal: Terminal, direct: Store) -> None:
    """The same numbers as a document and in words."""
    for name in ("up", "down", "paused"):
        terminal("agents", "add", name, "-e", "http://127.0.0.1:9/", "--type", "worker")
    terminal("agents", "pause", "paused")
    now = datetime.now(UTC)
    spool = Spool()
    batch = spool.batch(
        checks=[("up", now - timedelta(seconds=5), Outcome.HEALTHY, 3.0)],
        transitions=[
            Transition(agent="up", due=now - timedelta(seconds=5), old="unknown", new="healthy"),
            Transition(agent="down", due=now - timedelta(seconds=90), old="unknown", new="refused", reason="nobody"),
            Transition(agent="paused", due=now, old="unknown", new="paused"),
        ],
    )
    direct.write(batch)
    document = terminal("status", "--format", "json").json
    words = terminal("status")
    direct.close_session(batch.session)
    lost = [
        Loss(agent="up", from_due=now, to_due=now, n=n, reason=reason)
        for n, reason in ((1, "too_far_ahead"), (1200, "spool_full"))
    ]
    direct.write(spool.batch(losses=lost))
    ended = terminal("status")

    assert document["agents"] == {"total": 3, "stale": 0, "by_status": {"healthy": 1, "paused": 1, "refused": 1}}
    assert document["collector"]["live"] is True
    assert [each["agent"] for each in document["attention"]] == ["down"]
    assert (document["last_hour"]["up"], document["last_hour"]["down"]) == (1, 0)
    assert document["database"]["server"].startswith("PostgreSQL ")
    assert [row["waiting"] for row in document["rollups"]] == [0, 0, 0]
    assert words.code == 0
    assert "agents     3  ● healthy 1  ‖ paused 1  ✖ refused 1\n" in words.out
    assert "collector  test on testhost, pid 1, running for " in words.out
    assert "lost       nothing in the last hour\n" in words.out
    assert "rollups    up to date\n" in words.out
    assert " down    ✖ refused   1m 3" in words.out
    assert "collector  test on testhost, pid 1, ended " in ended.out
    assert (
        "lost       1,201 slots in the last hour: 1,200 dropped, the spool was full; 1 refused, dated too far ahead\n"
        in ended.out
    )


def test_db_status_has_a_line_for_each_tier(capsys: pytest.CaptureFixture[str]) -> None:
    """Below headings; from when on a tier is kept that nothing was ever dropped from needs no date."""
    fleet = Terminal("sqlite:///fleet.db", capsys)
    made = fleet("db", "upgrade")
    lines = [line.split() for line in fleet("db", "status").out.splitlines()]

    assert made.code == 0
    assert lines[0] == ["engine", "sqlite"]
    assert lines[4] == ["tier", "parts", "size", "marked", "kept", "from"]
    assert [line[0] for line in lines[6:]] == [table.relation(tier) for table in Table for tier in Tier]
    assert {line[-1] for line in lines[6:]} == {"everything"}


def test_verify_names_what_differs_and_rebuild_repairs_it(terminal: Terminal, direct: Store) -> None:
    """A rollup that was tampered with, and a row that was deleted: exit 1, one line each; a rebuild mends the rollup."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    direct.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(now, 1, 10)]))
    terminal("rollup", "refresh")
    proven = terminal("verify")
    with direct.engine.begin() as connection:
        connection.execute(text("UPDATE agent_metrics_1h_mat SET n = 11"))
    tampered = terminal("rollup", "verify", "--since", "3h")
    everything = terminal("verify", "--format", "json")
    rebuilt = terminal("rollup", "rebuild", "--since", "3h")
    mended = terminal("verify")
    with direct.engine.begin() as connection:
        connection.execute(text("DELETE FROM agent_metrics WHERE ts = :at"), {"at": now})
    lost = terminal("verify")

    assert (proven.code, proven.err.endswith("Z: holds\n")) == (0, True)
    # Partitions are made for days to come.
    assert datetime.fromisoformat(proven.err.split()[2].removesuffix(":")) <= datetime.now(UTC)
    assert tampered.code == 1
    assert f"agent_metrics_1h {now:%Y-%m-%dT%H}:00:00Z agent_id 1, metric_id 1: n is 11, expected 10\n" in tampered.out
    assert everything.code == 1
    assert everything.json["mismatches"][0]["relation"] == "agent_metrics_1h"
    assert rebuilt.code == 0
    assert mended.code == 0
    assert lost.code == 1
    assert f"agent_metrics {now:%Y-%m-%d}: the ledger says 10 rows, the table holds 9\n" in lost.out


def test_retention_plans_and_drops(terminal: Terminal, direct: Store) -> None:
    """The plan changes nothing; apply drops what it shows and says so."""
    old = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0) - timedelta(days=20)
    direct.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(old, 1, 3)]))
    refresh_all(direct, datetime.now(UTC))
    plan = terminal("retention", "plan", "--format", "json")
    held = direct.query("SELECT count(*) FROM agent_metrics").rows
    applied = terminal("retention", "apply")
    left = direct.query("SELECT count(*) FROM agent_metrics").rows

    dropped = [part["name"] for step in plan.json["partitions"] for part in step["partitions"]]
    assert f"agent_metrics_{old:%Y%m%d}" in dropped
    assert plan.json["work"] == {"workflows": 0, "tasks": 0, "messages": 0}
    assert (held, left) == ([(3,)], [(0,)])
    assert applied.code == 0
    assert "agent_metrics raw below " in applied.err


def test_db_check_current_and_history(terminal: Terminal, direct: Store) -> None:
    """A schema as it should be is exit 0; a column that somebody dropped is named."""
    fine = terminal("db", "check")
    current = terminal("db", "current")
    code = cli.call(["db", "history"])
    with direct.engine.begin() as connection:
        connection.execute(text("DROP INDEX losses_agent_id_from_due_idx"))
    broken = terminal("db", "check")

    assert (fine.code, fine.out) == (0, "")
    assert code == 0
    assert current.out.strip()
    assert broken.code == 1
    assert "losses_agent_id_from_due_idx" in broken.out


def test_db_downgrade_prints_the_plan_and_needs_its_flags(terminal: Terminal) -> None:
    """Nothing goes without --apply; time series, with all their data, only with a flag of their own."""
    plan = terminal("db", "downgrade", "base")
    refused = terminal("db", "downgrade", "base", "--apply")
    after = terminal("db", "current")
    done = terminal("db", "downgrade", "base", "--apply", "--drop-timeseries")
    gone = terminal("db", "current")
    used = terminal("status")
    again = terminal("db", "upgrade")

    assert plan.code == 0
    assert [line.split(":")[0] for line in plan.out.splitlines()[-2:]] == ["take back 0002", "take back 0001"]
    assert plan.err == "nothing was changed: --apply does it\n"
    assert refused.code == 1
    assert "--drop-timeseries drops them first" in refused.err
    assert after.out != "none\n"
    assert (done.code, gone.out) == (0, "none\n")
    assert used.code == 1
    assert 'run "fleetpulse db upgrade"' in used.err
    assert again.code == 0
    assert terminal("status").code == 0


def test_commands_never_change_the_schema_of_a_named_database(
    empty_database_url: str, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database without the schema is refused with the remedy, by whatever command, and stays as it is."""
    elsewhere = Terminal(empty_database_url, capsys)
    answers = [elsewhere(*words) for words in (("status",), ("agents", "list"), ("report", "incidents"), ("verify",))]
    with closing(open_store(empty_database_url)) as store:
        tables = store.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").rows

    for answer in answers:
        assert answer.code == 1
        assert ': run "fleetpulse db upgrade"' in answer.err
    assert tables == [(0,)]


def test_db_psql_gets_the_address_and_the_arguments(database_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """psql runs on the database with what follows; its exit code is ours."""
    fine = cli.call(["db", "psql", "--database-url", database_url, "-At", "-c", "SELECT count(*) FROM fleet_health"])
    out = capfd.readouterr().out
    bad = cli.call(["db", "psql", "--database-url", database_url, "-c", "SELECT * FROM nowhere"])
    err = capfd.readouterr().err

    assert (fine, out) == (0, "0\n")
    assert bad == 1
    assert 'relation "nowhere" does not exist' in err
