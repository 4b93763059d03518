"""
Reports and views of agents' work on real databases, against numbers worked out by hand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import perf_counter

import numpy as np
import pytest
from sqlalchemy import update

from reports.catalogue import CATALOGUE
from reports.run import run
from reports.work_reports import WORK
from storage.model import Window
from storage.models import Agent
from storage.store import Store
from storage.transactions import writing
from tests.batches import NOON
from tests.fleet import add_agent
from tests.work_history import Run, history

pytestmark = pytest.mark.each_kind

TWO_HOURS = Window(NOON, NOON + timedelta(hours=2))
#: Tests about now are worked out in hours: a machine may be slow.
SLOW_S = 60


def rows(
    store: Store,
    name: str,
    *,
    window: Window = TWO_HOURS,
    filters: Mapping[str, str] | None = None,
    options: Mapping[str, float] | None = None,
) -> list[dict[str, object]]:
    """Return the rows of a report by the names of its columns."""
    answer = run(store, name, window=window, filters=filters, options=options)
    names = [column.name for column in answer.columns]
    return [dict(zip(names, row, strict=True)) for row in answer.rows]


def picked(found: list[dict[str, object]], *names: str) -> list[tuple[object, ...]]:
    """Return some columns of *found*."""
    return [tuple(row[name] for name in names) for row in found]


def set_agent(store: Store, name: str, **values: object) -> None:
    """Change an agent as the collector or a person would."""
    with writing(store.engine).begin() as connection:
        connection.execute(update(Agent).where(Agent.name == name).values(**values))


# ---------------------------------------------------------------- task_throughput


def throughput_history(store: Store) -> None:
    """Add tasks around both ends of the two hours after NOON."""
    for name in ("w1", "w2"):
        add_agent(store, name)
    with history(store, NOON) as work:
        nightly, adhoc = work.workflow("n"), work.workflow("a", type="adhoc")
        # Made before the window, begun at its first moment: waited 10 s, took 10 s.
        work.task("sum", Run("w1", 0, 10, "completed"), state="completed", made=-10)
        # Waited 100 s for its first run; the second one took 20 s.
        work.task(
            "sum",
            *(Run("w1", 100, 120, "failed"), Run("w2", 130, 150, "completed")),
            state="completed",
            made=0,
            workflow=nightly,
        )
        # Due at 40, begun at 50: waited 10 s, took 40 s.
        first = work.task("sum", Run("w2", 50, 90, "completed"), state="completed", made=10, due=40, workflow=nightly)
        # What it depends on was done at 90: waited 5 s, took 80 s.
        work.task("sum", Run("w1", 95, 175, "completed"), state="completed", made=20, after=[first], workflow=adhoc)
        # Made at the first moment after the window.
        work.task("sum", made=7200)
        work.task("sum", state="cancelled", made=30, finished=60)
        # Waited 160 s.
        work.task("sum", Run("w2", 200, 230, "failed", "no"), state="failed", made=40)
        # Waited 6,950 s, still at it.
        work.task("sum", Run("w1", 7000), state="running", made=50)
        # Waited 7,040 s, finished at the first moment after the window.
        work.task("sum", Run("w1", 7100, 7200, "completed"), state="completed", made=60)
        # Failed in the window, and waits for another try: it has not failed any more.
        work.task("retried", Run("w1", 300, 310, "failed"), state="pending", made=-5)
        # Began before the window and goes on: nothing happened in it.
        work.task("goes on", Run("w1", -30), state="running", made=-40)
        work.task("gone", state="cancelled", made=-60, finished=7199)
        work.task("before", Run("w1", -50, -0.000001, "completed"), state="completed", made=-60)
        work.task("later", Run("w1", 7200, 7300, "completed"), state="completed", made=7200)


def test_throughput_counts_what_began_and_ended_in_the_window(store: Store) -> None:
    """Both ends are half-open; a task that nothing happened to is left out, one that was tried again is not failed."""
    throughput_history(store)
    found = rows(store, "task_throughput")

    assert picked(found, "task_type", "created", "started", "completed", "failed", "cancelled") == [
        ("gone", 0, 0, 0, 0, 1),
        ("retried", 0, 1, 0, 0, 0),
        # Made: all but the one before and the one after. Runs: 1 + 2 + 1 + 1 + 1 + 1 + 1.
        ("sum", 7, 8, 4, 1, 1),
    ]
    # 4 in 2 hours.
    assert [row["completed_per_hour"] for row in found] == [0.0, 0.0, 2.0]


def test_throughput_percentiles_are_interpolated(store: Store) -> None:
    """Durations of what completed in the window, waits of first runs that began in it."""
    throughput_history(store)
    gone, retried, found = rows(store, "task_throughput")

    # Durations 10, 20, 40, 80; places 0.5 * 3 = 1.5, 0.95 * 3 = 2.85, 0.99 * 3 = 2.97.
    assert found["duration_p50_s"] == 30.0
    assert found["duration_p95_s"] == pytest.approx(40 + 0.85 * 40, rel=1e-12)
    assert found["duration_p99_s"] == pytest.approx(40 + 0.97 * 40, rel=1e-12)
    assert (found["duration_mean_s"], found["duration_max_s"]) == (37.5, 80.0)
    # Waits 5, 10, 10, 100, 160, 6950, 7040; places 3 and 0.95 * 6 = 5.7.
    assert found["wait_p50_s"] == 100.0
    assert found["wait_p95_s"] == pytest.approx(6950 + 0.7 * 90, rel=1e-12)
    # A run that failed has no duration here; made 5 s before the window and begun 300 s into it.
    assert [retried[name] for name in ("duration_p50_s", "duration_mean_s", "wait_p50_s")] == [None, None, 305.0]
    assert {gone[name] for name in gone if name.endswith("_s")} == {None}


def test_throughput_by_agent_workflow_and_type(store: Store) -> None:
    """An agent's tasks are those that it had last; what it did is its runs."""
    throughput_history(store)
    names = ("task_type", "created", "started", "completed", "failed", "duration_mean_s")

    # w2 had two that completed, of 20 and 40 s, and the one that failed.
    assert picked(rows(store, "task_throughput", filters={"agent": "w2"}), *names) == [("sum", 3, 3, 2, 1, 30.0)]
    # Three runs of two tasks.
    assert picked(rows(store, "task_throughput", filters={"workflow_type": "nightly"}), *names) == [
        ("sum", 2, 3, 2, 0, 30.0)
    ]
    assert picked(rows(store, "task_throughput", filters={"task_type": "gone"}), *names) == [("gone", 0, 0, 0, 0, None)]
    assert rows(store, "task_throughput", filters={"task_type": "before"}) == []
    assert rows(store, "task_throughput", window=Window(NOON, NOON)) == []


def test_windows_that_go_on_count_what_has_passed(store: Store) -> None:
    """Two tasks in half an hour are four an hour, whatever is still to come; what goes on is not there before its time."""
    now = datetime.now(UTC)
    add_agent(store, "w")
    with history(store, now) as work:
        for started in (-900, -600):
            work.task("t", Run("w", started, started + 60, "completed"), state="completed", made=started - 5)
        work.workflow("goes on", made=-1000)
        work.workflow("over", made=-1000, state="completed", started=-900, finished=-800)
    day, tomorrow = (
        Window(now + timedelta(minutes=start), now + timedelta(days=1, minutes=start)) for start in (-30, 60)
    )

    assert rows(store, "task_throughput", window=day)[0]["completed_per_hour"] == pytest.approx(4, rel=0.05)
    assert picked(rows(store, "workflow_summary", window=day), "workflow") == [("over",), ("goes on",)]
    assert [rows(store, name, window=tomorrow) for name in ("task_throughput", "workflow_summary")] == [[], []]


def test_percentiles_of_every_number_of_values(store: Store) -> None:
    """From one value on, ties included, as numpy's."""
    rng = random.Random(7)
    durations = {f"of-{n:02}": [rng.randrange(1, 40) / 8 for _ in range(n)] for n in (1, 2, 3, 4, 21)}
    add_agent(store, "w")
    with history(store, NOON) as work:
        for name, seconds in durations.items():
            for each in seconds:
                work.task(name, Run("w", 10, 10 + each, "completed"), state="completed")
    found = rows(store, "task_throughput")
    columns = {50: "duration_p50_s", 95: "duration_p95_s", 99: "duration_p99_s"}

    assert [row["task_type"] for row in found] == list(durations)
    for row in found:
        for percent, column in columns.items():
            expected = np.percentile(durations[str(row["task_type"])], percent)
            assert row[column] == pytest.approx(expected, rel=1e-12), (row["task_type"], column)


# ---------------------------------------------------------------- queue_age


def test_queue_age_tells_ready_from_blocked_scheduled_and_stuck(store: Store) -> None:
    """Ready for as long as a task could have been given out: made, due, unblocked, given back."""
    for name in ("w1", "w2"):
        add_agent(store, name)
    hour = 3600.0
    with history(store, datetime.now(UTC)) as work:
        # Ready since an hour, since it was due, since the other was done, since its lease was over, since a person
        # put it back: 1, 2, 3, 4, 5 hours; and since it was made, 10 hours.
        work.task("sum", made=-1 * hour)
        work.task("sum", made=-9 * hour, due=-2 * hour)
        done = work.task("old", Run("w1", -8 * hour, -3 * hour, "completed"), state="completed", made=-9 * hour)
        work.task("sum", made=-9 * hour, after=[done])
        lost = Run("w1", -8 * hour, -4.5 * hour, "lease_expired", seen=-4 * hour)
        work.task("sum", lost, made=-9 * hour)
        failed = work.task("sum", Run("w1", -8 * hour, -7 * hour, "failed"), made=-9 * hour, state="failed")
        again = work.task("sum", made=-10 * hour)
        work.task("sum", made=-20 * hour, blocked_by=1, after=[again])
        work.task("sum", made=-20 * hour, due=hour)
        # Blocked before it is scheduled.
        work.task("sum", made=-20 * hour, due=hour, blocked_by=1, after=[again])
        work.task("sum", Run("w1", -hour), state="running", made=-2 * hour, lease_until=hour)
        work.task("sum", Run("w2", -hour), state="running", made=-2 * hour, lease_until=-1)
        # Nobody gave it a lease: it is not stuck.
        work.task("sum", Run("w2", -hour), state="running", made=-2 * hour)
        work.task("waits", made=-20 * hour, blocked_by=1, after=[failed])
    found = rows(store, "queue_age")
    total, waits = found

    assert picked(found, "task_type", "ready", "blocked", "scheduled", "running", "stuck") == [
        ("sum", 5, 2, 1, 3, 1),
        ("waits", 0, 1, 0, 0, 0),
    ]
    # Ages 1, 2, 3, 4, 10 hours: place 2, and place 0.95 * 4 = 3.8.
    assert total["oldest_s"] == pytest.approx(10 * hour, abs=SLOW_S)
    assert total["p50_s"] == pytest.approx(3 * hour, abs=SLOW_S)
    assert total["p95_s"] == pytest.approx((4 + 0.8 * 6) * hour, abs=SLOW_S)
    assert (waits["oldest_s"], waits["p50_s"], waits["p95_s"]) == (None, None, None)
    assert picked(rows(store, "queue_age", filters={"task_type": "waits"}), "task_type") == [("waits",)]
    assert rows(store, "queue_age", filters={"task_type": "old"}) == []


def test_task_that_was_put_back_by_a_person_is_young(store: Store) -> None:
    """What failed hours ago and is tried again waits since then."""
    add_agent(store, "w")
    with history(store, datetime.now(UTC)) as work:
        task = work.task("sum", Run("w", -9000, -8000, "failed"), made=-20_000)
        work.requeued(task, -7200)
    (found,) = store.query("SELECT standing, age_s, agent FROM task_queue").rows

    assert found == ("ready", pytest.approx(7200, abs=SLOW_S), "w")


# ---------------------------------------------------------------- hot_spots


def test_hot_spots_are_where_runs_end_badly(store: Store) -> None:
    """By type and agent, those with the most bad ends first; the most frequent reason, the first of equals."""
    for name in ("w1", "w2"):
        add_agent(store, name)
    with history(store, NOON) as work:
        nightly = work.workflow("n")
        # w1, sum: runs 1, 2 and 4 of the first, one of the second; w2: run 3 of the first.
        work.task(
            "sum",
            Run("w1", 10, 20, "failed", "timeout"),
            Run("w1", 30, 40, "lease_expired", "lease over", seen=45),
            Run("w2", 50, 60, "failed", "disk full"),
            Run("w1", 70, 80, "completed"),
            state="completed",
            workflow=nightly,
        )
        work.task("sum", Run("w1", 90, 95, "failed", "timeout"), state="failed")
        # Goes on: neither good nor bad.
        work.task("sum", Run("w1", 100), state="running")
        # Two reasons, once each, and one that says nothing.
        for number, reason in enumerate(("zebra", "apple", "")):
            work.task("ask", Run("w2", number, 10, "failed", reason), state="failed")
        work.task("ask", Run("w1", 5, 6, "cancelled", "not needed"), state="cancelled")
        # Nobody saw the end of its lease before 5.
        work.task("lost", Run("w2", 1, 2, "lease_expired", "lease over", seen=5))
        # Before and at the end of the window.
        work.task("ask", Run("w1", -0.5, 6, "failed", "early"), state="failed", made=-1)
        work.task("ask", Run("w1", 7200, 7300, "failed", "late"), state="failed")
    found = run(store, "hot_spots", window=TWO_HOURS).rows

    assert found == [
        # Bad ends of ended runs, retries of runs: 3 of 4, 2 of 5.
        ("sum", "w1", 5, 2, 2, 1, 0.75, 0.4, "timeout"),
        ("ask", "w2", 3, 0, 3, 0, 1.0, 0.0, "apple"),
        ("sum", "w2", 1, 1, 1, 0, 1.0, 1.0, "disk full"),
        ("lost", "w2", 1, 0, 0, 1, 1.0, 0.0, "lease over"),
        ("ask", "w1", 1, 0, 0, 0, 0.0, 0.0, None),
    ]
    assert picked(rows(store, "hot_spots", options={"limit": 1}), "agent") == [("w1",)]
    assert picked(rows(store, "hot_spots", filters={"workflow_type": "nightly"}), "agent", "runs") == [
        ("w1", 3),
        ("w2", 1),
    ]
    assert picked(rows(store, "hot_spots", filters={"agent": "w1", "task_type": "ask"}), "runs") == [(1,)]


def test_hot_spot_of_nothing_but_open_runs_has_no_ratio(store: Store) -> None:
    """Of runs that go on nobody knows how they end."""
    add_agent(store, "w")
    with history(store, NOON) as work:
        work.task("sum", Run("w", 10), state="running")

    assert run(store, "hot_spots", window=TWO_HOURS).rows == [("sum", "w", 1, 0, 0, 0, None, 0.0, None)]


# ---------------------------------------------------------------- workflow_summary


def test_workflow_summary_adds_up_tasks_and_runs(store: Store) -> None:
    """
    A diamond: a, then b and c, then d, which was tried twice.
    """
    add_agent(store, "w")
    with history(store, NOON) as work:
        flow = work.workflow("f", state="failed", made=0, started=10, finished=110)
        a = work.task("t", Run("w", 10, 20, "completed"), state="completed", name="a", workflow=flow)
        b = work.task("t", Run("w", 20, 50, "completed"), state="completed", name="b", workflow=flow, after=[a])
        c = work.task("t", Run("w", 20, 60, "completed"), state="completed", name="c", workflow=flow, after=[a])
        d = work.task(
            "t",
            *(Run("w", 60, 75, "failed"), Run("w", 80, 85, "failed")),
            state="failed",
            name="d",
            workflow=flow,
            after=[b, c],
        )
        work.task("t", name="e", workflow=flow, after=[d], blocked_by=1)
        # Stands alone, has no name, and was worked on for longest: 10 + 40 + 20 = 70 is more all the same.
        work.task("t", Run("w", 10, 75, "completed"), state="completed", workflow=flow)
    (found,) = rows(store, "workflow_summary")

    assert picked([found], "workflow", "workflow_type", "state", "tasks") == [("f", "nightly", "failed", 6)]
    assert picked([found], "pending", "running", "completed", "failed", "cancelled") == [(1, 0, 4, 1, 0)]
    assert found["progress"] == pytest.approx(4 / 6)
    assert found["started_at"] == NOON + timedelta(seconds=10)
    # Runs of 10 + 30 + 40 + (15 + 5) + 65 seconds in 100.
    assert picked([found], "elapsed_s", "work_s", "runs", "retries", "parallelism") == [(100.0, 165.0, 6, 1, 1.65)]
    assert picked([found], "critical_path_s", "critical_path") == [(70.0, "a > c > d")]


def test_workflow_summary_of_the_window(store: Store) -> None:
    """Made before its end and not finished before its start; the latest first; nothing is divided by nothing."""
    add_agent(store, "w")
    with history(store, NOON) as work:
        work.workflow("over", state="completed", made=-100, started=-90, finished=-0.000001)
        work.workflow("at start", state="completed", made=-100, started=-100, finished=0)
        work.workflow("later", state="pending", made=7200)
        work.workflow("empty", state="pending", made=1, type="adhoc")
        instant = work.workflow("instant", state="cancelled", made=2, started=5, finished=5)
        task = work.task("t", Run("w", 5, 5, "cancelled"), state="cancelled", workflow=instant)
        # Of another workflow: what it waits for is not on its own path.
        other = work.workflow("other", state="completed", made=3, started=4, finished=14)
        work.task("t", Run("w", 4, 14, "completed"), state="completed", workflow=other, after=[task])
    found = rows(store, "workflow_summary")
    names = ("workflow", "tasks", "progress", "elapsed_s", "work_s", "parallelism", "critical_path_s", "critical_path")

    assert picked(found, *names) == [
        ("other", 1, 1.0, 10.0, 10.0, 1.0, 10.0, f"#{task + 1}"),
        ("instant", 1, 0.0, 0.0, 0.0, None, 0.0, None),
        ("empty", 0, None, None, 0.0, None, 0.0, None),
        ("at start", 0, None, 100.0, 0.0, 0.0, 0.0, None),
    ]
    assert picked(rows(store, "workflow_summary", filters={"workflow_type": "adhoc"}), "workflow") == [("empty",)]
    assert picked(rows(store, "workflow_summary", filters={"workflow": "other"}), "runs") == [(1,)]
    latest = rows(store, "workflow_summary", options={"limit": 1})
    assert picked(latest, "workflow", "critical_path_s") == [("other", 10.0)]


def test_workflow_summary_of_a_running_one_goes_up_to_now(store: Store) -> None:
    """An open run counts as long as it has lasted, in the work and on the critical path."""
    add_agent(store, "w")
    now = datetime.now(UTC)
    with history(store, now) as work:
        flow = work.workflow("f", made=-8000, started=-7200)
        a = work.task("t", Run("w", -7200, -3600, "completed"), state="completed", name="a", workflow=flow)
        work.task("t", Run("w", -3600), state="running", name="b", workflow=flow, after=[a])
    (found,) = rows(store, "workflow_summary", window=Window(now - timedelta(hours=1), now))

    assert [found[name] for name in ("elapsed_s", "work_s", "critical_path_s")] == [pytest.approx(7200, abs=SLOW_S)] * 3
    assert found["parallelism"] == pytest.approx(1, abs=0.01)
    assert picked([found], "finished_at", "critical_path", "progress") == [(None, "a > b", 0.5)]


# ---------------------------------------------------------------- blast_radius


def radius_history(store: Store) -> dict[str, int]:
    """
    Add two agents and tasks that wait for the first, the second one being able to do only half of what it does.
    """
    for name in ("gpu", "cpu", "down", "held"):
        add_agent(store, name)
    set_agent(store, "down", status="timeout")
    set_agent(store, "held", state="paused")
    ids: dict[str, int] = {}
    with history(store, datetime.now(UTC)) as work:
        work.capable("gpu", "train", "plain")
        work.capable("cpu", "plain")
        # Neither of them could take over.
        work.capable("down", "train")
        work.capable("held", "train")
        flow = work.workflow("flow", started=-60)
        ids["run"] = work.task("plain", Run("gpu", -30), state="running", name="run", workflow=flow, lease_until=600)
        ids["train"] = work.task("train", name="train", workflow=flow, after=[ids["run"]], blocked_by=1)
        ids["mid"] = work.task("plain", name="mid", workflow=flow, after=[ids["run"]], blocked_by=1)
        ids["end"] = work.task("plain", name="end", workflow=flow, after=[ids["mid"], ids["train"]], blocked_by=2)
        ids["far"] = work.task("plain", after=[ids["end"]], blocked_by=1)
        # Due when the agent is back from half an hour, not from two.
        ids["tomorrow"] = work.task("train", due=3600)
        ids["then"] = work.task("plain", after=[ids["tomorrow"]], blocked_by=1)
        ids["later"] = work.task("plain", due=3600, after=[ids["run"]], blocked_by=1)
        ids["last"] = work.task("plain", after=[ids["later"]], blocked_by=1)
        # Its lease outlives half an hour.
        ids["long"] = work.task("plain", Run("gpu", -30), state="running", lease_until=3600)
        # Nobody takes it away: it waits for as long as it takes.
        ids["held"] = work.task("plain", Run("gpu", -30), state="running")
        # Not concerned: another agent's, what others can do, finished ones, those that nobody does.
        work.task("plain", Run("cpu", -30), state="running", lease_until=600, after=[ids["run"]])
        work.task("plain")
        work.task("train", Run("gpu", -30, -20, "completed"), state="completed")
        work.task("train", state="cancelled", finished=-10, after=[ids["run"]])
        work.task("unheard-of")
    return ids


def test_blast_radius_is_who_waits_each_task_once(store: Store) -> None:
    """What runs on it, what nobody else can do, and all that waits for these, by the shortest way."""
    ids = radius_history(store)
    found = rows(store, "blast_radius", filters={"agent": "gpu"})

    assert picked(found, "distance", "task_id", "task", "task_type", "state", "why") == [
        (0, ids["run"], "run", "plain", "running", "runs on it"),
        (0, ids["train"], "train", "train", "pending", "nobody else can"),
        (0, ids["held"], None, "plain", "running", "runs on it"),
        (1, ids["mid"], "mid", "plain", "pending", f"waits for task {ids['run']} (run)"),
        (1, ids["end"], "end", "plain", "pending", f"waits for task {ids['train']} (train)"),
        (2, ids["far"], None, "plain", "pending", f"waits for task {ids['end']} (end)"),
    ]
    assert picked(found, "workflow", "workflow_state", "workflow_waiting") == [
        ("flow", "running", 4),
        ("flow", "running", 4),
        (None, None, None),
        ("flow", "running", 4),
        ("flow", "running", 4),
        (None, None, None),
    ]


def test_blast_radius_grows_with_the_outage(store: Store) -> None:
    """Leases that end within it, tasks that are due within it and what waits for these."""
    ids = radius_history(store)
    asked = {
        seconds: rows(store, "blast_radius", filters={"agent": "gpu"}, options={"down_for_s": seconds})
        for seconds in (300, 1800, 7200)
    }
    tasks = {seconds: {row["task_id"] for row in found} for seconds, found in asked.items()}

    half_an_hour = {ids[name] for name in ("run", "train", "held", "mid", "end", "far")}
    # The lease of run outlives five minutes: mid does not wait for the outage, train does as before.
    assert tasks[300] == half_an_hour - {ids["run"], ids["mid"]}
    assert tasks[1800] == half_an_hour
    assert tasks[7200] == half_an_hour | {ids[name] for name in ("tomorrow", "then", "later", "last", "long")}


def test_blast_radius_depends_on_who_else_is_up(store: Store) -> None:
    """Who is up and able takes over; an agent that nothing waits for has no radius."""
    ids = radius_history(store)
    set_agent(store, "down", status="degraded")
    found = {row["task_id"]: row["why"] for row in rows(store, "blast_radius", filters={"agent": "gpu"})}

    assert found[ids["train"]] == f"waits for task {ids['run']} (run)"
    assert rows(store, "blast_radius", filters={"agent": "held"}) == []


def test_graphs_with_more_ways_than_time(store: Store) -> None:
    """
    100 layers of 10 tasks, each waiting for all of the layer before: 10^100 ways, a thousand tasks.
    """
    add_agent(store, "w")
    now = datetime.now(UTC)
    with history(store, now) as work:
        work.capable("w", "t")
        # The last of each layer took 2 s, the others 1 s.
        work.layers("t", work.workflow("deep", made=-100, started=-100), "w", seconds=[1] * 9 + [2], depth=100)
    began = perf_counter()
    (summary,) = rows(store, "workflow_summary", window=Window(NOON, now))
    radius = rows(store, "blast_radius", filters={"agent": "w"})
    took_s = perf_counter() - began

    assert summary["critical_path_s"] == pytest.approx(200)
    assert summary["critical_path"] == " > ".join(f"{depth}.9" for depth in range(100))
    assert len(radius) == 1000
    # In fractions of a second; walking each way would not end.
    assert took_s < SLOW_S


# ---------------------------------------------------------------- top_talkers


def test_top_talkers_by_pair_of_sender_and_recipient(store: Store) -> None:
    """Messages to everybody are to *; bytes are those of UTF-8; the busiest first."""
    for name in ("a", "b", "c"):
        add_agent(store, name)
    with history(store, NOON) as work:
        # As JSON: {"t": "né"} has 12 bytes, é being two of them.
        for delivered in (1, 2, 4, 8):
            work.message("a", "b", {"t": "né"}, made=0, delivered=delivered, state="delivered")
        work.message("a", "b", "x", made=9, state="failed")
        work.message("b", "a", {}, made=10, delivered=10, state="read")
        work.message("c", None, [1, 2.5, None], made=7199)
        # Before and at the end of the window.
        work.message("b", "a", {}, made=-0.000001)
        work.message("b", "a", {}, made=7200)
    found = run(store, "top_talkers", window=TWO_HOURS).rows

    assert found == [
        # 4 * 12 + 3 bytes; delivered after 1, 2, 4, 8 s: places 1.5 and 0.95 * 3 = 2.85.
        ("a", "b", 5, 51, 1, 3.0, pytest.approx(4 + 0.85 * 4, rel=1e-12), NOON + timedelta(seconds=9)),
        # [1, 2.5, null] has 14 bytes.
        ("c", "*", 1, 14, 0, None, None, NOON + timedelta(seconds=7199)),
        ("b", "a", 1, 2, 0, 0.0, 0.0, NOON + timedelta(seconds=10)),
    ]
    assert picked(rows(store, "top_talkers", options={"limit": 1}), "sender") == [("a",)]
    assert picked(rows(store, "top_talkers", filters={"agent": "c"}), "sender", "recipient") == [("c", "*")]
    assert len(rows(store, "top_talkers", filters={"agent": "b"})) == 2


def test_top_talkers_that_said_as_much_stand_by_name(store: Store) -> None:
    """Everybody is called * there as well, and stands where * does."""
    for name in ("a", "!", "b"):
        add_agent(store, name)
    with history(store, NOON) as work:
        for recipient in ("b", None, "!"):
            work.message("a", recipient, {}, made=1)

    assert picked(rows(store, "top_talkers"), "recipient") == [("!",), ("*",), ("b",)]


def test_agent_called_like_everybody_is_one_agent(store: Store) -> None:
    """A message to everybody is none to an agent whose name is *."""
    for name in ("a", "*"):
        add_agent(store, name)
    with history(store, NOON) as work:
        work.message("a", None, {}, made=1)

    assert rows(store, "top_talkers", filters={"agent": "*"}) == []


# ---------------------------------------------------------------- all of them


def test_work_reports_answer_the_same_types_on_every_engine(store: Store) -> None:
    """Moments are aware UTC, counts and ids int, all that is measured float, the rest text; names in the catalogue."""
    add_agent(store, "w")
    now = datetime.now(UTC)
    with history(store, now) as work:
        work.capable("w", "t")
        flow = work.workflow("f", made=-100, started=-100)
        done = Run("w", -90, -80, "completed")
        a = work.task("t", done, state="completed", name="a", workflow=flow, made=-100)
        work.task("t", Run("w", -70, -60, "failed", "no"), Run("w", -50), state="running", made=-100, after=[a])
        work.task("t", made=-100, name="b", workflow=flow, after=[a])
        work.message("w", "w", {}, made=-10, delivered=-9, state="delivered")
    wanted = {"utc": datetime, "": str, "n": int, "id": int, "By": int}

    for report in WORK:
        assert CATALOGUE[report.name] is report
        needed = dict.fromkeys(report.required, "w")
        answer = run(store, report.name, window=Window(now - timedelta(hours=1), now), filters=needed)
        assert answer.rows, report.name
        assert {len(row) for row in answer.rows} == {len(report.columns)}
        for row in answer.rows:
            for column, value in zip(report.columns, row, strict=True):
                expected = wanted.get(column.unit, float)
                assert value is None or type(value) is expected, (report.name, column.name, value)
                assert not isinstance(value, datetime) or value.utcoffset() == timedelta(0)
                assert not isinstance(value, float) or math.isfinite(value)


def test_wait_begins_when_a_task_could_have_been_begun(store: Store) -> None:
    """Made, due, and what it depends on completed, whichever was last; of first runs alone, and never below nothing."""
    add_agent(store, "w")
    with history(store, NOON) as work:
        a = work.task("t", Run("w", 10, 30, "completed"), name="a", state="completed", made=2)
        work.task("t", Run("w", 10, 20, "completed"), name="due", state="completed", due=4)
        # Put off after its first run: that one did not wait for it.
        work.task("t", Run("w", 10, 20, "failed"), name="put off", due=500)
        work.task("t", Run("w", 37, 40, "completed"), name="after", state="completed", due=20, after=[a])
        work.task(
            "t", Run("w", 15, 20, "failed"), Run("w", 90, 95, "completed"), name="again", state="completed", made=1
        )
        # By clocks that do not agree.
        work.task("t", Run("w", 10, 20, "completed"), name="early", state="completed", made=11)
    found = store.query("SELECT task, attempt, wait_s FROM task_runs ORDER BY run_id").rows

    assert found == [
        ("a", 1, 8.0),
        ("due", 1, 6.0),
        ("put off", 1, 10.0),
        ("after", 1, 7.0),
        ("again", 1, 14.0),
        ("again", 2, None),
        ("early", 1, 0.0),
    ]


def test_views_of_work_say_the_same(store: Store) -> None:
    """What psql and Grafana read: names instead of ids, and how long it took."""
    add_agent(store, "w")
    with history(store, NOON) as work:
        flow = work.workflow("f", made=0, started=5, finished=65, state="completed")
        work.task("t", Run("w", 10, 30, "completed"), state="completed", name="a", workflow=flow)
        work.message("w", None, "héllo", made=1, delivered=3, state="delivered")
    asked = {
        "task_runs": "SELECT task, task_type, workflow, agent, attempt, duration_s, so_far_s, wait_s, outcome FROM task_runs",
        "workflow_progress": "SELECT workflow, workflow_type, state, tasks, completed, progress, elapsed_s FROM workflow_progress",
        "message_log": "SELECT sender, recipient, state, payload_bytes, delivery_s, delivered_at FROM message_log",
    }
    found = {name: store.query(sql, types={"delivered_at": datetime}).rows for name, sql in asked.items()}

    assert found == {
        "task_runs": [("a", "t", "f", "w", 1, 20.0, 20.0, 10.0, "completed")],
        "workflow_progress": [("f", "nightly", "completed", 1, 1, 1.0, 60.0)],
        # Six bytes of text and two quotation marks.
        "message_log": [("w", "*", "delivered", 8, 2.0, NOON + timedelta(seconds=3))],
    }
