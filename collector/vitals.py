"""
The daemon's own health and metrics: stored as those of agent ``fleetpulse/<name>``, served on ``/health`` and ``/metrics``.

One list of samples for both, so that what is scraped and what is stored cannot differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import time

import psutil

from collector.flush import Flusher
from collector.poll import Poller
from collector.probes.reading import Reading
from collector.schedule import Schedule
from collector.spool import Spool
from collector.tally import Tally
from collector.timeline import Timeline
from collector.writer import Writer
from storage.model import Kind, MetricKey, Outcome

#: A slot that is started this late is a sign that the machine is too small for the fleet, milliseconds.
LATE_MS = 1_000.0
#: Part of the spool's bound from which on its filling is a warning.
SPOOL_WARN = 0.8
#: How often the loop is asked how late it is, seconds.
LAG_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """One part of the daemon's health, in the words of draft-inadarei-api-health-check."""

    #: ``pass``, ``warn`` or ``fail``.
    status: str
    component_type: str
    observed_value: float
    observed_unit: str
    #: What is wrong; empty otherwise.
    output: str = ""


_WORST = {"pass": 0, "warn": 1, "fail": 2}
_OUTCOMES = {"pass": Outcome.HEALTHY, "warn": Outcome.DEGRADED, "fail": Outcome.UNHEALTHY}


class LoopLag:
    """How late the event loop gets to what it was asked to do."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._largest_ms = 0.0

    def start(self) -> None:
        """Begin to measure, on the running loop."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + LAG_S
        self._handle = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._largest_ms = max(self._largest_ms, (loop.time() - self._due) * 1000.0)
        self.start()

    def take_ms(self) -> float:
        """Return the largest lag since the last call, milliseconds."""
        largest, self._largest_ms = self._largest_ms, 0.0
        return largest

    def stop(self) -> None:
        """Measure no longer."""
        if self._handle is not None:
            self._handle.cancel()


class Vitals:
    """
    Collects the daemon's own figures, on the event loop.

    Args:
        agents: Returns the number of agents.
    """

    def __init__(
        self,
        *,
        tally: Tally,
        poller: Poller,
        schedule: Schedule[object],  # type: ignore[type-var]  # whatever it schedules
        flusher: Flusher,
        spool: Spool,
        spool_max_bytes: int,
        writer: Writer,
        timeline: Timeline,
        lag: LoopLag,
        agents: Callable[[], int],
    ) -> None:
        self._tally = tally
        self._poller = poller
        self._schedule = schedule
        self._flusher = flusher
        self._spool = spool
        self._spool_max_bytes = spool_max_bytes
        self._writer = writer
        self._timeline = timeline
        self._lag = lag
        self._agents = agents
        self._process = psutil.Process()
        self._keys: dict[tuple[str, str], MetricKey] = {}
