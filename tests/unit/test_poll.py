"""
One slot: whatever the probe does, it ends as exactly one check.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from collector import poll as poll_module
from collector.buffer import Buffer
from collector.counters import Counters
from collector.poll import STOPPED, PolledAgent, Poller
from collector.probes.reading import Reading
from collector.status import StatusMachine
from collector.tally import Tally
from storage.model import AgentSpec, Kind, MetricKey, Outcome, Transition, to_us
from tests.batches import NOON

NOON_US = to_us(NOON)
WAIT_S = 10.0
REQUESTS = MetricKey(name="requests_total", kind=Kind.COUNTER)
DEPTH = MetricKey(name="depth")


class ScriptedProbe:
    """A probe that does what the test says."""

    def __init__(self, behaviour: Callable[[], Awaitable[Reading]]) -> None:
        self._behaviour = behaviour

    async def poll(self, deadline_s: float) -> Reading:
        """Do it."""
        return await self._behaviour()

    def close(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


class Bench:
    """A poller with a clock that stands 3 ms after noon, and its buffer."""

    def __init__(self, **options: int) -> None:
        self.buffer = Buffer()
        self.tally = Tally()
        self.poller = Poller(self.buffer, lambda: NOON_US + 3000, self.tally, **options)

    def agent(self, behaviour: Callable[[], Awaitable[Reading]], name: str = "a", **spec: Any) -> PolledAgent:
        """Return an agent whose probe behaves so."""
        described = AgentSpec(name=name, **{"interval_s": 10.0, "timeout_s": 5.0, **spec})
        machine = StatusMachine(name, rise=1, fall=1)
        return PolledAgent(described, ScriptedProbe(behaviour), Counters(), machine)

    def checks(self) -> list[tuple[str, int, str, str]]:
        """Return agent, seconds after noon, outcome and reason of every check so far."""
        found = []
        for batch in self.buffer.take(0):
            columns = batch.checks
            for i in range(len(columns)):
                reason = batch.reasons[columns.reason[i]] if columns.reason[i] >= 0 else ""
                due_s = (int(columns.ts_us[i]) - NOON_US) // 1_000_000
                found.append((batch.agents[columns.agent[i]], due_s, Outcome(columns.outcome[i]).label, reason))
        return found


def go(work: Coroutine[None, None, None]) -> None:
    """Run *work* to its end, within a deadline."""
    asyncio.run(asyncio.wait_for(work, WAIT_S))


async def answer() -> Reading:
    """Answer at once."""
    return Reading(outcome=Outcome.HEALTHY, latency_ms=1.5, http_status=200)


async def done(agent: PolledAgent) -> None:
    """Wait for the poll of *agent*."""
    if agent.task is not None:
        await asyncio.wait([agent.task])


def test_answer_becomes_check_samples_and_transition() -> None:
    """Latency, lateness, code, samples and the change of status are those of the poll; counters are increases."""
    bench = Bench()
    values = iter([[100.0, 5.0], [107.0, 6.0]])
    metrics = [REQUESTS, DEPTH]

    async def count() -> Reading:
        return Reading(outcome=Outcome.HEALTHY, latency_ms=1.5, http_status=200, metrics=metrics, values=next(values))

    async def work() -> None:
        agent = bench.agent(count)
        for due in (NOON_US, NOON_US + 10_000_000):
            bench.poller.begin(agent, due)
            await done(agent)
        assert bench.poller.moved() == {agent}
        state = agent.baseline("spool")
        assert state is not None
        assert state.keys is not None
        again = agent.baseline("spool")
        assert again is not None
        assert again.keys is None, "names are written once per file"
        other = agent.baseline("another file")
        assert other is not None
        assert other.keys is not None

    go(work())
    (batch,) = bench.buffer.take(0)
    samples = batch.agent_samples

    assert batch.checks.late_ms.tolist() == [3.0, -9997.0]
    assert batch.checks.latency_ms.tolist() == [1.5, 1.5]
    assert batch.checks.http_status.tolist() == [200, 200]
    assert [(batch.metrics[m].name, v) for m, v in zip(samples.metric, samples.value, strict=True)] == [
        ("depth", 5.0),
        ("requests_total", 7.0),
        ("depth", 6.0),
    ]
    assert batch.transitions == (Transition(agent="a", due=NOON, old="unknown", new="healthy"),)
    assert (bench.tally.polls, bench.tally.slots[0], bench.tally.samples) == (2, 2, 3)


def test_probe_that_ignores_its_deadline_is_cut_off() -> None:
    """An agent that hangs, in a probe that hangs with it, is a timeout and polled again in its next slot."""
    bench = Bench()

    async def hang() -> Reading:
        await asyncio.Event().wait()
        raise AssertionError("BUG: never set")

    async def work() -> None:
        agent = bench.agent(hang, timeout_s=0.01)
        bench.poller.begin(agent, NOON_US)
        await done(agent)
        assert agent.task is None

    go(work())
    assert bench.checks() == [("a", 0, "timeout", "timeout after 0.01s")]


def test_deadline_is_never_longer_than_the_interval() -> None:
    """A timeout above the interval would let two polls of one agent overlap."""
    assert Bench().agent(answer, interval_s=2.0, timeout_s=60.0).deadline_s == 2.0


def test_probe_that_raises_is_an_error_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A defect in a probe costs neither the slot nor a log line per slot."""
    bench = Bench()

    async def fail() -> Reading:
        raise ZeroDivisionError("secret detail")

    async def work() -> None:
        agent = bench.agent(fail)
        for k in range(3):
            bench.poller.begin(agent, NOON_US + k * 10_000_000)
            await done(agent)

    go(work())
    assert bench.checks() == [("a", k * 10, "error", "probe failed: ZeroDivisionError") for k in range(3)]
    assert [record.message for record in caplog.records] == ["probe of agent a raised, which no probe may"]
    assert bench.tally.probe_errors == 3


def test_slot_due_while_the_poll_before_runs_is_skipped() -> None:
    """Polls of one agent never overlap: the later slot says why it was not polled, the earlier one ends as it does."""
    bench = Bench()
    release = asyncio.Event()

    async def wait() -> Reading:
        await release.wait()
        return await answer()

    async def work() -> None:
        agent = bench.agent(wait)
        bench.poller.begin(agent, NOON_US)
        assert bench.poller.oldest_us() == NOON_US
        bench.poller.begin(agent, NOON_US + 10_000_000)
        release.set()
        await done(agent)
        assert bench.poller.oldest_us() is None

    go(work())
    assert bench.checks() == [("a", 10, "skipped", "previous poll still runs"), ("a", 0, "healthy", "")]


def test_hanging_agents_do_not_hold_up_another() -> None:
    """A thousand agents that never answer leave the one that does untouched."""
    bench = Bench()

    async def hang() -> Reading:
        await asyncio.Event().wait()
        raise AssertionError("BUG: never set")

    async def work() -> None:
        for i in range(1000):
            bench.poller.begin(bench.agent(hang, name=f"h{i}"), NOON_US)
        good = bench.agent(answer, name="good")
        bench.poller.begin(good, NOON_US)
        await done(good)
        assert bench.checks() == [("good", 0, "healthy", "")]
        await bench.poller.stop(timedelta(0))

    go(work())
    assert bench.checks() == [(f"h{i}", 0, "skipped", STOPPED) for i in range(1000)]


def test_polls_beyond_the_bound_are_skipped() -> None:
    """The bound on polls at once costs the slots above it, said as such, and no other."""
    bench = Bench(max_polls=1)

    async def work() -> None:
        first, second = bench.agent(answer, name="first"), bench.agent(answer, name="second")
        bench.poller.begin(first, NOON_US)
        bench.poller.begin(second, NOON_US)
        await done(first)

    go(work())
    assert bench.checks() == [("second", 0, "skipped", "too many polls at once"), ("first", 0, "healthy", "")]


def test_stop_lets_polls_finish_for_a_while() -> None:
    """At the end a poll that answers in time is kept, one that does not is skipped, later slots are not begun."""
    bench = Bench()
    release = asyncio.Event()

    async def slow() -> Reading:
        await release.wait()
        return await answer()

    async def hang() -> Reading:
        await asyncio.Event().wait()
        raise AssertionError("BUG: never set")

    async def work() -> None:
        agents = [bench.agent(slow, name="slow"), bench.agent(hang, name="hang")]
        for agent in agents:
            bench.poller.begin(agent, NOON_US)
        asyncio.get_running_loop().call_soon(release.set)
        await bench.poller.stop(timedelta(seconds=0.2))
        bench.poller.begin(agents[0], NOON_US + 10_000_000)
        assert bench.poller.running == 0

    go(work())
    assert bench.checks() == [
        ("slow", 0, "healthy", ""),
        ("hang", 0, "skipped", STOPPED),
        ("slow", 10, "skipped", STOPPED),
    ]


def test_poll_that_is_cancelled_before_its_first_step_is_accounted_for() -> None:
    """An agent removed in the very moment of its slot leaves a skipped check."""
    bench = Bench()

    async def work() -> None:
        agent = bench.agent(answer)
        bench.poller.begin(agent, NOON_US)
        await bench.poller.cancel(agent, "agent removed")
        assert bench.poller.running == 0

    go(work())
    assert bench.checks() == [("a", 0, "skipped", "agent removed")]


def test_paused_agent_is_not_asked() -> None:
    """Slots of planned maintenance end as paused; the status follows, and is unknown after the end."""
    bench = Bench()

    async def never() -> Reading:
        raise AssertionError("BUG: a paused agent was polled")

    agent = bench.agent(never, paused=True)
    bench.poller.begin(agent, NOON_US)
    bench.poller.pass_over(agent, NOON_US + 10_000_000, 2, 10_000_000, "passed over")
    bench.poller.resume(agent)
    (batch,) = bench.buffer.take(0)

    assert batch.checks.outcome.tolist() == [Outcome.PAUSED] * 3
    assert [(t.old, t.new) for t in batch.transitions] == [("unknown", "paused"), ("paused", "unknown")]


def test_short_gap_is_skipped_checks_and_a_long_one_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that nobody polled are checks one by one, or one loss per agent when the machine slept for hours."""
    monkeypatch.setattr(poll_module, "MAX_SKIPPED", 3)
    bench = Bench()
    agent = bench.agent(answer)
    bench.poller.pass_over(agent, NOON_US, 3, 1_000_000, "passed over")
    assert bench.checks() == [("a", k, "skipped", "passed over") for k in range(3)]
    bench.poller.pass_over(agent, NOON_US, 4, 1_000_000, "clock step")
    (batch,) = bench.buffer.take(0)
    (loss,) = batch.losses

    assert len(batch) == 0
    assert (loss.agent, to_us(loss.from_due), to_us(loss.to_due), loss.n, loss.reason) == (
        "a",
        NOON_US,
        NOON_US + 3_000_000,
        4,
        "clock_step",
    )
    assert bench.tally.lost_slots == 4


def test_agent_that_was_paused_before_a_long_gap_is_paused_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last slot of the gap says so; every slot is that check or in the loss."""
    monkeypatch.setattr(poll_module, "MAX_SKIPPED", 3)
    bench = Bench()
    agent = bench.agent(answer, paused=True)
    bench.poller.pass_over(agent, NOON_US, 4, 1_000_000, "passed over")
    (batch,) = bench.buffer.take(0)

    assert (agent.machine.status, agent.machine.since_us) == ("paused", NOON_US + 3_000_000)
    assert batch.checks.ts_us.tolist() == [NOON_US + 3_000_000]
    assert [(to_us(loss.from_due), to_us(loss.to_due), loss.n) for loss in batch.losses] == [
        (NOON_US, NOON_US + 2_000_000, 3)
    ]


def test_host_has_samples_and_no_checks() -> None:
    """A machine's metrics go to its own table, and its slots make no checks."""
    bench = Bench()

    async def collect() -> Reading:
        return Reading(outcome=Outcome.HEALTHY, metrics=[DEPTH], values=[4.0])

    async def work() -> None:
        spec = AgentSpec(name="\x01host/h", interval_s=10.0)
        machine = StatusMachine(spec.name, rise=1, fall=1)
        host = PolledAgent(spec, ScriptedProbe(collect), Counters(), machine, host="h")
        bench.poller.begin(host, NOON_US)
        await done(host)
        bench.poller.pass_over(host, NOON_US, 2, 1_000_000, "passed over")

    go(work())
    (batch,) = bench.buffer.take(0)

    assert (len(batch.checks), batch.hosts, batch.system_samples.value.tolist()) == (0, ("h",), [4.0])
    assert sum(bench.tally.slots) == bench.tally.polls == 0


def test_lateness_is_that_of_the_latest_polls() -> None:
    """The quantiles forget what is long ago, and are zero before the first poll."""
    tally = Tally()
    assert tally.lateness().p99_ms == 0.0
    for k in range(100):
        tally.poll(float(k))
    late = tally.lateness()

    assert (round(late.p50_ms), round(late.p99_ms), late.max_ms) == (50, 98, 99.0)
    for _ in range(10_000):
        tally.poll(1.0)
    assert tally.lateness().max_ms == 1.0
    assert not math.isnan(tally.lateness().p50_ms)
