"""
The timeline: time that does not jump with the wall clock, and says when it was anchored anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from collector.timeline import Timeline, wall_us
from storage.clock import boot_us


@dataclass
class Clocks:
    """A wall clock and a boot clock that tests move."""

    wall: int = 1_700_000_000_000_000
    boot: int = 5_000_000

    def advance(self, us: int) -> None:
        """Let time go by on both."""
        self.wall += us
        self.boot += us


def make() -> tuple[Clocks, Timeline]:
    """Return clocks, and a timeline that reads them."""
    clocks = Clocks()
    return clocks, Timeline(lambda: clocks.wall, lambda: clocks.boot)


def test_time_starts_at_the_wall_clock_and_goes_with_the_boot_clock() -> None:
    """Without steps the line is the wall clock."""
    clocks, line = make()
    clocks.advance(123_456)

    assert line.now_us() == clocks.wall
    assert line.check() is None


@pytest.mark.parametrize("drift_us", [-1_000_000, -1, 1, 1_000_000])
def test_small_difference_stays(drift_us: int) -> None:
    """A difference of up to a second is left alone; the line says how far the wall clock is ahead."""
    clocks, line = make()
    before = line.now_us()
    clocks.wall += drift_us

    assert line.check() is None
    assert (line.now_us(), line.ahead_us()) == (before, drift_us)


@pytest.mark.parametrize("step_us", [-3_600_000_000, -1_000_001, 1_000_001, 86_400_000_000])
def test_step_anchors_anew_once(step_us: int) -> None:
    """A larger difference is reported once, and the line follows the wall clock from there."""
    clocks, line = make()
    before = line.now_us()
    clocks.wall += step_us

    step = line.check()

    assert step is not None
    assert (step.from_us, step.to_us, step.delta_s) == (before, before + step_us, step_us / 1e6)
    assert line.now_us() == clocks.wall
    assert line.check() is None


def test_real_clocks_ascend() -> None:
    """The clocks of this machine count microseconds, the wall clock from 1970."""
    first = boot_us()
    assert wall_us() > 1_700_000_000_000_000
    assert boot_us() >= first > 0
