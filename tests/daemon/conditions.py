"""
Waiting for what another process or thread will do, with a deadline and never for a fixed time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Pause between looks at a condition that cannot wake anybody up.
LOOK_S = 0.05


def eventually(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """
    Return the first true answer of *condition*.

    Raises:
        AssertionError: There is none in time; the message says *what* was waited for, and the last answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s; found {answer!r}")
        time.sleep(LOOK_S)
