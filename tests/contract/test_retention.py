"""
Retention: close, settle, prove, drop; whatever goes wrong, nothing that was rolled up is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import cast

import pytest
from sqlalchemy import text

from rollups.policy import RetentionPolicy
from rollups.refresh import rebuild, refresh_all
from rollups.retention import Verdict, apply, plan
from rollups.verify import verify
from storage.errors import SettingsError, StorageError, TransientStorageError
from storage.model import ROLLUPS, Outcome, Table, Tier, Window
from storage.open import open_store
from storage.store import Capability, Mismatch, Store
from tests.batches import NOON, Spool, every
from tests.tampering import tamper

DAYS = 12
LAST = NOON + timedelta(days=DAYS - 1)
NOW = LAST + timedelta(hours=6)
POLICY = RetentionPolicy(
    raw=timedelta(days=3), m1=timedelta(days=6), h1=timedelta(days=400), d1=None, ledger=timedelta(days=30)
)


def fill(store: Store) -> None:
    """Write twelve days of a sample and a check every six hours."""
    spool = Spool()
    for day in range(DAYS):
        moments = every(NOON - timedelta(hours=12) + timedelta(days=day), 6 * 3600, 4)
        store.write(
            spool.batch(
                samples=[("a", "m", at, float(day)) for at in moments],
                checks=[("a", at, Outcome.HEALTHY, 1.0) for at in moments],
                system=[("h", "m", at, 1.0) for at in moments],
            )
        )


def rows(store: Store, tier: Tier) -> list[tuple[object, ...]]:
    """Return every row of the agent's metric at *tier*."""
    statement = f"SELECT bucket, n, sum FROM {Table.AGENT.relation(tier)} ORDER BY bucket"  # noqa: S608  # own names
    return list(store.query(statement, types={"bucket": datetime}).rows)


def test_plan_names_what_would_go_and_changes_nothing(store: Store) -> None:
    """The plan lists the partitions that are wholly older than their tier's time."""
    fill(store)
    steps = {(step.table, step.tier): step for step in plan(store, POLICY, NOW)}
    raw = steps[Table.AGENT, Tier.RAW]

    assert raw.boundary == (NOW - timedelta(days=3)).replace(hour=0)
    assert len(raw.partitions) == 8
    assert len(steps[Table.AGENT, Tier.M1].partitions) == 0  # nothing is rolled up yet
    assert {horizon.closed_before.year for horizon in store.horizons()} == {1970}


def test_apply_drops_and_keeps_every_rollup(store: Store) -> None:
    """Old raw rows and minutes go; hours and days say the same as before."""
    fill(store)
    before = {tier: rows(store, tier) for tier in ROLLUPS}
    first = apply(store, POLICY, NOW)
    second = apply(store, POLICY, NOW)
    minutes = [row for row in before[Tier.M1] if row[0] >= (NOW - timedelta(days=6)).replace(hour=0)]  # type: ignore[operator]  # buckets are datetimes

    assert first.ok
    assert second.ok
    held = store.query("SELECT count(*), min(ts) AS first FROM agent_metrics", types={"first": datetime}).rows

    assert held == [(16, (NOW - timedelta(days=3)).replace(hour=0))]
    assert rows(store, Tier.M1) == minutes
    assert rows(store, Tier.H1) == before[Tier.H1]
    assert rows(store, Tier.D1) == before[Tier.D1]
    assert verify(store, NOW).holds


def test_late_row_below_dropped_raw_is_refused_and_erases_nothing(store: Store) -> None:
    """A row dated into a dropped day is counted, and the rollups of that day stay as they are."""
    fill(store)
    apply(store, POLICY, NOW)
    before = {tier: rows(store, tier) for tier in ROLLUPS}
    late = Spool().batch(samples=[("a", "m", NOON + timedelta(days=1), 99.0)])
    result = store.write(late)
    refresh_all(store, NOW)
    rebuild(store, Window(NOON - timedelta(days=1), NOW), NOW)

    assert dict(result.rejected) == {"below_horizon": 1}
    assert {tier: rows(store, tier) for tier in ROLLUPS} == before


def test_unproven_rollup_keeps_raw(store: Store) -> None:
    """A rollup that differs from raw stops the drop; repaired, the next run drops."""
    fill(store)
    refresh_all(store, NOW)
    tamper(store, "UPDATE agent_metrics_1h_mat SET sum = sum + 1 WHERE bucket < :at", at=NOON)
    first = apply(store, POLICY, NOW)
    unproven = [result for result in first.steps if result.verdict is Verdict.UNPROVEN]
    held = store.query("SELECT count(*) FROM agent_metrics").rows
    rebuild(store, Window(NOON - timedelta(days=1), NOW), NOW)
    second = apply(store, POLICY, NOW)

    assert [(result.step.table, result.step.tier) for result in unproven] == [(Table.AGENT, Tier.RAW)]
    assert 'run "fleetpulse rollup rebuild --since 2026-03-10T' in unproven[0].message
    assert held == [(4 * DAYS,)]
    assert second.ok
    assert store.query("SELECT count(*) FROM agent_metrics").rows == [(16,)]


def test_drop_refuses_open_and_marked_ranges(store: Store) -> None:
    """The engine itself refuses to drop what is not closed, and what is still marked."""
    fill(store)
    with pytest.raises(StorageError, match="closed below 1970"):
        store.drop_below(Table.AGENT, Tier.RAW, NOON)
    store.close_below(Table.AGENT, Tier.RAW, NOON)
    store.close_below(Table.AGENT, Tier.M1, NOON)
    with pytest.raises(StorageError, match="raw still holds rows there, drop those first"):
        store.drop_below(Table.AGENT, Tier.M1, NOON)

    with pytest.raises(StorageError, match=r"marks are left from 2026-03-10T00:00:00\+00:00 on, refresh first"):
        store.drop_below(Table.AGENT, Tier.RAW, NOON)


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_reader_on_an_old_partition_delays_the_drop_and_nobody_else(store: Store, database_url: str) -> None:
    """A report that still reads what is to go makes the step time out; writers go on, and the next run finishes."""
    fill(store)
    refresh_all(store, NOW)
    with store.engine.connect() as report:
        report.execute(text("SELECT count(*) FROM agent_metrics"))
        first = apply(store, POLICY, NOW)
        other = open_store(database_url)
        try:
            written = other.write(Spool().batch(samples=[("b", "m", NOW, 1.0)]))
        finally:
            other.close()
        report.rollback()
    second = apply(store, POLICY, NOW)

    verdicts = {(result.step.table, result.step.tier): result.verdict for result in first.steps}
    assert verdicts[Table.AGENT, Tier.RAW] is Verdict.BUSY
    assert verdicts[Table.HEALTH, Tier.RAW] is Verdict.DONE
    assert written.accepted == 1
    assert second.ok
    assert store.query("SELECT count(*) FROM agent_metrics").rows == [(17,)]
    assert verify(store, NOW).holds


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_close_waits_for_writers_in_flight(store: Store) -> None:
    """The horizon does not move while a transaction that passed the gate is still open."""
    with store.engine.connect() as writer:
        writer.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(x'666c7001'::int, 2)")
        with pytest.raises(TransientStorageError, match="55P03"):
            store.close_below(Table.AGENT, Tier.RAW, NOON)
        writer.rollback()
    store.close_below(Table.AGENT, Tier.RAW, NOON)
    closed = {horizon.tier: horizon.closed_before for horizon in store.horizons() if horizon.table is Table.AGENT}

    assert closed[Tier.RAW] == NOON


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_writer_reads_the_horizon_behind_the_gate(store: Store, database_url: str) -> None:
    """A writer that waits at the gate while the horizon moves obeys the new horizon, not the one of its snapshot."""
    store.ensure_partitions(Window(NOON, NOON))
    with store.engine.connect() as keeper, ThreadPoolExecutor(1) as pool:
        keeper.exec_driver_sql("SELECT pg_advisory_xact_lock(x'666c7001'::int, 2)")
        writing = pool.submit(store.write, Spool().batch(samples=[("a", "m", NOON, 1.0)]))
        waiters = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1718382593 AND NOT granted"
        other = open_store(database_url)
        try:
            deadline = time.monotonic() + 8
            while other.query(waiters).rows == [(0,)]:
                assert time.monotonic() < deadline, "the writer did not wait at the gate"
        finally:
            other.close()
        keeper.execute(
            text("UPDATE horizons SET closed_before = :at WHERE tbl = 2 AND tier = 0"), {"at": NOON + timedelta(days=1)}
        )
        keeper.commit()
        result = writing.result()

    assert (result.accepted, dict(result.rejected)) == (0, {"below_horizon": 1})


def test_retention_under_load_loses_nothing(store: Store, database_url: str) -> None:
    """While late rows pour in, retention drops; each row is either rolled up or counted as refused."""
    fill(store)
    done = threading.Event()

    def writer(number: int) -> tuple[int, int]:
        mine, spool, accepted, rejected = open_store(database_url), Spool(), 0, 0
        try:
            for k in range(60):
                at = NOON + timedelta(days=k % DAYS, seconds=k, microseconds=number)
                result = mine.write(spool.batch(samples=[("late", "m", at, 1.0)]))
                accepted += result.accepted
                rejected += result.rejections
        finally:
            mine.close()
        return accepted, rejected

    def keeper() -> int:
        mine, runs = open_store(database_url), 0
        try:
            while not done.is_set():
                apply(mine, POLICY, NOW - timedelta(days=max(0, 6 - runs)))
                runs += 1
        finally:
            mine.close()
        return runs

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(writer, number) for number in range(2)]
        keeping = pool.submit(keeper)
        try:
            outcomes = [each.result() for each in writers]
        finally:
            done.set()
        keeping.result()
    last = apply(store, POLICY, NOW)
    rolled = store.query(
        "SELECT sum(r.n) FROM agent_metrics_1d AS r JOIN agents AS a ON a.id = r.agent_id WHERE a.name = 'late'"
    ).rows

    assert last.ok
    assert sum(accepted + rejected for accepted, rejected in outcomes) == 120
    assert rolled == [(sum(accepted for accepted, _ in outcomes),)]
    assert verify(store, NOW).holds


def test_rebuild_between_proof_and_drop_leaves_the_step_to_the_next_run(store: Store) -> None:
    """Marks that come after the proof keep that step from dropping, and no other one from going on."""
    fill(store)

    class Marking:
        """Marks what has just been verified, as a rebuild would in that moment."""

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def verify_tier(
            self, table: Table, tier: Tier, window: Window, *, against: Tier = Tier.RAW
        ) -> Sequence[Mismatch]:
            found = store.verify_tier(table, tier, window, against=against)
            if table is Table.HEALTH and tier is Tier.D1:
                store.mark(table, window)
            return found

    first = apply(cast(Store, Marking()), POLICY, NOW)
    verdicts = {(result.step.table, result.step.tier): result.verdict for result in first.steps}

    assert verdicts[Table.HEALTH, Tier.RAW] is Verdict.BUSY
    assert verdicts[Table.AGENT, Tier.RAW] is Verdict.DONE
    assert apply(store, POLICY, NOW).ok


def test_ledger_outlives_raw_rows_that_could_not_be_dropped(store: Store) -> None:
    """While a proof fails and raw rows stay, the ledger keeps what ``verify`` counts them against."""
    fill(store)
    refresh_all(store, NOW)
    tamper(store, "UPDATE agent_metrics_1h_mat SET sum = sum + 1 WHERE bucket < :at", at=NOON)
    late = NOW + timedelta(days=60)
    result = apply(store, POLICY, late)
    ledger = verify(store, late).ledger

    assert not result.ok
    assert result.purged == 0
    assert ledger == ()


def test_purge_forgets_old_batches_only(store: Store) -> None:
    """The ledger forgets what is older than its time, and ``verify`` still holds for what raw has."""
    fill(store)
    tamper(store, "UPDATE ingest_batches SET committed_at = :at WHERE seq <= 2", at=NOON)
    apply(store, POLICY, NOW)
    result = apply(store, POLICY, NOW + timedelta(days=30))

    assert result.ok
    assert store.query("SELECT min(seq) FROM ingest_batches").rows == [(3,)]
    assert verify(store, NOW).holds


@pytest.mark.parametrize(
    ("keeps", "message"),
    [
        ({"raw": timedelta(days=40)}, r"retention\.raw is 40d, expected at most retention\.1m 30d"),
        ({"raw": timedelta(days=20)}, r"retention\.ledger is 14d, expected at least 22d"),
    ],
)
def test_policy_refuses_what_would_lose(keeps: dict[str, timedelta], message: str) -> None:
    """A finer tier may not outlive a coarser one, nor raw rows their ledger."""
    with pytest.raises(SettingsError, match=message):
        RetentionPolicy(**keeps)
