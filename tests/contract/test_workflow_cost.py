"""
What workflows cost: against numbers worked out by hand, and against a walk over every moment of random runs.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import insert, select, update

from reports.run import Report, run
from rollups.refresh import refresh_all
from storage.batch import Batch
from storage.model import Kind, MetricKey, Window, floor
from storage.models import Agent
from storage.store import Store
from storage.transactions import writing
from storage.work_models import Task, TaskAssignment, Workflow
from tests.batches import NOON, Spool
from tests.fleet import add_agent, write

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
BY_HOURS = {"minutes_up_to_s": 0.0}
#: (agent, workflow or None, first and last second after NOON, None while it goes on).
Run = tuple[str, str | None, float, float | None]


def work(store: Store, runs: Sequence[Run]) -> None:
    """Store *runs*, each of a task of its own; a workflow's type is its name in capitals."""
    names = sorted({name for _, name, _, _ in runs if name is not None})
    with writing(store.engine).begin() as connection:
        ids = {name: key for key, name in connection.execute(select(Agent.id, Agent.name))}
        workflows = {name: k for k, name in enumerate(names, 1)}
        if names:
            connection.execute(
                insert(Workflow),
                [{"id": k, "name": name, "type": name.upper(), "created_at": NOON} for name, k in workflows.items()],
            )
        connection.execute(
            insert(Task),
            [
                {"id": k, "workflow_id": workflows.get(name or ""), "type": "t", "created_at": NOON}
                for k, (_, name, _, _) in enumerate(runs, 1)
            ],
        )
        connection.execute(
            insert(TaskAssignment),
            [
                {
                    "task_id": k,
                    "agent_id": ids[agent],
                    "attempt": 1,
                    "started_at": NOON + timedelta(seconds=start),
                    "ended_at": None if end is None else NOON + timedelta(seconds=end),
                    "outcome": None if end is None else "completed",
                }
                for k, (agent, _, start, end) in enumerate(runs, 1)
            ],
        )


def counted(batch: Batch, *gauges: str) -> Batch:
    """Return *batch* with its metrics as counters of one unit each, but for *gauges*, which are bytes."""
    keys = (
        replace(key, kind=Kind.GAUGE, unit="By") if key.name in gauges else replace(key, kind=Kind.COUNTER, unit="1")
        for key in batch.metrics
    )
    return replace(batch, metrics=tuple(keys))


def seconds(at: float) -> datetime:
    """Return the moment *at* seconds after NOON."""
    return NOON + timedelta(seconds=at)


def amounts(report: Report) -> dict[str, dict[str, float]]:
    """Return metric to whose it was to how much; what has no workflow by its part."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for workflow, _, part, metric, _, amount, share, total in report.rows:
        assert {type(each) for each in (amount, total)} == {float}
        assert share is None or share == pytest.approx(amount / total)  # type: ignore[operator]  # numbers
        found[str(metric)][str(workflow or part)] = amount  # type: ignore[assignment]  # likewise
    return dict(found)


def two_metrics(store: Store) -> None:
    """
    Store an agent with three minutes of tokens (60, 30, 12) and two of memory (a mean of 10, and of 20 bytes).

    alpha runs from 0 to 90 s, beta from 30 to 60 s, a task without a workflow from 90 to 105 s.
    """
    add_agent(store, "a")
    work(store, [("a", "alpha", 0, 90), ("a", "beta", 30, 60), ("a", None, 90, 105)])
    samples = [
        *(
            ("a", "tokens", seconds(at), value)
            for at, value in ((0, 40.0), (30, 20.0), (60, 10.0), (90, 20.0), (120, 12.0))
        ),
        *(("a", "memory", seconds(at), value) for at, value in ((0, 5.0), (45, 15.0), (75, 20.0))),
    ]
    write(store, counted(Spool().batch(samples=samples), "memory"))


def test_workflow_cost_is_split_by_the_time_of_runs(store: Store) -> None:
    """
    The first minute: alpha alone for 30 s, with beta for 30 s: 45 s of 60 are alpha's, 15 s beta's.

    The second: 30 s of alpha, 15 s of the task without a workflow, 15 s of nobody. The third: nobody's.

    tokens: alpha 60 · 45/60 + 30 · 30/60 = 60, beta 15, no workflow 7.5, nobody 7.5 + 12.
    memory, mean times seconds: alpha 10 · 45 + 20 · 30 = 1050, beta 150, no workflow 300, nobody 300 of 1800 By·s.
    """
    two_metrics(store)
    report = run(store, "workflow_cost", window=Window(NOON, NOON + 3 * MINUTE))
    refresh_all(store, NOON + timedelta(days=1))
    after = run(store, "workflow_cost", window=Window(NOON, NOON + 3 * MINUTE))

    assert report.rows == [
        ("alpha", "ALPHA", "workflow", "memory", "By·s", 1050, 1050 / 1800, 1800),
        ("beta", "BETA", "workflow", "memory", "By·s", 150, 150 / 1800, 1800),
        (None, None, "no workflow", "memory", "By·s", 300, 300 / 1800, 1800),
        (None, None, "unattributed", "memory", "By·s", 300, 300 / 1800, 1800),
        ("alpha", "ALPHA", "workflow", "tokens", "1", 60, 60 / 102, 102),
        ("beta", "BETA", "workflow", "tokens", "1", 15, 15 / 102, 102),
        (None, None, "no workflow", "tokens", "1", 7.5, 7.5 / 102, 102),
        (None, None, "unattributed", "tokens", "1", 19.5, 19.5 / 102, 102),
    ]
    assert after.rows == report.rows


def test_workflow_cost_by_hours_is_split_by_the_time_of_the_hour(store: Store) -> None:
    """Of the hour's 3600 s 75 are alpha's, 15 beta's, 15 of the task without a workflow; its 102 tokens go by that."""
    two_metrics(store)
    report = run(
        store, "workflow_cost", window=Window(NOON, NOON + HOUR), options=BY_HOURS, filters={"metric": "tokens"}
    )
    long = run(store, "workflow_cost", window=Window(NOON, NOON + 49 * HOUR), filters={"metric": "tokens"})

    assert amounts(report) == {
        "tokens": {
            "alpha": pytest.approx(102 * 75 / 3600),
            "beta": pytest.approx(102 * 15 / 3600),
            "no workflow": pytest.approx(102 * 15 / 3600),
            "unattributed": pytest.approx(102 * 3495 / 3600),
        }
    }
    assert long.rows == report.rows


def test_workflow_cost_filters_leave_out_rows_and_change_none(store: Store) -> None:
    """A workflow's rows are the same whether it is asked for alone or among others; agents are counted apart."""
    add_agent(store, "a")
    add_agent(store, "b")
    work(store, [("a", "alpha", 0, 60), ("b", "alpha", 0, 30), ("b", "beta", 0, 30)])
    samples = [("a", "tokens", NOON, 60.0), ("b", "tokens", NOON, 6.0), ("b", "calls", NOON, 4.0)]
    write(store, counted(Spool().batch(samples=samples)))
    window = Window(NOON, NOON + MINUTE)

    def asked(**filters: str) -> dict[str, dict[str, float]]:
        return amounts(run(store, "workflow_cost", window=window, filters=filters))

    # On b, half of the minute was shared by two, the other half nobody's.
    assert asked() == {
        "calls": {"alpha": 1, "beta": 1, "unattributed": 2},
        "tokens": {"alpha": 61.5, "beta": 1.5, "unattributed": 3},
    }
    assert asked(workflow="alpha") == {"calls": {"alpha": 1}, "tokens": {"alpha": 61.5}}
    assert asked(workflow_type="BETA") == {"calls": {"beta": 1}, "tokens": {"beta": 1.5}}
    assert asked(metric="calls") == {"calls": {"alpha": 1, "beta": 1, "unattributed": 2}}
    assert asked(agent="a") == {"tokens": {"alpha": 60, "unattributed": 0}}


def test_workflow_cost_adds_label_sets_and_leaves_out_the_collector(store: Store) -> None:
    """Tokens of two models are tokens; what the collector counts of itself is no work, unless somebody asks for it."""
    add_agent(store, "a")
    add_agent(store, "fleetpulse/main")
    with writing(store.engine).begin() as connection:
        connection.execute(update(Agent).where(Agent.name == "fleetpulse/main").values(probe="internal"))
    work(store, [("a", "alpha", 0, 60)])
    batch = Spool().batch(
        samples=[("a", "s", NOON, 10.0), ("a", "l", NOON, 30.0), ("fleetpulse/main", "polls", NOON, 9.0)]
    )
    keys = [
        MetricKey(name="polls" if key.name == "polls" else "tokens", labels=(("model", key.name),), kind=Kind.COUNTER)
        for key in batch.metrics
    ]
    write(store, replace(batch, metrics=tuple(keys)))
    window = Window(NOON, NOON + MINUTE)
    own = run(store, "workflow_cost", window=window, filters={"agent": "fleetpulse/main"})

    assert amounts(run(store, "workflow_cost", window=window)) == {"tokens": {"alpha": 40, "unattributed": 0}}
    assert amounts(own) == {"polls": {"unattributed": 9}}


def test_workflow_cost_of_the_running_minute_lasts_until_now(store: Store) -> None:
    """A run that goes on has all of a minute that goes on: of a gauge no more than the seconds that have passed."""
    now = datetime.now(UTC)
    minute = floor(now, MINUTE)
    add_agent(store, "a")
    work(store, [("a", "alpha", (minute - HOUR - NOON).total_seconds(), None)])
    write(
        store, counted(Spool().batch(samples=[("a", "memory", minute, 10.0), ("a", "tokens", minute, 7.0)]), "memory")
    )
    found = amounts(run(store, "workflow_cost", window=Window(now - HOUR, datetime.now(UTC) + HOUR)))

    assert found["tokens"] == {"alpha": pytest.approx(7), "unattributed": 0}
    assert found["memory"]["unattributed"] == 0
    assert 0 < found["memory"]["alpha"] <= 600


# ---------------------------------------------------------------- against a walk


def walked(
    runs: Sequence[Run], samples: Sequence[tuple[str, str, datetime, float]], window: Window, step: timedelta
) -> dict[str, dict[str, float]]:
    """Return what ``amounts`` should: bucket by bucket, and in each from one moment at which something changes to the next."""
    step_s = step.total_seconds()
    end_s = (window.end - NOON).total_seconds()
    values: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for agent, metric, at, value in samples:
        if window.start <= at < window.end:
            values[agent, metric, (floor(at, step) - NOON).total_seconds()].append(value)
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (agent, metric, start), held in values.items():
        end = start + step_s
        found[metric]["unattributed"] += 0.0
        amount = sum(held) / len(held) * step_s if metric == "memory" else sum(held)
        mine = [(name, a, end_s if b is None else b) for who, name, a, b in runs if who == agent]
        cuts = sorted({start, end, *(cut for _, a, b in mine for cut in (a, b) if start < cut < end)})
        for left, right in pairwise(cuts):
            going = [name for name, a, b in mine if a <= left and b >= right]
            for name in going:
                found[metric][name or "no workflow"] += amount * (right - left) / step_s / len(going)
            if not going:
                found[metric]["unattributed"] += amount * (right - left) / step_s
    return {metric: dict(parts) for metric, parts in found.items()}


@pytest.mark.parametrize("seed", [1, 2])
def test_workflow_cost_agrees_with_a_walk_over_every_moment(store: Store, seed: int) -> None:
    """
    Runs that overlap, end where others begin, take no time, reach over either end of the window, or go on.

    By minutes and by hours: each part is what the walk finds, and all parts together are what was spent.
    """
    rng = random.Random(seed)
    agents = ("a", "b", "c")
    runs: list[Run] = []
    for _ in range(40):
        start = rng.choice((rng.uniform(-4000, 12_000), rng.randrange(-60, 200) * 60.0))
        end = start + rng.choice((0.0, rng.uniform(0.000001, 90), rng.uniform(60, 3000), rng.randrange(1, 20) * 60.0))
        start, end = round(start, 6), round(end, 6)
        runs.append((rng.choice(agents), rng.choice(("u", "v", "w", None)), start, end))
    # One that goes on, in the last hour and of one agent: there is time of nobody elsewhere.
    runs.append(("a", "u", 8000.0, None))
    samples = [
        (agent, metric, NOON + timedelta(seconds=rng.randrange(-7200, 14_400)), rng.uniform(-5, 100))
        for agent in agents
        for metric in ("tokens", "memory")
        for _ in range(80)
    ]
    for agent in agents:
        add_agent(store, agent)
    work(store, runs)
    write(store, counted(Spool().batch(samples=samples), "memory"))

    for window, step, options in (
        (Window(NOON + 7 * MINUTE, NOON + 151 * MINUTE), MINUTE, {}),
        (Window(NOON - HOUR, NOON + 3 * HOUR), HOUR, BY_HOURS),
    ):
        report = run(store, "workflow_cost", window=window, options=options)
        found, expected = amounts(report), walked(runs, samples, window, step)

        assert report.window == window
        for metric in ("tokens", "memory"):
            total = sum(expected[metric].values())
            assert expected[metric]["unattributed"] > 0.05 * total
            assert found[metric] == pytest.approx(expected[metric], rel=1e-9, abs=1e-9 * total)
            assert sum(found[metric].values()) == pytest.approx(total, rel=1e-9)
            assert [row[7] for row in report.rows if row[3] == metric] == pytest.approx([total] * len(found[metric]))
