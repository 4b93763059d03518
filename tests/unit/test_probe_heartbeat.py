"""
Probe ``heartbeat``: judged by what was read last, and by nothing where nothing is known.
"""

from __future__ import annotations

import asyncio
import math

import pytest

from collector.config import Limits
from collector.probes import Probe, Reading, build_probe
from collector.progress import Beat, Facts, Progress
from storage.errors import SettingsError
from storage.model import AgentSpec
from storage.specs import validate_spec


class Bench:
    """A probe of an agent that beats every 15 s, and what is known of it."""

    def __init__(self, **options: object) -> None:
        self.now_s = 100.0
        self.progress = Progress(refresh_s=10.0, clock=lambda: self.now_s)
        self.probe = build(options, self.progress)

    def read(self, beat: Beat | None) -> None:
        """Have the database read now."""
        self.progress.facts = Facts(read_s=self.now_s, beats={} if beat is None else {"a": beat})

    def poll(self) -> tuple[str, str]:
        """Return outcome and reason."""
        reading: Reading = asyncio.run(self.probe.poll(1.0))
        assert math.isnan(reading.latency_ms), "nobody was asked"
        return reading.outcome.label, reading.reason


def build(
    options: dict[str, object], progress: Progress | None = None, *, endpoint: str = "", credential: str = ""
) -> Probe:
    """Return the probe of an agent with these options."""
    described = AgentSpec(
        name="a", probe="heartbeat", endpoint=endpoint, interval_s=15.0, credential=credential, options=options
    )
    validate_spec(described)
    return build_probe(described, credentials={}, limits=Limits(), progress=progress)


def test_young_heartbeat_is_healthy_and_an_old_one_stalled() -> None:
    """Three intervals are the limit unless told otherwise; a new heartbeat ends the stall."""
    bench = Bench()
    bench.read(Beat(45.0, True))
    assert bench.poll() == ("healthy", "")
    bench.read(Beat(46.0, True))
    assert bench.poll() == ("stalled", "heartbeat is 46s old, expected one every 45s")
    bench.read(Beat(56.0, True))
    assert bench.poll() == ("stalled", "heartbeat is 46s old, expected one every 45s"), "as the stall began"
    bench.read(Beat(0.5, True))
    assert bench.poll() == ("healthy", "")


def test_limit_can_be_set() -> None:
    """``within`` goes before the intervals."""
    bench = Bench(within="2m")
    bench.read(Beat(120.0, True))
    assert bench.poll() == ("healthy", "")
    bench.read(Beat(125.0, True))
    assert bench.poll() == ("stalled", "heartbeat is 2m 05s old, expected one every 2m")


def test_agent_that_never_beat() -> None:
    """It has its limit from the registration on, in which nothing is said of it; then it is stalled."""
    bench = Bench()
    bench.read(Beat(3.0, False))
    assert bench.poll() == ("skipped", "no heartbeat yet")
    bench.read(Beat(45.5, False))
    assert bench.poll() == ("stalled", "no heartbeat yet, expected one every 45s")
    bench.read(Beat(0.0, True))
    assert bench.poll() == ("healthy", "")


def test_nothing_is_said_where_nothing_is_known() -> None:
    """Before the first reading, before the next one for a new agent, and while the database is away, slots are skipped."""
    bench = Bench()
    assert bench.poll() == ("skipped", "heartbeats were not read yet")
    bench.read(None)
    assert bench.poll() == ("skipped", "heartbeats were not read since the agent was registered")
    bench.read(Beat(1.0, True))
    bench.now_s += 30.0
    assert bench.poll() == ("healthy", "")
    bench.now_s += 0.5
    assert bench.poll() == ("skipped", "heartbeats cannot be read: database is away")
    bench.read(Beat(1.0, True))
    assert bench.poll() == ("healthy", "")


@pytest.mark.parametrize(
    ("options", "endpoint", "credential", "message"),
    [
        ({"within": 90}, "", "", 'agent "a" option "within" is 90: expected a duration with its unit'),
        ({"within": "soon"}, "", "", 'agent "a" option "within" is \'soon\': expected a duration with its unit'),
        ({"within": "10ms"}, "", "", 'agent "a" option "within" is \'10ms\': expected at least 1s'),
        ({"witin": "10s"}, "", "", 'unknown option "witin" for probe heartbeat: did you mean "within"'),
        ({}, "http://h/", "", "agent \"a\" endpoint is 'http://h/': expected none"),
        ({}, "", "c", 'agent "a" has a credential, which probe heartbeat cannot use'),
    ],
)
def test_what_is_not_understood_is_refused(
    options: dict[str, object], endpoint: str, credential: str, message: str
) -> None:
    """The message names agent, option, what was found and what was expected."""
    with pytest.raises(SettingsError) as caught:
        build(options, endpoint=endpoint, credential=credential)
    assert message in str(caught.value)
