"""
What agents say to each other: kept, found again, and followed from sent to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from storage.errors import InputError, quoted
from storage.model import aware
from storage.models import Base
from storage.payloads import check_filter, check_name, check_payload, check_text, several
from storage.repositories import message_pages
from storage.repositories.agent_rows import agent_ids, insist_name
from storage.repositories.base import PAGE_SIZE, Page, Repository, check_after, check_limit, check_version, page_of
from storage.repositories.message_pages import Direction
from storage.repositories.references import (
    WorkflowRef,
    chunks,
    find_task,
    find_workflow,
    insist_id,
    insist_workflow,
    unknown_id,
)
from storage.states import MESSAGE, MessageState
from storage.work_models import Message, MessageEvent, Task

_MESSAGES, _EVENTS = Base.metadata.tables[Message.__tablename__], Base.metadata.tables[MessageEvent.__tablename__]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSpec:
    """A message that is to be kept."""

    #: Name of the agent that says it.
    sender: str
    #: Name of the agent that it is for; ``None`` is everybody.
    recipient: str | None = None
    #: Groups messages: ``handover``.
    type: str
    #: A JSON value; ``None`` is an empty object.
    payload: Any = None
    #: Id or name of the workflow that it is about.
    workflow: WorkflowRef | None = None
    #: Id of the task that it is about.
    task: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """A message as the database has it."""

    id: int
    sender: str
    #: ``None`` is everybody.
    recipient: str | None
    type: str
    #: ``pending``, ``delivered``, ``read`` or ``failed``.
    state: str
    payload: Any
    #: What was said of the last change, such as why it failed; empty when there is nothing to say.
    reason: str
    workflow_id: int | None
    task_id: int | None
    created_at: datetime
    delivered_at: datetime | None
    read_at: datetime | None
    #: Goes up with every change.
    version: int


#: In the order in which ``message_pages`` has the columns.
_FIELDS = tuple(field.name for field in fields(MessageRecord))


class MessageRepository(Repository):
    """The messages of one database."""

    # ---------------------------------------------------------------- writing

    def log(
        self,
        sender: str,
        recipient: str | None,
        type: str,
        payload: Any = None,
        *,
        workflow: WorkflowRef | None = None,
        task: int | None = None,
        now: datetime,
    ) -> MessageRecord:
        """
        Keep what *sender* says to *recipient*, or to everybody where that is ``None``.

        Raises:
            UnknownName: There is no such agent, workflow or task.
            InputError: Type or payload cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        spec = MessageSpec(sender=sender, recipient=recipient, type=type, payload=payload, workflow=workflow, task=task)
        [logged] = self.log_many([spec], now)
        return logged

    def log_many(self, specs: Iterable[MessageSpec], now: datetime) -> list[MessageRecord]:
        """
        Keep messages as ``log`` does, in one transaction: all of them, or none.

        Returns:
            The messages in the order of *specs*.
        """
        wanted = several("specs", specs, MessageSpec)
        aware(now)
        for spec in wanted:
            insist_name(spec.sender)
            if spec.recipient is not None:
                insist_name(spec.recipient)
            if spec.workflow is not None:
                insist_workflow(spec.workflow)
            if spec.task is not None:
                insist_id("task", spec.task)
            check_name("type of a message", spec.type)
            check_payload(f"payload of a message of type {spec.type}", spec.payload)
        if not wanted:
            return []
        return self._write(f"keeping {len(wanted)} messages", lambda session: _add(session, wanted, now))

    def set_state(
        self, message_id: int, state: str, *, now: datetime, reason: str = "", version: int | None = None
    ) -> MessageRecord:
        """
        Say that the message *message_id* is *state* now: ``delivered``, ``read``, ``failed``, or ``pending`` again.

        Args:
            reason: Why, above all of a failure.
            version: The version that the caller has read; ``None`` takes the message as it is.

        Raises:
            UnknownName: There is no such message.
            IllegalTransition: It cannot go there from where it is; nothing was changed.
            StaleVersion: Somebody else has changed it since it was read.
            InputError: The reason cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        aware(now)
        check_text("reason", reason)
        insist_id("message", message_id)

        def work(session: Session) -> MessageRecord:
            wanted = select(Message).where(Message.id == message_id).with_for_update()
            message = session.scalars(wanted).one_or_none()
            if message is None:
                raise unknown_id("message", message_id)
            title = f"message {message.id} ({message.type})"
            check_version(title, message.version, version)
            MESSAGE.check(title, message.state, state)
            session.add(
                MessageEvent(message_id=message.id, ts=now, from_state=message.state, to_state=state, reason=reason)
            )
            message.state, message.reason, message.version = state, reason, message.version + 1
            if state == MessageState.PENDING:
                message.delivered_at = None
            elif state == MessageState.DELIVERED:
                message.delivered_at = now
            elif state == MessageState.READ:
                message.read_at = now
            session.flush()
            return _one(session, message_id)

        return self._write("changing a message", work)

    # ---------------------------------------------------------------- reading

    def get(self, message_id: int) -> MessageRecord:
        """
        Return the message *message_id*.

        Raises:
            UnknownName: There is none.
            TransientStorageError: The database could not be reached.
        """
        insist_id("message", message_id)
        return self._read("reading a message", lambda session: _one(session, message_id))

    def history(self, message_id: int) -> list[MessageEvent]:
        """
        Return what became of the message *message_id*, oldest first.

        Raises:
            UnknownName: There is none.
            TransientStorageError: The database could not be reached.
        """
        insist_id("message", message_id)

        def work(session: Session) -> list[MessageEvent]:
            _one(session, message_id)
            of_it = select(MessageEvent).where(MessageEvent.message_id == message_id)
            return list(session.scalars(of_it.order_by(MessageEvent.id)))

        return self._read("reading the history of a message", work)

    def of_agent(
        self,
        agent: str,
        *,
        direction: Direction = "received",
        state: str | None = None,
        type: str | None = None,
        workflow: WorkflowRef | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[MessageRecord]:
        """
        Return messages of *agent*, newest first, as many as *limit*.

        What is said to everybody is received by all but who says it.

        Args:
            workflow: Id or name.
            after: What the page before says in its ``after``.

        Raises:
            UnknownName: There is no such agent or workflow.
            InputError: There is no such direction or state, *type* cannot be one, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        insist_name(agent)
        if direction not in get_args(Direction):
            raise InputError(f"direction is {quoted(direction)}, expected one of {', '.join(get_args(Direction))}")
        return self._page(direction, agent, state, type, workflow, limit, after)

    def of_workflow(
        self,
        workflow: WorkflowRef,
        *,
        state: str | None = None,
        type: str | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[MessageRecord]:
        """
        Return messages about *workflow*, newest first, as many as *limit*; otherwise as ``of_agent``.
        """
        insist_workflow(workflow)
        return self._page(None, None, state, type, workflow, limit, after)

    # ---------------------------------------------------------------- inside

    def _page(
        self,
        direction: Direction | None,
        agent: str | None,
        state: str | None,
        type: str | None,
        workflow: WorkflowRef | None,
        limit: int,
        after: int | None,
    ) -> Page[MessageRecord]:
        check_limit(limit)
        start = check_after(after)
        MESSAGE.insist_state(state)
        check_filter("type", type)
        asked = {"agent": agent, "type": type, "after": start or None}
        parameters: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        statement = message_pages.page(
            direction, state, by_type=type is not None, by_workflow=workflow is not None, paged=start > 0
        )

        def work(session: Session) -> Page[MessageRecord]:
            if workflow is not None:
                parameters["workflow"] = find_workflow(session, workflow).id
            rows = session.connection().execute(statement, {**parameters, "rows": limit + 1}).all()
            if agent is not None and not rows:
                agent_ids(session, [agent])
            return page_of([_record(row) for row in rows], limit, lambda message: message.id)

        return self._read("reading messages", work)


def _add(session: Session, specs: Sequence[MessageSpec], now: datetime) -> list[MessageRecord]:
    agents = agent_ids(session, (name for spec in specs for name in (spec.sender, spec.recipient) if name is not None))
    refs = {spec.workflow for spec in specs if spec.workflow is not None}
    workflows = {ref: find_workflow(session, ref).id for ref in refs}
    _insist_on_tasks(session, {spec.task for spec in specs if spec.task is not None})
    rows = [
        {
            "sender_id": agents[spec.sender],
            "recipient_id": None if spec.recipient is None else agents[spec.recipient],
            "workflow_id": None if spec.workflow is None else workflows[spec.workflow],
            "task_id": spec.task,
            "type": spec.type,
            "payload": {} if spec.payload is None else spec.payload,
            "created_at": now,
        }
        for spec in specs
    ]
    connection = session.connection()
    ids = list(connection.scalars(_MESSAGES.insert().returning(_MESSAGES.c.id, sort_by_parameter_order=True), rows))
    events = [{"message_id": message_id, "ts": now, "to_state": MessageState.PENDING.value} for message_id in ids]
    # With RETURNING SQLAlchemy makes one statement of them; without, a round trip of each.
    connection.execute(_EVENTS.insert().returning(_EVENTS.c.id), events)
    return [
        MessageRecord(
            id=message_id,
            sender=spec.sender,
            recipient=spec.recipient,
            type=spec.type,
            state=MessageState.PENDING.value,
            payload=row["payload"],
            reason="",
            workflow_id=None if spec.workflow is None else workflows[spec.workflow],
            task_id=spec.task,
            created_at=now,
            delivered_at=None,
            read_at=None,
            version=1,
        )
        for message_id, spec, row in zip(ids, specs, rows, strict=True)
    ]


def _insist_on_tasks(session: Session, task_ids: set[int]) -> None:
    known: set[int] = set()
    for listed in chunks(task_ids):
        known.update(session.scalars(select(Task.id).where(Task.id.in_(listed))))
    for task_id in task_ids - known:
        find_task(session, task_id)


def _one(session: Session, message_id: int) -> MessageRecord:
    row = session.connection().execute(message_pages.one(), {"id": message_id}).one_or_none()
    if row is None:
        raise unknown_id("message", message_id)
    return _record(row)


def _record(row: Row[Any]) -> MessageRecord:
    return MessageRecord(**dict(zip(_FIELDS, row, strict=True)))
