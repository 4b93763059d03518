"""
Which finished work may go, and keeping others from it while it goes. Each function is a part of the caller's transaction.

What goes as a whole is a unit: a workflow with all of its tasks, written as its id, or a task that has no workflow,
written as its negative id. A unit whose time is over goes unless a task of another one depends on a task of it and is
not done for good: that one may be tried again, and would wait for ever for what is gone. Where both times are over, both
go, together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, Select, case, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from storage.repositories.references import chunks
from storage.states import TASK, WORKFLOW, TaskState
from storage.work_models import Task, TaskDependency, Workflow

#: A workflow's id, or the negative one of a task without a workflow.
Unit = int

#: Failed ones are among them: whoever wants to try one again does so before its time is over.
_ENDED_TASK = tuple(state for state in TASK.states() if state not in ("pending", "running"))
_ENDED_WORKFLOW = tuple(state for state in WORKFLOW.states() if state not in ("pending", "running"))
#: These never run again.
_DONE = tuple(state for state in TASK.states() if TASK.is_final(state))


def free_workflows(before: datetime) -> Select[int]:
    """Return the statement of workflows that ended before that moment and that nothing waits for."""
    # Apart from what is left: planners make a join of each, and of the two in one a look for each workflow.
    return _past_workflows(before).where(~_has_task(_is_awaited))


def free_tasks(before: datetime) -> Select[int]:
    """Return the same of tasks without a workflow."""
    return _past_tasks(before).where(~_is_awaited(Task))


def tied(session: Session, before: datetime) -> set[Unit]:
    """Return the units that ended before that moment and that nothing waits for but others that go."""
    task, waiting = aliased(Task), aliased(Task)
    # Seldom more than a few: a workflow's tasks wait for each other.
    pairs = _waiting(task, waiting).where(waiting.state == TaskState.FAILED, waiting.finished_at < before)
    found = {(unit, other) for unit, other in session.execute(pairs)}
    awaited = {unit for unit, _ in found}
    return awaited & leaving(session, awaited.union(other for _, other in found), before)


def leaving(session: Session, units: Collection[Unit], before: datetime) -> set[Unit]:
    """Return those of *units* that ended before that moment and that nothing waits for but others of them."""
    going: set[Unit] = set()
    for listed in chunks(_workflows(units)):
        going.update(session.scalars(_past_workflows(before).where(Workflow.id.in_(listed))))
    for listed in chunks(_tasks(units)):
        going.update(-task_id for task_id in session.scalars(_past_tasks(before).where(Task.id.in_(listed))))
    task, waiting = aliased(Task), aliased(Task)
    pairs = {
        (unit, other)
        for column, ids in ((task.workflow_id, _workflows(going)), (task.id, _tasks(going)))
        for listed in chunks(ids)
        for unit, other in session.execute(_waiting(task, waiting).where(column.in_(listed)))
    }
    while held := {unit for unit, other in pairs if unit in going and other not in going}:
        going -= held
    return going


def lock(session: Session, units: Collection[Unit]) -> dict[Unit, list[int]]:
    """
    Keep others from changing *units*, or from referring to them, until the end of the transaction.

    Nobody is waited for. What somebody is at, in part or as a whole, is left out.

    Returns:
        The ids of the tasks of each unit that is locked.
    """
    found: dict[Unit, list[int]] = {}
    for listed in chunks(_workflows(units)):
        workflows = select(Workflow.id).where(Workflow.id.in_(listed)).order_by(Workflow.id)
        found |= {unit: [] for unit in session.scalars(workflows.with_for_update(skip_locked=True))}
    for column, ids in ((Task.workflow_id, _workflows(found)), (Task.id, _tasks(units))):
        for listed in chunks(ids):
            tasks = select(_unit(Task), Task.id).where(column.in_(listed)).order_by(Task.id)
            for unit, task_id in session.execute(tasks.with_for_update(skip_locked=True)):
                found.setdefault(unit, []).append(task_id)
    whole = sizes(session, found)
    return {unit: ids for unit, ids in found.items() if unit < 0 or len(ids) == whole[unit]}


def sizes(session: Session, units: Collection[Unit]) -> Counter[Unit]:
    """Return the number of tasks of each workflow among *units* that has any."""
    counted: Counter[Unit] = Counter()
    for listed in chunks(_workflows(units)):
        rows = session.execute(
            select(Task.workflow_id, func.count()).where(Task.workflow_id.in_(listed)).group_by(Task.workflow_id)
        )
        counted |= Counter({workflow_id: number for workflow_id, number in rows if workflow_id is not None})
    return counted


# ---------------------------------------------------------------- inside


def _past_workflows(before: datetime) -> Select[int]:
    """Return the statement of workflows that ended before that moment with all of their tasks."""

    def is_left(task: type[Task]) -> ColumnElement[bool]:
        return or_(task.state.not_in(_ENDED_TASK), task.finished_at >= before)

    return select(Workflow.id).where(
        Workflow.state.in_(_ENDED_WORKFLOW), Workflow.finished_at < before, ~_has_task(is_left)
    )


def _past_tasks(before: datetime) -> Select[int]:
    """Return the statement of tasks without a workflow that ended before that moment."""
    return select(Task.id).where(Task.workflow_id.is_(None), Task.state.in_(_ENDED_TASK), Task.finished_at < before)


def _has_task(which: Callable[[type[Task]], ColumnElement[bool]]) -> ColumnElement[bool]:
    task = aliased(Task)
    return exists().where(task.workflow_id == Workflow.id, which(task))


def _is_awaited(task: type[Task]) -> ColumnElement[bool]:
    """Tell whether a task of another unit may still run and depends on this one."""
    waiting = aliased(Task)
    return exists().where(
        TaskDependency.depends_on == task.id, TaskDependency.task_id == waiting.id, *_may_wait(task, waiting)
    )


def _waiting(task: type[Task], waiting: type[Task]) -> Select[int, int]:
    """Return the statement of units that others wait for, each with such another one."""
    return (
        select(_unit(task), _unit(waiting))
        .distinct()
        .join(TaskDependency, TaskDependency.depends_on == task.id)
        .join(waiting, waiting.id == TaskDependency.task_id)
        .where(*_may_wait(task, waiting))
    )


def _may_wait(task: type[Task], waiting: type[Task]) -> tuple[ColumnElement[bool], ...]:
    elsewhere = or_(task.workflow_id.is_(None), waiting.workflow_id.is_distinct_from(task.workflow_id))
    return waiting.state.not_in(_DONE), elsewhere


def _unit(task: type[Task]) -> ColumnElement[int]:
    return case((task.workflow_id.is_(None), -task.id), else_=task.workflow_id)


def _workflows(units: Iterable[Unit]) -> list[int]:
    return [unit for unit in units if unit > 0]


def _tasks(units: Iterable[Unit]) -> list[int]:
    return [-unit for unit in units if unit < 0]
