"""
Whose turn it is to write, among the threads of one process.

SQLite has whoever waits look again at intervals, and whoever happens to look at the right moment goes first: of six
threads that write over and over one may wait for ten seconds. Here they stand in line.
"""

from __future__ import annotations

import threading
from collections import deque

from storage.forks import Lock


class Turns:
    """One turn at a time, first come, first served."""

    def __init__(self) -> None:
        #: Guards what follows.
        self._lock = Lock()
        #: Whose turn it is.
        self._holder: object | None = None
        #: Who is next, each with what tells them.
        self._waiting: deque[tuple[object, threading.Event]] = deque()

    def take(self, holder: object, wait_s: float) -> bool:
        """Wait up to *wait_s* for *holder*'s turn; tell whether it has come. Whoever has it already has it."""
        with self._lock:
            if self._holder is holder:
                return True
            if self._holder is None:
                self._holder = holder
                return True
            place = (holder, threading.Event())
            self._waiting.append(place)
        try:
            place[1].wait(wait_s)
        finally:
            with self._lock:
                has_come = self._holder is holder
                if not has_come and place in self._waiting:
                    self._waiting.remove(place)
        return has_come

    def give(self, holder: object) -> None:
        """End *holder*'s turn, if it is; the next one's begins."""
        with self._lock:
            if self._holder is holder:
                self._holder = None
                if self._waiting:
                    self._holder, told = self._waiting.popleft()
                    told.set()

    def forget(self) -> None:
        """Let it be nobody's; in a child, whose parent's threads are not there to end theirs."""
        with self._lock:
            self._holder = None
            self._waiting.clear()
