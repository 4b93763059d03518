"""
Which agents are due when: the arithmetic of the schedule, without a clock or a scheduler.

Due times lie on a grid that starts at the Unix epoch: ``offset + k · interval``. The agents of one interval and one
offset form a cohort. A cohort is run when its next slot is due; whatever slots went by since the last run are passed
over, and only the newest is polled, for a burst of stale polls helps nobody.

Integers throughout: microseconds since the Unix epoch, so that a slot is the same number in every place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from storage.model import AgentSpec
from storage.slots import slot_offset_s

#: A timer that fires a little early must not find that its slot is not due yet. Event loops round to milliseconds.
EARLY_US = 2_000


class Scheduled(Protocol):
    """Whatever is polled: the schedule looks at its description alone."""

    @property
    def spec(self) -> AgentSpec:
        """Return what is polled and how often."""
        ...


A = TypeVar("A", bound=Scheduled)


def interval_us_of(interval_s: float) -> int:
    """Return an interval as the grid counts it, in microseconds."""
    return max(1, round(interval_s * 1e6))


@dataclass(frozen=True, slots=True, order=True)
class Grid:
    """Due times of a cohort."""

    #: Microseconds between two slots.
    interval_us: int
    #: Microseconds from the Unix epoch to the first slot; less than the interval.
    offset_us: int

    @classmethod
    def of(cls, name: str, interval_s: float) -> Grid:
        """Return the grid of the agent *name*."""
        interval_us = interval_us_of(interval_s)
        return cls(interval_us, round(slot_offset_s(name, interval_s) * 1e6) % interval_us)

    def newest(self, now_us: int) -> int:
        """Return the last due time that is not after *now_us*."""
        return now_us - (now_us - self.offset_us) % self.interval_us

    def after(self, now_us: int) -> int:
        """Return the first due time after *now_us*."""
        return self.newest(now_us) + self.interval_us


@dataclass(frozen=True, slots=True)
class Due(Generic[A]):
    """What one run of a cohort has to do for one agent."""

    agent: A
    #: The slot to poll.
    due_us: int
    #: Slots before it that went by: the first of them, and how many.
    passed_us: int
    passed: int


class _Member(Generic[A]):
    __slots__ = ("agent", "next_us")

    def __init__(self, agent: A, next_us: int) -> None:
        self.agent = agent
        self.next_us = next_us


class Cohort(Generic[A]):
    """Agents that are due together."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._members: dict[str, _Member[A]] = {}
        # Not later than any member's: asked several times a second, over all cohorts.
        self._next_us = 0
        # Counts how often the clock was set: a run that is paused meanwhile must not go on by the old time.
        self._anchor = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def add(self, agent: A, now_us: int) -> None:
        """Take in *agent*: its first slot is the next one of the grid. Known by its name, it keeps its place."""
        known = self._members.get(agent.spec.name)
        if known is not None:
            known.agent = agent
            return
        next_us = self.grid.after(now_us)
        self._next_us = min(self._next_us, next_us) if self._members else next_us
        self._members[agent.spec.name] = _Member(agent, next_us)

    def remove(self, name: str) -> None:
        """Forget the agent *name*."""
        del self._members[name]

    def next_us(self) -> int:
        """Return the first due time that has not been run to its end."""
        return self._next_us

    def run(self, now_us: int) -> Iterator[Due[A]]:
        """
        Yield what is due at *now_us*, one agent after the other.

        The caller may pause between two of them, and agents may come and go meanwhile: one that has left is not
        yielded, one that has come waits for the next slot. ``reanchor`` ends the run, and accounts for the rest of it.
        """
        newest = self.grid.newest(now_us + EARLY_US)
        anchor = self._anchor
        for name, member in list(self._members.items()):
            if self._anchor != anchor:
                return
            if member.next_us > newest or self._members.get(name) is not member:
                continue
            first, member.next_us = member.next_us, newest + self.grid.interval_us
            yield Due(member.agent, newest, first, (newest - first) // self.grid.interval_us)
        self._next_us = max(self._next_us, newest + self.grid.interval_us)

    def reanchor(self, now_us: int, was_us: int) -> list[Due[A]]:
        """
        Go on from *now_us*, where the clock was set to while it showed *was_us*.

        Returns:
            The slots that nobody will poll: those that the clock jumped over, and those of a run that this cuts off
            (``due_us`` is the last). A clock that was put back repeats its slots: they are other moments with the
            same names.
        """
        self._anchor += 1
        newest = self.grid.newest(now_us)
        reached = self.grid.newest(max(now_us, was_us + EARLY_US))
        jumped: list[Due[A]] = []
        for member in self._members.values():
            if member.next_us <= reached:
                n = (reached - member.next_us) // self.grid.interval_us + 1
                jumped.append(Due(member.agent, reached, member.next_us, n))
            member.next_us = newest + self.grid.interval_us
        self._next_us = newest + self.grid.interval_us
        return jumped


class Cohorts(Generic[A]):
    """Every agent, in its cohort."""

    def __init__(self) -> None:
        self._cohorts: dict[Grid, Cohort[A]] = {}
        self._grids: dict[str, Grid] = {}

    def __len__(self) -> int:
        return len(self._grids)

    def __iter__(self) -> Iterator[Cohort[A]]:
        return iter(self._cohorts.values())

    def get(self, grid: Grid) -> Cohort[A] | None:
        """Return the cohort of *grid*; ``None`` where it has no agents."""
        return self._cohorts.get(grid)

    def set(self, agents: Iterable[A], now_us: int) -> tuple[set[Grid], set[Grid]]:
        """
        Make *agents* the ones that are scheduled; return the grids that have come into use and those that fell out.

        An agent whose interval stayed keeps its place in the grid, whatever else changed.
        """
        before = set(self._cohorts)
        wanted = {agent.spec.name: agent for agent in agents}
        for name in [name for name in self._grids if name not in wanted]:
            self._remove(name)
        for name, agent in wanted.items():
            grid = self._grids.get(name)
            # Where an agent lies in its interval costs a hash: with 10,000 of them that is felt, so only where needed.
            if grid is None or grid.interval_us != interval_us_of(agent.spec.interval_s):
                if grid is not None:
                    self._remove(name)
                grid = Grid.of(name, agent.spec.interval_s)
            self._grids[name] = grid
            self._cohorts.setdefault(grid, Cohort(grid)).add(agent, now_us)
        after = set(self._cohorts)
        return after - before, before - after

    def _remove(self, name: str) -> None:
        grid = self._grids.pop(name)
        cohort = self._cohorts[grid]
        cohort.remove(name)
        if not cohort:
            del self._cohorts[grid]

    def next_us(self) -> int | None:
        """Return the first due time that has not been run; ``None`` without agents."""
        return min((cohort.next_us() for cohort in self), default=None)
