"""
How a caller names a workflow or a task, how messages do, and how their rows are locked.

Locks are taken in one order everywhere, so that nobody waits in a circle: workflows before tasks, and each kind by
ascending id. Rows that are locked are read again, whatever the transaction has read of them before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from storage.errors import StorageError, UnknownName
from storage.names import is_name
from storage.payloads import MAX_ID
from storage.repositories.base import pieces, unknown
from storage.states import WORKFLOW
from storage.work_models import Task, Workflow

Row = TypeVar("Row", Task, Workflow)

#: A workflow's id or its name.
WorkflowRef = int | str

#: Names that are looked through for one that was meant: there may be millions.
_NEWEST = 500
_NEIGHBOURS = 50

#: To change a row, and to keep others from it. Rows that refer to it may be added meanwhile.
_CHANGE = {"key_share": True}
#: To have a row stay as it is; others may do so at the same time.
_KEEP = {"read": True}


def task_title(task: Task) -> str:
    """Return what messages call *task*: ``task 7 (summarise)``."""
    return f"task {task.id} ({task.name or task.type})"


def workflow_title(workflow: Workflow) -> str:
    """Return what messages call *workflow*: ``workflow 7 (nightly)``."""
    return f"workflow {workflow.id} ({workflow.name})"


def chunks(ids: Iterable[int]) -> Iterator[Sequence[int]]:
    """Return *ids* in ascending order, each once, as many at a time as a statement lists."""
    return pieces(sorted(set(ids)))


# ---------------------------------------------------------------- workflows


def find_workflow(session: Session, ref: WorkflowRef) -> Workflow:
    """
    Return the workflow of that id or name.

    Raises:
        UnknownName: There is none; the message names those that are called alike.
    """
    insist_workflow(ref)
    named = Workflow.name == ref if isinstance(ref, str) else Workflow.id == ref
    found = session.scalars(select(Workflow).where(named)).one_or_none()
    if found is None:
        raise _unknown_workflow(session, ref)
    return found


def insist_workflow(ref: object) -> None:
    """
    Insist that *ref* can be a workflow's id or name: some of what cannot no database even compares with.

    Raises:
        UnknownName: It cannot.
    """
    if not (is_id(ref) or is_name(ref)):
        raise UnknownName("workflow", ref, "expected its name, or the id that it got when it was made")


def keep_workflows(session: Session, refs: Iterable[WorkflowRef]) -> dict[WorkflowRef, Workflow]:
    """
    Have the workflows of *refs* stay as they are until the end of the transaction; return them by reference.

    Raises:
        UnknownName: There is none of one of them.
    """
    wanted = list(refs)
    for ref in wanted:
        insist_workflow(ref)
    ids: dict[WorkflowRef, int] = {ref: ref for ref in wanted if not isinstance(ref, str)}
    names = [ref for ref in wanted if isinstance(ref, str)]
    for piece in pieces(names):
        listed = Workflow.name.in_(piece)
        ids |= {name: id_ for id_, name in session.execute(select(Workflow.id, Workflow.name).where(listed))}
    held = _locked(session, Workflow, ids.values(), _KEEP)
    for ref in wanted:
        if ids.get(ref) not in held:
            raise _unknown_workflow(session, ref)
    return {ref: held[ids[ref]] for ref in wanted}


def lock_workflow(session: Session, ref: WorkflowRef) -> Workflow:
    """
    Lock the workflow of that id or name, to change it.

    Raises:
        UnknownName: There is none; the message names those that are called alike.
    """
    workflow_id = find_workflow(session, ref).id
    found = lock_workflows(session, [workflow_id])
    if workflow_id not in found:
        raise _unknown_workflow(session, ref)
    return found[workflow_id]


def lock_workflows(session: Session, ids: Iterable[int]) -> dict[int, Workflow]:
    """Lock the workflows of *ids*, to change them; return those that there are, by id."""
    return _locked(session, Workflow, ids, _CHANGE)


def insist_open(workflow: Workflow) -> None:
    """
    Insist that *workflow* may still get work.

    Raises:
        StorageError: It has ended for good.
    """
    if WORKFLOW.is_final(workflow.state):
        raise StorageError(
            f"{workflow_title(workflow)} is {workflow.state}, expected one that has not ended: make another"
        )


# ---------------------------------------------------------------- tasks


def find_task(session: Session, task_id: int) -> Task:
    """
    Return the task of that id.

    Raises:
        UnknownName: There is none.
    """
    insist_id("task", task_id)
    found = session.scalars(select(Task).where(Task.id == task_id)).one_or_none()
    if found is None:
        raise unknown_id("task", task_id)
    return found


def lock_task(session: Session, task_id: int, others: Iterable[int] = ()) -> Task:
    """
    Lock the task of that id, and *others* with it, to change them; return that one.

    Raises:
        UnknownName: There is no such task.
    """
    insist_id("task", task_id)
    found = lock_tasks(session, (task_id, *others))
    if task_id not in found:
        raise unknown_id("task", task_id)
    return found[task_id]


def lock_tasks(session: Session, ids: Iterable[int]) -> dict[int, Task]:
    """Lock the tasks of *ids*, to change them; return those that there are, by id."""
    return _locked(session, Task, ids, _CHANGE)


def keep_tasks(session: Session, ids: Iterable[int]) -> dict[int, Task]:
    """
    Have the tasks of *ids* stay as they are until the end of the transaction; return them by id.

    Raises:
        UnknownName: There is none of one of them.
    """
    wanted = sorted(ids)
    found = _locked(session, Task, wanted, _KEEP)
    for task_id in wanted:
        if task_id not in found:
            raise unknown_id("task", task_id)
    return found


def insist_task(ref: object) -> None:
    """
    Insist that *ref* can be a task's id, or its name within a workflow.

    Raises:
        UnknownName: It cannot.
    """
    if not (is_id(ref) or is_name(ref)):
        raise UnknownName("task", ref, "expected its id, or its name within the workflow")


def is_id(value: object) -> bool:
    """Tell whether *value* can be the id of a row: other numbers no database even compares with."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_ID


def insist_id(kind: str, value: object) -> None:
    """
    Insist that *value* can be the id of a *kind*.

    Raises:
        UnknownName: It cannot.
    """
    if not is_id(value):
        raise unknown_id(kind, value)


def unknown_id(kind: str, ref: object) -> UnknownName:
    """Return the error about a number that no *kind* has."""
    return UnknownName(kind, ref, f"expected the id that a {kind} got when it was made")


# ---------------------------------------------------------------- inside


def _locked(session: Session, model: type[Row], ids: Iterable[int], how: dict[str, Any]) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for listed in chunks(ids):
        statement: Select[Row] = select(model).where(model.id.in_(listed)).order_by(model.id)
        rows = session.scalars(statement.with_for_update(**how), execution_options={"populate_existing": True})
        found |= {row.id: row for row in rows}
    return found


def _unknown_workflow(session: Session, ref: WorkflowRef) -> UnknownName:
    if not isinstance(ref, str):
        return unknown_id("workflow", ref)
    before = select(Workflow.name).where(Workflow.name < ref).order_by(Workflow.name.desc()).limit(_NEIGHBOURS)
    behind = select(Workflow.name).where(Workflow.name > ref).order_by(Workflow.name).limit(_NEIGHBOURS)
    newest = select(Workflow.name).order_by(Workflow.id.desc()).limit(_NEWEST)
    # A slip at its end leaves a name where it was in the alphabet.
    likely = {name for statement in (before, behind, newest) for name in session.scalars(statement)}
    return unknown("workflow", ref, sorted(likely), otherwise="list workflows to see what there is")
