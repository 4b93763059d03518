"""
Progress as health: an agent that answers, and gets nowhere, is ``stalled``. No network and no database; time is given.

=========  =================================================================================================
rule       an agent that is up is stalled when
=========  =================================================================================================
counter    no series of a counter has increased for too long while this collector found the agent up
task       a task of its runs for longer than a multiple of the p95 of its type
heartbeat  its last heartbeat is too old
=========  =================================================================================================

Tasks and heartbeats are facts of the database, read every few seconds by ``collector.progress_reader``, and judged as of
that moment: whatever happened since is not known. So facts that grow old while the database is away make nobody stalled,
nor does anybody recover by them. ``collector.watch`` brings the rules together for one agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from collector.config import ProgressRules
from collector.durations import in_words
from storage.model import AgentSpec
from storage.specs import RESERVED_PREFIX

#: Type that stands for all that are not named.
OTHERS = "*"
#: Facts that missed so many reads are old: one may fail or take its time.
OLD_READS = 3


class Beat(NamedTuple):
    """How old the last heartbeat of an agent was when it was read."""

    #: Seconds; since its registration for an agent that never had one.
    age_s: float
    #: There has been one.
    heard: bool


class RunningTask(NamedTuple):
    """A task that was being worked on when it was read."""

    id: int
    type: str
    #: Seconds since this attempt began.
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the database knew of agents' progress at one moment."""

    #: When they were read, by the clock of ``Progress``.
    read_s: float
    #: By agent.
    beats: Mapping[str, Beat] = field(default_factory=dict)
    #: By agent, the oldest first.
    running: Mapping[str, Sequence[RunningTask]] = field(default_factory=dict)
    #: Seconds by type of task, where enough runs are known.
    p95_s: Mapping[str, float] = field(default_factory=dict)


class Stall(NamedTuple):
    """Why an agent is stalled."""

    #: What it is about: as long as this is the same, it is the same stall.
    cause: tuple[str, int]
    reason: str


def counter_stall(counter: str, still_s: float, within_s: float) -> Stall | None:
    """Judge an agent whose *counter* has not increased for *still_s* seconds."""
    if still_s <= within_s:
        return None
    words = f"counter {counter} has not increased for {in_words(still_s)} (limit {in_words(within_s)})"
    return Stall(("counter", 0), words)


def task_stall(tasks: Sequence[RunningTask], p95_s: Mapping[str, float], factor: float, min_s: float) -> Stall | None:
    """Judge an agent by the tasks that it works on: the first that runs for too long."""
    for task in tasks:
        p95 = p95_s.get(task.type)
        if p95 is not None and task.age_s > max(factor * p95, min_s):
            ran = f"task {task.id} ({task.type}) runs for {in_words(task.age_s)}"
            return Stall(("task", task.id), f"{ran}, {factor:g} × p95 of its type is {in_words(factor * p95)}")
    return None


def heartbeat_stall(beat: Beat, within_s: float) -> Stall | None:
    """Judge an agent by its last heartbeat."""
    if beat.age_s <= within_s:
        return None
    words = f"heartbeat is {in_words(beat.age_s)} old" if beat.heard else "no heartbeat yet"
    return Stall(("heartbeat", 0), f"{words}, expected one every {in_words(within_s)}")


class Episode:
    """
    Keeps the words with which a stall began.

    Reasons are rows of a dictionary table, and an age that grows would make another one of each poll.
    """

    __slots__ = ("_stall",)

    def __init__(self) -> None:
        self._stall: Stall | None = None

    def reason(self, found: Stall | None) -> str:
        """Return the reason of the stall that *found* is or goes on with; empty for none."""
        if found is None:
            self._stall = None
            return ""
        if self._stall is None or self._stall.cause != found.cause:
            self._stall = found
        return self._stall.reason


class Progress:
    """
    What agents are held to, and the latest facts about them.

    Args:
        rules: By type of agents; ``*`` is for types that are not named.
        refresh_s: Seconds between reads of facts.
        clock: Seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        rules: Mapping[str, ProgressRules] = MappingProxyType({}),
        *,
        refresh_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self.clock = clock
        #: Replaced as a whole by the thread that reads, looked at on the event loop; ``None`` before the first time.
        self.facts: Facts | None = None
        self._old_s = OLD_READS * refresh_s

    def fresh(self) -> Facts | None:
        """Return the latest facts, ``None`` when they are old."""
        facts = self.facts
        return facts if facts is not None and self.clock() - facts.read_s <= self._old_s else None

    def rules_of(self, spec: AgentSpec) -> ProgressRules | None:
        """Return what the agent of *spec* is held to, ``None`` for nothing."""
        rules = self.rules.get(spec.type, self.rules.get(OTHERS))
        # A daemon looks at itself by rules of its own.
        return None if rules is None or rules.empty or spec.name.startswith(RESERVED_PREFIX) else rules
