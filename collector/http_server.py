"""
``/health`` and ``/metrics`` of the daemon, on loopback.

As little HTTP as two pages need: requests with ``GET`` or ``HEAD``, one per connection, under a deadline and a size
limit. The daemon's event loop serves them, so whatever asks gets an answer only while the daemon is alive.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from collector.vitals import Vitals
from storage.errors import SettingsError
from storage.model import MetricKey

log = logging.getLogger(__name__)

#: Bytes of a request with all its headers.
REQUEST_BYTES = 8 * 1024
#: Seconds for a whole exchange: a client that says nothing must not keep a connection.
EXCHANGE_S = 5.0

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An answer."""

    status: int
    content_type: str
    body: str


def render_metrics(samples: Iterable[tuple[MetricKey, float]]) -> str:
    """Return samples as Prometheus text 0.0.4; the series of one name stand together."""
    families: dict[str, list[str]] = {}
    for key, value in samples:
        lines = families.setdefault(key.name, [])
        if not lines:
            lines.append(f"# HELP {key.name} {_escaped(key.description, quote=False)}")
            lines.append(f"# TYPE {key.name} {key.kind.value}")
        labels = ",".join(f'{name}="{_escaped(text, quote=True)}"' for name, text in key.labels)
        lines.append(f"{key.name}{{{labels}}} {_number(value)}" if labels else f"{key.name} {_number(value)}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def _escaped(text: str, *, quote: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def render_health(vitals: Vitals, *, name: str, version: str) -> Page:
    """Return the daemon's health as ``application/health+json``; 503 when it fails."""
    status, parts = vitals.health()
    content: dict[str, object] = {
        "status": status,
        "version": "1",
        "releaseId": version,
        "serviceId": f"fleetpulse/{name}",
        "description": "fleetpulse collector",
        "checks": {
            part: [
                {
                    "componentType": check.component_type,
                    "observedValue": check.observed_value,
                    "observedUnit": check.observed_unit,
                    "status": check.status,
                    **({"output": check.output} if check.output else {}),
                }
            ]
            for part, check in vitals.checks().items()
        },
    }
    if parts:
        content["output"] = parts
    return Page(
        status=503 if status == "fail" else 200,
        content_type="application/health+json",
        body=json.dumps(content, indent=1) + "\n",
    )


class HttpServer:
    """
    Serves pages by path.

    Args:
        pages: Path to what makes the page, on the event loop.
    """

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._exchanges: set[asyncio.Task[None]] = set()
        #: Port that is listened on, once started.
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """
        Listen.

        Raises:
            SettingsError: The address cannot be had.
        """
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES)
        except OSError as exc:
            raise SettingsError(
                f"collector.listen {host}:{port} cannot be used: {exc.strerror or exc}; "
                "choose another port, 0 picks a free one"
            ) from exc
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no longer, and end what runs."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._exchanges):
            task.cancel()
        if self._exchanges:
            await asyncio.wait(self._exchanges)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._exchanges.add(task)
            task.add_done_callback(self._exchanges.discard)
        try:
            async with asyncio.timeout(EXCHANGE_S):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError) as exc:
            # A client that leaves, or ``close``, the only one that cancels: neither is worth a line.
            log.debug("page was not served: %r", exc)
        except Exception:
            log.exception("page could not be served", extra={"event": "page_failed"})
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            page = _text(400, "bad request")
        elif words[0] not in (b"GET", b"HEAD"):
            page = _text(405, "only GET and HEAD")
        else:
            make = self._pages.get(words[1].partition(b"?")[0].decode("latin-1"))
            page = make() if make is not None else _text(404, f"there is {', '.join(sorted(self._pages))}")
        body = page.body.encode()
        writer.write(
            f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\n"
            f"Content-Type: {page.content_type}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode("latin-1")
        )
        if words[0] != b"HEAD":
            writer.write(body)
        await writer.drain()


def _text(status: int, text: str) -> Page:
    return Page(status=status, content_type="text/plain; charset=utf-8", body=text + "\n")
