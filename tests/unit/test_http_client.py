"""URLs, requests and connecting: what the client of one agent does below the probe."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from collector.config import Credential, Limits
from collector.credentials import CredentialError, Secret, default_context, header_line
from collector.http_client import HttpClient, build_request, connect, parse_url
from collector.http_connection import Connection, FetchError
from storage.errors import SettingsError
from storage.model import Outcome
from tests.loopback import Exchange, Loopback, forever

Run = Callable[[Coroutine[object, object, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on each of the two event loops."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


def client() -> HttpClient:
    return HttpClient(Limits(), context=default_context, foreign_context=default_context)


@pytest.mark.parametrize(
    ("url", "target", "host", "canonical"),
    [
        ("http://Example.ORG", "/", "example.org", "http://example.org/"),
        ("http://x:80/a?b=c#frag", "/a?b=c", "x", "http://x/a?b=c"),
        ("https://x:443/", "/", "x", "https://x/"),
        ("https://x:80/", "/", "x:80", "https://x:80/"),
        ("http://[::1]:8080/h", "/h", "[::1]:8080", "http://[::1]:8080/h"),
        ("http://bücher.example/ä?q=ö", "/%C3%A4?q=%C3%B6", "xn--bcher-kva.example", None),
        ('http://x/a"b%20c', "/a%22b%20c", "x", None),
    ],
)
def test_parse_url(url: str, target: str, host: str, canonical: str | None) -> None:
    """A URL is taken apart into what the request line and the Host header need."""
    address = parse_url(url)

    assert (address.target, address.host_header) == (target, host)
    assert canonical is None or address.url == canonical
    assert build_request(address, "GET", b"A: b\r\n") == (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nA: b\r\n\r\n".encode()
    )


@pytest.mark.parametrize(
    "url",
    ["", "x", "/path", "http://", "http:///x", "ftp://x/", "http://a b/", "http://x/\n", "http://u@x/", "http://x:y/"],
)
def test_parse_url_refuses(url: str) -> None:
    """What is no absolute http URL, holds a secret or could break out of the request line is refused."""
    with pytest.raises(SettingsError):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "htp://bob:hunter2@h/",
        "http://bob:hunter2@h:99999/",
        "http://bob:hunter2@h:x/",
        "http://bob:hunter2@h/a b",
        "http://bob:hunter2@h\u2100/",
        "http://bob:hunter2@h/",
        "bob:hunter2@h/",
    ],
)
def test_parse_url_shows_no_secret(url: str) -> None:
    """Whatever is wrong with a URL, a password in it does not reach the message, nor what a traceback would print."""
    with pytest.raises(SettingsError) as caught:
        parse_url(url)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "\0"), ("X:", "a"), ("", "a"), ("X\r\n", "a"), ("X Y", "a")],
)
def test_header_line_refuses_injection(name: str, value: str) -> None:
    """Nothing that goes into a header can end it."""
    with pytest.raises(CredentialError):
        header_line(name, value, "it")


def test_header_line_takes_tokens_and_text() -> None:
    """A name may be any token; a value may hold tabs and what is not ASCII."""
    assert header_line("X-a_1.~|!", "a\tü", "it") == "X-a_1.~|!: a\tü\r\n".encode()


def test_secret_hosts_are_patterns(tmp_path: Path) -> None:
    """A credential goes to the hosts that it names, whatever their case, and to no other."""
    secret = Secret(Credential(name="c", hosts=("api.example.org", "*.internal")))

    assert secret.allows("API.example.org")
    assert secret.allows("a.b.internal")
    assert not secret.allows("example.org")
    assert not secret.allows("internal")
    assert not secret.allows("api.example.org.evil.com")
    assert not Secret(Credential(name="c", hosts=())).allows("x")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "file is empty"), (b" \n", "file is empty"), (b"\xff", "not utf-8")]
)
def test_secret_files_that_hold_none(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file without a usable secret is told, not sent."""
    path = tmp_path / "token"
    path.write_bytes(content)

    with pytest.raises(CredentialError, match=reason):
        Secret(Credential(name="c", hosts=("*",), bearer_token_file=path)).headers()


def test_default_context_is_shared() -> None:
    """All agents verify with one context: loading the authorities costs half a megabyte each time."""
    assert default_context() is default_context()


def test_connect_tries_the_next_address(run: Run) -> None:
    """A name whose first address refuses is reached at its second."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Loopback(lambda exchange: exchange.answer()) as server:
            # localhost is ::1 and 127.0.0.1 where the machine has both; the server has the latter alone.
            protocol = await connect(
                loop, lambda: Connection(loop, Limits()), "localhost", server.port, loop.time() + 5
            )
            assert protocol.usable
            protocol.abort()
            await protocol.wait_closed()

    run(main())


def test_connect_ends_at_the_deadline(run: Run) -> None:
    """A listener whose queue is full neither accepts nor refuses: the attempt ends as a timeout."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            waiting = []
            try:
                # The kernel takes a connection or two beyond the backlog.
                for _ in range(8):
                    filler = socket.socket()
                    filler.setblocking(False)
                    waiting.append(filler)
                    filler.connect_ex(listener.getsockname())
                port = listener.getsockname()[1]
                with pytest.raises(FetchError) as caught:
                    await connect(loop, lambda: Connection(loop, Limits()), "127.0.0.1", port, loop.time() + 0.2)
                assert caught.value.outcome is Outcome.TIMEOUT
            finally:
                for filler in waiting:
                    filler.close()

    run(main())


def test_client_keeps_few_connections(run: Run) -> None:
    """Redirects to ever other places do not leave a trail of open connections."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        servers = [Loopback(lambda exchange: exchange.answer()) for _ in range(5)]
        for server in servers:
            await server.__aenter__()
        one = client()
        for server in servers:
            address = parse_url(server.url())
            response = await one.fetch(address, build_request(address, "GET", b""), b"", loop.time() + 5)
            assert response.status == 200
        assert len(one._connections) == 3
        await one.aclose()
        assert not one._connections
        for server in servers:
            await server.__aexit__(None, None, None)

    run(main())


def test_client_survives_a_change_of_the_event_loop() -> None:
    """A client used on a second loop opens a new connection there."""
    one = client()
    statuses = []

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer()) as server:
            address = parse_url(server.url())
            deadline = asyncio.get_running_loop().time() + 5
            statuses.append((await one.fetch(address, build_request(address, "GET", b""), b"", deadline)).status)
            await one.aclose()

    asyncio.run(main())
    uvloop.run(main())

    assert statuses == [200, 200]


def test_close_ends_the_fetch_under_way(run: Run) -> None:
    """Closing the client while an answer is awaited ends the wait with an error, not with a hang."""

    async def main() -> None:
        asked = asyncio.Event()

        async def handler(exchange: Exchange) -> None:
            asked.set()
            await forever()

        async with Loopback(handler) as server:
            one = client()
            address = parse_url(server.url())
            deadline = asyncio.get_running_loop().time() + 30
            task = asyncio.ensure_future(one.fetch(address, build_request(address, "GET", b""), b"", deadline))
            await asked.wait()
            one.close()
            with pytest.raises(FetchError) as caught:
                await task
            assert caught.value.outcome is Outcome.ERROR

    run(main())


def test_dead_name_server_takes_one_thread_per_agent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups that hang keep one thread for each client, however often it asks, and nobody else waits for them."""
    release, asked = threading.Event(), []
    real = socket.getaddrinfo

    def look_up(host: str, *args: object, **kwargs: object) -> object:
        if host == "dead.example":
            asked.append(host)
            release.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    clients = [client() for _ in range(40)]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        dead = parse_url("http://dead.example/")
        async with Loopback(lambda exchange: exchange.answer()) as server:
            for _ in range(2):
                results = await asyncio.gather(
                    *(one.fetch(dead, build_request(dead, "GET", b""), b"", loop.time() + 0.1) for one in clients),
                    return_exceptions=True,
                )
                assert {getattr(result, "outcome", None) for result in results} == {Outcome.TIMEOUT}
            assert len(asked) == 40
            address = parse_url(server.url(host="localhost"))
            other = client()
            response = await other.fetch(address, build_request(address, "GET", b""), b"", loop.time() + 10)
            assert response.status == 200
            await other.aclose()

    try:
        run(main())
    finally:
        release.set()


def test_idle_connection_holds_no_body(run: Run) -> None:
    """Once an answer is handed over, the connection that brought it has let go of it."""

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer(b"x" * 1000)) as server:
            one = client()
            address = parse_url(server.url())
            deadline = asyncio.get_running_loop().time() + 5
            response = await one.fetch(address, build_request(address, "GET", b""), b"", deadline)
            assert len(response.body) == 1000
            (connection,) = one._connections.values()
            assert connection.usable
            assert not [found for found in gc.get_referrers(response) if found is connection]
            await one.aclose()

    run(main())


@pytest.mark.parametrize("status", ["200 OK", ""])
def test_dead_connections_need_no_garbage_collector(run: Run, status: str) -> None:
    """A connection that the agent closed, after an answer or in place of one, goes with its last reference."""

    async def main() -> None:
        async def handler(exchange: Exchange) -> None:
            if status:
                await exchange.answer(status=status, headers="Connection: close\r\n")
            exchange.hang_up()

        async with Loopback(handler) as server:
            loop = asyncio.get_running_loop()
            address = parse_url(server.url())
            connection: Connection | None
            connection = await connect(
                loop, lambda: Connection(loop, Limits()), "127.0.0.1", server.port, loop.time() + 5
            )
            try:
                await connection.request(build_request(address, "GET", b""), loop.time() + 5)
            except FetchError:
                assert not status
            await connection.wait_closed()
            gone, dead = asyncio.Event(), weakref.ref(connection, lambda _: gone.set())
            gc.disable()
            try:
                connection = None
                # The loop lets go of the transport in its next turns.
                async with asyncio.timeout(5):
                    await gone.wait()
            finally:
                gc.enable()
            assert dead() is None

    run(main())


def test_request_on_a_connection_lost_before_fails_at_once(run: Run) -> None:
    """A connection that ends between connecting and asking is an error, not a wait until the deadline."""

    async def main() -> None:
        async with Loopback(lambda exchange: exchange.answer()) as server:
            loop = asyncio.get_running_loop()
            connection = await connect(
                loop, lambda: Connection(loop, Limits()), "127.0.0.1", server.port, loop.time() + 5
            )
            connection.abort()
            await connection.wait_closed()
            with pytest.raises(FetchError, match="connection closed without an answer"):
                await connection.request(b"GET / HTTP/1.1\r\n\r\n", loop.time() + 30)

    run(main())
