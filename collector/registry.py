"""
The agents that a collector polls: from descriptions to probes, counters and statuses, changed while it runs.

The descriptions come from three places. The settings file is there at once. The database has the file's agents after
a sync, those that were added to it, and what a person paused. The spool has the last list that the database gave, so
that a collector that starts while its database is away polls what it polled before.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields, replace

from collector.config import Credential, Limits
from collector.counters import Counters
from collector.poll import PolledAgent, Poller
from collector.probes.build import build_probe
from collector.probes.reading import Probe, Reading, bounded
from collector.progress import Progress
from collector.schedule import Schedule
from collector.spool import Spool
from collector.status import StatusMachine
from collector.watch import watch_over
from storage.errors import BatchError, SettingsError
from storage.model import UNKNOWN, AgentSpec, Outcome
from storage.specs import RESERVED_PREFIX

log = logging.getLogger(__name__)

#: Key of the agent list in the spool.
CACHE_KEY = "agents"
#: Probe of the collector's own agent: no probe of ``collector.probes``, and refused in settings.
INTERNAL = "internal"
#: Reason of the slot that an agent's end cut off.
REMOVED = "agent removed"

#: What a change of makes another probe.
_PROBED = ("probe", "endpoint", "credential", "options", "timeout_s", "interval_s")


_FIELDS = tuple(field.name for field in fields(AgentSpec))


def encode_specs(specs: Iterable[AgentSpec]) -> bytes:
    """Return descriptions as bytes, for the spool."""
    # Not ``asdict``: it copies every value in depth, which takes a second for 10,000 agents.
    rows = [
        {**{name: getattr(spec, name) for name in _FIELDS}, "labels": dict(spec.labels), "options": dict(spec.options)}
        for spec in specs
    ]
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def decode_specs(data: bytes) -> list[AgentSpec]:
    """
    Return the descriptions that ``encode_specs`` wrote.

    Raises:
        BatchError: They are those of another release.
    """
    try:
        return [AgentSpec(**row) for row in json.loads(data.decode("utf-8", "surrogatepass"))]
    except (TypeError, ValueError) as exc:
        raise BatchError(f"cached agent list cannot be read: {exc}") from exc


class MisconfiguredProbe:
    """Stands for a probe that cannot be built: its agent's slots end as errors that say why."""

    def __init__(self, reason: str) -> None:
        self._reading = Reading(outcome=Outcome.ERROR, reason=bounded(reason))

    async def poll(self, deadline_s: float) -> Reading:
        """Say why there is no probe."""
        return self._reading

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


class Registry:
    """
    Keeps the polled agents in step with their descriptions; on the event loop.

    Args:
        progress: What agents are held to, and what is known of them.
        internal: Builds the probe of the collector's own agent.
        statuses: Last known status by agent, so that a restart invents no transition.
        counters: Counters by agent, as the spool has them.
        besides: What is scheduled whatever the descriptions say: the machine itself.
    """

    def __init__(
        self,
        schedule: Schedule[PolledAgent],
        poller: Poller,
        *,
        credentials: Mapping[str, Credential],
        limits: Limits,
        progress: Progress,
        internal: Callable[[], Probe],
        statuses: Mapping[str, str],
        counters: Mapping[str, Counters],
        besides: Sequence[PolledAgent] = (),
    ) -> None:
        self._schedule = schedule
        self._poller = poller
        self._credentials = credentials
        self._limits = limits
        self._progress = progress
        self._internal = internal
        self._statuses = dict(statuses)
        self._counters = dict(counters)
        self._besides = tuple(besides)
        self._agents: dict[str, PolledAgent] = {}
        self._cleaning: set[asyncio.Task[None]] = set()

    @property
    def agents(self) -> Mapping[str, PolledAgent]:
        """Return the polled agents by name."""
        return self._agents

    def specs(self) -> list[AgentSpec]:
        """Return what is polled now."""
        return [agent.spec for agent in self._agents.values()]

    def apply(self, specs: Sequence[AgentSpec]) -> bool:
        """Poll what *specs* say from now on; agents that stay as they were are not touched. Tell whether any changed."""
        wanted = {spec.name: spec for spec in specs}
        changed = False
        for name in [name for name in self._agents if name not in wanted]:
            changed = True
            self._remove(name)
        for name, spec in wanted.items():
            agent = self._agents.get(name)
            if agent is None:
                changed = True
                self._agents[name] = self._make(spec)
            elif agent.spec != spec:
                changed = True
                self._change(agent, spec)
        if changed:
            self._schedule.set_agents(self.everybody())
            log.info("%d agents are polled", len(self._agents), extra={"event": "agents", "agents": len(self._agents)})
        return changed

    def _make(self, spec: AgentSpec) -> PolledAgent:
        machine = StatusMachine(
            spec.name, rise=spec.rise, fall=spec.fall, status=self._statuses.pop(spec.name, UNKNOWN)
        )
        counters = self._counters.pop(spec.name, None)
        agent = PolledAgent(spec, self._probe(spec), Counters() if counters is None else counters, machine)
        agent.watch = watch_over(spec, self._progress, machine.status)
        return agent

    def _probe(self, spec: AgentSpec) -> Probe:
        # Nobody but the daemon can name an agent so.
        if spec.probe == INTERNAL and spec.name.startswith(RESERVED_PREFIX):
            return self._internal()
        try:
            return build_probe(spec, credentials=self._credentials, limits=self._limits, progress=self._progress)
        except SettingsError as exc:
            log.error("%s", exc, extra={"event": "agent_misconfigured", "agent": spec.name})
            return MisconfiguredProbe(f"misconfigured: {exc}")

    def _change(self, agent: PolledAgent, spec: AgentSpec) -> None:
        before = agent.spec
        probe = agent.probe
        if any(getattr(before, key) != getattr(spec, key) for key in _PROBED):
            agent.use(spec, self._probe(spec))
            self._clean(self._retire_probe(agent.task, probe))
        else:
            agent.use(spec, probe)
        if before.type != spec.type:
            agent.watch = watch_over(spec, self._progress, agent.machine.status)
        if before.paused and not spec.paused:
            self._poller.resume(agent)

    def _remove(self, name: str) -> None:
        agent = self._agents.pop(name)

        async def end() -> None:
            await self._poller.cancel(agent, REMOVED)
            await agent.probe.aclose()

        self._clean(end())

    @staticmethod
    async def _retire_probe(task: asyncio.Task[None] | None, probe: Probe) -> None:
        """Close a probe that was replaced, once the poll that uses it is over."""
        if task is not None:
            await asyncio.wait([task])
        await probe.aclose()

    def _clean(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    def everybody(self) -> tuple[PolledAgent, ...]:
        """Return everything that is scheduled."""
        return (*self._agents.values(), *self._besides)

    async def close(self) -> None:
        """Close every probe and wait until that is done; polls must have ended."""
        tasks = [*self._cleaning, *(asyncio.ensure_future(agent.probe.aclose()) for agent in self.everybody())]
        for task in asyncio.as_completed(tasks):
            try:
                await task
            except Exception:
                log.exception("a probe could not be closed", extra={"event": "probe_close_failed"})


def load_counters(spool: Spool) -> dict[str, Counters]:
    """Return the counters that *spool* has; those of another release are left out, with a line in the log."""
    found: dict[str, Counters] = {}
    for state in spool.baselines():
        try:
            found[state.agent] = Counters.load_parts(state.keys or b"", state.values)
        except BatchError as exc:
            log.error("counters of agent %s: %s", state.agent, exc, extra={"event": "baseline_unreadable"})
    return found


def load_specs(spool: Spool) -> list[AgentSpec]:
    """Return the agent list that *spool* remembers, empty where it has none."""
    data = spool.get(CACHE_KEY)
    if data is None:
        return []
    try:
        return decode_specs(data)
    except BatchError as exc:
        log.warning("%s", exc, extra={"event": "agents_cache_unreadable"})
        return []


def merge(file: Iterable[AgentSpec], known: Iterable[AgentSpec]) -> list[AgentSpec]:
    """
    Return what to poll before the database was reached.

    The settings file says which of its agents there are, and what they are like; the remembered list says which
    others there are, and which ones a person paused.
    """
    remembered = {spec.name: spec for spec in known}
    merged: dict[str, AgentSpec] = {}
    for spec in file:
        before = remembered.get(spec.name)
        paused = spec.paused or (before is not None and before.source == spec.source and before.paused)
        merged[spec.name] = replace(spec, paused=paused)
    for name, spec in remembered.items():
        if spec.source != "file":
            merged.setdefault(name, spec)
    return list(merged.values())
