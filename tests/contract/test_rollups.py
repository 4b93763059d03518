"""
Rollups: exact at every moment, cheap to refresh, provable, repairable.
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta

import numpy as np
import pytest

from rollups.refresh import rebuild, refresh_all
from rollups.verify import verify
from storage.model import ROLLUPS, Outcome, Table, Tier, Window
from storage.store import Capability, Store
from tests.batches import NOON, Spool, every
from tests.tampering import tamper

LATER = NOON + timedelta(days=40)
DAY = Window(NOON - timedelta(hours=12), NOON + timedelta(hours=12))


def samples(store: Store, relation: str) -> list[tuple[object, ...]]:
    """Return the rows of one agent's metric rollup, by bucket."""
    statement = f"SELECT bucket, n, sum, min, max, last, avg FROM {relation} ORDER BY bucket"  # noqa: S608  # own names
    return list(store.query(statement, types={"bucket": datetime}).rows)


def test_views_are_exact_before_any_refresh(store: Store) -> None:
    """Rows show in every tier in the moment in which they are committed."""
    store.write(Spool().batch(samples=[("a", "m", at, float(k)) for k, at in enumerate(every(NOON, 20, 6))]))

    assert samples(store, "agent_metrics_1m") == [
        (NOON, 3, 3.0, 0.0, 2.0, 2.0, 1.0),
        (NOON + timedelta(minutes=1), 3, 12.0, 3.0, 5.0, 5.0, 4.0),
    ]
    assert samples(store, "agent_metrics_1h") == [(NOON, 6, 15.0, 0.0, 5.0, 5.0, 2.5)]
    assert samples(store, "agent_metrics_1d") == [(DAY.start, 6, 15.0, 0.0, 5.0, 5.0, 2.5)]


def test_refresh_materialises_and_changes_nothing_visible(store: Store) -> None:
    """After a refresh the views answer the same, out of the materialised tables, and no mark is left."""
    store.write(Spool().batch(samples=[("a", "m", at, float(k)) for k, at in enumerate(every(NOON, 20, 6))]))
    before = [samples(store, Table.AGENT.relation(tier)) for tier in ROLLUPS]
    summary = refresh_all(store, LATER)
    after = [samples(store, Table.AGENT.relation(tier)) for tier in ROLLUPS]
    held = store.query(
        "SELECT (SELECT count(*) FROM agent_metrics_1m_mat), (SELECT count(*) FROM agent_metrics_1h_mat),"
        " (SELECT count(*) FROM agent_metrics_1d_mat), (SELECT count(*) FROM marks)"
    ).rows

    assert after == before
    assert (summary.buckets, summary.rows) == (4, 4)
    assert held == [(2, 1, 1, 0)]


def test_refresh_leaves_open_buckets_alone(store: Store) -> None:
    """Only closed buckets are materialised: the running minute, hour and day stay marked, and exact."""
    store.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 30, 4)]))
    refresh_all(store, NOON + timedelta(minutes=1, seconds=15))

    assert store.dirty(Table.AGENT, Tier.M1, LATER) == [NOON + timedelta(minutes=1)]
    assert store.dirty(Table.AGENT, Tier.H1, LATER) == [NOON]
    assert samples(store, "agent_metrics_1d") == [(DAY.start, 4, 4.0, 1.0, 1.0, 1.0, 1.0)]


@pytest.mark.needs(Capability.EXACT_VIEWS)
def test_late_rows_show_at_once_and_are_refreshed(store: Store) -> None:
    """A row that comes days late shows in every tier at once, and again after the refresh of its buckets alone."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 120)]))
    refresh_all(store, LATER)
    store.write(spool.batch(samples=[("a", "m", NOON + timedelta(seconds=30), 5.0)]))
    at_once = [samples(store, Table.AGENT.relation(tier)) for tier in ROLLUPS]
    summary = refresh_all(store, LATER)
    settled = [samples(store, Table.AGENT.relation(tier)) for tier in ROLLUPS]

    assert at_once == settled
    assert at_once[0][0] == (NOON, 2, 6.0, 1.0, 5.0, 5.0, 3.0)
    assert at_once[2] == [(DAY.start, 121, 125.0, 1.0, 5.0, 1.0, 125 / 121)]
    assert summary.buckets == 3


def test_health_counts_every_outcome(store: Store) -> None:
    """Each outcome is counted in its own column; latency speaks of the answered ones only."""
    checks = [
        ("a", NOON + timedelta(seconds=k), outcome, 10.0 * (k + 1) if outcome <= Outcome.UNHEALTHY else None)
        for k, outcome in enumerate(Outcome)
    ]
    store.write(Spool().batch(checks=checks))
    for _ in range(2):
        for tier in ROLLUPS:
            columns = (
                "n, healthy, degraded, unhealthy, stalled, timeout, refused, error, skipped, paused, latency_n,"
                " latency_sum, latency_min, latency_max, latency_last, latency_avg, late_max, last_outcome"
            )
            rows = store.query(f"SELECT {columns} FROM {Table.HEALTH.relation(tier)}").rows  # noqa: S608  # own names

            assert rows == [(9, *[1] * 9, 3, 60.0, 10.0, 30.0, 30.0, 20.0, 1.0, Outcome.PAUSED)]
        refresh_all(store, LATER)


@pytest.mark.parametrize("tier", [Tier.H1, Tier.D1])
def test_quantiles_are_within_one_percent(store: Store, tier: Tier) -> None:
    """Quantiles out of the bins differ from ``percentile_disc`` over raw by one per cent at the most."""
    dice = random.Random(7)
    latencies = [math.exp(dice.gauss(3, 2)) for _ in range(3000)] + [0.01, 0.1, 119_999.0, 500_000.0]
    moments = every(NOON, 3600 * 3 / len(latencies), len(latencies))
    store.write(
        Spool().batch(checks=[("a", at, Outcome.HEALTHY, ms) for at, ms in zip(moments, latencies, strict=True)])
    )
    refresh_all(store, LATER)
    # What percentile_disc answers: the first that a share q of all does not exceed; stored with the digits of a float4.
    stored = sorted(float(ms) for ms in np.array(latencies, np.float32))
    for q in (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0):
        quantile = "latency_quantile(latency_bins_merge(latency_bins), :q, max(latency_max))"
        found = store.query(f"SELECT {quantile} FROM {Table.HEALTH.relation(tier)}", {"q": q}).rows[0][0]  # noqa: S608  # own names
        expected = stored[max(1, math.ceil(q * len(stored))) - 1]

        if q == 0.0:
            assert found == pytest.approx(0.1)  # everything below a tenth of a millisecond is one bin
        else:
            assert found == pytest.approx(expected, rel=0.01)


def test_verify_holds_and_finds_damage(store: Store) -> None:
    """``verify`` names a bucket that was tampered with, and ``rebuild`` repairs it."""
    store.write(
        Spool().batch(
            checks=[("a", at, Outcome.HEALTHY, 5.0) for at in every(NOON, 10, 30)],
            samples=[("a", "m", at, 0.1 * k) for k, at in enumerate(every(NOON, 10, 30))],
        )
    )
    refresh_all(store, LATER)
    sound = verify(store, LATER)
    tamper(store, "UPDATE agent_metrics_1h_mat SET max = max + 1")
    tamper(store, "DELETE FROM health_1m_mat WHERE bucket = :at", at=NOON)
    tamper(store, "INSERT INTO agent_metrics_1d_mat VALUES (:at, 99, 99, 1, 1, 1, 1, 1)", at=DAY.start)
    damaged = verify(store, LATER)
    rebuild(store, DAY, LATER)

    assert sound.holds
    assert {(m.table, m.tier) for m in damaged.mismatches} == {
        (Table.AGENT, Tier.H1),
        (Table.AGENT, Tier.D1),
        (Table.HEALTH, Tier.M1),
    }
    assert verify(store, LATER).holds


def test_verify_ledger_finds_a_lost_row(store: Store) -> None:
    """A raw row that vanished or came twice differs from what the ledger claims of its day."""
    store.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 10, 3)]))
    tamper(store, "DELETE FROM agent_metrics WHERE ts = :at", at=NOON)
    proof = verify(store, LATER)

    assert not proof.holds
    assert [(day.table, day.day, day.ledger, day.stored) for day in proof.ledger] == [(Table.AGENT, NOON.date(), 3, 2)]


def test_refresh_takes_a_backlog_in_bounded_steps(store: Store) -> None:
    """A refresh transaction takes as many buckets as it may, and the next one goes on."""
    store.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 90)]))
    first = store.refresh(Table.AGENT, Tier.M1, closed_before=LATER, limit=50)
    second = store.refresh(Table.AGENT, Tier.M1, closed_before=LATER, limit=50)

    assert (first.buckets, second.buckets) == (50, 40)
    assert store.dirty(Table.AGENT, Tier.M1, LATER) == []
    assert store.dirty(Table.AGENT, Tier.H1, LATER) == [NOON, NOON + timedelta(hours=1)]


def test_rollup_spans_partitions(store: Store) -> None:
    """Buckets on both sides of a day's, a month's and a year's end are each computed from their own rows."""
    spool = Spool()
    end = datetime(2025, 12, 31, 23, 59, tzinfo=NOON.tzinfo)
    store.write(spool.batch(samples=[("a", "m", end, 1.0)]))
    store.write(spool.batch(samples=[("a", "m", end + timedelta(minutes=1), 2.0)]))
    refresh_all(store, end + timedelta(days=3))

    for tier in ROLLUPS:
        assert [row[2] for row in samples(store, Table.AGENT.relation(tier))] == [1.0, 2.0]


def test_refresh_of_sparse_buckets_makes_only_their_partitions(store: Store) -> None:
    """Two rows a year apart need two days of partitions, not the year between them."""
    spool = Spool()
    for at in (NOON - timedelta(days=400), NOON):
        store.write(spool.batch(samples=[("a", "m", at, 1.0)]))
    before = len(store.partitions(Table.AGENT, Tier.M1))
    refresh_all(store, LATER)

    assert len(store.partitions(Table.AGENT, Tier.M1)) == before + 2
    assert [row[1] for row in samples(store, "agent_metrics_1d")] == [1, 1]
