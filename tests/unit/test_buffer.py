"""
The buffer: what goes in comes out, by day, with indexes that point where they should.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import buffer as buffer_module
from collector.buffer import Buffer, PendingBatch
from storage.batch import DAY_US, decode, encode
from storage.model import Loss, MetricKey, Outcome, Transition, from_us, to_us
from tests.batches import NOON, SESSION

NOON_US = to_us(NOON)
KEYS = tuple(MetricKey(name=f"m{i}") for i in range(4))


def rows(batch: PendingBatch) -> list[tuple[object, ...]]:
    """Return every row of *batch* in words."""
    checks = batch.checks
    found: list[tuple[object, ...]] = [
        (
            int(checks.ts_us[i]),
            batch.agents[checks.agent[i]],
            int(checks.outcome[i]),
            batch.reasons[checks.reason[i]] if checks.reason[i] >= 0 else "",
        )
        for i in range(len(checks))
    ]
    for samples, names in ((batch.agent_samples, batch.agents), (batch.system_samples, batch.hosts)):
        found += [
            (
                int(samples.ts_us[i]),
                names[samples.entity[i]],
                batch.metrics[samples.metric[i]].name,
                float(samples.value[i]),
            )
            for i in range(len(samples))
        ]
    return found


def test_empty_buffer_gives_no_batch() -> None:
    """A flush with nothing to hand over makes no batch."""
    assert Buffer().take(NOON_US) == []


def test_take_returns_what_was_added_and_empties() -> None:
    """Checks and samples come back under their names, once."""
    buffer = Buffer()
    buffer.add("a", NOON_US, Outcome.HEALTHY, 1.5, 2.5, 200, "", KEYS[:2], [1.0, 2.0])
    buffer.add("b", NOON_US, Outcome.TIMEOUT, 0.5, math.nan, 0, "timeout after 1s")
    buffer.add_system("h", NOON_US, KEYS[2:3], [9.0])

    (batch,) = buffer.take(NOON_US + 1)

    assert sorted(rows(batch), key=str) == sorted(
        [
            (NOON_US, "a", 0, ""),
            (NOON_US, "b", 4, "timeout after 1s"),
            (NOON_US, "a", "m0", 1.0),
            (NOON_US, "a", "m1", 2.0),
            (NOON_US, "h", "m2", 9.0),
        ],
        key=str,
    )
    assert batch.observed_to_us == NOON_US + 1
    assert math.isnan(batch.checks.latency_ms[1])
    assert buffer.take(NOON_US + 2) == []


def test_names_that_left_are_not_in_the_next_batch() -> None:
    """A batch names only what its own rows mention, although names stay interned."""
    buffer = Buffer()
    buffer.add("a", NOON_US, 0, 0, 0, 0, "slow", KEYS[:2], [1.0, 2.0])
    buffer.take(0)
    buffer.add("b", NOON_US, 0, 0, 0, 0, "", KEYS[1:3], [3.0, 4.0])

    (batch,) = buffer.take(0)

    assert (batch.agents, batch.reasons) == (("b",), ())
    assert {m.name for m in batch.metrics} == {"m1", "m2"}
    assert rows(batch)[1:] == [(NOON_US, "b", "m1", 3.0), (NOON_US, "b", "m2", 4.0)]


def test_midnight_splits_batches_by_utc_day() -> None:
    """Rows of two UTC days make two batches, ascending; only the last says how far the collector has come."""
    midnight = datetime(2026, 3, 11, tzinfo=UTC)
    before, after = to_us(midnight) - 1, to_us(midnight)
    buffer = Buffer()
    buffer.add("a", after, 0, 0, 0, 0, "", KEYS[:1], [2.0])
    buffer.add("a", before, 0, 0, 0, 0, "", KEYS[:1], [1.0])
    change = Transition(agent="a", due=from_us(before), old="unknown", new="healthy")
    loss = Loss(agent="a", from_due=NOON, to_due=NOON, n=1, reason="spool_full")
    buffer.add_transition(change)
    buffer.add_loss(loss)

    first, second = buffer.take(after + 1)

    assert [set(r[0] for r in rows(b)) for b in (first, second)] == [{before}, {after}]  # noqa: C401  # reads as written
    assert (first.transitions, second.transitions) == ((change,), ())
    assert (first.losses, second.losses) == ((), (loss,))
    assert (first.observed_to_us, second.observed_to_us) == (0, after + 1)
    for batch in (first, second):
        batch.numbered(uuid4(), 1, SESSION).validate()


def test_transition_without_rows_makes_a_batch() -> None:
    """A resumed agent's transition is handed over although nothing was polled."""
    buffer = Buffer()
    change = Transition(agent="a", due=NOON, old="paused", new="unknown")
    buffer.add_transition(change)

    (batch,) = buffer.take(5)

    assert (len(batch), batch.transitions, batch.observed_to_us) == (0, (change,), 5)


def test_intern_tables_start_afresh_when_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents whose series keep changing fill the tables up to a bound, and nothing is mixed up when they are emptied."""
    monkeypatch.setattr(buffer_module, "MAX_INTERNED", 10)
    buffer = Buffer()
    for turn in range(30):
        keys = tuple(MetricKey(name=f"m{turn}_{i}") for i in range(3))
        buffer.add("a", NOON_US + turn, 0, 0, 0, 0, f"reason {turn}", keys, [1.0, 2.0, 3.0])

        (batch,) = buffer.take(0)

        assert rows(batch)[0] == (NOON_US + turn, "a", 0, f"reason {turn}")
        assert [r[2] for r in rows(batch)[1:]] == [k.name for k in keys]
    assert len(buffer._metric_keys) <= 13


def test_unequal_metrics_and_values_are_a_bug() -> None:
    """A caller that pairs metrics and values wrongly is stopped before a value gets another metric's name."""
    with pytest.raises(AssertionError, match="BUG: 2 metrics with 1 values"):
        Buffer().add("a", NOON_US, 0, 0, 0, 0, "", KEYS[:2], [1.0])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(-2 * DAY_US, 2 * DAY_US),
            st.sampled_from(["", "x", "y"]),
            st.lists(st.sampled_from(KEYS), unique=True),
            st.booleans(),
        )
    )
)
def test_every_row_comes_out_once(polls: list[tuple[str, int, str, list[MetricKey], bool]]) -> None:
    """Whatever is added, in whatever order, each row is in exactly one valid batch of its day."""
    buffer = Buffer()
    expected: list[tuple[object, ...]] = []
    found: list[tuple[object, ...]] = []
    for agent, offset, reason, keys, flush in polls:
        due = NOON_US + offset
        buffer.add(agent, due, 0, 1.0, 1.0, 200, reason, keys, [float(i) for i in range(len(keys))])
        expected.append((due, agent, 0, reason))
        expected += [(due, agent, key.name, float(i)) for i, key in enumerate(keys)]
        if flush:
            found += [row for batch in buffer.take(0) for row in rows(batch)]
    for batch in buffer.take(0):
        numbered = batch.numbered(uuid4(), 1, SESSION)
        numbered.validate()
        assert len(decode(encode(numbered))) == len(numbered)
        assert len({int(ts) // DAY_US for ts in np.concatenate([batch.checks.ts_us, batch.agent_samples.ts_us])}) == 1
        found += rows(batch)
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_noon_is_noon() -> None:
    """The fixture's moment is half a day from both of its midnights, which the property test relies on."""
    assert NOON_US % DAY_US == DAY_US // 2 == timedelta(hours=12) // timedelta(microseconds=1)
