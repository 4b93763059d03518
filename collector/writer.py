"""
The writer: a thread that carries batches from the spool to the database, and everything else that needs its connection.

It is the only thread that uses the store's writing half. What the database cannot take now is offered again, with
back-off; what it will never take is set aside and counted. Whatever goes wrong, the session is opened anew before the
next batch: schema, lock, identity of the server. For a connection that came back may lead to another server, to another
revision, or to a database that another collector has taken meanwhile.

Three things end the daemon: a database of another revision, another collector that stays, and a settings error that
only the database can see (an agent of the file that is also in the database).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from collector.spool import Spool
from collector.spool_database import SpoolError
from storage.batch import Batch
from storage.errors import (
    BatchError,
    CollectorRunning,
    FleetpulseError,
    PermanentStorageError,
    TransientStorageError,
)
from storage.model import AgentSpec, Session
from storage.repositories import AgentRepository
from storage.store import Store

log = logging.getLogger(__name__)

#: Seconds before the second try; doubled up to the most, and drawn from the upper half, so that several collectors do
#: not come back in step.
BACKOFF_FIRST_S = 0.25
BACKOFF_MOST_S = 15.0
#: A killed daemon's backend notices within a second or two; whoever holds the database longer is alive.
CLAIM_S = 5.0
#: Seconds for which the thread sleeps at most when there is nothing to write.
IDLE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStats:
    """What the writer has done since the daemon started."""

    #: ``connecting``, ``up`` or ``down``.
    state: str = "connecting"
    #: Why it is down; empty otherwise.
    error: str = ""
    batches: int = 0
    replayed: int = 0
    rows: int = 0
    #: Rows that the database refused, for ever.
    rejected: int = 0
    #: Failed attempts, and batches that were set aside.
    failures: int = 0
    set_aside: int = 0
    #: How long the last write took, and the slowest of the latest, milliseconds.
    last_ms: float = 0.0
    slowest_ms: float = 0.0


class Writer:
    """
    Drains the spool into the database.

    Args:
        open_store: Makes a store; nothing is connected yet.
        spool: Where batches come from.
        session: This run of the collector.
        agents: Agents of the settings file, the collector's own among them.
        on_agents: Is given the database's agents after every sync; called on the writer's thread.
        on_end: Is called when the thread has ended, on that thread.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        spool: Spool,
        session: Session,
        agents: Sequence[AgentSpec],
        *,
        on_agents: Callable[[Sequence[AgentSpec]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._open_store = open_store
        self._spool = spool
        self._session = session
        self._agents = agents
        self._on_agents = on_agents
        self._on_end = on_end
        # The store is made and closed by this thread; jobs of other threads borrow it while it is there.
        self._store: Store | None = None
        self._synced = False
        self._ready = False
        self._backoff_s = BACKOFF_FIRST_S
        self._slowest: list[float] = []
        # Guards the statistics: written here, read by everybody.
        self._lock = threading.Lock()
        self._stats = WriterStats()
        self._stop = threading.Event()
        self._drain_until = 0.0
        #: ``start`` was called.
        self.started = False
        #: Set when the thread has ended, however it did.
        self.ended = threading.Event()
        #: Why the daemon has to end; ``None`` while it need not.
        self.fatal: FleetpulseError | None = None
        self._thread = threading.Thread(target=self._run, name="fleetpulse-writer", daemon=True)

    # ---------------------------------------------------------------- for the others

    def start(self) -> None:
        """Begin to write."""
        self.started = True
        self._thread.start()

    def stop(self, drain_s: float) -> None:
        """Ask the thread to write what there is for *drain_s* seconds at most, then to close the session and end."""
        self._drain_until = time.monotonic() + drain_s
        self._stop.set()
        self._spool.wake()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; tell whether it has ended."""
        return self.ended.wait(timeout_s)

    @property
    def store(self) -> Store | None:
        """Return the store while the database is there; for jobs that read, refresh and clean up."""
        return self._store if self._ready else None

    def stats(self) -> WriterStats:
        """Return what was done so far."""
        with self._lock:
            return self._stats

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._step(IDLE_S)
            while time.monotonic() < self._drain_until and self._ready and self._spool.stats().batches:
                if not self._step(0.0):
                    break
            self._close_session()
        except FleetpulseError as exc:
            self.fatal = exc
        except Exception as exc:
            log.exception("writer ended", extra={"event": "writer_failed"})
            self.fatal = FleetpulseError(f"writer ended: {type(exc).__name__}: {exc}")
        finally:
            self._ready = False
            if self._store is not None:
                self._store.close()
            self.ended.set()
            self._on_end()

    def _step(self, idle_s: float) -> bool:
        """Connect where that is needed, write one batch where there is one; tell whether one was written."""
        try:
            if self._store is None:
                self._store = self._open_store()
            store = self._store
            if not self._ready:
                self._connect(store)
            self._tell_abandoned(store)
            batch = self._spool.take(idle_s)
            if batch is not None:
                self._write(store, batch)
            self._works(store)
        except TransientStorageError as exc:
            self._ready = False
            self._failed(exc)
            return False
        except SpoolError as exc:
            # The flusher meets the same disk and says so; here it only means to wait.
            self._set(failures=self.stats().failures + 1)
            log.debug("spool: %s", exc)
            self._stop.wait(IDLE_S)
            return False
        return batch is not None

    def _connect(self, store: Store) -> None:
        store.check_schema()
        self._claim(store)
        store.open_session(self._session)
        again = self._spool.meet_server(store.server_identity())
        if again:
            log.warning(
                "database is another one than before: %d committed batches are offered again",
                again,
                extra={"event": "server_changed", "batches": again},
            )
        self.sync(store)
        self._ready = True

    def _works(self, store: Store) -> None:
        """Note that the database does what it is asked; connecting alone proves little."""
        self._backoff_s = BACKOFF_FIRST_S
        if self.stats().state == "up":
            return
        log.info(
            "database is there: %s %s",
            store.engine_name,
            store.server_version(),
            extra={"event": "database_up", "engine": store.engine_name},
        )
        self._set(state="up", error="")

    def _claim(self, store: Store) -> None:
        give_up = time.monotonic() + CLAIM_S
        waiting = False
        while True:
            try:
                store.claim_collector(self._session.name)
                return
            except CollectorRunning as exc:
                if time.monotonic() >= give_up or self._stop.is_set():
                    raise
                if not waiting:
                    waiting = True
                    log.warning("%s; waiting %g s for it to end", exc, CLAIM_S, extra={"event": "database_taken"})
                self._stop.wait(0.25)

    def sync(self, store: Store) -> None:
        """Bring the file's agents into the database once, and tell what the database says is to be polled."""
        repository = AgentRepository(store.engine)
        if not self._synced:
            # As of the start: polls that waited in the spool for the database are of scheduled slots, too.
            repository.sync(self._agents, "file", self._session.started_at)
            self._synced = True
        self._on_agents(repository.active_specs())

    def _tell_abandoned(self, store: Store) -> None:
        if not self._spool.stats().abandoned:
            return
        for spool_id, seqs, reason in self._spool.abandoned():
            store.abandon(seqs, spool_id, reason)
            self._spool.abandon_recorded(spool_id, seqs)

    def _write(self, store: Store, batch: Batch) -> None:
        started = time.monotonic()
        try:
            result = store.write(batch)
        except (BatchError, PermanentStorageError) as exc:
            # A batch that names nothing the database could object to is the rule, so this is a defect somewhere; it
            # must not hold up the batches behind it.
            log.error("batch %s is set aside: %s", batch.name, exc, extra={"event": "batch_set_aside"})
            self._spool.set_aside(batch, "quarantined")
            self._set(set_aside=self.stats().set_aside + 1)
            return
        if result.kept:
            raise TransientStorageError(f"batch {batch.name}: {result.kept} rows were not written")
        self._spool.committed(batch)
        took_ms = (time.monotonic() - started) * 1000.0
        self._slowest = [*self._slowest[-99:], took_ms]
        stats = self.stats()
        self._set(
            batches=stats.batches + 1,
            replayed=stats.replayed + result.replayed,
            rows=stats.rows + result.accepted,
            rejected=stats.rejected + result.rejections,
            last_ms=took_ms,
            slowest_ms=max(self._slowest),
        )
        log.debug(
            "batch %s: %d rows in %.1f ms",
            batch.name,
            result.accepted,
            took_ms,
            extra={"event": "batch", "rows": result.accepted, "took_ms": took_ms, "replayed": result.replayed},
        )
        if result.rejections:
            log.warning(
                "batch %s: %d rows were refused: %s",
                batch.name,
                result.rejections,
                ", ".join(f"{reason} {n}" for reason, n in sorted(result.rejected.items())),
                extra={"event": "rows_rejected", "rows": result.rejections},
            )

    def _failed(self, exc: TransientStorageError) -> None:
        """Note a failure, wait; the first of a row is logged, the others only counted."""
        stats = self.stats()
        if stats.state != "down":
            log.error(
                "database is away, batches wait in the spool: %s",
                exc,
                extra={"event": "database_down", "sqlstate": exc.sqlstate},
            )
        self._set(state="down", error=str(exc), failures=stats.failures + 1)
        wait_s = self._backoff_s * random.uniform(0.5, 1.0)
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MOST_S)
        self._stop.wait(wait_s)

    def _close_session(self) -> None:
        if self._store is not None and self._ready:
            try:
                self._store.close_session(self._session)
            except TransientStorageError as exc:
                log.warning("end of the session was not recorded: %s", exc, extra={"event": "session_left_open"})

    def _set(self, **changes: object) -> None:
        with self._lock:
            self._stats = replace(self._stats, **changes)  # type: ignore[arg-type]  # fields of WriterStats
