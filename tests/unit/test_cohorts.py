"""
The schedule's arithmetic: every slot of the grid is handed out once, whatever runs when.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.cohorts import Cohort, Cohorts, Grid
from storage.model import AgentSpec, to_us
from storage.slots import slot_offset_s
from tests.batches import NOON

NOON_US = to_us(NOON)
S = 1_000_000


@dataclass(frozen=True)
class Polled:
    """The least that the schedule needs."""

    spec: AgentSpec


def agent(name: str = "a", interval_s: float = 10.0) -> Polled:
    """Return something to schedule."""
    return Polled(AgentSpec(name=name, interval_s=interval_s))


def slots(cohort: Cohort[Polled], now_us: int) -> list[int]:
    """Run the cohort; return every slot that it hands out, passed over or polled."""
    found = []
    for due in cohort.run(now_us):
        found += [due.passed_us + k * cohort.grid.interval_us for k in range(due.passed)]
        found.append(due.due_us)
    return found


def test_grid_is_that_of_the_database() -> None:
    """Due times are offset + k x interval from the Unix epoch, with the offset that ``agent_schedules`` records."""
    grid = Grid.of("worker-7", 15.0)

    assert grid.offset_us == round(slot_offset_s("worker-7", 15.0) * 1e6)
    assert (grid.newest(NOON_US) - grid.offset_us) % (15 * S) == 0
    assert grid.newest(NOON_US) <= NOON_US < grid.after(NOON_US) == grid.newest(NOON_US) + 15 * S


def test_first_slot_comes_within_one_interval() -> None:
    """A new agent waits for its own slot, so a fleet's first sweep ends within one interval."""
    cohorts: Cohorts[Polled] = Cohorts()
    cohorts.set([agent(f"a{i}") for i in range(200)], NOON_US)
    first = [cohort.next_us() for cohort in cohorts]

    assert len(first) > 50, "the fleet is spread, not polled at once"
    assert all(NOON_US < due <= NOON_US + 10 * S for due in first)


def test_stall_polls_the_newest_slot_and_passes_the_others_over() -> None:
    """After a stall of three intervals one slot is polled and three are accounted for."""
    cohort: Cohort[Polled] = Cohort(Grid(10 * S, 0))
    cohort.add(agent(), NOON_US)
    assert slots(cohort, NOON_US + 9 * S) == []
    assert slots(cohort, NOON_US + 10 * S) == [NOON_US + 10 * S]

    (due,) = cohort.run(NOON_US + 52 * S)

    assert (due.due_us, due.passed_us, due.passed) == (NOON_US + 50 * S, NOON_US + 20 * S, 3)
    assert slots(cohort, NOON_US + 59 * S) == []


def test_timer_that_fires_a_little_early_still_polls() -> None:
    """A millisecond before its due time a slot counts as due, and it is not handed out again when its time comes."""
    cohort: Cohort[Polled] = Cohort(Grid(10 * S, 0))
    cohort.add(agent(), NOON_US)

    assert slots(cohort, NOON_US + 10 * S - 1000) == [NOON_US + 10 * S]
    assert slots(cohort, NOON_US + 10 * S) == []


def test_agents_come_and_go_while_a_run_is_paused() -> None:
    """A run that yields to the event loop skips who has left meanwhile, and polls nobody who has just come."""
    cohort: Cohort[Polled] = Cohort(Grid(10 * S, 0))
    for name in "abc":
        cohort.add(agent(name), NOON_US)
    run = cohort.run(NOON_US + 10 * S)
    polled = [next(run).agent.spec.name]
    cohort.remove("b")
    cohort.add(agent("d"), NOON_US + 10 * S)
    polled += [due.agent.spec.name for due in run]

    assert polled == ["a", "c"]
    assert slots(cohort, NOON_US + 20 * S) == [NOON_US + 20 * S] * 3


def test_change_of_one_agent_does_not_disturb_another() -> None:
    """Another interval moves an agent to another grid; whoever stays keeps its next slot, even a late one."""
    cohorts: Cohorts[Polled] = Cohorts()
    cohorts.set([agent("a"), agent("b")], NOON_US)
    before = {cohort.grid: cohort.next_us() for cohort in cohorts}
    opened, closed = cohorts.set([agent("a"), agent("b", 20.0), agent("c")], NOON_US + 25 * S)

    assert Grid.of("b", 20.0) in opened
    assert Grid.of("b", 10.0) in closed
    assert cohorts.get(Grid.of("a", 10.0)) is not None
    assert {c.grid: c.next_us() for c in cohorts}[Grid.of("a", 10.0)] == before[Grid.of("a", 10.0)]
    opened, closed = cohorts.set([], NOON_US + 26 * S)
    assert (len(cohorts), cohorts.next_us(), len(closed)) == (0, None, 3)


@pytest.mark.parametrize(("step_s", "jumped"), [(3600, 360), (-3600, 0), (9, 0), (11, 1)])
def test_clock_step(step_s: int, jumped: int) -> None:
    """A clock put forward jumps over slots that are accounted for; one put back goes on at once, not in an hour."""
    cohort: Cohort[Polled] = Cohort(Grid(10 * S, 0))
    cohort.add(agent(), NOON_US)
    now = NOON_US + step_s * S
    found = cohort.reanchor(now, NOON_US)

    assert sum(due.passed for due in found) == jumped
    assert now < cohort.next_us() <= now + 10 * S


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_clock_step_in_the_middle_of_a_run(step_s: int) -> None:
    """A run that the step cuts off begins nothing more; every agent is accounted for and goes on at once."""
    cohort: Cohort[Polled] = Cohort(Grid(10 * S, 0))
    for name in "abc":
        cohort.add(agent(name), NOON_US)
    was = NOON_US + 10 * S
    run = cohort.run(was)
    next(run)
    now = was + step_s * S
    found = {due.agent.spec.name: (due.passed_us, due.passed) for due in cohort.reanchor(now, was)}

    assert list(run) == []
    jumped = max(0, step_s // 10)
    assert found == {
        **({"a": (was + 10 * S, jumped)} if jumped else {}),
        "b": (was, jumped + 1),
        "c": (was, jumped + 1),
    }
    assert slots(cohort, now + 10 * S) == [now + 10 * S] * 3


@given(
    st.lists(st.integers(0, 95 * S), min_size=1, max_size=30), st.sampled_from([1.0, 7.3, 15.0]), st.text(max_size=5)
)
def test_every_slot_is_handed_out_once(steps: list[int], interval_s: float, name: str) -> None:
    """Whenever a cohort runs, polled and passed-over slots together are the grid, without a gap or a repetition."""
    grid = Grid.of(name, interval_s)
    cohort: Cohort[Polled] = Cohort(grid)
    cohort.add(agent(name, interval_s), NOON_US)
    now, found = NOON_US, []
    for step in steps:
        now += step
        found += slots(cohort, now)

    first = grid.after(NOON_US)
    assert found == [first + k * grid.interval_us for k in range(len(found))]
    assert len(found) == max(0, (grid.newest(now + 2000) - first) // grid.interval_us + 1)
