"""
The lock that makes a collector the only one of its database.

It belongs to a session, so it ends with the connection, whatever becomes of the process. A server that has lost its
client without a word keeps the session for a while: the same store may end that one, nobody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg

from storage.pg.layout import COLLECTOR_LOCK

#: Process id and start of a server process: ids are used again.
Backend = tuple[int, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds the lock."""

    backend: Backend
    #: Address of the client, or ``this machine``.
    address: str


def take(connection: psycopg.Connection) -> bool:
    """Take the lock for the session of *connection*; tell whether it was had."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s, 0)", (COLLECTOR_LOCK,)).fetchone()
    return row == (True,)


def own(connection: psycopg.Connection) -> Backend | None:
    """Return the server process of *connection*; ``None`` where the server has no processes to tell of."""
    row = connection.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchone()
    return None if row is None else (row[0], row[1])


def holder(connection: psycopg.Connection) -> Holder | None:
    """Return who holds the lock; ``None`` when it has been let go meanwhile."""
    row = connection.execute(
        "SELECT a.pid, a.backend_start, coalesce(host(a.client_addr), 'this machine')"
        " FROM pg_locks AS l"
        " JOIN pg_stat_activity AS a ON a.pid = l.pid"
        " WHERE l.locktype = 'advisory' AND l.classid = %s AND l.objid = 0 AND l.granted"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (COLLECTOR_LOCK,),
    ).fetchone()
    return None if row is None else Holder(backend=(row[0], row[1]), address=row[2])


def end(connection: psycopg.Connection, lost: Holder) -> None:
    """End the session *lost*; its lock is free a moment later."""
    connection.execute("SELECT pg_terminate_backend(%s)", (lost.backend[0],))
