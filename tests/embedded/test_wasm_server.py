"""
TimescaleDB in WebAssembly: several clients in front of one session, a database that goes back, an end with its parent.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import errors

from tests import wasm_server
from tests.wasm_server import WasmServer

DEADLINE_S = 60
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(wasm_server.missing() is not None, reason=str(wasm_server.missing()))

#: Starts a server, says its process id, and waits to be killed.
PARENT = """
import sys
from pathlib import Path
from tests.wasm_server import WasmServer
server = WasmServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WasmServer]:
    """Return a server that this module's tests share; it is started when it is used."""
    found = WasmServer(tmp_path_factory.mktemp("wasm") / "log")
    yield found
    found.stop()


@pytest.fixture
def url(server: WasmServer) -> Iterator[str]:
    """Return the address of a database with nothing but the extension in it."""
    with server.database(provision, empty=True) as found:
        yield found


def provision(url: str) -> None:
    """Leave a trace of having been here."""
    with closing(connect(url)) as connection:
        connection.execute("CREATE TABLE provisioned (a int)")


def connect(url: str) -> psycopg.Connection:
    """Connect in autocommit."""
    return psycopg.connect(url, autocommit=True)


def test_restore_brings_back_the_kept_state(server: WasmServer, url: str) -> None:
    """What was there when the state was kept is there again: rows, hypertables, chunks; what came later is not."""
    with closing(connect(url)) as connection:
        connection.execute(
            "CREATE TABLE t (ts timestamptz NOT NULL) WITH (tsdb.hypertable, tsdb.partition_column='ts')"
        )
        connection.execute("INSERT INTO t SELECT generate_series('2026-03-01'::timestamptz, '2026-03-09', '1 hour')")
    server.keep("mine")
    with closing(connect(url)) as connection:
        connection.execute("SELECT drop_chunks('t', older_than => '2026-03-05'::timestamptz)")
        connection.execute("CREATE TABLE later AS SELECT generate_series(1, 10000)")
        connection.execute("VACUUM FULL")

    for _ in range(2):
        server.restore("mine")
        with closing(connect(url)) as connection:
            assert connection.execute("SELECT count(*), to_regclass('later') FROM t").fetchone() == (193, None)
            connection.execute("DROP TABLE t")

    server.restore("bare")
    with closing(connect(url)) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_restore_cuts_off_clients(server: WasmServer, url: str) -> None:
    """A client of the state before finds its connection closed, as after DROP DATABASE with force."""
    with closing(connect(url)) as connection:
        server.restore("bare")

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_clients_keep_their_settings_and_statements_apart(url: str) -> None:
    """One client's settings and prepared statements are not another one's; a change is reported to its client."""
    with closing(connect(url)) as one, closing(connect(url)) as two:
        one.execute("SET default_transaction_read_only = on")
        one.execute("SET TimeZone = 'Europe/Berlin'")
        for turn in range(3):
            assert one.execute("SELECT %s::int + 1", (turn,), prepare=True).fetchone() == (turn + 1,)
            assert two.execute("SELECT %s::int + 2", (turn,), prepare=True).fetchone() == (turn + 2,)

        assert one.info.parameter_status("TimeZone") == "Europe/Berlin"
        assert two.execute("SHOW TimeZone").fetchone() == ("UTC",)
        two.execute("CREATE TABLE t (a int)")
        with pytest.raises(errors.ReadOnlySqlTransaction):
            one.execute("INSERT INTO t VALUES (1)")


def test_pipeline_ends_its_turn(url: str) -> None:
    """Statements that come together are a turn like any other: the next client waits for no more than them."""
    with closing(connect(url)) as one, closing(connect(url)) as two:
        with one.pipeline():
            one.execute("BEGIN")
            answer = one.execute("SELECT %s::int + 1", (3,))
            one.execute("COMMIT")

        # May come in a packet of its own.
        one.pgconn.send_flush_request()
        one.pgconn.flush()
        for _ in range(3):
            assert two.execute("SELECT 1").fetchone() == (1,)
        assert answer.fetchone() == (4,)


def test_client_gets_the_settings_of_its_address(url: str) -> None:
    """Options of a connection hold for that connection, and what does not exist is refused."""
    options = r"-c statement_timeout=5s -c default_transaction_read_only=on -c DateStyle=ISO,\ DMY"
    with (
        closing(psycopg.connect(url, options=options, application_name="mine")) as one,
        closing(connect(url)) as two,
    ):
        asked = "SELECT current_setting(n) FROM unnest(ARRAY['DateStyle','application_name','statement_timeout']) AS n"
        assert one.execute(asked).fetchall() == [("ISO, DMY",), ("mine",), ("5s",)]
        assert one.info.parameter_status("default_transaction_read_only") == "on"
        one.rollback()
        assert two.execute(asked).fetchall() == [("ISO, MDY",), ("",), ("0",)]

    with (
        closing(psycopg.connect(url, options="-c nonsense=1")) as wrong,
        pytest.raises(psycopg.Error, match="nonsense"),
    ):
        wrong.execute("SELECT 1")


def test_client_waits_for_the_transaction_of_another(url: str) -> None:
    """A statement of one client runs after the transaction that another one has open, and sees what it committed."""
    with closing(connect(url)) as one, closing(connect(url)) as two:
        one.execute("CREATE TABLE t (a int)")
        one.execute("BEGIN")
        one.execute("INSERT INTO t VALUES (1)")
        seen: list[object] = []
        other = threading.Thread(target=lambda: seen.append(two.execute("SELECT count(*) FROM t").fetchone()))
        other.start()
        one.execute("INSERT INTO t VALUES (2)")
        before = list(seen)
        one.execute("COMMIT")
        other.join(DEADLINE_S)

        assert before == []
        assert seen == [(2,)]


def test_client_that_leaves_is_cleaned_up_behind(url: str) -> None:
    """Its transaction is rolled back and its locks are free, while those of another client stay."""
    with closing(connect(url)) as stays:
        stays.execute("CREATE TABLE t (a int)")
        stays.execute("SELECT pg_advisory_lock(1)")
        with closing(connect(url)) as leaves:
            leaves.execute("SELECT pg_advisory_lock(-2)")
            leaves.execute("BEGIN")
            leaves.execute("INSERT INTO t VALUES (1)")

        locks = "SELECT objid FROM pg_locks WHERE locktype = 'advisory'"
        assert stays.execute("SELECT count(*) FROM t").fetchone() == (0,)
        assert stays.execute(locks).fetchall() == [(1,)]

    with closing(connect(url)) as after:
        assert after.execute(locks).fetchall() == []


def test_copy_in_and_out(url: str) -> None:
    """Rows go in by text and binary COPY and come out again; a row that fails takes its COPY along and nothing else."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a int PRIMARY KEY, b text)")
        with cursor.copy("COPY t FROM STDIN") as copy:
            for number in range(5_000):
                copy.write_row((number, "x" * 100))
        with cursor.copy("COPY t (a, b) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((5_000, "y"))
        with pytest.raises(errors.UniqueViolation), cursor.copy("COPY t FROM STDIN") as copy:
            copy.write("6000\tz\n1\tz\n")
        with cursor.copy("COPY (SELECT a FROM t WHERE a > 4997 ORDER BY a) TO STDOUT") as copy:
            rows = list(copy.rows())
        # In one go, as a pipeline.
        cursor.executemany("INSERT INTO t VALUES (%s, 'p')", [(number,) for number in range(7_000, 8_000)])

        assert rows == [("4998",), ("4999",), ("5000",)]
        assert cursor.execute("SELECT count(*) FROM t").fetchone() == (6_001,)


def test_messages_that_end_with_a_read_are_followed_by_others(url: str) -> None:
    """The session reads 8 KiB at a time: a message that ends with them does not end what its client has sent."""
    with closing(connect(url)) as connection:
        connection.prepare_threshold = None
        for length in range(8_160, 8_200):
            answer = connection.execute("SELECT %s::int".ljust(length).encode(), (length,)).fetchone()

            assert answer == (length,)


def test_database_is_lent_once(server: WasmServer, url: str) -> None:
    """A second database at the same time is refused: it would be the first one."""
    with pytest.raises(AssertionError, match="lent already"), server.database(provision, empty=True):
        pass


def test_database_after_a_crash_is_of_a_new_server(server: WasmServer) -> None:
    """What a crash took is started and provisioned again."""
    with server.database(provision, empty=True):
        crashed = psutil.Process(server.pid)
        crashed.kill()
        crashed.wait(DEADLINE_S)

    with server.database(provision, empty=False) as again, closing(connect(again)) as connection:
        assert connection.execute("SELECT count(*) FROM provisioned").fetchone() == (0,)
    with server.database(provision, empty=True) as again, closing(connect(again)) as connection:
        assert connection.execute("SELECT to_regclass('provisioned')").fetchone() == (None,)


def test_server_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed takes its server along, even while that is busy."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait(DEADLINE_S)

        _, alive = psutil.wait_procs([server], DEADLINE_S)
        assert alive == []
