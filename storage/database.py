"""
One object for a database: opened by its address, brought up to this code, and lent as a store or as ORM sessions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sqlalchemy import text
from sqlalchemy.orm import Session

from storage import schema
from storage.embedded import EmbeddedServer
from storage.errors import StorageError
from storage.forks import Lock
from storage.open import open_store
from storage.sqlstate import translated
from storage.store import Store
from storage.transactions import transaction, writing


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseHealth:
    """What a database answered."""

    #: ``postgresql``, ``timescaledb`` or ``sqlite``.
    engine_name: str
    #: Product and version.
    server_version: str
    #: Revision of the relational half, ``None`` before the first; and the one that this code needs.
    revision: str | None
    needed_revision: str
    #: Version of the time series, 0 where there are none; and the one that this code needs.
    timeseries_version: int
    needed_timeseries_version: int
    #: Of one round trip, once connected.
    latency_ms: float

    @property
    def is_ready(self) -> bool:
        """Tell whether both halves of the schema are those of this code."""
        found = (self.revision, self.timeseries_version)
        return found == (self.needed_revision, self.needed_timeseries_version)


def upgrade(store: Store) -> None:
    """Bring both halves of the schema up to this code."""
    schema.upgrade(store.engine)
    store.provision()


class DatabaseManager:
    """
    A database, from its address to its sessions. Safe to be used by several threads at once.

    Use it as a context manager, or call ``close`` in the end. Nothing is connected, and no server is started, before
    it is used.

    Args:
        url: ``postgresql://user:password@host:port/database``, ``sqlite:///file``, or ``sqlite://`` for a database in
            memory, which this manager has to itself. ``None`` is the embedded PostgreSQL, which is shared with every
            other process that uses the same *home* and stops with the last of them.
        engine: ``postgresql`` or ``timescaledb``, where the server could be used as either; ``None`` asks it.
        home: Folder of the embedded PostgreSQL; ``None`` is ``FLEETPULSE_HOME``, else the platform's place for data.

    Raises:
        SettingsError: The address cannot be read, or the engine does not serve its kind.
    """

    def __init__(self, url: str | None = None, *, engine: str | None = None, home: Path | None = None) -> None:
        self._engine_name = engine
        self._server = EmbeddedServer(home) if url is None else None
        #: Guards what follows.
        self._lock = Lock()
        self._store = None if url is None else open_store(url, engine)
        self._is_closed = False
        #: The process that holds the embedded server: a child shares its parent's hold, and leaves it to the parent.
        self._pid: int | None = None

    # ---------------------------------------------------------------- use

    @property
    def store(self) -> Store:
        """
        Return the store; an embedded server is started, and made, where that has not been done yet.

        Raises:
            StorageError: The manager is closed, or the embedded server cannot be started.
        """
        with self._lock:
            if self._is_closed:
                raise StorageError("database is closed: make another DatabaseManager")
            if self._store is None:
                if self._server is None:
                    raise AssertionError("BUG: neither an address nor a server")
                url = self._server.start()
                self._pid = os.getpid()
                try:
                    self._store = open_store(url, self._engine_name)
                except BaseException:
                    self._server.stop()
                    raise
            return self._store

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[Session]:
        """
        Lend an ORM session with one transaction: committed at the end, rolled back when the block raises.

        Objects stay readable afterwards. What the driver raises comes out as an error of storage, everything else as
        it is.

        Args:
            read_only: Roll back in any case, and keep nobody from writing meanwhile, as on SQLite a session does that
                may write.

        Raises:
            PermanentStorageError: The data is at fault; nothing of the transaction was kept.
            OutcomeUnknown: The answer to the commit was lost; all of the transaction was kept, or nothing.
            TransientStorageError: The database could not take it now; nothing of the transaction was kept.
        """
        doing, engine = "database session", self.store.engine
        if read_only:
            with translated(doing), Session(engine, expire_on_commit=False) as session:
                yield session
        else:
            with transaction(writing(engine), doing) as session:
                yield session

    def close(self) -> None:
        """Give every connection back, and stop the embedded server if nobody else uses it; twice is harmless."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._store is not None:
                self._store.close()
            if self._server is not None and self._pid == os.getpid():
                self._server.stop()

    def __enter__(self) -> DatabaseManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---------------------------------------------------------------- schema

    def create_schema(self) -> None:
        """
        Make what the database lacks of both halves of the schema, or bring them up to this code; twice is harmless.

        Raises:
            SchemaMismatch: The database is newer than the code.
            TransientStorageError: The database could not be reached, or another one at work did not finish in time.
        """
        upgrade(self.store)

    #: The same, as those call it who have a schema already.
    upgrade = create_schema

    def check_schema(self) -> None:
        """
        Insist that both halves of the schema are those of this code.

        Raises:
            SchemaMismatch: They are not; the message names the remedy.
            TransientStorageError: The database could not be reached.
        """
        self.store.check_schema()

    def health_check(self) -> DatabaseHealth:
        """
        Ask the database what it is, and how far its schema is.

        Raises:
            TransientStorageError: The database could not be reached.
        """
        store = self.store
        found, needed = store.timeseries_version()
        revision = schema.current(store.engine)
        with translated("asking the database"), store.engine.connect() as connection:
            started = time.perf_counter()
            connection.execute(text("SELECT 1"))
            latency_ms = (time.perf_counter() - started) * 1000
        return DatabaseHealth(
            engine_name=store.engine_name,
            server_version=store.server_version(),
            revision=revision,
            needed_revision=schema.head(),
            timeseries_version=found,
            needed_timeseries_version=needed,
            latency_ms=latency_ms,
        )
