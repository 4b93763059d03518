"""The probe ``host`` on the machine that runs the tests."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path

import psutil
import pytest

from collector.config import Limits
from collector.counters import Counters
from collector.probes import build_probe
from collector.probes.host import HostProbe
from storage.errors import SettingsError
from storage.model import AgentSpec, Kind, Outcome


def tick() -> None:
    """Use the CPU until the kernel, which counts in hundredths of a second, has noticed."""
    before = sum(psutil.cpu_times())
    while sum(psutil.cpu_times()) < before + 0.05:
        sum(range(10_000))


DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "host-metrics.md"


def test_host_tells_what_psutil_tells() -> None:
    """Memory, CPUs, boot time and processes are those of this machine, and every value is finite."""
    reading = HostProbe(Limits()).collect()
    found = {(key.name, key.labels): value for key, value in zip(reading.metrics, reading.values, strict=True)}

    assert reading.outcome is Outcome.HEALTHY
    assert found["memory_total_bytes", ()] == psutil.virtual_memory().total
    assert found["cpu_count", ()] == psutil.cpu_count()
    assert found["boot_time_seconds", ()] == reading.process_start == pytest.approx(psutil.boot_time(), abs=2)
    assert found["processes", ()] > 0
    assert 0 <= found["memory_used_percent", ()] <= 100
    assert 0 <= found["swap_used_percent", ()] <= 100
    assert {"load1", "load5", "load15"} <= {name for name, _ in found}
    assert all(map(math.isfinite, reading.values))
    assert len(found) == len(reading.metrics)
    assert reading.rejected == {}


def test_host_cpu_percent_needs_two_collections() -> None:
    """The share of busy time is known from the second collection on, and counters become increases."""
    probe, counters = HostProbe(Limits()), Counters()
    first = probe.collect()
    counters.deltas(first)
    tick()
    second = probe.collect()
    metrics, values = counters.deltas(second)
    increases = {
        key.labels: value for key, value in zip(metrics, values, strict=True) if key.name == "cpu_seconds_total"
    }

    assert "cpu_percent" not in {key.name for key in first.metrics}
    percent = {key.name: value for key, value in zip(second.metrics, second.values, strict=True)}["cpu_percent"]
    assert 0 <= percent <= 100
    assert all(value >= 0 for value in increases.values())
    assert sum(increases.values()) > 0


def test_host_real_filesystems_once() -> None:
    """Each real file system appears once, with its share in use; memory and images do not."""
    reading = HostProbe(Limits()).collect()
    shares = [dict(key.labels)["mountpoint"] for key in reading.metrics if key.name == "filesystem_used_percent"]
    kinds = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}

    assert len(shares) == len(set(shares))
    assert not {kinds[mountpoint] for mountpoint in shares} & {"tmpfs", "proc", "sysfs", "squashfs", "devtmpfs"}


def test_host_poll_and_layout() -> None:
    """Polled as an agent it has a latency, and shares its list of metrics once that is stable."""

    async def main() -> None:
        probe = build_probe(AgentSpec(name="a", probe="host"), credentials={}, limits=Limits())
        await probe.poll(20)
        tick()
        readings = [await probe.poll(20) for _ in range(2)]
        assert all(reading.latency_ms > 0 for reading in readings)
        assert readings[0].metrics == readings[1].metrics

    asyncio.run(main())


def test_host_has_no_options() -> None:
    """An option for the host probe is refused."""
    with pytest.raises(SettingsError, match="expected one of none"):
        build_probe(AgentSpec(name="a", probe="host", options={"x": 1}), credentials={}, limits=Limits())


def test_every_host_metric_is_documented() -> None:
    """docs/host-metrics.md has a row for each metric, with its kind and unit, and no row for what is never collected."""
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*\| [^|]*) \|", DOCUMENT.read_text(), re.MULTILINE))
    probe = HostProbe(Limits())
    probe.collect()
    for key in probe.collect().metrics:
        kind = "counter" if key.kind is Kind.COUNTER else "gauge"
        assert rows[key.name] == f"{kind} | {key.unit}"

    source = Path(__file__).parent.parent.parent / "collector" / "probes" / "host.py"
    collected = set(re.findall(r'_(?:gauge|counter)\(\s*"(\w+)"', source.read_text())) | {"load1", "load5", "load15"}
    assert set(rows) == collected
