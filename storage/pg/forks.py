"""
What a child that is forked off does with the sessions of its parent: it lets go of them.

Both processes would read from one socket, each what the server says to the other. And a child that closed a connection,
or whose garbage collector did, would say goodbye to the server for its parent.
"""

from __future__ import annotations

import os
import socket
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine

#: What this process has open.
_OPEN: WeakSet[psycopg.Connection] = WeakSet()
_ENGINES: WeakSet[Engine] = WeakSet()
#: In a child, what other threads of its parent were using at the moment of the fork. Nobody knows what state these are
#: in: they are kept, never to be touched again.
_INHERITED: list[psycopg.Connection] = []


def watch(connection: psycopg.Connection) -> None:
    """Let go of *connection* in children."""
    _OPEN.add(connection)


def watch_pool(engine: Engine) -> None:
    """Let *engine* begin anew in children."""
    _ENGINES.add(engine)


def is_lost(connection: psycopg.Connection) -> bool:
    """Tell whether *connection* is closed, or has to be left alone because it was another process's."""
    return connection.closed or connection in _INHERITED


def _let_go() -> None:
    for connection in list(_OPEN):
        if connection.closed:
            continue
        # In place of the server's: it reads no farewell and no statement, and whoever waits for an answer is told.
        near, far = socket.socketpair()
        far.close()
        with near:
            os.dup2(near.fileno(), connection.fileno(), inheritable=False)
        if connection.lock.locked() or connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
            _INHERITED.append(connection)
        else:
            connection.close()
    for engine in list(_ENGINES):
        # Its locks may have been held by other threads, too.
        engine.pool = engine.pool.recreate()


os.register_at_fork(after_in_child=_let_go)
