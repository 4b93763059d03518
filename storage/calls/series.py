"""
Calls about what was measured: health checks and samples, which go the way of the collector's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from storage.batch import WriteResult
from storage.client_rows import HealthCheck, Sample
from storage.clock import Clock
from storage.errors import StorageError
from storage.forks import Lock
from storage.model import Kind, Outcome
from storage.recorder import Recorder
from storage.store import Store


class SeriesCalls:
    """
    Calls that write time series: through ledger, marks and horizons, exactly as the collector does.

    A row that may not be stored (too old, not a finite number) is counted in the answer, and the others are written.
    """

    def __init__(self, store: Store, name: str, clock: Clock) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        #: Guards the recorder's making: there is one, and none before it is needed, because it asks for the time.
        self._making = Lock()
        self._made: Recorder | None = None
        self._is_closed = False

    @property
    def _recorder(self) -> Recorder:
        with self._making:
            if self._is_closed:
                raise StorageError(f"service {self._name} is closed: make another PersistenceService")
            if self._made is None:
                self._made = Recorder(self._store, name=self._name, clock=self._clock)
            return self._made

    def close(self) -> None:
        """
        Record that this client has ended, where it wrote measurements; it writes none afterwards.

        The database stays open: others may use it.

        Raises:
            TransientStorageError: The database could not be reached.
        """
        with self._making:
            made, self._made, self._is_closed = self._made, None, True
        if made is not None:
            made.close()

    def log_health_check(
        self,
        agent: str,
        outcome: Outcome | str,
        *,
        at: datetime | None = None,
        latency_ms: float | None = None,
        http_status: int = 0,
        reason: str = "",
    ) -> WriteResult:
        """
        Record how an agent was found by somebody other than the collector; every report counts it.

        Args:
            outcome: An ``Outcome``, or its name in lower case: ``healthy``, ``timeout``.
            at: When; ``None`` is now.
            latency_ms: Until it answered; ``None`` where it did not.
            http_status: 0 where there was none.
            reason: Why, in a few words from a small set.

        Returns:
            Rows that were written, and those that may not be stored, by reason: these raise nothing.

        Raises:
            UnknownName: There is no such agent.
            InputError: Something else cannot be stored.
            TransientStorageError: The database could not take it now; the same call may be made again.
        """
        return self._recorder.health_check(
            agent, outcome, at=at, latency_ms=latency_ms, http_status=http_status, reason=reason
        )

    def log_health_checks(self, checks: Iterable[HealthCheck]) -> WriteResult:
        """
        Record many checks, of any agents and moments.

        Returns:
            Rows that were written, and those that may not be stored, by reason: these raise nothing.

        Raises:
            UnknownName: There is no such agent; nothing was written.
            InputError: Something else cannot be stored; nothing was written.
            TransientStorageError: The database could not take it now; the same call may be made again.
        """
        return self._recorder.health_checks(checks)

    def update_agent_metrics(
        self,
        agent: str,
        values: Mapping[str, float],
        *,
        at: datetime | None = None,
        kind: Kind | str = Kind.GAUGE,
        labels: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> WriteResult:
        """
        Record one value of each metric of an agent.

        Args:
            values: By metric; of counters the increase since the last call, never the reading.
            at: When; ``None`` is now.
            kind: ``gauge`` or ``counter``, of all of them.
            labels: Of all of them; part of each metric's identity.
            units: By metric: ``ms``, ``By``, ``1``.

        Returns:
            Rows that were written, and those that may not be stored, by reason: these raise nothing.

        Raises:
            UnknownName: There is no such agent.
            InputError: Something else cannot be stored.
            TransientStorageError: The database could not take it now; the same call may be made again.
        """
        return self._recorder.agent_metrics(agent, values, at=at, kind=kind, labels=labels, units=units)

    def log_system_metrics(
        self,
        host: str,
        values: Mapping[str, float],
        *,
        at: datetime | None = None,
        kind: Kind | str = Kind.GAUGE,
        labels: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> WriteResult:
        """
        Record one value of each metric of a machine, which becomes known by this.

        Args:
            values: By metric; of counters the increase since the last call, never the reading.
            at: When; ``None`` is now.
            kind: ``gauge`` or ``counter``, of all of them.
            labels: Of all of them; part of each metric's identity.
            units: By metric: ``ms``, ``By``, ``1``.

        Returns:
            Rows that were written, and those that may not be stored, by reason: these raise nothing.

        Raises:
            InputError: Something cannot be stored.
            TransientStorageError: The database could not take it now; the same call may be made again.
        """
        return self._recorder.system_metrics(host, values, at=at, kind=kind, labels=labels, units=units)

    def log_samples(self, samples: Iterable[Sample]) -> WriteResult:
        """
        Record many samples, of any agents, machines, metrics and moments.

        Returns:
            Rows that were written, and those that may not be stored, by reason: these raise nothing.

        Raises:
            UnknownName: There is no such agent; nothing was written.
            InputError: Something else cannot be stored; nothing was written.
            TransientStorageError: The database could not take it now; the same call may be made again.
        """
        return self._recorder.samples(samples)
