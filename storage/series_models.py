"""
The time series as ORM classes, read through the views that put names in place of ids.

For joins with the relational half in a session: ``select(HealthRecord).where(HealthRecord.agent == "a")``. Reading only:
rows come from the collector and from ``storage.recorder``. A query names a range of ``ts`` and, where it can, an agent or
host, or it reads everything that there is; many rows are read faster as a frame.

The views are no tables of ``storage.models``: ``Store.provision()`` makes them, and migrations leave them alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, NoReturn

from sqlalchemy import Connection, Double, Integer, MetaData, Text, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Mapper, mapped_column

from storage.errors import InputError
from storage.models import Json, Moment


class SeriesBase(DeclarativeBase):
    """
    Base of the views.

    Rows of a time series have no identity of their own, and an object needs one: all that tells two rows apart is the
    key of the mapping, so that only rows that are equal become the same object.
    """

    metadata = MetaData()
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Moment,
        dict[str, Any]: Json,
        str: Text(),
        float: Double(),
        int: Integer(),
    }


class HealthRecord(SeriesBase):
    """One check of one agent."""

    __tablename__ = "health_records"

    #: Due time of the poll, or the moment that a client has named.
    ts: Mapped[datetime] = mapped_column(primary_key=True)
    agent_id: Mapped[int] = mapped_column(primary_key=True)
    agent: Mapped[str]
    #: Type of the agent.
    type: Mapped[str]
    #: An ``Outcome``, by its name in lower case.
    outcome: Mapped[str] = mapped_column(primary_key=True)
    #: Milliseconds from the due time to the start of the poll; ``None`` where nobody had planned one.
    late_ms: Mapped[float | None] = mapped_column(primary_key=True, nullable=True)
    #: Milliseconds until it answered; ``None`` where it did not.
    latency_ms: Mapped[float | None] = mapped_column(primary_key=True, nullable=True)
    #: HTTP status code, 0 where there was none.
    http_status: Mapped[int] = mapped_column(primary_key=True)
    #: Why; empty when the outcome speaks for itself.
    reason: Mapped[str] = mapped_column(primary_key=True)


class AgentMetrics(SeriesBase):
    """One sample of one metric of an agent."""

    __tablename__ = "agent_samples"

    ts: Mapped[datetime] = mapped_column(primary_key=True)
    agent_id: Mapped[int] = mapped_column(primary_key=True)
    agent: Mapped[str]
    #: Type of the agent.
    type: Mapped[str]
    metric_id: Mapped[int] = mapped_column(primary_key=True)
    #: Name of the metric.
    metric: Mapped[str]
    labels: Mapped[dict[str, Any]]
    #: A ``Kind``.
    kind: Mapped[str]
    unit: Mapped[str]
    #: Of a counter, the increase since the sample before.
    value: Mapped[float] = mapped_column(primary_key=True)


class SystemMetrics(SeriesBase):
    """One sample of one metric of a host."""

    __tablename__ = "system_samples"

    ts: Mapped[datetime] = mapped_column(primary_key=True)
    host_id: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str]
    metric_id: Mapped[int] = mapped_column(primary_key=True)
    #: Name of the metric.
    metric: Mapped[str]
    labels: Mapped[dict[str, Any]]
    #: A ``Kind``.
    kind: Mapped[str]
    unit: Mapped[str]
    #: Of a counter, the increase since the sample before.
    value: Mapped[float] = mapped_column(primary_key=True)


@event.listens_for(SeriesBase, "before_insert", propagate=True)
@event.listens_for(SeriesBase, "before_update", propagate=True)
@event.listens_for(SeriesBase, "before_delete", propagate=True)
def _refuse(mapper: Mapper[Any], connection: Connection, target: SeriesBase) -> NoReturn:
    raise InputError(
        f"{type(target).__name__} is only read, found a change of one: write with storage.recorder.Recorder"
    )
