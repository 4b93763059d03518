"""
Agents in the database: registered, synchronised with a file, paused, retired.

Every change of interval, slot or state ends the open row of ``agent_schedules`` and opens a new one in the same
transaction: those rows are the denominator of every uptime.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Text, cast, delete, func, insert, select, true, update
from sqlalchemy.orm import Session

from storage.errors import DuplicateName, SettingsError, StorageError
from storage.model import AgentSpec
from storage.models import Agent, AgentSchedule
from storage.repositories.base import Repository, unknown
from storage.slots import slot_offset_s
from storage.specs import RESERVED_PREFIX, validate_spec
from storage.sqlstate import translated

logger = logging.getLogger(__name__)

#: What makes an agent's description, beside its name and state.
_SPEC_COLUMNS = (
    "type", "probe", "endpoint", "labels", "interval_s", "timeout_s", "rise", "fall", "credential", "options", "source",
)  # fmt: skip

#: Ids that are listed in a statement; above, it reads the whole (small) table.
_MAX_LISTED = 1_000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """What a sync did, as names in ascending order."""

    #: New, or retired before.
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


class AgentRepository(Repository):
    """The agents of one database."""

    # ---------------------------------------------------------------- reading

    def list(self, *, include_retired: bool = False) -> list[AgentRecord]:
        """Return agents by name."""

        def work(session: Session) -> list[AgentRecord]:
            statement = select(Agent).order_by(Agent.name)
            if not include_retired:
                statement = statement.where(Agent.state != "retired")
            return [_record(agent) for agent in session.scalars(statement)]

        return self._read("reading agents", work)

    def get(self, name: str) -> AgentRecord:
        """
        Return the agent *name*, retired or not.

        Raises:
            StorageError: There is none; the message names those that are called alike.
        """
        return self._read("reading an agent", lambda session: _record(_one(session, name)))

    def active_specs(self) -> Sequence[AgentSpec]:
        """Return what is to be polled, by name; ``paused`` where slots end as such."""
        return [record.spec for record in self.list()]

    def fingerprint(self) -> int:
        """
        Return a number that differs, within this process, whenever ``active_specs`` does.

        A collector asks every few seconds: plain rows of 10,000 agents take 40 ms, objects of them half a second.
        """
        columns = [
            Agent.name,
            Agent.state,
            *(
                cast(getattr(Agent, name), Text) if name in ("labels", "options") else getattr(Agent, name)
                for name in _SPEC_COLUMNS
            ),
        ]
        statement = select(*columns).where(Agent.state != "retired").order_by(Agent.name)
        with translated("reading agents"), self._engine.connect() as connection:
            return hash(tuple(map(tuple, connection.execute(statement))))

    # ---------------------------------------------------------------- changing

    def sync(self, specs: Iterable[AgentSpec], source: str, now: datetime) -> SyncResult:
        """
        Make the agents of *source* those of *specs*, in one transaction: all of it happens, or nothing.

        An agent that is absent is retired; one that comes back has the id that it had. Of the other source's agents
        none is touched, but a retired one may be taken over. An agent that a person paused or resumed by hand stays
        so until the source changes what it says about that.

        Raises:
            SettingsError: A description is invalid, a name stands twice, or belongs to an agent of the other source.
            TransientStorageError: The database could not be reached.
        """
        wanted: dict[str, AgentSpec] = {}
        for spec in specs:
            validate_spec(replace(spec, source=source))
            if spec.name in wanted:
                raise SettingsError(f'agent "{spec.name}" stands twice in the agents to sync, expected each name once')
            wanted[spec.name] = replace(spec, source=source)

        def work(session: Session) -> SyncResult:
            stored = {
                agent.name: agent
                for agent in session.scalars(select(Agent).order_by(Agent.id).with_for_update(key_share=True))
            }
            added: list[str] = []
            changed: list[str] = []
            unchanged: list[str] = []
            new: list[AgentSpec] = []
            for name, spec in sorted(wanted.items()):
                agent = stored.get(name)
                if agent is None:
                    new.append(spec)
                    added.append(name)
                    continue
                was_retired = agent.state == "retired"
                _refuse_other_source(agent, spec)
                is_changed = _apply(agent, spec)
                (added if was_retired else changed if is_changed else unchanged).append(name)
            retired = sorted(
                name
                for name, agent in stored.items()
                if agent.source == source and agent.state != "retired" and name not in wanted
            )
            for name in retired:
                _retire(stored[name], now)
            agents = [*(stored[name] for name in (*added, *changed, *retired, *unchanged) if name in stored)]
            session.flush()
            agents.extend(_insert(session, new, now))
            _reschedule(session, agents, now)
            return SyncResult(
                added=tuple(added), changed=tuple(changed), retired=tuple(retired), unchanged=tuple(unchanged)
            )

        result = self._write("synchronising agents", work)
        if result.added or result.changed or result.retired:
            logger.info(
                "agents of source %s: %d added, %d changed, %d retired, %d unchanged",
                source,
                len(result.added),
                len(result.changed),
                len(result.retired),
                len(result.unchanged),
                extra={"event": "agents_sync"},
            )
        return result

    def add(self, spec: AgentSpec, now: datetime) -> AgentRecord:
        """
        Register an agent of source ``api``; a retired one of that name comes back with its id.

        Raises:
            SettingsError: The description is invalid.
            DuplicateName: The name is taken.
            TransientStorageError: The database could not be reached.
        """
        spec = replace(spec, source="api")
        validate_spec(spec)
        if spec.name.startswith(RESERVED_PREFIX):
            raise SettingsError(f'agent "{spec.name}": names with {RESERVED_PREFIX} in front are the daemons\' own')

        def work(session: Session) -> AgentRecord:
            agent = session.scalars(select(Agent).where(Agent.name == spec.name).with_for_update()).one_or_none()
            if agent is None:
                [agent] = _insert(session, [spec], now)
            elif agent.state != "retired":
                where = "settings file" if agent.source == "file" else "database"
                raise DuplicateName(
                    "agent", spec.name, f"it comes from the {where}: retire it first or choose another name"
                )
            else:
                _apply(agent, spec)
            session.flush()
            _reschedule(session, [agent], now)
            return _record(agent)

        return self._write("adding an agent", work)

    def retire(self, name: str, now: datetime) -> AgentRecord:
        """
        Stop polling the agent *name* for good; what is known of it stays. Doing so twice is harmless.

        Raises:
            StorageError: There is no such agent.
            SettingsError: It comes from the settings file, and would come back with the next sync.
            TransientStorageError: The database could not be reached.
        """

        def work(session: Session) -> AgentRecord:
            agent = _one(session, name, lock=True)
            if agent.state != "retired":
                if agent.source == "file":
                    raise SettingsError(f'agent "{name}" comes from the settings file: remove it there, or pause it')
                _retire(agent, now)
                _reschedule(session, [agent], now)
            return _record(agent)

        return self._write("retiring an agent", work)

    def pause(self, name: str, now: datetime) -> AgentRecord:
        """
        Begin planned maintenance of the agent *name*: its slots end as ``paused``, never as down.

        Raises:
            StorageError: There is no such agent, or it is retired.
            TransientStorageError: The database could not be reached.
        """
        return self._switch(name, "paused", now)

    def resume(self, name: str, now: datetime) -> AgentRecord:
        """
        End planned maintenance of the agent *name*.

        Raises:
            StorageError: There is no such agent, or it is retired.
            TransientStorageError: The database could not be reached.
        """
        return self._switch(name, "active", now)

    # ---------------------------------------------------------------- inside

    def _switch(self, name: str, state: str, now: datetime) -> AgentRecord:
        def work(session: Session) -> AgentRecord:
            agent = _one(session, name, lock=True)
            if agent.state == "retired":
                raise StorageError(f'agent "{name}" is retired: found retired, expected active or paused: add it again')
            agent.state = state
            _reschedule(session, [agent], now)
            return _record(agent)

        return self._write(f"setting an agent {state}", work)


def _record(agent: Agent) -> AgentRecord:
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


def _one(session: Session, name: str, *, lock: bool = False) -> Agent:
    statement = select(Agent).where(Agent.name == name)
    found = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if found is not None:
        return found
    names = session.scalars(select(Agent.name).where(Agent.state != "retired"))
    raise unknown("agent", name, names, otherwise='see "fleetpulse agents list"')


def _refuse_other_source(agent: Agent, spec: AgentSpec) -> None:
    if agent.source != spec.source and agent.state != "retired":
        places = {"file": "the settings file", "api": "the database (agents add)"}
        raise SettingsError(
            f'agent "{agent.name}" is in {places[agent.source]} and in {places[spec.source]}, expected one of the two: '
            "rename one of them or retire it"
        )


def _apply(agent: Agent, spec: AgentSpec) -> bool:
    """Make *agent* what *spec* says; tell whether that changed anything."""
    before = (agent.state, *(getattr(agent, name) for name in _columns(spec)))
    if agent.state == "retired" or agent.source_paused != spec.paused:
        agent.state = "paused" if spec.paused else "active"
        agent.retired_at = None
    for name, value in _columns(spec).items():
        if getattr(agent, name) != value:
            setattr(agent, name, value)
    return before != (agent.state, *(getattr(agent, name) for name in _columns(spec)))


def _retire(agent: Agent, now: datetime) -> None:
    agent.state = "retired"
    agent.retired_at = now


def _insert(session: Session, specs: Sequence[AgentSpec], now: datetime) -> list[Agent]:
    if not specs:
        return []
    rows = [
        {**_columns(spec), "name": spec.name, "state": "paused" if spec.paused else "active", "created_at": now}
        for spec in specs
    ]
    return list(session.scalars(insert(Agent).returning(Agent), rows))


def _reschedule(session: Session, agents: Sequence[Agent], now: datetime) -> None:
    """Make the open rows of ``agent_schedules`` say what *agents* say, from *now* on."""
    if not agents:
        return
    session.flush()
    ids = [agent.id for agent in agents]
    # A sync of thousands reads all open rows: a statement takes no more than 65,535 parameters.
    only = AgentSchedule.agent_id.in_(ids) if len(ids) <= _MAX_LISTED else true()
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
    for start in range(0, len(never), _MAX_LISTED):
        session.execute(delete(AgentSchedule).where(AgentSchedule.id.in_(never[start : start + _MAX_LISTED])))
    ended = [{"id": row.id, "to_ts": now} for row in rows if row.from_ts < now]
    if ended:
        session.execute(update(AgentSchedule), ended)
