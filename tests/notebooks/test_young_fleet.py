"""
The notebooks on a fleet of one's own that is minutes old: what is there is told, and nothing is made up of what is not.

Their cells run in this process, which costs a second where a kernel costs ten.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from fleetpulse import DatabaseManager, HealthCheck, PersistenceService, Sample, TaskSpec
from notebooks.pictures import NOTEBOOKS
from storage.model import Outcome, Transition
from tests.batches import SESSION, Spool

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
#: How old the fleet is: it may be on both sides of an hour, and of midnight.
AGE = 12 * MINUTE
AGENTS = ("planner-1", "worker-1", "worker-2")
#: Names of the generated fleet's metrics, and what the young one has in their place.
OWN = {"llm_tokens": "tokens", "cpu_seconds": "work_s"}

QUICK_START, HEALTH_REVIEW, COST_ANALYSIS = NOTEBOOKS

#: What the notebooks say of twelve minutes in which a workflow was done and an agent went down …
FOUND = {
    QUICK_START.stem: ("agents of type worker spent 67% of 3,600", "nothing lost, nothing doubled: True"),
    HEALTH_REVIEW.stem: (
        "observed at all: 3 of 4 agents",
        "worst: worker-2, up in 75.00% of its slots, down in 4",
        "1 of 3 agents missed 99.0%",
        "the least coverage was 0.00%",
        "1 of 4 agents failed, 1 times in all",
        "most often: worker-2, 1 failures",
        "1 hosts were measured",
        "0 file systems have been watched for the two whole days that a line takes",
    ),
    COST_ANALYSIS.stem: (
        "attributed + unattributed = measured: True",
        "tokens: 22% belongs to workflows",
        "5 of 10 runs had no sample while they went on",
        "research took 75% of 800",
        "1 of 10 runs failed",
        "1 of 1 workflows waited, 43.8% of the time of all",
        "1 of 1 outages met work, of 1 workflows",
        "nothing waits for 4 of 4 agents",
        "most: worker-1 → planner-1, 1 messages, 13 bytes",
    ),
}
#: … and of five in which nothing did.
CALM = {
    QUICK_START.stem: ("agents of type worker spent 67% of 1,500", "nothing lost, nothing doubled: True"),
    HEALTH_REVIEW.stem: (
        "0 of 3 agents missed 99.0%",
        "0 outages, 0.0 minutes of agents in all",
        "0 of 4 agents answered with a latency",
        "0 of 4 agents failed, 0 times in all",
        "0 hosts were measured",
    ),
    COST_ANALYSIS.stem: (
        "attributed + unattributed = measured: True",
        "tokens: 0% belongs to workflows",
        "0 workflows took 0 tokens",
        "plan took 100% of 500",
        "0 of 0 workflows are completed",
        "0 of 0 outages met work, of 0 workflows",
        "planner-1: 1 tasks would wait",
        "0 messages between 0 pairs, the ten busiest at the most",
    ),
}
#: What is said to be missing where agents are registered, and nothing has been measured yet.
MISSING = {
    QUICK_START.stem: "no counter tokens went up",
    HEALTH_REVIEW.stem: "no agent was observed",
    COST_ANALYSIS.stem: "nobody worked on a task",
}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a database file to the notebooks."""
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    monkeypatch.setenv("FLEETPULSE_DATABASE_URL", url)
    return url


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect the titles of what the notebooks draw, and leave matplotlib and pandas as they were."""
    titles: list[str] = []

    def show() -> None:
        figure = plt.gcf()
        figure.canvas.draw()
        titles.extend(ax.get_title() for ax in figure.axes)
        plt.close(figure)

    before = plt.get_backend()
    monkeypatch.setattr(plt, "show", show)
    with mpl.rc_context(), pd.option_context("display.max_colwidth", 50):
        plt.switch_backend("agg")
        yield titles
        plt.close("all")
    plt.switch_backend(before)


def run(path: Path) -> list[str]:
    """Run the code of a notebook, for the young fleet's metrics, and return the lines that it prints."""
    names: dict[str, object] = {}
    said = StringIO()
    with redirect_stdout(said), warnings.catch_warnings(action="error"):
        try:
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "code":
                    code = "".join(cell["source"])
                    for generated, own in OWN.items():
                        code = code.replace(f'"{generated}"', f'"{own}"')
                    exec(compile(code, f"{path.name}:{cell['id']}", "exec"), names)
        finally:
            if isinstance(database := names.get("database"), DatabaseManager):
                database.close()
    return said.getvalue().splitlines()


def start(service: PersistenceService) -> None:
    """Register three agents that are seen, and one that never is."""
    for name in (*AGENTS, "worker-9"):
        service.register_agent(name, type=name.partition("-")[0], interval_s=60)


def measure(service: PersistenceService, minutes: list[datetime], *, latency_ms: float | None = 12.5) -> None:
    """Say how the agents were each minute, and what they used: of counters the increase."""
    service.log_health_checks(
        [
            HealthCheck(agent=agent, outcome="healthy", at=at, latency_ms=latency_ms)
            for at in minutes
            for agent in AGENTS
        ]
    )
    service.log_samples(
        [
            Sample(agent=agent, metric=metric, value=value, at=at, kind="counter")
            for at in minutes
            for agent in AGENTS
            for metric, value in zip(OWN.values(), (100.0, 2.5), strict=True)
        ]
    )


def work(service: PersistenceService, clock: Clock, tasks: int) -> None:
    """Let the agents do all tasks of a workflow one after the other, two of three in 20 seconds; the fourth fails."""
    done = 0
    while done < tasks:
        task = service.claim_next_task(AGENTS[done % len(AGENTS)])
        assert task is not None
        clock.moment += 20 * SECOND if done % 3 else 90 * SECOND
        if done == 3 and task.attempts == 1:
            service.update_task_status(task.id, "failed", lease=task.lease, reason="no figures")
            service.retry_task(task.id)
            continue
        service.update_task_status(task.id, "completed", lease=task.lease)
        done += 1


@pytest.fixture
def now() -> datetime:
    """Return the last full minute: the notebooks look as far as this."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


@pytest.fixture
def working(url: str, now: datetime) -> None:
    """Make a fleet that is twelve minutes old, and has done a workflow of nine tasks."""
    clock = Clock(now - AGE)
    with DatabaseManager(url) as database:
        database.create_schema()
        with PersistenceService(database, clock=clock) as service:
            start(service)
            service.create_workflow("annual-report", type="report")
            service.update_workflow_status("annual-report", "running")
            service.create_tasks(
                [
                    TaskSpec(type="plan", name="outline", workflow="annual-report"),
                    *(
                        TaskSpec(type="research", name=f"part-{n}", workflow="annual-report", depends_on=("outline",))
                        for n in range(7)
                    ),
                    TaskSpec(type="write", name="draft", workflow="annual-report", depends_on=("part-0", "part-6")),
                ]
            )
            work(service, clock, 9)
            service.update_workflow_status("annual-report", "completed")
            service.log_message("worker-1", "planner-1", "done", {"pages": 40}, workflow="annual-report")
            clock.moment = now
            minutes = [now - AGE + n * MINUTE for n in range(12)]
            measure(service, minutes)
            service.log_health_checks(
                [HealthCheck(agent="worker-2", outcome="timeout", at=at + 30 * SECOND) for at in minutes[3:6]]
            )
            service.log_system_metrics("host-1", {"cpu_percent": 35.0, "memory_used_percent": 60.0}, at=minutes[2])
        # Outages are a collector's: it goes on, and nobody has said why.
        outage = Transition(agent="worker-2", due=minutes[3], old="healthy", new="timeout")
        database.store.write(
            Spool().batch(checks=[("worker-2", minutes[3], Outcome.TIMEOUT, None)], transitions=[outage])
        )
        database.store.close_session(SESSION)


@pytest.fixture
def calm(url: str, now: datetime) -> None:
    """Make a fleet to which nothing has happened yet: one agent is at its first task, and that belongs to no workflow."""
    clock = Clock(now - 5 * MINUTE)
    with DatabaseManager(url) as database:
        database.create_schema()
        with PersistenceService(database, clock=clock) as service:
            start(service)
            service.create_task(type="plan", name="outline")
            assert service.claim_next_task("planner-1") is not None
            clock.moment = now
            measure(service, [now - n * MINUTE for n in range(5, 0, -1)], latency_ms=None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("fleet", ["working", "calm"])
def test_young_fleet_is_told_without_nonsense(
    path: Path, fleet: str, now: datetime, drawn: list[str], request: pytest.FixtureRequest
) -> None:
    """No warning, no number that is none; the window begins with the hour of the fleet and ends with the last minute."""
    request.getfixturevalue(fleet)
    begun = now - (AGE if fleet == "working" else 5 * MINUTE)

    said = run(path)

    # Another minute may have begun meanwhile.
    assert re.fullmatch(rf"sqlite: {begun:%Y-%m-%d %H}:00 to \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", said[0])
    assert not [line for line in said if re.search(r"\bnan\b|\binf\b|NaT|None|<NA>", line)]
    assert drawn
    expected = (FOUND if fleet == "working" else CALM)[path.stem]
    assert [line for line in expected if line not in said] == [], said
    # Nobody is the worst of those to whom nothing happened.
    assert fleet == "working" or not [line for line in said if re.match(r"(worst|longest|slowest|most)\b", line)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_fleet_without_measurements_stops_with_a_sentence(
    path: Path, url: str, now: datetime, drawn: list[str]
) -> None:
    """What is missing, between which moments, and what to do: from the first cell, before anything is drawn."""
    with DatabaseManager(url) as database:
        database.create_schema()
        with PersistenceService(database) as service:
            start(service)
            # After the last full minute, though in the same hour.
            service.update_agent_metrics("worker-1", {"tokens": 1.0}, at=now + 4 * MINUTE, kind="counter")
            service.log_health_check("worker-1", "healthy", at=now + 4 * MINUTE)

    with pytest.raises(ValueError, match=MISSING[path.stem]) as caught:
        run(path)

    assert re.search(r" between \d{4}-\d\d-\d\d \d\d:00 and \d{4}-\d\d-\d\d \d\d:\d\d UTC: .*DAYS", str(caught.value))
    assert drawn == []


@pytest.mark.parametrize("path", [QUICK_START, COST_ANALYSIS], ids=lambda path: path.stem)
def test_gauge_in_place_of_a_counter_is_refused(
    path: Path, calm: None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes up and down is not added up."""
    monkeypatch.setitem(OWN, "llm_tokens", "mood")
    with DatabaseManager(url) as database, PersistenceService(database) as service:
        service.update_agent_metrics("worker-1", {"mood": 1.0}, at=datetime.now(UTC) - 3 * MINUTE)

    with pytest.raises(ValueError, match=r'^no counter mood went up between .* \(logged with kind="counter"\)'):
        run(path)
