"""Life and death of a fleet's process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.simulator.fleet import FleetProcess
from collector.simulator.log import expected_counts, read_log
from collector.simulator.manifest import Manifest
from collector.simulator.server import FleetError
from storage.model import Outcome

#: Longest wait for something that takes milliseconds on an idle machine.
DEADLINE_S = 20.0
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), str(ROOT)) if part),
}
COMMAND = [sys.executable, "-m", "collector.simulator"]


def eventually(look: Callable[[], bool]) -> None:
    """Wait until *look* says yes; fail at the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not look():
        assert time.monotonic() < deadline_s, "did not happen before the deadline"
        time.sleep(0.01)


def listens(endpoint: str) -> bool:
    """Tell whether anybody accepts at *endpoint*."""
    url = urlsplit(endpoint)
    try:
        socket.create_connection((url.hostname or "", url.port or 0), timeout=DEADLINE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def ask(endpoint: str, times: int) -> None:
    """Poll *endpoint* on one connection."""
    url = urlsplit(endpoint)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=DEADLINE_S) as sock:
        for _ in range(times):
            sock.sendall(f"GET {url.path} HTTP/1.1\r\n\r\n".encode())
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")


def events(log: Path) -> list[str]:
    """Return the types of a log's lines."""
    return [json.loads(line)["type"] for line in log.read_text().splitlines()] if log.exists() else []


def test_stop_completes_the_log_and_closes_the_ports(tmp_path: Path) -> None:
    """After ``stop`` every answer is in the log, the port that agents share and the others are closed."""
    log = tmp_path / "log"
    with FleetProcess(agents=3, faults="3:refused@1h", log=log) as fleet:
        endpoints = [agent.endpoint for agent in fleet.manifest.agents]
        before = fleet.running
        assert all(listens(endpoint) for endpoint in endpoints)
        for endpoint in endpoints:
            ask(endpoint, 50)

    assert (before, fleet.running) == (True, False)
    assert not any(listens(endpoint) for endpoint in endpoints)
    assert expected_counts(log) == {(f"demo-000{n}", Outcome.HEALTHY): 50 for n in (1, 2, 3)}
    assert events(log) == ["start", *["request"] * 150, "stop"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_command_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """The command serves until a signal, writes what is left, and exits 0 with nothing to complain about."""
    log, ports = tmp_path / "log", tmp_path / "ports.json"
    process = subprocess.Popen(
        [*COMMAND, "--agents=4", "--faults=3:huge(500MB);2:hang", f"--log={log}", f"--ports-file={ports}"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        manifest = Manifest.from_json(line)
        huge = urlsplit(manifest.agents[2].endpoint)
        ask(manifest.agents[3].endpoint, 5)
        with socket.create_connection((huge.hostname or "", huge.port or 0), timeout=DEADLINE_S) as sock:
            sock.sendall(f"GET {huge.path} HTTP/1.1\r\n\r\n".encode())
            assert sock.recv(1000)
            process.send_signal(number)
            rest, complaints = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, rest, complaints) == (0, b"", b"")
    assert manifest.pid == process.pid
    assert ports.read_bytes() == line
    assert expected_counts(log) == {("demo-0004", Outcome.HEALTHY): 5, ("demo-0003", Outcome.ERROR): 1}
    assert [r.done_us for r in read_log(log) if r.agent == "demo-0003"] == [None]
    assert events(log)[-1] == "stop"


def test_fleet_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """A parent that dies without a word takes the fleet with it, and the log is complete all the same."""
    log = tmp_path / "log"
    program = (
        "import sys, time; from pathlib import Path; from collector.simulator.fleet import FleetProcess\n"
        f"fleet = FleetProcess(agents=2, log=Path({str(log)!r})); fleet.start()\n"
        "print(fleet.manifest.to_json(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        endpoint = Manifest.from_json(parent.stdout.readline()).agents[0].endpoint
        ask(endpoint, 7)
        parent.kill()
        parent.wait(DEADLINE_S)

        eventually(lambda: events(log)[-1:] == ["stop"])
    eventually(lambda: not listens(endpoint))
    assert expected_counts(log) == {("demo-0001", Outcome.HEALTHY): 7}


def test_interrupt_of_the_parents_group_does_not_reach_the_fleet() -> None:
    """An interrupt typed on a terminal goes to the caller's process group; the fleet is in a session of its own."""
    with FleetProcess(agents=1) as fleet:
        assert os.getsid(fleet.manifest.pid) == fleet.manifest.pid != os.getsid(0)


def test_port_base_gives_the_ports_that_follow() -> None:
    """The fleet's port is the one asked for; agents with a port of their own have the next ones."""
    for _ in range(20):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            base = sock.getsockname()[1]
        # Somebody else may be given one of the three in between: then another try is due.
        with contextlib.suppress(FleetError), FleetProcess(agents=4, faults="2,4:refused", port_base=base) as fleet:
            ports = [urlsplit(agent.endpoint).port for agent in fleet.manifest.agents]
            break

    assert ports == [base, base + 1, base, base + 2]


def test_taken_port_is_named() -> None:
    """A port in use is an error that names it and the remedy."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(FleetError) as caught:
            FleetProcess(agents=1, port_base=port).start()

    assert f"exit code 1: cannot listen on 127.0.0.1 port {port}: Address already in use: choose another" in str(
        caught.value
    )


def test_bad_script_is_told_by_start() -> None:
    """What the child says of its arguments is in the error of the parent."""
    with pytest.raises(FleetError, match=r'exit code 2: fault "3:hang" names agent 3: expected 1 to 2'):
        FleetProcess(agents=2, faults="3:hang").start()


def test_fleet_that_does_not_listen_in_time_is_ended() -> None:
    """The wait for the manifest has an end, and leaves no process behind."""
    fleet = FleetProcess(agents=1, start_timeout_s=0.001)
    with pytest.raises(FleetError, match=r"did not listen within 0\.001 s"):
        fleet.start()

    assert not fleet.running


def test_stop_tells_of_a_fleet_that_ended_by_itself() -> None:
    """A fleet that was killed is not passed over, and does not hide what went wrong in the body."""
    fleet = FleetProcess(agents=1)
    fleet.start()
    os.kill(fleet.manifest.pid, signal.SIGKILL)
    eventually(lambda: not fleet.running)
    with pytest.raises(FleetError, match="failed with exit code -9"):
        fleet.stop()
    fleet.stop()

    def fail() -> None:
        with FleetProcess(agents=1) as other:
            os.kill(other.manifest.pid, signal.SIGKILL)
            eventually(lambda: not other.running)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside") as caught:
        fail()
    assert "failed with exit code -9" in caught.value.__notes__[0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_log_that_cannot_be_written_ends_the_fleet() -> None:
    """A fleet that nobody could judge by does not go on."""
    found = subprocess.run(
        [*COMMAND, "--agents=1", "--log=/dev/full"],
        env=ENVIRONMENT,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert found.returncode == 1
    assert b"error: fleet log /dev/full cannot be written" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agents=0"], "error: number of agents is out of range: found 0, expected 1 to 50000"),
        (["--faults=1:boom"], 'error: fault "1:boom" is of an unknown kind: found "boom"'),
        (["--port-base=65535", "--faults=1:refused"], "error: port base is out of range: found 65535"),
        (["--die-with-parent"], "error: standard input is not a pipe, which --die-with-parent needs"),
        (["--agents=many"], "argument --agents: invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_exit_2(arguments: list[str], message: str) -> None:
    """Arguments that cannot be are told in one line on standard error, and nothing is printed."""
    found = subprocess.run(
        [*COMMAND, *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr


def limited(limit: str, *arguments: str) -> list[str]:
    """Return a command that runs a fleet under another limit of open files."""
    return ["/bin/sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *COMMAND, *arguments]


def test_too_few_open_files_are_told() -> None:
    """A fleet that could not hold its connections says so before it serves anything."""
    found = subprocess.run(
        limited("-n 100", "--agents=1000"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert found.returncode == 1
    assert "error: fleet needs 1128 open files, found a limit of 100: raise it with ulimit -n" in found.stderr


def test_large_fleet_serves_every_agent_on_a_kept_connection(tmp_path: Path) -> None:
    """There is a connection for each agent, even where the limit of open files has to be raised for them first."""
    log = tmp_path / "log"
    command = limited("-S -n 64", "--agents=500", f"--log={log}")
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as process, contextlib.ExitStack() as stack:
        stack.callback(process.terminate)
        assert process.stdout is not None
        manifest = Manifest.from_json(process.stdout.readline())
        base = urlsplit(manifest.base_url)
        socks = [
            stack.enter_context(socket.create_connection((base.hostname or "", base.port or 0), timeout=DEADLINE_S))
            for _ in manifest.agents
        ]
        for _ in range(2):
            for sock, agent in zip(socks, manifest.agents, strict=True):
                sock.sendall(f"GET {urlsplit(agent.endpoint).path} HTTP/1.1\r\n\r\n".encode())
            for sock in socks:
                assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")

    assert process.returncode == 0
    assert expected_counts(log) == {(agent.name, Outcome.HEALTHY): 2 for agent in manifest.agents}
