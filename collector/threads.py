"""
Work that blocks, in a thread, under a deadline.

A thread cannot be stopped. What is still running at its deadline is left alone, and the next call waits for it first:
an agent can occupy one thread, never more. Each piece of work has a thread of its own, started for it: from a pool, a
few agents whose work hangs would take the threads of all others. The threads are daemons, so that none of them keeps
the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OneAtATime(Generic[T]):
    """Runs functions in threads, one at a time."""

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
            TimeoutError: It, or the work before it, was still running at the deadline, or there was no thread for it.
        """
        loop = asyncio.get_running_loop()
        before = self._running
        if before is not None and not before.done() and before.get_loop() is loop:
            await asyncio.wait([before], timeout=max(0.0, deadline - loop.time()))
            if not before.done():
                raise TimeoutError("the work before it is still running")
        running = self._running = in_thread(loop, work)
        # What it raises after its deadline concerns nobody, and must not be logged as never retrieved.
        running.add_done_callback(_retrieve)
        await asyncio.wait([running], timeout=max(0.0, deadline - loop.time()))
        if not running.done():
            raise TimeoutError("still running")
        return running.result()


def in_thread(loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> asyncio.Future[T]:
    """
    Start *work* in a daemon thread of its own; what it returns or raises is the future's.

    Raises:
        TimeoutError: The system has no thread left.
    """
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - it belongs to whoever waits, whatever it is
            error = exc
            tell(lambda: future.set_exception(error))
        else:
            tell(lambda: future.set_result(result))

    def tell(settle: Callable[[], None]) -> None:
        # The loop may be closed by now, and nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if future.done() else settle())

    try:
        threading.Thread(target=run, name="fleetpulse-probe", daemon=True).start()
    except RuntimeError as exc:
        raise TimeoutError("no thread can be started") from exc
    return future


def _retrieve(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()
