"""The probe ``process`` against processes that the tests start."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from collector.config import Limits
from collector.probes import Probe, Reading, build_probe
from collector.threads import OneAtATime
from storage.errors import SettingsError
from storage.model import AgentSpec, Kind, Outcome


def probe_of(endpoint: str, **options: object) -> Probe:
    return build_probe(
        AgentSpec(name="a", probe="process", endpoint=endpoint, options=options), credentials={}, limits=Limits()
    )


def poll(probe: Probe, deadline_s: float = 10.0) -> Reading:
    return asyncio.run(probe.poll(deadline_s))


def found(reading: Reading) -> dict[str, float]:
    return dict(zip((key.name for key in reading.metrics), reading.values, strict=True))


@contextmanager
def processes(n: int = 1, work: str = "") -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start *n* processes with one random word in their command lines; they end with their standard input."""
    word = f"fp-{uuid.uuid4().hex}"
    code = f"import sys; {work or 'pass'}; sys.stdout.write('ready'); sys.stdout.flush(); sys.stdin.read()"
    started = [
        subprocess.Popen([sys.executable, "-c", code, word], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(n)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.read(5) == b"ready"
        yield word, started
    finally:
        for process in started:
            process.communicate()


def test_process_by_command_line_with_metrics() -> None:
    """Processes that match are counted and what they use is summed up; CPU time is a counter."""
    with processes(2, "sum(range(3_000_000))") as (word, started):
        probe = probe_of(f"{word}$", match="cmdline", min_count=2)
        first, second = poll(probe), poll(probe)
        resident = sum(psutil.Process(process.pid).memory_info().rss for process in started)

    values = found(second)
    assert (first.outcome, first.reason) == (Outcome.HEALTHY, "")
    assert values["process_count"] == 2
    assert values["process_threads"] >= 2
    assert values["process_resident_memory_bytes"] == pytest.approx(resident, rel=0.5)
    assert values["process_open_fds"] >= 6
    assert 0 <= values["process_uptime_seconds"] < 300
    assert [key.name for key in second.metrics if key.kind is Kind.COUNTER] == ["process_cpu_seconds_total"]
    assert second.metrics is first.metrics
    assert first.latency_ms > 0


def test_process_cpu_counts_increases_and_never_falls() -> None:
    """A process that ends takes nothing away, one that starts between polls brings all of its time."""
    probe: Probe
    with processes() as (word, _):
        probe = probe_of("sum|sys", match="cmdline", user=psutil.Process().username())
        probe = probe_of(f"{word}|late-{word}", match="cmdline")
        before = found(poll(probe))["process_cpu_seconds_total"]
        code = "import sys; sum(range(20_000_000)); sys.stdout.write('ready'); sys.stdout.flush(); sys.stdin.read()"
        late = subprocess.Popen(
            [sys.executable, "-c", code, f"late-{word}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert late.stdout is not None
        assert late.stdout.read(5) == b"ready"
        used = psutil.Process(late.pid).cpu_times()
        during = found(poll(probe))["process_cpu_seconds_total"]
        late.communicate()
        after = found(poll(probe))["process_cpu_seconds_total"]

    assert before == 0
    assert during >= used.user + used.system > 0
    assert after >= during


def test_process_too_few_and_too_many() -> None:
    """Counts outside the bounds are unhealthy, and the reason does not hold the count of the day."""
    with processes(2) as (word, _):
        few = poll(probe_of(word, match="cmdline", min_count=3))
        many = poll(probe_of(word, match="cmdline", max_count=1))
    gone = poll(probe_of(word, match="cmdline"))

    assert (few.outcome, few.reason) == (Outcome.UNHEALTHY, "fewer than 3 processes")
    assert (many.outcome, many.reason) == (Outcome.UNHEALTHY, "more than 1 processes")
    assert (gone.outcome, gone.reason) == (Outcome.UNHEALTHY, "not running")
    assert found(gone) == {"process_count": 0, "process_cpu_seconds_total": 0}


def test_process_by_name() -> None:
    """An exact name finds a process of that name, and no longer name."""
    name = psutil.Process().name()

    assert poll(probe_of(name)).outcome is Outcome.HEALTHY
    assert poll(probe_of(f"{name}-{uuid.uuid4().hex[:6]}")).reason == "not running"


def test_process_by_pidfile(tmp_path: Path) -> None:
    """A pidfile is read at each poll; missing, stale and senseless ones are told apart."""
    path = tmp_path / "pid"
    probe = probe_of(str(path), match="pidfile")
    readings = {"missing": poll(probe)}
    path.write_text(f"{os.getpid()}\n")
    readings["good"] = poll(probe)
    with processes() as (_, started):
        path.write_text(str(started[0].pid))
    readings["stale"] = poll(probe)
    path.write_text("nonsense")
    readings["senseless"] = poll(probe)
    path.write_text("9" * 30)
    readings["huge"] = poll(probe)

    assert {name: (reading.outcome, reading.reason) for name, reading in readings.items()} == {
        "missing": (Outcome.UNHEALTHY, "pidfile missing"),
        "good": (Outcome.HEALTHY, ""),
        "stale": (Outcome.UNHEALTHY, "not running"),
        "senseless": (Outcome.ERROR, "pidfile holds no process id"),
        "huge": (Outcome.UNHEALTHY, "not running"),
    }


@pytest.mark.parametrize(
    ("endpoint", "options", "fragment"),
    [
        ("", {}, "has no endpoint"),
        ("(", {"match": "cmdline"}, "no regular expression"),
        ("x", {"match": "pid"}, "expected one of name, cmdline, pidfile"),
        ("x", {"min_count": 3, "max_count": 2}, "at least min_count"),
        ("x", {"min_count": True}, "a whole number"),
        ("x", {"mincount": 1}, 'did you mean "min_count"'),
    ],
)
def test_process_bad_settings(endpoint: str, options: dict[str, object], fragment: str) -> None:
    """Each wrong setting is refused in words that name it."""
    with pytest.raises(SettingsError, match=fragment):
        probe_of(endpoint, **options)


def test_one_at_a_time_never_runs_two() -> None:
    """Work that outlives its deadline is a timeout, and the next waits for it instead of taking a second thread."""
    release, started = threading.Event(), []

    def block() -> int:
        started.append(1)
        release.wait(30)
        return len(started)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        thread: OneAtATime[int] = OneAtATime()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await thread.run(block, loop.time() + 0.05)
        assert (started, thread.busy) == ([1], True)
        release.set()
        assert await thread.run(block, loop.time() + 30) == 2
        assert not thread.busy

    asyncio.run(main())
    assert math.isclose(len(started), 2)


def test_process_pidfile_that_is_a_pipe(tmp_path: Path) -> None:
    """A pipe in the place of a pidfile is an error at once, not a thread that waits for a writer."""
    path = tmp_path / "pid"
    os.mkfifo(path)
    reading = poll(probe_of(str(path), match="pidfile"))

    assert (reading.outcome, reading.reason) == (Outcome.ERROR, "pidfile cannot be read")


def test_one_at_a_time_threads_do_not_keep_the_process() -> None:
    """Work that hangs for good does not keep the collector from ending."""
    code = (
        "import asyncio, threading\n"
        "from collector.threads import OneAtATime\n"
        "async def main():\n"
        "    try:\n"
        "        await OneAtATime().run(threading.Event().wait, asyncio.get_running_loop().time() + 0.05)\n"
        "    except TimeoutError:\n"
        "        print('ended')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout == "ended\n"


def test_one_at_a_time_hands_on_what_work_raises() -> None:
    """An exception of the work is the caller's."""

    def fail() -> int:
        raise KeyError("x")

    async def main() -> None:
        with pytest.raises(KeyError):
            await OneAtATime[int]().run(fail, asyncio.get_running_loop().time() + 10)

    asyncio.run(main())


def test_one_at_a_time_without_a_thread_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, the poll ends like one that took too long."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TimeoutError, match="no thread"):
            await OneAtATime[int]().run(lambda: 1, asyncio.get_running_loop().time() + 10)

    asyncio.run(main())
