"""
The schedule on a real event loop: APScheduler wakes it, clocks are set under it, jobs fail in it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

import pytest

from collector.schedule import Schedule
from collector.timeline import ClockStep, Timeline, wall_us
from storage.model import AgentSpec

WAIT_S = 15.0
HOUR_US = 3_600_000_000
INTERVAL_US = 100_000


@dataclass(frozen=True)
class Polled:
    """The least that the schedule needs."""

    spec: AgentSpec


def agent(name: str = "a", interval_s: float = 0.1) -> Polled:
    """Return an agent that is due ten times a second."""
    return Polled(AgentSpec(name=name, interval_s=interval_s))


class Recorder:
    """Takes slots in, and lets a test wait for them."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.passed: list[tuple[str, int, int, str]] = []
        self._came = asyncio.Event()

    def begin(self, agent: Polled, due_us: int) -> None:
        """Note a slot."""
        self.begun.append((agent.spec.name, due_us))
        self._came.set()

    def pass_over(self, agent: Polled, first_us: int, n: int, step_us: int, reason: str) -> None:
        """Note slots that are not polled."""
        self.passed.append((agent.spec.name, first_us, n, reason))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds, looked at whenever a slot comes."""
        while not condition():
            self._came.clear()
            await self._came.wait()

    def dues(self, name: str = "a") -> list[int]:
        """Return the slots of one agent."""
        return [due for found, due in self.begun if found == name]


class WallClock:
    """The wall clock, as somebody sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset_us = 0
        clock = self

        class SetDatetime(datetime):
            """What APScheduler takes for the time of day."""

            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # a plain one is what is compared
                return datetime.now(tz) + timedelta(microseconds=clock.offset_us)

        monkeypatch.setattr("apscheduler.schedulers.base.datetime", SetDatetime)

    def __call__(self) -> int:
        """Return the time, microseconds since the Unix epoch."""
        return wall_us() + self.offset_us


def go(work: Coroutine[None, None, None]) -> None:
    """Run *work* to its end, within a deadline."""
    asyncio.run(asyncio.wait_for(work, WAIT_S))


def test_slots_come_on_the_grid_without_gap() -> None:
    """Consecutive slots are an interval apart, on the agent's grid; what has been handed over is known."""

    async def work() -> None:
        recorder, line = Recorder(), Timeline()
        schedule: Schedule[Polled] = Schedule(line, recorder)
        schedule.set_agents([agent("a"), agent("b")])
        schedule.start()
        await recorder.until(lambda: len(recorder.dues()) >= 5)
        observed = schedule.observed_to_us()
        await schedule.stop(0)
        handed = [*recorder.dues()]
        for _, first, n, _ in (passed for passed in recorder.passed if passed[0] == "a"):
            handed += [first + k * INTERVAL_US for k in range(n)]
        handed.sort()

        assert handed == [handed[0] + k * INTERVAL_US for k in range(len(handed))]
        assert handed[0] % INTERVAL_US == 0
        assert set(recorder.dues("b")) & set(recorder.dues("a"))
        assert handed[-1] < observed + INTERVAL_US

    go(work())


def test_agents_change_while_it_runs() -> None:
    """An added agent is polled, a removed one is not, and the one that stays misses no slot."""

    async def work() -> None:
        recorder = Recorder()
        schedule: Schedule[Polled] = Schedule(Timeline(), recorder)
        schedule.set_agents([agent("a"), agent("b")])
        schedule.start()
        await recorder.until(lambda: len(recorder.dues("b")) >= 2)
        schedule.set_agents([agent("a"), agent("c", 0.2)])
        gone = len(recorder.dues("b"))
        await recorder.until(lambda: len(recorder.dues("c")) >= 2)
        await schedule.stop(0)

        assert len(schedule) == 2
        assert len(recorder.dues("b")) == gone
        handed = len(recorder.dues()) + sum(n for name, _, n, _ in recorder.passed if name == "a")
        assert handed == (recorder.dues()[-1] - recorder.dues()[0]) // INTERVAL_US + 1

    go(work())


@pytest.mark.parametrize("step_us", [-HOUR_US, HOUR_US])
def test_clock_set_by_an_hour_costs_no_more_than_a_moment(
    step_us: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Polling and jobs go on within a second, under the new time; the step is reported, jumped slots are accounted for."""
    ran = threading.Semaphore(0)
    steps: list[ClockStep] = []

    async def work() -> None:
        clock, recorder = WallClock(monkeypatch), Recorder()
        schedule: Schedule[Polled] = Schedule(Timeline(clock), recorder, steps.append)
        schedule.set_agents([agent("a")])
        schedule.every("job", 0.1, ran.release)
        schedule.start()
        await recorder.until(lambda: len(recorder.dues()) >= 3)
        before = len(recorder.dues())
        clock.offset_us = step_us
        await recorder.until(lambda: len(steps) > 0 and len(recorder.dues()) >= before + 8)
        while ran.acquire(blocking=False):
            continue
        assert await asyncio.to_thread(ran.acquire, timeout=WAIT_S), "the job ran after the step"
        await schedule.stop(WAIT_S)
        jump = recorder.dues()[-1] - recorder.dues()[0] - step_us

        assert 0 < jump < 10_000_000
        assert abs(steps[0].delta_s - step_us / 1e6) < 0.5
        jumped = sum(n for _, _, n, reason in recorder.passed if reason == "clock step")
        # Also of a clock that was put back: what was due before the step was noticed.
        assert (35_990 < jumped <= 36_010) if step_us > 0 else jumped < 100

    with caplog.at_level(logging.WARNING):
        go(work())
    assert [r.event for r in caplog.records if getattr(r, "event", "") == "clock_step"] == ["clock_step"]  # type: ignore[attr-defined]  # from extra


def test_job_never_runs_beside_itself_and_failures_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A job that takes longer than its interval is not started again meanwhile; one that fails is tried again."""
    running = threading.Semaphore(1)
    ran = threading.Semaphore(0)
    outcomes = iter([True, False, False, True, *[True] * 1000])
    overlaps = []

    def job() -> None:
        overlaps.append(not running.acquire(blocking=False))
        threading.Event().wait(0.12)
        running.release()
        ran.release()
        if not next(outcomes):
            raise ValueError("the job's own trouble")

    async def work() -> None:
        schedule: Schedule[Polled] = Schedule(Timeline(), Recorder())
        kick = schedule.every("job", 0.05, job)
        schedule.start()
        kick()
        for _ in range(5):
            assert await asyncio.to_thread(ran.acquire, timeout=WAIT_S)
        await schedule.stop(WAIT_S)

    with caplog.at_level(logging.INFO, "collector"):
        go(work())

    assert not any(overlaps)
    assert [record.message for record in caplog.records] == ["job job failed", "job job works again"]
    assert "ValueError: the job's own trouble" in caplog.text


def test_job_that_does_not_end_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """The end of the daemon does not wait for a job for ever."""
    started, release = threading.Event(), threading.Event()

    def job() -> None:
        started.set()
        release.wait(WAIT_S)

    async def work() -> None:
        schedule: Schedule[Polled] = Schedule(Timeline(), Recorder())
        schedule.every("slow", 0.05, job)
        schedule.start()
        assert await asyncio.to_thread(started.wait, WAIT_S)
        await schedule.stop(0.05)

    try:
        go(work())
    finally:
        release.set()
    assert "job slow still runs and is left behind" in caplog.text
