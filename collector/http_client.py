"""
The HTTP client of one agent: kept-alive connections, redirects, TLS, all under one deadline.

General-purpose clients cost too much for a fleet: they look up a pool per request, build and parse headers in Python
and make a dozen objects. Here the bytes of the request are built once, and a poll writes them and waits for one future.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import math
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

from collector.config import Limits
from collector.http_connection import Connection, FetchError, Response, tls_reason
from collector.threads import OneAtATime
from storage.errors import SettingsError
from storage.model import Outcome
from storage.urls import hide_user

P = TypeVar("P", bound=asyncio.BaseProtocol)

#: Places that an agent's connections may lead to at once; past it, the oldest is closed.
_MAX_CONNECTIONS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
#: Characters that stay as they are in the target of a request; everything else is percent-encoded.
_SAFE = "!#$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads to; credentials stay within it."""

    scheme: str
    #: Lower case, without brackets, international names in their ASCII form.
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart."""

    origin: Origin
    #: Path and query as the request line has them.
    target: str

    @property
    def host_header(self) -> str:
        """Return the value of the ``Host`` header."""
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        return host if self.origin.port == _PORTS[self.origin.scheme] else f"{host}:{self.origin.port}"

    @property
    def url(self) -> str:
        """Return the URL in its one canonical form."""
        return f"{self.origin.scheme}://{self.host_header}{self.target}"

    @property
    def loopback(self) -> bool:
        """Tell whether the host is this machine by its literal address or as ``localhost``."""
        try:
            return ipaddress.ip_address(self.origin.host).is_loopback
        except ValueError:
            return self.origin.host == "localhost"


def parse_url(url: str) -> Address:
    """
    Take *url* apart.

    Raises:
        SettingsError: Not an absolute http or https URL, or one that holds a user or password.
    """
    shown = hide_user(url)
    if any(c.isspace() or not c.isprintable() for c in url):
        raise SettingsError(f"url {shown!r} holds white space or control characters: percent-encode them")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
    except ValueError as exc:
        if shown != url:
            # The exception quotes the user part, a traceback the exception.
            raise SettingsError(f"url {shown!r} is malformed") from None
        raise SettingsError(f"url {url!r} is malformed: {exc}") from exc
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not host:
        raise SettingsError(f"url {shown!r} is not one to poll: expected http://host… or https://host…")
    if parts.username is not None or parts.password is not None:
        raise SettingsError(f"url with a user or password for host {host}: put the secret into a credential")
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as exc:
            raise SettingsError(f"url {url!r} has a host that is no name: {exc}") from exc
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return Address(Origin(scheme, host, _PORTS[scheme] if port is None else port), path + query)


def build_request(address: Address, method: str, headers: bytes) -> bytes:
    """Return the bytes of a request; *headers* are complete lines."""
    line = f"{method} {address.target} HTTP/1.1\r\nHost: {address.host_header}\r\n"
    return line.encode("ascii") + headers + b"\r\n"


class HttpClient:
    """
    Fetches for one agent, one request at a time.

    Args:
        context: Called for each new TLS connection within the agent's own origin (client certificate and all).
        foreign_context: Called for TLS connections to other origins, where redirects lead.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        context: Callable[[], ssl.SSLContext],
        foreign_context: Callable[[], ssl.SSLContext],
    ) -> None:
        self._limits = limits
        self._context = context
        self._foreign_context = foreign_context
        self._connections: dict[tuple[Origin, bool], Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resolver: OneAtATime[list[str]] = OneAtATime()

    async def fetch(
        self,
        address: Address,
        request: bytes,
        headers: bytes,
        deadline: float,
        *,
        method: str = "GET",
        foreign_headers: bytes = b"",
        final: Callable[[int], bool] = lambda status: False,
    ) -> Response:
        """
        Send *request* and return the answer, following redirects.

        Args:
            address: Where *request* goes to.
            headers: Those of *request*, for redirects within its origin.
            deadline: By the clock of the running event loop.
            foreign_headers: What a request to another origin carries: neither credentials nor the agent's own headers.
            final: Tells whether a status is wanted as it is, so that a redirect is not followed.

        Raises:
            FetchError: There is no usable answer.
            CredentialError: The files for TLS cannot be used.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Connections belong to a loop; those of another one are of no use.
            self.close()
            self._loop = loop
        response = await self._exchange(loop, address, request, deadline, method, own=True)
        if response.status not in _REDIRECTS or final(response.status) or not response.location:
            return response
        home = address.origin
        visited = {address.url}
        own = True
        for _ in range(self._limits.redirects):
            address = self._redirected(address, response)
            if address.url in visited:
                raise FetchError(Outcome.ERROR, "redirects in a circle", status=response.status)
            visited.add(address.url)
            # Once elsewhere, for good: coming back from a foreign host must not bring the credential out.
            own = own and address.origin == home
            request = build_request(address, method, headers if own else foreign_headers)
            response = await self._exchange(loop, address, request, deadline, method, own=own)
            if response.status not in _REDIRECTS or final(response.status) or not response.location:
                return response
        raise FetchError(Outcome.ERROR, f"more than {self._limits.redirects} redirects", status=response.status)

    def _redirected(self, address: Address, response: Response) -> Address:
        try:
            return parse_url(urljoin(address.url, response.location.decode("ascii")))
        except (SettingsError, ValueError) as exc:
            raise FetchError(Outcome.ERROR, "redirect to no url", status=response.status) from exc

    async def _exchange(
        self,
        loop: asyncio.AbstractEventLoop,
        address: Address,
        request: bytes,
        deadline: float,
        method: str,
        *,
        own: bool,
    ) -> Response:
        place = (address.origin, own)
        connection = self._connections.get(place)
        head_only = method == "HEAD"
        if connection is not None:
            if connection.usable:
                try:
                    return await connection.request(request, deadline, head_only=head_only)
                except FetchError as exc:
                    # The agent closed the idle connection while the request was on its way: nothing was done with it.
                    if not exc.stale:
                        raise
            self._drop(place)
        connection = await self._connect(loop, address.origin, deadline, own=own)
        while len(self._connections) >= _MAX_CONNECTIONS:
            self._drop(next(iter(self._connections)))
        self._connections[place] = connection
        return await connection.request(request, deadline, head_only=head_only)

    def _drop(self, place: tuple[Origin, bool]) -> None:
        connection = self._connections.pop(place, None)
        if connection is not None:
            connection.abort()

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, origin: Origin, deadline: float, *, own: bool
    ) -> Connection:
        context = None
        if origin.scheme == "https":
            context = self._context() if own else self._foreign_context()
        return await connect(
            loop,
            lambda: Connection(loop, self._limits),
            origin.host,
            origin.port,
            deadline,
            context=context,
            resolver=self._resolver,
        )

    def close(self) -> None:
        """Cut all connections; the next fetch opens new ones."""
        connections, self._connections = self._connections, {}
        if self._loop is not None and not self._loop.is_closed():
            for connection in connections.values():
                connection.abort()

    async def aclose(self) -> None:
        """Cut all connections and wait until their sockets are gone."""
        connections = list(self._connections.values())
        self.close()
        if self._loop is asyncio.get_running_loop():
            for connection in connections:
                await connection.wait_closed()


async def connect(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], P],
    host: str,
    port: int,
    deadline: float,
    *,
    context: ssl.SSLContext | None = None,
    resolver: OneAtATime[list[str]] | None = None,
) -> P:
    """
    Connect to *host*, trying its addresses one after the other, and return the protocol.

    Args:
        deadline: By the clock of the event loop; while there are further addresses, one gets half of what is left.
        context: For TLS; the certificate must be that of *host*.
        resolver: Where the name is looked up; the caller's own, so that a dead name server takes one thread from it.

    Raises:
        FetchError: None of the addresses could be connected to; outcome and reason are those of the last.
    """
    error: FetchError | None = None
    addresses = await _resolve(host, port, deadline, resolver or OneAtATime())
    for number, literal in enumerate(addresses):
        last = number == len(addresses) - 1
        limit = deadline if last else loop.time() + (deadline - loop.time()) / 2
        try:
            async with asyncio.timeout_at(limit):
                _, protocol = await loop.create_connection(
                    factory,
                    literal,
                    port,
                    ssl=context,
                    server_hostname=host if context is not None else None,
                    # asyncio has a deadline of its own for the handshake, a minute; ours is always the shorter one.
                    ssl_handshake_timeout=max(1.0, math.ceil(limit - loop.time()) + 1.0) if context else None,
                )
        except TimeoutError as exc:
            error = FetchError(Outcome.TIMEOUT, "timeout")
            error.__cause__ = exc
        except ssl.SSLError as exc:
            error = FetchError(Outcome.ERROR, tls_reason(exc))
            error.__cause__ = exc
        except OSError as exc:
            error = connect_error(exc)
            error.__cause__ = exc
        else:
            return protocol
    try:
        raise error or FetchError(Outcome.ERROR, "dns: name has no address")
    finally:
        # The exception refers to this frame: not the other way round as well.
        error = None


async def _resolve(host: str, port: int, deadline: float, resolver: OneAtATime[list[str]]) -> list[str]:
    """Return the addresses of *host* as literals; one that is a literal costs nothing."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]

    def look_up() -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(_literal(sockaddr) for *_, sockaddr in found))

    try:
        # Not by the event loop: its few threads are everybody's, and a dead name server keeps one for ten seconds.
        return await resolver.run(look_up, deadline)
    except TimeoutError as exc:
        raise FetchError(Outcome.TIMEOUT, "timeout") from exc
    except (OSError, UnicodeError) as exc:
        raise FetchError(Outcome.ERROR, dns_reason(exc)) from exc


def _literal(sockaddr: tuple[object, ...]) -> str:
    """Return the literal of a socket address, with its zone where it has one."""
    host = str(sockaddr[0])
    if len(sockaddr) == 4 and sockaddr[3] and "%" not in host:
        return f"{host}%{sockaddr[3]}"
    return host


def connect_error(exc: OSError) -> FetchError:
    """Return what a failed connect stands for."""
    if isinstance(exc, ConnectionRefusedError):
        return FetchError(Outcome.REFUSED, "connection refused")
    if isinstance(exc, ConnectionError):
        return FetchError(Outcome.ERROR, "connection reset")
    if exc.errno == errno.ETIMEDOUT:
        return FetchError(Outcome.TIMEOUT, "timeout")
    # The errno's own words: str(exc) holds the address.
    text = socket_reason(exc.errno)
    return FetchError(Outcome.ERROR, f"connect: {text}")


def socket_reason(number: int | None) -> str:
    """Return the system's words for an errno, in lower case."""
    return os.strerror(number).lower() if number else "failed"


def dns_reason(exc: Exception) -> str:
    """Return why a name was not resolved, without the name."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else "name is malformed"
    return f"dns: {text.lower()}"
