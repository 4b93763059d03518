"""
Finished work that nobody needs any more: counted, and forgotten a little at a time.

A workflow goes with all of its tasks, once it and they have ended; a task without a workflow goes by itself; messages go
by their age. A task that others still wait for stays, and so does what it belongs to. The owner of the tables alone may
do this: workers cannot take back what they did.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from storage.repositories.base import Repository
from storage.states import TASK, WORKFLOW
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

#: Failed ones are among them: whoever wants to try one again does so before its time is over.
_ENDED_TASK = tuple(state for state in TASK.states() if state not in ("pending", "running"))
_ENDED_WORKFLOW = tuple(state for state in WORKFLOW.states() if state not in ("pending", "running"))


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
                past = _past_workflows(work_before)
                workflows = total(past)
                within = select(Task.id).where(Task.workflow_id.in_(past))
                tasks = total(within) + total(_past_tasks(work_before))
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
            messages = workflows = tasks = 0
            if messages_before is not None:
                old = select(Message.id).where(Message.created_at < messages_before).order_by(Message.id)
                messages = _forget_messages(session, _locked(session, old))
            if work_before is not None:
                going = _locked(session, _past_workflows(work_before).order_by(Workflow.id))
                within = list(session.scalars(select(Task.id).where(Task.workflow_id.in_(going))))
                tasks = _forget_tasks(session, within)
                workflows = _forget_workflows(session, going)
                lone = _locked(session, _past_tasks(work_before).order_by(Task.id))
                tasks += _forget_tasks(session, lone)
            return PastWork(workflows=workflows, tasks=tasks, messages=messages)

        return self._write("forgetting finished work", work)


def _locked(session: Session, rows: Select[int]) -> list[int]:
    """Return the ids of *rows* that nobody else is at, and keep others from changing them meanwhile."""
    return list(session.scalars(rows.limit(PURGE_ROWS).with_for_update(skip_locked=True)))


def _past_workflows(before: datetime) -> Select[int]:
    task = aliased(Task)
    unfinished = exists().where(task.workflow_id == Workflow.id, or_(task.state.not_in(_ENDED_TASK), _awaited(task.id)))
    return select(Workflow.id).where(Workflow.state.in_(_ENDED_WORKFLOW), Workflow.finished_at < before, ~unfinished)


def _past_tasks(before: datetime) -> Select[int]:
    return select(Task.id).where(
        Task.workflow_id.is_(None), Task.state.in_(_ENDED_TASK), Task.finished_at < before, ~_awaited(Task.id)
    )


def _awaited(task_id: InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Tell whether a task that has not ended depends on this one."""
    waiting = aliased(Task)
    return exists().where(
        TaskDependency.depends_on == task_id, waiting.id == TaskDependency.task_id, waiting.state.not_in(_ENDED_TASK)
    )


def _forget_messages(session: Session, ids: list[int]) -> int:
    if ids:
        session.execute(delete(MessageEvent).where(MessageEvent.message_id.in_(ids)))
        session.execute(delete(Message).where(Message.id.in_(ids)))
    return len(ids)


def _forget_tasks(session: Session, ids: list[int]) -> int:
    # A statement takes no more than 65,535 parameters, and one workflow may have more tasks than that.
    for start in range(0, len(ids), PURGE_ROWS):
        part = ids[start : start + PURGE_ROWS]
        for model in (SubTask, TaskAssignment, TaskEvent):
            session.execute(delete(model).where(model.task_id.in_(part)))
        session.execute(
            delete(TaskDependency).where(or_(TaskDependency.task_id.in_(part), TaskDependency.depends_on.in_(part)))
        )
        session.execute(update(Message).where(Message.task_id.in_(part)).values(task_id=None))
        session.execute(delete(Task).where(Task.id.in_(part)))
    return len(ids)


def _forget_workflows(session: Session, ids: list[int]) -> int:
    if ids:
        session.execute(delete(WorkflowEvent).where(WorkflowEvent.workflow_id.in_(ids)))
        session.execute(update(Message).where(Message.workflow_id.in_(ids)).values(workflow_id=None))
        session.execute(delete(Workflow).where(Workflow.id.in_(ids)))
    return len(ids)
