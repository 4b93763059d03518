"""
Where in its interval an agent is polled.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.slots import MAX_SLOTS, slot_count, slot_offset_s


@pytest.mark.parametrize(
    ("interval_s", "count"), [(0.05, 1), (1.0, 10), (1.25, 12), (15.0, 150), (100.0, 1000), (86_400.0, MAX_SLOTS)]
)
def test_slot_count(interval_s: float, count: int) -> None:
    """There are ten slots a second, at least one and at most a thousand."""
    assert slot_count(interval_s) == count


@given(name=st.text(), interval_s=st.floats(min_value=1.0, max_value=86_400.0))
def test_offset_is_one_of_the_slots(name: str, interval_s: float) -> None:
    """Every name, whatever is in it, has one of the slots of its interval."""
    offset_s = slot_offset_s(name, interval_s)
    slot = offset_s * slot_count(interval_s) / interval_s

    assert 0 <= offset_s < interval_s
    assert slot == pytest.approx(round(slot), abs=1e-6)
    assert offset_s == slot_offset_s(name, interval_s)


def test_offset_never_changes() -> None:
    """These are in databases: another hash would move every agent, and with it the history of what was due when."""
    assert [slot_offset_s(name, 15.0) for name in ("a", "agent-1", "é")] == [14.3, 5.6, 9.3]


def test_agents_are_spread() -> None:
    """Ten thousand agents fill the 150 slots of 15 s evenly: none is empty, none has twice its share."""
    found = Counter(slot_offset_s(f"agent-{number}", 15.0) for number in range(10_000))

    assert len(found) == 150
    assert max(found.values()) < 2 * 10_000 / 150
