"""
Turns to write: first come, first served.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from storage.lite.turns import Turns
from tests.daemon.conditions import eventually

PATIENCE_S = 30.0


@contextmanager
def waiting(turns: Turns, names: str, order: list[str]) -> Iterator[None]:
    """Let threads called *names* come one after the other, and note in *order* whose turn it was."""

    def work(name: str) -> None:
        assert turns.take(name, PATIENCE_S)
        order.append(name)
        turns.give(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for place, thread in enumerate(threads, 1):
        thread.start()
        eventually(lambda place=place: len(turns._waiting) == place, "the thread to stand in line")  # type: ignore[misc]
    yield
    for thread in threads:
        thread.join(PATIENCE_S)


def test_first_come_first_served() -> None:
    """Each has its turn in the order in which they came, and whoever comes then finds it free."""
    turns, order = Turns(), list[str]()
    assert turns.take("first", 0)
    with waiting(turns, "abcdef", order):
        turns.give("first")

    assert order == list("abcdef")
    assert turns.take("last", 0)


def test_turn_that_does_not_come_in_time_is_given_up() -> None:
    """Whoever goes away stands in nobody's way."""
    turns, order = Turns(), list[str]()
    assert turns.take("first", 0)
    assert not turns.take("hasty", 0.01)
    with waiting(turns, "a", order):
        turns.give("first")

    assert order == ["a"]


def test_only_the_holder_ends_a_turn() -> None:
    """Whose turn it is may take it again, and nobody else ends it."""
    turns = Turns()
    assert turns.take("first", 0)
    assert turns.take("first", 0)
    turns.give("other")
    assert not turns.take("other", 0)
    turns.give("first")

    assert turns.take("other", 0)
