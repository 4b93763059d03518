"""
The whole story on one page, through the public API: agents, a workflow, tasks with steps and dependencies, messages, health
and metrics, every report, data frames.

::

    python docs/story.py                                  # in memory
    python docs/story.py postgresql://user@host/database  # a database without agents, of any engine

Two hours of work take a second here: the service is given a clock that is moved by hand. Without one it takes the
database's.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

from fleetpulse import (
    CATALOGUE,
    AgentSpec,
    DatabaseManager,
    DependencyCycle,
    HealthCheck,
    IllegalTransition,
    LeaseLost,
    PersistenceService,
    TaskSpec,
    Window,
    frames,
    report,
)

MINUTE = timedelta(minutes=1)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment

    def move(self, minutes: float) -> None:
        """Let *minutes* pass."""
        self.moment += minutes * MINUTE


def tell(service: PersistenceService, clock: Clock) -> None:
    """Let three agents write a report together."""
    # Agents that speak for themselves need no endpoint: a heartbeat is all that is expected of them.
    service.register_agent("planner", type="llm", capabilities={"plan": {}}, interval_s=60)
    writers = ("writer-1", "writer-2")
    service.register_agents(
        [AgentSpec(name=name, type="llm", interval_s=60) for name in writers],
        capabilities={name: {"research": {}, "write": {"words": 5_000}} for name in writers},
    )

    # A workflow, its tasks at once: those of one call may name each other.
    service.create_workflow("annual-report", type="report", payload={"year": 2026})
    service.update_workflow_status("annual-report", "running")
    outline, *_, draft = service.create_tasks(
        [
            TaskSpec(type="plan", name="outline", workflow="annual-report", subtasks=("collect", "order")),
            TaskSpec(type="research", name="sources", workflow="annual-report", depends_on=("outline",)),
            TaskSpec(type="research", name="figures", workflow="annual-report", depends_on=("outline",), priority=50),
            TaskSpec(type="write", name="draft", workflow="annual-report", depends_on=("sources", "figures")),
        ]
    )
    try:
        service.add_dependency(outline.id, draft.id)
    except DependencyCycle as exc:
        print(f"refused: {exc}")

    # The planner works step by step.
    clock.move(2)
    task = service.claim_next_task("planner")
    assert task is not None
    assert task.lease is not None
    for step in ("collect", "order"):
        service.update_subtask_status(task.id, step, "running")
        clock.move(3)
        # A lease is five minutes unless told otherwise: who needs longer says so in time.
        service.extend_lease(task.id, task.lease)
        service.update_subtask_status(task.id, step, "completed")
    service.update_task_status(task.id, "completed", lease=task.lease, result={"chapters": 3})
    message = service.log_message("planner", "writer-1", "result", {"chapters": 3}, workflow="annual-report")
    service.update_message_status(message.id, "delivered")
    clock.move(1)
    service.update_message_status(message.id, "read")
    try:
        service.update_task_status(outline.id, "failed")
    except IllegalTransition as exc:
        print(f"refused: {exc}")

    # Two writers claim what the outline has set free. One of them dies: its lease ends, and the other one takes over.
    first = service.claim_next_task("writer-1", lease=15 * MINUTE)
    second = service.claim_next_task("writer-2", lease=15 * MINUTE)
    assert first is not None
    assert second is not None
    clock.move(10)
    service.update_task_status(first.id, "failed", lease=first.lease, reason="no figures for December")
    service.retry_task(first.id, reason="December is there now")
    for _ in range(2):
        task = service.claim_next_task("writer-1", lease=15 * MINUTE)
        if task is None:
            break
        clock.move(10)
        service.update_task_status(task.id, "completed", lease=task.lease)
    try:
        assert second.lease is not None
        service.extend_lease(second.id, second.lease)
    except LeaseLost as exc:
        print(f"refused: {exc}")
    while (task := service.claim_next_task("writer-1", lease=15 * MINUTE)) is not None:
        clock.move(12)
        service.update_task_status(task.id, "completed", lease=task.lease, result={"pages": 40})
        service.log_message("writer-1", None, "done", {"task": task.name}, workflow="annual-report", task=task.id)
    service.update_workflow_status("annual-report", "completed")
    for task in service.get_workflow_tasks("annual-report"):
        history = " > ".join(event.to_state for event in service.task_history(task.id))
        print(f"{task.name}: {task.attempts} attempts, {history}")


def measure(service: PersistenceService, start: datetime, end: datetime) -> None:
    """Say how the agents were, each minute, and what they used."""
    minutes = [start + number * MINUTE for number in range(int((end - start) / MINUTE))]
    service.log_health_checks(
        [
            # The second writer does not answer for five minutes.
            HealthCheck(agent=agent, outcome="timeout", at=at)
            if agent == "writer-2" and at in minutes[20:25]
            else HealthCheck(agent=agent, outcome="healthy", at=at, latency_ms=12.5)
            for at in minutes
            for agent in ("planner", "writer-1", "writer-2")
        ]
    )
    for at in minutes:
        # Of counters the increase since the last time is told.
        service.update_agent_metrics("writer-1", {"tokens": 120.0}, at=at, kind="counter", units={"tokens": "1"})
        service.log_system_metrics("host-1", {"cpu_percent": 35.0, "memory_used_percent": 60.0}, at=at)
    service.heartbeat("planner")


def ask(database: DatabaseManager, window: Window) -> None:
    """Ask every report, and load data frames."""
    store = database.store
    for name in CATALOGUE:
        needed = {"agent": "writer-1"} if name == "blast_radius" else None
        answer = report(store, name, window=window, filters=needed)
        print(f"\n{name}: {', '.join(column.name for column in answer.columns)}")
        for row in answer.rows:
            print("  ", *row)

    tokens = frames.agent_metrics(store, "tokens", window, step="1min")
    runs = frames.task_runs(store, window=window)
    print(
        f"\n{tokens['sum'].sum():.0f} tokens in {len(tokens)} minutes, {len(runs)} runs of {runs['task'].nunique()} tasks"
    )
    print(frames.join_tasks(tokens, runs).groupby("task", observed=True)["sum"].sum().to_string())
    print(frames.report_frame(report(store, "availability", window=window)).to_string())


def main(url: str) -> None:
    """Tell the story in the database at *url*."""
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=2)
    with DatabaseManager(url) as database:
        database.create_schema()
        clock = Clock(start)
        with PersistenceService(database, clock=clock) as service:
            tell(service, clock)
            end = clock.moment
            clock.moment = start + timedelta(hours=2)
            measure(service, start, end)
        ask(database, Window(start, start + timedelta(hours=2)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite://")
