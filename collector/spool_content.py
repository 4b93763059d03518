"""
What the spool notes about a batch beside its body: whose slots it holds, what it owes, how much room it takes.

Dropping a batch must leave a loss per agent, and must not forget its transitions, without a look into a body that
may be damaged. So both stand in columns of their own, small and with a checksum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from collector.buffer import PendingBatch
from storage.batch import Checks
from storage.model import Loss, Transition, from_us, to_us

#: What one transaction costs beyond its bodies: pages of the small tables and of the tree above them.
OVERHEAD_BYTES = 256 * 1024

#: Slots of one agent in one batch; agents by their number in the file.
_SLOTS = np.dtype([("agent", "<i4"), ("n", "<i4"), ("from_us", "<i8"), ("to_us", "<i8")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The last cumulative values of one agent's counters."""

    agent: str
    #: Names of the counters; ``None`` where they are those of the last baseline.
    keys: bytes | None
    values: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStats:
    """How full the spool is."""

    #: Batches that the database does not have yet, their encoded bytes and their rows.
    batches: int = 0
    pending_bytes: int = 0
    rows: int = 0
    #: When the oldest of them was made, microseconds since the Unix epoch; 0 without any.
    oldest_us: int = 0
    #: File and write-ahead log.
    size_bytes: int = 0
    #: There are sequence numbers that will never come and that the ledger does not know of yet.
    abandoned: bool = False
    #: Since the daemon started: batches dropped for size or age, and their rows.
    dropped_batches: int = 0
    dropped_rows: int = 0
    #: Since the daemon started: batches set aside because they could not be read or written.
    set_aside: int = 0


def pack_slots(agents: Sequence[str], checks: Checks, number_of: Callable[[str], int]) -> bytes:
    """Return per agent how many checks there are, and the first and last due time."""
    counts = np.bincount(checks.agent, minlength=len(agents))
    first = np.full(len(agents), np.iinfo(np.int64).max)
    last = np.full(len(agents), np.iinfo(np.int64).min)
    np.minimum.at(first, checks.agent, checks.ts_us)
    np.maximum.at(last, checks.agent, checks.ts_us)
    seen = np.flatnonzero(counts)
    slots = np.empty(len(seen), _SLOTS)
    slots["agent"] = [number_of(agents[int(i)]) for i in seen]
    slots["n"], slots["from_us"], slots["to_us"] = counts[seen], first[seen], last[seen]
    return slots.tobytes()


def unpack_slots(data: bytes, names: Mapping[int, str], reason: str) -> list[Loss]:
    """Return the slots that ``pack_slots`` noted, as losses for *reason*."""
    return [
        Loss(agent=names[agent], from_due=from_us(first), to_due=from_us(last), n=n, reason=reason)
        for agent, n, first, last in np.frombuffer(data, _SLOTS).tolist()
    ]


def pack_extra(losses: Iterable[Loss], transitions: Iterable[Transition]) -> str:
    """Return losses and transitions as JSON, empty where there are none."""
    content: Mapping[str, list[list[object]]] = {
        "losses": [[x.agent, to_us(x.from_due), to_us(x.to_due), x.n, x.reason] for x in losses],
        "transitions": [[t.agent, to_us(t.due), t.old, t.new, t.reason] for t in transitions],
    }
    return json.dumps(content, separators=(",", ":")) if any(content.values()) else ""


def unpack_extra(extra: str) -> tuple[list[Loss], list[Transition]]:
    """Return what ``pack_extra`` packed."""
    if not extra:
        return [], []
    content = json.loads(extra)
    losses = [
        Loss(agent=agent, from_due=from_us(first), to_due=from_us(last), n=n, reason=reason)
        for agent, first, last, n, reason in content["losses"]
    ]
    transitions = [
        Transition(agent=agent, due=from_us(due), old=old, new=new, reason=reason)
        for agent, due, old, new, reason in content["transitions"]
    ]
    return losses, transitions


def merge_losses(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    """Return one loss per agent and reason, which covers what all of them cover."""
    merged: dict[tuple[str, str], Loss] = {}
    for loss in losses:
        key = (loss.agent, loss.reason)
        known = merged.get(key)
        merged[key] = loss if known is None else _union(known, loss)
    return tuple(merged.values())


def _union(a: Loss, b: Loss) -> Loss:
    return Loss(
        agent=a.agent,
        from_due=min(a.from_due, b.from_due),
        to_due=max(a.to_due, b.to_due),
        n=a.n + b.n,
        reason=a.reason,
    )


def last_transitions(transitions: Iterable[Transition]) -> tuple[Transition, ...]:
    """Return each agent's last transition: the one that says what it is now."""
    last: dict[str, Transition] = {}
    for change in transitions:
        known = last.get(change.agent)
        if known is None or known.due <= change.due:
            last[change.agent] = change
    return tuple(last.values())


def losses_of(batch: PendingBatch, reason: str) -> tuple[Loss, ...]:
    """Return every slot of *batch* as losses for *reason*, with those that it carried already."""
    names = dict(enumerate(batch.agents))
    numbers = {name: number for number, name in names.items()}
    slots = pack_slots(batch.agents, batch.checks, numbers.__getitem__)
    return merge_losses((*batch.losses, *unpack_slots(slots, names, reason)))


def size_estimate(pending: Sequence[PendingBatch], states: Sequence[Baseline]) -> int:
    """Return an upper bound of the bytes that writing these in one transaction takes."""
    size = OVERHEAD_BYTES
    for batch in pending:
        # Widths of the columns of a check and its slot and of a sample; doubled names for JSON's quoting.
        size += 28 * len(batch.checks) + 24 * (len(batch.agent_samples) + len(batch.system_samples))
        size += sum(2 * len(name.encode("utf-8", "replace")) + 32 for name in batch.agents)
        size += sum(
            2 * sum(len(text) for pair in m.labels for text in pair) + len(m.name) + 2 * len(m.description) + 64
            for m in batch.metrics
        )
        size += 400 * (len(batch.transitions) + len(batch.losses)) + sum(2 * len(r) for r in batch.reasons)
    return size + sum(len(s.values) + len(s.keys or b"") + 32 for s in states)
