"""
Connections to SQLite: what an address means, who waits for whom, what is durable, and which errors say what.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text

from storage.deadlines import Deadline
from storage.errors import CapabilityMissing, PermanentStorageError, SettingsError, TransientStorageError
from storage.lite import connection as lite
from storage.lite.connection import borrow, make_engine, parse_url, read_transaction, write_transaction
from storage.lite.forks import TURNS
from storage.sqlstate import translated
from storage.transactions import writing
from tests.daemon.conditions import eventually

#: Long enough for whoever gets the lock in the end, short enough to wait for one that is never given.
PATIENT = Deadline(statement_ms=60_000, lock_ms=60_000)
HASTY = Deadline(statement_ms=60_000, lock_ms=50)


@pytest.fixture(params=["file", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return an engine on a database with one table, in a file and in memory."""
    found = make_engine("sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'test.db'}")
    with write_transaction(found, "preparing") as connection:
        connection.execute("CREATE TABLE t (n INTEGER NOT NULL)")
    yield found
    found.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Engine]:
    """Return an engine on a file with one table."""
    found = make_engine(f"sqlite:///{tmp_path / 'test.db'}")
    with write_transaction(found, "preparing") as connection:
        connection.execute("CREATE TABLE t (n INTEGER NOT NULL)")
    yield found
    found.dispose()


def rows(engine: Engine) -> int:
    """Return the number of rows that a reader sees."""
    [found] = read(engine, "SELECT count(*) FROM t")
    assert isinstance(found, int)
    return found


def write(engine: Engine, *statements: str, deadline: Deadline = HASTY) -> None:
    """Run *statements* in one transaction that writes."""
    with write_transaction(engine, "writing", deadline) as connection:
        for statement in statements:
            connection.execute(statement)


def write_by_sqlalchemy(engine: Engine, *statements: str, deadline: Deadline = HASTY) -> None:
    """Run *statements* in one transaction that writes, the way that the relational half does."""
    with translated("writing"), writing(engine, deadline).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def insert(engine: Engine) -> None:
    """Write one row."""
    write(engine, "INSERT INTO t VALUES (1)")


def read(engine: Engine, statement: str) -> tuple[object, ...]:
    """Return the first row of an answer."""
    with read_transaction(engine, "reading", HASTY) as connection:
        found: tuple[object, ...] = connection.execute(statement).fetchone()
    return found


def read_by_sqlalchemy(engine: Engine, statement: str) -> tuple[object, ...]:
    """Return the first row of an answer, the way that the relational half does."""
    with translated("reading"), engine.connect() as connection:
        return tuple(connection.execute(text(statement)).one())


WRITES = pytest.mark.parametrize("write", [write, write_by_sqlalchemy])
READS = pytest.mark.parametrize("read", [read, read_by_sqlalchemy])


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite://", None),
        ("sqlite:///", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///some.db", Path.cwd() / "some.db"),
        ("sqlite:///some/where.db", Path.cwd() / "some/where.db"),
        ("sqlite:////some/where.db", Path("/some/where.db")),
        ("sqlite+pysqlite:////some/where.db", Path("/some/where.db")),
        ("sqlite:////a%20b%3F%2525.db", Path("/a b?%25.db")),
    ],
)
def test_address_names_a_file_or_memory(url: str, path: Path | None) -> None:
    """Three slashes are relative, four absolute; a percent sign is written %25."""
    assert parse_url(url) == path


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://some.db", "host where a file is expected"),
        ("sqlite:///some.db?mode=ro", "parameter mode"),
        ("sqlite+aiosqlite:///some.db", "scheme sqlite.aiosqlite, expected sqlite:///relative.db"),
        ("postgresql:///some", "scheme postgresql"),
    ],
)
def test_address_that_means_something_else_is_refused(url: str, said: str) -> None:
    """What SQLite would take for a file of that name, or not look at, is an error that shows the form."""
    with pytest.raises(SettingsError, match=said):
        make_engine(url)


def test_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the statements need is named before any of them fails."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 9))

    with pytest.raises(CapabilityMissing, match=r"needed SQLite 3\.37 or later"):
        make_engine("sqlite://")


def test_nothing_is_made_before_it_is_used(tmp_path: Path) -> None:
    """An engine alone leaves no file behind."""
    engine = make_engine(f"sqlite:///{tmp_path / 'test.db'}")
    engine.dispose()

    assert list(tmp_path.iterdir()) == []


def test_file_of_any_name(tmp_path: Path) -> None:
    """A name that looks like the parts of an address is a name."""
    name = "a b?c=d#%25é.db"
    engine = make_engine(f"sqlite:///{tmp_path}/a b%3Fc=d#%2525é.db")
    with write_transaction(engine, "making") as connection:
        connection.execute("CREATE TABLE t (n)")
    found = {path.name for path in tmp_path.iterdir()}
    engine.dispose()

    assert found == {name, f"{name}-wal", f"{name}-shm"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ---------------------------------------------------------------- settings


def test_files_are_their_owners(tmp_path: Path) -> None:
    """A new file, and what SQLite puts beside it, is for its owner alone; a file that is there keeps its mode."""
    (tmp_path / "shared.db").touch(0o660)
    (tmp_path / "shared.db").chmod(0o660)
    modes = {}
    for name in ("own", "shared"):
        engine = make_engine(f"sqlite:///{tmp_path}/{name}.db")
        with write_transaction(engine, "making") as connection:
            connection.execute("CREATE TABLE t (n)")
        modes[name] = {path.stat().st_mode & 0o777 for path in tmp_path.glob(f"{name}.db*")}
        engine.dispose()

    assert modes == {"own": {0o600}, "shared": {0o660}}


def test_settings_of_every_connection(file: Engine) -> None:
    """Commits are durable, references hold, and deleted pages can be given back; in every connection of the pool."""
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "auto_vacuum": 2, "secure_delete": 0}
    with borrow(file, "looking", HASTY) as first, borrow(file, "looking", HASTY) as second:
        found = [
            {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}
            for connection in (first, second)
        ]
        assert first is not second

    assert found == [wanted, wanted]


def test_functions_are_known_everywhere(engine: Engine) -> None:
    """Functions of our own are on each new connection; rounding down nothing is nothing."""
    with read_transaction(engine, "asking") as first, read_transaction(engine, "asking") as second:
        asked = [
            each.execute("SELECT floor(-0.5), floor(NULL), latency_bin(0.05)").fetchone() for each in (first, second)
        ]

    assert asked == [(-1, None, 0)] * 2


@READS
def test_function_says_what_it_was_given(engine: Engine, read: Callable[[Engine, str], object]) -> None:
    """A function that cannot take its argument is at fault, by its own words."""
    with pytest.raises(PermanentStorageError, match=r"reading failed: latency_bin: .*'x'.*SQLSTATE 22023"):
        read(engine, "SELECT latency_bin('x')")


# ---------------------------------------------------------------- transactions


@WRITES
def test_commit_or_nothing(engine: Engine, write: Callable[..., None]) -> None:
    """A block that ends has written all; one that fails nothing, DDL included."""
    write(engine, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
    with pytest.raises(PermanentStorageError, match=r"writing failed: NOT NULL.*\(SQLSTATE 23502\)"):
        write(engine, "INSERT INTO t VALUES (3)", "CREATE TABLE u (n)", "INSERT INTO t VALUES (NULL)")
    tables = read(engine, "SELECT group_concat(name) FROM sqlite_master")

    assert tables == ("t",)
    assert rows(engine) == 2


def test_errors_of_others_pass(engine: Engine) -> None:
    """What is no error of the driver comes out as it is, and nothing is written."""

    def fail() -> None:
        with write_transaction(engine, "failing") as connection:
            connection.execute("INSERT INTO t VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert rows(engine) == 0


def test_refused_row_can_be_left_out(engine: Engine) -> None:
    """A row that a constraint refuses does not end the transaction around it."""
    with write_transaction(engine, "writing") as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO t VALUES (NULL)")
        connection.execute("INSERT INTO t VALUES (2)")

    assert rows(engine) == 2


def test_ddl_of_sqlalchemy_rolls_back(engine: Engine) -> None:
    """The driver does not end the transaction on its own, neither before DDL nor before anything else."""
    with writing(engine).connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        connection.execute(text("CREATE TABLE u (n INTEGER)"))
        connection.execute(text("INSERT INTO u VALUES (1)"))
        connection.rollback()
        tables = connection.execute(text("SELECT name FROM sqlite_master")).scalars().all()

    assert tables == ["t"]
    assert rows(engine) == 0


def test_second_writer_waits_for_the_first(engine: Engine) -> None:
    """A writer waits at its start until the other has committed, and sees what it wrote."""
    came = threading.Event()

    def second() -> int:
        with write_transaction(engine, "second", PATIENT) as connection:
            found: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
            connection.execute("INSERT INTO t VALUES (2)")
        return found

    with ThreadPoolExecutor(1) as pool:
        with write_transaction(engine, "first", PATIENT) as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            event.listen(engine, "checkout", lambda *_: came.set())
            waiting = pool.submit(second)
            assert came.wait(60)
            assert not waiting.done()
        seen = waiting.result(60)

    assert seen == 1
    assert rows(engine) == 2


def test_writers_of_a_process_take_turns_in_order(engine: Engine) -> None:
    """Whoever came first writes first, whichever way they came."""
    turns = engine.get_execution_options()[TURNS]
    with ThreadPoolExecutor(6) as pool:
        with write_transaction(engine, "first", PATIENT):
            done = []
            for number in range(1, 7):
                way = write if number % 2 else write_by_sqlalchemy
                statement = f"INSERT INTO t VALUES ({number})"  # noqa: S608  # numbers of our own
                done.append(pool.submit(way, engine, statement, deadline=PATIENT))
                eventually(lambda number=number: len(turns._waiting) == number, "the writer to stand in line")  # type: ignore[misc]  # bound now
        for each in done:
            each.result(60)
    with read_transaction(engine, "reading") as connection:
        found = [number for (number,) in connection.execute("SELECT n FROM t ORDER BY rowid")]

    assert found == [1, 2, 3, 4, 5, 6]


def test_writer_waits_for_another_process_s(file: Engine, tmp_path: Path) -> None:
    """Who shares no turns waits until the file is free, and writes then."""
    other = make_engine(f"sqlite:///{tmp_path / 'test.db'}")
    with ThreadPoolExecutor(1) as pool:
        with write_transaction(other, "first", PATIENT) as connection:
            waiting = pool.submit(write, file, "INSERT INTO t VALUES (1)", deadline=PATIENT)
            eventually(lambda: file.get_execution_options()[TURNS]._holder, "the turn to be taken")
            connection.execute("INSERT INTO t VALUES (2)")
            assert not waiting.done()
        waiting.result(60)
    other.dispose()

    assert rows(file) == 2


def test_writer_that_waits_too_long_is_told(engine: Engine) -> None:
    """The lock deadline is an error that passes; the writer before is not harmed."""
    with write_transaction(engine, "first") as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(TransientStorageError, match="another process or thread writes") as caught:
            insert(engine)
        with pytest.raises(TransientStorageError, match="55P03"):
            write_by_sqlalchemy(engine)

    assert caught.value.sqlstate == "55P03"
    assert rows(engine) == 1


def test_reader_of_a_file_waits_for_nobody(file: Engine) -> None:
    """A reader sees one snapshot from first to last, while others write and commit."""
    with read_transaction(file, "reading", HASTY) as reader:
        seen = [reader.execute("SELECT count(*) FROM t").fetchone()[0]]
        insert(file)
        seen.append(reader.execute("SELECT count(*) FROM t").fetchone()[0])
        with write_transaction(file, "writing") as writer:
            writer.execute("INSERT INTO t VALUES (2)")
            assert rows(file) == 1

    assert seen == [0, 0]
    assert rows(file) == 2


def test_memory_has_one_writer_or_many_readers() -> None:
    """In memory a writer waits for readers before it commits, and says so when they do not end."""
    engine = make_engine("sqlite://")
    with write_transaction(engine, "preparing") as connection:
        connection.execute("CREATE TABLE t (n INTEGER NOT NULL)")
    with read_transaction(engine, "reading", HASTY) as reader, read_transaction(engine, "reading", HASTY) as other:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == other.execute("SELECT count(*) FROM t").fetchone()
        with pytest.raises(TransientStorageError, match="55P03"):
            insert(engine)
    insert(engine)
    found = rows(engine)
    engine.dispose()

    assert found == 1


def test_memory_is_one_database_per_engine() -> None:
    """Engines in memory know nothing of each other."""
    first, second = make_engine("sqlite://"), make_engine("sqlite://")
    with write_transaction(first, "preparing") as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
    with pytest.raises(TransientStorageError, match="no such table"):
        rows(second)
    first.dispose()
    second.dispose()


def test_threads_do_not_mix(engine: Engine) -> None:
    """Rows that belong together are seen together, whoever writes and reads at the same moment."""
    numbers, torn = count(1), []
    done = threading.Event()

    def write() -> None:
        for _ in range(25):
            with write_transaction(engine, "writing", PATIENT) as connection:
                number = next(numbers)
                connection.execute("INSERT INTO t VALUES (?)", (number,))
                connection.execute("INSERT INTO t VALUES (?)", (-number,))

    def read() -> None:
        while not done.is_set():
            with read_transaction(engine, "reading", PATIENT) as connection:
                total, pairs = connection.execute("SELECT coalesce(sum(n), 0), count(*) % 2 FROM t").fetchone()
                if total or pairs:
                    torn.append((total, pairs))

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write) for _ in range(4)]
        try:
            for each in writers:
                each.result(120)
        finally:
            done.set()
        for each in readers:
            each.result(60)

    assert torn == []
    assert rows(engine) == 200


def test_reader_cannot_write(engine: Engine) -> None:
    """A reading transaction refuses to write, and leaves a connection that can."""
    with pytest.raises(TransientStorageError, match="queries only read") as caught:
        read(engine, "INSERT INTO t VALUES (1) RETURNING n")
    with read_transaction(engine, "reading") as connection:
        connection.execute("COMMIT")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("INSERT INTO t VALUES (1)")
    insert(engine)

    assert caught.value.sqlstate == "25006"
    assert rows(engine) == 1


def test_writing_upon_an_old_snapshot_is_a_race(file: Engine) -> None:
    """Who has read before another wrote cannot write any more: the state of races says that trying again helps."""
    with file.connect() as connection:
        connection.execute(text("SELECT count(*) FROM t")).all()
        insert(file)
        with pytest.raises(TransientStorageError, match="has written since") as caught, translated("writing"):
            connection.execute(text("INSERT INTO t VALUES (1)"))

    assert caught.value.sqlstate == "40001"


def test_autocommit_leaves_no_trace(file: Engine) -> None:
    """Who asks SQLAlchemy for autocommit has it, and the next user of the connection has transactions again."""
    with file.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        assert rows(file) == 1
    with borrow(file, "looking", HASTY) as driver:
        driver.execute("INSERT INTO t VALUES (2)")
        in_transaction = driver.in_transaction

    assert not in_transaction
    assert rows(file) == 2


# ---------------------------------------------------------------- deadlines and errors

ENDLESS = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r"


@WRITES
def test_statement_out_of_time_is_cut_off(engine: Engine, write: Callable[..., None]) -> None:
    """A transaction ends with its deadline, rolled back; the connection is as good as before."""
    with pytest.raises(TransientStorageError, match="its deadline is over") as caught:
        write(engine, "INSERT INTO t VALUES (1)", ENDLESS, deadline=Deadline(statement_ms=50, lock_ms=0))
    insert(engine)

    assert caught.value.sqlstate == "57014"
    assert rows(engine) == 1


def test_all_connections_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exhausted pool is an error of storage that says so."""
    monkeypatch.setattr(lite, "POOL_SIZE", 1)
    monkeypatch.setattr(lite, "POOL_OVERFLOW", 0)
    engine = make_engine("sqlite://")
    monkeypatch.setattr(engine.pool, "_timeout", 0.01)
    with borrow(engine, "holding", HASTY):
        with pytest.raises(TransientStorageError, match="reading failed: all 1 connections"):
            read(engine, "SELECT 1")
        with pytest.raises(TransientStorageError, match="reading failed"):
            read_by_sqlalchemy(engine, "SELECT 1")
    engine.dispose()


@READS
@pytest.mark.parametrize(
    ("name", "state", "said"),
    [
        ("nowhere/test.db", "58P01", r"there is no folder .*nowhere: make it or correct the address"),
        ("folder", "58030", "it is a folder, expected a file"),
        ("pipe", "58030", "it is a device, pipe or socket, expected a file"),
        ("letter.db", "XX001", r"opening database .*letter.db failed: file is not a database .*: correct the address"),
        ("torn.db", "XX001", r"torn.db failed: .*\(SQLSTATE XX001\): .*restore a backup"),
    ],
)
def test_file_that_cannot_be_opened_is_named(
    tmp_path: Path, name: str, state: str, said: str, read: Callable[[Engine, str], object]
) -> None:
    """What stands in the way is an error of storage with the path, and with what to do."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "letter.db").write_bytes(b"Dear reader, this is no database. " * 1000)
    engine = make_engine(f"sqlite:///{tmp_path / 'torn.db'}")
    write(engine, "CREATE TABLE t (n)")
    engine.dispose()
    whole = (tmp_path / "torn.db").read_bytes()
    (tmp_path / "torn.db").write_bytes(whole[:100] + b"\xff" * 1000 + whole[1100:])
    engine = make_engine(f"sqlite:///{tmp_path / name}")
    with pytest.raises(TransientStorageError, match=said) as caught:
        read(engine, "SELECT count(*) FROM t")
    engine.dispose()

    assert caught.value.sqlstate == state


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A user who may not make the file is told which folder to mend."""
    folder = tmp_path / "locked"
    folder.mkdir(0o500)
    engine = make_engine(f"sqlite:///{folder / 'test.db'}")

    with pytest.raises(
        TransientStorageError, match=r"locked/test.db cannot be made: permission denied: mend the folder"
    ):
        rows(engine)
    engine.dispose()


@WRITES
def test_full_disk_leaves_what_was_there(file: Engine, write: Callable[..., None]) -> None:
    """A transaction that does not fit is rolled back whole; with room again the next one goes through."""
    insert(file)
    with pytest.raises(TransientStorageError, match="free space on the disk") as caught:
        write(file, "PRAGMA max_page_count = 5", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (zeroblob(100000))")
    before = rows(file)
    insert(file)

    assert caught.value.sqlstate == "53100"
    assert before == 1
    assert rows(file) == 2


@READS
def test_file_that_is_replaced_is_not_touched(
    file: Engine, tmp_path: Path, read: Callable[[Engine, str], object]
) -> None:
    """What has the name of the database now is neither read nor written, and the one before not in silence."""
    insert(file)
    with borrow(file, "copying", HASTY) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    insert(file)
    (tmp_path / "test.db").rename(tmp_path / "before.db")
    with pytest.raises(TransientStorageError, match="was moved or replaced while it was in use"):
        read(file, "SELECT 1")
    remade = (tmp_path / "test.db").exists()
    (tmp_path / "copy.db").rename(tmp_path / "test.db")
    copy = (tmp_path / "test.db").read_bytes()
    with pytest.raises(TransientStorageError, match="put it back") as caught:
        insert(file)
    same = (tmp_path / "test.db").read_bytes() == copy
    file.dispose()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"test.db{suffix}").unlink(missing_ok=True)

    assert caught.value.sqlstate == "58P01"
    assert (remade, same) == (False, True)
    assert rows(file) == 1


def test_file_that_is_put_back_is_used_again(file: Engine, tmp_path: Path) -> None:
    """A file that is moved away and back is the same file."""
    insert(file)
    (tmp_path / "test.db").rename(tmp_path / "away.db")
    with pytest.raises(TransientStorageError, match="was moved"):
        insert(file)
    (tmp_path / "away.db").rename(tmp_path / "test.db")
    insert(file)

    assert rows(file) == 2


def test_database_of_another_application_is_left_alone(tmp_path: Path) -> None:
    """A look at it changes no byte, and nothing is made in it; one of ours that was dumped and read back is opened."""
    theirs, ours = tmp_path / "theirs.db", tmp_path / "ours.db"
    for path, table in ((theirs, "notes"), (ours, "provision_version")):
        with closing(sqlite3.connect(path)) as made:
            made.execute(f"CREATE TABLE {table} (n INTEGER)")
            made.commit()
    before = theirs.read_bytes()
    engine, dumped = (make_engine(f"sqlite:///{path}") for path in (theirs, ours))
    try:
        for _ in range(2):
            with (
                pytest.raises(SettingsError, match=r"theirs\.db is that of another application, found tables notes, "),
                read_transaction(engine, "looking"),
            ):
                raise AssertionError("it was opened")
        with read_transaction(dumped, "looking") as connection:
            found = connection.execute("SELECT count(*) FROM provision_version").fetchone()
    finally:
        engine.dispose()
        dumped.dispose()

    assert theirs.read_bytes() == before
    assert found == (0,)
