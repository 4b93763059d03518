"""
Calls about agents: registered, looked up, paused, retired; what they can do, and their heartbeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from storage.clock import Clock
from storage.errors import InputError, quoted
from storage.model import AgentSpec, usual_timeout_s
from storage.models import STATES, STATUSES
from storage.payloads import several
from storage.repositories.agent_rows import AgentRecord
from storage.repositories.agents import AgentInfo, AgentRepository
from storage.repositories.base import MAX_PAGE_SIZE, Page
from storage.repositories.capabilities import Capabilities


class AgentCalls:
    """Calls about agents, which are named by their unique name."""

    _agents: AgentRepository
    _clock: Clock

    def register_agent(
        self,
        name: str,
        *,
        type: str = "agent",
        endpoint: str = "",
        probe: str | None = None,
        labels: Mapping[str, str] | None = None,
        interval_s: float = 15.0,
        timeout_s: float | None = None,
        rise: int = 1,
        fall: int = 2,
        credential: str = "",
        options: Mapping[str, object] | None = None,
        capabilities: Capabilities | None = None,
    ) -> AgentRecord:
        """
        Register an agent; one that was retired comes back with its id.

        Args:
            name: Unique.
            type: Groups agents: ``worker``, ``llm``.
            endpoint: What the collector polls; without one the agent speaks for itself, by ``heartbeat``.
            probe: How it is polled; ``None`` is ``http`` with an endpoint, ``heartbeat`` without.
            interval_s: Seconds between polls; for an agent that speaks for itself, between looks at its heartbeat.
            timeout_s: Deadline of one poll; ``None`` is 10, or the interval where that is shorter.
            rise: Consecutive good checks until it counts as up.
            fall: Consecutive bad checks until it counts as down.
            credential: Name of a credential in the collector's settings; never the secret itself.
            options: Further settings of the probe.
            capabilities: What it can do, by name, with what there is to say of each.

        Raises:
            SettingsError: Something of the description is not fit to be stored.
            InputError: The name or the details of a capability cannot be stored.
            DuplicateName: The name is taken.
            TransientStorageError: The database could not be reached.
        """
        spec = AgentSpec(
            name=name,
            type=type,
            probe=("http" if endpoint else "heartbeat") if probe is None else probe,
            endpoint=endpoint,
            labels={} if labels is None else labels,
            interval_s=interval_s,
            timeout_s=usual_timeout_s(interval_s) if timeout_s is None else timeout_s,
            rise=rise,
            fall=fall,
            credential=credential,
            options={} if options is None else options,
        )
        return self._agents.add(spec, self._clock(), capabilities=capabilities)

    def register_agents(
        self, specs: Iterable[AgentSpec], *, capabilities: Mapping[str, Capabilities] | None = None
    ) -> Sequence[AgentRecord]:
        """
        Register agents in one transaction: all of them, or none.

        Args:
            specs: An ``http`` agent without an endpoint is one that speaks for itself, by ``heartbeat``.
            capabilities: What each can do, by its name.

        Returns:
            The agents in the order of *specs*.

        Raises:
            SettingsError: A description is not fit to be stored.
            InputError: The name or the details of a capability cannot be stored; *specs* are something else.
            UnknownName: *capabilities* name an agent that is not among *specs*.
            DuplicateName: A name is taken, or stands twice.
            TransientStorageError: The database could not be reached.
        """
        wanted = [
            replace(spec, probe="heartbeat") if spec.probe == "http" and not spec.endpoint else spec
            for spec in several("specs", specs, AgentSpec)
        ]
        return self._agents.add_many(wanted, self._clock(), capabilities=capabilities)

    def update_agent_status(self, name: str, status: str) -> AgentRecord:
        """
        Set the administrative state of an agent.

        Args:
            status: ``active``; ``paused`` is planned maintenance, which is never counted as down; ``retired`` is gone
                for good, until it is registered again.

        Raises:
            UnknownName: There is no such agent.
            InputError: There is no such state; health is what the collector measures, and is set by nobody.
            SettingsError: It comes from a settings file, which is where it is retired.
            StorageError: It is retired: only registering it brings it back.
            TransientStorageError: The database could not be reached.
        """
        if status in STATUSES and status not in STATES:
            raise InputError(
                f'status "{status}" is measured by the collector, expected an administrative state: '
                f"{', '.join(STATES)}; record what you saw with log_health_check"
            )
        if status == "active":
            return self._agents.resume(name, self._clock())
        if status == "paused":
            return self._agents.pause(name, self._clock())
        if status == "retired":
            return self._agents.retire(name, self._clock())
        raise InputError(f"status {quoted(status)} is none of an agent, expected one of {', '.join(STATES)}")

    def get_agent_info(self, name: str) -> AgentInfo:
        """
        Return an agent, retired or not: description, state and measured status in ``record``, capabilities, last heartbeat.

        Raises:
            UnknownName: There is none; the message names those that are called alike.
            TransientStorageError: The database could not be reached.
        """
        return self._agents.info(name)

    def get_all_agents(
        self,
        *,
        type: str | None = None,
        state: str | None = None,
        status: str | None = None,
        capability: str | None = None,
        include_retired: bool = False,
        limit: int = MAX_PAGE_SIZE,
        after: int | None = None,
    ) -> Page[AgentInfo]:
        """
        Return agents in the order in which they were registered.

        Args:
            type: Only those of this type.
            state: ``active``, ``paused`` or ``retired``; without one all but those that are retired.
            status: Only those that the collector last saw so: ``healthy``, ``timeout``, ``unknown``.
            capability: Only those that can do this.
            include_retired: Without a *state*: all.
            limit: Size of a page, 1 to 10,000.
            after: Where the page before ends: its ``after``; ``None`` is the start.

        Raises:
            InputError: There is no such state or status, *type* or *capability* cannot be one, or *limit* is not the size
                of a page.
            TransientStorageError: The database could not be reached.
        """
        return self._agents.find(
            type=type,
            state=state,
            status=status,
            capability=capability,
            include_retired=include_retired,
            limit=limit,
            after=after,
        )

    def set_agent_capabilities(self, name: str, capabilities: Capabilities) -> None:
        """
        Say what an agent can do: this, and nothing else any more.

        Raises:
            UnknownName: There is no such agent.
            InputError: The name or the details of a capability cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        self._agents.set_capabilities(name, capabilities, self._clock())

    def add_agent_capability(self, name: str, capability: str, details: Mapping[str, Any] | None = None) -> None:
        """
        Say that an agent can do something more; what it can do already gets the new *details*.

        Raises:
            UnknownName: There is no such agent.
            InputError: The name or the details cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        self._agents.add_capability(name, capability, {} if details is None else details, self._clock())

    def remove_agent_capability(self, name: str, capability: str) -> None:
        """
        Say that an agent cannot do something any more.

        Raises:
            UnknownName: There is no such agent, or it could not do it.
            TransientStorageError: The database could not be reached.
        """
        self._agents.remove_capability(name, capability)

    def heartbeat(self, name: str, at: datetime | None = None) -> None:
        """
        Record that an agent is at work; the collector calls one that is overdue stalled.

        Args:
            at: When; ``None`` is now. One that is older than the last changes nothing.

        Raises:
            UnknownName: There is no such agent.
            InputError: *at* has no time zone, or is minutes ahead of the clock.
            StorageError: It is retired.
            TransientStorageError: The database could not be reached.
        """
        self._agents.heartbeat(name, self._clock(), at=at)
