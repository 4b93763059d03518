"""
Calls about workflows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from storage.clock import Clock
from storage.repositories.base import PAGE_SIZE, Page
from storage.repositories.references import WorkflowRef
from storage.repositories.workflows import Cancelled, WorkflowRepository, WorkflowSpec
from storage.work_models import Workflow, WorkflowEvent


class WorkflowCalls:
    """Calls about workflows, which are named by their unique name or their id."""

    _workflows: WorkflowRepository
    _clock: Clock

    def create_workflow(self, name: str, *, type: str = "workflow", payload: Any = None) -> Workflow:
        """
        Make a workflow, which is pending until ``update_workflow_status`` says that it runs.

        Args:
            name: Unique.
            type: Groups workflows: ``nightly-report``.
            payload: A JSON value; ``None`` is an empty object.

        Raises:
            InputError: Name, type or payload cannot be stored.
            DuplicateName: The name is taken.
            TransientStorageError: The database could not be reached.
        """
        return self._workflows.create(name, type=type, payload=payload, now=self._clock())

    def create_workflows(self, specs: Iterable[WorkflowSpec]) -> Sequence[Workflow]:
        """
        Make workflows in one transaction: all of them, or none.

        Returns:
            The workflows in the order of *specs*.

        Raises:
            InputError: Something of a workflow cannot be stored.
            DuplicateName: A name is taken, or stands twice.
            TransientStorageError: The database could not be reached.
        """
        return self._workflows.create_many(specs, self._clock())

    def get_workflow(self, workflow: WorkflowRef) -> Workflow:
        """
        Return a workflow.

        Raises:
            UnknownName: There is none; the message names those that are called alike.
            TransientStorageError: The database could not be reached.
        """
        return self._workflows.get(workflow)

    def get_workflows(
        self, *, status: str | None = None, type: str | None = None, limit: int = PAGE_SIZE, after: int | None = None
    ) -> Page[Workflow]:
        """
        Return workflows in the order in which they were made.

        Args:
            status: ``pending``, ``running``, ``completed``, ``failed`` or ``cancelled``.
            limit: Size of a page, 1 to 10,000.
            after: Where the page before ends: its ``after``; ``None`` is the start.

        Raises:
            InputError: There is no such status, *type* cannot be one, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        return self._workflows.list(state=status, type=type, limit=limit, after=after)

    def update_workflow_status(
        self, workflow: WorkflowRef, status: str, *, reason: str = "", version: int | None = None
    ) -> Workflow:
        """
        Say what a workflow is now; its owner does, whatever its tasks are.

        Args:
            reason: Why it failed, for instance.
            version: The version that the caller has read; ``None`` takes the workflow as it is.

        Raises:
            UnknownName: There is no such workflow.
            IllegalTransition: It cannot go there from where it is; nothing was changed.
            StaleVersion: Somebody else has changed it since it was read.
            InputError: The reason cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._workflows.set_state(workflow, status, now=self._clock(), reason=reason, version=version)

    def cancel_workflow(self, workflow: WorkflowRef, *, reason: str = "") -> Cancelled:
        """
        Cancel a workflow, and with it every task of it that has not ended, in one transaction.

        A worker that still has one of them learns it when it finishes, or extends its lease.

        Raises:
            UnknownName: There is no such workflow.
            IllegalTransition: It has ended; nothing was changed.
            InputError: The reason cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._workflows.cancel(workflow, now=self._clock(), reason=reason)

    def workflow_history(self, workflow: WorkflowRef) -> Sequence[WorkflowEvent]:
        """
        Return what became of a workflow, oldest first.

        Raises:
            UnknownName: There is no such workflow.
            TransientStorageError: The database could not be reached.
        """
        return self._workflows.history(workflow)
