"""
New tasks, one or many, with their steps and dependencies: a handful of statements however many they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from storage.errors import DependencyCycle, DuplicateName, InputError, UnknownName, quoted
from storage.model import aware
from storage.payloads import check_integer, check_name, check_payload
from storage.repositories.base import MAX_LISTED, pieces, unknown
from storage.repositories.references import (
    WorkflowRef,
    chunks,
    insist_open,
    insist_task,
    insist_workflow,
    keep_tasks,
    keep_workflows,
)
from storage.repositories.task_changes import insert_rows
from storage.states import TaskState
from storage.work_models import SubTask, Task, TaskDependency, TaskEvent, Workflow

#: Of one call: what a transaction does within some seconds.
MAX_BULK = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task that is to be made."""

    type: str
    #: Unique within its workflow; needs none.
    name: str | None = None
    #: Id or name.
    workflow: int | str | None = None
    #: A JSON value; ``None`` is an empty object.
    payload: Any = None
    #: Lower comes first.
    priority: int = 100
    #: How often it is given out before a lost lease makes it fail.
    max_attempts: int = 3
    #: Not given out before this moment.
    due_at: datetime | None = None
    #: Ids, or names of tasks of the same workflow; those of the same call too, in whatever order.
    depends_on: Sequence[int | str] = ()
    #: Names of its steps, in their order.
    subtasks: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """What a new task waits for."""

    #: Places of tasks of the same call.
    new: frozenset[int]
    #: Ids of tasks that were there before.
    old: frozenset[int]


def check_specs(specs: Sequence[TaskSpec]) -> None:
    """
    Insist that tasks can be made like that, as far as that can be told without the database.

    Raises:
        InputError: One of them cannot.
        UnknownName: Its workflow, or what it depends on, is neither an id nor a name.
        DuplicateName: Two steps of a task would have the same name.
    """
    if len(specs) > MAX_BULK:
        raise InputError(f"{len(specs):,} tasks are too many for one call, expected at most {MAX_BULK:,}")
    for spec in specs:
        if spec.name is not None:
            check_name("name of a task", spec.name)
        check_name("type of a task", spec.type)
        what = _shown(spec)
        check_payload(f"payload of {what}", spec.payload)
        check_integer(f"priority of {what}", spec.priority)
        check_integer(f"max_attempts of {what}", spec.max_attempts, least=1)
        if spec.workflow is not None:
            insist_workflow(spec.workflow)
        if spec.due_at is not None:
            aware(spec.due_at, f"due_at of {what}")
        _insist_several(f"depends_on of {what}", spec.depends_on)
        _insist_several(f"subtasks of {what}", spec.subtasks)
        for name in spec.subtasks:
            check_name(f"name of a subtask of {what}", name)
        if len(set(spec.subtasks)) < len(spec.subtasks):
            twice = next(name for name in spec.subtasks if spec.subtasks.count(name) > 1)
            raise DuplicateName("subtask", twice, f"{what} has each of them once")
        for before in spec.depends_on:
            insist_task(before)
            if isinstance(before, str) and spec.workflow is None:
                raise InputError(f'{what} depends on "{before}" and has no workflow: say the id of the other task')


def create_tasks(session: Session, specs: Sequence[TaskSpec], now: datetime) -> list[Task]:
    """Make the tasks of *specs*, which have been checked; see ``TaskRepository.create_many``."""
    if not specs:
        return []
    workflows = keep_workflows(session, {spec.workflow for spec in specs if spec.workflow is not None})
    for workflow in workflows.values():
        insist_open(workflow)
    waiting = _dependencies(session, specs, workflows)
    _insist_no_cycle(specs, waiting)
    old = keep_tasks(session, {task_id for each in waiting for task_id in each.old})
    rows = [
        {
            "workflow_id": None if spec.workflow is None else workflows[spec.workflow].id,
            "type": spec.type,
            "name": spec.name,
            "priority": spec.priority,
            "payload": {} if spec.payload is None else spec.payload,
            "max_attempts": spec.max_attempts,
            "due_at": spec.due_at,
            "created_at": now,
            "blocked_by": len(each.new) + sum(old[before].state != TaskState.COMPLETED for before in each.old),
        }
        for spec, each in zip(specs, waiting, strict=True)
    ]
    made = list(session.scalars(insert(Task).returning(Task, sort_by_parameter_order=True), rows))
    events = [{"task_id": task.id, "ts": now, "to_state": TaskState.PENDING.value} for task in made]
    insert_rows(session, TaskEvent, events)
    steps = [
        {"task_id": task.id, "position": position, "name": name, "created_at": now}
        for task, spec in zip(made, specs, strict=True)
        for position, name in enumerate(spec.subtasks, start=1)
    ]
    insert_rows(session, SubTask, steps)
    before = [
        {"task_id": task.id, "depends_on": other}
        for task, each in zip(made, waiting, strict=True)
        for other in sorted({*(made[place].id for place in each.new), *each.old})
    ]
    insert_rows(session, TaskDependency, before)
    return made


def _dependencies(
    session: Session, specs: Sequence[TaskSpec], workflows: Mapping[WorkflowRef, Workflow]
) -> list[_Waiting]:
    """Return what each of *specs* waits for; insist that names are new where they have to be, and known elsewhere."""
    places: dict[tuple[int, str], int] = {}
    asked: set[tuple[int, str]] = set()
    for place, spec in enumerate(specs):
        if spec.workflow is None:
            continue
        workflow_id = workflows[spec.workflow].id
        asked.update((workflow_id, before) for before in spec.depends_on if isinstance(before, str))
        if spec.name is not None:
            if (workflow_id, spec.name) in places:
                raise DuplicateName("task", spec.name, f"{_in(workflows, spec)} it stands twice in what is to be made")
            places[workflow_id, spec.name] = place
    stored = _stored_names(session, asked | places.keys())
    found: list[_Waiting] = []
    for spec in specs:
        new: set[int] = set()
        old = {before for before in spec.depends_on if not isinstance(before, str)}
        workflow_id = 0 if spec.workflow is None else workflows[spec.workflow].id
        if spec.name is not None and (workflow_id, spec.name) in stored:
            raise DuplicateName("task", spec.name, f"{_in(workflows, spec)} names of tasks are unique")
        for before in spec.depends_on:
            if not isinstance(before, str):
                continue
            key = workflow_id, before
            if key in places:
                new.add(places[key])
            elif key in stored:
                old.add(stored[key])
            else:
                raise unknown_name(session, workflow_id, before, [name for id_, name in places if id_ == workflow_id])
        found.append(_Waiting(new=frozenset(new), old=frozenset(old)))
    return found


def unknown_name(session: Session, workflow_id: int, name: str, also: Sequence[str] = ()) -> UnknownName:
    """Return the error about *name*, which no task of the workflow has; *also* are names that it is about to get."""
    newest = (
        select(Task.name)
        .where(Task.workflow_id == workflow_id, Task.name.is_not(None))
        .order_by(Task.id.desc())
        .limit(MAX_LISTED)
    )
    known = [each for each in session.scalars(newest) if each is not None]
    return unknown("task", name, [*also, *known], otherwise="expected one of the same workflow; say others by their id")


def _stored_names(session: Session, wanted: set[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return the ids of those tasks that there are, by workflow and name."""
    names = sorted({name for _, name in wanted})
    found: dict[tuple[int, str], int] = {}
    for workflow_ids in chunks(workflow_id for workflow_id, _ in wanted):
        for listed in pieces(names):
            rows = session.execute(
                select(Task.workflow_id, Task.name, Task.id).where(
                    Task.workflow_id.in_(workflow_ids), Task.name.in_(listed)
                )
            )
            found |= {
                (workflow_id, name): task_id
                for workflow_id, name, task_id in rows
                if workflow_id is not None and name is not None
            }
    return found


def _insist_no_cycle(specs: Sequence[TaskSpec], waiting: Sequence[_Waiting]) -> None:
    # Tasks that were there before wait for none of the new ones.
    order = TopologicalSorter({place: each.new for place, each in enumerate(waiting)})
    try:
        order.prepare()
    except CycleError as exc:
        # Each is waited for by the next one there.
        raise DependencyCycle(tuple(_shown(specs[place]) for place in reversed(exc.args[1]))) from None


def _insist_several(what: str, value: object) -> None:
    # The characters of a text would be taken for names, and what is only there once is gone when it has been checked.
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Collection):
        example = f": write ({quoted(value)},)" if isinstance(value, str) else ""
        raise InputError(f"{what} is {quoted(value)}, expected several{example}")


def _shown(spec: TaskSpec) -> str:
    return f'task "{spec.name}"' if spec.name is not None else f"a task of type {spec.type}"


def _in(workflows: Mapping[WorkflowRef, Workflow], spec: TaskSpec) -> str:
    return f'in workflow "{workflows[spec.workflow].name}"' if spec.workflow is not None else ""
