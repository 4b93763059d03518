"""
``fleetpulse db roles`` and ``fleetpulse maintain`` as they are typed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleetpulse import cli
from storage.model import Outcome
from tests.batches import Spool
from tests.roles import Place, lent
from tests.servers import Servers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings nor a database of whoever runs the tests get in."""
    for name in os.environ:
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEETPULSE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def place(database_servers: Servers, engine_name: str) -> Iterator[Place]:
    """Return a fresh database without roles."""
    with lent(database_servers, engine_name) as found:
        yield found


def call(place: Place, *arguments: str) -> int:
    """Call ``db roles`` as superuser, for names of the test's own."""
    prefix = place.names.owner.removesuffix("_owner")
    return cli.call(["db", "roles", "--prefix", prefix, "--database-url", place.url, *arguments])


def test_plan_is_printed_and_nothing_done_until_applied(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan is SQL on standard output; --apply does it; after that there is nothing to do; passwords never show."""
    file = tmp_path / "password"
    file.write_text("geheim\n")
    flags = ("--writer-password-file", str(file))
    codes = [call(place, *flags)]
    planned = capsys.readouterr()
    unchanged = place.plan()
    codes.append(call(place, *flags, "--apply"))
    applied = capsys.readouterr()
    codes.append(call(place, *flags, "--apply"))
    again = capsys.readouterr()

    assert codes == [0, 0, 0]
    assert planned.out == applied.out
    assert planned.out.splitlines()[0] == f'CREATE ROLE "{place.names.owner}" LOGIN;'
    assert planned.out.splitlines()[-1] == f"ALTER ROLE \"{place.names.writer}\" PASSWORD '***';"
    assert planned.err == "nothing was changed: --apply does it\n"
    assert len(unchanged) > 50
    assert applied.err == f"done: {len(planned.out.splitlines())} statements\n"
    assert (again.out, again.err) == ("", "nothing to do: the roles are as they should be\n")
    assert "geheim" not in planned.out + applied.out
    assert [line for line in place.plan() if "PASSWORD" not in line] == []


def test_database_without_schema_gets_roles_and_a_hint(
    database_servers: Servers, engine_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Roles can come first; whoever makes them so is told that there is more to come."""
    with lent(database_servers, engine_name, empty=True) as place:
        code = call(place, "--apply")

    assert code == 0
    said = capsys.readouterr().err
    assert 'run "fleetpulse db upgrade"' in said
    assert "; then do this again" in said


@pytest.mark.parametrize("prefix", ["", "Pulse", "1st", "pg_fleet", "a-b", 'a"b', "a" * 57])
def test_names_that_are_none_are_refused(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What PostgreSQL would cut, quote or refuse is no name."""
    code = cli.call(["db", "roles", "--prefix", prefix])

    assert code == 2
    assert capsys.readouterr().err.startswith(f'error: --prefix is "{prefix}", expected up to 56 small letters')


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), ("\n", "nothing"), ("one\ntwo\n", "2 lines")])
def test_password_files_that_hold_none_are_refused(
    text: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty password, or one of several lines, is a mistake that is told without repeating it."""
    file = tmp_path / "password"
    file.write_text(text)
    code = cli.call(["db", "roles", "--reader-password-file", str(file)])

    assert code == 2
    assert capsys.readouterr().err == (
        f"error: --reader-password-file {file} holds {found}, expected one line, the password\n"
    )


def test_password_file_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read is refused with its flag."""
    code = cli.call(["db", "roles", "--owner-password-file", "nowhere"])

    assert code == 2
    assert capsys.readouterr().err.startswith("error: --owner-password-file nowhere cannot be read: ")


def test_sqlite_has_no_roles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On SQLite the file's permissions say who may do what; the command says so."""
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    assert cli.call(["db", "upgrade", "--database-url", url]) == 0
    capsys.readouterr()
    codes = [cli.call(["db", "roles", "--database-url", url, *more]) for more in ([], ["--apply"])]
    captured = capsys.readouterr()

    assert codes == [1, 1]
    assert captured.out == ""
    assert captured.err.splitlines()[0] == captured.err.splitlines()[1]
    assert captured.err.startswith("error: making roles is not available: found engine sqlite, which has none, needed")
    assert "permissions" in captured.err


def written(place: Place) -> None:
    """Write a check of a minute that is over, as writer."""
    with place.store(place.names.writer) as store:
        at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=10)
        store.write(Spool().batch(checks=[("a", at, Outcome.HEALTHY, 1.0)]))


def marks(place: Place) -> int:
    """Return how many buckets of minutes are marked and over."""
    with place.connected() as connection:
        row = connection.execute(
            "SELECT count(*) FROM marks WHERE tier = 1 AND bucket < now() - INTERVAL '2 minutes'"
        ).fetchone()
    return int(row[0]) if row else -1


def started(place: Place, role: str, *arguments: str) -> subprocess.Popen[str]:
    """Start ``maintain`` as *role*, in a process of its own: it decides where log lines go."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "fleetpulse", "maintain", "--database-url", place.url_of(role), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_maintain_once_does_what_is_due(place: Place) -> None:
    """As owner, marks are worked off and exit is 0; as writer, one line says whose work that is."""
    place.apply()
    written(place)
    before = marks(place)
    with (
        started(place, place.names.writer, "--once") as writer,
        started(place, place.names.owner, "--once") as owner,
    ):
        _, refused = writer.communicate(timeout=60)
        owner.communicate(timeout=60)

    assert (writer.returncode, owner.returncode) == (1, 0)
    assert (before, marks(place)) == (1, 0)
    assert refused.startswith("error: maintenance is for the owner of the time series")
    assert refused.count("\n") == 1


def test_maintain_works_until_it_is_told_to_end(place: Place) -> None:
    """A process of its own refreshes what the writer brings, and ends in order on SIGTERM."""
    place.apply()
    written(place)
    with started(place, place.names.owner) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "refresh:" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "maintaining, refreshes every 15s" in said
    assert "maintenance ended" in rest
    assert marks(place) == 0
