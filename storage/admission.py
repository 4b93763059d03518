"""
What every engine does with a batch before and while it writes: who may in, and what is said of those who may not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from storage.batch import Batch, Checks, Samples, WriteResult, select
from storage.model import MAX_ABS_VALUE, MIN_ABS_VALUE, Loss, Outcome, Table, Window, from_us, to_us

MINUTE_US = 60_000_000

_CHECK_COLUMNS = ("ts", "agent_id", "outcome", "late_ms", "latency_ms", "http_status", "reason_id", "session_id")
_CHECK_TYPES = ("timestamptz", "int4", "int2", "float4", "float4", "int2", "int4", "int4")
_SAMPLE_TYPES = ("timestamptz", "int4", "int4", "float8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The ids of everything that a batch names, by its place in the batch."""

    agents: NDArray[np.int32]
    hosts: NDArray[np.int32]
    metrics: NDArray[np.int32]
    #: Places of the metrics that cannot be stored and have no id.
    unstorable: NDArray[np.int32]
    #: One more than the batch has: none, in the last place, where index -1 points.
    reasons: NDArray[np.int32]
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Rows as a raw table takes them, by column."""

    #: Names of the columns.
    columns: tuple[str, ...]
    #: Their types, in PostgreSQL's words.
    types: tuple[str, ...]
    #: One array per column, of equal length; ``ts`` in microseconds since the Unix epoch.
    values: tuple[NDArray[np.generic], ...]
    #: Place of a column to the mask of its NULLs.
    nulls: Mapping[int, NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.values[0])


def stored(table: Table, columns: Checks | Samples, ids: Resolved) -> Stored:
    """Return *columns* with ids in place of names."""
    if isinstance(columns, Checks):
        return Stored(
            columns=_CHECK_COLUMNS,
            types=_CHECK_TYPES,
            values=(
                columns.ts_us,
                ids.agents[columns.agent],
                columns.outcome,
                columns.late_ms,
                columns.latency_ms,
                columns.http_status,
                ids.reasons[columns.reason],
                np.full(len(columns), ids.session, np.int32),
            ),
            nulls={3: np.isnan(columns.late_ms), 4: np.isnan(columns.latency_ms), 6: columns.reason < 0},
        )
    entities = ids.hosts if table is Table.SYSTEM else ids.agents
    return Stored(
        columns=("ts", table.entity, "metric_id", "value"),
        types=_SAMPLE_TYPES,
        values=(columns.ts_us, entities[columns.entity], ids.metrics[columns.metric], columns.value),
        nulls={},
    )


@dataclass(slots=True)
class Tally:
    """What one attempt did, for the ledger and the caller."""

    accepted: Counter[Table] = field(default_factory=Counter)
    rejected: Counter[tuple[Table, str]] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)

    def result(self) -> WriteResult:
        """Return what the caller of ``Store.write`` is told."""
        rejected: Counter[str] = Counter()
        for (_, reason), n in self.rejected.items():
            rejected[reason] += n
        return WriteResult(accepted=self.accepted.total(), rejected=dict(rejected))


def admitted(
    batch: Batch, table: Table, allowed: Window, unstorable: NDArray[np.int32], tally: Tally
) -> Checks | Samples:
    """
    Return the rows that may be stored; count the others by reason, and record their slots as lost.

    Args:
        allowed: From the closed horizon of the raw rows to ``MAX_DATED_AHEAD`` of the database's clock.
        unstorable: Places in ``batch.metrics`` of those that have no id.
    """
    columns = batch.columns(table)
    refused = np.zeros(len(columns), np.bool_)
    for reason, found in objections(columns, allowed, unstorable):
        found &= ~refused
        if not found.any():
            continue
        refused |= found
        tally.rejected[table, reason] += int(found.sum())
        if isinstance(columns, Checks):
            tally.losses.extend(losses_of(batch, columns, found, reason))
    if refused.any():
        columns = select(columns, ~refused)
    if isinstance(columns, Samples):
        columns = replace(columns, value=np.where(np.abs(columns.value) < MIN_ABS_VALUE, 0.0, columns.value))
    return columns


def objections(
    columns: Checks | Samples, allowed: Window, unstorable: NDArray[np.int32]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each reason to refuse rows with a mask of the rows that it holds for."""
    yield "below_horizon", columns.ts_us < to_us(allowed.start)
    yield "too_far_ahead", columns.ts_us >= to_us(allowed.end)
    if isinstance(columns, Checks):
        # NaN is how an answer that never came is written; an infinite one would spoil every sum above it.
        yield "not_finite", np.isinf(columns.latency_ms) | np.isinf(columns.late_ms)
    else:
        if len(unstorable):
            yield "bad_text", np.isin(columns.metric, unstorable)
        yield "not_finite", ~np.isfinite(columns.value)
        yield "out_of_range", np.abs(columns.value) > MAX_ABS_VALUE


def losses_of(batch: Batch, checks: Checks, chosen: NDArray[np.bool_], reason: str) -> list[Loss]:
    """Return one loss per agent for the chosen rows of *checks*."""
    found: list[Loss] = []
    for agent in np.unique(checks.agent[chosen]):
        due = checks.ts_us[chosen & (checks.agent == agent)]
        found.append(
            Loss(
                agent=batch.agents[int(agent)],
                from_due=from_us(int(due.min())),
                to_due=from_us(int(due.max())),
                n=len(due),
                reason=reason,
            )
        )
    return found


def in_words(batch: Batch, table: Table, columns: Checks | Samples, row: int) -> dict[str, object]:
    """Return one row as names and numbers that JSON can hold, for a person to look at."""
    words: dict[str, object] = {"ts": from_us(int(columns.ts_us[row])).isoformat()}
    if isinstance(columns, Checks):
        outcome, reason = int(columns.outcome[row]), int(columns.reason[row])
        latency = float(columns.latency_ms[row])
        words |= {
            "agent": batch.agents[int(columns.agent[row])],
            "outcome": Outcome(outcome).label if outcome in set(Outcome) else outcome,
            "latency_ms": None if math.isnan(latency) else latency,
            "http_status": int(columns.http_status[row]),
            "reason": batch.reasons[reason] if reason >= 0 else None,
        }
        return words
    metric = batch.metrics[int(columns.metric[row])]
    names = batch.hosts if table is Table.SYSTEM else batch.agents
    words |= {
        "host" if table is Table.SYSTEM else "agent": names[int(columns.entity[row])],
        "metric": metric.name,
        "labels": dict(metric.labels),
        "value": repr(float(columns.value[row])),
    }
    return words


def minutes_us(columns: Checks | Samples) -> NDArray[np.int64]:
    """Return the minutes that *columns* touch, ascending, in microseconds since the Unix epoch: what is marked."""
    first, last = (int(us) // MINUTE_US for us in (columns.ts_us.min(), columns.ts_us.max()))
    if first == last:
        return np.array([first], np.int64) * MINUTE_US
    return np.unique(columns.ts_us // MINUTE_US) * MINUTE_US
