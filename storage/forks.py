"""
Locks of objects that may be on both sides of a fork.

A child begins with one thread and a copy of everything else: a lock that another thread of its parent held at that
moment would never be free in it.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet


class Lock:
    """A lock that is free in a child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Be free; to be called in a child, before anybody else can use it."""
        self._lock = threading.Lock()


#: Those of this process.
_LOCKS: WeakSet[Lock] = WeakSet()


def _renew() -> None:
    for lock in list(_LOCKS):
        lock.renew()


os.register_at_fork(after_in_child=_renew)
