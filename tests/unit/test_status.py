"""
The rise/fall state machine, by example and against an oracle that looks at the whole history.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.status import StatusMachine
from storage.model import DOWN, UNKNOWN, UP, Outcome, from_us

H, D, U, T, R = Outcome.HEALTHY, Outcome.DEGRADED, Outcome.UNHEALTHY, Outcome.TIMEOUT, Outcome.REFUSED
SKIP, PAUSE = Outcome.SKIPPED, Outcome.PAUSED


def run(outcomes: list[Outcome], *, rise: int = 2, fall: int = 3, status: str = UNKNOWN) -> list[str]:
    """Return the status after each of *outcomes*."""
    machine = StatusMachine("a", rise=rise, fall=fall, status=status)
    seen = []
    for k, outcome in enumerate(outcomes):
        machine.observe(k, outcome)
        seen.append(machine.status)
    return seen


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([H], ["healthy"]),
        ([T], ["timeout"]),
        ([H, U, U, U], ["healthy", "healthy", "healthy", "unhealthy"]),
        ([H, U, T, R], ["healthy", "healthy", "healthy", "refused"]),
        ([H, U, U, H, U, U], ["healthy"] * 6),
        ([H, D, H], ["healthy", "degraded", "healthy"]),
        ([H, U, U, D, U, U], ["healthy", "healthy", "healthy", "degraded", "degraded", "degraded"]),
        ([T, H, H], ["timeout", "timeout", "healthy"]),
        ([T, H, D], ["timeout", "timeout", "degraded"]),
        ([T, H, T, H], ["timeout"] * 4),
        ([T, R], ["timeout", "refused"]),
        ([T, H, R, H], ["timeout", "timeout", "refused", "refused"]),
        ([H, SKIP, U, SKIP, U, SKIP, U], ["healthy"] * 6 + ["unhealthy"]),
        ([SKIP, SKIP], [UNKNOWN, UNKNOWN]),
        ([H, PAUSE, PAUSE, T], ["healthy", "paused", "paused", "timeout"]),
        ([H, U, U, PAUSE, H, U, U], ["healthy"] * 3 + ["paused"] + ["healthy"] * 3),
    ],
)
def test_status_after_each_check(outcomes: list[Outcome], expected: list[str]) -> None:
    """With rise 2 and fall 3 the status follows the table of the module."""
    assert run(outcomes) == expected


def test_transition_tells_agent_due_states_and_reason() -> None:
    """The change carries the due time and the reason of the check that completed it."""
    machine = StatusMachine("a", rise=1, fall=2, status="healthy")
    assert machine.observe(1_000_000, T, "first") is None

    change = machine.observe(2_000_000, T, "second")

    assert change is not None
    assert (change.agent, change.due, change.old, change.new, change.reason) == (
        "a",
        from_us(2_000_000),
        "healthy",
        "timeout",
        "second",
    )


def test_restored_status_makes_no_transition() -> None:
    """A restart that sees what was known before says nothing."""
    machine = StatusMachine("a", rise=1, fall=2, status="timeout")
    assert machine.observe(0, T) is None


def test_answer_of_a_poll_from_before_the_pause_changes_nothing() -> None:
    """The poll that runs when a pause begins answers behind the first paused slot; a clock set back is no such answer."""
    machine = StatusMachine("a", rise=1, fall=2, status="healthy")
    assert machine.observe(2_000_000, Outcome.PAUSED) is not None

    assert machine.observe(1_000_000, Outcome.HEALTHY) is None
    assert machine.status == "paused"
    assert machine.observe(500_000, Outcome.PAUSED) is None
    change = machine.observe(600_000, Outcome.HEALTHY)
    assert change is not None
    assert (change.old, change.new) == ("paused", "healthy")


def test_resume_is_unknown_until_the_next_check() -> None:
    """Only a paused agent can be resumed; it is unknown then."""
    machine = StatusMachine("a", rise=1, fall=2, status="healthy")
    assert machine.resume(1) is None
    machine.observe(2, PAUSE)

    change = machine.resume(3)

    assert change is not None
    assert (change.old, change.new, machine.status) == ("paused", UNKNOWN, UNKNOWN)


def oracle(outcomes: list[Outcome], rise: int, fall: int, status: str) -> str:
    """Work the status out of the history since it last changed, by counting its longest tail."""
    since: list[Outcome] = []
    for outcome in outcomes:
        if outcome is SKIP:
            continue
        since.append(outcome)
        up = status in {o.label for o in UP}
        down = status in {o.label for o in DOWN}
        good = outcome in UP
        tail = 0
        for earlier in reversed(since):
            if (earlier in UP) != good or earlier is PAUSE:
                break
            tail += 1
        needed = fall if up and not good else rise if down and good else 1
        if outcome is PAUSE:
            needed = 0
        if outcome.label != status and tail >= needed:
            status = outcome.label
            since = []
    return status


@given(
    st.lists(st.sampled_from(list(Outcome)), max_size=40),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([UNKNOWN, *(o.label for o in Outcome if o is not SKIP)]),
)
def test_status_equals_the_oracle(outcomes: list[Outcome], rise: int, fall: int, status: str) -> None:
    """After any history the machine says what counting the history says, and its transitions form a chain."""
    machine = StatusMachine("a", rise=rise, fall=fall, status=status)
    at = status
    for k, outcome in enumerate(outcomes):
        change = machine.observe(k, outcome)
        if change is not None:
            assert change.old == at != change.new == outcome.label
            at = change.new
        assert machine.status == at == oracle(outcomes[: k + 1], rise, fall, status)
