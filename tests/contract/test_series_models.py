"""
The time series as ORM classes: typed, by range and agent, read alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session
from sqlalchemy.sql import Select

from storage.errors import InputError
from storage.model import Outcome
from storage.models import Agent, Base
from storage.recorder import HealthCheck, Recorder, Sample
from storage.series_models import AgentMetrics, HealthRecord, SeriesBase, SystemMetrics
from storage.store import Capability, Store
from tests.batches import NOON, every
from tests.fleet import add_agent

pytestmark = pytest.mark.each_kind


@pytest.fixture
def session(store: Store) -> Session:
    """Return a session on two agents and a host with some rows."""
    add_agent(store, "alpha", type="worker")
    add_agent(store, "beta", type="llm")
    recorder = Recorder(store, clock=lambda: NOON)
    recorder.health_checks(
        [
            HealthCheck(agent="alpha", at=NOON, outcome="healthy", latency_ms=2.5, http_status=200),
            HealthCheck(agent="alpha", at=NOON + timedelta(minutes=1), outcome=Outcome.TIMEOUT, reason="too slow"),
            HealthCheck(agent="beta", at=NOON, outcome="degraded", latency_ms=4),
        ]
    )
    labels = {"model": "small", "ü": '"'}
    recorder.samples(
        [
            Sample(agent="alpha", metric="tokens", value=5, at=NOON, kind="counter", labels=labels, unit="1"),
            Sample(agent="beta", metric="tokens", value=7, at=NOON, kind="counter"),
            Sample(host="box", metric="cpu", value=0.5, at=NOON, unit="%"),
        ]
    )
    return Session(store.engine)


def test_checks_by_agent_and_range(session: Session) -> None:
    """Rows are objects with moments, numbers and words; a range leaves out its end."""
    wanted = (
        select(HealthRecord)
        .where(HealthRecord.agent == "alpha", HealthRecord.ts >= NOON, HealthRecord.ts < NOON + timedelta(minutes=2))
        .order_by(HealthRecord.ts)
    )
    with session:
        first, second = session.scalars(wanted)
        earlier = session.scalars(wanted.where(HealthRecord.ts < NOON + timedelta(minutes=1))).all()

    assert (first.ts, first.agent, first.type, first.outcome) == (NOON, "alpha", "worker", "healthy")
    assert (first.latency_ms, first.late_ms, first.http_status, first.reason) == (2.5, None, 200, "")
    assert (second.ts - first.ts, second.outcome, second.latency_ms) == (timedelta(minutes=1), "timeout", None)
    assert second.reason == "too slow"
    assert earlier == [first]


def test_samples_of_agents_and_hosts(session: Session) -> None:
    """Metrics come with name, labels, kind and unit."""
    with session:
        tokens = session.scalars(
            select(AgentMetrics).where(AgentMetrics.ts == NOON, AgentMetrics.agent == "alpha")
        ).one()
        cpu = session.scalars(select(SystemMetrics).where(SystemMetrics.host == "box")).one()

    assert (tokens.ts, tokens.type, tokens.metric, tokens.kind, tokens.unit) == (
        NOON,
        "worker",
        "tokens",
        "counter",
        "1",
    )
    assert (tokens.labels, tokens.value) == ({"model": "small", "ü": '"'}, 5.0)
    assert (cpu.ts, cpu.metric, cpu.labels, cpu.kind, cpu.unit, cpu.value) == (NOON, "cpu", {}, "gauge", "%", 0.5)


def test_series_join_agents(session: Session) -> None:
    """They join with the relational half in one statement, and are aggregated there."""
    summed = (
        select(Agent.name, func.sum(AgentMetrics.value), func.count(HealthRecord.ts.distinct()))
        .join(AgentMetrics, AgentMetrics.agent_id == Agent.id)
        .join(HealthRecord, HealthRecord.agent_id == Agent.id)
        .where(Agent.type == "llm")
        .group_by(Agent.name)
    )
    with session:
        found = session.execute(summed).all()

    assert [tuple(row) for row in found] == [("beta", 7.0, 1)]


def test_rows_of_one_moment_stay_apart(store: Store, session: Session) -> None:
    """Collector and client may see one agent at one moment: rows that differ are objects that differ, all are counted."""
    recorder = Recorder(store)
    for latency in (1.0, 1.0, None):
        recorder.health_check("beta", "healthy", at=NOON - timedelta(days=1), latency_ms=latency)
    with session:
        found = session.scalars(select(HealthRecord).where(HealthRecord.ts < NOON)).all()

    assert sorted(str(each.latency_ms) for each in found) == ["1.0", "1.0", "None"]


def test_nothing_is_written_by_them(store: Store, session: Session) -> None:
    """A change is refused before it reaches the database; so are a new row and the end of one."""
    with session:
        record = session.scalars(select(HealthRecord).where(HealthRecord.agent == "beta")).one()
        record.outcome = "healthy"
        with pytest.raises(InputError, match=r"HealthRecord is only read, .*: write with storage.recorder.Recorder"):
            session.flush()
        session.rollback()
        session.delete(session.scalars(select(SystemMetrics)).one())
        with pytest.raises(InputError, match="SystemMetrics is only read"):
            session.flush()
        session.rollback()
        session.add(AgentMetrics(ts=NOON, agent_id=1, metric_id=1, value=1.0))
        with pytest.raises(InputError, match="AgentMetrics is only read"):
            session.flush()
        session.rollback()

    assert store.query("SELECT count(*) FROM health_records WHERE outcome = 'degraded'").rows == [(1,)]


def test_migrations_do_not_see_them() -> None:
    """Views are the time series' own: they are in no metadata that a migration compares."""
    assert not set(Base.metadata.tables) & set(SeriesBase.metadata.tables)


@pytest.mark.needs(Capability.EXACT_VIEWS, Capability.SEVERAL_WRITERS)
def test_agent_and_range_are_found_by_index(store: Store) -> None:
    """A check of one agent, named by id or by name, is found by (agent_id, ts); a sample by its agent's index."""
    names = [f"agent-{k}" for k in range(20)]
    for name in names:
        add_agent(store, name)
    moments = every(NOON, 15, 500)
    recorder = Recorder(store)
    recorder.health_checks([HealthCheck(agent=name, at=at, outcome="healthy") for at in moments for name in names])
    recorder.samples([Sample(agent=name, metric="m", value=1, at=at) for at in moments for name in names])
    with store.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    end = NOON + timedelta(minutes=10)

    def conditions(statement: Select[Any]) -> str:
        literal = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]  # SQLAlchemy's own
        plan = [str(line) for (line,) in store.query(f"EXPLAIN {literal}").rows]
        assert not any("Seq Scan on health_checks" in line or "Seq Scan on agent_metrics" in line for line in plan), (
            plan
        )
        return next(line for line in plan if "Index Cond" in line and "ts" in line)

    by_id = select(HealthRecord).where(HealthRecord.agent_id == 7, HealthRecord.ts >= NOON, HealthRecord.ts < end)
    by_name = select(HealthRecord).where(
        HealthRecord.agent == "agent-7", HealthRecord.ts >= NOON, HealthRecord.ts < end
    )
    sample = select(AgentMetrics).where(AgentMetrics.agent == "agent-7", AgentMetrics.ts >= NOON, AgentMetrics.ts < end)

    assert "agent_id = 7" in conditions(by_id)
    assert "agent_id = a.id" in conditions(by_name)
    assert "agent_id" in conditions(sample)


def test_types_are_pythons(session: Session) -> None:
    """What is read is a ``datetime`` that is aware, on every engine."""
    with session:
        ts: datetime | None = session.scalar(select(func.max(HealthRecord.ts)))

    assert ts == NOON + timedelta(minutes=1)
    assert ts.tzinfo is not None
