"""
Finished work past its time: what goes, what stays, and that nothing is left of what went.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rollups.policy import RetentionPolicy
from rollups.retention import apply, past_work
from storage.models import Agent
from storage.repositories import past
from storage.repositories.past import PastWork, PastWorkRepository
from storage.store import Store
from storage.transactions import writing
from storage.work_models import (
    Message,
    MessageEvent,
    SubTask,
    Task,
    TaskAssignment,
    TaskDependency,
    TaskEvent,
    Workflow,
    WorkflowEvent,
)
from tests.batches import NOON
from tests.fleet import add_agent

pytestmark = pytest.mark.each_kind

HOUR = timedelta(hours=1)
TABLES = (Workflow, WorkflowEvent, Task, TaskEvent, SubTask, TaskAssignment, TaskDependency, Message, MessageEvent)


class Work:
    """Puts work of one agent into a database, as of NOON."""

    def __init__(self, store: Store) -> None:
        add_agent(store, "a")
        self._engine = writing(store.engine)
        with Session(self._engine) as session:
            self._agent = session.scalars(select(Agent.id)).one()

    def workflow(self, name: str, state: str, *tasks: str, ended: datetime = NOON) -> list[int]:
        """Add a workflow with tasks in these states, each with everything that a task has; return the tasks' ids."""
        final = state not in ("pending", "running")
        with Session(self._engine) as session, session.begin():
            made = Workflow(name=name, type="t", state=state, created_at=NOON, finished_at=ended if final else None)
            session.add(made)
            session.flush()
            session.add(WorkflowEvent(workflow_id=made.id, ts=NOON, to_state="pending"))
            return [self._task(session, made.id, each, ended) for each in tasks]

    def task(self, state: str, ended: datetime = NOON) -> int:
        """Add a task without a workflow."""
        with Session(self._engine) as session, session.begin():
            return self._task(session, None, state, ended)

    def wait(self, task: int, depends_on: int) -> None:
        """Let one task wait for another."""
        with Session(self._engine) as session, session.begin():
            session.add(TaskDependency(task_id=task, depends_on=depends_on))

    def _task(self, session: Session, workflow: int | None, state: str, ended: datetime) -> int:
        final = state not in ("pending", "running")
        task = Task(workflow_id=workflow, type="t", state=state, created_at=NOON, finished_at=ended if final else None)
        session.add(task)
        session.flush()
        message = Message(sender_id=self._agent, workflow_id=workflow, task_id=task.id, type="t", created_at=NOON)
        session.add_all(
            [
                message,
                SubTask(task_id=task.id, position=1, name="s", created_at=NOON),
                TaskAssignment(task_id=task.id, agent_id=self._agent, attempt=1, started_at=NOON),
                TaskEvent(task_id=task.id, ts=NOON, to_state="pending"),
            ]
        )
        session.flush()
        session.add(MessageEvent(message_id=message.id, ts=NOON, to_state="pending"))
        return task.id


def counts(store: Store) -> dict[str, int]:
    """Return the number of rows of each table of work that has any."""
    with Session(store.engine) as session:
        found = {each.__tablename__: session.scalar(select(func.count()).select_from(each)) or 0 for each in TABLES}
    return {name: number for name, number in found.items() if number}


def left(store: Store) -> tuple[Sequence[str], Sequence[int]]:
    """Return the names of workflows and the ids of tasks that are left."""
    with Session(store.engine) as session:
        return (
            session.scalars(select(Workflow.name).order_by(Workflow.name)).all(),
            session.scalars(select(Task.id).order_by(Task.id)).all(),
        )


def test_only_what_has_ended_as_a_whole_goes(store: Store) -> None:
    """A workflow goes with its tasks once all of it has ended long enough ago, and nothing of it is left."""
    work = Work(store)
    work.workflow("done", "completed", "completed", "failed", "cancelled")
    work.workflow("empty", "cancelled")
    late = work.workflow("late", "completed", "completed", ended=NOON + HOUR)
    at_work = work.workflow("at work", "running", "completed")
    straggler = work.workflow("straggler", "failed", "failed", "running")
    work.task("completed")
    alone = [work.task("pending"), work.task("failed", ended=NOON + HOUR)]
    repository = PastWorkRepository(store.engine)
    counted = repository.count(NOON + HOUR, None)
    gone = repository.purge(NOON + HOUR, None)
    again = repository.purge(NOON + HOUR, None)

    assert counted == gone == PastWork(workflows=2, tasks=4)
    assert again == PastWork()
    assert left(store) == (["at work", "late", "straggler"], sorted([*late, *at_work, *straggler, *alone]))
    # Six tasks are left with all that each has; messages stay, and speak of what is left only.
    assert counts(store) == {
        "workflows": 3,
        "workflow_events": 3,
        "tasks": 6,
        "task_events": 6,
        "subtasks": 6,
        "task_assignments": 6,
        "messages": 10,
        "message_events": 10,
    }
    with Session(store.engine) as session:
        assert session.scalar(select(func.count()).where(Message.task_id.is_(None), Message.workflow_id.is_(None))) == 4


def test_what_somebody_waits_for_stays(store: Store) -> None:
    """A failed task may be tried again for those that wait for it; what only finished tasks waited for goes."""
    work = Work(store)
    [awaited, other] = work.workflow("awaited", "failed", "failed", "completed")
    [first, second] = work.workflow("chain", "completed", "completed", "completed")
    [waiting] = work.workflow("waiting", "running", "pending")
    work.wait(waiting, awaited)
    work.wait(second, first)
    alone = work.task("failed")
    work.wait(waiting, alone)
    gone = PastWorkRepository(store.engine).purge(NOON + HOUR, None)

    assert gone == PastWork(workflows=1, tasks=2)
    assert left(store) == (["awaited", "waiting"], sorted([awaited, other, waiting, alone]))
    assert counts(store)["task_dependencies"] == 2


def test_retention_forgets_by_its_policy(store: Store) -> None:
    """Work and messages are kept for ever unless the policy says otherwise; a large backlog goes bit by bit."""
    work = Work(store)
    for number in range(7):
        work.workflow(f"w{number}", "completed", "completed")
    later = NOON + timedelta(days=10)
    kept = apply(store, RetentionPolicy(), later)
    before = counts(store)
    policy = RetentionPolicy(work=timedelta(days=10) - HOUR, messages=timedelta(days=9))
    planned = past_work(store, policy, later)
    limit, past.PURGE_ROWS = past.PURGE_ROWS, 3
    try:
        done = apply(store, policy, later)
    finally:
        past.PURGE_ROWS = limit

    assert kept.work == PastWork()
    assert before["workflows"] == before["tasks"] == before["messages"] == 7
    assert planned == done.work == PastWork(workflows=7, tasks=7, messages=7)
    assert done.ok
    assert counts(store) == {}
