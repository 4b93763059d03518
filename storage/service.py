"""
The service layer: every call about agents, tasks, workflows, messages and measurements in one object.

The calls themselves stand in ``storage.calls``; what they insist on, and their transactions, are the repositories'.
"""

from __future__ import annotations

from types import TracebackType

from storage.calls.agents import AgentCalls
from storage.calls.messages import MessageCalls
from storage.calls.series import SeriesCalls
from storage.calls.tasks import TaskCalls
from storage.calls.workflows import WorkflowCalls
from storage.clock import Clock, DatabaseClock
from storage.database import DatabaseManager
from storage.repositories.agents import AgentRepository
from storage.repositories.messages import MessageRepository
from storage.repositories.tasks import TaskRepository
from storage.repositories.workflows import WorkflowRepository
from storage.store import Store


class PersistenceService(AgentCalls, TaskCalls, WorkflowCalls, MessageCalls, SeriesCalls):
    """
    What agents and their owners keep in a database. Safe to be used by several threads at once.

    Each call is one transaction, durable when it returns, and raises errors of ``storage.errors`` alone; after an error
    nothing of it is there, but for ``OutcomeUnknown``, after which all of it may be. Calls take connections of the
    store's pool, so that threads work side by side; those that write time series take turns.

    Args:
        database: A store, or the manager of one, whose schema is that of this code. It is not closed with the service.
            Of one store, one service at a time may write time series.
        clock: Tells the time of everything that is written; ``None`` is the clock of the database, which is the same
            for all that use it: leases of workers on several machines depend on that.
        name: What this client is called beside the measurements that it writes.

    Raises:
        InputError: *name* cannot be stored.
        StorageError: The manager is closed, or its embedded server cannot be started.
    """

    def __init__(self, database: Store | DatabaseManager, *, clock: Clock | None = None, name: str = "service") -> None:
        self.store: Store = database.store if isinstance(database, DatabaseManager) else database
        super().__init__(self.store, name, clock or DatabaseClock(self.store.now))
        engine = self.store.engine
        self._agents = AgentRepository(engine)
        self._tasks = TaskRepository(engine)
        self._workflows = WorkflowRepository(engine)
        self._messages = MessageRepository(engine)

    def __enter__(self) -> PersistenceService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
