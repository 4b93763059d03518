"""
Who gets nowhere: the rules themselves, and what holds one agent to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from collector.buffer import Buffer
from collector.config import ProgressRules
from collector.counters import Counters
from collector.durations import in_words
from collector.poll import PolledAgent, Poller
from collector.probes.reading import Reading
from collector.progress import (
    Beat,
    Episode,
    Facts,
    Progress,
    RunningTask,
    Stall,
    counter_stall,
    heartbeat_stall,
    task_stall,
)
from collector.status import StatusMachine
from collector.tally import Tally
from collector.watch import watch_over
from fleetpulse.quantities import parse_duration
from storage.model import AgentSpec, Kind, MetricKey, Outcome, to_us
from tests.batches import NOON

NOON_US = to_us(NOON)
DONE = MetricKey(name="tasks_done_total", kind=Kind.COUNTER)
OF_TYPE = MetricKey(name="tasks_done_total", labels=(("type", "x"),), kind=Kind.COUNTER)
OTHER = MetricKey(name="requests_total", kind=Kind.COUNTER)
WORKER = AgentSpec(name="w", type="worker")
COUNTER = ProgressRules(counter="tasks_done_total", counter_within_s=600.0)
FACTS = ProgressRules(task_p95_factor=3.0, task_min_s=60.0, heartbeat_within_s=90.0)
ALL = ProgressRules(
    counter="tasks_done_total",
    counter_within_s=600.0,
    task_p95_factor=3.0,
    task_min_s=60.0,
    heartbeat_within_s=90.0,
)
STUCK = "counter tasks_done_total has not increased for 12m (limit 10m)"


class Bench:
    """One agent that is polled by a clock that stands until the test moves it."""

    def __init__(self, rules: ProgressRules, *, status: str = "unknown", counters: Counters | None = None) -> None:
        self.now_s = 1_000.0
        self.status = status
        self.progress = Progress({"worker": rules}, refresh_s=10.0, clock=lambda: self.now_s)
        self.counters = counters or Counters()
        watch = watch_over(WORKER, self.progress, status)
        assert watch is not None
        self._watch = watch
        self._lists: dict[tuple[MetricKey, ...], list[MetricKey]] = {}

    def poll(
        self,
        values: Mapping[MetricKey, float] | None = None,
        *,
        after_s: float = 0.0,
        outcome: Outcome = Outcome.HEALTHY,
    ) -> str:
        """Return why the poll *after_s* seconds later finds the agent stalled; its status follows at once."""
        self.now_s += after_s
        keys = tuple(values or ())
        # As a probe does: the same list as long as the series are the same.
        metrics = self._lists.setdefault(keys, list(keys))
        reading = Reading(outcome=outcome, metrics=metrics, values=list((values or {}).values()))
        reason = self._watch.judge(reading, *self.counters.deltas(reading), self.status)
        self.status = Outcome.STALLED.label if reason else outcome.label
        return reason

    def read(
        self,
        *,
        beat: Beat | None = None,
        running: Sequence[RunningTask] = (),
        p95_s: Mapping[str, float] | None = None,
    ) -> None:
        """Have the database read now."""
        beats = {} if beat is None else {"w": beat}
        self.progress.facts = Facts(read_s=self.now_s, beats=beats, running={"w": running}, p95_s=p95_s or {})


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0s"),
        (2.55, "2.5s"),
        (9.0, "9s"),
        (90, "90s"),
        (119.9, "119s"),
        (125, "2m 05s"),
        (300, "5m"),
        (42 * 60 + 59, "42m"),
        (7_260, "2h 01m"),
        (100_800, "28h"),
        (200_000, "2d 07h"),
    ],
)
def test_durations_are_said_as_exactly_as_anybody_needs(seconds: float, words: str) -> None:
    """Two units at most, the smaller one left out where it is nothing."""
    assert in_words(seconds) == words


def test_limits_are_said_as_they_are_written() -> None:
    """What a reason says can be found in the settings."""
    assert [in_words(parse_duration(text) / timedelta(seconds=1)) for text in ("90s", "10m", "3h", "3d")] == [
        "90s",
        "10m",
        "3h",
        "3d",
    ]


def test_counter_rule_at_its_limit() -> None:
    """At the limit nothing is wrong yet."""
    assert counter_stall("n", 600.0, 600.0) is None
    assert counter_stall("n", 725.0, 600.0) == Stall(("counter", 0), "counter n has not increased for 12m (limit 10m)")


def test_task_rule_names_task_type_and_limit() -> None:
    """A task is too long when it is longer than both limits; of several the first is named."""
    p95_s = {"summarise": 240.0, "short": 1.0}
    tasks = [RunningTask(17, "summarise", 2_520.0), RunningTask(18, "summarise", 2_520.0)]

    assert task_stall(tasks, p95_s, 3.0, 60.0) == Stall(
        ("task", 17), "task 17 (summarise) runs for 42m, 3 × p95 of its type is 12m"
    )
    assert task_stall([RunningTask(1, "summarise", 720.0)], p95_s, 3.0, 60.0) is None
    assert task_stall([RunningTask(1, "short", 60.0)], p95_s, 3.0, 60.0) is None
    found = task_stall([RunningTask(1, "short", 60.5)], p95_s, 2.5, 60.0)
    assert found is not None
    assert found.reason == "task 1 (short) runs for 60s, 2.5 × p95 of its type is 2.5s"


def test_task_of_a_type_that_nobody_knows_is_not_too_long() -> None:
    """Without enough finished runs there is nothing to compare with."""
    assert task_stall([RunningTask(1, "new", 1e6)], {"old": 1.0}, 3.0, 60.0) is None


def test_heartbeat_rule_at_its_limit() -> None:
    """At the limit nothing is wrong yet; one that never came is said as such."""
    assert heartbeat_stall(Beat(90.0, True), 90.0) is None
    assert heartbeat_stall(Beat(125.0, True), 90.0) == Stall(
        ("heartbeat", 0), "heartbeat is 2m 05s old, expected one every 90s"
    )
    assert heartbeat_stall(Beat(91.0, False), 90.0) == Stall(
        ("heartbeat", 0), "no heartbeat yet, expected one every 90s"
    )


def test_stall_keeps_the_words_that_it_began_with() -> None:
    """A reason is a row of a dictionary table: an age that grows makes no new one, another stall does."""
    episode = Episode()
    said = [
        episode.reason(Stall(("task", 1), "one for 5m")),
        episode.reason(Stall(("task", 1), "one for 6m")),
        episode.reason(Stall(("task", 2), "two for 3m")),
        episode.reason(None),
        episode.reason(Stall(("task", 2), "two for 4m")),
    ]

    assert said == ["one for 5m", "one for 5m", "two for 3m", "", "two for 4m"]


def test_rules_go_by_type() -> None:
    """A type that is named has its own rules alone, others those of the star, and the daemon itself has none."""
    progress = Progress({"worker": COUNTER, "free": ProgressRules(), "*": FACTS})

    assert progress.rules_of(WORKER) is COUNTER
    assert progress.rules_of(AgentSpec(name="a", type="llm")) is FACTS
    assert progress.rules_of(AgentSpec(name="a", type="free")) is None
    assert progress.rules_of(AgentSpec(name="fleetpulse/main", type="collector", probe="internal")) is None
    assert Progress({"worker": COUNTER}).rules_of(AgentSpec(name="a", type="llm")) is None
    assert watch_over(AgentSpec(name="a", type="free"), progress, "healthy") is None


# ---------------------------------------------------------------- the counter of one agent


def test_counter_that_stands_still_stalls_and_recovers() -> None:
    """The clock begins with the first sight; the reason stays; an increase ends it at once."""
    bench = Bench(COUNTER)
    assert bench.poll({DONE: 100.0}) == ""
    assert bench.poll({DONE: 100.0}, after_s=600) == ""
    assert bench.poll({DONE: 100.0}, after_s=120) == STUCK
    assert bench.poll({DONE: 100.0}, after_s=3_600) == STUCK
    assert bench.poll({DONE: 101.0}, after_s=15) == ""
    assert bench.poll({DONE: 101.0}, after_s=600) == ""


def test_counter_that_starts_again_from_zero_is_no_progress() -> None:
    """Whoever restarts over and over gets nowhere; the work done since counts."""
    bench = Bench(COUNTER)
    bench.poll({DONE: 100.0})
    assert bench.poll({DONE: 0.0}, after_s=720) == STUCK
    assert bench.poll({DONE: 3.0}, after_s=15) == ""


def test_one_series_of_the_counter_is_enough() -> None:
    """Series of one name are one counter; other counters do not matter, a series that is new does."""
    bench = Bench(COUNTER)
    bench.poll({DONE: 1.0, OF_TYPE: 1.0, OTHER: 1.0})
    assert bench.poll({DONE: 1.0, OF_TYPE: 2.0, OTHER: 1.0}, after_s=599) == ""
    assert bench.poll({DONE: 1.0, OF_TYPE: 2.0, OTHER: 9.0}, after_s=720) == STUCK
    bench = Bench(COUNTER)
    bench.poll({DONE: 1.0})
    assert bench.poll({DONE: 1.0, OF_TYPE: 1.0}, after_s=720) == "", "work of a kind that there was none of before"


def test_counter_that_is_missing_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """An agent that does not report it is not judged by it; where it comes later the clock begins then."""
    bench = Bench(COUNTER)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert bench.poll({OTHER: 1.0}, after_s=3_600) == ""

    assert [record.message for record in caplog.records] == [
        "agent w does not report counter tasks_done_total: it is not judged by it"
    ]
    assert bench.poll({OTHER: 1.0, DONE: 1.0}, after_s=3_600) == ""
    assert bench.poll({OTHER: 1.0, DONE: 1.0}, after_s=720) == STUCK


def test_gauge_of_that_name_is_no_counter(caplog: pytest.LogCaptureFixture) -> None:
    """A number that may go down as well says nothing about progress, and the log says why it does not count."""
    bench = Bench(COUNTER)
    gauge = MetricKey(name="tasks_done_total")
    assert bench.poll({gauge: 1.0}) == ""
    assert bench.poll({gauge: 1.0}, after_s=3_600) == ""
    assert [record.message for record in caplog.records] == [
        "agent w reports tasks_done_total as a gauge, expected a counter: it is not judged by it"
    ]


def test_counter_that_goes_away_stands_still() -> None:
    """Who has reported it once cannot get out of it."""
    bench = Bench(COUNTER)
    bench.poll({DONE: 1.0})
    assert bench.poll({OTHER: 1.0}, after_s=720) == STUCK


@pytest.mark.parametrize("before", ["timeout", "unhealthy", "paused", "unknown"])
def test_agent_that_comes_back_has_its_time(before: str) -> None:
    """While it was down or paused nobody could expect progress of it."""
    bench = Bench(COUNTER)
    bench.poll({DONE: 1.0})
    bench.status = before
    assert bench.poll({DONE: 1.0}, after_s=3_600) == ""
    assert bench.poll({DONE: 1.0}, after_s=600) == ""
    assert bench.poll({DONE: 1.0}, after_s=120) == STUCK


def test_single_failure_is_no_way_out() -> None:
    """A poll that fails between others that find the agent up does not begin the clock anew."""
    bench = Bench(COUNTER)
    bench.poll({DONE: 1.0})
    assert bench.poll(after_s=300, outcome=Outcome.TIMEOUT) == ""
    # As with fall = 2: the agent still counts as healthy.
    bench.status = "healthy"
    assert bench.poll({DONE: 1.0}, after_s=420) == STUCK


def test_only_an_agent_that_is_up_can_be_stalled() -> None:
    """What is worse is said as what it is; a degraded agent that gets nowhere is stalled."""
    bench = Bench(COUNTER)
    bench.poll({DONE: 1.0})
    bench.status = "healthy"
    assert bench.poll({DONE: 1.0}, after_s=720, outcome=Outcome.UNHEALTHY) == ""
    bench.status = "healthy"
    assert bench.poll({DONE: 1.0}, outcome=Outcome.DEGRADED) == STUCK


# ---------------------------------------------------------------- facts of one agent


def test_facts_are_judged_as_of_their_reading() -> None:
    """An agent is not stalled because nobody has looked since; the next reading may find it so, or well again."""
    bench = Bench(FACTS)
    assert bench.poll() == "", "nothing was read yet"
    bench.read(beat=Beat(85.0, True))
    assert bench.poll(after_s=10) == ""
    bench.read(beat=Beat(95.0, True))
    assert bench.poll() == "heartbeat is 95s old, expected one every 90s"
    bench.read(beat=Beat(130.0, True))
    assert bench.poll(after_s=10) == "heartbeat is 95s old, expected one every 90s"
    bench.read(beat=Beat(2.0, True))
    assert bench.poll() == ""


def test_old_facts_stall_nobody_and_free_nobody() -> None:
    """While the database is away, whoever was stalled by what it said stays so, and nobody else becomes it."""
    late = Beat(95.0, True)
    well, stalled = Bench(FACTS), Bench(FACTS)
    for bench in (well, stalled):
        bench.poll()
        bench.read(beat=late)
    assert stalled.poll(after_s=30)
    assert stalled.poll(after_s=3_600)
    assert well.poll(after_s=31) == ""
    stalled.read(beat=Beat(1.0, True))
    assert stalled.poll() == ""


def test_tasks_of_another_agent_do_not_matter() -> None:
    """Each is judged by its own; an agent that the database does not know yet is judged by nothing."""
    bench = Bench(FACTS)
    bench.progress.facts = Facts(
        read_s=bench.now_s,
        beats={"other": Beat(1e6, True)},
        running={"other": [RunningTask(1, "t", 1e6)]},
        p95_s={"t": 1.0},
    )
    assert bench.poll() == ""
    bench.read(running=[RunningTask(2, "t", 1e3)], p95_s={"t": 60.0})
    assert bench.poll() == "task 2 (t) runs for 16m, 3 × p95 of its type is 3m"


def test_reason_can_be_stored_whatever_a_type_is_called() -> None:
    """Types are free text: a reason is one line of bounded length all the same."""
    bench = Bench(FACTS)
    bench.read(running=[RunningTask(2, "a\nb" * 200, 1e3)], p95_s={"a\nb" * 200: 60.0})
    reason = bench.poll()

    assert reason.startswith("task 2 (a ba b")
    assert "\n" not in reason
    assert len(reason) <= 200


def test_first_rule_that_is_violated_gives_the_reason() -> None:
    """One after the other: counter, task, heartbeat."""
    bench = Bench(ALL)
    bench.poll({DONE: 1.0})
    bench.now_s += 720
    bench.read(beat=Beat(95.0, True), running=[RunningTask(1, "t", 700.0)], p95_s={"t": 100.0})
    assert bench.poll({DONE: 1.0}) == STUCK
    assert bench.poll({DONE: 2.0}) == "task 1 (t) runs for 11m, 3 × p95 of its type is 5m"
    bench.read(beat=Beat(95.0, True))
    assert bench.poll({DONE: 2.0}) == "heartbeat is 95s old, expected one every 90s"


# ---------------------------------------------------------------- in the poller


def test_stall_takes_the_place_of_the_answer() -> None:
    """Check, reason and transition say stalled; samples and latency are those of the answer; ``fall`` polls decide."""
    clock = [0.0]
    progress = Progress({"worker": COUNTER}, clock=lambda: clock[0])
    buffer, tally = Buffer(), Tally()
    poller = Poller(buffer, lambda: NOON_US, tally)
    done = iter((7.0, 7.0, 7.0, 9.0))
    metrics = [DONE]

    class Answering:
        async def poll(self, deadline_s: float) -> Reading:
            return Reading(
                outcome=Outcome.DEGRADED, latency_ms=1.5, reason="slow", metrics=metrics, values=[next(done)]
            )

        def close(self) -> None: ...

        async def aclose(self) -> None: ...

    agent = PolledAgent(WORKER, Answering(), Counters(), StatusMachine("w", rise=1, fall=2))
    agent.watch = watch_over(WORKER, progress, "unknown")

    async def work() -> None:
        for place, now_s in enumerate((0.0, 720.0, 780.0, 840.0)):
            clock[0] = now_s
            poller.begin(agent, NOON_US + 1_000_000 * place)
            assert agent.task is not None
            await agent.task

    asyncio.run(asyncio.wait_for(work(), 10))
    (batch,) = buffer.take(0)
    checks = batch.checks
    reasons = [batch.reasons[place] for place in checks.reason]

    assert [Outcome(outcome).label for outcome in checks.outcome] == ["degraded", "stalled", "stalled", "degraded"]
    assert reasons == ["slow", STUCK, STUCK, "slow"]
    assert checks.latency_ms.tolist() == [1.5] * 4
    assert batch.agent_samples.value.tolist() == [0.0, 0.0, 2.0]
    assert [(to_us(t.due) - NOON_US, t.old, t.new, t.reason) for t in batch.transitions] == [
        (0, "unknown", "degraded", "slow"),
        (2_000_000, "degraded", "stalled", STUCK),
        (3_000_000, "stalled", "degraded", "slow"),
    ]
    assert tally.slots[Outcome.STALLED] == 2


# ---------------------------------------------------------------- restarts of the collector


def polled_before(value: float) -> Counters:
    """Return the counters that a collector has left behind."""
    counters = Counters()
    counters.deltas(Reading(outcome=Outcome.HEALTHY, metrics=[DONE], values=[value]))
    return counters


def test_restart_of_the_collector_is_no_progress() -> None:
    """An agent that was stalled by its counter stays so until the counter moves, whatever the new clock says."""
    bench = Bench(COUNTER, status="stalled", counters=polled_before(5.0))
    carried = "stalled before the collector started, counter tasks_done_total has not increased since"
    assert bench.poll({DONE: 5.0}) == carried
    assert bench.poll({DONE: 5.0}, after_s=15) == carried
    assert bench.poll({DONE: 5.0}, after_s=705) == STUCK
    assert bench.poll({DONE: 6.0}, after_s=15) == ""


def test_progress_made_while_no_collector_ran_counts() -> None:
    """The first poll compares with what the collector before has seen."""
    bench = Bench(COUNTER, status="stalled", counters=polled_before(5.0))
    assert bench.poll({DONE: 6.0}) == ""
    assert bench.poll({DONE: 6.0}, after_s=600) == ""


def test_stalled_agent_waits_for_the_first_facts() -> None:
    """Until the database was read nobody knows whether the stall is over; then it says."""
    bench = Bench(FACTS, status="stalled")
    waiting = "stalled before the collector started, database not read since"
    assert bench.poll() == waiting
    bench.read(beat=Beat(1.0, True))
    assert bench.poll() == ""
    bench.progress.facts = None
    assert bench.poll() == ""
    late = Bench(FACTS, status="stalled")
    late.read(beat=Beat(95.0, True))
    assert late.poll() == "heartbeat is 95s old, expected one every 90s"


def test_agent_that_went_down_meanwhile_is_not_held() -> None:
    """What came between ends the stall of before."""
    bench = Bench(COUNTER, status="stalled", counters=polled_before(5.0))
    assert bench.poll(outcome=Outcome.TIMEOUT) == ""
    assert bench.poll({DONE: 5.0}) == ""
