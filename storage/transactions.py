"""
Transactions of the relational half, and what an engine is told of one before it begins.

It is told in words that every engine understands or may ignore. A server that takes several writers needs none: locks
come with the statements, deadlines with the connection. SQLite has one writer at a time; who says so at the start waits
for its turn, and who reads first and writes then may find that its turn never comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from storage import deadlines
from storage.deadlines import Deadline
from storage.errors import OutcomeUnknown, StorageError, TransientStorageError
from storage.sqlstate import is_undecided, translated

#: Execution options; ``True``, and a ``Deadline``.
WRITES = "fleetpulse_writes"
DEADLINE = "fleetpulse_deadline"
#: Another one: why an engine is not to be used any more.
_ENDED = "fleetpulse_ended"


def writing(engine: Engine, deadline: Deadline = deadlines.ADMIN) -> Engine:
    """Return *engine* with transactions that are going to write; pool and events are those of *engine*."""
    return engine.execution_options(**{WRITES: True, DEADLINE: deadline})


@contextmanager
def transaction(engine: Engine, doing: str) -> Iterator[Session]:
    """
    Lend an ORM session with one transaction: committed at the end, rolled back when the block raises.

    Args:
        engine: As ``writing`` returns it.
        doing: Subject of error messages: ``making tasks``.

    Raises:
        OutcomeUnknown: The answer to the commit was lost.
        StorageError: Whatever the driver raised, translated; nothing of the transaction was kept.
    """
    commits = False
    try:
        with translated(doing), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
            # What fails here has not been committed.
            session.flush()
            commits = True
    except TransientStorageError as exc:
        if commits and is_undecided(exc.sqlstate):
            raise OutcomeUnknown(
                f"{exc}: it is not known whether it was done, look before you repeat it", sqlstate=exc.sqlstate
            ) from exc
        raise


# ---------------------------------------------------------------- the end of an engine


def end(engine: Engine, why: str) -> None:
    """
    Let nobody connect by *engine* any more; what is lent is still to be given back.

    Args:
        why: With the remedy: ``database is closed: make another DatabaseManager``.
    """
    engine.update_execution_options(**{_ENDED: why})


def insist_open(engine: Engine) -> None:
    """
    Insist that *engine* has not ended; to be asked before a connection is made.

    Raises:
        StorageError: It has.
    """
    why = engine.get_execution_options().get(_ENDED)
    if why is not None:
        raise StorageError(why)
