"""
A program, run to its end or to its deadline: nothing of it stays behind, and nothing of ours goes in.

The event loops' own subprocesses are not used. asyncio starts a thread per child to wait for it, and waits for pipes
that a grandchild may hold open for ever; uvloop lets three descriptors more than the standard ones through. Here a child
is ``subprocess.Popen`` (closes everything, starts a session), its end is a descriptor of the kernel (``pidfd``), and its
output is a pipe of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_READ_BYTES = 64 * 1024
#: How long a killed program may take to be gone; the kernel needs no time unless it hangs in a device.
_REAP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a program ended."""

    #: Exit code, negative for a signal; ``None`` when it was killed here.
    code: int | None
    #: Standard output, never more than the limit and a buffer's worth.
    output: bytes
    #: It was killed because it wrote too much.
    exceeded: bool


async def run(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: str | None, limit_bytes: int, deadline: float
) -> Finished:
    """
    Run *argv* and return how it ended; at the deadline, or past the limit, it is killed with its process group.

    Args:
        limit_bytes: Of standard output; standard error is discarded.
        deadline: By the clock of the event loop.

    Raises:
        OSError: It could not be started.
    """
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=subprocess.DEVNULL,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        output = _Output(loop, read_end, limit_bytes)
        ended = _watch(loop, process)
        code = None
        try:
            timeout_s = max(0.0, deadline - loop.time())
            await asyncio.wait([ended, output.over], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not output.exceeded:
                code = process.poll()
        finally:
            if process.poll() is None:
                # Not reaped yet, so neither its number nor its group's can have gone to somebody else. A program with
                # another user's rights (sudo) cannot be killed and is left to end by itself.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                # A shield, lest a second cancellation leave a zombie.
                await asyncio.shield(asyncio.wait([ended], timeout=_REAP_S))
                process.poll()
            ended.cancel()
            output.close()
        return Finished(code=code, output=bytes(output.data), exceeded=output.exceeded)
    finally:
        os.close(read_end)


def _watch(loop: asyncio.AbstractEventLoop, process: subprocess.Popen[bytes]) -> asyncio.Future[None]:
    """Return what is done when *process* has ended; it is then still to be reaped by ``poll``."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        # Not Linux, or a kernel before 5.3: a thread has to wait.
        return asyncio.ensure_future(asyncio.to_thread(_wait, process))
    ended: asyncio.Future[None] = loop.create_future()

    def release(_: asyncio.Future[None]) -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)

    loop.add_reader(descriptor, lambda: None if ended.done() else ended.set_result(None))
    ended.add_done_callback(release)
    return ended


def _wait(process: subprocess.Popen[bytes]) -> None:
    process.wait()


class _Output:
    """Reads a pipe as it fills, up to a limit."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read_end: int, limit_bytes: int) -> None:
        self.data = bytearray()
        #: There was more than the limit; the future is done as soon as that is known.
        self.exceeded = False
        self.over: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._read_end = read_end
        self._limit_bytes = limit_bytes
        self._open = True
        os.set_blocking(read_end, False)
        loop.add_reader(read_end, self._read)

    def _read(self) -> bool:
        """Take what is there; tell whether there may be more at once."""
        try:
            part = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return False
        self.data += part
        if part and len(self.data) <= self._limit_bytes:
            return True
        self._stop()
        if part:
            self.exceeded = True
            if not self.over.done():
                self.over.set_result(None)
        return False

    def _stop(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._read_end)

    def close(self) -> None:
        """Take what the program had written before it ended, and stop."""
        while self._open and self._read():
            pass
        self._stop()
        self.over.cancel()
