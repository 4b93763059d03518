"""
What SQLite forbids: a database that is open on both sides of a fork.

Locks on a file are those of one process, and SQLite keeps count of what its own process has locked. A child takes over
the count, not the locks: it opens the file anew without taking any, another process removes the log that it writes to,
and what it commits is gone. Closing what the parent has opened is no better, unless nobody uses it.

So a file that nobody uses at the moment of a fork is closed before, and both sides open it again. One that is in use is
refused in the child, whoever opens it there. A database in memory stays with the process that made it.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from pathlib import Path
from weakref import WeakSet

from sqlalchemy import Engine, QueuePool

from storage.errors import StorageError
from storage.forks import Lock
from storage.lite.turns import Turns
from storage.transactions import end

#: Execution option: the ``Turns`` of an engine.
TURNS = "fleetpulse_turns"


class Connection(sqlite3.Connection):
    """A connection that is known to this process."""

    #: Device and number of its file, ``None`` in memory.
    file: tuple[int, int] | None = None

    @property
    def is_closed(self) -> bool:
        """Tell whether it was closed."""
        try:
            _ = self.in_transaction
        except sqlite3.ProgrammingError:
            return True
        return False


#: What this process has open.
_OPEN: WeakSet[Connection] = WeakSet()
_ENGINES: WeakSet[Engine] = WeakSet()
#: Guards the engines: a parent looks through them while its other threads make some.
_LISTING = Lock()
#: Files that the parent was using at the moment of the fork.
_FORBIDDEN: set[tuple[int, int]] = set()


def watch(connection: Connection) -> None:
    """Forbid the file of *connection* to children that are forked off before it is closed."""
    _OPEN.add(connection)


def watch_pool(engine: Engine) -> None:
    """Close the connections of *engine* that nobody uses before each fork."""
    with _LISTING:
        _ENGINES.add(engine)


def insist_allowed(path: Path, file: tuple[int, int] | None) -> None:
    """
    Insist that *file*, the one at *path*, may be opened in this process.

    Raises:
        StorageError: The process that this one was forked from was using it.
    """
    if file in _FORBIDDEN:
        raise StorageError(
            f"database {path} was in use when this process was forked off, and SQLite forbids to use it here: "
            "fork while nobody uses it, or start processes by spawn"
        )


def _is_file(engine: Engine) -> bool:
    return engine.url.database is not None


def _close_unused() -> None:
    with _LISTING:
        engines = list(_ENGINES)
    for engine in engines:
        pool = engine.pool
        # Where one is in use, closing others helps nobody.
        if _is_file(engine) and isinstance(pool, QueuePool) and not pool.checkedout():
            engine.pool = pool.recreate()
            pool.dispose()


def _forbid() -> None:
    for connection in list(_OPEN):
        if not connection.is_closed:
            # Not even the end of the interpreter may close it: that would take back what the parent is writing.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            if connection.file is not None:
                _FORBIDDEN.add(connection.file)
    for engine in list(_ENGINES):
        # Its locks may have been held by other threads.
        engine.pool = engine.pool.recreate()
        turns = engine.get_execution_options()[TURNS]
        if isinstance(turns, Turns):
            turns.forget()
        if not _is_file(engine):
            end(engine, "database in memory is that of the process which made it: use a file to share one")


os.register_at_fork(before=_close_unused, after_in_child=_forbid)
