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
from collector.spool import Spool
from collector.tally import Tally
from collector.writer import Writer
from storage.model import Kind, MetricKey, Outcome

#: A slot that is started this late is a sign that the machine is too small for the fleet, milliseconds.
LATE_MS = 1_000.0
#: Part of the spool's bound from which on its filling is a warning.
SPOOL_WARN = 0.8
#: How often the loop is asked how late it is, seconds.
LAG_S = 0.1
#: Seconds after which a lag begins to be forgotten.
LAG_WINDOW_S = 30.0


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
    """How late the event loop gets to what it was asked to do; the largest of the last half to whole minute."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._window_end = 0.0
        self._before_ms = self._now_ms = 0.0

    def start(self) -> None:
        """Begin to measure, on the running loop."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + LAG_S
        self._handle = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._window_end:
            self._window_end = now + LAG_WINDOW_S
            self._before_ms, self._now_ms = self._now_ms, 0.0
        self._now_ms = max(self._now_ms, (now - self._due) * 1000.0)
        self.start()

    @property
    def largest_ms(self) -> float:
        """Return the largest lag, milliseconds."""
        return max(self._before_ms, self._now_ms)

    def stop(self) -> None:
        """Measure no longer."""
        if self._handle is not None:
            self._handle.cancel()


class Vitals:
    """
    Collects the daemon's own figures, on the event loop.

    Args:
        observed_to_us: Returns the moment before which every slot was begun.
        agents: Returns the number of agents.
    """

    def __init__(
        self,
        *,
        tally: Tally,
        poller: Poller,
        flusher: Flusher,
        spool: Spool,
        spool_max_bytes: int,
        writer: Writer,
        now_us: Callable[[], int],
        observed_to_us: Callable[[], int],
        agents: Callable[[], int],
    ) -> None:
        self._tally = tally
        self._poller = poller
        self._flusher = flusher
        self._spool = spool
        self._spool_max_bytes = spool_max_bytes
        self._writer = writer
        self._now_us = now_us
        self._observed_to_us = observed_to_us
        self._agents = agents
        self.lag = LoopLag()
        self._process = psutil.Process()
        self._keys: dict[tuple[str, tuple[tuple[str, str], ...]], MetricKey] = {}

    # ---------------------------------------------------------------- metrics

    def samples(self) -> list[tuple[MetricKey, float]]:
        """Return every figure of now; counters since the daemon started."""
        found: list[tuple[MetricKey, float]] = []

        def gauge(name: str, value: float, unit: str, text: str, **labels: str) -> None:
            found.append((self._key(name, Kind.GAUGE, unit, text, labels), float(value)))

        def counter(name: str, value: float, unit: str, text: str, **labels: str) -> None:
            found.append((self._key(name, Kind.COUNTER, unit, text, labels), float(value)))

        tally, spool, writer = self._tally, self._spool.stats(), self._writer.stats()
        late = tally.lateness()
        now_us = self._now_us()
        for outcome in Outcome:
            counter("fleetpulse_slots_total", tally.slots[outcome], "1", "Slots by outcome.", outcome=outcome.label)
        for quantile, value in (("0.5", late.p50_ms), ("0.99", late.p99_ms), ("1", late.max_ms)):
            gauge("fleetpulse_slot_lateness_ms", value, "ms", "From due time to poll, latest polls.", quantile=quantile)
        counter("fleetpulse_polls_total", tally.polls, "1", "Polls begun.")
        counter("fleetpulse_samples_total", tally.samples, "1", "Samples handed to the spool.")
        counter("fleetpulse_lost_slots_total", tally.lost_slots, "1", "Slots that became losses in the collector.")
        counter("fleetpulse_probe_errors_total", tally.probe_errors, "1", "Errors inside probes.")
        counter("fleetpulse_clock_steps_total", tally.clock_steps, "1", "Times that the wall clock was set.")
        for reason, n in sorted(tally.rejected.items()):
            counter("fleetpulse_rejected_samples_total", n, "1", "Samples refused, by reason.", reason=reason)
        gauge("fleetpulse_agents", self._agents(), "1", "Agents polled.")
        gauge("fleetpulse_polls_running", self._poller.running, "1", "Polls that run now.")
        gauge("fleetpulse_loop_lag_ms", self.lag.largest_ms, "ms", "Latest largest lag of the event loop.")
        gauge("fleetpulse_waiting_rows", self._flusher.waiting_rows, "1", "Rows that the spool does not have yet.")
        counter("fleetpulse_dropped_rows_total", self._flusher.dropped_rows + spool.dropped_rows, "1", "Rows given up.")
        gauge("fleetpulse_spool_bytes", spool.size_bytes, "By", "Size of the spool with its log.")
        gauge("fleetpulse_spool_batches", spool.batches, "1", "Batches that the database does not have.")
        gauge("fleetpulse_spool_rows", spool.rows, "1", "Rows that the database does not have.")
        age_s = max(0.0, (now_us - spool.oldest_us) / 1e6) if spool.oldest_us else 0.0
        gauge("fleetpulse_spool_oldest_age_seconds", age_s, "s", "Age of the oldest batch that waits.")
        gauge("fleetpulse_database_up", writer.state == "up", "1", "1 while batches can be written.")
        counter("fleetpulse_written_rows_total", writer.rows, "1", "Rows written to the database.")
        counter("fleetpulse_written_batches_total", writer.batches, "1", "Batches written to the database.")
        counter("fleetpulse_refused_rows_total", writer.rejected, "1", "Rows that the database refused.")
        counter("fleetpulse_write_failures_total", writer.failures, "1", "Attempts to write that failed.")
        gauge("fleetpulse_batch_write_ms", writer.last_ms, "ms", "How long the last batch took.")
        gauge("fleetpulse_batch_write_max_ms", writer.slowest_ms, "ms", "Slowest of the last hundred batches.")
        with self._process.oneshot():
            cpu = self._process.cpu_times()
            gauge("process_resident_memory_bytes", self._process.memory_info().rss, "By", "Memory of the daemon.")
            counter("process_cpu_seconds_total", cpu.user + cpu.system, "s", "CPU time of the daemon.")
        return found

    def _key(self, name: str, kind: Kind, unit: str, text: str, labels: Mapping[str, str]) -> MetricKey:
        pairs = tuple(sorted(labels.items()))
        key = self._keys.get((name, pairs))
        if key is None:
            key = MetricKey(name=name, labels=pairs, kind=kind, unit=unit, description=text)
            self._keys[name, pairs] = key
        return key

    @property
    def started_s(self) -> float:
        """Return when the process started, Unix seconds."""
        return self._process.create_time()

    # ---------------------------------------------------------------- health

    def checks(self) -> dict[str, HealthCheck]:
        """Return the parts of the daemon's health."""
        spool, writer = self._spool.stats(), self._writer.stats()
        filled = spool.size_bytes / self._spool_max_bytes
        if not self._spool.alive:
            state, output = "fail", "its thread has ended, rows wait in memory"
        elif self._flusher.refused:
            state, output = "fail", f"the disk refuses, {self._flusher.waiting_rows} rows wait in memory"
        elif filled > SPOOL_WARN:
            state, output = "warn", f"{filled:.0%} of {self._spool_max_bytes} bytes are used"
        else:
            state, output = "pass", ""
        late = self._tally.lateness()
        behind_ms = max(0.0, (self._now_us() - self._observed_to_us()) / 1000.0)
        slow = max(late.p99_ms, behind_ms)
        return {
            "database": HealthCheck(
                # The spool takes what comes meanwhile, so a database that is away is no failure of the daemon.
                status="pass" if writer.state == "up" else "warn",
                component_type="datastore",
                observed_value=float(spool.batches),
                observed_unit="batches waiting",
                output=writer.error or ("" if writer.state == "up" else "not connected yet"),
            ),
            "spool": HealthCheck(
                status=state,
                component_type="component",
                observed_value=float(spool.size_bytes),
                observed_unit="By",
                output=output,
            ),
            "schedule": HealthCheck(
                status="warn" if slow > LATE_MS else "pass",
                component_type="component",
                observed_value=round(slow, 3),
                observed_unit="ms",
                output=f"polls start {slow:.0f} ms late" if slow > LATE_MS else "",
            ),
        }

    def health(self) -> tuple[str, str]:
        """Return ``pass``, ``warn`` or ``fail``, and which parts say so."""
        checks = self.checks()
        status = max((check.status for check in checks.values()), key=_WORST.__getitem__)
        return status, ", ".join(name for name, check in checks.items() if check.status != "pass")


class VitalsProbe:
    """The probe of the daemon's own agent: looks at ``Vitals`` instead of at a network."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._metrics: list[MetricKey] = []

    async def poll(self, deadline_s: float) -> Reading:
        """Return the daemon's own figures."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        samples = self._vitals.samples()
        status, parts = self._vitals.health()
        metrics = [key for key, _ in samples]
        if metrics != self._metrics:
            self._metrics = metrics
        return Reading(
            outcome=_OUTCOMES[status],
            latency_ms=(loop.time() - started) * 1000.0,
            reason=parts,
            metrics=self._metrics,
            values=[value for _, value in samples],
            process_start=self._vitals.started_s,
            at_s=time(),
        )

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""
