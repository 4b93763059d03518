"""
Builders of work for tests, and what must be true of all work at every moment, in plain SQL.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import insert, select

from storage.models import Agent
from storage.repositories import TaskRepository, TaskSpec, WorkflowRepository
from storage.store import Store
from storage.transactions import writing
from storage.work_models import AgentCapability, Task
from tests.batches import NOON
from tests.fleet import add_agent

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
#: Longer than any test pretends to last.
LEASE = timedelta(minutes=5)


class Desk:
    """
    Tasks and workflows of a store, and a clock that stands still until somebody moves it.

    Agents ``ann`` and ``bob`` are there.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tasks = TaskRepository(store.engine)
        self.workflows = WorkflowRepository(store.engine)
        self.now = NOON
        for name in ("ann", "bob"):
            add_agent(store, name)

    def wait(self, duration: timedelta = MINUTE) -> datetime:
        """Move the clock; return what it says then."""
        self.now += duration
        return self.now

    def task(self, name: str | None = None, *, type: str = "work", **spec: object) -> Task:
        """Make a task."""
        made = replace(TaskSpec(type=type, name=name), **spec)  # type: ignore[arg-type]  # fields
        return self.tasks.create(made, self.now)

    def claim(self, agent: str = "ann", *types: str, lease: timedelta = LEASE) -> Task | None:
        """Claim a task."""
        return self.tasks.claim(agent, types or None, lease=lease, now=self.now)

    def claimed(self, agent: str = "ann", *types: str, lease: timedelta = LEASE) -> Task:
        """Claim a task, which has to be there."""
        found = self.claim(agent, *types, lease=lease)
        assert found is not None
        return found

    def move(self, task: Task, *states: str, agent: str = "ann") -> Task:
        """Take a task through *states*, as a person does."""
        for state in states:
            who = agent if state == "running" else None
            task = self.tasks.set_state(task.id, state, now=self.now, agent=who)
        return task

    def in_state(self, state: str, **spec: object) -> Task:
        """Make a task and take it to *state*."""
        way = {"pending": (), "running": ("running",), "cancelled": ("cancelled",)}
        return self.move(self.task(**spec), *way.get(state, ("running", state)))  # type: ignore[arg-type]  # fields


def add_capabilities(store: Store, agent: str, *names: str) -> None:
    """Say what an agent can do."""
    with writing(store.engine).begin() as connection:
        agent_id = connection.execute(select(Agent.id).where(Agent.name == agent)).scalar_one()
        rows = [{"agent_id": agent_id, "name": name, "details": {}, "added_at": NOON} for name in names]
        connection.execute(insert(AgentCapability), rows)


#: What no row of these may be found by.
_LIES = {
    "a task is in another state than its last event says": """
        SELECT t.id FROM tasks AS t WHERE t.state <>
        (SELECT e.to_state FROM task_events AS e WHERE e.task_id = t.id ORDER BY e.id DESC LIMIT 1)""",
    "a task has no events": """
        SELECT t.id FROM tasks AS t WHERE NOT EXISTS (SELECT 1 FROM task_events AS e WHERE e.task_id = t.id)""",
    "an event begins where the one before did not end": """
        SELECT task_id FROM (SELECT task_id, from_state, LAG(to_state) OVER (PARTITION BY task_id ORDER BY id) AS before
        FROM task_events) AS e WHERE NOT (from_state = before OR (from_state IS NULL AND before IS NULL))
        OR (from_state IS NULL) <> (before IS NULL)""",
    "a task waits for another number of tasks than are not completed": """
        SELECT t.id FROM tasks AS t WHERE t.blocked_by <> (SELECT count(*) FROM task_dependencies AS d
        JOIN tasks AS b ON b.id = d.depends_on WHERE d.task_id = t.id AND b.state <> 'completed')""",
    "a task runs without an open try, or has one and does not run": """
        SELECT t.id FROM tasks AS t WHERE (t.state = 'running') <> EXISTS (SELECT 1 FROM task_assignments AS a
        WHERE a.task_id = t.id AND a.ended_at IS NULL)""",
    "a task was tried another number of times than it says": """
        SELECT t.id FROM tasks AS t WHERE t.attempts <>
        (SELECT count(*) FROM task_assignments AS a WHERE a.task_id = t.id)""",
    "a try ended otherwise than the event at its end says": """
        SELECT t.id FROM tasks AS t JOIN task_assignments AS a ON a.task_id = t.id AND a.attempt = t.attempts
        WHERE t.state IN ('completed', 'failed') AND a.outcome <> t.state AND a.outcome <> 'lease_expired'""",
    "a running task is another agent's than its open try": """
        SELECT t.id FROM tasks AS t JOIN task_assignments AS a ON a.task_id = t.id AND a.ended_at IS NULL
        WHERE a.agent_id <> t.agent_id""",
    "a task has ended and no end, or an end and has not ended": """
        SELECT id FROM tasks WHERE (state IN ('completed', 'failed', 'cancelled')) <> (finished_at IS NOT NULL)""",
    "a subtask has ended and no end, or an end and has not ended": """
        SELECT id FROM subtasks WHERE (state IN ('completed', 'failed', 'cancelled')) <> (finished_at IS NOT NULL)""",
    "a workflow is in another state than its last event says": """
        SELECT w.id FROM workflows AS w WHERE w.state <>
        (SELECT e.to_state FROM workflow_events AS e WHERE e.workflow_id = w.id ORDER BY e.id DESC LIMIT 1)""",
    "work is left in a workflow that was cancelled": """
        SELECT t.id FROM tasks AS t JOIN workflows AS w ON w.id = t.workflow_id
        WHERE w.state = 'cancelled' AND t.state IN ('pending', 'running')""",
}


def lies(store: Store) -> dict[str, list[object]]:
    """Return what the tables say that cannot be, and of which rows."""
    found = {what: [id_ for (id_,) in store.query(sql).rows] for what, sql in _LIES.items()}
    return {what: ids for what, ids in found.items() if ids}
