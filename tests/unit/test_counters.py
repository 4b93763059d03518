"""Counters to increases: first sights, resets, restarts, and baselines that survive the collector."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.counters import Counters
from collector.probes.reading import Reading
from storage.errors import BatchError
from storage.model import MAX_ABS_VALUE, Kind, MetricKey, Outcome

A = MetricKey(name="a_total", kind=Kind.COUNTER)
B = MetricKey(name="b_total", kind=Kind.COUNTER, labels=(("x", "ü\n"),), unit="s", description="text")
G = MetricKey(name="g")


def reading(
    values: Mapping[MetricKey, float],
    *,
    at_s: float = math.nan,
    created: Mapping[int, float] | None = None,
    process_start: float | None = None,
) -> Reading:
    return Reading(
        outcome=Outcome.HEALTHY,
        metrics=list(values),
        values=list(values.values()),
        created=created or {},
        process_start=process_start,
        at_s=at_s,
    )


def deltas(counters: Counters, *arguments: Mapping[MetricKey, float], **options: object) -> dict[MetricKey, float]:
    metrics, values = counters.deltas(reading(*arguments, **options))  # type: ignore[arg-type]  # passed through
    return dict(zip(metrics, values, strict=True))


def test_first_sight_is_a_baseline_and_then_differences() -> None:
    """Gauges pass from the first poll on, counters from the second, as differences."""
    counters = Counters()

    assert deltas(counters, {G: 5, A: 100}) == {G: 5}
    assert deltas(counters, {G: 4, A: 130}) == {G: 4, A: 30}
    assert deltas(counters, {G: 4, A: 130}) == {G: 4, A: 0}


def test_smaller_value_is_a_reset() -> None:
    """After a reset the value is the increase."""
    counters = Counters()
    deltas(counters, {A: 100})

    assert deltas(counters, {A: 7}) == {A: 7}
    assert deltas(counters, {A: 9}) == {A: 2}


def test_series_that_was_away_keeps_its_baseline() -> None:
    """A counter missing from an answer goes on from where it was; an empty answer changes nothing."""
    counters = Counters()
    deltas(counters, {A: 10, B: 1}, at_s=100)

    assert deltas(counters, {B: 2}, at_s=110) == {B: 1}
    assert deltas(counters, {}) == {}
    assert deltas(counters, {B: 2, A: 15}, at_s=120) == {B: 0, A: 5}


def test_unchanged_layout_returns_the_list_of_the_reading() -> None:
    """Where every metric has a sample, the list is that of the reading, and the reading's values are untouched."""
    counters = Counters()
    shared = [A, G]
    first = Reading(outcome=Outcome.HEALTHY, metrics=shared, values=[1.0, 2.0])
    second = Reading(outcome=Outcome.HEALTHY, metrics=shared, values=[4.0, 2.0])
    counters.deltas(first)
    metrics, values = counters.deltas(second)

    assert metrics is shared
    assert values == [3.0, 2.0]
    assert second.values == [4.0, 2.0]


def test_created_after_the_previous_poll_makes_a_first_sight_an_increase() -> None:
    """A new series that says it started after the previous poll brings its value; one that is older does not."""
    counters = Counters()
    assert deltas(counters, {A: 5}, at_s=100, created={0: 99}) == {}

    assert deltas(counters, {A: 6, B: 3}, at_s=110, created={0: 99, 1: 105}) == {A: 1, B: 3}
    older = MetricKey(name="c_total", kind=Kind.COUNTER)
    assert deltas(counters, {older: 8}, at_s=120, created={0: 108}) == {}


def test_created_that_changes_is_a_reset_though_the_value_grew() -> None:
    """A changed start time resets also where the value alone would not show it."""
    counters = Counters()
    deltas(counters, {A: 5, B: 5}, at_s=100, created={0: 50, 1: 50})

    assert deltas(counters, {A: 50, B: 6}, at_s=110, created={0: 105, 1: 50}) == {A: 50, B: 1}
    assert deltas(counters, {A: 51, B: 7}, at_s=120, created={0: 105, 1: 50}) == {A: 1, B: 1}


def test_process_restart_resets_all_and_proves_first_sights() -> None:
    """A process that started after the previous poll resets every counter, and new ones are increases."""
    counters = Counters()
    deltas(counters, {A: 5}, at_s=1000, process_start=500)

    assert deltas(counters, {A: 8, B: 2}, at_s=1010, process_start=1005) == {A: 8, B: 2}
    assert deltas(counters, {A: 9, B: 2}, at_s=1020, process_start=1005) == {A: 1, B: 0}


@pytest.mark.parametrize("start", [501.0, 560.0, 499.0, 100.0])
def test_process_start_that_only_jitters_or_jumps_is_no_restart(start: float) -> None:
    """A start time moved by a clock that was set, though the process is older than the previous poll, resets nothing."""
    counters = Counters()
    deltas(counters, {A: 1e9}, at_s=1000, process_start=500)

    assert deltas(counters, {A: 1e9 + 1}, at_s=1010, process_start=start) == {A: 1}


def test_process_start_first_seen_after_the_previous_poll_is_a_restart() -> None:
    """Where the start time was not known before, it counts if it is later than the previous poll."""
    counters = Counters()
    deltas(counters, {A: 5}, at_s=1000)

    assert deltas(counters, {A: 8}, at_s=1010, process_start=1005) == {A: 8}


@pytest.mark.parametrize(
    ("value", "reason"), [(-1.0, "negative_counter"), (MAX_ABS_VALUE * 10, "out_of_range"), (math.inf, "not_finite")]
)
def test_refused_values_are_counted_and_lose_nothing(value: float, reason: str) -> None:
    """What cannot be an increase is counted; the baseline stays, so that the next difference has it all."""
    counters = Counters()
    deltas(counters, {A: 10, G: 1})
    bad = reading({A: value, G: 1})
    metrics, values = counters.deltas(bad)

    assert (list(metrics), values) == ([G], [1])
    assert bad.rejected == {reason: 1}
    assert deltas(counters, {A: 15, G: 1}) == {A: 5, G: 1}


def test_keys_version_grows_with_the_keys_alone() -> None:
    """The keys need storing again only when there are new ones."""
    counters = Counters()
    deltas(counters, {A: 1, G: 1})
    version = counters.keys_version
    deltas(counters, {A: 2})

    assert counters.keys_version == version
    deltas(counters, {A: 2, B: 1})
    assert counters.keys_version == version + 1


def test_too_many_keys_forget_those_that_are_gone() -> None:
    """An agent that renames its counters for ever does not grow its baselines for ever."""
    counters = Counters(max_keys=3)
    for number in range(20):
        deltas(counters, {A: number, MetricKey(name=f"m{number}", kind=Kind.COUNTER): 1})

    assert len(counters) <= 3
    assert deltas(counters, {A: 25}) == {A: 6}


def test_export_survives_in_two_parts() -> None:
    """Keys stored once and values stored with each flush restore the baselines, start times included."""
    counters = Counters()
    deltas(counters, {A: 5, B: 7}, at_s=100, created={1: 50}, process_start=10)
    keys = counters.export_keys()
    deltas(counters, {A: 6, B: 9}, at_s=110, created={1: 50}, process_start=10)
    restored = Counters.load_parts(keys, counters.export_values())

    assert restored.keys_version == counters.keys_version
    assert deltas(restored, {A: 8, B: 30}, at_s=120, created={1: 115}, process_start=10) == {A: 2, B: 30}
    assert deltas(Counters.load(counters.export()), {A: 7}) == {A: 1}


def test_load_refuses_what_does_not_fit() -> None:
    """Values of other keys, cut pieces and other formats are errors, never wrong baselines."""
    counters = Counters()
    deltas(counters, {A: 1})
    old_values, old_keys = counters.export_values(), counters.export_keys()
    deltas(counters, {A: 1, B: 1})
    pairs = [
        (counters.export_keys(), old_values),
        (old_keys, counters.export_values()),
        (old_keys, old_values[:-1]),
        (old_keys, old_values[:-8]),
        (old_keys, b""),
        (b"", old_values),
        (b"[]", old_values),
        (old_keys, b"\x02" + old_values[1:]),
    ]

    for keys, values in pairs:
        with pytest.raises(BatchError, match="counter baselines"):
            Counters.load_parts(keys, values)


@given(
    st.lists(
        st.tuples(
            # Increase before a restart, whether one happens, increase after it, whether the poll comes through, whether
            # the collector is started anew.
            st.integers(0, 50), st.booleans(), st.integers(0, 50), st.booleans(), st.booleans(),
        ),
        max_size=30,
    ),
    st.sampled_from(["created", "process_start"]),
)  # fmt: skip
def test_sum_of_increases_is_what_happened_and_was_seen(
    steps: list[tuple[int, bool, int, bool, bool]], witness: str
) -> None:
    """
    Over any history, the increases add up to what the agent counted between first and last poll, less what it counted
    between the last poll before a restart and that restart, which nobody saw.
    """
    counters = Counters()
    now, start, value = 1_000_000.0, 900_000.0, 1000
    pending = observed = 0
    seen = False
    total = 0.0
    for before, restart, after, polled, reborn in steps:
        value += before
        pending += before
        if restart:
            now += 5
            start, value, pending = now, 0, 0
        now += 5
        value += after
        pending += after
        if reborn:
            counters = Counters.load(counters.export())
        if not polled:
            continue
        now += 5
        options = {"created": {0: start}} if witness == "created" else {"process_start": start}
        total += deltas(counters, {A: value}, at_s=now, **options).get(A, 0.0)
        if seen:
            observed += pending
        seen = True
        pending = 0

    assert total == observed
