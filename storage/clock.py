"""
What time it is for everybody who uses a database, without asking it each time.

Leases are compared with moments that other machines wrote: all of them have to go by one clock, the server's. It is
read now and then; between two readings the monotonic clock of this process goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from storage.forks import Lock

#: Tells the time, aware UTC.
Clock = Callable[[], datetime]

#: Crystals that are 50 ppm apart drift by 3 ms in a minute; leases last for seconds.
REMEASURE_S = 60.0
#: Readings of which the quickest counts: the answer was given somewhere between question and receipt, and the first
#: one may have had to connect.
READINGS = 3
#: What a clock may seem to go back by because two measurements differ: then it stands still for as long. Whoever sets a
#: server's clock back does so by more, and is followed.
JITTER = timedelta(seconds=1)


def boot_us() -> int:
    """Return microseconds since boot, suspend included where the system has such a clock (Linux has)."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)) // 1000


def boot_s() -> float:
    """Return the same in seconds."""
    return boot_us() / 1e6


class DatabaseClock:
    """
    The clock of a database, as a function of no arguments. Safe to be used by several threads at once.

    Two readings in a row never go back, unless the server's clock was set back.
    """

    def __init__(self, now: Clock, *, monotonic: Callable[[], float] = boot_s) -> None:
        """
        Args:
            now: Reads the clock, ``Store.now``; a round trip.
            monotonic: Seconds of a clock that nobody sets.
        """
        self._now = now
        self._monotonic = monotonic
        #: Guards what follows.
        self._lock = Lock()
        #: What the server's clock said when the monotonic one stood at 0; ``None`` before it was read.
        self._zero: datetime | None = None
        self._measured_s = 0.0
        self._last = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> datetime:
        """
        Return the time.

        Raises:
            TransientStorageError: It was time to read the server's clock, and the database could not be reached.
        """
        with self._lock:
            zero = self._zero
            if zero is None or self._monotonic() - self._measured_s >= REMEASURE_S:
                zero = self._zero = self._measure()
                self._measured_s = self._monotonic()
            found = zero + timedelta(seconds=self._monotonic())
            if not timedelta(0) < self._last - found <= JITTER:
                self._last = found
            return self._last

    def _measure(self) -> datetime:
        readings: list[tuple[float, datetime]] = []
        for _ in range(READINGS):
            asked_s = self._monotonic()
            said = self._now()
            answered_s = self._monotonic()
            readings.append((answered_s - asked_s, said - timedelta(seconds=(asked_s + answered_s) / 2)))
        return min(readings)[1]
