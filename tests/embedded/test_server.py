"""
The embedded server on real processes: who starts it, who stops it, what a crash leaves behind.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from storage import cluster, embedded
from storage.cluster import Cluster
from storage.embedded import EmbeddedServer, home_folder
from storage.errors import CapabilityMissing, StorageError
from tests import servers

DEADLINE_S = 60
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(servers.missing("postgresql") is not None, reason="no embedded PostgreSQL here")

#: Uses the server until its standard input ends; says the address when it has it.
USER = """
import signal
import sys
from pathlib import Path
from storage.embedded import EmbeddedServer
# A shell has what it starts in the background ignore it, and what that starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
server = EmbeddedServer(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
print(server.stop(), flush=True)
"""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE_S} s"
        time.sleep(0.01)


@pytest.fixture
def empty_home() -> Iterator[Path]:
    """Return a folder with nothing in it, whose server is stopped afterwards, whoever left it running."""
    # Not below pytest's own folder, which it closes to other users: root's server runs as one.
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        path = Path(folder).resolve() / "home"
        yield path
        server = EmbeddedServer(path)
        server.unpin()
        assert not server.running


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Return a folder with a data directory that was used once; fsync is off, a crash here is not one of the disk."""
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        with EmbeddedServer(Path(folder)) as server, psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
        yield Path(folder)


@pytest.fixture
def home(made: Path) -> Iterator[Path]:
    """Return a folder with a data directory, shared by the tests of this file; each leaves it without a server."""
    yield made
    server = EmbeddedServer(made)
    server.unpin()
    assert not server.running


@pytest.fixture
def start_user() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Return a function that starts a process that uses the server of a folder."""
    started: list[subprocess.Popen[str]] = []

    def start(home: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", USER, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that *process* says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def leave(process: subprocess.Popen[str]) -> str:
    """Let *process* stop using the server; return whether it stopped it."""
    return process.communicate("", timeout=DEADLINE_S)[0].strip()


def value(url: str, statement: str) -> object:
    """Return the one value that *statement* answers."""
    with psycopg.connect(url) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def kill_server(home: Path) -> None:
    """Kill the server and its children at once, as a power cut would."""
    pid = EmbeddedServer(home).pid
    assert pid is not None
    server = psutil.Process(pid)
    for process in [server, *server.children(recursive=True)]:
        # The children end on their own when they find their parent dead.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: not EmbeddedServer(home).running, "the end of the server")


def test_first_start_makes_everything(empty_home: Path) -> None:
    """
    A first start makes a database with checksums, UTC and code-point order, and a stop ends the server.

    What a first start left that was killed while it made the data directory does not hinder it.
    """
    half = empty_home / ".postgres-new-killed"
    half.mkdir(parents=True)
    empty_home.chmod(0o711)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedServer(empty_home) as server:
        assert str(value(server.url, "SHOW server_version")).startswith("18.")
        assert value(server.url, "SELECT current_database()") == "fleetpulse"
        assert value(server.url, "SHOW data_checksums") == "on"
        assert value(server.url, "SHOW timezone") == "UTC"
        assert value(server.url, "SHOW listen_addresses") == ""
        assert value(server.url, "SHOW max_locks_per_transaction") == "256"
        assert value(server.url, "SELECT 'Z' < 'a'") is True
        assert stat.S_IMODE((empty_home / "postgres").stat().st_mode) == 0o700

    assert not server.running
    assert not (empty_home / "postgres" / "postmaster.pid").exists()
    assert not half.exists()


def test_data_outlives_a_stop(home: Path) -> None:
    """What was committed is there after a stop and a start."""
    with EmbeddedServer(home) as server, psycopg.connect(server.url) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        connection.commit()
    with EmbeddedServer(home) as server:
        assert value(server.url, "SELECT n FROM kept") == 1


def test_last_one_out_stops_the_server(home: Path, start_user: Callable[[Path], subprocess.Popen[str]]) -> None:
    """Two processes share a server; the first to leave lets it run, the second stops it."""
    first, second = start_user(home), start_user(home)
    urls = {said(first), said(second)}

    assert len(urls) == 1
    assert leave(first) == "False"
    assert EmbeddedServer(home).running
    assert leave(second) == "True"
    assert not EmbeddedServer(home).running


def test_many_starters_at_once_get_one_server(
    empty_home: Path, start_user: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """Processes that start at the same moment on an empty folder all reach one and the same server."""
    users = [start_user(empty_home) for _ in range(4)]
    urls = [said(user) for user in users]

    assert len(set(urls)) == 1
    assert [value(url, "SELECT pg_postmaster_start_time()") for url in urls[1:]] == [
        value(urls[0], "SELECT pg_postmaster_start_time()")
    ] * 3
    assert sorted(leave(user) for user in users) == ["False", "False", "False", "True"]


def test_killed_user_leaves_no_count(home: Path, start_user: Callable[[Path], subprocess.Popen[str]]) -> None:
    """The server survives the death of the process that started it, and the next one to leave stops it."""
    starter = start_user(home)
    url = said(starter)
    starter.kill()
    starter.wait(timeout=DEADLINE_S)

    assert value(url, "SELECT 1") == 1

    heir = start_user(home)

    assert said(heir) == url
    assert leave(heir) == "True"


def test_interrupt_of_the_terminal_spares_the_server(
    home: Path, start_user: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """Ctrl-C goes to the process group of the terminal; the server is in none of it."""
    user = start_user(home)
    url = said(user)
    os.killpg(user.pid, signal.SIGINT)
    assert user.wait(timeout=DEADLINE_S) != 0

    assert value(url, "SELECT 1") == 1


def test_pin_keeps_the_server(home: Path) -> None:
    """A pinned server outlives its users; unpinning stops it when nobody uses it."""
    server = EmbeddedServer(home)
    url = server.start()
    server.pin()

    assert server.stop() is False
    assert value(url, "SELECT 1") == 1
    assert server.unpin() is True
    assert not server.running


def test_unpin_in_use_leaves_it_to_the_last_one(
    home: Path, start_user: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """Unpinning a server that somebody uses stops nothing; the last user does."""
    user = start_user(home)
    said(user)
    EmbeddedServer(home).pin()

    assert EmbeddedServer(home).unpin() is False
    assert leave(user) == "True"


def test_start_twice_is_one_hold(home: Path) -> None:
    """Starting a started server changes nothing; one stop undoes both."""
    server = EmbeddedServer(home)

    assert server.start() == server.start()
    assert server.stop() is True
    assert server.stop() is False


def test_crash_is_recovered(home: Path) -> None:
    """After kill -9 of every server process the next start recovers what was committed."""
    server = EmbeddedServer(home)
    with psycopg.connect(server.start(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 20000) AS n")
    kill_server(home)
    assert (home / "postgres" / "postmaster.pid").exists()
    server.stop()

    with EmbeddedServer(home) as again:
        assert value(again.url, "SELECT count(*) FROM kept") == 20000


def test_crash_of_the_postmaster_alone_is_waited_out(home: Path) -> None:
    """Processes of a killed server may still hold its memory; a start waits until they have ended."""
    server = EmbeddedServer(home)
    connection = psycopg.connect(server.start())
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not server.running, "the end of the postmaster")
    connection.close()

    with EmbeddedServer(home) as again:
        assert value(again.url, "SELECT 1") == 1
    server.stop()


def test_pid_of_another_program_is_stale(home: Path) -> None:
    """A number that a crash left and another program of the same user has now does not count as the server."""
    with EmbeddedServer(home):
        lines = (home / "postgres" / "postmaster.pid").read_text().splitlines()
    other = subprocess.Popen(["sleep", "600"], cwd="/", **Cluster(home / "postgres").as_owner(home / "postgres"))  # type: ignore[call-overload]  # user, group, extra_groups
    try:
        lines[0] = str(other.pid)
        (home / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
        (home / "postgres" / ".s.PGSQL.5432.lock").write_text("\n".join(lines) + "\n")

        assert not EmbeddedServer(home).running
        with EmbeddedServer(home) as server:
            assert value(server.url, "SELECT 1") == 1
    finally:
        other.kill()
        other.wait(timeout=DEADLINE_S)


def test_pid_of_another_server_is_stale(home: Path) -> None:
    """Neither does a PostgreSQL server that runs on another folder."""
    with EmbeddedServer(home) as server:
        (home / "two" / "postgres").mkdir(parents=True)
        lines = (home / "postgres" / "postmaster.pid").read_text()
        (home / "two" / "postgres" / "postmaster.pid").write_text(lines)

        assert server.running
        assert not EmbeddedServer(home / "two").running


def test_long_and_odd_paths(empty_home: Path) -> None:
    """A path too long for a socket, with spaces, quotes and commas, works through a socket folder closed to others."""
    deep = empty_home / ("d" * 60) / "a b,c'\"$HOME%20" / "é"
    with EmbeddedServer(deep) as server:
        row = value(server.url, "SHOW unix_socket_directories")
        folder = Path(str(row).strip('"'))

        assert folder != server.data
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    assert not folder.exists()

    # A folder that others may enter would let them in without a password.
    folder.mkdir()
    folder.chmod(0o777)
    try:
        with pytest.raises(StorageError, match=r"socket folder .* is not ours"):
            EmbeddedServer(deep).start()
    finally:
        folder.rmdir()


def test_settings_that_the_server_refuses_are_shown(home: Path) -> None:
    """A server that ends while it starts is an error with its own words, at once."""
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"(?s)ended while it started.*no_such_setting"):
        EmbeddedServer(home, settings={"no_such_setting": "1"}).start()

    assert time.monotonic() - began < embedded.START_DEADLINE_S / 10
    with EmbeddedServer(home) as server:
        assert value(server.url, "SELECT 1") == 1


def test_other_major_version_is_refused_with_a_way_out(home: Path) -> None:
    """Data of a version that nothing here can upgrade names found, needed, and what to do."""
    version = home / "postgres" / "PG_VERSION"
    version.write_text("17\n")
    try:
        with pytest.raises(CapabilityMissing, match="PostgreSQL 17, needed PostgreSQL 18: dump it") as caught:
            EmbeddedServer(home).start()
        with pytest.raises(CapabilityMissing, match="dump it"):
            EmbeddedServer(home).upgrade()
    finally:
        version.write_text("18\n")

    assert caught.value.found == "data of PostgreSQL 17"


def test_upgrade_from_16(empty_home: Path) -> None:
    """Data of PostgreSQL 16 is refused with the command that upgrades it, and is all there afterwards."""
    old = servers.OtherServer(empty_home, Cluster(Path()).programs(16), settings={"fsync": "off"})
    with psycopg.connect(old.start(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 10) AS n")
    old.stop()

    with pytest.raises(CapabilityMissing, match=r"PostgreSQL 16.*fleetpulse db upgrade-server"):
        EmbeddedServer(empty_home).start()

    # An upgrade that is killed between its two renames leaves the old directory alone, under its new name.
    (empty_home / "postgres").rename(empty_home / "postgres.old")
    with pytest.raises(CapabilityMissing, match="PostgreSQL 16"):
        EmbeddedServer(empty_home).start()
    kept = EmbeddedServer(empty_home).upgrade()

    assert Cluster(kept).version == 16
    with EmbeddedServer(empty_home) as server:
        assert str(value(server.url, "SHOW server_version")).startswith("18.")
        assert value(server.url, "SELECT sum(n) FROM kept") == 55
        assert value(server.url, "SHOW data_checksums") == "on"
        assert value(server.url, "SHOW checkpoint_timeout") == "15min"
    assert not list(empty_home.glob(".postgres-upgrade-*"))
    with pytest.raises(StorageError, match="nothing to upgrade"):
        EmbeddedServer(empty_home).upgrade()


def test_upgrade_in_use_is_refused(home: Path) -> None:
    """Nothing is upgraded under those who use it."""
    with EmbeddedServer(home), pytest.raises(StorageError, match="is in use"):
        EmbeddedServer(home).upgrade()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another user")
def test_root_runs_the_server_as_another_user(home: Path) -> None:
    """As root the server and its files belong to the system user; as root the folders above let that user through."""
    home.parent.chmod(0o700)
    with EmbeddedServer(home) as server:
        pid = server.pid
        assert pid is not None
        assert psutil.Process(pid).username() == cluster.SYSTEM_USER
        assert psutil.Process(pid).gids().real != 0


def test_data_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user is told whose the data is, and what to do."""
    owner = (home / "postgres").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(StorageError, match=r"belongs to user \w+, running as \w+: .* set FLEETPULSE_HOME"):
        EmbeddedServer(home).start()


def test_home_folder_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``FLEETPULSE_HOME`` goes before the platform's place."""
    monkeypatch.setenv("FLEETPULSE_HOME", str(tmp_path / "x"))
    assert home_folder() == tmp_path / "x"

    monkeypatch.delenv("FLEETPULSE_HOME")
    assert home_folder().name == "fleetpulse"
