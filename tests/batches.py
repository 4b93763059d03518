"""
Builders of small batches for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from storage.batch import Batch, make_checks, make_samples
from storage.model import Kind, Loss, MetricKey, Outcome, Session, Transition, to_us

#: A quiet moment, at the start of a day.
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)

SESSION = Session(
    uuid="6a0f6f8e-0000-4000-8000-000000000001",
    name="test",
    host="testhost",
    pid=1,
    version="0",
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Spool:
    """Numbers batches as a spool would."""

    def __init__(self) -> None:
        self.spool_id: UUID = uuid4()
        self.seq = 0

    def batch(
        self,
        *,
        checks: Sequence[tuple[str, datetime, Outcome, float | None]] = (),
        samples: Sequence[tuple[str, str, datetime, float]] = (),
        system: Sequence[tuple[str, str, datetime, float]] = (),
        transitions: Sequence[Transition] = (),
        losses: Sequence[Loss] = (),
        kind: Kind = Kind.GAUGE,
        reason: str = "",
    ) -> Batch:
        """
        Return the next batch.

        Args:
            checks: (agent, due, outcome, latency in ms or ``None``).
            samples: (agent, metric, due, value).
            system: (host, metric, due, value).
        """
        self.seq += 1
        agents = tuple(dict.fromkeys([c[0] for c in checks] + [s[0] for s in samples]))
        hosts = tuple(dict.fromkeys(s[0] for s in system))
        names = tuple(dict.fromkeys([s[1] for s in samples] + [s[1] for s in system]))
        nan = float("nan")
        return Batch(
            spool_id=self.spool_id,
            seq=self.seq,
            session=SESSION,
            agents=agents,
            hosts=hosts,
            metrics=tuple(MetricKey(name=name, kind=kind) for name in names),
            reasons=(reason,) if reason else (),
            checks=make_checks(
                ts_us=[to_us(c[1]) for c in checks],
                agent=[agents.index(c[0]) for c in checks],
                outcome=[int(c[2]) for c in checks],
                late_ms=[1.0 for _ in checks],
                latency_ms=[nan if c[3] is None else c[3] for c in checks],
                http_status=[200 if c[3] is not None else 0 for c in checks],
                reason=[0 if reason else -1 for _ in checks],
            ),
            agent_samples=make_samples(
                ts_us=[to_us(s[2]) for s in samples],
                entity=[agents.index(s[0]) for s in samples],
                metric=[names.index(s[1]) for s in samples],
                value=[s[3] for s in samples],
            ),
            system_samples=make_samples(
                ts_us=[to_us(s[2]) for s in system],
                entity=[hosts.index(s[0]) for s in system],
                metric=[names.index(s[1]) for s in system],
                value=[s[3] for s in system],
            ),
            transitions=tuple(transitions),
            losses=tuple(losses),
        )


def every(start: datetime, step_s: float, n: int) -> list[datetime]:
    """Return *n* moments, *step_s* seconds apart."""
    return [start + timedelta(seconds=step_s * k) for k in range(n)]
