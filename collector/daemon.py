"""
The daemon: builds every part, starts them in order, stops them in the opposite one.

What runs where: polls, status, buffer and the two pages on the event loop; the spool's file on a thread of its own; the
database's writing half on another; refreshes, retention and the like on threads of their own. Nothing on the event
loop waits for a disk or a database.

An end in order takes less than five seconds: no further slot (at once), running polls (1 s, then they are skipped), the
last flush, what the database takes of it (1.5 s; the rest stays in the spool), the session's end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from heapq import nsmallest
from uuid import uuid4

from collector.buffer import Buffer
from collector.config import CollectorConfig
from collector.counters import Counters
from collector.flush import Flusher
from collector.http_server import HttpServer, Page, render_health, render_metrics
from collector.poll import PolledAgent, Poller
from collector.probes.build import build_probe
from collector.probes.host import HostProbe
from collector.progress import Progress
from collector.progress_reader import ProgressReader
from collector.registry import CACHE_KEY, INTERNAL, Registry, encode_specs, load_counters, load_specs, merge
from collector.schedule import Schedule
from collector.snapshot import TROUBLES, Rate, Snapshot, Trouble, slots_by_label
from collector.spool import Spool
from collector.status import StatusMachine
from collector.tally import Tally
from collector.timeline import ClockStep, Timeline
from collector.upkeep import Upkeep
from collector.vitals import Vitals, VitalsProbe
from collector.writer import Writer
from rollups.policy import RetentionPolicy
from storage.model import AgentSpec, Outcome, Session, from_us
from storage.repositories import AgentRepository
from storage.specs import RESERVED_PREFIX
from storage.store import Store
from storage.versions import release

log = logging.getLogger(__name__)

#: Budgets of an orderly end, seconds: together below the five that an operator is promised.
POLLS_S = 1.0
FLUSH_S = 1.0
DRAIN_S = 1.5
CLOSE_S = 1.0

#: Seconds after which a thread lets the event loop have the interpreter.
SWITCH_S = 0.0005
#: Seconds between snapshots for the live table.
SNAPSHOT_S = 0.5
#: A full garbage collection over 10,000 agents and their series stops everything for 1.3 s. So it never happens by
#: itself; what lives long is frozen this many seconds after the start and after a change of agents (when the first
#: sweeps have taught the probes their series), and the rest, which is little, is collected at leisure.
FREEZE_S = (1.0, 20.0, 120.0)
COLLECT_S = 600.0
_NEVER = 1_000_000_000
#: Seconds between the lines that say what was polled.
REPORT_S = 60.0
#: Seconds between runs of retention, and of making partitions ahead; the first comes soon after the start.
RETENTION_S = 600.0
PARTITIONS_S = 600.0
FIRST_S = 5.0
#: Seconds until heartbeats and tasks are read first: long enough to connect to a database that is near, and no longer,
#: because the slots of agents that are judged by heartbeats are skipped until then.
PROGRESS_FIRST_S = 1.0
#: Status of an agent that nobody has to look after.
_UNTROUBLED = frozenset({Outcome.HEALTHY.label, Outcome.PAUSED.label})


def vitals_agent(name: str, interval_s: float) -> AgentSpec:
    """Return the agent that stands for collector *name* itself, which looks at itself every *interval_s* seconds."""
    return AgentSpec(
        name=f"{RESERVED_PREFIX}{name}",
        type="collector",
        probe=INTERNAL,
        interval_s=interval_s,
        timeout_s=interval_s,
        fall=1,
    )


def host_agent(host: str) -> str:
    """Return the name under which *host* is scheduled: its control character keeps it apart from every agent's."""
    return f"\x01host/{host}"


def file_agents(config: CollectorConfig) -> tuple[AgentSpec, ...]:
    """Return the agents that the settings file stands for: those that it names, and the collector itself."""
    return (*config.agents, vitals_agent(config.name, config.host_interval_s))


def insist_on_probes(config: CollectorConfig) -> None:
    """
    Insist that every agent of the settings file can be polled as it is described.

    Raises:
        SettingsError: An endpoint or an option is none that the agent's probe understands.
    """
    for spec in config.agents:
        build_probe(spec, credentials=config.credentials, limits=config.limits).close()


class Daemon:
    """
    One run of a collector; on the running event loop.

    Args:
        config: What to poll and where to keep it.
        open_store: Makes a store; called on the writer's thread, again after an error.
        policy: How long each tier is kept.
        on_snapshot: Is given the daemon's state twice a second, on the event loop.
        timeline: Clock for due times.

    Raises:
        SpoolLocked: Another daemon uses the folder.
        SpoolUnavailable: The folder cannot be used.
    """

    def __init__(
        self,
        config: CollectorConfig,
        open_store: Callable[[], Store],
        *,
        policy: RetentionPolicy,
        on_snapshot: Callable[[Snapshot], None] | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self._config = config
        self._on_snapshot = on_snapshot
        self._loop = asyncio.get_running_loop()
        self._timeline = timeline or Timeline()
        self._started_us = self._timeline.now_us()
        self._ended = asyncio.Event()
        # Guards the list that the database gave last: the writer's thread and the sync job bring one.
        self._handing_over = threading.Lock()
        self._specs: list[AgentSpec] = []
        self._freezing: list[asyncio.TimerHandle] = []
        # Of the sync job; ``None`` has it read the list again.
        self._fingerprint: int | None = None
        self.session = Session(
            uuid=str(uuid4()),
            name=config.name,
            host=config.host or socket.gethostname(),
            pid=os.getpid(),
            version=release(),
            started_at=from_us(self._started_us),
        )
        self._file_agents = file_agents(config)
        self.tally = Tally()
        self._spool = Spool(config.home, config.spool, self._timeline.now_us)
        try:
            self._build(open_store, policy)
        except BaseException:
            self._spool.close()
            raise

    def _build(self, open_store: Callable[[], Store], policy: RetentionPolicy) -> None:
        config, spool, now_us = self._config, self._spool, self._timeline.now_us
        counters = load_counters(spool)
        buffer = Buffer()
        self._poller = Poller(buffer, now_us, self.tally)
        self._schedule: Schedule[PolledAgent] = Schedule(self._timeline, self._poller, self._stepped)
        self._flusher = Flusher(buffer, self._poller, spool, self.session, self.tally, self._schedule.observed_to_us)
        self._writer = Writer(
            open_store,
            spool,
            self.session,
            self._file_agents,
            on_agents=self._hand_over_agents,
            on_end=lambda: self._call(self._ended.set),
        )
        self._vitals = Vitals(
            tally=self.tally,
            poller=self._poller,
            flusher=self._flusher,
            spool=spool,
            spool_max_bytes=config.spool.max_bytes,
            writer=self._writer,
            now_us=now_us,
            observed_to_us=self._schedule.observed_to_us,
            agents=lambda: len(self._registry.agents),
        )
        self._upkeep = Upkeep(lambda: self._writer.store, policy, now_us)
        progress = Progress(config.progress, refresh_s=config.sync_interval_s)
        self._progress_reader = ProgressReader(progress, lambda: self._writer.store)
        self._registry = Registry(
            self._schedule,
            self._poller,
            credentials=config.credentials,
            limits=config.limits,
            progress=progress,
            internal=lambda: VitalsProbe(self._vitals),
            statuses=spool.statuses(),
            counters=counters,
            besides=[self._host(counters)] if config.host else [],
        )
        self._pages = HttpServer({"/health": self._health_page, "/metrics": self._metrics_page})
        self._known = load_specs(spool)

    def _host(self, counters: dict[str, Counters]) -> PolledAgent:
        name = host_agent(self._config.host)
        interval_s = self._config.host_interval_s
        spec = AgentSpec(name=name, probe="host", interval_s=interval_s, timeout_s=interval_s)
        probe = HostProbe(self._config.limits)
        machine = StatusMachine(name, rise=1, fall=1)
        return PolledAgent(spec, probe, counters.get(name, Counters()), machine, host=self._config.host)

    # ---------------------------------------------------------------- run

    async def run(self, stop: asyncio.Event, run_for_s: float | None = None) -> int:
        """
        Poll until *stop* is set or *run_for_s* seconds have gone by; end in order.

        Returns:
            0; 1 when the last flush could not be written to the spool.

        Raises:
            FleetpulseError: What the daemon cannot go on with: a database of another revision, another collector,
                settings that contradict the database, a port that is taken. Everything is closed by then.
        """
        tasks: list[asyncio.Task[object]] = []
        try:
            await self._pages.start(self._config.listen_host, self._config.listen_port)
            self._registry.apply(merge(self._file_agents, self._known))
            self._add_jobs()
            self._vitals.lag.start()
            self._writer.start()
            self._schedule.start()
            self._freeze_soon()
            tasks.append(self._loop.create_task(self._flusher.run(self._config.flush_interval_s)))
            tasks.append(self._loop.create_task(self._tell()))
            log.info(
                "collector %s polls %d agents, /health and /metrics on %s:%d",
                self._config.name,
                len(self._registry.agents),
                self._config.listen_host,
                self._pages.port,
                extra={"event": "started", "agents": len(self._registry.agents), "port": self._pages.port},
            )
            await self._wait(stop, run_for_s, tasks)
        finally:
            flushed = await self._end(tasks)
        if self._writer.fatal is not None:
            raise self._writer.fatal
        return 0 if flushed else 1

    async def _wait(self, stop: asyncio.Event, run_for_s: float | None, tasks: Sequence[asyncio.Task[object]]) -> None:
        waits = [self._loop.create_task(stop.wait()), self._loop.create_task(self._ended.wait())]
        try:
            done, _ = await asyncio.wait([*waits, *tasks], timeout=run_for_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done.intersection(tasks):
                # These never end by themselves: whatever ended one is a defect that must not go on unseen.
                task.result()
        finally:
            for task in waits:
                task.cancel()

    def _add_jobs(self) -> None:
        config, every = self._config, self._schedule.every
        every("refresh", config.refresh_interval_s, self._upkeep.refresh)
        every("sync", config.sync_interval_s, self._sync)
        every("progress", config.sync_interval_s, self._progress_reader.read, first_s=PROGRESS_FIRST_S)
        every("partitions", PARTITIONS_S, self._upkeep.make_partitions, first_s=FIRST_S)
        every("retention", RETENTION_S, self._upkeep.apply_retention, first_s=2 * FIRST_S)

    # ---------------------------------------------------------------- end

    async def _end(self, tasks: Sequence[asyncio.Task[object]]) -> bool:
        """Stop everything in order; tell whether all that was polled is on the spool's disk."""
        started = time.monotonic()
        log.info("collector %s stops", self._config.name, extra={"event": "stopping"})
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._vitals.lag.stop()
        for timer in self._freezing:
            timer.cancel()
        gc.unfreeze()
        await asyncio.gather(self._schedule.stop(POLLS_S), self._poller.stop(timedelta(seconds=POLLS_S)))
        flushed = await self._last_flush()
        if self._writer.started:
            self._writer.stop(DRAIN_S)
            try:
                async with asyncio.timeout(DRAIN_S + CLOSE_S):
                    await self._ended.wait()
            except TimeoutError:
                log.warning(
                    "database takes too long: what it does not have stays in the spool",
                    extra={"event": "writer_left"},
                )
        await self._registry.close()
        await self._pages.close()
        if not self._writer.started or self._writer.ended.is_set():
            await self._close_spool()
        if not flushed:
            flushed = self._answer_of_last_flush()
        left = self._spool.stats().batches
        if self._on_snapshot is not None:
            self._on_snapshot(self._snapshot(Rate(), Rate()))
        self._report()
        log.info(
            "collector %s ended in %.1f s, %d batches wait in the spool",
            self._config.name,
            time.monotonic() - started,
            left,
            extra={"event": "stopped", "batches": left},
        )
        return flushed

    async def _last_flush(self) -> bool:
        try:
            async with asyncio.timeout(FLUSH_S):
                flushed = await self._flusher.flush()
        except TimeoutError:
            flushed = False
        if not flushed:
            rows = self._flusher.waiting_rows
            log.warning("the last %d rows are not known to be in the spool", rows, extra={"event": "flush_late"})
        return flushed

    async def _close_spool(self) -> None:
        """Let the spool finish what it was asked for and close it; leave it behind when its disk takes too long."""
        closed = asyncio.Event()

        def close() -> None:
            self._spool.close()
            self._call(closed.set)

        # Not a thread of the loop's pool: the process would wait for that one at its end.
        threading.Thread(target=close, name="fleetpulse-spool-close", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_S):
                await closed.wait()
        except TimeoutError:
            log.error("spool takes too long to close and is left behind", extra={"event": "spool_left"})

    def _answer_of_last_flush(self) -> bool:
        """Tell, now that the spool had its time, whether the flush that took too long was written after all."""
        if self._flusher.finish():
            log.info("the last flush is in the spool after all", extra={"event": "flush_finished"})
            return True
        rows = self._flusher.waiting_rows
        log.critical(
            "the last %d rows could not be written and are lost", rows, extra={"event": "flush_lost", "rows": rows}
        )
        return False

    # ---------------------------------------------------------------- jobs, on threads of their own

    def _sync(self) -> None:
        store = self._writer.store
        if store is None:
            return
        repository = AgentRepository(store.engine)
        fingerprint = repository.fingerprint()
        if fingerprint != self._fingerprint:
            specs = repository.active_specs()
            # Before the list is handed over: when it cannot be remembered this is taken back, and the next run tries.
            self._fingerprint = fingerprint
            self._hand_over_agents(specs)

    # ---------------------------------------------------------------- agents

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call *function* on the event loop, from any thread; nothing happens when the loop has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _hand_over_agents(self, specs: Sequence[AgentSpec]) -> None:
        """Poll what the database says, and remember it for a start without the database; not on the event loop."""
        with self._handing_over:
            if list(specs) == self._specs:
                return
            self._specs = list(specs)
            self._call(self._take_agents, tuple(specs))
            names = [spec.name for spec in specs] + ([host_agent(self._config.host)] if self._config.host else [])
            futures = (self._spool.put(CACHE_KEY, encode_specs(specs)), self._spool.forget_agents(names))
        for future in futures:
            future.add_done_callback(self._remembered_agents)

    def _take_agents(self, specs: Sequence[AgentSpec]) -> None:
        if not self._poller.stopping and self._registry.apply(specs):
            self._freeze_soon()

    def _remembered_agents(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            log.warning("agent list was not remembered: %s", error, extra={"event": "agents_not_remembered"})
            with self._handing_over:
                self._specs = []
            self._fingerprint = None

    def _freeze_soon(self) -> None:
        """Freeze what lives long: soon, and again when the first sweeps have taught the probes their series."""
        for timer in self._freezing:
            timer.cancel()
        self._freezing = [self._loop.call_later(after_s, _freeze) for after_s in FREEZE_S]

    def _stepped(self, step: ClockStep) -> None:
        self.tally.clock_steps += 1

    # ---------------------------------------------------------------- telling

    async def _tell(self) -> None:
        slots, samples = Rate(), Rate()
        reported = collected = time.monotonic()
        while True:
            if self._on_snapshot is not None:
                self._on_snapshot(self._snapshot(slots, samples))
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                self._report()
            if time.monotonic() - collected >= COLLECT_S:
                collected = time.monotonic()
                gc.collect()
            await asyncio.sleep(SNAPSHOT_S)

    def _snapshot(self, slots: Rate, samples: Rate) -> Snapshot:
        now_us = self._timeline.now_us()
        # One pass without a generator: 2 ms for 10,000 agents, and every millisecond here is one of some slot's.
        statuses: dict[str, int] = {}
        troubled: list[PolledAgent] = []
        for agent in self._registry.agents.values():
            status = Outcome.PAUSED.label if agent.spec.paused else agent.machine.status
            statuses[status] = statuses.get(status, 0) + 1
            if status not in _UNTROUBLED:
                troubled.append(agent)
        return Snapshot(
            now_us=now_us,
            started_us=self._started_us,
            statuses=statuses,
            slots=slots_by_label(self.tally),
            slots_per_s=slots.per_s(now_us, sum(self.tally.slots)),
            samples_per_s=samples.per_s(now_us, self.tally.samples),
            running=self._poller.running,
            lateness=self.tally.lateness(),
            waiting_rows=self._flusher.waiting_rows,
            spool=self._spool.stats(),
            spool_max_bytes=self._config.spool.max_bytes,
            writer=self._writer.stats(),
            lost_slots=self.tally.lost_slots,
            rejected=dict(self.tally.rejected),
            transitions=tuple(self.tally.transitions),
            troubled=_troubles(troubled),
            refreshed_us=self._upkeep.refreshed_us,
            listen_port=self._pages.port,
        )

    def _report(self) -> None:
        """Write the one line that says what has been polled since the start."""
        late, spool, writer = self.tally.lateness(), self._spool.stats(), self._writer.stats()
        slots = slots_by_label(self.tally)
        log.info(
            "polled: %s; lateness p50 %.1f ms, p99 %.1f ms; written %d rows; spool %d batches, %.1f MB",
            ", ".join(f"{n} {label}" for label, n in slots.items()) or "nothing yet",
            late.p50_ms,
            late.p99_ms,
            writer.rows,
            spool.batches,
            spool.size_bytes / 1e6,
            extra={
                "event": "polled",
                "slots": slots,
                "late_p50_ms": late.p50_ms,
                "late_p99_ms": late.p99_ms,
                "rows": writer.rows,
                "spool_batches": spool.batches,
                "spool_bytes": spool.size_bytes,
            },
        )

    def _health_page(self) -> Page:
        return render_health(self._vitals, name=self._config.name, version=self.session.version)

    def _metrics_page(self) -> Page:
        return Page(
            status=200,
            content_type="text/plain; version=0.0.4; charset=utf-8",
            body=render_metrics(self._vitals.samples()),
        )


def _troubles(agents: Sequence[PolledAgent]) -> tuple[Trouble, ...]:
    """Return the first of *agents*, by name, as the live table shows them."""
    return tuple(
        Trouble(
            agent=agent.spec.name,
            status=agent.machine.status,
            since_us=agent.machine.since_us,
            reason=agent.machine.reason or agent.reason,
            latency_ms=agent.latency_ms,
        )
        for agent in nsmallest(TROUBLES, agents, key=lambda agent: agent.spec.name)
    )


async def run(
    config: CollectorConfig,
    open_store: Callable[[], Store],
    *,
    policy: RetentionPolicy,
    stop: asyncio.Event,
    run_for_s: float | None = None,
    on_snapshot: Callable[[Snapshot], None] | None = None,
) -> int:
    """Run one daemon on the running event loop until *stop* is set; see ``Daemon`` and ``Daemon.run``."""
    daemon = Daemon(config, open_store, policy=policy, on_snapshot=on_snapshot)
    return await daemon.run(stop, run_for_s)


def main(
    config: CollectorConfig,
    open_store: Callable[[], Store],
    *,
    policy: RetentionPolicy,
    run_for_s: float | None = None,
    on_snapshot: Callable[[Snapshot], None] | None = None,
) -> int:
    """
    Run one daemon in this process until SIGTERM, SIGINT or *run_for_s*; return the exit code.

    Must be called on the main thread, which is where signals arrive.

    Raises:
        FleetpulseError: What the daemon cannot start or go on with.
    """
    _raise_file_limit()
    # Threads that compute (a refresh's bookkeeping, a list of 10,000 agents) hold the interpreter for this long while
    # the event loop waits: 5 ms by default, several times per slot.
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*gc.get_threshold()[:2], _NEVER)

    async def until_signal() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        return await run(config, open_store, policy=policy, stop=stop, run_for_s=run_for_s, on_snapshot=on_snapshot)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(until_signal())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop there is: uvloop's, twice as fast, where it is installed."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _freeze() -> None:
    # Young garbage first, or it would stay for good.
    gc.collect(1)
    gc.freeze()


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have: every agent may keep one connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
