"""
Probe ``http``: one request, answered with health, metrics, or no more than a status code.

===================  ==================================================================================================
option               meaning
===================  ==================================================================================================
``method``           ``GET`` (default) or ``HEAD``, whose answers have no body to read
``headers``          table of further request headers; nothing secret, that belongs into a credential
``expect_status``    list of codes and ranges that are good: ``["200-299", 401]``; default 200–299
``format``           ``auto``, ``health+json``, ``prometheus``, ``openmetrics``, ``actuator``, ``status``, ``none``
``metrics_path``     where the metrics are when the endpoint only tells the health: path on the same host
``metrics_url``      likewise, a whole URL
``body_limit_bytes`` less than the collector's limit on bodies
``due_header``       true: tell the agent the slot that it is polled for, ``X-Fleetpulse-Due: <microseconds since 1970>``
===================  ==================================================================================================

What makes which outcome: refused connection ``refused``; no answer in time ``timeout``; no name, no route, a reset, a
TLS failure, an answer that is not HTTP, is cut short or passes a limit ``error``; an unexpected code, a failing status
word, or a body that is not what it claims to be (``invalid json``, ``invalid exposition``) ``unhealthy``; a warning word
``degraded``. The code outranks the body: 503 is unhealthy though the body says ``pass``. Where metrics are fetched apart
and that fails, a healthy agent is degraded, for a gap in its metrics must show.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import replace

from collector.config import Limits
from collector.credentials import CredentialError, Secret, default_context, header_line
from collector.exposition import Answer, Exposition, Format
from collector.http_client import Address, HttpClient, build_request, parse_url
from collector.http_connection import FetchError, Response
from collector.probes.options import Options
from collector.probes.reading import Reading, bounded, timed_out
from collector.threads import OneAtATime
from storage.errors import SettingsError
from storage.model import AgentSpec, Outcome

OPTIONS = (
    "method",
    "headers",
    "expect_status",
    "format",
    "metrics_path",
    "metrics_url",
    "body_limit_bytes",
    "due_header",
)

#: Larger bodies are read in a thread, for nobody else's slot may wait that long. Known series take 1.6 µs each, hence
#: 4 ms for 256 kB; series that are new take 24 µs each, so a body that is new to the probe goes there much sooner.
THREAD_BYTES = 256 * 1024
NEW_THREAD_BYTES = 32 * 1024

_ACCEPT: Mapping[Format, str] = {
    Format.AUTO: "application/health+json, application/openmetrics-text;version=1.0.0;q=0.9, "
    "text/plain;version=0.0.4;q=0.8, application/json;q=0.7, */*;q=0.1",
    Format.HEALTH: "application/health+json, application/json;q=0.9, */*;q=0.1",
    Format.PROMETHEUS: "text/plain;version=0.0.4, */*;q=0.1",
    Format.OPENMETRICS: "application/openmetrics-text;version=1.0.0, */*;q=0.1",
    Format.ACTUATOR: "application/vnd.spring-boot.actuator.v3+json, application/json;q=0.9, */*;q=0.1",
    Format.STATUS: "application/json, */*;q=0.1",
    Format.NONE: "*/*",
}
_METRICS_ACCEPT = "application/openmetrics-text;version=1.0.0, text/plain;version=0.0.4;q=0.8, */*;q=0.1"
#: Headers that the probe writes itself; a second one would be ambiguous.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
#: What is good unless the agent says otherwise.
_GOOD = frozenset(range(200, 300))


class _Target:
    """One URL of an agent, and the request for it; built anew only when a secret changes."""

    __slots__ = ("_credentials", "address", "exposition", "fixed", "headers", "request")

    def __init__(self, address: Address, fixed: bytes, exposition: Exposition, method: str) -> None:
        self.address = address
        #: Header lines without credentials.
        self.fixed = fixed
        self.exposition = exposition
        self.headers = fixed
        self.request = build_request(address, method, fixed)
        self._credentials = b""

    def refresh(self, credentials: bytes, method: str) -> None:
        """Put *credentials*, header lines, into the request."""
        if credentials != self._credentials:
            self._credentials = credentials
            self.headers = self.fixed + credentials
            self.request = build_request(self.address, method, self.headers)


class HttpProbe:
    """
    Polls one agent over HTTP.

    Raises:
        SettingsError: Endpoint, options or credential are wrong.
    """

    def __init__(self, spec: AgentSpec, secret: Secret | None, limits: Limits) -> None:
        options = Options(spec, OPTIONS)
        body_bytes = options.count("body_limit_bytes", limits.body_bytes, low=1, high=limits.body_bytes)
        self._limits = replace(limits, body_bytes=body_bytes)
        self._timeout_s = spec.timeout_s
        self._secret = secret
        #: The agent wants to know its slot; ``due_us`` is set before each poll then.
        self.tells_due = options.flag("due_header")
        self.due_us = 0
        self._method = options.choice("method", ("GET", "HEAD"), "GET")
        self._good = _codes(options)
        form = Format(options.choice("format", tuple(Format), Format.AUTO.value))
        address = parse_url(spec.endpoint)
        self._foreign = _fixed_headers(address, _ACCEPT[form], {}, spec)
        headers = options.table("headers")
        fixed = _fixed_headers(address, _ACCEPT[form], headers, spec)
        self._target = _Target(address, fixed, Exposition(self._limits, form), self._method)
        self._metrics = self._metrics_target(options, address, headers, spec)
        context = secret.ssl_context if secret is not None else default_context
        self._client = HttpClient(self._limits, context=context, foreign_context=default_context)
        self._reader: OneAtATime[Answer] = OneAtATime()
        self._largest_bytes = 0

    def _metrics_target(
        self, options: Options, address: Address, headers: Mapping[str, str], spec: AgentSpec
    ) -> _Target | None:
        path, url = options.text("metrics_path"), options.text("metrics_url")
        if path and url:
            raise options.error("metrics_url", f'no value beside "metrics_path" {path!r}')
        if path:
            if not path.startswith("/"):
                raise options.error("metrics_path", "a path that starts with /")
            where = parse_url(f"{address.origin.scheme}://{address.host_header}{path}")
        elif url:
            where = parse_url(url)
        else:
            return None
        same = where.origin == address.origin
        fixed = _fixed_headers(where, _METRICS_ACCEPT, headers if same else {}, spec)
        return _Target(where, fixed, Exposition(self._limits, Format.AUTO), "GET")

    async def poll(self, deadline_s: float) -> Reading:
        """Fetch, read, judge."""
        loop = asyncio.get_running_loop()
        # The clock of uvloop stands still within a turn of the loop and has no fraction of a millisecond.
        began = time.perf_counter()
        deadline = loop.time() + deadline_s
        target = self._target
        try:
            response = await self._fetch(target, self._method, deadline)
            latency_ms = (time.perf_counter() - began) * 1000.0
            at_s = time.time()
            good = response.status in self._good
            answer = await self._read(target.exposition, response, deadline, good=good)
        except FetchError as exc:
            return self._failed(exc)
        except CredentialError as exc:
            return Reading(outcome=Outcome.ERROR, reason=bounded(str(exc)))
        except TimeoutError:
            return timed_out(self._timeout_s)
        outcome, reason = Outcome.HEALTHY, ""
        if not good:
            outcome, reason = Outcome.UNHEALTHY, f"http {response.status}"
            if answer.reason:
                reason = bounded(f"{reason}, {answer.reason}")
        elif answer.outcome is not None:
            outcome, reason = answer.outcome, bounded(answer.reason) if answer.reason else ""
        parsed = answer.parsed
        reading = Reading(
            outcome=outcome,
            latency_ms=latency_ms,
            http_status=response.status,
            reason=reason,
            metrics=parsed.metrics,
            values=parsed.values,
            created=parsed.created,
            process_start=parsed.process_start,
            at_s=at_s,
            rejected=parsed.rejected,
        )
        if self._metrics is not None:
            await self._add_metrics(self._metrics, reading, deadline)
        return reading

    async def _fetch(self, target: _Target, method: str, deadline: float) -> Response:
        secret = self._secret
        if secret is not None:
            if not secret.allows(target.address.origin.host):
                raise CredentialError("credential not allowed for host")
            target.refresh(secret.headers(), method)
        request, headers = target.request, target.headers
        if self.tells_due:
            due = b"X-Fleetpulse-Due: %d\r\n" % self.due_us
            # A request ends with an empty line; the header goes before that.
            request, headers = request[:-2] + due + b"\r\n", headers + due
        return await self._client.fetch(
            target.address,
            request,
            headers,
            deadline,
            method=method,
            foreign_headers=self._foreign,
            final=self._good.__contains__,
        )

    async def _read(self, exposition: Exposition, response: Response, deadline: float, *, good: bool) -> Answer:
        body = response.body
        if not body and (self._method == "HEAD" or response.status in (204, 304)):
            return Answer()
        size = len(body)
        unknown = size > max(NEW_THREAD_BYTES, 2 * self._largest_bytes)
        if size <= THREAD_BYTES and not unknown and not self._reader.busy:
            return exposition.read(body, response.content_type, good=good)
        self._largest_bytes = max(size, self._largest_bytes)
        return await self._reader.run(lambda: exposition.read(body, response.content_type, good=good), deadline)

    async def _add_metrics(self, target: _Target, reading: Reading, deadline: float) -> None:
        """Put the metrics of the second URL into *reading*, which keeps its health unless that fails."""
        trouble = ""
        try:
            response = await self._fetch(target, "GET", deadline)
            if response.status in _GOOD:
                answer = await self._read(target.exposition, response, deadline, good=True)
                parsed = answer.parsed
                trouble = parsed.error
                if parsed.metrics:
                    # The endpoint's own gauges give way: two lists with one identity cannot be had.
                    if reading.metrics:
                        reading.rejected["shadowed_by_metrics_url"] = len(reading.metrics)
                    reading.metrics, reading.values, reading.created = parsed.metrics, parsed.values, parsed.created
                    reading.process_start, reading.at_s = parsed.process_start, time.time()
                for name, n in parsed.rejected.items():
                    reading.rejected[name] = reading.rejected.get(name, 0) + n
            else:
                trouble = f"http {response.status}"
        except FetchError as exc:
            trouble = f"timeout after {self._timeout_s:g}s" if exc.outcome is Outcome.TIMEOUT else exc.reason
        except CredentialError as exc:
            trouble = str(exc)
        except TimeoutError:
            trouble = f"timeout after {self._timeout_s:g}s"
        if trouble:
            reading.rejected["metrics_unavailable"] = 1
            if reading.outcome is Outcome.HEALTHY:
                reading.outcome = Outcome.DEGRADED
            reading.reason = bounded(f"{reading.reason}, metrics: {trouble}".lstrip(", "))

    def _failed(self, exc: FetchError) -> Reading:
        if exc.outcome is Outcome.TIMEOUT:
            reading = timed_out(self._timeout_s)
            reading.http_status = exc.status
            return reading
        return Reading(
            outcome=exc.outcome,
            latency_ms=math.nan,
            http_status=exc.status,
            reason=bounded(exc.reason),
            rejected={exc.refused: 1} if exc.refused else {},
        )

    def close(self) -> None:
        """Cut the connections."""
        self._client.close()

    async def aclose(self) -> None:
        """Cut the connections and wait until they are gone."""
        await self._client.aclose()


def _fixed_headers(address: Address, accept: str, headers: Mapping[str, str], spec: AgentSpec) -> bytes:
    """Return the header lines of every request of an agent, without credentials."""
    what = f'agent "{spec.name}" option "headers"'
    names = {name.lower() for name in headers}
    clash = names & _OWN_HEADERS
    if clash:
        raise SettingsError(f"{what} sets {', '.join(sorted(clash))}: the probe writes that itself")
    fixed: dict[str, str] = {}
    if "user-agent" not in names:
        fixed["User-Agent"] = "fleetpulse"
    if "accept" not in names:
        fixed["Accept"] = accept
    if not address.loopback:
        # On loopback, packing costs both sides more than the bytes do.
        fixed["Accept-Encoding"] = "gzip, deflate"
    try:
        return b"".join(header_line(name, value, what) for name, value in (fixed | dict(headers)).items())
    except CredentialError as exc:
        raise SettingsError(str(exc)) from exc


def _codes(options: Options) -> frozenset[int]:
    """Return the status codes that are good."""
    expected = 'a list of codes and ranges such as 200 or "200-299"'
    found = options.raw("expect_status")
    if found is None:
        return _GOOD
    if isinstance(found, (str, int)) and not isinstance(found, bool):
        found = [found]
    if not isinstance(found, (list, tuple)) or not found:
        raise options.error("expect_status", expected)
    codes: set[int] = set()
    for item in found:
        first, dash, last = str(item).strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise options.error("expect_status", expected)
        low, high = int(first), int(last or first)
        if not 100 <= low <= high <= 599:
            raise options.error("expect_status", f"{expected}, within 100-599")
        codes.update(range(low, high + 1))
    return frozenset(codes)
