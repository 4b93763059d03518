"""
Calls about messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from storage.clock import Clock
from storage.repositories.base import PAGE_SIZE, Page
from storage.repositories.message_pages import Direction
from storage.repositories.messages import MessageRecord, MessageRepository, MessageSpec
from storage.repositories.references import WorkflowRef
from storage.work_models import MessageEvent


class MessageCalls:
    """Calls about what agents say to each other."""

    _messages: MessageRepository
    _clock: Clock

    def log_message(
        self,
        sender: str,
        recipient: str | None,
        type: str,
        payload: Any = None,
        *,
        workflow: WorkflowRef | None = None,
        task: int | None = None,
    ) -> MessageRecord:
        """
        Keep what one agent says to another.

        Args:
            recipient: ``None`` is everybody.
            type: Groups messages: ``handover``.
            payload: A JSON value; ``None`` is an empty object.
            workflow: What it is about, by name or id.
            task: What it is about, by id.

        Raises:
            UnknownName: There is no such agent, workflow or task.
            InputError: Type or payload cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._messages.log(sender, recipient, type, payload, workflow=workflow, task=task, now=self._clock())

    def log_messages(self, specs: Iterable[MessageSpec]) -> Sequence[MessageRecord]:
        """
        Keep messages in one transaction: all of them, or none.

        Returns:
            The messages in the order of *specs*.

        Raises:
            UnknownName: There is no such agent, workflow or task.
            InputError: A type or a payload cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._messages.log_many(specs, self._clock())

    def get_message(self, message_id: int) -> MessageRecord:
        """
        Return a message.

        Raises:
            UnknownName: There is none.
            TransientStorageError: The database could not be reached.
        """
        return self._messages.get(message_id)

    def update_message_status(
        self, message_id: int, status: str, *, reason: str = "", version: int | None = None
    ) -> MessageRecord:
        """
        Say what a message is now.

        Args:
            status: ``delivered``, ``read``, ``failed``, or ``pending`` again after a failure.
            reason: Why, above all of a failure.
            version: The version that the caller has read; ``None`` takes the message as it is.

        Raises:
            UnknownName: There is no such message.
            IllegalTransition: It cannot go there from where it is; nothing was changed.
            StaleVersion: Somebody else has changed it since it was read.
            InputError: The reason cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._messages.set_state(message_id, status, now=self._clock(), reason=reason, version=version)

    def get_agent_messages(
        self,
        agent: str,
        *,
        direction: Direction = "received",
        status: str | None = None,
        type: str | None = None,
        workflow: WorkflowRef | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[MessageRecord]:
        """
        Return messages of an agent, newest first.

        What is said to everybody is received by all but who says it.

        Args:
            direction: ``received``, ``sent`` or ``both``.
            status: ``pending``, ``delivered``, ``read`` or ``failed``.
            workflow: Only those about it, by name or id.
            limit: Size of a page, 1 to 10,000.
            after: Where the page before ends: its ``after``; ``None`` is the start.

        Raises:
            UnknownName: There is no such agent or workflow.
            InputError: There is no such direction or status, *type* cannot be one, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        return self._messages.of_agent(
            agent, direction=direction, state=status, type=type, workflow=workflow, limit=limit, after=after
        )

    def get_workflow_messages(
        self,
        workflow: WorkflowRef,
        *,
        status: str | None = None,
        type: str | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[MessageRecord]:
        """
        Return messages about a workflow, newest first; arguments and errors as of ``get_agent_messages``.
        """
        return self._messages.of_workflow(workflow, state=status, type=type, limit=limit, after=after)

    def message_history(self, message_id: int) -> Sequence[MessageEvent]:
        """
        Return what became of a message, oldest first.

        Raises:
            UnknownName: There is no such message.
            TransientStorageError: The database could not be reached.
        """
        return self._messages.history(message_id)
