"""
Which task waits for which: added one by one, never in a circle.

Two that add at the same time could together close a circle that neither sees. So whoever adds locks, first of all, the
workflows of everything that the new dependency leads to, and loose tasks among it by themselves: of two additions that
could close a circle each leads to the place where the other one begins, and they take turns. Then it looks again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import BigInteger, literal, select
from sqlalchemy.orm import Session, aliased

from storage.errors import DependencyCycle, InputError, StorageError, TransientStorageError
from storage.repositories.references import chunks, find_task, insist_open, lock_tasks, lock_workflows, task_title
from storage.repositories.task_changes import change, insert_rows
from storage.repositories.task_creation import unknown_name
from storage.states import TaskState
from storage.work_models import Task, TaskDependency

#: A task that is to begin, now or once more.
_MAY_WAIT = (TaskState.PENDING, TaskState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """What has to be locked before a look for circles counts."""

    workflows: frozenset[int]
    #: Tasks that have no workflow.
    loose: frozenset[int]


def add(session: Session, task_id: int, depends_on: int | str) -> Task:
    """Have a task wait for another one; see ``TaskRepository.add_dependency``."""
    task = find_task(session, task_id)
    before = _find(session, task, depends_on)
    if task.id == before.id:
        raise DependencyCycle((task_title(task), task_title(task)))
    scope = _scope(_upstream(session, before), task)
    workflows = lock_workflows(session, scope.workflows)
    locked = lock_tasks(session, {*scope.loose, task.id, before.id})
    upstream = _upstream(session, before)
    if _scope(upstream, task) != scope or not {task.id, before.id} <= locked.keys():
        # Begun again, it finds what the others did.
        raise TransientStorageError(
            f"what task {before.id} waits for has changed meanwhile: try again", sqlstate="40001"
        )
    task, before = locked[task.id], locked[before.id]
    for workflow in workflows.values():
        if workflow.id == task.workflow_id:
            insist_open(workflow)
    if task.state not in _MAY_WAIT:
        raise StorageError(
            f"{task_title(task)} is {task.state}, expected {' or '.join(_MAY_WAIT)}: it waits for nothing any more"
        )
    if task.id in upstream:
        raise DependencyCycle(_cycle(session, task, before, upstream))
    known = select(TaskDependency.task_id).where(
        TaskDependency.task_id == task.id, TaskDependency.depends_on == before.id
    )
    if session.scalars(known).one_or_none() is not None:
        return task
    insert_rows(session, TaskDependency, [{"task_id": task.id, "depends_on": before.id}])
    if before.state == TaskState.COMPLETED:
        return task
    [changed] = change(session, [task.id], blocked_by=Task.blocked_by + 1)
    return changed


def _find(session: Session, task: Task, ref: int | str) -> Task:
    if not isinstance(ref, str):
        return find_task(session, ref)
    if task.workflow_id is None:
        raise InputError(f'{task_title(task)} has no workflow in which a task could be "{ref}": say its id')
    named = select(Task).where(Task.workflow_id == task.workflow_id, Task.name == ref)
    found = session.scalars(named).one_or_none()
    if found is None:
        raise unknown_name(session, task.workflow_id, ref)
    return found


def _upstream(session: Session, task: Task) -> dict[int, int | None]:
    """Return the tasks that *task* waits for, at whatever remove, and itself; the workflow of each by its id."""
    reached = select(literal(task.id, BigInteger).label("id")).cte("reached", recursive=True)
    edge = aliased(TaskDependency)
    reached = reached.union(select(edge.depends_on).join(reached, edge.task_id == reached.c.id))
    rows = session.execute(select(Task.id, Task.workflow_id).join(reached, reached.c.id == Task.id))
    return {task_id: workflow_id for task_id, workflow_id in rows}  # noqa: C416  # rows are no pairs to a type checker


def _scope(upstream: Mapping[int, int | None], task: Task) -> _Scope:
    tasks = {**upstream, task.id: task.workflow_id}
    return _Scope(
        workflows=frozenset(workflow_id for workflow_id in tasks.values() if workflow_id is not None),
        loose=frozenset(task_id for task_id, workflow_id in tasks.items() if workflow_id is None),
    )


def _cycle(session: Session, task: Task, before: Task, upstream: Mapping[int, int | None]) -> tuple[str, ...]:
    """Return the shortest circle that *task*, waiting for *before*, would close."""
    edges: dict[int, list[int]] = {}
    for listed in chunks(upstream):
        rows = session.execute(
            select(TaskDependency.task_id, TaskDependency.depends_on)
            .where(TaskDependency.task_id.in_(listed))
            .order_by(TaskDependency.task_id, TaskDependency.depends_on)
        )
        for waiting, awaited in rows:
            edges.setdefault(waiting, []).append(awaited)
    came_from = {before.id: task.id}
    queue = deque([before.id])
    while task.id not in came_from:
        here = queue.popleft()
        for there in edges.get(here, ()):
            if there not in came_from:
                came_from[there] = here
                queue.append(there)
    path = [task.id]
    while len(path) == 1 or path[-1] != task.id:
        path.append(came_from[path[-1]])
    titles = {each.id: task_title(each) for each in _tasks(session, path)}
    return tuple(titles[each] for each in reversed(path))


def _tasks(session: Session, ids: list[int]) -> list[Task]:
    return [task for listed in chunks(ids) for task in session.scalars(select(Task).where(Task.id.in_(listed)))]
