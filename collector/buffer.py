"""
The collector's memory between two flushes: columns that grow by one poll at a time.

Everything here runs on the event-loop thread. ``add`` is on the path of every poll, so names are interned once and
then only small integers are appended; numpy comes in at ``take``, once per flush, never per poll.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from storage.batch import DAY_US, Batch, Checks, Samples, make_checks, make_samples, select
from storage.model import Loss, MetricKey, Session, Transition, to_us

T = TypeVar("T")

#: Distinct names that the intern tables may hold before they start afresh: 200 bytes each, so 100 MB at the worst,
#: ten series for each of 50,000 agents. Only agents whose series keep changing ever come near it.
MAX_INTERNED = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingBatch:
    """A batch that has no place in a spool yet: what one flush saw of one UTC day."""

    agents: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    metrics: tuple[MetricKey, ...] = ()
    reasons: tuple[str, ...] = ()
    checks: Checks = field(default_factory=make_checks)
    agent_samples: Samples = field(default_factory=make_samples)
    system_samples: Samples = field(default_factory=make_samples)
    transitions: tuple[Transition, ...] = ()
    losses: tuple[Loss, ...] = ()
    #: Every slot due before this moment has been handed over (microseconds since the Unix epoch).
    observed_to_us: int = 0

    def __len__(self) -> int:
        """Return the number of time-series rows."""
        return len(self.checks) + len(self.agent_samples) + len(self.system_samples)

    def numbered(
        self,
        spool_id: UUID,
        seq: int,
        session: Session,
        losses: tuple[Loss, ...] = (),
        transitions: tuple[Transition, ...] = (),
    ) -> Batch:
        """Return the batch under its identity, with *losses* and *transitions* that the spool hands over from before."""
        return Batch(
            spool_id=spool_id,
            seq=seq,
            session=session,
            agents=self.agents,
            hosts=self.hosts,
            metrics=self.metrics,
            reasons=self.reasons,
            checks=self.checks,
            agent_samples=self.agent_samples,
            system_samples=self.system_samples,
            transitions=transitions + self.transitions,
            losses=losses + self.losses,
            observed_to_us=self.observed_to_us,
        )


class _Entity:
    """What the buffer remembers of one agent or host: its index, and the indexes of the metrics of its last poll."""

    __slots__ = ("index", "indexes", "metrics")

    def __init__(self, index: int) -> None:
        self.index = index
        self.metrics: Sequence[MetricKey] = ()
        self.indexes = array("i")


class _SampleColumns:
    """Samples as they grow: one entry per poll beside one entry per sample."""

    __slots__ = ("count", "due_us", "entity", "metric", "value")

    def __init__(self) -> None:
        self.due_us = array("q")
        self.entity = array("i")
        self.count = array("i")
        self.metric = array("i")
        self.value = array("d")

    def arrays(self) -> Samples:
        """Return the columns as numpy arrays; the arrays of this object must not grow afterwards."""
        count = np.asarray(self.count, np.int32)
        return make_samples(
            ts_us=np.repeat(np.asarray(self.due_us, np.int64), count),
            entity=np.repeat(np.asarray(self.entity, np.int32), count),
            metric=np.asarray(self.metric, np.int32),
            value=np.asarray(self.value, np.float64),
        )


class Buffer:
    """
    Columns of checks and samples that no flush has taken yet.

    Not safe for several threads: the event loop owns it.
    """

    def __init__(self) -> None:
        self._start_tables()
        self._start_columns()

    def _start_tables(self) -> None:
        self._agents: dict[str, _Entity] = {}
        self._agent_names: list[str] = []
        self._hosts: dict[str, _Entity] = {}
        self._host_names: list[str] = []
        self._metrics: dict[MetricKey, int] = {}
        self._metric_keys: list[MetricKey] = []
        self._reasons: dict[str, int] = {"": -1}
        self._reason_texts: list[str] = []

    def _start_columns(self) -> None:
        self._ts_us = array("q")
        self._agent = array("i")
        self._outcome = array("h")
        self._late_ms = array("f")
        self._latency_ms = array("f")
        self._http_status = array("h")
        self._reason = array("i")
        self._agent_samples = _SampleColumns()
        self._system_samples = _SampleColumns()
        self._transitions: list[Transition] = []
        self._losses: list[Loss] = []

    def __len__(self) -> int:
        """Return the number of time-series rows that wait for the next flush."""
        return len(self._ts_us) + len(self._agent_samples.value) + len(self._system_samples.value)

    def add(
        self,
        agent: str,
        due_us: int,
        outcome: int,
        late_ms: float,
        latency_ms: float,
        http_status: int,
        reason: str,
        metrics: Sequence[MetricKey] = (),
        values: Sequence[float] = (),
    ) -> None:
        """
        Add the check of one slot, and the samples that its answer brought.

        Args:
            agent: Name of the agent.
            due_us: The slot's due time, microseconds since the Unix epoch.
            outcome: An ``Outcome``.
            late_ms: Milliseconds from the due time to the start of the poll.
            latency_ms: Milliseconds from the start of the poll to its answer; NaN where there was none.
            http_status: HTTP status code, 0 where there was none.
            reason: Why, in a few words from a small set; empty when the outcome speaks for itself.
            metrics: What was measured, in the order of *values*; not to be changed afterwards, because a poll that
                brings the same object again costs no look-up.
            values: Finite; a counter's increase since the poll before.
        """
        entity = self._agents.get(agent)
        if entity is None:
            entity = self._agents[agent] = _Entity(len(self._agent_names))
            self._agent_names.append(agent)
        place = self._reasons.get(reason)
        if place is None:
            place = self._reasons[reason] = len(self._reason_texts)
            self._reason_texts.append(reason)
        if metrics:
            self._add_samples(self._agent_samples, entity, due_us, metrics, values)
        # First the one that may not fit, so that columns never differ in length.
        self._http_status.append(http_status)
        self._ts_us.append(due_us)
        self._agent.append(entity.index)
        self._outcome.append(outcome)
        self._late_ms.append(late_ms)
        self._latency_ms.append(latency_ms)
        self._reason.append(place)

    def add_system(self, host: str, due_us: int, metrics: Sequence[MetricKey], values: Sequence[float]) -> None:
        """Add samples of a machine, dated *due_us*."""
        entity = self._hosts.get(host)
        if entity is None:
            entity = self._hosts[host] = _Entity(len(self._host_names))
            self._host_names.append(host)
        if metrics:
            self._add_samples(self._system_samples, entity, due_us, metrics, values)

    def _add_samples(
        self,
        columns: _SampleColumns,
        entity: _Entity,
        due_us: int,
        metrics: Sequence[MetricKey],
        values: Sequence[float],
    ) -> None:
        if len(metrics) != len(values):
            raise AssertionError(f"BUG: {len(metrics)} metrics with {len(values)} values")
        floats = array("d", values)
        # An agent answers the same series poll after poll, and looking one up costs a hash over name and labels (0.4 µs).
        if metrics is not entity.metrics and metrics != entity.metrics:
            known = self._metrics
            indexes = array("i")
            for metric in metrics:
                index = known.get(metric)
                if index is None:
                    index = known[metric] = len(self._metric_keys)
                    self._metric_keys.append(metric)
                indexes.append(index)
            entity.indexes = indexes
            entity.metrics = metrics
        columns.due_us.append(due_us)
        columns.entity.append(entity.index)
        columns.count.append(len(values))
        columns.metric.extend(entity.indexes)
        columns.value.extend(floats)

    def add_transition(self, transition: Transition) -> None:
        """Add a change of status; it travels with the checks of its due time's day."""
        self._transitions.append(transition)

    def add_loss(self, loss: Loss) -> None:
        """Add slots that will never have a check."""
        self._losses.append(loss)

    def take(self, observed_to_us: int) -> list[PendingBatch]:
        """
        Return what has come since the last call, one batch per UTC day, ascending; the buffer is empty afterwards.

        Transitions go with the batch of their day, losses with the last one. Nothing taken gives no batch.

        Args:
            observed_to_us: Every slot due before this moment has been added or taken; only the last batch says so,
                because the earlier ones do not hold what it rests on.
        """
        transitions, losses = tuple(self._transitions), tuple(self._losses)
        if not len(self) and not transitions and not losses:
            return []
        checks = make_checks(
            ts_us=np.asarray(self._ts_us, np.int64),
            agent=np.asarray(self._agent, np.int32),
            outcome=np.asarray(self._outcome, np.int16),
            late_ms=np.asarray(self._late_ms, np.float32),
            latency_ms=np.asarray(self._latency_ms, np.float32),
            http_status=np.asarray(self._http_status, np.int16),
            reason=np.asarray(self._reason, np.int32),
        )
        agent_samples = self._agent_samples.arrays()
        system_samples = self._system_samples.arrays()
        days = _days(checks, agent_samples, system_samples)
        batches: list[PendingBatch] = []
        for day in days:
            last = day == days[-1]
            batches.append(
                self._day_batch(
                    checks if len(days) == 1 else _of_day(checks, day),
                    agent_samples if len(days) == 1 else _of_day(agent_samples, day),
                    system_samples if len(days) == 1 else _of_day(system_samples, day),
                    transitions=tuple(t for t in transitions if _batch_day(t, days) == day),
                    losses=losses if last else (),
                    observed_to_us=observed_to_us if last else 0,
                )
            )
        if not batches:
            batches.append(PendingBatch(transitions=transitions, losses=losses, observed_to_us=observed_to_us))
        self._start_columns()
        if len(self._metric_keys) + len(self._reason_texts) + len(self._agent_names) > MAX_INTERNED:
            self._start_tables()
        return batches

    def _day_batch(
        self,
        checks: Checks | Samples,
        agent_samples: Checks | Samples,
        system_samples: Checks | Samples,
        *,
        transitions: tuple[Transition, ...],
        losses: tuple[Loss, ...],
        observed_to_us: int,
    ) -> PendingBatch:
        """Return a batch that names only what its rows mention, with the indexes rewritten to match."""
        if not (
            isinstance(checks, Checks) and isinstance(agent_samples, Samples) and isinstance(system_samples, Samples)
        ):
            raise AssertionError("BUG: columns of checks and samples were mixed up")
        agents, (check_agent, sample_agent) = _compact(self._agent_names, checks.agent, agent_samples.entity)
        hosts, (sample_host,) = _compact(self._host_names, system_samples.entity)
        metrics, (agent_metric, system_metric) = _compact(
            self._metric_keys, agent_samples.metric, system_samples.metric
        )
        reasons, (reason,) = _compact(self._reason_texts, checks.reason)
        return PendingBatch(
            agents=agents,
            hosts=hosts,
            metrics=metrics,
            reasons=reasons,
            checks=Checks(
                ts_us=checks.ts_us,
                agent=check_agent,
                outcome=checks.outcome,
                late_ms=checks.late_ms,
                latency_ms=checks.latency_ms,
                http_status=checks.http_status,
                reason=reason,
            ),
            agent_samples=Samples(
                ts_us=agent_samples.ts_us, entity=sample_agent, metric=agent_metric, value=agent_samples.value
            ),
            system_samples=Samples(
                ts_us=system_samples.ts_us, entity=sample_host, metric=system_metric, value=system_samples.value
            ),
            transitions=transitions,
            losses=losses,
            observed_to_us=observed_to_us,
        )


def _days(*columns: Checks | Samples) -> list[int]:
    """Return the UTC days that rows are of, ascending."""
    found: set[int] = set()
    for each in columns:
        if len(each):
            first, last = int(each.ts_us.min()) // DAY_US, int(each.ts_us.max()) // DAY_US
            # Nearly always one day: looking for more of them costs a sort of all rows.
            found.update([first] if first == last else np.unique(each.ts_us // DAY_US).tolist())
    return sorted(found)


def _of_day(columns: Checks | Samples, day: int) -> Checks | Samples:
    return select(columns, columns.ts_us // DAY_US == day)


def _batch_day(transition: Transition, days: list[int]) -> int:
    """Return the day whose batch carries *transition*: its own, or the last where its day has no rows."""
    day = to_us(transition.due) // DAY_US
    return day if day in days else days[-1]


def _compact(names: list[T], *indexes: NDArray[np.int32]) -> tuple[tuple[T, ...], list[NDArray[np.int32]]]:
    """Return those of *names* that *indexes* mention, and the indexes counted among those; -1 stays -1."""
    present = np.zeros(len(names) + 1, np.bool_)
    for index in indexes:
        # The last place stands for -1, so that "none" needs no case of its own.
        present[index] = True
    present[-1] = False
    place = np.cumsum(present, dtype=np.int32) - 1
    place[-1] = -1
    return tuple(names[i] for i in np.flatnonzero(present)), [place[index].astype(np.int32) for index in indexes]
