"""
Workflows: made, said to run and to end, cancelled with all that is left to do in them.

What state a workflow is in is the word of its owner, and does not follow from its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from storage.errors import DuplicateName, InputError
from storage.model import aware
from storage.payloads import check_filter, check_name, check_payload, check_text, several
from storage.repositories.base import (
    MAX_LISTED,
    PAGE_SIZE,
    Page,
    Repository,
    check_after,
    check_limit,
    check_version,
    page_of,
    pieces,
)
from storage.repositories.references import (
    WorkflowRef,
    find_workflow,
    lock_workflow,
    workflow_title,
)
from storage.repositories.task_changes import insert_rows, move
from storage.repositories.task_creation import MAX_BULK
from storage.states import WORKFLOW, TaskState, WorkflowState
from storage.work_models import Task, Workflow, WorkflowEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSpec:
    """A workflow that is to be made."""

    #: Unique.
    name: str
    #: Groups workflows: ``nightly-report``.
    type: str = "workflow"
    #: A JSON value; ``None`` is an empty object.
    payload: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """A workflow that was cancelled, and what was cancelled with it."""

    workflow: Workflow
    #: Ids of tasks that were pending or running, ascending.
    tasks: tuple[int, ...]


# Within the class ``list`` is a method.
Workflows = list[Workflow]
Events = list[WorkflowEvent]


class WorkflowRepository(Repository):
    """The workflows of one database."""

    def create(self, name: str, *, type: str = "workflow", payload: Any = None, now: datetime) -> Workflow:
        """
        Make a workflow, pending.

        Raises:
            InputError: Name, type or payload cannot be stored.
            DuplicateName: The name is taken.
            TransientStorageError: The database could not be reached.
        """
        [workflow] = self.create_many([WorkflowSpec(name=name, type=type, payload=payload)], now)
        return workflow

    def create_many(self, specs: Iterable[WorkflowSpec], now: datetime) -> Workflows:
        """
        Make workflows as ``create`` does, in one transaction: all of them, or none.

        Returns:
            The workflows in the order of *specs*.

        Raises:
            InputError: As ``create``; or they are something else, or more than 10,000.
            DuplicateName: A name is taken, or stands twice.
        """
        wanted = several("specs", specs, WorkflowSpec)
        _check_specs(wanted)
        aware(now)

        def work(session: Session) -> Workflows:
            _insist_new(session, [spec.name for spec in wanted])
            rows = [
                {
                    "name": spec.name,
                    "type": spec.type,
                    "payload": {} if spec.payload is None else spec.payload,
                    "created_at": now,
                }
                for spec in wanted
            ]
            if not rows:
                return []
            made = session.scalars(insert(Workflow).returning(Workflow, sort_by_parameter_order=True), rows).all()
            events = [{"workflow_id": each.id, "ts": now, "to_state": WorkflowState.PENDING.value} for each in made]
            insert_rows(session, WorkflowEvent, events)
            return list(made)

        return self._write("making workflows", work)

    def get(self, workflow: WorkflowRef) -> Workflow:
        """
        Return the workflow of that id or name.

        Raises:
            UnknownName: There is none; the message names those that are called alike.
            TransientStorageError: The database could not be reached.
        """
        return self._read("reading a workflow", lambda session: find_workflow(session, workflow))

    def list(
        self, *, state: str | None = None, type: str | None = None, limit: int = PAGE_SIZE, after: int | None = None
    ) -> Page[Workflow]:
        """
        Return workflows by id, as many as *limit*.

        Args:
            after: What the page before says in its ``after``.

        Raises:
            InputError: There is no such state, *type* cannot be one, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        check_limit(limit)
        WORKFLOW.insist_state(state)
        check_filter("type", type)
        wanted = select(Workflow).where(Workflow.id > check_after(after))
        for column, value in ((Workflow.state, state), (Workflow.type, type)):
            if value is not None:
                wanted = wanted.where(column == value)

        def work(session: Session) -> Page[Workflow]:
            rows = session.scalars(wanted.order_by(Workflow.id).limit(limit + 1)).all()
            return page_of(rows, limit, lambda workflow: workflow.id)

        return self._read("reading workflows", work)

    def set_state(
        self, workflow: WorkflowRef, state: str, *, now: datetime, reason: str = "", version: int | None = None
    ) -> Workflow:
        """
        Take the workflow to *state*. To ``cancelled``, its tasks go with it, as by ``cancel``.

        Args:
            reason: Why, for the history; of a workflow that failed or was cancelled it is kept with it.
            version: The version that the caller has read.

        Raises:
            UnknownName: There is no such workflow.
            StaleVersion: It has another version by now.
            IllegalTransition: It cannot go there from where it is.
            InputError: *reason* cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._move(workflow, state, now, reason, version).workflow

    def cancel(self, workflow: WorkflowRef, *, now: datetime, reason: str = "") -> Cancelled:
        """
        Cancel the workflow with its tasks that are pending or running, their open steps, and the tries at them.

        Raises:
            UnknownName: There is no such workflow.
            IllegalTransition: It is completed, or cancelled already.
            InputError: *reason* cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._move(workflow, WorkflowState.CANCELLED, now, reason, None)

    def history(self, workflow: WorkflowRef) -> Events:
        """
        Return every change of the workflow's state, oldest first.

        Raises:
            UnknownName: There is no such workflow.
            TransientStorageError: The database could not be reached.
        """

        def work(session: Session) -> Events:
            of_it = WorkflowEvent.workflow_id == find_workflow(session, workflow).id
            return list(session.scalars(select(WorkflowEvent).where(of_it).order_by(WorkflowEvent.id)))

        return self._read("reading a workflow", work)

    # ---------------------------------------------------------------- inside

    def _move(self, ref: WorkflowRef, state: str, now: datetime, reason: str, version: int | None) -> Cancelled:
        check_text("reason", reason)
        aware(now)

        def work(session: Session) -> Cancelled:
            workflow = lock_workflow(session, ref)
            check_version(workflow_title(workflow), workflow.version, version)
            WORKFLOW.check(workflow_title(workflow), workflow.state, state)
            event = {"workflow_id": workflow.id, "ts": now, "from_state": workflow.state, "to_state": state}
            insert_rows(session, WorkflowEvent, [event | {"reason": reason}])
            moved = session.scalars(
                update(Workflow)
                .where(Workflow.id == workflow.id)
                .values(_values(workflow, state, now, reason))
                .returning(Workflow),
                execution_options={"synchronize_session": False, "populate_existing": True},
            ).one()
            stopped = _cancel_tasks(session, moved, now, reason) if state == WorkflowState.CANCELLED else []
            return Cancelled(workflow=moved, tasks=tuple(stopped))

        return self._write("changing a workflow", work)


def _check_specs(specs: Sequence[WorkflowSpec]) -> None:
    if len(specs) > MAX_BULK:
        raise InputError(f"{len(specs):,} workflows are too many for one call, expected at most {MAX_BULK:,}")
    seen: set[str] = set()
    for spec in specs:
        check_name("name of a workflow", spec.name)
        check_name("type of a workflow", spec.type)
        check_payload(f'payload of workflow "{spec.name}"', spec.payload)
        if spec.name in seen:
            raise DuplicateName("workflow", spec.name, "it stands twice in what is to be made")
        seen.add(spec.name)


def _insist_new(session: Session, names: Sequence[str]) -> None:
    for piece in pieces(names):
        listed = Workflow.name.in_(piece)
        taken = session.scalars(select(Workflow.name).where(listed).order_by(Workflow.id).limit(1)).one_or_none()
        if taken is not None:
            raise DuplicateName("workflow", taken, "choose another name, a date or a number in it for instance")


def _values(workflow: Workflow, state: str, now: datetime, reason: str) -> dict[str, Any]:
    values: dict[str, Any] = {"state": state, "version": workflow.version + 1, "reason": "", "finished_at": None}
    if state == WorkflowState.RUNNING:
        # One that runs again after a failure began when it did.
        values["started_at"] = workflow.started_at or now
    elif state != WorkflowState.PENDING:
        values |= {"reason": reason, "finished_at": max(now, workflow.started_at or now)}
    return values


def _cancel_tasks(session: Session, workflow: Workflow, now: datetime, reason: str) -> list[int]:
    """Cancel what is left to do in *workflow*, which is locked: nothing is added to it any more."""
    said = f"workflow cancelled: {reason}" if reason else "workflow cancelled"
    stopped: list[int] = []
    while True:
        left = (
            select(Task)
            .where(Task.workflow_id == workflow.id, Task.state.in_((TaskState.PENDING, TaskState.RUNNING)))
            .where(Task.id > (stopped[-1] if stopped else 0))
            .order_by(Task.id)
            .limit(MAX_LISTED)
            .with_for_update(key_share=True)
        )
        tasks = session.scalars(left).all()
        if not tasks:
            return stopped
        moved = move(session, tasks, TaskState.CANCELLED, now=now, reason=said)
        stopped.extend(task.id for task in moved)
