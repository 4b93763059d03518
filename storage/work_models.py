"""
The other half of the relational tables as ORM classes: workflows, their tasks, and the messages of agents.

As in ``storage.models``, revisions in ``migrations/versions`` make these tables, and a test holds that the two agree.
Each state is the last of its events: a row of ``…_events`` is written in the transaction that changes a state.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from storage.models import NEVER_AGAIN, Base, BigId, Json, one_of
from storage.states import MESSAGE, TASK, WORKFLOW

#: What became of one worker's try at a task.
ASSIGNMENT_OUTCOMES = ("completed", "failed", "cancelled", "lease_expired")

_CLAIMABLE = text("state = 'pending' AND blocked_by = 0")
_LEASED = text("state = 'running'")
_WORKING = text("ended_at IS NULL")
_UNREAD = text("state = 'pending'")


class AgentCapability(Base):
    """Something that an agent can do; a worker asks for tasks of the types that it is capable of."""

    __tablename__ = "agent_capabilities"
    __table_args__ = (PrimaryKeyConstraint("agent_id", "name"), Index(None, "name"))

    agent_id: Mapped[int] = mapped_column(ForeignKey("agents.id"))
    name: Mapped[str]
    #: What there is to say of it, such as limits and versions.
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    added_at: Mapped[datetime]


class AgentHeartbeat(Base):
    """When an agent last said that it is at work; apart from ``agents``, because it changes all the time."""

    __tablename__ = "agent_heartbeats"

    agent_id: Mapped[int] = mapped_column(ForeignKey("agents.id"), primary_key=True, autoincrement=False)
    at: Mapped[datetime]


class Workflow(Base):
    """Tasks that belong together."""

    __tablename__ = "workflows"
    __table_args__ = (
        one_of("state", WORKFLOW.states()),
        Index(None, "state", "created_at"),
        Index(None, "type", "created_at"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    #: Groups workflows: ``nightly-report``.
    type: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="pending")
    payload: Mapped[Any] = mapped_column(Json, server_default=text("'{}'"))
    #: Why it failed or was cancelled.
    reason: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    #: Goes up with every change: a writer that has read another one is refused.
    version: Mapped[int] = mapped_column(server_default=text("1"))


class Task(Base):
    """A piece of work that one agent does."""

    __tablename__ = "tasks"
    __table_args__ = (
        one_of("state", TASK.states()),
        CheckConstraint("blocked_by >= 0", name="blocked_by"),
        CheckConstraint("attempts >= 0 AND max_attempts >= 1", name="attempts"),
        CheckConstraint("lease_until IS NULL OR state = 'running'", name="lease_until"),
        CheckConstraint("(lease IS NULL) = (lease_until IS NULL)", name="lease"),
        UniqueConstraint("workflow_id", "name"),
        # In the order in which they are given out: to a worker that takes any, and to one that takes some types.
        Index("tasks_claimable_idx", "priority", "id", postgresql_where=_CLAIMABLE, sqlite_where=_CLAIMABLE),
        Index(
            "tasks_claimable_type_idx",
            *("type", "priority", "id"),
            postgresql_where=_CLAIMABLE,
            sqlite_where=_CLAIMABLE,
        ),
        Index("tasks_leased_idx", "lease_until", postgresql_where=_LEASED, sqlite_where=_LEASED),
        Index(None, "workflow_id", "id"),
        Index(None, "agent_id", "id"),
        Index(None, "state", "id"),
        Index(None, "type", "created_at"),
        Index(None, "state", "finished_at"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    workflow_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("workflows.id"))
    type: Mapped[str]
    #: Unique within its workflow; None for a task that nobody speaks of.
    name: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="pending")
    #: Lower comes first.
    priority: Mapped[int] = mapped_column(server_default=text("100"))
    payload: Mapped[Any] = mapped_column(Json, server_default=text("'{}'"))
    result: Mapped[Any | None] = mapped_column(Json)
    #: Why it failed or was cancelled.
    reason: Mapped[str] = mapped_column(server_default="")
    #: Tasks that this one depends on and that are not completed yet.
    blocked_by: Mapped[int] = mapped_column(server_default=text("0"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    max_attempts: Mapped[int] = mapped_column(server_default=text("3"))
    #: Who works on it, or was the last to.
    agent_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id"))
    #: Until when it is that agent's; whoever died has it taken away then. None where nobody takes it away.
    lease_until: Mapped[datetime | None]
    #: Known to the worker that claimed it: a worker that lost its lease cannot finish what is another one's now.
    lease: Mapped[UUID | None]
    #: Not before this moment.
    due_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    #: Of the latest attempt.
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("1"))


class SubTask(Base):
    """A step of a task, in the hands of the same agent."""

    __tablename__ = "subtasks"
    __table_args__ = (
        one_of("state", TASK.states()),
        UniqueConstraint("task_id", "position"),
        UniqueConstraint("task_id", "name"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    task_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("tasks.id"))
    #: From 1 on.
    position: Mapped[int]
    name: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="pending")
    result: Mapped[Any | None] = mapped_column(Json)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class TaskDependency(Base):
    """A task that has to be completed before another one begins; there are no circles."""

    __tablename__ = "task_dependencies"
    __table_args__ = (
        PrimaryKeyConstraint("task_id", "depends_on"),
        CheckConstraint("task_id <> depends_on", name="itself"),
        Index(None, "depends_on"),
    )

    task_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("tasks.id"))
    depends_on: Mapped[int] = mapped_column(BigInteger, ForeignKey("tasks.id"))


class TaskAssignment(Base):
    """One try of one agent at a task, from when to when: what metrics of that time are attributed to."""

    __tablename__ = "task_assignments"
    __table_args__ = (
        one_of("outcome", ASSIGNMENT_OUTCOMES),
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended_at"),
        CheckConstraint("ended_at >= started_at", name="order"),
        UniqueConstraint("task_id", "attempt"),
        Index("task_assignments_open_key", "task_id", unique=True, postgresql_where=_WORKING, sqlite_where=_WORKING),
        Index(None, "agent_id", "started_at"),
        Index(None, "started_at"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    task_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("tasks.id"))
    agent_id: Mapped[int] = mapped_column(ForeignKey("agents.id"))
    #: From 1 on.
    attempt: Mapped[int]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]


class Message(Base):
    """What one agent said to another, or to all."""

    __tablename__ = "messages"
    __table_args__ = (
        one_of("state", MESSAGE.states()),
        Index(None, "recipient_id", "id"),
        # An agent asks over and over what is new for it, and nearly all that there is has been read.
        Index("messages_pending_idx", "recipient_id", "id", postgresql_where=_UNREAD, sqlite_where=_UNREAD),
        Index(None, "sender_id", "id"),
        Index(None, "workflow_id", "id"),
        Index(None, "task_id"),
        Index(None, "created_at"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    sender_id: Mapped[int] = mapped_column(ForeignKey("agents.id"))
    #: None is to everybody.
    recipient_id: Mapped[int | None] = mapped_column(ForeignKey("agents.id"))
    workflow_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("workflows.id"))
    task_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("tasks.id"))
    type: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="pending")
    payload: Mapped[Any] = mapped_column(Json, server_default=text("'{}'"))
    #: Why it failed.
    reason: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    read_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("1"))


class TaskEvent(Base):
    """A change of a task's state; the first one comes from nothing."""

    __tablename__ = "task_events"
    __table_args__ = (Index(None, "task_id", "id"), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    task_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("tasks.id"))
    ts: Mapped[datetime]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    agent_id: Mapped[int | None] = mapped_column(Integer, ForeignKey("agents.id"))
    reason: Mapped[str] = mapped_column(server_default="")


class MessageEvent(Base):
    """A change of a message's state."""

    __tablename__ = "message_events"
    __table_args__ = (Index(None, "message_id", "id"), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    message_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("messages.id"))
    ts: Mapped[datetime]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")


class WorkflowEvent(Base):
    """A change of a workflow's state."""

    __tablename__ = "workflow_events"
    __table_args__ = (Index(None, "workflow_id", "id"), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    workflow_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("workflows.id"))
    ts: Mapped[datetime]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
