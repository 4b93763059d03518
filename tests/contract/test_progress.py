"""
What the database says of agents' progress: heartbeats, running tasks, and the p95 of finished ones.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from collector.config import ProgressRules
from collector.progress import Progress
from collector.progress_reader import P95_KEEP_S, ProgressReader
from storage import progress
from storage.model import AgentSpec
from storage.repositories import AgentRepository
from storage.store import Store
from tests.batches import NOON
from tests.fleet import add_agent
from tests.work_history import Run, history

pytestmark = pytest.mark.each_kind

SECOND = timedelta(seconds=1)


def test_heartbeats_are_those_of_whom_they_are_asked_for(store: Store) -> None:
    """Agents of the probe are always there, others by type or all; without a heartbeat there is the registration."""
    agents = AgentRepository(store.engine)
    add_agent(store, "worker")
    add_agent(store, "silent")
    add_agent(store, "retired", state="retired")
    add_agent(store, "other", type="llm")
    pushing = AgentSpec(name="pushing", type="cron", probe="heartbeat")
    agents.add(pushing, NOON + SECOND)
    for name in ("worker", "other", "pushing"):
        agents.heartbeat(name, NOON + 2.5 * SECOND)
    agents.heartbeat("worker", NOON + 3 * SECOND)
    expected = {
        "worker": ("worker", NOON, NOON + 3 * SECOND),
        "silent": ("silent", NOON, None),
        "other": ("other", NOON, NOON + 2.5 * SECOND),
        "pushing": ("pushing", NOON + SECOND, NOON + 2.5 * SECOND),
    }

    def named(*names: str) -> set[tuple[object, ...]]:
        return {expected[name] for name in names}

    assert set(progress.heartbeats(store.engine, ())) == named("pushing")
    assert set(progress.heartbeats(store.engine, {"llm"})) == named("pushing", "other")
    assert set(progress.heartbeats(store.engine, None)) == set(expected.values())


def test_p95_is_that_of_a_run_there_was(store: Store) -> None:
    """Of 40 runs it is the 38th by duration, of 20 the 19th; failed, running, older and too few ones are left out."""
    add_agent(store, "w")
    with history(store, NOON) as work:
        # Neither in the order of their durations, nor all of one duration.
        for k in range(40):
            seconds = (k * 7) % 40 + 0.25
            work.task("long", Run("w", k, k + seconds, "completed"), state="completed")
        for k in range(20):
            work.task("short", Run("w", k, k + 0.001 * (k + 1), "completed"), state="completed")
            work.task("failing", Run("w", k, k + 1, "failed"), state="failed")
            # The one before the window would be the longest by far.
            work.task("short", Run("w", -100, 10_000, "completed"), state="completed")
        for k in range(19):
            work.task("rare", Run("w", k, k + 1, "completed"), state="completed")
        work.task("long", Run("w", 0), state="running")
    types = ("long", "short", "failing", "rare", "none")

    assert progress.p95_by_type(store.engine, types, NOON) == {
        "long": timedelta(seconds=37.25),
        "short": timedelta(milliseconds=19),
    }
    assert progress.p95_by_type(store.engine, ("short",), NOON) == {"short": timedelta(milliseconds=19)}


def test_running_tasks_are_the_open_tries(store: Store) -> None:
    """Those that began before a moment, the oldest first, each with the agent that works on it."""
    add_agent(store, "a")
    add_agent(store, "b")
    with history(store, NOON) as work:
        late = work.task("t", Run("a", 50), state="running")
        early = work.task("u", Run("a", 0, 5, "lease_expired"), Run("b", 10.5), state="running")
        work.task("t", Run("a", 0, 5, "completed"), state="completed")
        work.task("t", Run("a", 60), state="running")

    assert list(progress.running(store.engine, NOON + 60 * SECOND)) == [
        ("b", early, "u", NOON + 10.5 * SECOND),
        ("a", late, "t", NOON + 50 * SECOND),
    ]


def test_reader_makes_facts_and_remembers_quantiles(store: Store) -> None:
    """Ages are by the database's clock; the p95 of a type is read again only after a while."""
    add_agent(store, "w")
    now = store.now()
    with history(store, now) as work:
        for k in range(20):
            work.task("t", Run("w", k - 100, k - 98, "completed"), state="completed")
        task = work.task("t", Run("w", -90), state="running")
        work.task("t", Run("w", -1), state="running")
    AgentRepository(store.engine).heartbeat("w", now - 40 * SECOND)
    clock = [5.0]
    rules = {"worker": ProgressRules(task_p95_factor=2.0, task_min_s=60.0, heartbeat_within_s=30.0)}
    known = Progress(rules, refresh_s=1.0, clock=lambda: clock[0])
    reader = ProgressReader(known, lambda: store)
    reader.read()
    facts = known.facts
    assert facts is not None
    (running,) = facts.running["w"]
    late_s = running.age_s - 90

    assert (running.id, running.type) == (task, "t")
    assert 0 <= late_s < 60
    assert facts.beats["w"].age_s == pytest.approx(40 + late_s)
    assert facts.beats["w"].heard
    assert facts.p95_s == {"t": 2.0}
    assert facts.read_s == 5.0
    with history(store, now) as work:
        for k in range(40):
            work.task("t", Run("w", k - 100, k - 95, "completed"), state="completed")
    for after_s, p95_s in ((P95_KEEP_S - 1, 2.0), (P95_KEEP_S + 1, 5.0)):
        clock[0] = 5.0 + after_s
        reader.read()
        assert known.facts is not None
        assert known.facts.p95_s == {"t": p95_s}


def test_reader_without_a_database_keeps_the_facts(store: Store) -> None:
    """While the database is away nothing is read, and what is known stays, as old as it is."""
    add_agent(store, "w")
    with history(store, NOON) as work:
        work.task("t", Run("w", 0), state="running")
    there: list[Store | None] = [store]
    known = Progress({"*": ProgressRules(heartbeat_within_s=1.0)})
    reader = ProgressReader(known, lambda: there[0])
    reader.read()
    facts = known.facts
    there[0] = None
    reader.read()

    assert facts is not None
    assert known.facts is facts
    assert set(facts.beats) == {"w"}
    assert facts.beats["w"].heard is False
    assert facts.running == {}, "nobody asked for tasks"
