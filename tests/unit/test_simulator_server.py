"""A running fleet, seen by plain clients over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.simulator.connection import MAX_PIPELINED
from collector.simulator.fleet import FleetProcess
from collector.simulator.log import LogError, LogWriter, ServedRequest, read_log, read_phases
from collector.simulator.main import FleetOptions, build_agents
from collector.simulator.server import FleetServer
from collector.simulator.values import scrape_at
from storage.model import Outcome

#: Longest wait for something that takes milliseconds on an idle machine.
DEADLINE_S = 20.0
FAULTS = (
    "1:hang;2:drip;3:reset;4:500s;5:garbage;6:garbage;7:huge(5MB);8:redirect;9:nan;10:dup;11:series(2000);"
    "12:fail;13:warn;14:refused;15:flap(1h)"
)
SEED = 11


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the fleet's log."""
    return tmp_path_factory.mktemp("fleet") / "fleet.jsonl"


@pytest.fixture(scope="module")
def fleet(log: Path) -> Iterator[FleetProcess]:
    """Run a fleet with one agent per fault, and five more that are well."""
    with FleetProcess(agents=20, faults=FAULTS, log=log, seed=SEED) as fleet:
        yield fleet


def eventually(look: Callable[[], bool]) -> None:
    """Wait until *look* says yes; fail at the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not look():
        assert time.monotonic() < deadline_s, "did not happen before the deadline"
        time.sleep(0.01)


def logged(log: Path, agent: str, due_us: int, n: int = 1) -> list[ServedRequest]:
    """Wait until the log has *n* requests of *agent* for the slot *due_us*, and return them."""
    found: list[ServedRequest] = []

    def look() -> bool:
        found[:] = [r for r in read_log(log) if (r.agent, r.due_us) == (agent, due_us)]
        return len(found) >= n

    eventually(look)
    assert len(found) == n
    return found


def connect(endpoint: str) -> tuple[socket.socket, str]:
    """Connect to *endpoint*; return the socket and the path to ask for."""
    url = urlsplit(endpoint)
    assert url.hostname is not None
    return socket.create_connection((url.hostname, url.port or 80), timeout=DEADLINE_S), url.path


def request(path: str, due_us: int = 0, *headers: str) -> bytes:
    """Return a request for *path*."""
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: t", f"X-Fleetpulse-Due: {due_us}", *headers, "", "")).encode()


@contextlib.contextmanager
def opened(fleet: FleetProcess, number: int, due_us: int) -> Iterator[socket.socket]:
    """Send a request to agent *number* and leave the answer to the caller."""
    sock, path = connect(fleet.manifest.agents[number - 1].endpoint)
    with sock:
        sock.sendall(request(path, due_us))
        yield sock


def get(fleet: FleetProcess, number: int, due_us: int) -> tuple[int, str, bytes]:
    """Return status, content type and body of one answer of agent *number*."""
    url = urlsplit(fleet.manifest.agents[number - 1].endpoint)
    client = http.client.HTTPConnection(url.hostname or "", url.port, timeout=DEADLINE_S)
    with contextlib.closing(client):
        client.request("GET", url.path, headers={"X-Fleetpulse-Due": str(due_us)})
        answer = client.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()


def test_manifest_tells_endpoints_formats_and_scripts(fleet: FleetProcess) -> None:
    """Names, formats by parity, scripts; agents share a port but for the one whose port is closed."""
    manifest = fleet.manifest
    ports = [urlsplit(agent.endpoint).port for agent in manifest.agents]
    shared = urlsplit(manifest.base_url).port

    assert [agent.name for agent in manifest.agents][::19] == ["demo-0001", "demo-0020"]
    assert [agent.format for agent in manifest.agents][15:] == ["prometheus", "health+json"] * 2 + ["prometheus"]
    assert manifest.agents[10].faults == ("series(2000)",)
    assert manifest.agents[16].endpoint == f"{manifest.base_url}/agents/0017/health"
    assert manifest.agents[17].endpoint == f"{manifest.base_url}/agents/0018/metrics"
    assert [n for n, port in enumerate(ports, 1) if port != shared] == [14]


def test_specs_describe_the_fleet_to_a_collector(fleet: FleetProcess) -> None:
    """Each agent is an HTTP target with the given times."""
    specs = fleet.specs(interval_s=5.0, timeout_s=2.0)

    assert [(s.name, s.endpoint) for s in specs] == [(a.name, a.endpoint) for a in fleet.manifest.agents]
    assert {(s.probe, s.interval_s, s.timeout_s) for s in specs} == {("http", 5.0, 2.0)}
    assert specs[1].labels == {"fleet": "demo", "format": "prometheus"}


def test_healthy_answers_are_logged_with_their_totals(fleet: FleetProcess, log: Path) -> None:
    """The log has what was answered, when, and numbers that can be recomputed from the seed."""
    before_us = time.time_ns() // 1000
    found = [get(fleet, 20, due_us) for due_us in (101, 102, 103)]
    after_us = time.time_ns() // 1000
    lines = [logged(log, "demo-0020", due_us)[0] for due_us in (101, 102, 103)]
    totals = [scrape_at(seed=SEED, number=20, resets=0, served=n).requests_total for n in (1, 2, 3)]

    assert [line.totals["requests_total"] for line in lines] == totals
    assert [
        f"\nrequests_total {total}\n".encode() in body for total, (_, _, body) in zip(totals, found, strict=True)
    ] == [True] * 3
    for line, (status, content_type, body) in zip(lines, found, strict=True):
        assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert (line.fault, line.outcome, line.status, line.hop) == ("ok", Outcome.HEALTHY, 200, 0)
        assert before_us <= line.arrived_us <= after_us
        # The fleet looks at its clock when the kernel has the answer: the client may have it sooner.
        assert line.done_us is not None
        assert line.arrived_us <= line.done_us
        assert line.size_bytes > len(body)


def test_connection_is_kept_and_answers_keep_their_order(fleet: FleetProcess, log: Path) -> None:
    """Many requests in one packet, for two agents, are answered one after the other on one connection."""
    sock, _ = connect(fleet.manifest.base_url)
    paths = ["/agents/0016/metrics", "/agents/0017/health"] * 10
    with sock:
        sock.sendall(b"".join(request(path, 201 + n) for n, path in enumerate(paths)))
        reader = sock.makefile("rb")
        for path in paths:
            assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(line.rstrip().split(b": ", 1) for line in iter(reader.readline, b"\r\n"))
            body = reader.read(int(headers[b"Content-Length"]))
            assert body.startswith(b"# HELP" if path.endswith("metrics") else b'{"status":"pass"')
        reader.close()
    lines = [logged(log, "demo-0016", 201 + n)[0] for n in range(0, 20, 2)]

    assert [line.served for line in lines] == list(range(1, 11))


def test_connection_close_is_obeyed(fleet: FleetProcess) -> None:
    """A client that wants no more has the connection closed after its answer."""
    sock, path = connect(fleet.manifest.agents[18].endpoint)
    with sock, sock.makefile("rb") as reader:
        sock.sendall(request(path, 1, "Connection: close"))

        assert reader.read().startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("due_us", "sent", "status"),
    [
        (301, b"GET /agents/9999/health HTTP/1.1\r\n\r\n", b"404"),
        (302, b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (303, b"GET /agents/0014/metrics HTTP/1.1\r\n\r\n", b"404"),
        (304, b"POST /agents/0018/metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", b"405"),
        (305, b"\x16\x03\x01 this is TLS\r\n\r\n", b"400"),
        (306, b"GET /agents/0018/metrics HTTP/1.1\r\n\r\n" * (MAX_PIPELINED + 1), b""),
    ],
)
def test_what_is_no_poll_is_refused_and_not_logged(
    fleet: FleetProcess, log: Path, due_us: int, sent: bytes, status: bytes
) -> None:
    """Other requests get a status of their own, or none, and leave no line."""
    sock, _ = connect(fleet.manifest.base_url)
    with sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        found = sock.recv(100)
    # A line of these would be before the line of this.
    get(fleet, 19, due_us)
    logged(log, "demo-0019", due_us)

    assert found[9:12] == status
    assert "demo-0018" not in {line.agent for line in read_log(log)}


def test_hang_accepts_and_never_answers(fleet: FleetProcess, log: Path) -> None:
    """Nothing comes, while other agents answer; the line is there at once and knows no end."""
    with opened(fleet, 1, 401) as sock:
        (line,) = logged(log, "demo-0001", 401)
        get(fleet, 19, 402)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)

    assert (line.fault, line.outcome, line.status, line.done_us, line.size_bytes) == (
        "hang",
        Outcome.TIMEOUT,
        0,
        None,
        0,
    )


def test_drip_sends_a_head_and_then_a_byte_at_a_time(fleet: FleetProcess, log: Path) -> None:
    """The head promises a body; its bytes come one by one."""
    with opened(fleet, 2, 501) as sock:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        found = [sock.recv(100) for _ in range(3)]
    (line,) = logged(log, "demo-0002", 501)

    assert b"Content-Length: 65536\r\n" in head
    assert found == [b"\n"] * 3
    assert (line.fault, line.outcome, line.status, line.done_us) == ("drip", Outcome.TIMEOUT, 200, None)


def test_reset_answers_with_rst(fleet: FleetProcess, log: Path) -> None:
    """The client sees a reset and not an end."""
    with opened(fleet, 3, 601) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    (line,) = logged(log, "demo-0003", 601)

    assert (line.fault, line.outcome, line.status, line.done_us) == ("reset", Outcome.ERROR, 0, None)


@pytest.mark.parametrize(
    ("number", "status", "fault", "outcome"),
    [
        (4, 500, "500s", Outcome.UNHEALTHY),
        (5, 200, "garbage", Outcome.UNHEALTHY),
        (6, 200, "garbage", Outcome.UNHEALTHY),
        (8, 302, "redirect", Outcome.ERROR),
        (9, 200, "nan", Outcome.HEALTHY),
        (10, 200, "dup", Outcome.HEALTHY),
        (11, 200, "series", Outcome.HEALTHY),
        (12, 200, "fail", Outcome.UNHEALTHY),
        (13, 200, "warn", Outcome.DEGRADED),
        (15, 200, "flap", Outcome.HEALTHY),
    ],
)
def test_whole_answers_with_a_fault(
    fleet: FleetProcess, log: Path, number: int, status: int, fault: str, outcome: Outcome
) -> None:
    """Faults of content arrive whole and are logged under their names."""
    found, _, _ = get(fleet, number, 701)
    (line,) = logged(log, f"demo-{number:04}", 701)

    assert found == status
    assert (line.fault, line.outcome, line.status) == (fault, outcome, status)
    assert line.done_us is not None


def test_fail_says_fail(fleet: FleetProcess) -> None:
    """The document of a failing agent is valid and says so."""
    _, content_type, body = get(fleet, 12, 702)

    assert content_type == "application/health+json"
    assert json.loads(body)["status"] == "fail"


def test_redirect_is_followed_in_a_circle(fleet: FleetProcess, log: Path) -> None:
    """A client that follows ends where it was; only its first request has hop 0."""
    url = urlsplit(fleet.manifest.agents[7].endpoint)
    path, seen = url.path, []
    client = http.client.HTTPConnection(url.hostname or "", url.port, timeout=DEADLINE_S)
    with contextlib.closing(client):
        for _ in range(5):
            seen.append(path)
            client.request("GET", path, headers={"X-Fleetpulse-Due": "703"})
            answer = client.getresponse()
            answer.read()
            path = answer.headers["Location"]

    assert path in seen
    assert [line.hop for line in logged(log, "demo-0008", 703, 5)] == [0, 1, 1, 1, 1]


def test_huge_comes_with_and_without_its_length(fleet: FleetProcess, log: Path) -> None:
    """The whole body arrives, once announced and once in chunks; its end is logged when it was handed over."""
    sizes = [len(get(fleet, 7, due_us)[2]) for due_us in (801, 802)]
    lines = [logged(log, "demo-0007", due_us)[0] for due_us in (801, 802)]

    assert sorted(sizes) == [5_000_000, -(-5_000_000 // 65_536) * 65_536]
    for line, size in zip(lines, sizes, strict=True):
        assert (line.fault, line.outcome, line.status) == ("huge", Outcome.ERROR, 200)
        assert line.done_us is not None
        assert line.size_bytes > size


def test_huge_cut_short_by_the_client_is_never_done(fleet: FleetProcess, log: Path) -> None:
    """A client that has had enough leaves a line without an end, and the next poll is served."""
    with opened(fleet, 7, 803) as sock:
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200 OK")
    (line,) = logged(log, "demo-0007", 803)

    assert line.done_us is None
    assert 0 < line.size_bytes < 5_000_000
    assert get(fleet, 7, 804)[0] == 200


def test_refused_closes_the_port_and_keeps_it(fleet: FleetProcess, log: Path) -> None:
    """Connections are refused, the log has the phase, and nobody else can have the port meanwhile."""
    endpoint = fleet.manifest.agents[13].endpoint
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint)
    with socket.socket() as other, pytest.raises(OSError) as caught:  # noqa: PT011  # by number, below
        other.bind(("127.0.0.1", urlsplit(endpoint).port or 0))
    (phase,) = read_phases(log)

    assert caught.value.errno == errno.EADDRINUSE
    assert (phase.agent, phase.fault, phase.to_us) == ("demo-0014", "refused", None)
    assert phase.from_us >= fleet.manifest.started_us


# ---------------------------------------------------------------- in this process, on the loop of asyncio itself


def serve(options: FleetOptions, path: Path, use: Callable[[FleetServer, str], Awaitable[None]]) -> None:
    """Run a fleet here, let *use* have it and the URL of its first agent, and close it."""

    def fail(error: LogError) -> None:
        raise AssertionError(error)

    async def main() -> None:
        log = LogWriter(path, fail)
        agents = build_agents(options)
        server = FleetServer(agents, log=log)
        await server.open()
        try:
            await asyncio.wait_for(use(server, server.endpoint(agents[0])), DEADLINE_S)
        finally:
            server.close()
            log.close()
            # Transports tell their protocols of the end in the next round.
            await asyncio.sleep(0)

    asyncio.run(main())


def test_port_closes_for_its_phase_and_opens_again(tmp_path: Path) -> None:
    """A kept connection is closed with the port; afterwards the agent answers at the same port as before."""

    async def use(server: FleetServer, endpoint: str) -> None:
        port = urlsplit(endpoint).port
        # The kernel completes the connection at once, before any timer of the script can run.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/agents/0001/health", 1))
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await reader.read()
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            await asyncio.sleep(0.01)
        writer.write(request("/agents/0001/health", 2, "Connection: close"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        await writer.wait_closed()

    serve(FleetOptions(agents=1, faults="1:refused@1s-1.5s"), tmp_path / "log", use)
    (phase,) = read_phases(tmp_path / "log")
    served = list(read_log(tmp_path / "log"))

    assert phase.to_us is not None
    assert [line.due_us for line in served] == [1, 2]
    assert served[0].arrived_us < phase.from_us < phase.to_us <= served[1].arrived_us
    assert phase.to_us - phase.from_us > 400_000


def test_large_answer_to_a_slow_reader_is_done_when_it_is_handed_over(tmp_path: Path) -> None:
    """What the kernel does not take yet is not counted as handed over."""
    seen: list[int] = []

    async def use(server: FleetServer, endpoint: str) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        # A small window: the answer of 3 MB cannot fit into the kernel's buffers.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        with sock:
            await loop.sock_connect(sock, ("127.0.0.1", urlsplit(endpoint).port))
            await loop.sock_sendall(sock, request("/agents/0001/health", 1, "Connection: close"))
            first = await loop.sock_recv(sock, 1)
            seen.append(time.time_ns() // 1000)
            size = len(first)
            while part := await loop.sock_recv(sock, 1 << 20):
                size += len(part)
            seen.append(size)

    serve(FleetOptions(agents=1, faults="1:series(100000)"), tmp_path / "log", use)
    (line,) = read_log(tmp_path / "log")

    assert line.done_us is not None
    assert line.done_us > seen[0]
    assert line.size_bytes == seen[1] > 3_000_000


def test_close_logs_what_is_under_way(tmp_path: Path) -> None:
    """An answer cut short by the end of the fleet is in the log, as never done."""

    async def use(server: FleetServer, endpoint: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(endpoint).port, limit=1024)
        writer.write(request("/agents/0001/health", 1))
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        server.close()
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()

    serve(FleetOptions(agents=1, faults="1:huge(500MB)"), tmp_path / "log", use)
    (line,) = read_log(tmp_path / "log")

    assert line.done_us is None
    assert 0 < line.size_bytes < 500_000_000


def test_same_seed_serves_the_same_bytes(tmp_path: Path) -> None:
    """Two fleets of one seed answer alike but for their start; another seed does not."""
    bodies: list[str] = []

    async def use(server: FleetServer, endpoint: str) -> None:
        for path in ("/agents/0001/health", "/agents/0002/metrics", "/agents/0003/health"):
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(endpoint).port)
            writer.write(request(path, 1, "Connection: close"))
            bodies.append((await reader.read()).decode("latin-1").replace(f"{server.started_us / 1e6:.2f}", "START"))
            writer.close()
            await writer.wait_closed()

    for seed in (5, 5, 6):
        serve(FleetOptions(agents=3, seed=seed, faults="3:garbage"), tmp_path / "log", use)

    assert bodies[0:3] == bodies[3:6]
    assert all(a != b for a, b in zip(bodies[0:3], bodies[6:9], strict=True))
