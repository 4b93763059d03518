"""
Probe ``tcp``: connect to ``host:port``, and where asked, shake hands over TLS, say something and wait for an answer.

==========  ===========================================================================================================
option      meaning
==========  ===========================================================================================================
``tls``     true: do the TLS handshake, with the credential's authorities and certificate where there is one
``send``    text to send once connected
``expect``  text that must occur in the first 64 kB that come back
==========  ===========================================================================================================

Without ``expect`` the agent is healthy once it is connected to. With it, an answer that ends or passes 64 kB without the
text is ``unhealthy``, and one that does not come in time is a ``timeout``.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from typing import cast

from collector.credentials import CredentialError, Secret, default_context
from collector.http_client import connect
from collector.http_connection import FetchError, tls_reason
from collector.probes.options import Options
from collector.probes.reading import Reading, bounded, timed_out
from collector.threads import OneAtATime
from storage.errors import SettingsError
from storage.model import AgentSpec, Outcome
from storage.urls import hide_user

OPTIONS = ("tls", "send", "expect")

#: Bytes in which the expected text must occur; a banner is shorter, an endless stream is cut.
_ANSWER_BYTES = 64 * 1024
_ENDPOINT = re.compile(r"(?:\[(?P<literal>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>[0-9]{1,5})")


class _Conversation(asyncio.Protocol):
    """Collects what comes back until the expected text is in it."""

    def __init__(self, expect: bytes, done: asyncio.Future[str]) -> None:
        self._expect = expect
        #: The result is why the text was not there, empty where it was.
        self._done = done
        self._received = bytearray()
        self.closed: asyncio.Future[None] = done.get_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do everything that asyncio's do but do not derive from them.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._done.done():
            return
        if self._expect and self._expect in self._received:
            self._done.set_result("")
        elif len(self._received) > _ANSWER_BYTES:
            self._done.set_result("expected text not received")
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if self._done.done():
            return
        if isinstance(exc, ssl.SSLError):
            self._done.set_exception(FetchError(Outcome.ERROR, tls_reason(exc)))
        elif exc is not None:
            self._done.set_exception(FetchError(Outcome.ERROR, "connection reset"))
        else:
            self._done.set_result("expected text not received")


class TcpProbe:
    """
    Connects to one agent and hangs up again.

    Raises:
        SettingsError: Endpoint or options are wrong.
    """

    def __init__(self, spec: AgentSpec, secret: Secret | None) -> None:
        options = Options(spec, OPTIONS)
        match = _ENDPOINT.fullmatch(spec.endpoint)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise SettingsError(
                f'agent "{spec.name}" endpoint {hide_user(spec.endpoint)!r} is no address: expected host:port or [ipv6]:port'
            )
        self._host, self._port = match["literal"] or match["host"], int(match["port"])
        self._timeout_s = spec.timeout_s
        self._tls = options.flag("tls")
        self._send = options.text("send").encode()
        self._expect = options.text("expect").encode()
        self._secret = secret
        self._resolver: OneAtATime[list[str]] = OneAtATime()

    async def poll(self, deadline_s: float) -> Reading:
        """Connect, talk, hang up."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        deadline = loop.time() + deadline_s
        done: asyncio.Future[str] = loop.create_future()
        protocol: _Conversation | None = None
        try:
            protocol = await connect(
                loop,
                lambda: _Conversation(self._expect, done),
                self._host,
                self._port,
                deadline,
                context=self._context() if self._tls else None,
                resolver=self._resolver,
            )
            if self._send and protocol.transport is not None:
                protocol.transport.write(self._send)
            failure = ""
            if self._expect:
                async with asyncio.timeout_at(deadline):
                    failure = await done
            latency_ms = (time.perf_counter() - began) * 1000.0
        except FetchError as exc:
            if exc.outcome is Outcome.TIMEOUT:
                return timed_out(self._timeout_s)
            return Reading(outcome=exc.outcome, reason=bounded(exc.reason))
        except CredentialError as exc:
            return Reading(outcome=Outcome.ERROR, reason=bounded(str(exc)))
        except TimeoutError:
            return timed_out(self._timeout_s)
        finally:
            # Nobody waits for it any more; an exception that was set must not be logged as never retrieved.
            if done.done() and not done.cancelled():
                done.exception()
            done.cancel()
            if protocol is not None and protocol.transport is not None:
                await self._hang_up(protocol, protocol.transport, deadline)
        outcome = Outcome.UNHEALTHY if failure else Outcome.HEALTHY
        return Reading(outcome=outcome, latency_ms=latency_ms, reason=failure, at_s=time.time())

    async def _hang_up(self, protocol: _Conversation, transport: asyncio.Transport, deadline: float) -> None:
        """Close politely where something was sent and nothing expected, so that it arrives; otherwise cut."""
        # Never close after abort, nor either of them after the end: asyncio's TLS transport of 3.11.2 breaks on it.
        if self._send and not self._expect:
            transport.close()
        else:
            transport.abort()
        await asyncio.wait([protocol.closed], timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if not protocol.closed.done():
            transport.abort()

    def _context(self) -> ssl.SSLContext:
        if self._secret is None:
            return default_context()
        if not self._secret.allows(self._host):
            raise CredentialError("credential not allowed for host")
        return self._secret.ssl_context()

    def close(self) -> None:
        """Do nothing: no connection outlives its poll."""

    async def aclose(self) -> None:
        """Do nothing: no connection outlives its poll."""
