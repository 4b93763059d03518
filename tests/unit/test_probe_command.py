"""The probe ``command``: exit codes, output, deadlines, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import psutil
import pytest
import uvloop

from collector.config import Limits
from collector.probes import Probe, Reading, build_probe
from storage.errors import SettingsError
from storage.model import AgentSpec, Kind, Outcome

Run = Callable[[Coroutine[object, object, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on each of the two event loops."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


def probe_of(endpoint: str = "", *, source: str = "file", limits: Limits | None = None, **options: object) -> Probe:
    spec = AgentSpec(name="a", probe="command", endpoint=endpoint, options=options, source=source)
    return build_probe(spec, credentials={}, limits=limits or Limits())


def poll(run: Run, probe: Probe, deadline_s: float = 20.0) -> Reading:
    readings = []

    async def main() -> None:
        readings.append(await probe.poll(deadline_s))

    run(main())
    return readings[0]


def ended(pid: int) -> bool:
    """Wait until a killed process is gone or a zombie."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
    return False


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@pytest.mark.parametrize(
    ("script", "outcome", "reason"),
    [
        ("exit 0", Outcome.HEALTHY, ""),
        ("exit 1", Outcome.DEGRADED, "exit 1"),
        ("exit 2", Outcome.UNHEALTHY, "exit 2"),
        ("exit 3", Outcome.UNHEALTHY, "exit 3"),
        ("kill -9 $$", Outcome.UNHEALTHY, "killed by signal 9"),
    ],
)
def test_command_exit_codes(run: Run, script: str, outcome: Outcome, reason: str) -> None:
    """Exit codes mean what Nagios has them mean."""
    reading = poll(run, probe_of(argv=shell(script)))

    assert (reading.outcome, reading.reason) == (outcome, reason)
    assert reading.latency_ms > 0


def test_command_is_split_without_a_shell(run: Run, tmp_path: Path) -> None:
    """Quotes group words; what a shell would act upon is an argument like any other."""
    target = tmp_path / "out file"
    code = f"import sys; open({str(target)!r}, 'w').write(repr(sys.argv[1:]))"
    endpoint = f"{sys.executable} -c \"{code}\" 'a b' $HOME ; > x"
    reading = poll(run, probe_of(endpoint))

    assert reading.outcome is Outcome.HEALTHY
    assert target.read_text() == "['a b', '$HOME', ';', '>', 'x']"


def test_command_sees_only_its_own_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of the collector's environment do not reach a program; its table does, and its directory."""
    monkeypatch.setenv("FLEETPULSE_SECRET", "s3cret")
    reading = poll(
        run, probe_of(argv=shell("env > env; pwd >> env; ls -l /proc/self/fd > fds"), env={"A": "b"}, cwd=str(tmp_path))
    )
    text = (tmp_path / "env").read_text()

    assert reading.outcome is Outcome.HEALTHY
    assert "A=b\n" in text
    assert "s3cret" not in text
    assert str(tmp_path) in text
    # Standard input, output and error, the redirection, and the folder that ls has open.
    assert len((tmp_path / "fds").read_text().splitlines()) <= 6


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["/no/such/program"], "command cannot be run: no such file or directory"),
        (["/etc/passwd"], "command cannot be run: permission denied"),
    ],
)
def test_command_that_cannot_be_run(run: Run, argv: list[str], reason: str) -> None:
    """A program that is not there or may not be run is an error."""
    reading = poll(run, probe_of(argv=argv))

    assert (reading.outcome, reading.reason) == (Outcome.ERROR, reason)


def test_command_is_killed_with_its_group_at_the_deadline(run: Run, tmp_path: Path) -> None:
    """At the deadline program and children are killed and reaped: no process and no zombie is left."""
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; trap '' TERM; wait"
    reading = poll(run, probe_of(argv=shell(script)), deadline_s=0.7)

    assert (reading.outcome, reading.reason) == (Outcome.TIMEOUT, "timeout after 10s")
    numbers = [int(line) for line in pids.read_text().split()]
    assert len(numbers) == 2
    # The program is ours to reap; its child is handed to init, which may take its time.
    assert not psutil.pid_exists(numbers[1])
    assert ended(numbers[0])


def test_command_cancelled_poll_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """A poll that is cancelled kills its program before it ends."""
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    numbers = []

    async def main() -> None:
        task = asyncio.create_task(probe_of(argv=shell(f"echo $$ > {fifo}; exec sleep 600")).poll(600))
        numbers.append(int(await asyncio.to_thread(fifo.read_text)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())

    assert not psutil.pid_exists(numbers[0])


def test_command_grandchild_that_keeps_the_output_open_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    """A program that leaves a daemon behind ends when it ends."""
    pid = tmp_path / "pid"
    reading = poll(
        run, probe_of(argv=shell(f"echo 'ok | a=1'; setsid sleep 600 & echo $! > {pid}"), output="perfdata"), 60
    )
    psutil.Process(int(pid.read_text())).kill()

    assert (reading.outcome, reading.values) == (Outcome.HEALTHY, [1.0])


def test_command_endless_output_is_cut(run: Run) -> None:
    """Output over the limit ends the program and is an error."""
    reading = poll(run, probe_of(argv=["/usr/bin/yes"], limits=Limits(body_bytes=100_000)))

    assert (reading.outcome, reading.reason) == (Outcome.ERROR, "output over the limit of 100000 bytes")
    assert reading.rejected == {"body_limit": 1}


def test_command_large_output_is_read_in_full(run: Run) -> None:
    """More than a pipe holds arrives whole."""
    script = "import sys; sys.stdout.write(''.join(f'm{{i=\"{i}\"}} {i}\\n' for i in range(4000)))"
    reading = poll(run, probe_of(argv=[sys.executable, "-c", "print('# TYPE m gauge');" + script], output="prometheus"))

    assert reading.values == [float(i) for i in range(4000)]


def test_command_perfdata(run: Run) -> None:
    """Performance data of Nagios plug-ins becomes gauges and counters; U is no value, nonsense is counted."""
    text = "DISK OK | 'free space'=12.5GB;10;5 /=99%;;;0;100 time=0.02s hits=7c none=U bad time=3s nan=x"
    reading = poll(run, probe_of(argv=shell(f'echo "{text}"; echo "more text | last=1"'), output="perfdata"))

    assert [(key.name, key.unit, key.kind, value) for key, value in zip(reading.metrics, reading.values, strict=True)] == [
        ("free space", "GBy", Kind.GAUGE, 12.5), ("/", "%", Kind.GAUGE, 99.0), ("time", "s", Kind.GAUGE, 0.02),
        ("hits", "", Kind.COUNTER, 7.0), ("last", "", Kind.GAUGE, 1.0),
    ]  # fmt: skip
    assert reading.rejected == {"invalid_line": 2, "duplicate_series": 1}


def test_command_invalid_exposition_is_unhealthy(run: Run) -> None:
    """A program that promises an exposition and prints something else is not healthy."""
    reading = poll(run, probe_of(argv=shell("echo oops"), output="prometheus"))

    assert (reading.outcome, reading.reason) == (Outcome.UNHEALTHY, "invalid exposition: no valid line")


def test_command_polls_leave_no_descriptors(run: Run) -> None:
    """Polls that end in every way leave as many open files as there were."""
    probe, missing = probe_of(argv=shell("exit 0")), probe_of(argv=["/no/such"])
    slow = probe_of(argv=["/bin/sleep", "600"])
    counts = []

    async def main() -> None:
        for _ in range(3):
            for one, deadline_s in ((probe, 20.0), (missing, 20.0), (slow, 0.05)):
                await one.poll(deadline_s)
            counts.append(len(os.listdir("/proc/self/fd")))

    run(main())

    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize(
    ("endpoint", "options", "fragment"),
    [
        ("", {}, "has no command"),
        ("a 'b", {}, "no command line"),
        ("a", {"argv": ["b"]}, "no value beside an endpoint"),
        ("", {"argv": "b"}, "a list of texts"),
        ("a", {"env": {"A=B": "c"}}, "names without ="),
        ("a", {"output": "json"}, "expected one of none, perfdata"),
        ("a", {"shell": True}, "unknown option"),
    ],
)
def test_command_bad_settings(endpoint: str, options: dict[str, object], fragment: str) -> None:
    """Each wrong setting is refused in words that name it."""
    with pytest.raises(SettingsError, match=fragment):
        build_probe(
            AgentSpec(name="a", probe="command", endpoint=endpoint, options=options), credentials={}, limits=Limits()
        )


def test_command_from_the_database_is_refused() -> None:
    """Whoever can write to the agents table cannot run programs by it."""
    with pytest.raises(SettingsError, match="comes from the database"):
        probe_of("/bin/true", source="api")
