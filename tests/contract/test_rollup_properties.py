"""
After any order of late rows, refreshes, retention and rebuilds, every rollup equals a GROUP BY over all that was ever
accepted, as far back as its tier is kept.

The oracle is a Python list of the accepted rows. Taken out once, and seen to fail: marking on write, the next tier's
marks on refresh, the horizon check on write, settling before the drop.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollups.policy import RetentionPolicy
from rollups.refresh import rebuild, refresh_all
from rollups.retention import apply
from rollups.verify import verify
from storage.model import MIN_ABS_VALUE, ROLLUPS, Table, Tier, Window, floor
from storage.store import Capability, Store
from tests.batches import NOON, Spool

POLICY = RetentionPolicy(
    raw=timedelta(days=1), m1=timedelta(days=2), h1=timedelta(days=20), d1=None, ledger=timedelta(days=60)
)
START = NOON - timedelta(hours=12)

#: (entity, minutes before the clock, value): anything from now to five days late.
ROW = st.tuples(
    st.sampled_from(["a", "b"]),
    st.one_of(st.integers(0, 90), st.integers(0, 5 * 24 * 60)),
    st.floats(-1e6, 1e6, allow_nan=False),
)
STEP = st.one_of(
    st.tuples(st.just("write"), st.lists(ROW, min_size=1, max_size=6)),
    st.tuples(st.just("write"), st.lists(ROW, min_size=1, max_size=6)),
    st.tuples(st.just("advance"), st.sampled_from([1, 59, 61, 600, 1440, 2000])),
    st.tuples(st.just("refresh"), st.integers(1, 3)),
    st.tuples(st.just("retention"), st.none()),
    st.tuples(st.just("rebuild"), st.integers(0, 4 * 24)),
)


class Oracle:
    """All rows that were accepted, and what each tier must say of them."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, datetime, float]] = []

    def rollup(self, tier: Tier, since: datetime) -> dict[tuple[datetime, str], tuple[int, float, float, float, float]]:
        """Return (n, sum, min, max, last) by bucket and entity, from the bucket of *since* on."""
        groups: dict[tuple[datetime, str], list[tuple[datetime, float]]] = defaultdict(list)
        for name, at, value in self.rows:
            if floor(at, tier.step) >= since:
                groups[floor(at, tier.step), name].append((at, value))
        return {
            key: (
                len(found),
                math.fsum(value for _, value in found),
                min(value for _, value in found),
                max(value for _, value in found),
                max(found)[1],
            )
            for key, found in groups.items()
        }


def compare(store: Store, oracle: Oracle) -> None:
    """Assert that every tier says what the oracle says, above the tier's own horizon."""
    horizons = {each.tier: each.dropped_before for each in store.horizons() if each.table is Table.AGENT}
    for tier in ROLLUPS:
        expected = oracle.rollup(tier, horizons[tier])
        answer = store.query(
            f"SELECT r.bucket, a.name, r.n, r.sum, r.min, r.max, r.last FROM {Table.AGENT.relation(tier)} AS r"  # noqa: S608  # the test's own names
            " JOIN agents AS a ON a.id = r.agent_id",
            types={"bucket": datetime},
        ).rows
        found = {(row[0], row[1]): row[2:] for row in answer}

        assert len(answer) == len(found)
        assert found.keys() == expected.keys()
        for key, (n, total, low, high, last) in expected.items():
            got_n, got_total, got_low, got_high, got_last = found[key]
            assert (got_n, got_low, got_high, got_last) == (n, low, high, last)
            assert abs(got_total - total) <= 1e-9 * n * max(abs(low), abs(high))  # type: ignore[operator]  # a float


@pytest.mark.takes_long
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=3, max_size=14))
def test_any_order_keeps_rollups_equal_to_raw(store: Store, steps: list[tuple[str, object]]) -> None:
    """Whatever happens in whatever order, rollups equal the accepted rows and ``verify`` holds."""
    store.drop()
    store.provision()
    spool, oracle, now = Spool(), Oracle(), START + timedelta(days=5)
    for action, argument in steps:
        if action == "advance":
            assert isinstance(argument, int)
            now += timedelta(minutes=argument)
        elif action == "write":
            write(store, spool, oracle, now, argument)
        elif action == "refresh":
            refresh_all(store, now)
        elif action == "rebuild":
            assert isinstance(argument, int)
            rebuild(store, Window(now - timedelta(hours=argument), now), now)
        else:
            assert apply(store, POLICY, now).ok
        if Capability.EXACT_VIEWS not in store.capabilities:
            # Late rows show with the refresh of their buckets there; what is open shows as it is.
            refresh_all(store, now)
        compare(store, oracle)
    refresh_all(store, now + timedelta(days=2))
    compare(store, oracle)

    assert store.query("SELECT count(*) FROM marks").rows == [(0,)]
    assert verify(store, now).holds


def write(store: Store, spool: Spool, oracle: Oracle, now: datetime, rows: object) -> None:
    """Write *rows*, a batch for each UTC day, and tell the oracle which were accepted."""
    assert isinstance(rows, list)
    by_day: dict[datetime, list[tuple[str, str, datetime, float]]] = defaultdict(list)
    for place, (name, minutes, value) in enumerate(rows):
        # Microseconds keep times apart, so that "last" has one answer.
        at = now - timedelta(minutes=minutes) + timedelta(microseconds=spool.seq * 100 + place)
        by_day[floor(at, Tier.D1.step)].append((name, "m", at, value))
    closed = next(
        each.closed_before for each in store.horizons() if each.table is Table.AGENT and each.tier is Tier.RAW
    )
    for batch in by_day.values():
        accepted = [
            (name, at, value if abs(value) >= MIN_ABS_VALUE else 0.0) for name, _, at, value in batch if at >= closed
        ]
        result = store.write(spool.batch(samples=batch))

        assert result.accepted == len(accepted)
        assert result.rejections == len(batch) - len(accepted)
        oracle.rows.extend(accepted)
