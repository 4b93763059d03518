"""
What a database needs besides its writer: refreshes, partitions ahead, retention.

A daemon whose role owns the tables does this by itself. One that may only write leaves it to a process of its own, so
that the role that can drop tables is not on the machine that talks to the fleet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue

from rollups.audit import Audit
from rollups.policy import RetentionPolicy
from rollups.refresh import RefreshSummary, refresh_all
from rollups.retention import RetentionResult
from rollups.retention import apply as apply_retention
from storage.errors import FleetpulseError, StorageError, TransientStorageError
from storage.layout import AHEAD
from storage.model import Window
from storage.store import Store

log = logging.getLogger(__name__)

#: Seconds between two looks at what has to be dropped, and at the partitions of the days to come.
HOUSEKEEPING_S = 600.0
#: Seconds that the work in hand has to come to its end; what is cut off then is taken back by the server.
LEAVE_S = 4.0


@dataclass(slots=True)
class _Job:
    """One kind of work, on a thread of its own: a proof may take minutes, and refreshes must not wait for it."""

    name: str
    every_s: float
    work: Callable[[], object]
    #: Whether the last run failed; only changes are logged.
    failing: bool = False

    def run(self, stop: threading.Event) -> None:
        """
        Work, wait, and so on until *stop*.

        Raises:
            FleetpulseError: What another try cannot cure.
        """
        while not stop.is_set():
            try:
                self.work()
            except TransientStorageError as exc:
                if not self.failing:
                    log.error("%s failed: %s", self.name, exc, extra={"event": "maintenance_failed"})
                self.failing = True
            else:
                if self.failing:
                    log.info("%s works again", self.name, extra={"event": "maintenance_works"})
                self.failing = False
            stop.wait(self.every_s)


def insist_owner(store: Store, work: str) -> None:
    """
    Insist that the role of *store* may do *work*.

    Raises:
        StorageError: It may only write or read.
    """
    if not store.may_maintain():
        raise StorageError(
            f"{work} is for the owner of the time series, found a role that may only write or read: use the address of "
            'the owner that "fleetpulse db roles" made'
        )


class Maintainer:
    """
    Keeps one database in order.

    Args:
        store: A store whose role owns the time series.
        policy: How long each tier is kept.
        refresh_s: Seconds between refreshes.
        now: Tells the time, aware UTC.
    """

    def __init__(
        self,
        store: Store,
        policy: RetentionPolicy,
        *,
        refresh_s: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._policy = policy
        self._now = now
        self._audit = Audit()
        self._jobs = (
            _Job("refresh", refresh_s, self.refresh),
            _Job("housekeeping", HOUSEKEEPING_S, self.housekeeping),
        )
        #: Why this has to end; written by the job that found it out.
        self._fatal: FleetpulseError | None = None

    def refresh(self) -> RefreshSummary:
        """Compute every closed bucket that is marked."""
        self._insist()
        return refresh_all(self._store, self._now(), grace=self._store.grace)

    def housekeeping(self) -> RetentionResult:
        """Make the partitions of the days to come, look at the server's own jobs, drop what is past its time."""
        self._insist()
        now = self._now()
        self._store.ensure_partitions(Window(now, now + AHEAD))
        self._audit.run(self._store, self._policy)
        return apply_retention(self._store, self._policy, now)

    def run(self, end: SimpleQueue[None]) -> None:
        """
        Do both, over and over; a database that is away is waited for.

        Args:
            end: Ends it with the first thing that is put in, which a signal handler may do: unlike an event's, a simple
                queue's lock is not taken twice when the signal meets the thread that waits.

        Raises:
            FleetpulseError: The database is of another revision, or the role does not own the time series.
        """
        stop = threading.Event()
        threads = [
            # Not to be waited for at the end of the process.
            threading.Thread(target=self._work, args=(job, stop, end), name=f"fleetpulse-{job.name}", daemon=True)
            for job in self._jobs
        ]
        for thread in threads:
            thread.start()
        end.get()
        stop.set()
        for thread in threads:
            thread.join(LEAVE_S / len(threads))
        if self._fatal is not None:
            raise self._fatal

    def _work(self, job: _Job, stop: threading.Event, end: SimpleQueue[None]) -> None:
        try:
            job.run(stop)
        except FleetpulseError as exc:
            self._fatal = exc
        except Exception as exc:
            log.exception("%s ended", job.name, extra={"event": "maintenance_ended"})
            self._fatal = FleetpulseError(f"{job.name} ended: {type(exc).__name__}: {exc}")
        finally:
            end.put(None)

    def _insist(self) -> None:
        """Insist on schema and role, each time: a database that comes back may be another one."""
        self._store.check_schema()
        insist_owner(self._store, "maintenance")
