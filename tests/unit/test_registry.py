"""
From descriptions to polled agents: changes at run time, and lists that come from file, database and spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

from collector.buffer import Buffer
from collector.config import Limits, ProgressRules, SpoolConfig
from collector.counters import Counters
from collector.poll import PolledAgent, Poller
from collector.probes.http import HttpProbe
from collector.probes.reading import Reading
from collector.probes.tcp import TcpProbe
from collector.progress import Progress
from collector.registry import (
    CACHE_KEY,
    MisconfiguredProbe,
    Registry,
    decode_specs,
    encode_specs,
    load_counters,
    load_specs,
    merge,
)
from collector.schedule import Schedule
from collector.spool import Spool
from collector.spool_content import Baseline
from collector.tally import Tally
from collector.timeline import Timeline
from storage.errors import BatchError
from storage.model import AgentSpec, Kind, MetricKey, Outcome, to_us
from tests.batches import NOON, SESSION

HTTP = AgentSpec(name="web", endpoint="http://127.0.0.1:1/", labels={"zone": "ö"}, options={"headers": {"A": "b"}})
TCP = AgentSpec(name="db", probe="tcp", endpoint="127.0.0.1:1", source="api")
WAIT_S = 10


class Bench:
    """A registry with a schedule that is not started."""

    def __init__(self, **known: object) -> None:
        self.buffer = Buffer()
        timeline = Timeline(lambda: to_us(NOON), lambda: 0)
        self.poller = Poller(self.buffer, timeline.now_us, Tally())
        self.schedule: Schedule[PolledAgent] = Schedule(timeline, self.poller)
        self.registry = Registry(
            self.schedule,
            self.poller,
            credentials={},
            limits=Limits(),
            internal=lambda: MisconfiguredProbe("the collector itself"),
            **{"statuses": {}, "counters": {}, "progress": Progress(), **known},  # type: ignore[arg-type]  # what the test names
        )


def go(work: Coroutine[None, None, None]) -> None:
    """Run *work* to its end, within a deadline."""
    asyncio.run(asyncio.wait_for(work, WAIT_S))


def test_change_touches_only_what_it_concerns() -> None:
    """Thresholds keep the probe, an endpoint makes another, an agent that stays is the same object."""

    async def work() -> None:
        registry = Bench().registry
        assert registry.apply([HTTP, TCP])
        web, db = registry.agents["web"], registry.agents["db"]
        probe = web.probe
        assert isinstance(probe, HttpProbe)
        assert isinstance(db.probe, TcpProbe)
        assert not registry.apply([HTTP, TCP])
        registry.apply([replace(HTTP, rise=3, fall=4, labels={}), TCP])
        assert (web.probe, web.machine.rise, web.machine.fall) == (probe, 3, 4)
        registry.apply([replace(HTTP, endpoint="http://127.0.0.1:2/")])
        assert web.probe is not probe
        assert registry.agents == {"web": web}
        await registry.close()

    go(work())


def test_rules_follow_the_type_and_the_limit_of_heartbeats_the_interval() -> None:
    """An agent is watched by the rules of the type that it has now; what a probe works out of the interval is new, too."""

    async def work() -> None:
        registry = Bench(progress=Progress({"worker": ProgressRules(heartbeat_within_s=9.0)})).registry
        beating = AgentSpec(name="beating", probe="heartbeat", interval_s=10.0)
        registry.apply([HTTP, replace(TCP, type="worker"), beating])
        db, pushing = registry.agents["db"], registry.agents["beating"]
        watch, probe = db.watch, pushing.probe

        def watched() -> set[str]:
            return {name for name, agent in registry.agents.items() if agent.watch is not None}

        assert watched() == {"db"}
        registry.apply([replace(HTTP, type="worker"), replace(TCP, type="worker", rise=3), replace(beating, rise=3)])
        assert watched() == {"web", "db"}
        assert (db.watch, pushing.probe) == (watch, probe)
        registry.apply([HTTP, TCP, replace(beating, interval_s=20.0)])
        assert watched() == set()
        assert pushing.probe is not probe
        await registry.close()

    go(work())


def test_wrong_description_is_an_error_of_its_agent_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An option that no probe knows makes that agent's slots errors which say why, and stops nothing else."""

    async def work() -> None:
        registry = Bench().registry
        registry.apply([replace(HTTP, options={"colour": "red"}), TCP])
        broken = registry.agents["web"].probe
        assert isinstance(broken, MisconfiguredProbe)
        reading = await broken.poll(1.0)
        assert reading.outcome is Outcome.ERROR
        assert "colour" in reading.reason
        assert reading.reason.startswith("misconfigured: ")
        registry.apply([HTTP, TCP])
        assert isinstance(registry.agents["web"].probe, HttpProbe)
        await registry.close()

    go(work())
    assert "colour" in caplog.text


def test_internal_probe_is_the_collectors_own() -> None:
    """Nobody gets at the collector's own probe by naming it in a description."""

    async def work() -> None:
        registry = Bench().registry
        registry.apply([AgentSpec(name="spy", probe="internal"), AgentSpec(name="fleetpulse/me", probe="internal")])
        reasons = {name: (await agent.probe.poll(1.0)).reason for name, agent in registry.agents.items()}
        assert reasons["fleetpulse/me"] == "the collector itself"
        assert "unknown probe" in reasons["spy"]
        await registry.close()

    go(work())


def test_status_and_counters_go_on_after_a_restart() -> None:
    """What the spool knew is where an agent starts: no transition is invented, no increase is lost."""
    metrics = [MetricKey(name="n", kind=Kind.COUNTER)]
    counters = Counters()
    counters.deltas(Reading(outcome=Outcome.HEALTHY, metrics=metrics, values=[5.0]))

    async def work() -> None:
        registry = Bench(statuses={"web": "timeout"}, counters={"web": counters}).registry
        registry.apply([HTTP])
        agent = registry.agents["web"]
        assert agent.machine.observe(0, Outcome.TIMEOUT) is None
        assert agent.counters.deltas(Reading(outcome=Outcome.HEALTHY, metrics=metrics, values=[8.0]))[1] == [3.0]
        await registry.close()

    go(work())


def test_resume_is_a_transition() -> None:
    """An agent that comes out of maintenance is unknown until its next check."""
    bench = Bench(statuses={"web": "paused"})

    async def work() -> None:
        bench.registry.apply([replace(HTTP, paused=True)])
        bench.registry.apply([HTTP])
        await bench.registry.close()

    go(work())
    (batch,) = bench.buffer.take(0)
    assert [(t.agent, t.old, t.new) for t in batch.transitions] == [("web", "paused", "unknown")]


def test_list_survives_in_the_spool(tmp_path: Path) -> None:
    """Descriptions come back as they were; damage or another release's list gives none, and no crash."""
    spool = Spool(tmp_path, SpoolConfig())
    try:
        assert load_specs(spool) == []
        spool.put(CACHE_KEY, encode_specs([HTTP, TCP])).result(WAIT_S)
        assert load_specs(spool) == [HTTP, TCP]
        spool.put(CACHE_KEY, b'[{"name": "a", "colour": "red"}]').result(WAIT_S)
        assert load_specs(spool) == []
        with pytest.raises(BatchError, match="cannot be read"):
            decode_specs(b"{")
    finally:
        spool.close()


def test_unreadable_counters_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counters of another release cost one increase, not the start."""
    buffer = Buffer()
    buffer.add("a", to_us(NOON), 0, 0, 0, 0, "")
    states = [Baseline(agent="a", keys=b"{}", values=b"?")]
    spool = Spool(tmp_path, SpoolConfig())
    try:
        spool.append(buffer.take(0), SESSION, states).result(WAIT_S)
        assert load_counters(spool) == {}
    finally:
        spool.close()
    assert "counters of agent a" in caplog.text


def test_merge_takes_the_file_for_its_own_and_the_list_for_the_rest() -> None:
    """Without the database: the file's agents as the file says, paused ones stay paused, others as remembered."""
    gone = replace(HTTP, name="gone")
    remembered = [replace(HTTP, endpoint="http://127.0.0.1:9/", paused=True), gone, TCP]

    assert merge([HTTP], remembered) == [replace(HTTP, paused=True), TCP]
    assert merge([HTTP], []) == [HTTP]
    assert merge([replace(HTTP, paused=True)], [HTTP]) == [replace(HTTP, paused=True)]
