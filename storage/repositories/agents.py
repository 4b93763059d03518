"""
Agents in the database: registered, synchronised with a file, paused, retired; what they can do, and their heartbeats.

Every change of interval, slot or state ends the open row of ``agent_schedules`` and opens a new one in the same
transaction: those rows are the denominator of every uptime.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Text, bindparam, cast, delete, select, text
from sqlalchemy.orm import Session

from storage.errors import DuplicateName, InputError, SettingsError, UnknownName, quoted, shown
from storage.model import MAX_AHEAD, AgentSpec, aware
from storage.models import SOURCES, STATES, STATUSES, Agent, Base, Moment
from storage.names import is_name
from storage.payloads import MAX_INTEGER, check_filter, check_flag, check_name, several
from storage.repositories.agent_rows import (
    AgentRecord,
    apply,
    by_name,
    insert_agents,
    insist_name,
    insist_not_retired,
    one,
    record_of,
    refuse_other_source,
    register,
    reschedule,
    retire,
    unknown_agent,
)
from storage.repositories.base import PAGE_SIZE, Page, Repository, check_after, check_limit, page_of, unknown
from storage.repositories.capabilities import Capabilities, capabilities_of, check_capabilities, put_capabilities
from storage.specs import RESERVED_PREFIX, validate_spec
from storage.sqlstate import translated
from storage.work_models import AgentCapability, AgentHeartbeat

logger = logging.getLogger(__name__)

#: What makes an agent's description, beside its name and state.
_SPEC_COLUMNS = (
    "type", "probe", "endpoint", "labels", "interval_s", "timeout_s", "rise", "fall", "credential", "options", "source",
)  # fmt: skip

#: In words that PostgreSQL and SQLite share, and SQLAlchemy has for each apart. An older one comes in when two
#: processes of an agent speak for it, or a message was on its way for long.
_HEARTBEAT = text(
    "INSERT INTO agent_heartbeats (agent_id, at) SELECT id, :at FROM agents WHERE name = :name AND state <> 'retired'"
    " ON CONFLICT (agent_id) DO UPDATE SET at = excluded.at WHERE agent_heartbeats.at < excluded.at"
).bindparams(bindparam("at", type_=Moment))

_AGENTS = Base.metadata.tables[Agent.__tablename__]
#: One round trip: a row of each capability, or one without. Put together once, and without objects, it takes half as long.
_INFO = (
    select(
        _AGENTS,
        AgentHeartbeat.at.label("heartbeat_at"),
        AgentCapability.name.label("capability"),
        AgentCapability.details,
    )
    .outerjoin(AgentHeartbeat, AgentHeartbeat.agent_id == _AGENTS.c.id)
    .outerjoin(AgentCapability, AgentCapability.agent_id == _AGENTS.c.id)
    .where(_AGENTS.c.name == bindparam("name"))
    .order_by(AgentCapability.name)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInfo:
    """An agent with all that is known of it but its history."""

    record: AgentRecord
    #: By name.
    capabilities: Capabilities = field(default_factory=dict)
    #: When it last said that it is at work; ``None`` for one that never did.
    heartbeat_at: datetime | None = None

    @property
    def name(self) -> str:
        """Return the agent's name."""
        return self.record.spec.name

    @property
    def type(self) -> str:
        """Return what groups the agent with others."""
        return self.record.spec.type

    @property
    def state(self) -> str:
        """Return what is meant to be done with it: ``active``, ``paused`` or ``retired``."""
        return self.record.state

    @property
    def status(self) -> str:
        """Return how it was found: an outcome's label or ``unknown``."""
        return self.record.status


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
        check_flag("include_retired", include_retired)

        def work(session: Session) -> list[AgentRecord]:
            statement = select(Agent).order_by(Agent.name)
            if not include_retired:
                statement = statement.where(Agent.state != "retired")
            return [record_of(agent) for agent in session.scalars(statement)]

        return self._read("reading agents", work)

    def get(self, name: str) -> AgentRecord:
        """
        Return the agent *name*, retired or not.

        Raises:
            StorageError: There is none; the message names those that are called alike.
        """
        return self._read("reading an agent", lambda session: record_of(one(session, name)))

    def info(self, name: str) -> AgentInfo:
        """
        Return the agent *name*, retired or not, with its capabilities and its last heartbeat.

        Raises:
            UnknownName: There is none; the message names those that are called alike.
            TransientStorageError: The database could not be reached.
        """

        insist_name(name)

        def work(session: Session) -> AgentInfo:
            rows = session.connection().execute(_INFO, {"name": name}).all()
            if not rows:
                raise unknown_agent(session, name)
            able = {row.capability: row.details for row in rows if row.capability is not None}
            return AgentInfo(record=record_of(rows[0]), capabilities=able, heartbeat_at=rows[0].heartbeat_at)

        return self._read("reading an agent", work)

    def find(
        self,
        *,
        type: str | None = None,
        state: str | None = None,
        status: str | None = None,
        capability: str | None = None,
        include_retired: bool = False,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[AgentInfo]:
        """
        Return agents in the order in which they were registered, as many as *limit*.

        Args:
            state: ``active``, ``paused`` or ``retired``; without one all but those that are retired.
            status: What the collector last saw: an outcome's label, or ``unknown``.
            capability: Name of something that they can do.
            include_retired: Without a *state*: all.
            after: What the page before says in its ``after``.

        Raises:
            InputError: There is no such state or status, *type* or *capability* cannot be one, or *limit* is not the size
                of a page.
            TransientStorageError: The database could not be reached.
        """
        check_limit(limit)
        start = check_after(after, most=MAX_INTEGER)
        _insist_one_of("state", state, STATES)
        _insist_one_of("status", status, STATUSES)
        check_filter("type", type)
        check_filter("capability", capability)
        check_flag("include_retired", include_retired)
        wanted = select(Agent, AgentHeartbeat.at).outerjoin(AgentHeartbeat, AgentHeartbeat.agent_id == Agent.id)
        if state is not None:
            wanted = wanted.where(Agent.state == state)
        elif not include_retired:
            wanted = wanted.where(Agent.state != "retired")
        for column, value in ((Agent.type, type), (Agent.status, status)):
            if value is not None:
                wanted = wanted.where(column == value)
        if capability is not None:
            able = select(AgentCapability.agent_id).where(AgentCapability.name == capability)
            wanted = wanted.where(Agent.id.in_(able))
        if start:
            wanted = wanted.where(Agent.id > start)

        def work(session: Session) -> Page[AgentInfo]:
            rows = session.execute(wanted.order_by(Agent.id).limit(limit + 1)).all()
            able = capabilities_of(session, [agent.id for agent, _ in rows])
            found = [
                AgentInfo(record=record_of(agent), capabilities=able.get(agent.id, {}), heartbeat_at=heartbeat_at)
                for agent, heartbeat_at in rows
            ]
            return page_of(found, limit, lambda info: info.record.id)

        return self._read("reading agents", work)

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
            InputError: There is no such *source*, or *specs* are something else.
            TransientStorageError: The database could not be reached.
        """
        if source not in SOURCES:
            raise InputError(f"source of agents is {quoted(source)}, expected one of {', '.join(SOURCES)}")
        aware(now)
        wanted: dict[str, AgentSpec] = {}
        for spec in several("specs", specs, AgentSpec):
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
                refuse_other_source(agent, spec)
                is_changed = apply(agent, spec)
                (added if was_retired else changed if is_changed else unchanged).append(name)
            retired = sorted(
                name
                for name, agent in stored.items()
                if agent.source == source and agent.state != "retired" and name not in wanted
            )
            for name in retired:
                retire(stored[name], now)
            agents = [*(stored[name] for name in (*added, *changed, *retired, *unchanged) if name in stored)]
            session.flush()
            agents.extend(insert_agents(session, new, now))
            reschedule(session, agents, now)
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

    def add(self, spec: AgentSpec, now: datetime, *, capabilities: Capabilities | None = None) -> AgentRecord:
        """
        Register an agent of source ``api``; a retired one of that name comes back with its id.

        Args:
            capabilities: What it can do; ``None`` leaves one that comes back with what it could.

        Raises:
            SettingsError: The description is invalid.
            InputError: The name or the details of a capability cannot be stored.
            DuplicateName: The name is taken.
            TransientStorageError: The database could not be reached.
        """
        able = {} if capabilities is None else {spec.name: capabilities}
        [record] = self._register(_described([spec]), able, now)
        return record

    def add_many(
        self, specs: Iterable[AgentSpec], now: datetime, *, capabilities: Mapping[str, Capabilities] | None = None
    ) -> Sequence[AgentRecord]:
        """
        Register agents as ``add`` does, in one transaction: all of them, or none.

        Args:
            capabilities: Name of an agent to what it can do.

        Returns:
            The agents in the order of *specs*.

        Raises:
            SettingsError: A description is invalid.
            InputError: The name or the details of a capability cannot be stored; *specs* are something else.
            UnknownName: *capabilities* are of none of these agents.
            DuplicateName: A name is taken, or stands twice.
            TransientStorageError: The database could not be reached.
        """
        return self._register(_described(specs), {} if capabilities is None else capabilities, now)

    def retire(self, name: str, now: datetime) -> AgentRecord:
        """
        Stop polling the agent *name* for good; what is known of it stays. Doing so twice is harmless.

        Raises:
            StorageError: There is no such agent.
            SettingsError: It comes from the settings file, and would come back with the next sync.
            TransientStorageError: The database could not be reached.
        """
        aware(now)

        def work(session: Session) -> AgentRecord:
            agent = one(session, name, lock=True)
            if agent.state != "retired":
                if agent.source == "file":
                    raise SettingsError(f'agent "{name}" comes from the settings file: remove it there, or pause it')
                retire(agent, now)
                reschedule(session, [agent], now)
            return record_of(agent)

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

    # ---------------------------------------------------------------- capabilities

    def set_capabilities(self, name: str, capabilities: Capabilities, now: datetime) -> None:
        """
        Say what the agent *name* can do: this, and nothing else any more.

        Raises:
            UnknownName: There is no such agent.
            InputError: The name or the details of a capability cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        insist_name(name)
        check_capabilities(name, capabilities)
        aware(now)

        def work(session: Session) -> None:
            agent = one(session, name, lock=True)
            gone = delete(AgentCapability).where(
                AgentCapability.agent_id == agent.id, AgentCapability.name.not_in(capabilities)
            )
            session.execute(gone)
            put_capabilities(session, {agent.id: capabilities}, now)

        self._write("setting capabilities", work)

    def add_capability(self, name: str, capability: str, details: Mapping[str, Any], now: datetime) -> None:
        """
        Say that the agent *name* can do *capability*; one that it has already gets these details.

        Raises:
            UnknownName: There is no such agent.
            InputError: The name or the details cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        insist_name(name)
        check_name(f'capability of agent "{name}"', capability)
        check_capabilities(name, {capability: details})
        aware(now)

        def work(session: Session) -> None:
            agent = one(session, name, lock=True)
            put_capabilities(session, {agent.id: {capability: details}}, now)

        self._write("adding a capability", work)

    def remove_capability(self, name: str, capability: str) -> None:
        """
        Say that the agent *name* cannot do *capability* any more.

        Raises:
            UnknownName: There is no such agent, or it has no such capability.
            TransientStorageError: The database could not be reached.
        """
        if not is_name(capability):
            raise UnknownName("capability", capability, "expected the name of one")

        def work(session: Session) -> None:
            agent = one(session, name, lock=True)
            able = capabilities_of(session, [agent.id]).get(agent.id, {})
            if capability not in able:
                raise unknown("capability", capability, able, otherwise=f'agent "{name}" has others, or none')
            session.execute(
                delete(AgentCapability).where(AgentCapability.agent_id == agent.id, AgentCapability.name == capability)
            )

        self._write("removing a capability", work)

    # ---------------------------------------------------------------- heartbeats

    def heartbeat(self, name: str, now: datetime, *, at: datetime | None = None) -> None:
        """
        Record that the agent *name* is at work.

        Args:
            at: When it was; ``None`` is *now*. One that is older than the last changes nothing.

        Raises:
            UnknownName: There is no such agent.
            InputError: *at* has no time zone, or is ahead of *now* by more than clocks differ: nothing older would count
                any more.
            StorageError: The agent is retired.
            TransientStorageError: The database could not be reached.
        """
        insist_name(name)
        now = aware(now)
        moment = now if at is None else aware(at, f'heartbeat of agent "{name}"')
        if moment > now + MAX_AHEAD:
            raise InputError(
                f'heartbeat of agent "{name}" is dated {moment.isoformat()}, expected at most '
                f"{MAX_AHEAD.seconds // 60} minutes after {now.isoformat()}: set the clock of its machine"
            )

        def work(session: Session) -> None:
            if not session.connection().execute(_HEARTBEAT, {"name": name, "at": moment}).rowcount:
                insist_not_retired(one(session, name))

        self._write("recording a heartbeat", work)

    # ---------------------------------------------------------------- inside

    def _register(
        self, wanted: Mapping[str, AgentSpec], able: Mapping[str, Capabilities], now: datetime
    ) -> Sequence[AgentRecord]:
        _check_able(wanted, able)
        aware(now)

        def work(session: Session) -> list[AgentRecord]:
            back = by_name(session, wanted)
            for agent in back.values():
                if agent.state != "retired":
                    where = "settings file" if agent.source == "file" else "database"
                    raise DuplicateName(
                        "agent", agent.name, f"it comes from the {where}, choose another name or retire it first"
                    )
                apply(agent, wanted[agent.name])
            reschedule(session, list(back.values()), now)
            new = register(session, [spec for name, spec in wanted.items() if name not in back], now)
            found = new | {name: record_of(agent) for name, agent in back.items()}
            put_capabilities(session, {found[name].id: each for name, each in able.items()}, now)
            return [found[name] for name in wanted]

        return self._write("adding agents" if len(wanted) != 1 else "adding an agent", work)

    def _switch(self, name: str, state: str, now: datetime) -> AgentRecord:
        aware(now)

        def work(session: Session) -> AgentRecord:
            agent = one(session, name, lock=True)
            insist_not_retired(agent)
            agent.state = state
            reschedule(session, [agent], now)
            return record_of(agent)

        return self._write(f"setting an agent {state}", work)


def _described(specs: Iterable[AgentSpec]) -> dict[str, AgentSpec]:
    """Return *specs*, which are to be registered, by name."""
    wanted: dict[str, AgentSpec] = {}
    for spec in several("specs", specs, AgentSpec):
        validate_spec(replace(spec, source="api"))
        if spec.name.startswith(RESERVED_PREFIX):
            raise SettingsError(f'agent "{spec.name}": names with {RESERVED_PREFIX} in front are the daemons\' own')
        if spec.name in wanted:
            raise DuplicateName("agent", spec.name, "it stands twice in what is to be registered")
        wanted[spec.name] = replace(spec, source="api")
    return wanted


def _check_able(wanted: Mapping[str, AgentSpec], able: object) -> None:
    """Insist that *able* says what agents of *wanted* can do."""
    if not isinstance(able, Mapping):
        raise InputError(f"capabilities are {shown(able)}, expected a mapping of agents to what each can do")
    for name, each in able.items():
        if name not in wanted:
            insist_name(name)
            raise unknown("agent", name, wanted, otherwise="capabilities go with the agents that are registered")
        check_capabilities(name, each)


def _insist_one_of(what: str, found: str | None, known: tuple[str, ...]) -> None:
    if found is not None and found not in known:
        raise InputError(f"agents cannot be in {what} {quoted(found)}, expected one of {', '.join(known)}")
