"""
What the daemon is doing now, as one value that other threads may look at: for the live table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from collector.spool_content import SpoolStats
from collector.tally import Lateness, Tally
from collector.writer import WriterStats
from storage.model import Outcome, Transition

#: Rates are taken over this many snapshots, so that a fleet with few slots does not read 0 and 10 by turns.
RATE_SNAPSHOTS = 20
#: More troubled agents than any screen has lines.
TROUBLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """An agent that is neither healthy nor paused."""

    agent: str
    status: str
    #: When the status began, microseconds since the Unix epoch; 0 when it was so before this daemon started.
    since_us: int
    reason: str
    #: Of its last answer, milliseconds; NaN where the last poll had none.
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a daemon at one moment."""

    #: The timeline's clock, and when the daemon started, microseconds since the Unix epoch.
    now_us: int
    started_us: int
    #: Agents by status; those that are paused count as ``paused`` at once.
    statuses: Mapping[str, int]
    #: Slots since the start, by outcome label; outcomes that did not occur are absent.
    slots: Mapping[str, int]
    #: Slots and samples per second, over the last seconds.
    slots_per_s: float
    samples_per_s: float
    #: Polls that run.
    running: int
    lateness: Lateness
    #: Rows that the spool does not have yet.
    waiting_rows: int
    spool: SpoolStats
    #: Bound of ``spool.size_bytes``.
    spool_max_bytes: int
    writer: WriterStats
    #: Slots that became losses before they reached the spool.
    lost_slots: int
    #: Refused samples by reason.
    rejected: Mapping[str, int] = field(default_factory=dict)
    #: Latest changes of status, oldest first.
    transitions: tuple[Transition, ...] = ()
    #: Agents that are neither healthy nor paused, by name, at most ``TROUBLES`` of them.
    troubled: tuple[Trouble, ...] = ()
    #: When the rollups were last brought up to date, microseconds since the Unix epoch; 0 before the first time.
    refreshed_us: int = 0
    #: Port of ``/health`` and ``/metrics``.
    listen_port: int = 0

    @property
    def agents(self) -> int:
        """Return the number of agents."""
        return sum(self.statuses.values())


class Rate:
    """Counts per second over the latest of a counter's readings."""

    def __init__(self) -> None:
        self._readings: deque[tuple[int, int]] = deque(maxlen=RATE_SNAPSHOTS)

    def per_s(self, now_us: int, count: int) -> float:
        """Take a reading in; return the rate since the oldest that is kept, 0 for the first."""
        self._readings.append((now_us, count))
        first_us, first = self._readings[0]
        return (count - first) * 1e6 / (now_us - first_us) if now_us > first_us else 0.0


def slots_by_label(tally: Tally) -> dict[str, int]:
    """Return the slots of *tally* by outcome label, without those that did not occur."""
    return {outcome.label: tally.slots[outcome] for outcome in Outcome if tally.slots[outcome]}
