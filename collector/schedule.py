"""
The schedule: APScheduler drives cohorts of agents, and the daemon's own jobs. Nothing else imports APScheduler.

One job per cohort, not per agent: a wake-up costs APScheduler some 0.3 ms, whatever it wakes, and a fleet of 10,000
has 150 cohorts at 15 s. APScheduler only wakes; what is due is worked out from the timeline in ``collector.cohorts``.
That matters when clocks are set: left to itself APScheduler runs nothing for an hour after a step of one hour back,
and 2 runs of 15 after a stall of 3 s. So triggers are computed from the timeline, a watchdog compares it with the
wall clock four times a second, and a step gives every job a new time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from collector.cohorts import EARLY_US, Cohorts, Grid, Scheduled
from collector.timeline import ClockStep, Timeline
from storage.model import from_us, to_us

log = logging.getLogger(__name__)

A = TypeVar("A", bound=Scheduled)
A_contra = TypeVar("A_contra", contravariant=True)

#: Seconds between comparisons of the timeline with the wall clock: the most that a step delays a slot.
WATCH_S = 0.25
#: Polls that are begun before the loop may look at sockets again: 16 take a millisecond.
BURST = 16


class SlotRunner(Protocol[A_contra]):
    """Whoever gets the slots."""

    def begin(self, agent: A_contra, due_us: int) -> None:
        """Begin the poll of the slot *due_us*; must return at once."""
        ...

    def pass_over(self, agent: A_contra, first_us: int, n: int, step_us: int, reason: str) -> None:
        """Account for *n* slots from *first_us* on, *step_us* apart, that will not be polled."""
        ...


class _Trigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires at times that a function gives, never twice for what is past."""

    __slots__ = ("_next_us", "_timeline")

    def __init__(self, timeline: Timeline, next_us: Callable[[int], int]) -> None:
        self._timeline = timeline
        self._next_us = next_us

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """Return the first moment after both, by the wall clock, which is what APScheduler goes by."""
        ahead_us = self._timeline.ahead_us()
        # Between the two conversions of one due time the clocks move by microseconds: half a step is far from either.
        last_us = max(to_us(now), to_us(previous) + EARLY_US if previous else 0) - ahead_us
        return from_us(self._next_us(last_us) + ahead_us)


class _Maintenance:
    """A job of the daemon itself: in a thread, never beside itself, whatever it raises."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.task: asyncio.Task[None] | None = None
        self._work = work
        self._failed = False

    async def kick(self) -> None:
        """Start the job unless it still runs."""
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._run(), name=f"fleetpulse-{self.name}")

    async def _run(self) -> None:
        try:
            await asyncio.wrap_future(self._start())
        except Exception:
            if not self._failed:
                log.exception("job %s failed", self.name, extra={"event": "job_failed", "job": self.name})
            self._failed = True
        else:
            if self._failed:
                log.info("job %s works again", self.name, extra={"event": "job_recovered", "job": self.name})
            self._failed = False

    def _start(self) -> Future[None]:
        """Run the work in a thread that does not hold up the end of the process: a refresh may take minutes."""
        future: Future[None] = Future()
        # From here on nobody can cancel it, so the thread may always say how it ended.
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                self._work()
            except BaseException as exc:  # noqa: BLE001  # whoever waits gets it
                future.set_exception(exc)
            else:
                future.set_result(None)

        threading.Thread(target=run, name=f"fleetpulse-{self.name}", daemon=True).start()
        return future


class Schedule(Generic[A]):
    """
    Slots of agents and maintenance jobs, on the running event loop.

    Args:
        timeline: Where due times are read.
        runner: Gets the slots.
        on_step: Is told when the clock was set, after everything was rescheduled.
    """

    def __init__(
        self, timeline: Timeline, runner: SlotRunner[A], on_step: Callable[[ClockStep], None] | None = None
    ) -> None:
        self._timeline = timeline
        self._runner = runner
        self._on_step = on_step
        self._cohorts: Cohorts[A] = Cohorts()
        self._jobs: dict[Grid, Any] = {}
        self._maintenance: list[tuple[_Maintenance, float, Any]] = []
        self._watch: asyncio.TimerHandle | None = None
        self._running = False
        # APScheduler tells of every run at INFO: ten lines a second that say nothing.
        logging.getLogger("apscheduler").setLevel(logging.WARNING)
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            jobstores={"default": MemoryJobStore()},
            executors={"default": AsyncIOExecutor()},
            # A cohort that is held up (a stalled loop) may still be starting polls when it is due again.
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 100},
        )

    def __len__(self) -> int:
        """Return the number of agents."""
        return len(self._cohorts)

    # ---------------------------------------------------------------- agents

    def set_agents(self, agents: Iterable[A]) -> None:
        """Make *agents* the ones that are polled; those that stay are not disturbed."""
        opened, closed = self._cohorts.set(agents, self._timeline.now_us())
        for grid in closed:
            self._jobs.pop(grid).remove()
        for grid in opened:
            trigger = _Trigger(self._timeline, grid.after)
            self._jobs[grid] = self._scheduler.add_job(self._run_cohort, trigger, args=(grid,))

    def observed_to_us(self) -> int:
        """Return the moment before which every slot has been given to the runner."""
        now_us = self._timeline.now_us()
        next_us = self._cohorts.next_us()
        return now_us if next_us is None else min(now_us, next_us)

    async def _run_cohort(self, grid: Grid) -> None:
        try:
            cohort = self._cohorts.get(grid)
            if cohort is None:
                return
            for begun, due in enumerate(cohort.run(self._timeline.now_us()), start=1):
                if due.passed:
                    self._runner.pass_over(due.agent, due.passed_us, due.passed, grid.interval_us, "passed over")
                self._runner.begin(due.agent, due.due_us)
                if begun % BURST == 0:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            # Only ``stop`` cancels; what was not begun is due after ``observed_to_us``, so nobody counts on it.
            log.debug("cohort %s was cut off", grid)
        except Exception:
            log.exception("cohort %s failed", grid, extra={"event": "cohort_failed"})

    # ---------------------------------------------------------------- maintenance

    def every(
        self, name: str, interval_s: float, work: Callable[[], object], *, first_s: float | None = None
    ) -> Callable[[], None]:
        """
        Run *work* in a thread every *interval_s* seconds, the first time after *first_s*; never beside itself.

        Returns:
            A function that runs it now, unless it runs already; from any thread.
        """
        job = _Maintenance(name, work)
        step_us = round(interval_s * 1e6)
        trigger = _Trigger(self._timeline, lambda last_us: last_us + step_us)
        first = interval_s if first_s is None else first_s
        handle = self._scheduler.add_job(job.kick, trigger, next_run_time=self._in(first))
        self._maintenance.append((job, interval_s, handle))
        loop = asyncio.get_running_loop()

        def kick() -> None:
            asyncio.run_coroutine_threadsafe(job.kick(), loop)

        return kick

    # ---------------------------------------------------------------- start and stop

    def start(self) -> None:
        """Begin to run jobs; slots that went by while agents were made ready are nobody's."""
        now_us = self._timeline.now_us()
        for cohort in self._cohorts:
            cohort.reanchor(now_us, now_us)
        self._running = True
        self._scheduler.start()
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._watch_clock)

    async def stop(self, wait_s: float) -> None:
        """Start no further slot and no further job; wait *wait_s* seconds at most for jobs that run."""
        if self._running:
            self._running = False
            self._scheduler.shutdown(wait=False)
        if self._watch is not None:
            self._watch.cancel()
        tasks = [job.task for job, _, _ in self._maintenance if job.task is not None and not job.task.done()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=wait_s)
            for job, _, _ in self._maintenance:
                if job.task in late:
                    job.task.cancel()
                    log.warning(
                        "job %s still runs and is left behind", job.name, extra={"event": "job_left", "job": job.name}
                    )

    def _watch_clock(self) -> None:
        if not self._running:
            return
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._watch_clock)
        step = self._timeline.check()
        if step is not None:
            self.reanchor(step)

    def reanchor(self, step: ClockStep) -> None:
        """Give every job a new time after the clock was set; slots that were jumped over are passed over."""
        now_us = self._timeline.now_us()
        log.warning(
            "the wall clock was set by %+.3f s: %d cohorts rescheduled",
            step.delta_s,
            len(self._jobs),
            extra={"event": "clock_step", "delta_s": step.delta_s},
        )
        for cohort in self._cohorts:
            for due in cohort.reanchor(now_us, step.from_us):
                self._runner.pass_over(due.agent, due.passed_us, due.passed, cohort.grid.interval_us, "clock step")
        for grid, job in self._jobs.items():
            job.modify(next_run_time=from_us(grid.after(now_us) + self._timeline.ahead_us()))
        for _, interval_s, job in self._maintenance:
            job.modify(next_run_time=self._in(interval_s))
        if self._on_step is not None:
            self._on_step(step)

    def _in(self, seconds: float) -> datetime:
        """Return the moment *seconds* from now, by the wall clock."""
        return from_us(self._timeline.wall_us() + round(seconds * 1e6))
