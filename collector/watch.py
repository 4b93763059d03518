"""
One agent under watch: what its answers, and the latest facts about it, say by the rules of ``collector.progress``.

A counter is looked at in each answer, heartbeats and tasks are as the database was last read. An agent that was stalled
when the collector ended stays so until something speaks for it: a restart of the collector is no progress.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from collector.config import ProgressRules
from collector.probes.reading import Reading, bounded
from collector.progress import Episode, Progress, Stall, counter_stall, heartbeat_stall, task_stall
from storage.model import UP, AgentSpec, Kind, MetricKey, Outcome

log = logging.getLogger(__name__)

_STALLED = Outcome.STALLED.label
#: What an agent is while its counter has to move; whoever comes back from something else begins anew.
_COUNTING = frozenset({Outcome.HEALTHY.label, Outcome.DEGRADED.label, _STALLED})


class CounterClock:
    """Since when one counter of one agent stands still."""

    __slots__ = ("_places", "_reported", "_series", "_stored", "increased", "moved_s", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        #: When it moved last, or was first seen; ``None`` before.
        self.moved_s: float | None = None
        #: It was seen to increase.
        self.increased = False
        self._series: set[MetricKey] = set()
        # The lists of the poll before, which are the same objects while an agent's series do not change.
        self._reported: Sequence[MetricKey] | None = None
        self._stored: Sequence[MetricKey] | None = None
        self._places: list[int] = []

    def take(
        self, reported: Sequence[MetricKey], stored: Sequence[MetricKey], deltas: Sequence[float], now_s: float
    ) -> None:
        """Take an answer in: its series, those of them that have an increase or a value, and these."""
        if reported is not self._reported:
            self._reported = reported
            series = {key for key in reported if self._is_mine(key)}
            if not series <= self._series:
                # A label value that was not there before is work of a new kind.
                self.increased = self.increased or self.moved_s is not None
                self._series |= series
                self.moved_s = now_s
        if stored is not self._stored:
            self._stored = stored
            self._places = [place for place, key in enumerate(stored) if self._is_mine(key)]
        for place in self._places:
            if deltas[place] > 0.0:
                self.moved_s = now_s
                self.increased = True

    def restart(self, now_s: float) -> None:
        """Begin anew."""
        if self.moved_s is not None:
            self.moved_s = now_s

    def _is_mine(self, key: MetricKey) -> bool:
        return key.name == self.name and key.kind is Kind.COUNTER


class Watch:
    """
    Holds one agent to its rules; on the event loop.

    Args:
        status: What the agent was when the collector last knew.
    """

    __slots__ = ("_agent", "_carried", "_counter", "_episode", "_missed", "_progress", "_rules")

    def __init__(self, agent: str, rules: ProgressRules, progress: Progress, status: str) -> None:
        self._agent = agent
        self._rules = rules
        self._progress = progress
        self._counter = None if rules.counter is None else CounterClock(rules.counter)
        self._episode = Episode()
        self._carried = status == _STALLED
        # The log says that the counter is missing.
        self._missed = False

    def judge(self, reading: Reading, stored: Sequence[MetricKey], deltas: Sequence[float], status: str) -> str:
        """
        Return why the agent that answered so is stalled; empty when it is not, or is not even up.

        Args:
            stored: What ``Counters.deltas`` made of the reading, with *deltas*.
            status: The agent's before this reading.
        """
        now_s = self._progress.clock()
        if self._counter is not None:
            self._counter.take(reading.metrics, stored, deltas, now_s)
            if status not in _COUNTING:
                self._counter.restart(now_s)
        if reading.outcome not in UP:
            return ""
        found = self._by_counter(reading, now_s) or self._by_facts(status) or self._carry(status)
        # Types of tasks may be any text.
        return bounded(self._episode.reason(found))

    def _by_counter(self, reading: Reading, now_s: float) -> Stall | None:
        counter = self._counter
        if counter is None:
            return None
        if counter.moved_s is None:
            self._miss(counter.name, reading)
            return None
        return counter_stall(counter.name, now_s - counter.moved_s, self._rules.counter_within_s)

    def _miss(self, counter: str, reading: Reading) -> None:
        if self._missed:
            return
        self._missed = True
        gauge = any(key.name == counter for key in reading.metrics)
        log.warning(
            "agent %s %s: it is not judged by it",
            self._agent,
            f"reports {counter} as a gauge, expected a counter" if gauge else f"does not report counter {counter}",
            extra={"event": "counter_missing", "agent": self._agent, "counter": counter},
        )

    def _by_facts(self, status: str) -> Stall | None:
        rules, facts = self._rules, self._progress.facts
        if facts is None or (status != _STALLED and self._progress.fresh() is None):
            return None
        if rules.task_p95_factor is not None:
            tasks = facts.running.get(self._agent, ())
            stall = task_stall(tasks, facts.p95_s, rules.task_p95_factor, rules.task_min_s)
            if stall is not None:
                return stall
        if rules.heartbeat_within_s is not None:
            beat = facts.beats.get(self._agent)
            if beat is not None:
                return heartbeat_stall(beat, rules.heartbeat_within_s)
        return None

    def _carry(self, status: str) -> Stall | None:
        """Find whether a stall of the time before this collector goes on."""
        self._carried = self._carried and status == _STALLED
        if not self._carried:
            return None
        rules, counter = self._rules, self._counter
        by_facts = rules.task_p95_factor is not None or rules.heartbeat_within_s is not None
        if by_facts and self._progress.facts is None:
            return Stall(("carried", 0), "stalled before the collector started, database not read since")
        if counter is not None and counter.moved_s is not None and not counter.increased:
            words = f"stalled before the collector started, counter {counter.name} has not increased since"
            return Stall(("carried", 1), words)
        self._carried = False
        return None


def watch_over(spec: AgentSpec, progress: Progress, status: str) -> Watch | None:
    """Return what holds the agent of *spec*, now *status*, to its rules; ``None`` where it has none."""
    rules = progress.rules_of(spec)
    return None if rules is None else Watch(spec.name, rules, progress, status)
