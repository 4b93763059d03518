"""
What a probe hands back: one reading per poll, and the protocol that every probe fulfils.

Performance rests on identity: while an agent's set of series does not change, ``Reading.metrics`` (and
``Reading.created``) is *the same object* in every poll, so that whoever keeps something per metric can keep it per
list. Nobody may change these two after they were handed out; ``values`` is new in each reading and belongs to the
caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from collector.series import NO_CREATED, NO_METRICS
from storage.model import MetricKey, Outcome

#: Reasons become rows of a dictionary table: a reason that is longer than this is cut.
REASON_LENGTH = 200


@dataclass(slots=True, kw_only=True)
class Reading:
    """The result of one poll, before status and counters are worked out."""

    #: How the poll ended; ``paused`` never comes from a probe, ``skipped`` from one that found nothing to judge by.
    outcome: Outcome
    #: Milliseconds from the start of the poll to its complete answer; NaN where there was none.
    latency_ms: float = math.nan
    #: HTTP status code, 0 where there was none.
    http_status: int = 0
    #: Why, in few words and without anything that differs from poll to poll; empty when all is well.
    reason: str = ""
    #: Series of this answer, in its order, each once; shared between readings, not to be changed.
    metrics: Sequence[MetricKey] = NO_METRICS
    #: Finite values, one per metric; counters cumulative as read.
    values: list[float] = field(default_factory=list)
    #: Index into ``metrics`` to the time (Unix seconds) at which that counter started; shared, not to be changed.
    created: Mapping[int, float] = field(default_factory=lambda: NO_CREATED)
    #: When the process behind the counters started (Unix seconds, by the agent's clock), where the answer says so.
    process_start: float | None = None
    #: When the answer was complete, Unix seconds by this machine's clock; NaN where there was no answer.
    at_s: float = math.nan
    #: Reason to number of samples that were refused.
    rejected: dict[str, int] = field(default_factory=dict)


class Probe(Protocol):
    """Looks at one agent. One poll at a time; polls of different probes run beside each other."""

    async def poll(self, deadline_s: float) -> Reading:
        """
        Look at the agent once, within *deadline_s* seconds from now.

        Whatever goes wrong becomes a reading; nothing but ``CancelledError`` is raised.
        """
        ...

    def close(self) -> None:
        """Give connections and files back; the probe may be polled again, from scratch. Harmless twice."""
        ...

    async def aclose(self) -> None:
        """Do what ``close`` does and wait until it is done."""
        ...


def bounded(text: str) -> str:
    """Return *text* on one line, without control characters, cut to what a reason may be."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * REASON_LENGTH])
    line = " ".join(printable.encode("utf-8", "replace").decode().split())
    return line if len(line) <= REASON_LENGTH else line[: REASON_LENGTH - 1] + "…"


def timed_out(timeout_s: float) -> Reading:
    """Return the reading of a poll that had no answer in *timeout_s*, the agent's configured deadline."""
    return Reading(outcome=Outcome.TIMEOUT, reason=f"timeout after {timeout_s:g}s")
