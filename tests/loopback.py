"""
Small servers on loopback whose every byte a test decides, and certificates for them.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

Handler = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request, and the means to answer it."""

    def __init__(self, request: bytes, number: int, connection: int, writer: asyncio.StreamWriter) -> None:
        #: Head of the request as it came.
        self.request = request
        #: Requests and connections before this one.
        self.number = number
        self.connection = connection
        self.writer = writer

    @property
    def path(self) -> str:
        """Return the target of the request line."""
        return self.request.split(b" ")[1].decode()

    def header(self, name: str) -> str | None:
        """Return the value of a header, ``None`` where it is missing."""
        for line in self.request.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name.lower():
                return value
        return None

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, body: bytes = b"ok", *, status: str = "200 OK", content_type: str = "text/html", headers: str = ""
    ) -> None:
        """Send an answer of known length."""
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        await self.send(head.encode() + body)

    def hang_up(self) -> None:
        """Close the connection."""
        self.writer.close()


class Loopback:
    """An HTTP server on 127.0.0.1 (or ::1) that leaves the answers to *handler*; remembers what it was asked."""

    def __init__(self, handler: Handler, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._handler = handler
        self._context = context
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self.exchanges: list[Exchange] = []
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, 0, ssl=self._context)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, path: str = "/", *, scheme: str = "http", host: str = "") -> str:
        """Return the URL of *path* here."""
        shown = host or (f"[{self._host}]" if ":" in self._host else self._host)
        return f"{scheme}://{shown}:{self.port}{path}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        connection = self.connections
        self.connections += 1
        try:
            while not writer.is_closing():
                request = await reader.readuntil(b"\r\n\r\n")
                exchange = Exchange(request, len(self.exchanges), connection, writer)
                self.exchanges.append(exchange)
                await self._handler(exchange)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError, ssl.SSLError):
            # The client, or the end of the test, cut it: nothing that a test waits for.
            pass
        finally:
            writer.transport.abort()
            if task is not None:
                self._tasks.discard(task)


def forever() -> asyncio.Future[None]:
    """Return what is never done: a handler that awaits it hangs until the test ends."""
    return asyncio.get_running_loop().create_future()


class Certificates:
    """A throw-away authority and what it signs, made by the ``openssl`` command."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._ca_key = folder / "ca.key"
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign", "-keyout", str(self._ca_key),
            "-out", str(self.ca),
        )  # fmt: skip

    def issue(self, name: str, subject: str, *, days: int = 1) -> tuple[Path, Path]:
        """Return certificate and key for *subject* (``DNS:localhost,IP:127.0.0.1``); expired with negative *days*."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\nkeyUsage=digitalSignature\n")
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.ca), "-CAkey", str(self._ca_key), "-CAcreateserial",
            "-days", str(days), "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key

    def server_context(self, subject: str, *, days: int = 1, clients: bool = False) -> ssl.SSLContext:
        """Return the context of a server for *subject* that asks for client certificates where *clients* is true."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(f"server{days}{clients}", subject, days=days))
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
