"""The probe ``tcp`` against real sockets."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping

import pytest
import uvloop

from collector.config import Credential, Limits
from collector.probes import Reading, build_probe
from storage.errors import SettingsError
from storage.model import AgentSpec, Outcome
from tests.loopback import Certificates, Loopback, forever

Run = Callable[[Coroutine[object, object, None]], None]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on each of the two event loops."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


def poll(
    run: Run, talk: Talk, options: Mapping[str, object] | None = None, *, deadline_s: float = 5.0, patient: bool = False
) -> Reading:
    """Return the reading of one poll of a server that behaves like *talk*, which may finish where *patient*."""
    readings = []

    async def main() -> None:
        tasks = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(asyncio.current_task())
            try:
                await talk(reader, writer)
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        spec = AgentSpec(name="a", probe="tcp", endpoint=endpoint, options=options or {})
        readings.append(await build_probe(spec, credentials={}, limits=Limits()).poll(deadline_s))
        server.close()
        if patient:
            await asyncio.wait([task for task in tasks if task is not None], timeout=30)
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        await server.wait_closed()

    run(main())
    return readings[0]


async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail rea")
    await writer.drain()
    writer.write(b"dy\r\n")
    await reader.read()


async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.readline() == b"PING\r\n":
        writer.write(b"+PONG\r\n")
    await reader.read()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await forever()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"busy")


def test_tcp_connect_is_enough(run: Run) -> None:
    """Without an expectation, being connected to is healthy, and its latency is known."""
    reading = poll(run, silent)

    assert (reading.outcome, reading.reason) == (Outcome.HEALTHY, "")
    assert 0 < reading.latency_ms < 5000


@pytest.mark.parametrize(
    ("talk", "options", "outcome", "reason"),
    [
        (banner, {"expect": "mail ready"}, Outcome.HEALTHY, ""),
        (redis, {"send": "PING\r\n", "expect": "+PONG"}, Outcome.HEALTHY, ""),
        (redis, {"send": "PING\r\n"}, Outcome.HEALTHY, ""),
        (hang_up, {"expect": "ready"}, Outcome.UNHEALTHY, "expected text not received"),
        (endless, {"expect": "ready"}, Outcome.UNHEALTHY, "expected text not received"),
    ],
)
def test_tcp_conversation(run: Run, talk: Talk, options: dict[str, object], outcome: Outcome, reason: str) -> None:
    """The expected text, in one piece or several, makes the agent healthy; its absence does not."""
    reading = poll(run, talk, options)

    assert (reading.outcome, reading.reason) == (outcome, reason)


def test_tcp_silence_is_a_timeout(run: Run) -> None:
    """An answer that does not come ends at the deadline."""
    reading = poll(run, silent, {"expect": "x"}, deadline_s=0.1)

    assert (reading.outcome, reading.reason) == (Outcome.TIMEOUT, "timeout after 10s")
    assert math.isnan(reading.latency_ms)


def test_tcp_what_is_sent_arrives_though_nothing_is_expected(run: Run) -> None:
    """The connection is not cut before the last byte is out."""
    received = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    poll(run, listen, {"send": "x" * 1000}, patient=True)

    assert received == [b"x" * 1000]


def test_tcp_refused(run: Run) -> None:
    """A port that nobody listens on is refused."""
    readings = []

    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            spec = AgentSpec(name="a", probe="tcp", endpoint=f"127.0.0.1:{taken.getsockname()[1]}")
            readings.append(await build_probe(spec, credentials={}, limits=Limits()).poll(5))

    run(main())

    assert (readings[0].outcome, readings[0].reason) == (Outcome.REFUSED, "connection refused")


def test_tcp_tls(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With tls the handshake must succeed under the credential's authority, which other hosts do not get."""
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    outcomes = []

    async def main() -> None:
        context = certificates.server_context("IP:127.0.0.1")
        async with Loopback(lambda exchange: exchange.answer(), context=context) as server:
            for hosts, name in ((("127.0.0.1",), "c"), (("elsewhere",), "c"), ((), "")):
                credentials = {"c": Credential(name="c", hosts=hosts, ca_file=certificates.ca)}
                endpoint = f"127.0.0.1:{server.port}"
                spec = AgentSpec(name="a", probe="tcp", endpoint=endpoint, credential=name, options={"tls": True})
                reading = await build_probe(spec, credentials=credentials, limits=Limits()).poll(5)
                outcomes.append((reading.outcome, reading.reason))

    run(main())

    assert outcomes == [
        (Outcome.HEALTHY, ""),
        (Outcome.ERROR, "credential not allowed for host"),
        (Outcome.ERROR, "tls: unable to get local issuer certificate"),
    ]


@pytest.mark.parametrize("endpoint", ["", "x", "x:", ":1", "x:0", "x:65536", "::1:80", "http://x:80", "x:80/"])
def test_tcp_bad_endpoints(endpoint: str) -> None:
    """What is no address is refused with the form that is expected."""
    with pytest.raises(SettingsError, match="expected host:port"):
        build_probe(AgentSpec(name="a", probe="tcp", endpoint=endpoint), credentials={}, limits=Limits())


def test_tcp_bad_endpoint_shows_no_secret() -> None:
    """A URL with a password in place of an address is refused without the password."""
    with pytest.raises(SettingsError) as caught:
        build_probe(
            AgentSpec(name="a", probe="tcp", endpoint="redis://:hunter2@h:6379"), credentials={}, limits=Limits()
        )

    assert "hunter2" not in str(caught.value)
    assert "h:6379" in str(caught.value)
