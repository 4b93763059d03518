"""
Work that blocks, in a thread, under a deadline.

A thread cannot be stopped. What is still running at its deadline is left alone, and the next call waits for it first:
an agent can occupy one thread, never more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OneAtATime(Generic[T]):
    """Runs functions in a thread of the loop's pool, one at a time."""

    def __init__(self) -> None:
        self._running: asyncio.Future[T] | None = None

    @property
    def busy(self) -> bool:
        """Tell whether work that outlived its deadline is still running."""
        return self._running is not None and not self._running.done()

    async def run(self, work: Callable[[], T], deadline: float) -> T:
        """
        Return what *work* returns, or raise what it raises.

        Args:
            deadline: By the clock of the event loop.

        Raises:
            TimeoutError: It, or the work before it, was still running at the deadline.
        """
        loop = asyncio.get_running_loop()
        before = self._running
        if before is not None and not before.done() and before.get_loop() is loop:
            await asyncio.wait([before], timeout=max(0.0, deadline - loop.time()))
            if not before.done():
                raise TimeoutError("the work before it is still running")
        running = self._running = loop.run_in_executor(None, work)
        # What it raises after its deadline concerns nobody, and must not be logged as never retrieved.
        running.add_done_callback(_retrieve)
        await asyncio.wait([running], timeout=max(0.0, deadline - loop.time()))
        if not running.done():
            raise TimeoutError("still running")
        return running.result()


def _retrieve(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()
