"""
The clock of a database between two looks at it.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from storage.clock import JITTER, READINGS, REMEASURE_S, DatabaseClock
from storage.errors import TransientStorageError

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


class Wall:
    """A server's clock and a monotonic one, which a test sets."""

    def __init__(self) -> None:
        self.now = NOW
        self.monotonic_s = 1_000.0
        #: Seconds that each answer takes, half of it on the way back.
        self.round_trip_s = [0.02]
        #: Readings of the server's clock.
        self.asked = 0
        self.is_away = False

    def read(self) -> datetime:
        """Answer, and let the time pass that it takes."""
        if self.is_away:
            raise TransientStorageError("database is away")
        takes_s = self.round_trip_s[self.asked % len(self.round_trip_s)]
        self.asked += 1
        self.pass_s(takes_s / 2)
        said = self.now
        self.pass_s(takes_s / 2)
        return said

    def pass_s(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.now += timedelta(seconds=seconds)
        self.monotonic_s += seconds

    def clock(self) -> DatabaseClock:
        """Return a clock that goes by this one."""
        return DatabaseClock(self.read, monotonic=lambda: self.monotonic_s)


def test_server_is_asked_once_a_minute() -> None:
    """Between two measurements the server is not asked, and the time is right all the while."""
    wall = Wall()
    clock = wall.clock()
    clock()
    wall.pass_s(REMEASURE_S - 0.1)

    assert abs(clock() - wall.now) < MILLISECOND
    assert wall.asked == READINGS
    wall.pass_s(0.2)
    assert abs(clock() - wall.now) < MILLISECOND
    assert wall.asked == 2 * READINGS


def test_quickest_answer_counts() -> None:
    """An answer that was long on its way, one way only, does not spoil the measurement."""
    wall = Wall()
    wall.round_trip_s = [3.0, 0.001, 0.4]
    lopsided = wall.read

    def read() -> datetime:
        is_slow = wall.round_trip_s[wall.asked % 3] > 0.1
        said = lopsided()
        # All of the way back: the middle is not when it was said.
        wall.pass_s(1.0 if is_slow else 0.0)
        return said

    clock = DatabaseClock(read, monotonic=lambda: wall.monotonic_s)

    assert abs(clock() - wall.now) < MILLISECOND


def test_two_measurements_that_differ_never_go_back() -> None:
    """A new measurement that is a little behind makes the time stand still, and not go back."""
    wall = Wall()
    clock = wall.clock()
    clock()
    wall.pass_s(REMEASURE_S - 0.2)
    before = clock()
    wall.now -= JITTER / 2
    wall.pass_s(0.2)
    asked = wall.asked
    stands = clock()
    wall.pass_s(1)

    assert wall.asked > asked
    assert stands == before
    assert abs(clock() - wall.now) < MILLISECOND


@pytest.mark.parametrize("by", [timedelta(hours=-1), timedelta(hours=1)])
def test_server_that_was_set_is_followed(by: timedelta) -> None:
    """A server's clock that somebody sets is followed with the next measurement, back as well as forward."""
    wall = Wall()
    clock = wall.clock()
    clock()
    wall.now += by
    wall.pass_s(REMEASURE_S)

    assert abs(clock() - wall.now) < MILLISECOND


def test_database_that_is_away_is_asked_again() -> None:
    """When the server cannot be asked, the error comes out, and the next call asks again."""
    wall = Wall()
    wall.is_away = True
    clock = wall.clock()
    with pytest.raises(TransientStorageError):
        clock()
    wall.is_away = False

    assert abs(clock() - wall.now) < MILLISECOND


def test_several_threads_see_one_time() -> None:
    """Threads that ask at the same moment measure once, and none sees the time go back."""
    wall = Wall()
    clock = wall.clock()
    start = threading.Barrier(4)
    found: list[list[datetime]] = []

    def ask() -> None:
        start.wait()
        found.append([clock() for _ in range(500)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wall.asked == READINGS
    assert all(readings == sorted(readings) for readings in found)
