"""
The relational half as ORM classes: agents and what the collector keeps about them.

Revisions in ``migrations/versions`` make these tables; a test holds that the two agree. Time-series tables are not
here: ``Store.provision()`` owns them, and no foreign key leaves them. Enumerations are text with a CHECK, because a
database enum cannot lose a value in a downgrade.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    inspect,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, TypeDecorator

from storage.model import UNKNOWN, Kind, Outcome, from_us, to_us

#: Names of constraints are part of the schema: a downgrade has to find them.
NAMING_CONVENTION = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}

#: Where an agent comes from; a sync touches only its own.
SOURCES = ("file", "api")
#: What is done with an agent. Retired agents keep their row, so that an id never means two things.
STATES = ("active", "paused", "retired")
#: What an agent's status may be: what a check can say about it, or nothing yet.
STATUSES = (UNKNOWN, *(outcome.label for outcome in Outcome if outcome is not Outcome.SKIPPED))


class UtcTimestamp(TypeDecorator[datetime]):
    """
    A moment, aware UTC in Python and in every database that has a type for it.

    A naive value is refused: PostgreSQL would read it in the time zone of the session.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return *value* in UTC, on its way to the database."""
        return None if value is None else _aware(value).astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return *value* as aware UTC, on its way from the database."""
        # Nearly always: sessions are in UTC, but for those that a pooler hands out.
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class UtcMicroseconds(TypeDecorator[datetime]):
    """
    A moment, aware UTC in Python and microseconds since the Unix epoch in the database.

    For SQLite, which has no type for moments: as text it would keep 12:00+05:00 as 12:00 without a word. Whole numbers
    compare, subtract and cut into buckets without being parsed.
    """

    impl = Integer()
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Return *value* as a number, on its way to the database."""
        return None if value is None else to_us(_aware(value))

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Return the number *value* as aware UTC, on its way from the database."""
        return None if value is None else from_us(value)


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"timestamp {value.isoformat()} has no time zone, expected aware UTC: add tzinfo=UTC")
    return value


#: A moment, as each engine keeps it best.
Moment = UtcTimestamp().with_variant(UtcMicroseconds(), "sqlite")
#: Identity of a table that grows with the samples. In SQLite every whole number has 64 bits, and only this name for it
#: makes an identity.
BigId = BigInteger().with_variant(Integer(), "sqlite")
#: JSON that PostgreSQL can index, and that other engines keep as text.
Json = JSON().with_variant(JSONB(), "postgresql")


#: SQLite's plain identities give the number of the newest row again once that is deleted; no id ever means two things.
NEVER_AGAIN = {"sqlite_autoincrement": True}
_OPEN = text("to_ts IS NULL")


class Base(DeclarativeBase):
    """Base of the relational tables; ``Base.metadata`` is what Alembic compares a database with."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own interface, read once per class
        datetime: Moment,
        dict[str, Any]: Json,
        str: Text(),
        float: Double(),
        bytes: LargeBinary(),
        UUID: Uuid(),
    }

    def __repr__(self) -> str:
        """Return the row in the words of a debugger, without asking the database for anything."""
        loaded = inspect(self).dict
        shown = ", ".join(f"{name}={loaded[name]!r}" for name in ("id", "name", "type", "state") if name in loaded)
        return f"{type(self).__name__}({shown})"


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """Return a constraint that holds *column* to *values*; ``info`` has both."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column, info={"column": column, "values": values})


def values_of(table: Table, column: str) -> tuple[str, ...]:
    """Return the values that *column* may have; empty where it may have any."""
    told = (each.info for each in table.constraints if each.info.get("column") == column)
    return next((each["values"] for each in told), ())


class Agent(Base):
    """Something that is polled. Retired, never deleted."""

    __tablename__ = "agents"
    __table_args__ = (
        one_of("source", SOURCES),
        one_of("state", STATES),
        one_of("status", STATUSES),
        CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name="retired_at"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str]
    probe: Mapped[str]
    endpoint: Mapped[str]
    labels: Mapped[dict[str, Any]]
    interval_s: Mapped[float]
    timeout_s: Mapped[float]
    rise: Mapped[int]
    fall: Mapped[int]
    credential: Mapped[str]
    options: Mapped[dict[str, Any]]
    source: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="active")
    #: What the source said about a pause when it was last read: a sync follows the source only where it has changed,
    #: so that what a person paused or resumed by hand stays so.
    source_paused: Mapped[bool] = mapped_column(server_default=false())
    status: Mapped[str] = mapped_column(server_default=UNKNOWN)
    #: Due time of the check that completed the last change of status.
    status_due: Mapped[datetime | None]
    #: Batch that brought the change; with ``status_due`` it decides which of two changes is the later one.
    status_spool: Mapped[UUID | None]
    status_seq: Mapped[int | None] = mapped_column(BigInteger)
    status_reason: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class Host(Base):
    """A machine whose system metrics are collected."""

    __tablename__ = "hosts"
    __table_args__ = NEVER_AGAIN

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime]


class Metric(Base):
    """What a series measures: name, labels and kind are its identity."""

    __tablename__ = "metrics"
    __table_args__ = (
        one_of("kind", tuple(Kind)),
        UniqueConstraint("name", "kind", "labels_digest"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[str]
    labels: Mapped[dict[str, Any]]
    kind: Mapped[str]
    unit: Mapped[str] = mapped_column(server_default="")
    description: Mapped[str] = mapped_column(server_default="")
    #: SHA-256 of the labels as canonical JSON: a B-tree entry ends at 2,704 bytes, labels may be longer.
    labels_digest: Mapped[bytes]


class Reason(Base):
    """Dictionary of why a check ended as it did; a check stores the id."""

    __tablename__ = "reasons"
    __table_args__ = NEVER_AGAIN

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    reason: Mapped[str] = mapped_column(unique=True)


class StatusEvent(Base):
    """A change of an agent's status."""

    __tablename__ = "status_events"
    __table_args__ = (Index(None, "agent_id", "ts"), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    #: Without a foreign key: the writer has looked the id up, and agents are never deleted.
    agent_id: Mapped[int]
    #: Due time of the check that completed the change.
    ts: Mapped[datetime]
    from_status: Mapped[str]
    to_status: Mapped[str]
    reason: Mapped[str]
    spool_id: Mapped[UUID]
    seq: Mapped[int] = mapped_column(BigInteger)


class AgentSchedule(Base):
    """When an agent was polled how often: the denominator of every uptime. Half-open; an open row has no end."""

    __tablename__ = "agent_schedules"
    __table_args__ = (
        one_of("state", ("active", "paused")),
        CheckConstraint("interval_s > 0 AND offset_s >= 0 AND offset_s < interval_s", name="grid"),
        CheckConstraint("to_ts >= from_ts", name="order"),
        Index("agent_schedules_open_key", "agent_id", unique=True, postgresql_where=_OPEN, sqlite_where=_OPEN),
        Index(None, "agent_id", "from_ts"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    agent_id: Mapped[int] = mapped_column(ForeignKey("agents.id"))
    from_ts: Mapped[datetime]
    to_ts: Mapped[datetime | None]
    interval_s: Mapped[float]
    offset_s: Mapped[float]
    state: Mapped[str]


class CollectorSession(Base):
    """One run of a collector, or of a client that writes what it saw itself."""

    __tablename__ = "collector_sessions"
    __table_args__ = NEVER_AGAIN

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    uuid: Mapped[UUID] = mapped_column(unique=True)
    name: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    #: Set by an orderly end.
    ended_at: Mapped[datetime | None]
    #: Every slot due before this moment has been handed over.
    observed_to: Mapped[datetime | None]
    #: A client's session says nothing of whether anybody polls.
    is_collector: Mapped[bool] = mapped_column(server_default=true())


class LossRecord(Base):
    """Slots of one agent that will never have a check, and why."""

    __tablename__ = "losses"
    __table_args__ = (
        CheckConstraint("to_due >= from_due", name="order"),
        CheckConstraint("n >= 0", name="n"),
        Index(None, "agent_id", "from_due"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, Identity(), primary_key=True)
    #: Without a foreign key, as in ``status_events``.
    agent_id: Mapped[int]
    #: First and last due time that was lost, both included.
    from_due: Mapped[datetime]
    to_due: Mapped[datetime]
    n: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str]
    spool_id: Mapped[UUID | None]
    seq: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime]
