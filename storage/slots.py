"""
Where in its interval an agent is polled.

The agents of one interval are spread over slots, so that a fleet is polled evenly instead of all at once. The slot
follows from the name alone: it is the same on every collector, after every restart, whatever else is polled.
"""

from __future__ import annotations

from hashlib import blake2b

#: Slots per second, as long as ``MAX_SLOTS`` allows: at most 100 ms lie between two of them.
SLOTS_PER_S = 10
#: Most slots of one interval: each is a job of the scheduler.
MAX_SLOTS = 1_000


def slot_count(interval_s: float) -> int:
    """Return the number of slots of an interval of *interval_s* seconds."""
    return max(1, min(int(interval_s * SLOTS_PER_S), MAX_SLOTS))


def slot_offset_s(name: str, interval_s: float) -> float:
    """
    Return the seconds from the start of an interval to the slot of the agent *name*, in ``[0, interval_s)``.

    Intervals are counted from the Unix epoch: the agent is due at ``offset + k * interval_s`` for every whole k.
    """
    count = slot_count(interval_s)
    # A name may hold what UTF-8 cannot encode when it comes from a file name or a broken peer.
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count * interval_s / count
