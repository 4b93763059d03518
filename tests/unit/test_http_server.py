"""
The daemon's two pages: real sockets, good and bad requests, and a text that Prometheus' own parser reads.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Callable, Coroutine

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector import http_server
from collector.http_server import HttpServer, Page, render_metrics
from collector.logs import JsonFormatter, TextFormatter, configure
from storage.errors import SettingsError
from storage.model import Kind, MetricKey

WAIT_S = 10.0


def go(work: Coroutine[None, None, None]) -> None:
    """Run *work* to its end, within a deadline."""
    asyncio.run(asyncio.wait_for(work, WAIT_S))


def page() -> Page:
    """Return a page."""
    return Page(status=200, content_type="text/plain", body="päge\n")


async def exchange(port: int, request: bytes) -> bytes:
    """Send bytes; return everything that comes back until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"200 OK", "päge\n".encode()),
        (b"GET /x?y=1 HTTP/1.0\r\n\r\n", b"200 OK", "päge\n".encode()),
        (b"HEAD /x HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"GET /y HTTP/1.1\r\n\r\n", b"404 Not Found", b"there is /x\n"),
        (b"POST /x HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"only GET and HEAD\n"),
        (b"\x16\x03\x01 no http\r\n\r\n", b"400 Bad Request", b"bad request\n"),
        (b"GET /x HTTP/1.1\r\nA: " + b"x" * 10_000 + b"\r\n\r\n", b"400 Bad Request", b"bad request\n"),
    ],
)
def test_answer(request_: bytes, status: bytes, body: bytes) -> None:
    """Each request gets the answer that HTTP has for it, and the connection is closed."""

    async def work() -> None:
        server = HttpServer({"/x": page})
        await server.start("127.0.0.1", 0)
        answer = await exchange(server.port, request_)
        await server.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert rest == body

    go(work())


def test_silent_client_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects and says nothing does not keep the connection."""
    monkeypatch.setattr(http_server, "EXCHANGE_S", 0.05)

    async def work() -> None:
        server = HttpServer({"/x": page})
        await server.start("127.0.0.1", 0)
        assert await exchange(server.port, b"GET /x") == b""
        await server.close()

    go(work())


def test_close_ends_open_exchanges() -> None:
    """The end of the daemon does not wait for a client."""

    async def work() -> None:
        server = HttpServer({"/x": page})
        await server.start("127.0.0.1", 0)
        answer = asyncio.create_task(exchange(server.port, b"GET /x"))
        while not server._exchanges:
            await asyncio.sleep(0)
        await server.close()
        assert await answer == b""

    go(work())


def test_page_that_fails_is_logged_and_serves_on(caplog: pytest.LogCaptureFixture) -> None:
    """A defect in a page ends that exchange alone."""

    def broken() -> Page:
        raise ZeroDivisionError("a defect")

    async def work() -> None:
        pages: dict[str, Callable[[], Page]] = {"/x": page, "/broken": broken}
        server = HttpServer(pages)
        await server.start("127.0.0.1", 0)
        assert await exchange(server.port, b"GET /broken HTTP/1.1\r\n\r\n") == b""
        assert b"200 OK" in await exchange(server.port, b"GET /x HTTP/1.1\r\n\r\n")
        await server.close()

    go(work())
    assert "a defect" in caplog.text


def test_taken_port_is_an_error_with_the_remedy() -> None:
    """The message names the setting, the address and port 0."""

    async def work() -> None:
        first, second = HttpServer({}), HttpServer({})
        await first.start("127.0.0.1", 0)
        with pytest.raises(SettingsError, match=rf"collector\.listen 127\.0\.0\.1:{first.port} .* 0 picks a free one"):
            await second.start("127.0.0.1", first.port)
        await first.close()
        await second.close()

    go(work())


def test_metrics_are_read_back_by_the_reference_parser() -> None:
    """Names, kinds, help, hard labels and values come back as they went in, one family per name."""
    hard = 'a "quoted" \\ back\nslash'
    samples = [
        (MetricKey(name="n_total", labels=(("r", hard),), kind=Kind.COUNTER, description="Line\nbreak \\."), 3.0),
        (MetricKey(name="g", description="G."), 0.1),
        (MetricKey(name="n_total", labels=(("r", "b"),), kind=Kind.COUNTER, description="Line\nbreak \\."), 1e20),
        (MetricKey(name="i"), float("-inf")),
    ]
    families = {family.name: family for family in text_string_to_metric_families(render_metrics(samples))}

    assert set(families) == {"n", "g", "i"}
    assert (families["n"].type, families["n"].documentation) == ("counter", "Line\nbreak \\.")
    assert [(s.labels, s.value) for s in families["n"].samples] == [({"r": hard}, 3.0), ({"r": "b"}, 1e20)]
    assert families["g"].samples[0].value == 0.1
    assert families["i"].samples[0].value == float("-inf")


def test_json_lines_carry_event_and_figures() -> None:
    """A machine finds time, level, message, event and figures as keys; an exception as text."""
    record = logging.LogRecord("collector.x", logging.INFO, "", 0, "%d rows", (3,), None)
    record.event, record.rows = "flush", 3
    line = json.loads(JsonFormatter().format(record))
    try:
        raise ValueError("cause")
    except ValueError:
        failed = logging.LogRecord("collector.x", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    error = json.loads(JsonFormatter().format(failed))

    assert (line["level"], line["logger"], line["message"], line["event"], line["rows"]) == (
        "info",
        "collector.x",
        "3 rows",
        "flush",
        3,
    )
    assert line["time"].endswith("+00:00")
    assert set(line) == {"time", "level", "logger", "message", "event", "rows"}
    assert "ValueError: cause" in error["exception"]


def test_text_lines_are_utc() -> None:
    """A person reads time in UTC to the millisecond, level and message."""
    record = logging.LogRecord("collector.x", logging.WARNING, "", 0, "hello", (), None)
    record.created = 1_773_144_000.25

    assert TextFormatter().format(record) == "2026-03-10T12:00:00.250Z WARNING  hello"


def test_configure_replaces_what_was_there() -> None:
    """After ``configure`` every line goes to the one stream, once."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    # pytest's own handlers are put back afterwards; ``configure`` would close them.
    root.handlers[:] = []
    stream = io.StringIO()
    try:
        configure(io.StringIO(), as_json=True)
        configure(stream, as_json=True, level=logging.WARNING)
        logging.getLogger("collector.x").info("quiet")
        logging.getLogger("collector.x").warning("loud")
    finally:
        root.handlers[:] = before
        root.setLevel(level)

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]
