"""
Counts that the daemon keeps of itself: what became of slots, how late polls were, what was refused.

Written on the event loop; read there, and by the live table's thread, which may see a count or two out of step.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from storage.model import Outcome, Transition

#: Lateness is told from this many of the latest polls: half a minute of a large fleet, and enough for a p99.
LATEST = 8192
#: Transitions that are kept for people to look at.
TRANSITIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """How late polls began, over the latest of them, milliseconds; 0 before the first."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class Tally:
    """What one daemon has counted since it started."""

    def __init__(self) -> None:
        #: Slots by outcome; the index is the outcome's number.
        self.slots = [0] * len(Outcome)
        #: Slots that became losses before they reached a spool.
        self.lost_slots = 0
        #: Samples that were handed to the buffer.
        self.samples = 0
        #: Refused samples by reason.
        self.rejected: Counter[str] = Counter()
        #: Errors inside the collector that a probe should have turned into a reading.
        self.probe_errors = 0
        #: The latest changes of status, oldest first.
        self.transitions: deque[Transition] = deque(maxlen=TRANSITIONS)
        self.clock_steps = 0
        self._late_ms = array("f", bytes(4 * LATEST))
        self._polls = 0

    @property
    def polls(self) -> int:
        """Return how many polls were begun."""
        return self._polls

    def poll(self, late_ms: float) -> None:
        """Count a poll that began *late_ms* after its due time."""
        self._late_ms[self._polls % LATEST] = late_ms
        self._polls += 1

    def lateness(self) -> Lateness:
        """Return how late the latest polls began."""
        n = min(self._polls, LATEST)
        if not n:
            return Lateness()
        p50, p99, most = np.percentile(np.array(self._late_ms[:n]), (50, 99, 100))
        return Lateness(p50_ms=float(p50), p99_ms=float(p99), max_ms=float(most))
