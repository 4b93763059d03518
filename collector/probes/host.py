"""
Probe ``host``: the machine that the collector runs on, through psutil.

Names follow the habits of Prometheus (base units, spelled out, ``_total`` for counters); docs/host-metrics.md lists
them. Percentages are there besides, because reports and people want them ready.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator

import psutil

from collector.config import Limits
from collector.probes.options import Options
from collector.probes.reading import Reading, timed_out
from collector.series import Series, refusal
from collector.threads import OneAtATime
from storage.model import AgentSpec, Kind, MetricKey, Outcome

OPTIONS = ()

#: One sample: name, labels, kind, unit, description, value.
_Found = tuple[str, tuple[tuple[str, str], ...], Kind, str, str, float]

#: CPU modes that are part of others on Linux: guests are in user, so that the sum over modes is the time that passed.
_INCLUDED_MODES = frozenset({"guest", "guest_nice"})
#: Modes in which the CPU did nothing.
_IDLE_MODES = frozenset({"idle", "iowait"})
#: Partitions and loop devices: their traffic is that of the disk or file beneath.
_PART_OF_A_DISK = re.compile(r"(?:loop|ram|zram|fd|sr)\d+|(?:h|s|v|xv)d[a-z]+\d+|(?:nvme\d+n\d+|mmcblk\d+)p\d+")
#: Ends of container networks: a new name for each container, for ever.
_PASSING_INTERFACE = re.compile(r"(?:veth|cali|lxc|tap|vnet).*")
#: File systems that are images and always full.
_IMAGES = frozenset({"squashfs", "iso9660", "erofs", "cramfs"})


class HostProbe:
    """
    Collects the metrics of this machine.

    Args:
        spec: The agent when a machine is polled as one; none for the collector's own host metrics.

    Raises:
        SettingsError: The agent has options; there are none.
    """

    def __init__(self, limits: Limits, spec: AgentSpec | None = None) -> None:
        if spec is not None:
            Options(spec, OPTIONS)
        self._timeout_s = spec.timeout_s if spec is not None else AgentSpec(name="").timeout_s
        self._series = Series(limits)
        self._thread: OneAtATime[Reading] = OneAtATime()
        #: Busy and total CPU seconds of the collection before.
        self._cpu: tuple[float, float] | None = None
        self._cpu_percent: float | None = None

    async def poll(self, deadline_s: float) -> Reading:
        """Collect in a thread: a hanging disk hangs whoever asks for its size."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        try:
            reading = await self._thread.run(self.collect, loop.time() + deadline_s)
        except TimeoutError:
            return timed_out(self._timeout_s)
        reading.latency_ms = (time.perf_counter() - began) * 1000.0
        return reading

    def collect(self) -> Reading:
        """
        Return what this machine tells now; blocks.

        ``cpu_percent`` is the mean since the collection before, hence missing in the first. What a platform does not
        tell is missing.
        """
        metrics: list[MetricKey] = []
        values: list[float] = []
        rejected: dict[str, int] = {}
        for name, labels, kind, unit, text, value in self._everything():
            key = self._series.intern(name, labels, kind, unit, text)
            reason = key if isinstance(key, str) else refusal(value)
            if reason or isinstance(key, str):
                rejected[reason] = rejected.get(reason, 0) + 1
                continue
            metrics.append(key)
            values.append(value)
        return Reading(
            outcome=Outcome.HEALTHY,
            metrics=self._series.shared(metrics),
            values=values,
            process_start=psutil.boot_time(),
            at_s=time.time(),
            rejected=rejected,
        )

    def _everything(self) -> Iterator[_Found]:
        yield from self._processor()
        yield from _load()
        yield from _memory()
        yield from _filesystems()
        yield from _disks()
        yield from _networks()
        yield from _temperatures()
        yield _gauge("processes", "1", "Processes that exist.", len(psutil.pids()))
        yield _gauge("boot_time_seconds", "s", "When the machine was started, Unix time.", psutil.boot_time())

    def _processor(self) -> Iterator[_Found]:
        times = psutil.cpu_times()._asdict()
        busy = total = 0.0
        for mode, seconds in times.items():
            if mode in _INCLUDED_MODES:
                continue
            yield _counter("cpu_seconds_total", "s", "CPU time by mode, all CPUs.", seconds, mode=mode)
            total += seconds
            busy += 0.0 if mode in _IDLE_MODES else seconds
        before = self._cpu
        # The kernel counts in hundredths of a second: collections closer together share their figure.
        if before is None or total > before[1]:
            self._cpu = (busy, total)
        if before is not None and total > before[1]:
            self._cpu_percent = min(100.0, max(0.0, 100.0 * (busy - before[0]) / (total - before[1])))
        if self._cpu_percent is not None:
            yield _gauge("cpu_percent", "%", "CPU time used since the collection before.", self._cpu_percent)
        count = psutil.cpu_count()
        if count is not None:
            yield _gauge("cpu_count", "1", "Logical CPUs.", count)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    async def aclose(self) -> None:
        """Do nothing: no file stays open."""


def _gauge(name: str, unit: str, text: str, value: float, **labels: str) -> _Found:
    return name, tuple(labels.items()), Kind.GAUGE, unit, text, float(value)


def _counter(name: str, unit: str, text: str, value: float, **labels: str) -> _Found:
    return name, tuple(labels.items()), Kind.COUNTER, unit, text, float(value)


def _load() -> Iterator[_Found]:
    for minutes, value in zip((1, 5, 15), psutil.getloadavg(), strict=True):
        yield _gauge(f"load{minutes}", "1", f"Load average over {minutes} min.", value)


def _memory() -> Iterator[_Found]:
    memory = psutil.virtual_memory()
    yield _gauge("memory_total_bytes", "By", "Memory.", memory.total)
    yield _gauge("memory_available_bytes", "By", "Memory that programs could have without swapping.", memory.available)
    yield _gauge("memory_used_bytes", "By", "Memory that is not available.", memory.total - memory.available)
    if memory.total:
        used = 100.0 * (memory.total - memory.available) / memory.total
        yield _gauge("memory_used_percent", "%", "Share of the memory that is not available.", used)
    swap = psutil.swap_memory()
    yield _gauge("swap_total_bytes", "By", "Swap space.", swap.total)
    yield _gauge("swap_used_bytes", "By", "Swap space in use.", swap.used)
    percent = 100.0 * swap.used / swap.total if swap.total else 0.0
    yield _gauge("swap_used_percent", "%", "Share of the swap space in use; 0 without any.", percent)


def _filesystems() -> Iterator[_Found]:
    devices: set[str] = set()
    # Real ones only: no memory, no network, which could hang. The shortest path stands for bind mounts of a device.
    for part in sorted(psutil.disk_partitions(all=False), key=lambda part: (len(part.mountpoint), part.mountpoint)):
        if part.fstype in _IMAGES or part.device in devices or not os.path.isdir(part.mountpoint):
            continue
        try:
            usage = psutil.disk_usage(part.mountpoint)
        except OSError:
            # Unmounted in between, or not ours to look at: not there for us.
            continue
        devices.add(part.device)
        mountpoint = part.mountpoint
        yield _gauge("filesystem_size_bytes", "By", "Size.", usage.total, mountpoint=mountpoint)
        yield _gauge("filesystem_used_bytes", "By", "Used.", usage.used, mountpoint=mountpoint)
        yield _gauge("filesystem_free_bytes", "By", "Free for ordinary users.", usage.free, mountpoint=mountpoint)
        yield _gauge(
            "filesystem_used_percent", "%", "Used, of what users can have.", usage.percent, mountpoint=mountpoint
        )


def _disks() -> Iterator[_Found]:
    # Wrapping and resets are the business of whoever turns counters into increases, not of a cache in psutil.
    for device, io in sorted((psutil.disk_io_counters(perdisk=True, nowrap=False) or {}).items()):
        if _PART_OF_A_DISK.fullmatch(device):
            continue
        yield _counter("disk_read_bytes_total", "By", "Bytes read.", io.read_bytes, device=device)
        yield _counter("disk_written_bytes_total", "By", "Bytes written.", io.write_bytes, device=device)
        yield _counter("disk_reads_completed_total", "1", "Reads.", io.read_count, device=device)
        yield _counter("disk_writes_completed_total", "1", "Writes.", io.write_count, device=device)
        busy_ms = getattr(io, "busy_time", None)
        if busy_ms is not None:
            text = "Time with I/O under way."
            yield _counter("disk_io_time_seconds_total", "s", text, busy_ms / 1000.0, device=device)


def _networks() -> Iterator[_Found]:
    for device, io in sorted(psutil.net_io_counters(pernic=True, nowrap=False).items()):
        if _PASSING_INTERFACE.fullmatch(device):
            continue
        yield _counter("network_receive_bytes_total", "By", "Bytes received.", io.bytes_recv, device=device)
        yield _counter("network_transmit_bytes_total", "By", "Bytes sent.", io.bytes_sent, device=device)
        yield _counter("network_receive_packets_total", "1", "Packets received.", io.packets_recv, device=device)
        yield _counter("network_transmit_packets_total", "1", "Packets sent.", io.packets_sent, device=device)
        yield _counter("network_receive_errors_total", "1", "Receive errors.", io.errin, device=device)
        yield _counter("network_transmit_errors_total", "1", "Transmit errors.", io.errout, device=device)
        yield _counter("network_receive_dropped_total", "1", "Packets dropped on receipt.", io.dropin, device=device)
        yield _counter("network_transmit_dropped_total", "1", "Packets dropped on sending.", io.dropout, device=device)


def _temperatures() -> Iterator[_Found]:
    read = getattr(psutil, "sensors_temperatures", None)
    if read is None:
        return
    for chip, sensors in sorted(read().items()):
        for number, sensor in enumerate(sensors):
            label = sensor.label or str(number)
            yield _gauge("temperature_celsius", "Cel", "Temperature.", sensor.current, chip=chip, sensor=label)
