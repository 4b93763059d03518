"""
The collector's own time: wall-clock time that does not jump.

Due times are read off the boot clock, anchored to the wall clock at start, so that a stepped wall clock neither
repeats nor skips a slot by surprise. When the two drift apart by more than ``MAX_DRIFT_US`` the wall clock was set
(or the machine's clock is that bad), and ``check`` anchors anew and says by how much. Small differences stay: clock
discipline slews both alike, and nothing is gained by following a clock that wanders by milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from storage.clock import boot_us

#: A difference above this is a step (DESIGN §5); NTP itself slews up to 128 ms and steps only above.
MAX_DRIFT_US = 1_000_000


def wall_us() -> int:
    """Return the wall clock, microseconds since the Unix epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStep:
    """The wall clock was set while the collector ran."""

    #: Time before and after the new anchor, microseconds since the Unix epoch.
    from_us: int
    to_us: int

    @property
    def delta_s(self) -> float:
        """Return by how many seconds the clock was put forward; negative when it was put back."""
        return (self.to_us - self.from_us) / 1e6


class Timeline:
    """
    Time for due times: the boot clock, anchored to the wall clock.

    ``now_us`` may be called from any thread; ``check`` belongs to one, the event loop's.
    """

    def __init__(self, wall: Callable[[], int] = wall_us, boot: Callable[[], int] = boot_us) -> None:
        self._wall = wall
        self._boot = boot
        self._anchor_us = wall() - boot()

    def now_us(self) -> int:
        """Return the current time of the line, microseconds since the Unix epoch."""
        return self._boot() + self._anchor_us

    def ahead_us(self) -> int:
        """Return how far the wall clock is ahead of the line: what turns a due time into a time of the wall clock."""
        return self._wall() - self.now_us()

    def wall_us(self) -> int:
        """Return the wall clock."""
        return self._wall()

    def check(self) -> ClockStep | None:
        """Compare with the wall clock; anchor anew and return the step where they differ too much."""
        before = self.now_us()
        wall = self._wall()
        if abs(wall - before) <= MAX_DRIFT_US:
            return None
        self._anchor_us += wall - before
        return ClockStep(from_us=before, to_us=wall)
