"""
A small fleet with a past that ends now, for whatever asks about the last hours.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text

from storage.model import Kind, Loss, Outcome, Transition
from storage.store import Store
from tests.batches import Spool, every

#: A name that has to be quoted wherever it is put into a statement.
GOOD, BAD, SLOW = "good", "o'bad", "slow"
INTERVAL_S = 60.0
#: Checks of each agent, the last one due less than a minute ago.
CHECKS = 180


def populate(store: Store, now: datetime) -> None:
    """
    Write three hours of checks and samples that end at *now*.

    ``good`` is healthy, ``slow`` answers in 400 ms and is degraded, ``o'bad`` was down for an hour, is down again, skipped
    a slot and lost three. There are gauges, a counter, two hosts, and a sample that was refused.
    """
    start = now.replace(second=0, microsecond=0) - timedelta(seconds=INTERVAL_S) * (CHECKS - 1)
    due = every(start, INTERVAL_S, CHECKS)
    with store.engine.begin() as connection:
        for name in (GOOD, BAD, SLOW):
            connection.execute(
                text(
                    "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall,"
                    " credential, options, source, state, created_at) VALUES (:name, 'worker', 'http', '', '{}',"
                    " :interval_s, 10, 1, 2, '', '{}', 'api', 'active', :start)"
                ),
                {"name": name, "interval_s": INTERVAL_S, "start": start},
            )
        connection.execute(
            text(
                "INSERT INTO agent_schedules (agent_id, from_ts, interval_s, offset_s, state)"
                " SELECT id, :start, interval_s, 0, 'active' FROM agents"
            ),
            {"start": start},
        )
    spool = Spool()
    down = [*range(30, 90), *range(150, CHECKS)]
    checks: list[tuple[str, datetime, Outcome, float | None]] = []
    for k, at in enumerate(due):
        checks.append((GOOD, at, Outcome.HEALTHY, 5.0 + k % 7))
        checks.append((SLOW, at, Outcome.DEGRADED, 400.0 + k % 11))
        if k == 10:
            checks.append((BAD, at, Outcome.SKIPPED, None))
        elif k not in (20, 21, 22):
            checks.append((BAD, at, *((Outcome.TIMEOUT, None) if k in down else (Outcome.HEALTHY, 20.0))))
    store.write(
        spool.batch(
            checks=checks,
            samples=[
                (agent, name, at, float(k))
                for k, at in enumerate(due)
                for agent, name in ((GOOD, "queue_length"), (GOOD, "memory_bytes"), (BAD, "queue_length"))
            ],
            transitions=[
                *(
                    Transition(agent=name, due=due[0], old="unknown", new=status)
                    for name, status in ((GOOD, "healthy"), (BAD, "healthy"), (SLOW, "degraded"))
                ),
                *(
                    Transition(agent=BAD, due=due[k], old=before, new=after, reason=reason)
                    for k, before, after, reason in (
                        (31, "healthy", "timeout", "no answer in 10 s"),
                        (90, "timeout", "healthy", ""),
                        (151, "healthy", "timeout", "no answer in 10 s"),
                    )
                ),
            ],
            losses=[Loss(agent=BAD, from_due=due[20], to_due=due[22], n=3, reason="spool_full")],
            reason="as told",
        )
    )
    store.write(
        spool.batch(
            samples=[(GOOD, "requests_total", at, 30.0) for at in due]
            + [(GOOD, "requests_total", due[0], float("nan"))],
            kind=Kind.COUNTER,
        )
    )
    gauges = {"cpu_percent": 20.0, "load1": 0.5, "memory_used_percent": 60.0, "filesystem_used_percent": 70.0}
    store.write(
        spool.batch(
            system=[
                (host, name, at, value + k % 5)
                for k, at in enumerate(due)
                for host in ("alpha", "beta")
                for name, value in gauges.items()
            ]
        )
    )
