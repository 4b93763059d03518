"""The probe ``http`` against real servers on loopback: what an answer, or its absence, makes of an agent."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import socket
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from collector.config import Credential, Limits
from collector.probes import Probe, Reading, build_probe
from storage.errors import SettingsError
from storage.model import AgentSpec, Kind, Outcome
from tests.loopback import Certificates, Exchange, Loopback, forever

LIMITS = Limits(body_bytes=100_000, header_bytes=4_000)
PROMETHEUS = "text/plain; version=0.0.4"

Options = Mapping[str, object]
Run = Callable[[Coroutine[object, object, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on each of the two event loops."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


def probe_of(
    url: str, credential: Credential | None = None, limits: Limits = LIMITS, options: Options | None = None
) -> Probe:
    spec = AgentSpec(
        name="a", endpoint=url, timeout_s=10, options=options or {}, credential=credential.name if credential else ""
    )
    return build_probe(spec, credentials={credential.name: credential} if credential else {}, limits=limits)


async def poll_once(probe: Probe, deadline_s: float = 5.0) -> Reading:
    try:
        return await probe.poll(deadline_s)
    finally:
        await probe.aclose()


def one_answer(
    handler: Callable[[Exchange], Awaitable[None]], run: Run, deadline_s: float = 5.0, options: Options | None = None
) -> Reading:
    """Return the reading of one poll of a server that answers by *handler*."""
    readings = []

    async def main() -> None:
        async with Loopback(handler) as server:
            readings.append(await poll_once(probe_of(server.url("/health"), options=options), deadline_s))

    run(main())
    return readings[0]


def json_answer(
    document: object, *, status: str = "200 OK", content_type: str = "application/health+json"
) -> Callable[[Exchange], Awaitable[None]]:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(document).encode(), status=status, content_type=content_type)

    return handler


# ---------------------------------------------------------------- outcomes


def test_http_200_is_healthy_with_latency(run: Run) -> None:
    """An answer with a good code and nothing to read is healthy, and its latency is known."""
    before = time.time()
    reading = one_answer(lambda exchange: exchange.answer(), run)

    assert (reading.outcome, reading.reason, reading.http_status) == (Outcome.HEALTHY, "", 200)
    assert 0 < reading.latency_ms < 5000
    assert before - 1 <= reading.at_s <= time.time() + 1


@pytest.mark.parametrize(
    ("status", "reason"), [("503 Busy", "http 503"), ("404 No", "http 404"), ("301 Moved", "http 301")]
)
def test_http_unexpected_code_is_unhealthy(run: Run, status: str, reason: str) -> None:
    """A code outside 200-299 is unhealthy and has a latency, for the agent did answer."""
    reading = one_answer(lambda exchange: exchange.answer(status=status), run)

    assert (reading.outcome, reading.reason) == (Outcome.UNHEALTHY, reason)
    assert not math.isnan(reading.latency_ms)


def test_http_expect_status_replaces_the_default(run: Run) -> None:
    """Codes and ranges of expect_status are good, all others are not, and a wanted redirect is not followed."""
    options = {"expect_status": ["300-302", 404]}

    async def handler(exchange: Exchange) -> None:
        await exchange.answer(status="302 Found", headers="Location: /elsewhere\r\n")

    assert (
        one_answer(lambda exchange: exchange.answer(status="404 No"), run, options=options).outcome is Outcome.HEALTHY
    )
    assert one_answer(handler, run, options=options).http_status == 302
    assert one_answer(lambda exchange: exchange.answer(), run, options=options).outcome is Outcome.UNHEALTHY


@pytest.mark.parametrize(
    ("document", "status", "outcome", "reason"),
    [
        ({"status": "pass"}, "200 OK", Outcome.HEALTHY, ""),
        ({"status": "UP", "components": {"db": {"status": "UP"}}}, "200 OK", Outcome.HEALTHY, ""),
        ({"status": "warn"}, "200 OK", Outcome.DEGRADED, "status warn"),
        ({"status": "fail", "checks": {"db": [{"status": "fail"}], "q": [{"status": "pass"}]}}, "200 OK",
         Outcome.UNHEALTHY, "status fail: db"),
        ({"status": "DOWN", "components": {"db": {"status": "DOWN"}}}, "503 No", Outcome.UNHEALTHY,
         "http 503, status down: db"),
        ({"status": "OUT_OF_SERVICE"}, "200 OK", Outcome.UNHEALTHY, "status out_of_service"),
        ({"status": "UNKNOWN"}, "200 OK", Outcome.DEGRADED, "status unknown"),
        ({"status": "stalled"}, "200 OK", Outcome.STALLED, "status stalled"),
        ({"status": "pass"}, "503 No", Outcome.UNHEALTHY, "http 503"),
        ({"status": "brilliant"}, "200 OK", Outcome.UNHEALTHY, "status not understood"),
        ({}, "200 OK", Outcome.UNHEALTHY, "status missing"),
        ([1], "200 OK", Outcome.UNHEALTHY, "invalid json: not an object"),
    ],
)  # fmt: skip
def test_http_health_document_decides(run: Run, document: object, status: str, outcome: Outcome, reason: str) -> None:
    """The status word decides where the code is good; the code outranks it where it is not."""
    reading = one_answer(json_answer(document, status=status), run)

    assert (reading.outcome, reading.reason) == (outcome, reason)


def test_http_plain_json_with_foreign_status_says_nothing(run: Run) -> None:
    """Plain JSON whose status is no health word is judged by its code, unless the agent's format says it is health."""
    handler = json_answer({"status": "brilliant"}, content_type="application/json")

    assert one_answer(handler, run).outcome is Outcome.HEALTHY
    assert one_answer(handler, run, options={"format": "status"}).outcome is Outcome.UNHEALTHY


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe{", b"[" * 50_000, b'{"status": "pass"'])
def test_http_broken_json_is_unhealthy(run: Run, body: bytes) -> None:
    """A body that claims to be JSON and is not is never healthy."""
    reading = one_answer(lambda exchange: exchange.answer(body, content_type="application/json"), run)

    assert (reading.outcome, reading.reason) == (Outcome.UNHEALTHY, "invalid json")


def test_http_garbage_exposition_is_unhealthy(run: Run) -> None:
    """An exposition without any valid line is unhealthy and gives no sample."""
    reading = one_answer(lambda exchange: exchange.answer(b"<html>\noops\n", content_type=PROMETHEUS), run)

    assert (reading.outcome, reading.reason) == (Outcome.UNHEALTHY, "invalid exposition: no valid line")
    assert not reading.metrics


def test_http_health_checks_become_gauges(run: Run) -> None:
    """Numbers in checks and metrics are gauges with component and unit; what is not finite or no number is not."""
    document = {
        "status": "pass",
        "metrics": {"tokens": 5, "bad": "x", "flag": True, "huge": 10**400, "none": float("nan"), "over": 1e300},
        "checks": {
            "cassandra:responseTime": [
                {"componentId": "n1", "observedValue": 250, "observedUnit": "ms"},
                {"componentId": "n2", "observedValue": 1.5, "observedUnit": "ms"},
                {"componentId": "n2", "observedValue": 3},
            ],
            "uptime": {"observedValue": 12, "observedUnit": "seconds"},
            "version": [{"observedValue": "1.2"}],
        },
    }
    reading = one_answer(json_answer(document), run)

    found = {
        (key.name, key.labels, key.unit): value for key, value in zip(reading.metrics, reading.values, strict=True)
    }
    assert found == {
        ("tokens", (), ""): 5.0,
        ("cassandra:responseTime", (("componentId", "n1"),), "ms"): 250.0,
        ("cassandra:responseTime", (("componentId", "n2"),), "ms"): 1.5,
        ("uptime", (), "s"): 12.0,
    }
    assert reading.rejected == {"not_a_number": 2, "out_of_range": 2, "not_finite": 1, "duplicate_series": 1}


def test_http_health_check_may_be_a_counter(run: Run) -> None:
    """A check that says so is a counter; the process's start comes along, so that a restart is told from a reset."""
    document = {
        "status": "pass",
        "checks": {
            "agent:requests_total": [{"observedValue": 7, "metricType": "counter"}],
            "agent:memory_total": [{"observedValue": 8}],
            "agent:process_start_time_seconds": [{"observedValue": 1000.5}],
        },
    }
    reading = one_answer(json_answer(document), run)

    assert [(key.name, key.kind) for key in reading.metrics] == [
        ("agent:requests_total", Kind.COUNTER),
        ("agent:memory_total", Kind.GAUGE),
        ("agent:process_start_time_seconds", Kind.GAUGE),
    ]
    assert reading.process_start == 1000.5


def test_http_json_names_that_no_database_takes_are_counted(run: Run) -> None:
    """Names with NUL or half a surrogate pair, empty ones and long ones are refused by reason."""
    body = b'{"status":"pass","metrics":{"a\\u0000b":1,"\\ud800":1,"":1,"' + b"x" * 300 + b'":1,"ok":1}}'
    reading = one_answer(lambda exchange: exchange.answer(body, content_type="application/json"), run)

    assert [key.name for key in reading.metrics] == ["ok"]
    assert reading.rejected == {"nul_byte": 1, "bad_utf8": 1, "name_limit": 2}


# ---------------------------------------------------------------- no answer


def test_http_refused(run: Run) -> None:
    """A port that nobody listens on is refused, without latency."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        reading: list[Reading] = []

        async def main() -> None:
            reading.append(await poll_once(probe_of(f"http://127.0.0.1:{taken.getsockname()[1]}/")))

        run(main())

    assert (reading[0].outcome, reading[0].reason) == (Outcome.REFUSED, "connection refused")
    assert math.isnan(reading[0].latency_ms)


def test_http_unknown_name_is_error(run: Run) -> None:
    """A name that does not resolve is an error whose reason does not hold the name."""
    reading: list[Reading] = []

    async def main() -> None:
        reading.append(await poll_once(probe_of("http://no-such-host.invalid/")))

    run(main())

    assert reading[0].outcome is Outcome.ERROR
    assert reading[0].reason.startswith("dns: ")
    assert "invalid/" not in reading[0].reason


async def _hang(exchange: Exchange) -> None:
    await forever()


async def _hang_in_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await forever()


async def _drip(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await exchange.send(b"x")
        await asyncio.sleep(0.005)


async def _interim_for_ever(exchange: Exchange) -> None:
    while True:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("handler", [_hang, _hang_in_head, _drip, _interim_for_ever])
def test_http_slow_answers_end_at_the_deadline(run: Run, handler: Callable[[Exchange], Awaitable[None]]) -> None:
    """Whatever way an agent has of never finishing, the poll ends at its deadline as a timeout."""
    reading = one_answer(handler, run, deadline_s=0.2)

    assert (reading.outcome, reading.reason) == (Outcome.TIMEOUT, "timeout after 10s")
    assert math.isnan(reading.latency_ms)


async def _reset(exchange: Exchange) -> None:
    raw = exchange.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    exchange.writer.transport.abort()


def _raw(data: bytes) -> Callable[[Exchange], Awaitable[None]]:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(data)
        exchange.hang_up()

    return handler


_OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (_reset, "connection reset"),
        (_raw(b""), "connection closed without an answer"),
        (_raw(b"SSH-2.0-OpenSSH_9\r\n"), "malformed http response"),
        (_raw(_OK + b"Content-Length: x\r\n\r\n"), "malformed http response"),
        (_raw(_OK + b"Content-Length: 10\r\n\r\nabc"), "connection closed in the middle of the answer"),
        (_raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"), "connection closed in the middle of the answer"),
        (_raw(_OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab"), "malformed http response"),
        (_raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "malformed http response: unasked upgrade"),
        (_raw(_OK + b"X: " + b"y" * 10_000 + b"\r\n\r\n"), "headers over the limit"),
        (_raw(_OK + b"X: y\r\n" * 2_000 + b"\r\n"), "headers over the limit"),
        (_raw(_OK + b"X: " + b"y" * 10_000), "headers over the limit"),
        (_raw(_OK + b"Content-Length: 50000000\r\n\r\n"), "body over the limit of 100000 bytes"),
        (_raw(_OK + b"\r\n" + b"x" * 100_001), "body over the limit of 100000 bytes"),
        (_raw(_OK + b"Content-Encoding: gzip\r\n\r\nnonsense"), "malformed compressed body"),
        (_raw(_OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 500)[:-9]), "compressed body is cut short"),
        (_raw(_OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"") * 4000), "compressed body of more than 64 members"),
        (_raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000), "body in more than 16384 pieces"),
        (_raw(_OK + b"Content-Encoding: br\r\n\r\nx"), "unknown content encoding"),
    ],
)  # fmt: skip
def test_http_unusable_answers_are_errors(
    run: Run, handler: Callable[[Exchange], Awaitable[None]], reason: str
) -> None:
    """Cuts, nonsense and excess are errors, each with its reason and without latency."""
    reading = one_answer(handler, run)

    assert (reading.outcome, reading.reason) == (Outcome.ERROR, reason)
    assert math.isnan(reading.latency_ms)


def test_http_zip_bomb_is_never_unpacked(run: Run) -> None:
    """A body that unpacks to 64 MB ends at the limit."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    reading = one_answer(lambda exchange: exchange.answer(bomb, headers="Content-Encoding: gzip\r\n"), run)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (reading.outcome, reading.reason) == (Outcome.ERROR, "body over the limit of 100000 bytes")
    assert reading.rejected == {"body_limit": 1}
    assert peak_bytes < 8 * 2**20


async def _endless(exchange: Exchange) -> None:
    await exchange.send(_OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")


async def _endless_extensions(exchange: Exchange) -> None:
    await exchange.send(_OK + b"Transfer-Encoding: chunked\r\n\r\n1;x=")
    while True:
        await exchange.send(b"y" * 65536)


@pytest.mark.parametrize("handler", [_endless, _endless_extensions])
def test_http_endless_bodies_are_cut(run: Run, handler: Callable[[Exchange], Awaitable[None]]) -> None:
    """A body without end is cut at the limit, long before the deadline, also where no byte of it is content."""
    reading = one_answer(handler, run, deadline_s=30)

    assert reading.outcome is Outcome.ERROR
    assert reading.rejected == {"body_limit": 1} or reading.reason == "malformed http response"


# ---------------------------------------------------------------- forms of an answer


@pytest.mark.parametrize(
    "raw",
    [
        _OK + b"Content-Type: application/json\r\nContent-Length: 17\r\n\r\n" + b'{"status":"warn"}',
        _OK + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n"
        b'{"statu\r\na\r\ns":"warn"}\r\n0\r\nTrailer: x\r\n\r\n',
        _OK + b'Content-Type: application/json\r\nConnection: close\r\n\r\n{"status":"warn"}',
        b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"status":"warn"}',
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + _OK + b'Content-Type: application/json\r\n\r\n{"status":"warn"}',
        _OK + b"Content-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b'{"status":"warn"}'),
        _OK + b"Content-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n"
        + gzip.compress(b'{"stat') + gzip.compress(b'us":"warn"}'),
        _OK + b"Content-Type: application/json\r\nContent-Encoding: deflate\r\n\r\n" + zlib.compress(b'{"status":"warn"}'),
        _OK + b"Content-Type: application/json\r\nContent-Encoding: deflate\r\n\r\n"
        + zlib.compress(b'{"status":"warn"}')[2:-4],
        _OK + b'\r\n{"status":"warn"}',
    ],
)  # fmt: skip
def test_http_every_framing_and_packing_is_read(run: Run, raw: bytes) -> None:
    """Length, chunks, end of connection, interim answers, gzip and both kinds of deflate say the same."""
    assert one_answer(_raw(raw), run).reason == "status warn"


def test_http_head_and_204_have_no_body(run: Run) -> None:
    """HEAD and 204 are judged by their code alone; after HEAD the connection is used again."""
    readings = []

    async def main() -> None:
        async def handler(exchange: Exchange) -> None:
            if exchange.path == "/none":
                await exchange.send(b"HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\n\r\n")
            else:
                await exchange.send(_OK + b"Content-Type: application/json\r\nContent-Length: 999\r\n\r\n")

        async with Loopback(handler) as server:
            probe = probe_of(server.url(), options={"method": "HEAD"})
            readings.extend([await probe.poll(5), await probe.poll(5)])
            await probe.aclose()
            readings.append(await poll_once(probe_of(server.url("/none"))))
            assert [exchange.connection for exchange in server.exchanges] == [0, 0, 1]
            assert server.exchanges[0].request.startswith(b"HEAD / HTTP/1.1\r\n")

    run(main())

    assert [(reading.outcome, reading.http_status) for reading in readings] == [
        (Outcome.HEALTHY, 200), (Outcome.HEALTHY, 200), (Outcome.HEALTHY, 204)
    ]  # fmt: skip


def test_http_large_body_is_read_in_full(run: Run) -> None:
    """An exposition large enough for a thread gives every sample, in the first poll and the next."""
    text = b"".join(b'm{i="%d",pad="%s"} %d\n' % (i, b"p" * 200, i) for i in range(3000))
    readings = []

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer(text, content_type=PROMETHEUS)) as server:
            probe = probe_of(server.url(), limits=Limits())
            readings.extend([await probe.poll(10), await probe.poll(10)])
            await probe.aclose()

    run(main())

    assert len(text) > 256 * 1024
    assert [reading.values for reading in readings] == [[float(i) for i in range(3000)]] * 2
    assert readings[0].metrics is readings[1].metrics


# ---------------------------------------------------------------- connections


def test_http_connection_is_kept_and_renewed_silently(run: Run) -> None:
    """Polls share a connection; one that the agent closed while idle is renewed without a trace in the reading."""
    readings = []

    async def main() -> None:
        async def handler(exchange: Exchange) -> None:
            if exchange.number == 3 and exchange.connection == 0:
                # The request was read, the connection is cut: as if it had been closed while idle.
                exchange.hang_up()
                return
            await exchange.answer()

        async with Loopback(handler) as server:
            probe = probe_of(server.url())
            readings.extend([await probe.poll(5) for _ in range(5)])
            await probe.aclose()
            assert [exchange.connection for exchange in server.exchanges] == [0, 0, 0, 0, 1, 1]

    run(main())

    assert [reading.outcome for reading in readings] == [Outcome.HEALTHY] * 5


def test_http_second_failure_on_a_fresh_connection_is_reported(run: Run) -> None:
    """Only one silent attempt is made: an agent that hangs up on every request is an error after two of them."""

    async def handler(exchange: Exchange) -> None:
        if exchange.number == 0:
            await exchange.answer()
        else:
            exchange.hang_up()

    readings = []

    async def main() -> None:
        async with Loopback(handler) as server:
            probe = probe_of(server.url())
            readings.extend([await probe.poll(5), await probe.poll(5)])
            await probe.aclose()
            assert len(server.exchanges) == 3

    run(main())

    assert [reading.reason for reading in readings] == ["", "connection closed without an answer"]


def test_http_cancelled_poll_leaves_a_usable_probe(run: Run) -> None:
    """A cancelled poll raises CancelledError and nothing of its late answer is taken for the next one's."""
    outcome = []

    async def main() -> None:
        asked = asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            if exchange.number == 0:
                asked.set()
                await forever()
            await exchange.answer(b"{}", content_type="application/json")

        async with Loopback(handler) as server:
            probe = probe_of(server.url())
            task = asyncio.create_task(probe.poll(30))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            outcome.append(await poll_once(probe))

    run(main())

    assert outcome[0].outcome is Outcome.HEALTHY


def test_http_unasked_bytes_end_the_connection(run: Run) -> None:
    """What an agent says without being asked is not taken for the answer to the next request."""
    readings = []

    async def main() -> None:
        async def handler(exchange: Exchange) -> None:
            extra = _OK + b"Content-Length: 0\r\n\r\n" if exchange.number == 0 else b""
            await exchange.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" + extra)

        async with Loopback(handler) as server:
            probe = probe_of(server.url())
            readings.extend([await probe.poll(5), await probe.poll(5)])
            await probe.aclose()

    run(main())

    assert readings[1].http_status == 500


@pytest.mark.parametrize(
    "left_over",
    [
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Left: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc",
        b"H",
        b"nonsense",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_http_left_over_bytes_are_not_the_next_answer(run: Run, method: str, left_over: bytes) -> None:
    """What comes in one segment with an answer does not change it, and the next one is read from a new connection."""
    readings, connections = [], []

    async def main() -> None:
        async def handler(exchange: Exchange) -> None:
            if exchange.number == 0:
                await exchange.send(_OK + b"Content-Length: 0\r\n\r\n" + left_over)
            else:
                await exchange.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")

        async with Loopback(handler) as server:
            probe = probe_of(server.url(), options={"method": method})
            readings.extend([await probe.poll(5), await probe.poll(5), await probe.poll(5)])
            await probe.aclose()
            connections.append(server.connections)

    run(main())

    assert [reading.http_status for reading in readings] == [200, 500, 500]
    assert connections == [2]


def test_http_ipv6(run: Run) -> None:
    """A literal IPv6 address is polled and named with brackets."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on loopback")

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer(), host="::1") as server:
            assert (await poll_once(probe_of(server.url()))).outcome is Outcome.HEALTHY
            assert server.exchanges[0].header("Host") == f"[::1]:{server.port}"

    run(main())


# ---------------------------------------------------------------- redirects


def test_http_redirects_are_followed_up_to_the_limit(run: Run) -> None:
    """Redirects lead to the answer; a circle and a chain over the limit are errors."""

    async def handler(exchange: Exchange) -> None:
        kind, _, number = exchange.path.strip("/").partition("-")
        target = {"circle": "/circle-2" if number == "1" else "/circle-1", "chain": f"/chain-{int(number or 0) + 1}"}
        if kind == "once":
            await exchange.answer(status="307 Moved", headers="Location: ./end?x=1\r\n")
        elif kind in target:
            await exchange.answer(status="302 Found", headers=f"Location: {target[kind]}\r\n")
        elif kind == "bad":
            await exchange.answer(status="302 Found", headers="Location: gopher://x/\r\n")
        else:
            await exchange.answer()

    found = {}

    async def main() -> None:
        async with Loopback(handler) as server:
            for path in ("/once", "/circle-1", "/chain-1", "/bad"):
                reading = await poll_once(probe_of(server.url(path)))
                found[path] = (reading.outcome, reading.reason)
            assert server.exchanges[1].path == "/end?x=1"

    run(main())

    assert found == {
        "/once": (Outcome.HEALTHY, ""),
        "/circle-1": (Outcome.ERROR, "redirects in a circle"),
        "/chain-1": (Outcome.ERROR, "more than 5 redirects"),
        "/bad": (Outcome.ERROR, "redirect to no url"),
    }


def test_http_credential_does_not_follow_a_redirect_elsewhere(run: Run, tmp_path: Path) -> None:
    """Token and headers go along within the origin and never to another one, nor back from it."""
    token = tmp_path / "token"
    token.write_text("s3cret\n")

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer()) as other:

            async def other_handler(exchange: Exchange) -> None:
                if exchange.path == "/back":
                    await exchange.answer(status="302 Found", headers=f"Location: {home.url('/end')}\r\n")
                else:
                    await exchange.answer()

            async def handler(exchange: Exchange) -> None:
                targets = {"/in": "/end", "/out": other.url("/x"), "/round": other.url("/back")}
                if exchange.path in targets:
                    await exchange.answer(status="302 Found", headers=f"Location: {targets[exchange.path]}\r\n")
                else:
                    await exchange.answer()

            other._handler = other_handler
            async with Loopback(handler) as home:
                credential = Credential(name="c", hosts=("127.0.0.1",), bearer_token_file=token)
                for path in ("/in", "/out", "/round"):
                    probe = probe_of(home.url(path), credential, options={"headers": {"X-Team": "blue"}})
                    assert (await poll_once(probe)).outcome is Outcome.HEALTHY
                sent = [(e.path, e.header("Authorization"), e.header("X-Team")) for e in home.exchanges]
                assert sent == [
                    ("/in", "Bearer s3cret", "blue"), ("/end", "Bearer s3cret", "blue"),
                    ("/out", "Bearer s3cret", "blue"), ("/round", "Bearer s3cret", "blue"), ("/end", None, None),
                ]  # fmt: skip
                assert [(e.path, e.header("Authorization"), e.header("X-Team")) for e in other.exchanges] == [
                    ("/x", None, None), ("/back", None, None)
                ]  # fmt: skip

    run(main())


# ---------------------------------------------------------------- credentials and TLS


def test_http_secrets_are_read_at_each_poll(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated file is used from the next poll on; header files and variables work; trouble names no secret."""
    key = tmp_path / "key"
    key.write_text("one")
    monkeypatch.setenv("TEST_TOKEN", "from-env")
    credential = Credential(name="c", hosts=("127.*",), bearer_token_env="TEST_TOKEN", header_files={"X-Key": key})
    reasons = []

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer()) as server:
            probe = probe_of(server.url(), credential)
            reasons.append((await probe.poll(5)).reason)
            key.write_text("another")
            reasons.append((await probe.poll(5)).reason)
            key.write_text("an\nother")
            reasons.append((await probe.poll(5)).reason)
            key.unlink()
            reasons.append((await probe.poll(5)).reason)
            monkeypatch.delenv("TEST_TOKEN")
            reasons.append((await poll_once(probe)).reason)
            assert [(e.header("X-Key"), e.header("Authorization")) for e in server.exchanges] == [
                ("one", "Bearer from-env"), ("another", "Bearer from-env")
            ]  # fmt: skip
            assert server.connections == 1

    run(main())

    assert reasons == [
        "", "", "credential c: value of header X-Key has a control character",
        "credential c: file cannot be read: No such file or directory", "credential c: variable TEST_TOKEN is not set",
    ]  # fmt: skip


def test_http_credential_is_not_sent_to_other_hosts(run: Run, tmp_path: Path) -> None:
    """A host that the credential does not name gets no request at all."""
    token = tmp_path / "token"
    token.write_text("s3cret")

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer()) as server:
            credential = Credential(name="c", hosts=("*.example.org",), bearer_token_file=token)
            reading = await poll_once(probe_of(server.url(), credential))
            assert (reading.outcome, reading.reason) == (Outcome.ERROR, "credential not allowed for host")
            assert not server.exchanges

    run(main())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make an authority for the tests of this module."""
    return Certificates(tmp_path_factory.mktemp("tls"))


def test_https_verifies(run: Run, certificates: Certificates) -> None:
    """An own authority is trusted when it is given, and only then; expired and wrong names are refused in words."""
    found = {}

    async def main() -> None:
        trust = Credential(name="ca", hosts=("127.0.0.1", "localhost"), ca_file=certificates.ca)
        good = certificates.server_context("IP:127.0.0.1")
        cases = {
            "trusted": (good, trust), "unknown": (good, None),
            "expired": (certificates.server_context("IP:127.0.0.1", days=-1), trust),
            "name": (certificates.server_context("DNS:elsewhere.example", days=2), trust),
        }  # fmt: skip
        for name, (context, credential) in cases.items():
            async with Loopback(lambda exchange: exchange.answer(), context=context) as server:
                reading = await poll_once(probe_of(server.url(scheme="https"), credential))
                found[name] = (reading.outcome, reading.reason)

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 No\r\n\r\n")
            writer.close()

        plain = await asyncio.start_server(refuse, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}/"
        found["plain"] = ((await poll_once(probe_of(url, trust))).outcome, "")
        plain.close()
        await plain.wait_closed()

    run(main())

    assert found["trusted"] == (Outcome.HEALTHY, "")
    assert found["unknown"] == (Outcome.ERROR, "tls: unable to get local issuer certificate")
    assert found["expired"] == (Outcome.ERROR, "tls: certificate has expired")
    assert found["name"][0] is Outcome.ERROR
    assert found["name"][1].startswith("tls: IP address mismatch")
    assert found["plain"] == (Outcome.ERROR, "")


def test_https_client_certificate(run: Run, certificates: Certificates) -> None:
    """An agent that asks for a client certificate is healthy with it and an error without."""
    found = []

    async def main() -> None:
        certificate, key = certificates.issue("client", "DNS:client")
        context = certificates.server_context("IP:127.0.0.1", clients=True)
        async with Loopback(lambda exchange: exchange.answer(), context=context) as server:
            bare = Credential(name="m", hosts=("127.0.0.1",), ca_file=certificates.ca)
            full = replace(bare, client_cert_file=certificate, client_key_file=key)
            found.extend([await poll_once(probe_of(server.url(scheme="https"), c)) for c in (full, bare)])

    run(main())

    assert found[0].outcome is Outcome.HEALTHY
    assert found[1].outcome is Outcome.ERROR
    assert found[1].reason.startswith(("tls: ", "connection "))


def test_https_unusable_certificate_files_are_an_error(run: Run, certificates: Certificates, tmp_path: Path) -> None:
    """A file that is no certificate makes an error of the poll and no exception."""
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")
    readings = []

    async def main() -> None:
        credential = Credential(name="x", hosts=("*",), ca_file=nonsense)
        async with Loopback(lambda exchange: exchange.answer()) as server:
            readings.append(await poll_once(probe_of(server.url(scheme="https"), credential)))

    run(main())

    assert readings[0].outcome is Outcome.ERROR
    assert readings[0].reason.startswith("credential x: certificate files cannot be used")


# ---------------------------------------------------------------- two URLs


def test_http_metrics_from_a_second_path(run: Run) -> None:
    """Health comes from the endpoint, metrics from metrics_path; a gap in the metrics degrades a healthy agent."""
    readings = []

    async def main() -> None:
        async def handler(exchange: Exchange) -> None:
            if exchange.path == "/health":
                await exchange.answer(b'{"status":"pass"}', content_type="application/health+json")
            elif exchange.number < 2:
                await exchange.answer(b"# TYPE m counter\nm 5\n", content_type=PROMETHEUS)
            else:
                await exchange.answer(status="500 No")

        async with Loopback(handler) as server:
            probe = probe_of(server.url("/health"), options={"metrics_path": "/metrics"})
            readings.extend([await probe.poll(5), await probe.poll(5)])
            await probe.aclose()
            assert server.connections == 1

    run(main())

    assert (readings[0].outcome, readings[0].values) == (Outcome.HEALTHY, [5.0])
    assert (readings[1].outcome, readings[1].reason) == (Outcome.DEGRADED, "metrics: http 500")
    assert readings[1].rejected == {"metrics_unavailable": 1}


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("endpoint", "options", "fragment"),
    [
        ("http://x/", {"expct_status": [200]}, 'unknown option "expct_status" for probe http: did you mean "expect_status"'),
        ("http://x/", {"method": "POST"}, "expected one of GET, HEAD"),
        ("http://x/", {"expect_status": ["20x"]}, "expected a list of codes"),
        ("http://x/", {"expect_status": ["299-200"]}, "within 100-599"),
        ("http://x/", {"headers": {"X": "a\r\nY: b"}}, "value of header X has a control character"),
        ("http://x/", {"headers": {"X Y": "a"}}, "header name is not a token"),
        ("http://x/", {"headers": {"Host": "a"}}, "sets host: the probe writes that itself"),
        ("http://x/", {"headers": "a"}, "expected a table of texts"),
        ("http://x/", {"format": "xml"}, "expected one of auto, health+json"),
        ("http://x/", {"body_limit_bytes": 10**9}, "a whole number from 1 to"),
        ("http://x/", {"metrics_path": "metrics"}, "a path that starts with /"),
        ("http://u:p@x/", {}, "put the secret into a credential"),
        ("ftp://x/", {}, "not one to poll"),
        ("http://x:99999/", {}, "is malformed"),
        ("http://x/a b", {}, "white space"),
        ("", {}, "not one to poll"),
    ],
)  # fmt: skip
def test_http_bad_settings_are_named(endpoint: str, options: dict[str, object], fragment: str) -> None:
    """Each wrong setting is refused at once, in words that name it; secrets are not repeated."""
    with pytest.raises(SettingsError) as caught:
        probe_of(endpoint, options=options)

    assert fragment in str(caught.value)
    assert ":p@" not in str(caught.value)


def test_unknown_probe_and_credential_are_named() -> None:
    """A probe or credential that does not exist is refused, with what there is."""
    with pytest.raises(SettingsError, match='unknown probe "htp": did you mean "http"'):
        build_probe(AgentSpec(name="a", probe="htp"), credentials={}, limits=LIMITS)
    with pytest.raises(SettingsError, match='names credential "x": settings have none'):
        build_probe(AgentSpec(name="a", endpoint="http://x/", credential="x"), credentials={}, limits=LIMITS)


def test_http_body_limit_of_an_agent(run: Run) -> None:
    """An agent may have a smaller limit of its own."""
    reading = one_answer(lambda exchange: exchange.answer(b"x" * 51), run, options={"body_limit_bytes": 50})

    assert reading.reason == "body over the limit of 50 bytes"
