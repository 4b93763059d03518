"""
Rows of ``agents`` and ``agent_schedules``, within somebody's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select, true, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from storage.errors import SettingsError, StorageError, UnknownName
from storage.model import UNKNOWN, AgentSpec
from storage.models import Agent, AgentSchedule, Base
from storage.names import is_name
from storage.payloads import alike
from storage.repositories.base import MAX_LISTED, pieces, unknown
from storage.repositories.bulk import insert_alike
from storage.slots import slot_offset_s

_AGENTS = Base.metadata.tables[Agent.__tablename__]
_SCHEDULES = Base.metadata.tables[AgentSchedule.__tablename__]
_THERE = select(_AGENTS.c.id).where(_AGENTS.c.name.in_(bindparam("names", expanding=True))).limit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """An agent as the database has it."""

    id: int
    #: What is polled and how; ``spec.paused`` tells the state that is in force, not the one that the source asks for.
    spec: AgentSpec
    #: ``active``, ``paused`` or ``retired``.
    state: str
    #: Outcome label or ``unknown``.
    status: str
    #: Due time of the check that completed the last change of status.
    status_due: datetime | None
    #: Why the status is what it is; empty when it speaks for itself.
    status_reason: str
    created_at: datetime
    retired_at: datetime | None


def record_of(agent: Agent | Row[Any]) -> AgentRecord:
    """Return the row of an agent, read as an object or not, as callers see it."""
    return AgentRecord(
        id=agent.id,
        spec=AgentSpec(
            name=agent.name,
            type=agent.type,
            probe=agent.probe,
            endpoint=agent.endpoint,
            labels=dict(agent.labels),
            interval_s=agent.interval_s,
            timeout_s=agent.timeout_s,
            rise=agent.rise,
            fall=agent.fall,
            credential=agent.credential,
            options=dict(agent.options),
            source=agent.source,
            paused=agent.state == "paused",
        ),
        state=agent.state,
        status=agent.status,
        status_due=agent.status_due,
        status_reason=agent.status_reason,
        created_at=agent.created_at,
        retired_at=agent.retired_at,
    )


def _columns(spec: AgentSpec) -> dict[str, object]:
    return {
        "type": spec.type,
        "probe": spec.probe,
        "endpoint": spec.endpoint,
        "labels": dict(spec.labels),
        "interval_s": float(spec.interval_s),
        "timeout_s": float(spec.timeout_s),
        "rise": spec.rise,
        "fall": spec.fall,
        "credential": spec.credential,
        "options": dict(spec.options),
        "source": spec.source,
        "source_paused": spec.paused,
    }


def one(session: Session, name: str, *, lock: bool = False) -> Agent:
    """
    Return the agent *name*, retired or not.

    Raises:
        UnknownName: There is none; the message names those that are called alike.
    """
    insist_name(name)
    statement = select(Agent).where(Agent.name == name)
    found = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if found is None:
        raise unknown_agent(session, name)
    return found


def insist_name(name: object) -> None:
    """
    Insist that *name* can be that of an agent: some of what cannot, no database even takes.

    Raises:
        UnknownName: It cannot.
    """
    if not is_name(name):
        raise UnknownName("agent", name, "expected the name of one")


def unknown_agent(session: Session, name: str) -> UnknownName:
    names = session.scalars(select(Agent.name).where(Agent.state != "retired"))
    return unknown("agent", name, names, otherwise='see "fleetpulse agents list"')


def agent_ids(session: Session, names: Iterable[str]) -> dict[str, int]:
    """
    Return the id of each agent of *names*, retired or not.

    Raises:
        UnknownName: There is none of one of the names.
    """
    given = list(names)
    for name in given:
        insist_name(name)
    wanted = list(dict.fromkeys(given))
    found: dict[str, int] = {}
    for piece in pieces(wanted):
        listed = Agent.name.in_(piece)
        found |= {name: agent_id for agent_id, name in session.execute(select(Agent.id, Agent.name).where(listed))}
    for name in wanted:
        if name not in found:
            raise unknown_agent(session, name)
    return found


def by_name(session: Session, names: Iterable[str]) -> dict[str, Agent]:
    """Return those of *names* that there are, locked."""
    wanted = sorted(names)
    found: dict[str, Agent] = {}
    for listed in pieces(wanted):
        # Hardly ever one is there: whether it is, plain rows tell in half the time of objects.
        if session.connection().execute(_THERE, {"names": listed}).first() is not None:
            rows = session.scalars(select(Agent).where(Agent.name.in_(listed)).order_by(Agent.id).with_for_update())
            found |= {agent.name: agent for agent in rows}
    return found


def insist_not_retired(agent: Agent) -> None:
    if agent.state == "retired":
        raise StorageError(f'agent "{agent.name}" is retired: found retired, expected active or paused: add it again')


def refuse_other_source(agent: Agent, spec: AgentSpec) -> None:
    if agent.source != spec.source and agent.state != "retired":
        places = {"file": "the settings file", "api": "the database (agents add)"}
        raise SettingsError(
            f'agent "{agent.name}" is in {places[agent.source]} and in {places[spec.source]}, expected one of the two: '
            "rename one of them or retire it"
        )


def apply(agent: Agent, spec: AgentSpec) -> bool:
    """Make *agent* what *spec* says; tell whether that changed anything."""
    state = agent.state
    if agent.state == "retired" or agent.source_paused != spec.paused:
        agent.state = "paused" if spec.paused else "active"
        agent.retired_at = None
    changed = {name: value for name, value in _columns(spec).items() if not alike(getattr(agent, name), value)}
    for name, value in changed.items():
        setattr(agent, name, value)
        # What Python takes for equal would not be written.
        flag_modified(agent, name)
    return bool(changed) or agent.state != state


def retire(agent: Agent, now: datetime) -> None:
    agent.state = "retired"
    agent.retired_at = now


def _new_row(spec: AgentSpec, now: datetime) -> dict[str, object]:
    return {**_columns(spec), "name": spec.name, "state": "paused" if spec.paused else "active", "created_at": now}


def insert_agents(session: Session, specs: Sequence[AgentSpec], now: datetime) -> list[Agent]:
    if not specs:
        return []
    return list(session.scalars(insert(Agent).returning(Agent), [_new_row(spec, now) for spec in specs]))


def register(session: Session, specs: Sequence[AgentSpec], now: datetime) -> dict[str, AgentRecord]:
    """
    Insert agents that there are none of, with their schedules; return them by name.

    Without objects of them, and without a look at schedules that cannot be there: half the time of a call.
    """
    if not specs:
        return {}
    rows = [_new_row(spec, now) for spec in specs]
    connection = session.connection()
    ids = {row.name: row.id for row in insert_alike(connection, _AGENTS, rows, returning=("name", "id"))}
    schedules = [
        {
            "agent_id": ids[spec.name],
            "from_ts": now,
            "interval_s": float(spec.interval_s),
            "offset_s": slot_offset_s(spec.name, spec.interval_s),
            "state": "paused" if spec.paused else "active",
        }
        for spec in specs
    ]
    insert_alike(connection, _SCHEDULES, schedules)
    return {
        spec.name: AgentRecord(
            id=ids[spec.name],
            spec=spec,
            state="paused" if spec.paused else "active",
            status=UNKNOWN,
            status_due=None,
            status_reason="",
            created_at=now,
            retired_at=None,
        )
        for spec in specs
    }


def reschedule(session: Session, agents: Sequence[Agent], now: datetime) -> None:
    """Make the open rows of ``agent_schedules`` say what *agents* say, from *now* on."""
    if not agents:
        return
    session.flush()
    ids = [agent.id for agent in agents]
    # A sync of thousands reads all open rows: a statement takes no more than 65,535 parameters.
    only = AgentSchedule.agent_id.in_(ids) if len(ids) <= MAX_LISTED else true()
    opened = {
        row.agent_id: row for row in session.scalars(select(AgentSchedule).where(AgentSchedule.to_ts.is_(None), only))
    }
    wanted: dict[int, tuple[float, float, str]] = {}
    ended: list[AgentSchedule] = []
    for agent in agents:
        row = opened.get(agent.id)
        found = (row.interval_s, row.offset_s, row.state) if row else None
        target = None
        if agent.state != "retired":
            target = (agent.interval_s, slot_offset_s(agent.name, agent.interval_s), agent.state)
        if found == target:
            continue
        if row is not None:
            ended.append(row)
        if target is not None:
            wanted[agent.id] = target
    _close(session, ended, now)
    if not wanted:
        return
    # Rows of one agent never overlap, even where the clock was set back since the last one ended.
    ends = session.execute(
        select(AgentSchedule.agent_id, func.max(AgentSchedule.to_ts))
        .where(only, AgentSchedule.to_ts > now)
        .group_by(AgentSchedule.agent_id)
    )
    latest = {agent_id: end for agent_id, end in ends if end is not None}
    rows = [
        {
            "agent_id": agent_id,
            "from_ts": latest.get(agent_id, now),
            "interval_s": interval_s,
            "offset_s": offset_s,
            "state": state,
        }
        for agent_id, (interval_s, offset_s, state) in wanted.items()
    ]
    session.execute(insert(AgentSchedule), rows)


def _close(session: Session, rows: Sequence[AgentSchedule], now: datetime) -> None:
    """End open *rows*; one that never was in force goes."""
    never = [row.id for row in rows if row.from_ts >= now]
    for listed in pieces(never):
        session.execute(delete(AgentSchedule).where(AgentSchedule.id.in_(listed)))
    ended = [{"id": row.id, "to_ts": now} for row in rows if row.from_ts < now]
    if ended:
        session.execute(update(AgentSchedule), ended)
