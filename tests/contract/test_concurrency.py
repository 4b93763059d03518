"""
Writers, refreshers, readers and retention at the same time: no moment at which a public view differs from raw.

Each mechanism that keeps this true was taken out once, and the test seen to fail: marks as a set that ignores
conflicts, marks deleted by bucket instead of by id, refreshes under READ COMMITTED, refreshes without their lock.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from rollups.refresh import refresh_all
from rollups.verify import verify
from storage.model import ROLLUPS, Outcome, Table, Tier, Transition, Window
from storage.open import open_store
from storage.store import Capability, Mismatch, Store
from tests.batches import NOON, Spool

LATER = NOON + timedelta(days=40)
#: Few minutes in two hours, so that everybody is after the same buckets.
MINUTES = [NOON + timedelta(minutes=m) for m in (0, 1, 2, 58, 59, 60, 61)]
HOURS = Window(NOON, NOON + timedelta(hours=2))


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_two_writers_two_refreshers_and_a_reader(store: Store, database_url: str, rounds: int) -> None:
    """Views equal raw in every snapshot that a reader takes; in the end no clean bucket lacks a row."""
    done = threading.Event()
    reads = 0

    def writer(name: str) -> int:
        mine, spool, written = open_store(database_url), Spool(), 0
        try:
            for k in range(rounds):
                minute = MINUTES[k % len(MINUTES)]
                moments = [minute + timedelta(seconds=(k * 7 + i) % 60, microseconds=k) for i in range(5)]
                result = mine.write(
                    spool.batch(
                        samples=[(name, "m", at, float(k)) for at in moments],
                        checks=[(name, at, Outcome(k % 9), 1.0 + k) for at in moments],
                    )
                )
                written += result.accepted
        finally:
            mine.close()
        return written

    def refresher(order: list[Table]) -> int:
        mine, buckets = open_store(database_url), 0
        try:
            while not done.is_set():
                for table in order:
                    for tier in ROLLUPS:
                        buckets += mine.refresh(table, tier, closed_before=LATER).buckets
        finally:
            mine.close()
        return buckets

    def reader() -> list[Mismatch]:
        nonlocal reads
        found: list[Mismatch] = []
        mine = open_store(database_url)
        try:
            while not done.is_set() and not found:
                for table in (Table.AGENT, Table.HEALTH):
                    for tier in ROLLUPS:
                        found.extend(mine.verify_tier(table, tier, HOURS))
                        reads += 1
        finally:
            mine.close()
        return found

    store.ensure_partitions(HOURS)
    with ThreadPoolExecutor(5) as pool:
        writers = [pool.submit(writer, name) for name in ("left", "right")]
        refreshers = [
            pool.submit(refresher, order) for order in ([Table.AGENT, Table.HEALTH], [Table.HEALTH, Table.AGENT])
        ]
        watcher = pool.submit(reader)
        try:
            written = sum(each.result() for each in writers)
        finally:
            done.set()
        refreshed = [each.result() for each in refreshers]
        mismatches = watcher.result()
    refresh_all(store, LATER)

    assert mismatches == []
    assert written == 2 * rounds * 10
    assert min(refreshed) > 0
    assert reads >= 6
    assert store.query("SELECT count(*) FROM marks").rows == [(0,)]
    assert verify(store, LATER).holds
    assert store.query("SELECT (SELECT sum(n) FROM agent_metrics_1d_mat), (SELECT sum(n) FROM health_1d_mat)").rows == [
        (written // 2, written // 2)
    ]


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Return how many batches each writer writes; ``--long`` makes a campaign of it."""
    return 3000 if request.config.getoption("--long", default=False) else 150


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_two_refreshers_one_is_busy(store: Store, database_url: str) -> None:
    """While one refresher holds a table another does nothing and says so; other tables are free."""
    store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)], checks=[("a", NOON, Outcome.HEALTHY, 1.0)]))
    with store.engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_lock(x'666c7002'::int, 2)")
        other = open_store(database_url)
        try:
            busy = other.refresh(Table.AGENT, Tier.M1, closed_before=LATER)
            free = other.refresh(Table.HEALTH, Tier.M1, closed_before=LATER)
        finally:
            other.close()
        connection.exec_driver_sql("SELECT pg_advisory_unlock(x'666c7002'::int, 2)")

    assert (busy.busy, busy.buckets) == (True, 0)
    assert (free.busy, free.buckets) == (False, 1)


@pytest.mark.needs(Capability.COLUMNSTORE, Capability.SEVERAL_WRITERS)
def test_verify_tells_what_another_refresher_keeps_from_it(store: Store, database_url: str) -> None:
    """Buckets that lag because somebody holds the refresher's lock are no proof; without them it holds again."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)]))
    refresh_all(store, LATER)
    store.write(spool.batch(samples=[("a", "m", NOON + timedelta(seconds=1), 1.0)]))
    with store.engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_lock(x'666c7002'::int, 2)")
        other = open_store(database_url)
        try:
            kept = verify(other, LATER)
        finally:
            other.close()
        connection.exec_driver_sql("SELECT pg_advisory_unlock(x'666c7002'::int, 2)")
    after = verify(store, LATER)

    assert (kept.holds, kept.unsettled, kept.mismatches) == (False, 1, ())
    assert (after.holds, after.unsettled) == (True, 0)


def test_two_writers_make_the_same_partition(store: Store, database_url: str) -> None:
    """Writers that find the same days missing at once both write; nobody deadlocks."""
    start = threading.Barrier(4)

    def writer(number: int) -> int:
        mine, spool, written = open_store(database_url), Spool(), 0
        try:
            for day in range(4):
                start.wait(timeout=60)
                at = NOON - timedelta(days=10 + day)
                written += mine.write(spool.batch(samples=[(f"a{number}", "m", at, 1.0)])).accepted
        finally:
            mine.close()
        return written

    with ThreadPoolExecutor(4) as pool:
        written = sum(pool.map(writer, range(4)))

    assert written == 16
    assert store.query("SELECT count(*) FROM agent_metrics").rows == [(16,)]


def test_writers_with_transitions_in_opposite_orders(store: Store, database_url: str) -> None:
    """Writers that change the same agents in opposite orders do not wait for each other in a circle."""
    names = [f"agent-{k:02}" for k in range(20)]
    store.write(Spool().batch(transitions=[Transition(agent=n, due=NOON, old="unknown", new="healthy") for n in names]))

    def writer(order: list[str]) -> int:
        mine, spool, written = open_store(database_url), Spool(), 0
        try:
            for k in range(40):
                due = NOON + timedelta(seconds=k)
                mine.write(
                    spool.batch(
                        transitions=[Transition(agent=n, due=due, old="healthy", new="degraded") for n in order]
                    )
                )
                written += 1
        finally:
            mine.close()
        return written

    with ThreadPoolExecutor(2) as pool:
        written = list(pool.map(writer, [names, names[::-1]]))

    assert written == [40, 40]
