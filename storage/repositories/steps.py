"""
Steps of a task: added, and taken from state to state. Each function is a part of the caller's transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from storage.errors import DuplicateName, InputError, StorageError, UnknownName
from storage.names import is_name
from storage.repositories.base import unknown
from storage.repositories.references import is_id, lock_task, task_title
from storage.repositories.task_changes import step_values
from storage.states import TASK, TaskState
from storage.work_models import SubTask, Task


def add(session: Session, task_id: int, name: str, now: datetime) -> SubTask:
    """Add a step behind the others; see ``TaskRepository.add_subtask``."""
    task = _open(session, task_id)
    steps = _steps(session, task)
    if name in {step.name for step in steps}:
        raise DuplicateName("subtask", name, f"{task_title(task)} has each of them once")
    position = max((step.position for step in steps), default=0) + 1
    row = {"task_id": task.id, "position": position, "name": name, "created_at": now}
    return session.scalars(insert(SubTask).values(row).returning(SubTask)).one()


def set_state(session: Session, task_id: int, step: str | int, state: str, now: datetime, result: object) -> SubTask:
    """Take a step to *state*; see ``TaskRepository.set_subtask_state``."""
    task = _open(session, task_id)
    steps = _steps(session, task)
    # True is 1, too, and nobody's position.
    named = is_id(step) or is_name(step)
    found = next((each for each in steps if named and step in (each.name, each.position)), None)
    if found is None:
        raise _unknown(task, step, steps)
    TASK.check(f"subtask {found.position} ({found.name}) of {task_title(task)}", found.state, state)
    if result is not None and state not in (TaskState.COMPLETED, TaskState.FAILED):
        raise InputError(
            f"a subtask of task {task_id} gets a result and is to be {state}, expected completed or failed"
        )
    values: dict[str, Any] = step_values(state, now) | ({} if result is None else {"result": result})
    return session.scalars(
        update(SubTask).where(SubTask.id == found.id).values(values).returning(SubTask),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one()


def _open(session: Session, task_id: int) -> Task:
    """Lock the task, whose steps may change until it has ended."""
    task = lock_task(session, task_id)
    if TASK.is_final(task.state):
        raise StorageError(
            f"{task_title(task)} is {task.state}, expected one that has not ended: its steps stay as they are"
        )
    return task


def _steps(session: Session, task: Task) -> list[SubTask]:
    return list(session.scalars(select(SubTask).where(SubTask.task_id == task.id).order_by(SubTask.position)))


def _unknown(task: Task, step: str | int, steps: list[SubTask]) -> UnknownName:
    if not isinstance(step, str):
        return UnknownName("subtask", step, f"{task_title(task)} has {len(steps)}")
    return unknown(
        "subtask", step, [each.name for each in steps], otherwise=f"{task_title(task)} has {len(steps)} others"
    )
