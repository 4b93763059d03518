"""
One connection to a simulated fleet: reads requests and delivers answers, with everything that may be wrong with them.

Write buffers are limited to nothing, so that a transport says ``pause_writing`` as soon as the kernel does not take a
byte: that is how the moment is known at which an answer was handed over.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Mapping
from typing import Protocol, cast

import httptools

from collector.simulator.agent import BAD_REQUEST, NOT_ALLOWED, NOT_FOUND, Answer, Delivery, SimulatedAgent

#: Header by which a collector tells the due time of its slot, in microseconds since the Unix epoch.
DUE_HEADER = b"x-fleetpulse-due"
#: Seconds between two bytes of a drip.
DRIP_S = 0.2
#: Requests that a connection may send ahead of their answers.
MAX_PIPELINED = 64

_CHUNK_BYTES = 65_536
#: Blank lines: padding that means nothing in JSON and in an exposition. One copy serves every huge body.
_PADDING = memoryview((b" " * 63 + b"\n") * (_CHUNK_BYTES // 64))
_CHUNKED_PADDING = b"".join((b"%x\r\n" % _CHUNK_BYTES, _PADDING, b"\r\n"))
#: Chunks written before other connections get a turn: 1 MiB takes the kernel about 0.3 ms.
_CHUNKS_PER_TURN = 16


class Request:
    """A request that is read and not yet answered."""

    __slots__ = ("arrived_us", "due_us", "keep_alive", "method", "path")

    def __init__(self, method: bytes, path: str, due_us: int | None, arrived_us: int, keep_alive: bool) -> None:
        """
        Keep what was read.

        Args:
            method: As sent.
            path: Without the query.
            due_us: Due time of the slot, where the header told one.
            arrived_us: When the request was complete; microseconds since the Unix epoch, like the due time.
            keep_alive: The client may send more on this connection.
        """
        self.method = method
        self.path = path
        self.due_us = due_us
        self.arrived_us = arrived_us
        self.keep_alive = keep_alive


class Host(Protocol):
    """What a connection needs of the server."""

    def wall_us(self) -> int:
        """Return the time of the log's clock, in microseconds since the Unix epoch."""

    def answer(self, agent: SimulatedAgent, path: str) -> Answer:
        """Return what a request for *path* of *agent* is answered with now."""

    def served(
        self, agent: SimulatedAgent, request: Request, answer: Answer, *, size_bytes: int, done_us: int | None
    ) -> None:
        """Log one request."""


class Connection(asyncio.Protocol):
    """
    One connection of a client.

    Requests are answered in their order, one at a time; those that come in the meantime wait.
    """

    __slots__ = (
        "_agent",
        "_answer",
        "_closing",
        "_connections",
        "_due_us",
        "_host",
        "_parser",
        "_paused",
        "_remaining",
        "_request",
        "_requests",
        "_routes",
        "_size_bytes",
        "_timer",
        "_transport",
        "_url",
    )

    def __init__(self, host: Host, routes: Mapping[str, SimulatedAgent], connections: set[Connection]) -> None:
        """
        Make a connection that is not connected yet.

        Args:
            host: The server.
            routes: Path to agent.
            connections: Where the connection is found until it is lost.
        """
        self._host = host
        self._routes = routes
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url = b""
        self._due_us: int | None = None
        self._requests: deque[Request] = deque()
        self._paused = False
        self._closing = False
        #: What is being answered, ``None`` in between.
        self._request: Request | None = None
        self._agent: SimulatedAgent | None = None
        self._answer: Answer | None = None
        #: Bytes of it given to the transport, and bytes of padding still to be given.
        self._size_bytes = 0
        self._remaining = 0
        self._timer: asyncio.Handle | None = None
        # From now on and not only once connected: a door that closes in between must not overlook it.
        connections.add(self)

    # ------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and no check: the transports of uvloop are not registered as such.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0)
        if self._closing:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._finish(done=False)
        # The parser knows us and we know it: without this the pair waits for the garbage collector.
        self._parser = None
        self._transport = None
        self._requests.clear()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._write(BAD_REQUEST)
            self._close()
            return
        if len(self._requests) > MAX_PIPELINED:
            self._close()
            return
        self._next()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._answer is None:
            return
        if self._answer.delivery is Delivery.PADDED:
            self._pad()
        elif self._answer.delivery is Delivery.WHOLE:
            self._finish(done=True)
            self._next()

    # ------------------------------------------------------------ parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._due_us = None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == len(DUE_HEADER) and name.lower() == DUE_HEADER and len(value) <= 18 and value.isdigit():
            self._due_us = int(value)

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        path = self._url.partition(b"?")[0].decode("latin-1")
        self._requests.append(
            Request(parser.get_method(), path, self._due_us, self._host.wall_us(), parser.should_keep_alive())
        )

    # ------------------------------------------------------------ answers

    def abandon(self) -> None:
        """Log what is not finished and cut the connection."""
        self._finish(done=False)
        if self._transport is not None:
            self._transport.abort()

    def close_when_idle(self) -> None:
        """Close the connection once nothing is being answered."""
        self._closing = True
        if self._request is None:
            self._close()

    def _next(self) -> None:
        while self._requests and self._request is None and self._transport is not None:
            request = self._requests.popleft()
            agent = self._routes.get(request.path)
            if not request.keep_alive:
                self._closing = True
            if agent is None or request.method != b"GET":
                self._write(NOT_FOUND if agent is None else NOT_ALLOWED)
                if self._closing:
                    self._close()
                continue
            self._request = request
            self._agent = agent
            self._answer = self._host.answer(agent, request.path)
            self._size_bytes = 0
            self._deliver(self._answer)

    def _deliver(self, answer: Answer) -> None:
        match answer.delivery:
            case Delivery.WHOLE:
                self._write(answer.data)
                if not self._paused:
                    self._finish(done=True)
            case Delivery.PADDED:
                self._remaining = answer.padding
                self._write(answer.data)
                self._pad()
            case Delivery.NEVER | Delivery.DRIP:
                # Logged now: the end of this is up to the client, and may never come.
                self._write(answer.data)
                self._log(done_us=None)
                if answer.delivery is Delivery.DRIP:
                    self._remaining = answer.padding
                    self._drip()
            case Delivery.RESET:
                self._reset()

    def _write(self, data: bytes | memoryview) -> None:
        if self._transport is not None:
            self._transport.write(data)
            self._size_bytes += len(data)

    def _pad(self) -> None:
        answer = self._answer
        assert answer is not None
        self._timer = None
        for _ in range(_CHUNKS_PER_TURN):
            if self._paused:
                return
            if self._remaining < 0:
                self._finish(done=True)
                self._next()
                return
            if self._remaining == 0:
                self._remaining = -1
                if answer.chunked:
                    self._write(b"0\r\n\r\n")
                continue
            if answer.chunked:
                self._write(_CHUNKED_PADDING)
            else:
                self._write(_PADDING[: self._remaining])
            self._remaining = max(0, self._remaining - _CHUNK_BYTES)
        self._timer = asyncio.get_running_loop().call_soon(self._pad)

    def _drip(self) -> None:
        self._timer = None
        if self._remaining > 0:
            if not self._paused:
                self._write(b"\n")
                self._remaining -= 1
            self._timer = asyncio.get_running_loop().call_later(DRIP_S, self._drip)
        else:
            self._request = None
            self._close()

    def _reset(self) -> None:
        transport = self._transport
        assert transport is not None
        self._finish(done=False)
        # Lingering for no time makes the kernel send RST instead of FIN. By the number of the descriptor,
        # because event loops hide the socket behind objects with methods of their own choice.
        sock = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.detach()
        transport.abort()
        self._transport = None

    def _finish(self, *, done: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._request is None or self._answer is None:
            return
        if self._answer.delivery not in (Delivery.NEVER, Delivery.DRIP):
            self._log(done_us=self._host.wall_us() if done else None)
        self._request = self._answer = self._agent = None
        if self._closing:
            self._close()

    def _log(self, *, done_us: int | None) -> None:
        assert self._request is not None
        assert self._answer is not None
        assert self._agent is not None
        size_bytes = self._size_bytes
        if done_us is None and self._transport is not None:
            size_bytes -= self._transport.get_write_buffer_size()
        self._host.served(self._agent, self._request, self._answer, size_bytes=size_bytes, done_us=done_us)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
