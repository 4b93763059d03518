"""
Probe ``process``: are the processes of an agent there, and what do they use.

=============  ========================================================================================================
option         meaning
=============  ========================================================================================================
``match``      ``name`` (default: the endpoint is the exact name), ``cmdline`` (a regular expression that occurs in the
               command line), ``pidfile`` (the endpoint is the path of a file with a process id)
``user``       count only the processes of this user
``min_count``  fewer are ``unhealthy``; default 1
``max_count``  more are ``unhealthy``; default without limit
=============  ========================================================================================================

Metrics are over all matching processes: ``process_count``, ``process_cpu_seconds_total`` (counter),
``process_resident_memory_bytes``, ``process_threads``, ``process_open_fds``, ``process_uptime_seconds`` (of the oldest).
What the collector's user may not see of a process (open files, mostly) is left out of the answer, not counted as zero.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from collector.probes.options import Options
from collector.probes.reading import Reading, timed_out
from collector.threads import OneAtATime
from storage.errors import SettingsError
from storage.model import AgentSpec, Kind, MetricKey, Outcome

OPTIONS = ("match", "user", "min_count", "max_count")

_COUNT = MetricKey(name="process_count", unit="1", description="Processes that match.")
_CPU = MetricKey(
    name="process_cpu_seconds_total", kind=Kind.COUNTER, unit="s", description="User and system CPU time, seconds."
)
_MEMORY = MetricKey(name="process_resident_memory_bytes", unit="By", description="Resident memory.")
_THREADS = MetricKey(name="process_threads", unit="1", description="Threads.")
_FDS = MetricKey(name="process_open_fds", unit="1", description="Open file descriptors.")
_UPTIME = MetricKey(name="process_uptime_seconds", unit="s", description="Age of the oldest process.")

#: A process id has at most seven digits; a pidfile may have a line end and trailing fields.
_PIDFILE_BYTES = 64


class ProcessProbe:
    """
    Looks for the processes of one agent.

    Raises:
        SettingsError: Endpoint or options are wrong.
    """

    def __init__(self, spec: AgentSpec) -> None:
        options = Options(spec, OPTIONS)
        if not spec.endpoint:
            raise SettingsError(f'agent "{spec.name}" has no endpoint: expected a process name, pattern or pidfile')
        self._timeout_s = spec.timeout_s
        self._min = options.count("min_count", 1)
        self._max = options.count("max_count", 2**40)
        if self._max < self._min:
            raise options.error("max_count", f"at least min_count, which is {self._min}")
        self._user = options.text("user")
        match options.choice("match", ("name", "cmdline", "pidfile"), "name"):
            case "cmdline":
                try:
                    pattern = re.compile(spec.endpoint)
                except re.error as exc:
                    raise SettingsError(f'agent "{spec.name}" endpoint is no regular expression: {exc}') from exc
                self._find: Callable[[], Iterator[psutil.Process]] = lambda: _by_cmdline(pattern)
            case "pidfile":
                path = Path(spec.endpoint)
                self._find = lambda: _by_pidfile(path)
            case _:
                name = spec.endpoint
                self._find = lambda: _by_name(name)
        # CPU seconds by process as last seen; the counter is the sum of their increases, so that a process that goes
        # does not make it fall, which would look like a restart of all.
        self._cpu: dict[tuple[int, float], float] = {}
        self._cpu_total = 0.0
        #: All processes of the machine at that time, matching or not.
        self._pids: frozenset[int] | None = None
        self._thread: OneAtATime[Reading] = OneAtATime()
        self._metrics: list[MetricKey] = []

    async def poll(self, deadline_s: float) -> Reading:
        """Look through the processes of this machine, in a thread."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        try:
            reading = await self._thread.run(self.look, loop.time() + deadline_s)
        except TimeoutError:
            return timed_out(self._timeout_s)
        reading.latency_ms = (time.perf_counter() - began) * 1000.0
        return reading

    def look(self) -> Reading:
        """Look through the processes of this machine; blocks."""
        now = time.time()
        pids = frozenset(psutil.pids())
        count = threads = 0
        memory = fds = 0
        fds_known = True
        oldest = now
        cpu: dict[tuple[int, float], float] = {}
        try:
            for process in self._find():
                try:
                    with process.oneshot():
                        if self._user and process.username() != self._user:
                            continue
                        if process.status() == psutil.STATUS_ZOMBIE:
                            continue
                        created = process.create_time()
                        times = process.cpu_times()
                        resident = process.memory_info().rss
                        n_threads = process.num_threads()
                        try:
                            fds += process.num_fds()
                        except psutil.AccessDenied:
                            fds_known = False
                except psutil.NoSuchProcess:
                    # It ended while it was looked at: not there.
                    continue
                count += 1
                threads += n_threads
                memory += resident
                oldest = min(oldest, created)
                cpu[process.pid, created] = times.user + times.system
        except psutil.AccessDenied:
            return Reading(outcome=Outcome.ERROR, reason="processes cannot be looked at: access denied")
        except (OSError, ValueError) as exc:
            # Only a pidfile can do this.
            if isinstance(exc, FileNotFoundError):
                return Reading(outcome=Outcome.UNHEALTHY, reason="pidfile missing", at_s=now)
            reason = "pidfile holds no process id" if isinstance(exc, ValueError) else "pidfile cannot be read"
            return Reading(outcome=Outcome.ERROR, reason=reason)
        self._count_cpu(cpu, pids)
        found: list[tuple[MetricKey, float]] = [(_COUNT, float(count)), (_CPU, self._cpu_total)]
        if count:
            found += [(_MEMORY, float(memory)), (_THREADS, float(threads))]
            if fds_known:
                found.append((_FDS, float(fds)))
            found.append((_UPTIME, max(0.0, now - oldest)))
        metrics = [key for key, _ in found]
        if metrics != self._metrics:
            self._metrics = metrics
        outcome, reason = Outcome.HEALTHY, ""
        if count < self._min:
            reason = "not running" if count == 0 else f"fewer than {self._min} processes"
            outcome = Outcome.UNHEALTHY
        elif count > self._max:
            outcome, reason = Outcome.UNHEALTHY, f"more than {self._max} processes"
        return Reading(
            outcome=outcome, reason=reason, metrics=self._metrics, values=[value for _, value in found], at_s=now
        )

    def _count_cpu(self, cpu: dict[tuple[int, float], float], pids: frozenset[int]) -> None:
        for key, used in cpu.items():
            before = self._cpu.get(key)
            if before is not None:
                self._cpu_total += max(0.0, used - before)
            elif self._pids is not None and key[0] not in self._pids:
                # It started after the look before, so all of its time is new. Start times cannot tell: they are worked
                # out of the boot time, which the kernel gives in whole seconds.
                self._cpu_total += used
        self._pids = pids
        self._cpu = cpu

    def close(self) -> None:
        """Do nothing: no file stays open."""

    async def aclose(self) -> None:
        """Do nothing: no file stays open."""


def _by_name(name: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.name() == name:
                yield process
        except psutil.Error:
            # Gone, or of another user on a system that hides even names.
            continue


def _by_cmdline(pattern: re.Pattern[str]) -> Iterator[psutil.Process]:
    own = os.getpid()
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        # The collector's own command line may well hold the pattern.
        if line and process.pid != own and pattern.search(line):
            yield process


def _open_regular(path: str, flags: int) -> int:
    """Open a file that is one: a pipe in its place would never let go of the thread."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


def _by_pidfile(path: Path) -> Iterator[psutil.Process]:
    with open(path, "rb", opener=_open_regular) as file:
        fields = file.read(_PIDFILE_BYTES).split()
    if not fields or not fields[0].isdigit():
        raise ValueError("no process id")
    try:
        yield psutil.Process(int(fields[0]))
    except (psutil.NoSuchProcess, OverflowError):
        return
