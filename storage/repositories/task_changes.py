"""
How a task's state changes, whoever changes it: the row, its event, the try that ends or begins, the steps, those that
wait for it. Each function is a part of the caller's transaction, which holds the lock of every task that it hands over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, case, insert, inspect, literal, null, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from storage.models import Base, Moment
from storage.repositories.references import insist_id, task_title
from storage.states import TASK, TaskState
from storage.work_models import SubTask, Task, TaskAssignment, TaskDependency, TaskEvent

Row = TypeVar("Row", Task, SubTask)

#: What becomes of the steps of a task that goes to a state: those that are in one of these states follow it. Steps that
#: are completed stay so: whoever tries the task again goes on from there.
_FOLLOWING: dict[str, tuple[TaskState, ...]] = {
    TaskState.PENDING: (TaskState.RUNNING, TaskState.FAILED),
    TaskState.FAILED: (TaskState.RUNNING,),
    TaskState.CANCELLED: (TaskState.PENDING, TaskState.RUNNING),
}

#: Outcome of the try that ends when a running task goes to a state. One that is given back is no failure of the agent.
_OUTCOMES: dict[str, str] = {
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
    TaskState.PENDING: "cancelled",
}


def move(
    session: Session,
    tasks: Sequence[Task],
    state: str,
    *,
    now: datetime,
    reason: str = "",
    agent_id: int | None = None,
    outcome: str | None = None,
    **changes: Any,
) -> list[Task]:
    """
    Take *tasks* to *state*; return them as they are then, by id.

    Args:
        agent_id: Who does it; without one it is the agent that has the task.
        outcome: Of the try that ends, where it is not plain from *state*.
        changes: Further columns.

    Raises:
        IllegalTransition: One of them cannot go there.
    """
    for task in tasks:
        TASK.check(task_title(task), task.state, state)
    if not tasks:
        return []
    events = [
        {
            "task_id": task.id,
            "ts": now,
            "from_state": task.state,
            "to_state": state,
            "agent_id": task.agent_id if agent_id is None and task.state == TaskState.RUNNING else agent_id,
            "reason": reason,
        }
        for task in tasks
    ]
    stopped = [task.id for task in tasks if task.state == TaskState.RUNNING]
    values = _values(state, now, reason, agent_id) | changes
    moved = change(session, [task.id for task in tasks], **values)
    if stopped:
        session.execute(
            update(TaskAssignment)
            .where(TaskAssignment.task_id.in_(stopped), TaskAssignment.ended_at.is_(None))
            .values(ended_at=_not_before(TaskAssignment.started_at, now), outcome=outcome or _OUTCOMES[state]),
            execution_options={"synchronize_session": False},
        )
    if state == TaskState.RUNNING:
        tries = [
            {"task_id": task.id, "agent_id": agent_id, "attempt": task.attempts, "started_at": now} for task in moved
        ]
        insert_rows(session, TaskAssignment, tries)
    insert_rows(session, TaskEvent, events)
    _move_steps(session, [task.id for task in tasks], state, now)
    return moved


def change(session: Session, ids: Collection[int], **values: Any) -> list[Task]:
    """Set columns of the tasks of *ids*; return them as they are then, by id."""
    rows = session.scalars(
        update(Task).where(Task.id.in_(ids)).values(version=Task.version + 1, **values).returning(Task),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    return sorted(rows, key=lambda task: task.id)


def dependent_ids(session: Session, task_id: int) -> list[int]:
    """
    Return the ids of the tasks that wait for that one, or have waited.

    Raises:
        UnknownName: There cannot be such a task.
    """
    insist_id("task", task_id)
    return list(session.scalars(select(TaskDependency.task_id).where(TaskDependency.depends_on == task_id)))


def unblock(session: Session, task_id: int) -> None:
    """Note that those that depend on *task_id*, which is completed, wait for one task less."""
    waiting = select(TaskDependency.task_id).where(TaskDependency.depends_on == task_id)
    session.execute(
        update(Task).where(Task.id.in_(waiting)).values(blocked_by=Task.blocked_by - 1, version=Task.version + 1),
        execution_options={"synchronize_session": False},
    )


def step_values(state: str, now: datetime) -> dict[str, Any]:
    """Return what changes in a step that goes to *state*."""
    values: dict[str, Any] = {"state": state, "finished_at": None}
    if state == TaskState.PENDING:
        values |= {"started_at": None, "result": null()}
    elif state == TaskState.RUNNING:
        values["started_at"] = now
    else:
        values["finished_at"] = _not_before(SubTask.started_at, now)
    return values


def insert_rows(session: Session, model: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Insert *rows* of one table; with RETURNING, SQLAlchemy sends many in one statement instead of one in each."""
    if rows:
        session.execute(insert(model).returning(*inspect(model).primary_key), rows)


def _values(state: str, now: datetime, reason: str, agent_id: int | None) -> dict[str, Any]:
    values: dict[str, Any] = {"state": state, "lease": None, "lease_until": None, "finished_at": None, "reason": ""}
    if state == TaskState.RUNNING:
        values |= {"attempts": Task.attempts + 1, "started_at": now, "agent_id": agent_id}
    elif state == TaskState.PENDING:
        # Somebody wants it done: there is one more try, at the least.
        tries = case((Task.attempts < Task.max_attempts, Task.max_attempts), else_=Task.attempts + 1)
        values |= {"result": null(), "max_attempts": tries}
    else:
        values |= {"finished_at": _not_before(Task.started_at, now), "reason": reason}
    return values


def _move_steps(session: Session, task_ids: Collection[int], state: str, now: datetime) -> None:
    following = _FOLLOWING.get(state)
    if following is not None:
        session.execute(
            update(SubTask)
            .where(SubTask.task_id.in_(task_ids), SubTask.state.in_(following))
            .values(step_values(state, now)),
            execution_options={"synchronize_session": False},
        )


def _not_before(start: InstrumentedAttribute[Any], now: datetime) -> ColumnElement[datetime]:
    """Return *now*, but never a moment before *start*: another machine's clock may be ahead."""
    return case((start > now, start), else_=literal(now, Moment))
