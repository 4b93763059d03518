"""
Finished work that nobody needs any more: counted, and forgotten a little at a time.

A workflow goes with all of its tasks, once it and they have ended; a task without a workflow goes by itself; messages go
by their age. A task that others still wait for stays, and so does what it belongs to. The owner of the tables alone may
do this: workers cannot take back what they did.

Workers go on meanwhile. What goes is locked, and then looked at once more: a statement that locks decides by what was
there before it had the locks, and a retry or a new dependency may have come in between. Whatever somebody else has
locked is left for the next time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from storage.repositories import past_units
from storage.repositories.base import Repository
from storage.repositories.past_units import Unit
from storage.repositories.references import chunks
from storage.states import TaskState
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

#: Rows of one kind that one transaction forgets: some thousands of rows in all, a fraction of a second.
PURGE_ROWS = 500
#: Tasks of workflows that one transaction forgets, but for a workflow that has more: on SQLite nobody else writes
#: meanwhile.
PURGE_TASKS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PastWork:
    """Rows that are past their time."""

    workflows: int = 0
    #: With those of the workflows.
    tasks: int = 0
    messages: int = 0

    def __add__(self, other: PastWork) -> PastWork:
        return PastWork(
            workflows=self.workflows + other.workflows,
            tasks=self.tasks + other.tasks,
            messages=self.messages + other.messages,
        )

    @property
    def rows(self) -> int:
        """Return how many rows these are, without what belongs to them."""
        return self.workflows + self.tasks + self.messages


class PastWorkRepository(Repository):
    """What has ended in one database."""

    def count(self, work_before: datetime | None, messages_before: datetime | None) -> PastWork:
        """
        Return what ``purge`` would forget, over all of its runs.

        Args:
            work_before: Workflows and tasks that ended before this moment; ``None`` keeps all.
            messages_before: Messages that were sent before this moment; ``None`` keeps all.
        """

        def work(session: Session) -> PastWork:
            def total(of: Select[int]) -> int:
                return session.scalar(select(func.count()).select_from(of.subquery())) or 0

            workflows = tasks = messages = 0
            if work_before is not None:
                free = past_units.free_workflows(work_before)
                tied = past_units.tied(session, work_before)
                tied_tasks = past_units.sizes(session, tied).total() + sum(unit < 0 for unit in tied)
                workflows = total(free) + sum(unit > 0 for unit in tied)
                within = select(Task.id).where(Task.workflow_id.in_(free))
                tasks = total(within) + total(past_units.free_tasks(work_before)) + tied_tasks
            if messages_before is not None:
                messages = total(select(Message.id).where(Message.created_at < messages_before))
            return PastWork(workflows=workflows, tasks=tasks, messages=messages)

        return self._read("counting finished work", work)

    def purge(self, work_before: datetime | None, messages_before: datetime | None) -> PastWork:
        """
        Forget up to ``PURGE_ROWS`` workflows, tasks and messages each, in one transaction; arguments as in ``count``.

        Returns:
            What has gone; nothing of a kind where nothing of it is left.

        Raises:
            TransientStorageError: The role does not own the tables, or the database could not be reached.
        """

        def work(session: Session) -> PastWork:
            messages = 0
            if messages_before is not None:
                old = select(Message.id).where(Message.created_at < messages_before)
                messages = _forget_messages(session, _unheld(session, old))
            units = {} if work_before is None else _locked_units(session, work_before)
            tasks = [task_id for ids in units.values() for task_id in ids]
            workflows = [unit for unit in units if unit > 0]
            _forget_tasks(session, tasks)
            _forget_workflows(session, workflows)
            return PastWork(workflows=len(workflows), tasks=len(tasks), messages=messages)

        return self._write("forgetting finished work", work)


def _locked_units(session: Session, before: datetime) -> dict[Unit, list[int]]:
    """Return some units that go now, locked, each with the ids of its tasks."""
    workflows = _unheld(session, past_units.free_workflows(before))
    tasks = _unheld(session, past_units.free_tasks(before))
    units = {*_few(session, workflows), *(-task_id for task_id in tasks)}
    if max(len(workflows), len(tasks)) < PURGE_ROWS:
        # What waits for those is among them, or free.
        units |= past_units.tied(session, before)
    locked = past_units.lock(session, units)
    going = past_units.leaving(session, locked, before)
    return {unit: ids for unit, ids in locked.items() if unit in going}


def _unheld(session: Session, rows: Select[int]) -> list[int]:
    """Return the ids of some of *rows* that nobody else is at, and keep others from changing them meanwhile."""
    # Whichever are found first: to sort them, all that there are would be looked at each time.
    return sorted(session.scalars(rows.limit(PURGE_ROWS).with_for_update(skip_locked=True)))


def _few(session: Session, workflows: Sequence[int]) -> Sequence[int]:
    """Return the first ones of *workflows*, one at least, that have no more than ``PURGE_TASKS`` tasks together."""
    sizes, tasks = past_units.sizes(session, workflows), 0
    for place, workflow_id in enumerate(workflows):
        tasks += sizes[workflow_id]
        if place and tasks > PURGE_TASKS:
            return workflows[:place]
    return workflows


def _forget_messages(session: Session, ids: list[int]) -> int:
    if ids:
        session.execute(delete(MessageEvent).where(MessageEvent.message_id.in_(ids)))
        session.execute(delete(Message).where(Message.id.in_(ids)))
    return len(ids)


def _forget_tasks(session: Session, ids: Collection[int]) -> None:
    waited: set[int] = set()
    # A statement takes no more than 65,535 parameters, and one workflow may have more tasks than that.
    for part in chunks(ids):
        for model in (SubTask, TaskAssignment, TaskEvent):
            session.execute(delete(model).where(model.task_id.in_(part)))
        session.execute(delete(TaskDependency).where(TaskDependency.task_id.in_(part)))
        waited.update(
            session.scalars(
                delete(TaskDependency).where(TaskDependency.depends_on.in_(part)).returning(TaskDependency.task_id)
            )
        )
        session.execute(update(Message).where(Message.task_id.in_(part)).values(task_id=None))
        session.execute(delete(Task).where(Task.id.in_(part)))
    _count_anew(session, waited.difference(ids))


def _count_anew(session: Session, ids: Collection[int]) -> None:
    """Have tasks that are cancelled, the only ones that still count what is gone, count what is left."""
    before = aliased(Task)
    number = (
        select(func.count())
        .select_from(TaskDependency)
        .join(before, before.id == TaskDependency.depends_on)
        .where(TaskDependency.task_id == Task.id, before.state != TaskState.COMPLETED)
        .scalar_subquery()
    )
    for part in chunks(ids):
        session.execute(
            update(Task)
            .where(Task.id.in_(part), Task.blocked_by > 0)
            .values(blocked_by=number, version=Task.version + 1),
            execution_options={"synchronize_session": False},
        )


def _forget_workflows(session: Session, ids: list[int]) -> None:
    for part in chunks(ids):
        session.execute(delete(WorkflowEvent).where(WorkflowEvent.workflow_id.in_(part)))
        session.execute(update(Message).where(Message.workflow_id.in_(part)).values(workflow_id=None))
        session.execute(delete(Workflow).where(Workflow.id.in_(part)))
