"""
Probe ``heartbeat``: agents that say themselves that they are at work, and are not asked.

==========  ===========================================================================================================
option      meaning
==========  ===========================================================================================================
``within``  duration: how old the last heartbeat may be; three intervals unless told otherwise
==========  ===========================================================================================================

Heartbeats reach the database, from where they are read every few seconds. A slot ends as ``healthy`` or ``stalled`` by
the last one that was read, and as ``skipped`` where nothing can be said: before the first heartbeat of an agent that was
registered just now, and while heartbeats cannot be read, for then the database is away and not the agents.
"""

from __future__ import annotations

from datetime import timedelta

from collector.durations import DURATION_HINT, parse_duration
from collector.probes.options import Options
from collector.probes.reading import Reading
from collector.progress import Episode, Progress, heartbeat_stall
from storage.errors import SettingsError
from storage.model import AgentSpec, Outcome

OPTIONS = ("within",)

#: Of the interval: one heartbeat may be lost, and the next be late.
_INTERVALS = 3
_SECOND = timedelta(seconds=1)


class HeartbeatProbe:
    """
    Judges one agent by its last heartbeat.

    Raises:
        SettingsError: An endpoint or an option is not understood.
    """

    def __init__(self, spec: AgentSpec, progress: Progress) -> None:
        options = Options(spec, OPTIONS)
        if spec.endpoint:
            raise SettingsError(
                f'agent "{spec.name}" endpoint is {spec.endpoint!r}: expected none, because probe heartbeat asks nobody'
            )
        self._within_s = _INTERVALS * spec.interval_s
        if "within" in options:
            self._within_s = _duration_s(options)
        self._agent = spec.name
        self._progress = progress
        self._episode = Episode()

    async def poll(self, deadline_s: float) -> Reading:
        """Judge at once: what there is to know was read before."""
        facts = self._progress.fresh()
        if facts is None:
            known = self._progress.facts is not None
            return _skipped("heartbeats cannot be read: database is away" if known else "heartbeats were not read yet")
        beat = facts.beats.get(self._agent)
        if beat is None:
            return _skipped("heartbeats were not read since the agent was registered")
        reason = self._episode.reason(heartbeat_stall(beat, self._within_s))
        if reason:
            return Reading(outcome=Outcome.STALLED, reason=reason)
        return Reading(outcome=Outcome.HEALTHY) if beat.heard else _skipped("no heartbeat yet")

    def close(self) -> None:
        """Do nothing: nothing is open."""

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""


def _duration_s(options: Options) -> float:
    try:
        found = parse_duration(options.raw("within"))
    except ValueError:
        raise options.error("within", DURATION_HINT) from None
    if found < _SECOND:
        raise options.error("within", "at least 1s")
    return found / _SECOND


def _skipped(reason: str) -> Reading:
    return Reading(outcome=Outcome.SKIPPED, reason=reason)
