"""
What an engine is told of a transaction before it begins, in words that every engine understands or may ignore.

A server that takes several writers needs neither: locks come with the statements, deadlines with the connection. SQLite
has one writer at a time; who says so at the start waits for its turn, and who reads first and writes then may find that
its turn never comes.
"""

from __future__ import annotations

from sqlalchemy import Engine

from storage import deadlines
from storage.deadlines import Deadline

#: Execution options; ``True``, and a ``Deadline``.
WRITES = "fleetpulse_writes"
DEADLINE = "fleetpulse_deadline"


def writing(engine: Engine, deadline: Deadline = deadlines.ADMIN) -> Engine:
    """Return *engine* with transactions that are going to write; pool and events are those of *engine*."""
    return engine.execution_options(**{WRITES: True, DEADLINE: deadline})
