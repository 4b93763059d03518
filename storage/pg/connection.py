"""
Connections to a PostgreSQL server: one pool for the many, one connection for the writer.

Every connection runs in UTC, commits durably and has deadlines. What the driver raises is translated here.
"""

from __future__ import annotations

import json
import math
import select
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper, PyFormat
from psycopg.pq import Conninfo, ConnStatus
from psycopg.types.datetime import DatetimeBinaryDumper, DatetimeDumper
from psycopg.types.json import set_json_loads
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from storage import deadlines
from storage.deadlines import Deadline
from storage.errors import CapabilityMissing, SettingsError, StorageError, TransientStorageError
from storage.model import aware
from storage.pg.forks import watch, watch_pool
from storage.sqlstate import one_line, sqlstate_of, translate
from storage.transactions import insist_open

#: Sessions, ORM work, refreshes, reports: few at a time, each short.
POOL_SIZE = 5
POOL_OVERFLOW = 10

#: Seconds that a connection may lie idle and be taken for good unasked: a cut link that nobody tells of is rare, and the
#: pool of a busy process never comes to ask.
UNASKED_S = 5.0

#: SQLSTATE of a database that only reads. That is a default which a session takes at its start: others that were opened
#: meanwhile would go on refusing after it was changed, so that none of the pool is used again.
READ_ONLY = "25006"

#: Parameters that an address may have: those of the libpq that comes with the driver.
LIBPQ_PARAMETERS = frozenset(option.keyword.decode() for option in Conninfo.get_defaults())
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

#: What a role's or a database's own defaults must not change.
SESSION = (
    "TimeZone = 'UTC'",
    # psycopg reads ISO dates, and writes strings as the standard has them.
    "DateStyle = 'ISO, YMD'",
    "IntervalStyle = 'postgres'",
    "standard_conforming_strings = on",
    # The gate of a moving horizon is read by the statement behind the lock: that one must see what is committed.
    "default_transaction_isolation = 'read committed'",
    "synchronous_commit = on",
    # The views' plans look costlier than they are: compiling one took 5 s for a query of 75 ms.
    "jit = off",
    # "… does not exist, skipping" is no news.
    "client_min_messages = warning",
)


def parse_url(url: str) -> URL:
    """
    Return *url* as an address for psycopg.

    Raises:
        SettingsError: Not a PostgreSQL address, or a part of it is none that libpq knows. The address is not repeated:
            what is malformed may have a password anywhere.
    """
    remedy = (
        "expected postgresql://user:password@host:port/database; write @ : / ? # of a password as %40 %3A %2F %3F %23"
    )
    try:
        parsed = make_url(url)
        port_is_one = parsed.port is None or 0 < parsed.port < 65_536
    except (SQLAlchemyError, ValueError) as exc:
        raise SettingsError(f"database address cannot be read, {remedy}") from exc
    if not port_is_one:
        raise SettingsError(f"database address has port {parsed.port}, expected 1 to 65535")
    for host in (parsed.host, parsed.query.get("host")):
        if isinstance(host, str) and any(character in host for character in "@[] "):
            raise SettingsError(f"database address has a host that is none, {remedy}")
    unknown = sorted(set(parsed.query) - LIBPQ_PARAMETERS)
    if unknown:
        raise SettingsError(f"database address has parameter {unknown[0]}, which libpq does not know")
    mode = parsed.query.get("sslmode", "prefer")
    if mode not in SSL_MODES:
        raise SettingsError(f"database address has sslmode {mode}, expected one of {', '.join(SSL_MODES)}")
    return parsed.set(drivername="postgresql+psycopg")


class _Aware(DatetimeDumper):
    """Hands aware moments to the server, and no others: it would read them in the zone of the session."""

    def upgrade(self, obj: datetime, format: PyFormat) -> Dumper:
        # Reached by naive ones; others are checked at no cost.
        aware(obj)
        return super().upgrade(obj, format)


class _AwareBinary(DatetimeBinaryDumper):
    """The same for parameters, which go as binary."""

    def upgrade(self, obj: datetime, format: PyFormat) -> Dumper:
        aware(obj)
        return super().upgrade(obj, format)


_decode_json = json.JSONDecoder().decode


def _load_json(data: str | bytes) -> Any:
    # Python's own asks each value for its encoding, which is half of the time of a short one: 7 % of a page of tasks.
    return _decode_json(data if isinstance(data, str) else data.decode())


def make_engine(url: URL) -> Engine:
    """Return the pooled engine of *url*; nothing is connected yet."""
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        connect_args=connect_arguments(),
    )

    @event.listens_for(engine, "do_connect")
    def insist(*_: object) -> None:
        insist_open(engine)

    @event.listens_for(engine, "connect")
    def prepare(connection: psycopg.Connection, _record: object) -> None:
        # A pooler in transaction mode hands each transaction another server process, which knows no
        # statement that was prepared before.
        connection.prepare_threshold = None
        _configure(connection, deadlines.READ)

    @event.listens_for(engine, "checkout")
    def look(connection: psycopg.Connection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if not _is_there(connection, record.info.get("used_s", -math.inf)):
            # Whatever cut this one off has cut off the others.
            raise InvalidatePoolError

    @event.listens_for(engine, "checkin")
    def note(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used_s"] = time.monotonic()

    @event.listens_for(engine, "handle_error")
    def judge(context: ExceptionContext) -> None:
        if sqlstate_of(context.original_exception) == READ_ONLY:
            context.is_disconnect = True

    watch_pool(engine)
    return engine


def _is_there(connection: psycopg.Connection, used_s: float) -> bool:
    """
    Tell whether the server at the other end of an idle connection is still there.

    A server that ends a session says so, or its system does: an idle connection has something to read then. Only one that
    nobody may have told is asked, which costs a round trip: a fifth of a short query's time.
    """
    reading = select.poll()
    reading.register(connection.pgconn.socket, select.POLLIN)
    if not reading.poll(0) and time.monotonic() - used_s < UNASKED_S:
        return True
    connection.pgconn.exec_(b"")
    return connection.pgconn.status == ConnStatus.OK


def connect_arguments() -> dict[str, object]:
    """Return what every connection asks of libpq, unless its address asks for something else."""
    return {
        "connect_timeout": deadlines.CONNECT_S,
        "application_name": "fleetpulse",
        # Of the first statement on, whatever the server's or the role's encoding.
        "client_encoding": "utf8",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": deadlines.TCP_USER_TIMEOUT_MS,
    }


def _configure(connection: psycopg.Connection, deadline: Deadline) -> None:
    watch(connection)
    for dumper in (_Aware, _AwareBinary):
        connection.adapters.register_dumper(datetime, dumper)
    set_json_loads(_load_json, connection)
    autocommit = connection.autocommit
    connection.autocommit = True
    set_deadline(connection, deadline)
    for setting in SESSION:
        connection.execute(f"SET {setting}")
    connection.autocommit = autocommit


def set_deadline(connection: psycopg.Connection, deadline: Deadline) -> None:
    """Give the following statements of *connection* this long."""
    connection.execute(
        sql.SQL("SET statement_timeout = {}; SET lock_timeout = {}").format(deadline.statement_ms, deadline.lock_ms)
    )


def set_local(settings: Iterable[str]) -> str:
    """Return one statement that makes *settings* for the transaction: each by itself is a round trip, or more."""
    pairs = (setting.replace("'", "").split(" = ") for setting in settings)
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in pairs)


def connect(url: URL) -> psycopg.Connection:
    """
    Open a connection of its own, in autocommit, for the writer.

    Raises:
        TransientStorageError: The server cannot be reached or refuses the log-in.
    """
    options = {**connect_arguments(), **url.translate_connect_args(username="user", database="dbname"), **url.query}
    try:
        connection: psycopg.Connection = psycopg.connect("", autocommit=True, **options)
    except psycopg.Error as exc:
        raise _unreachable(url, exc) from exc
    try:
        _configure(connection, deadlines.WRITE)
    except psycopg.Error as exc:
        connection.close()
        raise translate(exc, "connecting") from exc
    return connection


def _unreachable(url: URL, exc: BaseException) -> StorageError:
    return TransientStorageError(
        f"database {url.render_as_string()} cannot be reached: {one_line(exc)}", sqlstate=sqlstate_of(exc)
    )


def insist_direct(connection: psycopg.Connection) -> None:
    """
    Insist that *connection* leads to one server process for as long as it lives: what holds a session lock needs that.

    Raises:
        CapabilityMissing: A pooler hands each transaction another one.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    # A server compiled to WebAssembly is one process for all, and calls it 0.
    if row is None or row[0] not in (0, connection.info.backend_pid):
        raise CapabilityMissing(
            "writing",
            found="a connection pooler before the server",
            needed="a direct connection (session locks and COPY); readers may use the pooler",
        )


@contextmanager
def borrow(engine: Engine, doing: str, deadline: Deadline) -> Iterator[psycopg.Connection]:
    """
    Lend a pooled driver connection in autocommit; *doing* is the subject of error messages.

    A connection that failed is closed instead of given back: with it go session locks and half-done settings.

    Raises:
        StorageError: Whatever the driver raised inside, translated.
    """
    try:
        pooled = engine.connect()
    except PoolTimeout as exc:
        raise TransientStorageError(f"{doing} failed: all {POOL_SIZE + POOL_OVERFLOW} connections are in use") from exc
    except SQLAlchemyError as exc:
        raise _unreachable(engine.url, exc.__cause__ or exc) from exc
    try:
        connection = pooled.connection.driver_connection
        if not isinstance(connection, psycopg.Connection):
            raise AssertionError(f"BUG: the pool holds {type(connection).__name__}")
        connection.autocommit = True
        set_deadline(connection, deadline)
        yield connection
        set_deadline(connection, deadlines.READ)
        connection.autocommit = False
    except BaseException as exc:
        pooled.invalidate()
        if sqlstate_of(exc) == READ_ONLY:
            engine.dispose()
        if isinstance(exc, psycopg.Error | SQLAlchemyError):
            raise translate(exc, doing) from exc
        raise
    finally:
        pooled.close()
