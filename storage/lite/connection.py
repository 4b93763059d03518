"""
Connections to a SQLite database: one pool, real transactions, one writer at a time that waits for its turn.

The driver's own handling of transactions is off: it begins them late and ends them on its own before DDL. Here each one
begins with a statement, ``BEGIN IMMEDIATE`` where it is going to write, so that of two writers the second waits at the
start (up to the lock deadline) and never fails in the middle, and plain ``BEGIN`` where it reads: one snapshot, which in
a file (WAL) neither waits for the writer nor holds it up. What the driver raises is translated here.

A database in memory lives in SQLite's ``memdb``, which gives every thread a connection of its own onto the same
pages. One connection for all threads would put the statements of one into the transaction of another; the older shared
cache fails at once (``SQLITE_LOCKED``) where others wait. It has no WAL: a writer waits for the readers to end before it
commits, and they for it. SQLite bounds it at 1 GiB.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import floor
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import uuid4

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage import deadlines
from storage.deadlines import Deadline
from storage.errors import CapabilityMissing, SettingsError, StorageError, TransientStorageError
from storage.forks import Lock
from storage.lite import forks, functions
from storage.lite.forks import TURNS
from storage.lite.turns import Turns
from storage.sqlstate import is_permanent, sqlstate_of, translate
from storage.transactions import DEADLINE, WRITES, insist_open

#: RETURNING needs 3.35, a named ``memdb`` 3.36; 3.37 (2021) is the oldest that a supported distribution ships.
MINIMUM_VERSION = (3, 37, 0)

#: Stands in the header of every file that is made here, "flpu".
APPLICATION_ID = 0x666C7075
#: One of these is in each of ours, also where a file was made anew from a dump, which holds no header.
VERSION_TABLES = frozenset({"alembic_version", "provision_version"})

#: As with a server: few at a time, each short.
POOL_SIZE = 5
POOL_OVERFLOW = 10

#: Of each connection, KiB: a refresh reads the buckets that it writes again, and the driver's 2 MB spill.
CACHE_KIB = 16_384
#: The log shrinks to this after a batch that made it longer, bytes.
LOG_BYTES = 64 * 1024**2
#: Pages (32 MB) in the log before they are copied into the file. SQLite's own 1,000 are one batch of 1,000 series, most
#: of whose pages the next batch changes again: fewer and larger copies make ingest a third to a half faster.
CHECKPOINT_PAGES = 8_000
#: Steps of SQLite's machine between two looks at the clock: a few milliseconds.
STEPS_BETWEEN_LOOKS = 50_000
#: Between two looks whether another process has stopped writing.
LOOK_S = 0.001

#: SQLSTATE of a database that somebody else writes to.
LOCKED = "55P03"
#: After these a connection is as good as before: somebody else's lock, and a deadline.
_HARMLESS = frozenset({"55P03", "57014", "40001", "25006", "42000"})

#: Making a file opens and closes it, and closing any descriptor of a file drops this process's locks on it, those of
#: SQLite included: while one thread makes it, no other may have it open.
_MAKING = Lock()

_REMEDY = "expected sqlite:///relative.db, sqlite:////absolute/path.db, or sqlite:// for one in memory"


def parse_url(url: str) -> Path | None:
    """
    Return the file that *url* names, absolute, or ``None`` for a database in memory.

    Raises:
        SettingsError: Not an address of SQLite, or it has parts that mean nothing there.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("sqlite", "sqlite+pysqlite"):
        raise SettingsError(f"database address has scheme {scheme}, {_REMEDY}")
    host, _, path = rest.partition("/")
    if host:
        raise SettingsError(f"database address has a host where a file is expected (two slashes for three?), {_REMEDY}")
    # Not by SQLAlchemy, whose versions differ in whether a file's name is decoded.
    name, _, parameters = path.partition("?")
    if "\0" in unquote(name):
        raise SettingsError(f"database address has a NUL byte in its file's name, {_REMEDY}")
    if parameters:
        raise SettingsError(
            f"database address has parameter {parameters.partition('=')[0]}, which SQLite does not take"
        )
    if name in ("", ":memory:"):
        return None
    return Path(unquote(name)).absolute()


def make_engine(url: str) -> Engine:
    """
    Return the pooled engine of the database at *url*; a file is neither made nor opened yet.

    A database in memory is one of its own with each engine, and ends with ``Engine.dispose``.

    Raises:
        SettingsError: The address cannot be read.
        CapabilityMissing: The SQLite that Python came with is too old.
    """
    path = parse_url(url)
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        raise CapabilityMissing(
            "engine sqlite",
            found=f"SQLite {sqlite3.sqlite_version}",
            needed=f"SQLite {'.'.join(map(str, MINIMUM_VERSION[:2]))} or later, which comes with Python",
        )
    if path is None:
        name = f"file:/fleetpulse-{uuid4().hex}?vfs=memdb"
        engine = _pooled(URL.create("sqlite"), lambda: _connect(name))
        # The database lasts as long as somebody has it open.
        anchor = _connect(name)
        event.listen(engine, "engine_disposed", lambda _engine: anchor.close())
        return engine
    file = _File(path)
    engine = _pooled(URL.create("sqlite", database=str(path)), file.open)
    event.listen(engine, "checkout", lambda *_: file.insist_same())
    event.listen(engine, "engine_disposed", lambda _engine: file.forget())
    return engine


def _pooled(url: URL, connect: Callable[[], sqlite3.Connection]) -> Engine:
    turns = Turns()

    def create() -> sqlite3.Connection:
        insist_open(engine)
        return connect()

    engine = create_engine(
        url,
        creator=create,
        poolclass=QueuePool,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        json_serializer=_json,
        execution_options={TURNS: turns},
    )
    forks.watch_pool(engine)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # SQLAlchemy's own fails on NULL.
        connection.create_function("floor", 1, _floor, deterministic=True)
        functions.register(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        driver = connection.connection.driver_connection
        if not isinstance(driver, sqlite3.Connection):
            raise AssertionError(f"BUG: the pool holds {type(driver).__name__}")
        writes = bool(options.get(WRITES))
        deadline = options.get(DEADLINE, deadlines.ADMIN if writes else deadlines.READ)
        _set_deadline(driver, deadline)
        if options.get("isolation_level") == "AUTOCOMMIT":
            return
        if not writes:
            connection.exec_driver_sql("BEGIN")
            return
        try:
            _begin_writing(driver, connection.exec_driver_sql, turns, deadline)
        except sqlite3.Error as exc:
            if _is_spoilt(exc):
                connection.invalidate()
            raise

    @event.listens_for(engine, "close")
    def give(connection: sqlite3.Connection, _record: object) -> None:
        turns.give(connection)

    @event.listens_for(engine, "checkin")
    def forget(connection: sqlite3.Connection | None, _record: object) -> None:
        if connection is not None:
            turns.give(connection)
            connection.set_progress_handler(None, 0)
            # Who asked SQLAlchemy for autocommit left the driver's own handling of transactions behind.
            connection.isolation_level = None

    @event.listens_for(engine, "handle_error")
    def judge(context: ExceptionContext) -> None:
        functions.explain(context.original_exception)
        if _is_spoilt(context.original_exception):
            context.is_disconnect = True

    return engine


def _json(value: object) -> str:
    """Return *value* as PostgreSQL would write it: a view counts its bytes."""
    return json.dumps(value, ensure_ascii=False)


def _floor(value: float | None) -> int | None:
    return None if value is None else floor(value)


# ---------------------------------------------------------------- opening


class _File:
    """The file of a database, which must stay the same one for as long as an engine has it open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: Device and number of what was opened first. Whichever thread comes first writes it, all write the same.
        self._identity: tuple[int, int] | None = None

    def open(self) -> sqlite3.Connection:
        """Open a connection."""
        self.insist_same()
        connection = _open(self._path)
        if self._identity is None:
            self._identity = _identity(self._path)
        return connection

    def insist_same(self) -> None:
        """
        Insist that the path still leads to the file.

        SQLite would go on writing, without a word, to a file that has no name any more, and would play the log of that
        one into the file that has the name now.

        Raises:
            TransientStorageError: It was moved, removed or replaced, or a folder above it may not be entered.
        """
        if self._identity is None:
            return
        try:
            found = _identity(self._path)
        except PermissionError as exc:
            raise _out_of_reach(self._path, exc) from exc
        if found != self._identity:
            raise TransientStorageError(
                f"database {self._path} was moved or replaced while it was in use: stop all that use it, put it back or "
                "remove its -wal and -shm, and start again",
                sqlstate="58P01",
            )

    def forget(self) -> None:
        """Take whatever file is there when the next connection is opened."""
        self._identity = None


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and number of the file that *path* leads to, ``None`` where there is none."""
    try:
        found = path.stat()
    except PermissionError:
        # It may be there as it was.
        raise
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path) -> sqlite3.Connection:
    """Open the database in *path*, made where there is none."""
    try:
        folder, mode = _mode(path.parent), _mode(path)
    except OSError as exc:
        raise _out_of_reach(path, exc) from exc
    if not stat.S_ISDIR(folder):
        raise TransientStorageError(
            f"database {path} cannot be opened: there is no folder {path.parent}: make it or correct the address",
            sqlstate="58P01",
        )
    if mode and not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise TransientStorageError(
            f"database {path} cannot be opened: it is {found}, expected a file: correct the address", sqlstate="58030"
        )
    try:
        with _MAKING, suppress(FileExistsError):
            # For its owner alone, until somebody decides otherwise: it tells where agents are and what they said. SQLite
            # gives the files beside it the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise TransientStorageError(
            f"database {path} cannot be made: {(exc.strerror or str(exc)).lower()}: mend the folder or correct the address",
            sqlstate="58030",
        ) from exc
    file = _identity(path)
    forks.insist_allowed(path, file)
    try:
        # Never "rwc": a file that goes away this moment must not come back readable for all.
        connection = _connect(f"file:{quote(os.fsencode(path))}?mode=rw", file)
    except sqlite3.Error as exc:
        raise translate(exc, f"opening database {path}") from exc
    try:
        _insist_ours(connection, path)
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            # Retention gives pages back to the disk. Later it would change nothing, and wait for the writer.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        found = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        # NORMAL does not sync each commit to the log; what is committed must survive the machine.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        # Debian has it on: each deleted page would be written once more.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    except sqlite3.Error as exc:
        connection.close()
        raise translate(exc, f"opening database {path}") from exc
    except SettingsError:
        connection.close()
        raise
    if found != "wal":
        connection.close()
        raise TransientStorageError(
            f"database {path} cannot be opened: its journal is {found}, expected wal, which needs a local disk: "
            "move it off the network file system",
            sqlstate="58030",
        )
    return connection


def _insist_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Insist on a database of ours, or an empty one, before anything in it is changed."""
    if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        return
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and not tables & VERSION_TABLES:
        raise SettingsError(
            f"database {path} is that of another application, found tables {', '.join(sorted(tables)[:3])}, "
            "expected one of fleetpulse or a new file: correct the address"
        )


def _mode(path: Path) -> int:
    """Return the kind of file that *path* is, with its permissions; 0 where there is none."""
    # Not ``Path.is_dir``: what that makes of a folder that may not be entered depends on the version of Python.
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _out_of_reach(path: Path, exc: OSError) -> TransientStorageError:
    return TransientStorageError(
        f"database {path} cannot be reached: {(exc.strerror or str(exc)).lower()}: correct the address, or let this user "
        "enter the folders above it",
        sqlstate="58030",
    )


def _connect(name: str, file: tuple[int, int] | None = None) -> forks.Connection:
    connection = sqlite3.connect(
        name,
        uri=True,
        factory=forks.Connection,
        # Begin and end of transactions are statements.
        isolation_level=None,
        # The pool hands connections to one thread after another, never to two at once.
        check_same_thread=False,
        timeout=deadlines.ADMIN.lock_ms / 1000,
    )
    connection.file = file
    forks.watch(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _set_deadline(connection: sqlite3.Connection, deadline: Deadline) -> None:
    """Give the transaction that begins on *connection* this long, waiting for its turn apart; 0 is without end."""
    connection.execute(f"PRAGMA busy_timeout = {deadline.lock_ms}")
    if not deadline.statement_ms:
        connection.set_progress_handler(None, 0)
        return
    # SQLite has no deadline of its own. Waiting for a lock takes no steps, and does not count.
    end = time.monotonic() + (deadline.lock_ms + deadline.statement_ms) / 1000
    connection.set_progress_handler(lambda: time.monotonic() > end, STEPS_BETWEEN_LOOKS)


# ---------------------------------------------------------------- transactions


@contextmanager
def write_transaction(engine: Engine, doing: str, deadline: Deadline = deadlines.WRITE) -> Iterator[sqlite3.Connection]:
    """
    Lend a connection with the one transaction that may write; it commits at the end, durably, or leaves nothing.

    Args:
        doing: Subject of error messages: ``writing batch 7``.
        deadline: Waiting for the other writer, and the whole transaction.

    Raises:
        StorageError: Whatever the driver raised inside, translated.
    """
    turns: Turns = engine.get_execution_options()[TURNS]
    with borrow(engine, doing, deadline) as connection:
        _begin_writing(connection, connection.execute, turns, deadline)
        yield connection
        connection.execute("COMMIT")


def _begin_writing(
    connection: sqlite3.Connection, execute: Callable[[str], object], turns: Turns, deadline: Deadline
) -> None:
    """
    Begin a transaction that may write, once that is the turn of *connection*, which it is until it goes back to the pool.

    Within this process turns are taken in order. Of processes, whoever looks at the right moment is next: one thread of
    each does, and oftener than SQLite would, because another process may leave pauses of no more than a tenth of a
    millisecond.
    """
    end = time.monotonic() + deadline.lock_ms / 1000
    if not turns.take(connection, deadline.lock_ms / 1000):
        locked = sqlite3.OperationalError("database is locked")
        locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise locked
    connection.execute("PRAGMA busy_timeout = 0")
    while True:
        try:
            execute("BEGIN IMMEDIATE")
            break
        except (sqlite3.OperationalError, DBAPIError) as exc:
            if sqlstate_of(exc) != LOCKED or time.monotonic() >= end:
                raise
        # An error of SQLAlchemy's costs half as much as the pause.
        execute = connection.execute
        time.sleep(LOOK_S)
    connection.execute(f"PRAGMA busy_timeout = {deadline.lock_ms}")


@contextmanager
def read_transaction(engine: Engine, doing: str, deadline: Deadline = deadlines.READ) -> Iterator[sqlite3.Connection]:
    """
    Lend a connection with a transaction that cannot write; all its statements see what its first one saw.

    Args:
        doing: Subject of error messages: ``reading marks``.
        deadline: The whole transaction.

    Raises:
        StorageError: Whatever the driver raised inside, translated; 25006 for a statement that would write.
    """
    with borrow(engine, doing, deadline) as connection:
        connection.execute("PRAGMA query_only = ON")
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.execute("PRAGMA query_only = OFF")


@contextmanager
def borrow(engine: Engine, doing: str, deadline: Deadline) -> Iterator[sqlite3.Connection]:
    """
    Lend a pooled driver connection without a transaction: for what cannot run in one, such as VACUUM and most PRAGMAs.

    A transaction that is open at the end is rolled back. After an error that may lie in the file the connection is
    closed instead of given back.

    Raises:
        StorageError: Whatever the driver raised inside, translated.
    """
    try:
        pooled = engine.raw_connection()
    except PoolTimeout as exc:
        raise TransientStorageError(f"{doing} failed: all {POOL_SIZE + POOL_OVERFLOW} connections are in use") from exc
    except (SQLAlchemyError, sqlite3.Error) as exc:
        raise translate(exc, doing) from exc
    try:
        connection = pooled.driver_connection
        if not isinstance(connection, sqlite3.Connection):
            raise AssertionError(f"BUG: the pool holds {type(connection).__name__}")
        try:
            _set_deadline(connection, deadline)
            yield connection
        finally:
            # A full disk has rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    except BaseException as exc:
        functions.explain(exc)
        if _is_spoilt(exc):
            pooled.invalidate()
        if (error := _translated(exc, doing)) is not None:
            raise error from exc
        raise
    finally:
        pooled.close()


def _translated(error: BaseException, doing: str) -> StorageError | None:
    # What Python cannot hand to SQLite has a state, too; other errors are not ours.
    if isinstance(error, sqlite3.Error) or sqlstate_of(error) is not None:
        return None if isinstance(error, StorageError) else translate(error, doing)
    return None


def _is_spoilt(error: BaseException) -> bool:
    """Tell whether the connection that raised *error* cannot be trusted with another transaction."""
    if not isinstance(error, sqlite3.Error):
        return False
    state = sqlstate_of(error)
    return state is not None and not is_permanent(state) and state not in _HARMLESS
