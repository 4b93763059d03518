"""
One HTTP/1.1 connection to one agent: an asyncio protocol around the parser of ``httptools``.

Everything that an agent can send too much of is bounded here, and the connection is aborted in the moment a bound is
passed: bytes of the head, bytes of the body after decompression (a bomb is never unpacked further than the limit), raw
bytes altogether (a body of empty chunks has none), pieces that a body comes in, and time.

A connection on which more came than one answer per request is never used again: what is left over would be taken for
the answer to the next request.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from typing import cast

import httptools

from collector.config import Limits
from collector.sizes import in_words
from storage.errors import FleetpulseError
from storage.model import Outcome

#: Raw bytes that may arrive per byte that is allowed: room for the framing of chunks of ten bytes and more.
_RAW_FACTOR = 2
#: Pieces (chunks, or what one read of the socket brings) that a body may come in. Each costs the event loop a callback
#: of a microsecond, whatever its size; a body at the limit still may come in pieces of 256 bytes.
_MAX_PIECES = 16_384
#: Members of a compressed body. Servers send one; an empty one costs 20 bytes on the wire and a decompressor here.
_MAX_MEMBERS = 64
#: Let zlib find out by itself whether gzip or zlib framing was used.
_ANY_WBITS = 32 + zlib.MAX_WBITS


class FetchError(FleetpulseError):
    """
    There is no usable answer.

    Attributes:
        outcome: What that makes of the poll.
        status: HTTP status code where the head had come, otherwise 0.
        stale: A kept-alive connection was closed before the first byte of an answer: worth a second try.
        refused: Reason under which the answer counts as a rejection, empty where it is none.
    """

    def __init__(
        self, outcome: Outcome, reason: str, *, status: int = 0, stale: bool = False, refused: str = ""
    ) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.status = status
        self.stale = stale
        self.refused = refused


class Response:
    """A complete answer; only the headers that matter are kept."""

    __slots__ = ("body", "content_encoding", "content_type", "framed", "length", "location", "status")

    def __init__(self) -> None:
        self.status = 0
        self.content_type = b""
        self.content_encoding = b""
        self.location = b""
        #: The head says where the body ends; without, it ends with the connection.
        self.framed = False
        #: Bytes of the body as announced, 0 where nothing was.
        self.length = 0
        self.body = b""


class Connection(asyncio.Protocol):
    """A connection that answers one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._loop = loop
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        # The parser holds this object too: a circle, which connection_lost cuts.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Response] | None = None
        self._closed: asyncio.Future[None] = loop.create_future()
        self._response = Response()
        self._chunks: list[bytes] = []
        self._inflate: zlib._Decompress | None = None
        self._head_only = False
        self._in_body = False
        #: Bytes of the body have come: a compressed one must then have an end.
        self._raw_body = False
        self._raw_bytes = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._pieces = 0
        self._members = 0
        #: Requests answered: a connection that has answered one may have been closed since.
        self._answered = 0
        self._keep = True

    @property
    def usable(self) -> bool:
        """Tell whether a request may be sent."""
        transport = self._transport
        return self._keep and transport is not None and not transport.is_closing()

    async def request(self, data: bytes, deadline: float, *, head_only: bool = False) -> Response:
        """
        Send *data* and return the answer.

        Args:
            deadline: By the clock of the event loop.
            head_only: The answer to ``HEAD`` has no body, whatever its headers say.

        Raises:
            FetchError: There was no usable answer; the connection is closed.
        """
        if self._transport is None or self._waiter is not None:
            raise AssertionError("BUG: request on a connection that is not open or already has one")
        self._head_only = head_only
        self._in_body = False
        self._raw_bytes = self._head_bytes = self._body_bytes = self._pieces = self._members = 0
        if self._closed.done():
            # Lost before it was used: nothing would end the wait.
            raise FetchError(Outcome.ERROR, "connection closed without an answer")
        waiter: asyncio.Future[Response] = self._loop.create_future()
        self._waiter = waiter
        timer = self._loop.call_at(deadline, self._expire)
        self._transport.write(data)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None
            # An idle connection holds no body.
            self._response = Response()
            self._chunks = []
            self._inflate = None
            if not self._keep or waiter.cancelled():
                self.abort()
            # An exception refers to this frame, and the future to the exception.
            del waiter

    def abort(self) -> None:
        """Cut the connection without waiting for anything."""
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        if self._transport is not None:
            await self._closed

    def _expire(self) -> None:
        self._fail(Outcome.TIMEOUT, "timeout")

    def _fail(self, outcome: Outcome, reason: str, *, stale: bool = False, refused: str = "") -> None:
        self._keep = False
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            status = self._response.status
            waiter.set_exception(FetchError(outcome, reason, status=status, stale=stale, refused=refused))
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        response = self._response
        if self._inflate is not None:
            if not self._inflate.eof and self._raw_body:
                self._fail(Outcome.ERROR, "compressed body is cut short")
                return
            self._inflate = None
        chunks = self._chunks
        if chunks:
            response.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._chunks = []
        self._answered += 1
        waiter.set_result(response)

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        # uvloop's transports do everything that asyncio's do but do not derive from them.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; whatever comes when nothing was asked ends the connection."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.abort()
            return
        parser = self._parser
        if parser is None:
            return
        self._raw_bytes += len(data)
        if self._raw_bytes > _RAW_FACTOR * (self._limits.header_bytes + self._limits.body_bytes):
            self._fail(Outcome.ERROR, "answer over the limit", refused="body_limit")
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Outcome.ERROR, "malformed http response: unasked upgrade")
        except httptools.HttpParserCallbackError as exc:
            raise AssertionError("BUG: a callback of the parser failed") from exc
        except httptools.HttpParserError:
            # Bytes after the last answer of a connection are an error as well, but no longer ours.
            self._fail(Outcome.ERROR, "malformed http response")
        else:
            if not self._in_body and not waiter.done():
                self._head_bytes += len(data)
                if self._head_bytes > self._limits.header_bytes:
                    self._fail(Outcome.ERROR, "headers over the limit", refused="header_limit")

    def eof_received(self) -> bool:
        """Close this side as well."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that is under way, if there is one."""
        self._keep = False
        # Never called from within the parser. Where every poll opens a connection, waiting for the garbage collector
        # would keep thousands of them.
        self._parser = None
        if not self._closed.done():
            self._closed.set_result(None)
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._in_body and exc is None and not self._response.framed:
            # Without length and chunks, the end of the connection is the end of the body.
            self._finish()
        elif isinstance(exc, ssl.SSLError):
            self._fail(Outcome.ERROR, tls_reason(exc))
        elif self._raw_bytes:
            self._fail(Outcome.ERROR, "connection closed in the middle of the answer")
        elif isinstance(exc, OSError):
            self._fail(Outcome.ERROR, "connection reset", stale=self._answered > 0)
        else:
            self._fail(Outcome.ERROR, "connection closed without an answer", stale=self._answered > 0)

    # ---------------------------------------------------------------- httptools

    @property
    def _asked(self) -> bool:
        """Tell whether an answer is still waited for."""
        return self._waiter is not None and not self._waiter.done()

    def on_message_begin(self) -> None:
        """Give the connection up where a second answer begins after the one that was asked for."""
        if not self._asked:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what matters of a header; trailers count towards the limit and are ignored."""
        if not self._asked:
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.header_bytes:
            self._fail(Outcome.ERROR, "headers over the limit", refused="header_limit")
            return
        if self._in_body:
            return
        response = self._response
        match name.lower():
            case b"content-type":
                response.content_type = value
            case b"content-length":
                response.framed = True
                # More digits than this are over any limit.
                response.length = int(value) if value.isdigit() and len(value) < 20 else 0
            case b"transfer-encoding":
                response.framed = True
            case b"content-encoding":
                response.content_encoding = value.strip().lower()
            case b"location":
                response.location = value

    def on_headers_complete(self) -> None:
        """Take the status; prepare for the body."""
        parser = self._parser
        if not self._asked or parser is None:
            return
        status = self._response.status = parser.get_status_code()
        if status < 200:
            return
        self._in_body = True
        self._raw_body = False
        self._keep = self._keep and parser.should_keep_alive()
        encoding = self._response.content_encoding
        self._inflate = None
        if self._head_only:
            # The parser waits for the body that the headers announce: it is of no use any more.
            self._parser = httptools.HttpResponseParser(self)
            self._finish()
        elif self._response.length > self._limits.body_bytes:
            self._over()
        elif encoding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflate = zlib.decompressobj(wbits=_ANY_WBITS)
        elif encoding not in (b"", b"identity"):
            self._fail(Outcome.ERROR, "unknown content encoding")

    def on_body(self, data: bytes) -> None:
        """Collect, unpacked and within the limit."""
        if not self._asked:
            # After HEAD, or after a failure.
            self._keep = False
            return
        self._raw_body = True
        self._pieces += 1
        if self._pieces > _MAX_PIECES:
            self._fail(Outcome.ERROR, f"body in more than {_MAX_PIECES} pieces", refused="body_limit")
            return
        if self._inflate is not None:
            unpacked = self._unpack(data)
            if unpacked is None:
                return
            data = unpacked
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            self._chunks = []
            self._over()
            return
        self._chunks.append(data)

    def _over(self) -> None:
        self._fail(Outcome.ERROR, f"body over the limit of {in_words(self._limits.body_bytes)}", refused="body_limit")

    def _unpack(self, data: bytes) -> bytes | None:
        parts: list[bytes] = []
        # One byte more than is allowed is enough to know.
        room = self._limits.body_bytes - self._body_bytes + 1
        inflate = self._inflate
        try:
            while data and inflate is not None and room > 0:
                if inflate.eof:
                    # Further members of a gzip file continue the text.
                    self._members += 1
                    if self._members >= _MAX_MEMBERS:
                        reason = f"compressed body of more than {_MAX_MEMBERS} members"
                        self._fail(Outcome.ERROR, reason, refused="body_limit")
                        return None
                    inflate = self._inflate = zlib.decompressobj(wbits=_ANY_WBITS)
                try:
                    part = inflate.decompress(data, room)
                except zlib.error:
                    if parts or self._body_bytes or inflate.eof:
                        raise
                    # "deflate" without the zlib frame that the standard asks for: seen in the wild.
                    inflate = self._inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
                    part = inflate.decompress(data, room)
                parts.append(part)
                room -= len(part)
                data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        except zlib.error:
            self._fail(Outcome.ERROR, "malformed compressed body")
            return None
        return b"".join(parts)

    def on_message_complete(self) -> None:
        """Hand the answer over; interim answers (1xx) are skipped."""
        if not self._asked:
            return
        if self._response.status >= 200:
            self._finish()
        else:
            self._response = Response()


def tls_reason(exc: ssl.SSLError) -> str:
    """Return what went wrong with TLS, in OpenSSL's words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"tls: {exc.verify_message}".rstrip(".")
    return f"tls: {(exc.reason or 'handshake failed').lower().replace('_', ' ')}"
