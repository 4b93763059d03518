"""
One simulated agent: decides what a request is answered with. Knows no sockets and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from collector.simulator import documents
from collector.simulator.documents import Format, Writer
from collector.simulator.faults import DOCUMENT_FAULTS, OK, OUTCOMES, Fault, FaultKind
from collector.simulator.values import Counters, Scrape
from storage.errors import SettingsError
from storage.model import Outcome

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


class Delivery(Enum):
    """How an answer goes out."""

    #: At once.
    WHOLE = 1
    #: Never.
    NEVER = 2
    #: The head, and then a byte at a time.
    DRIP = 3
    #: The head, and then as many bytes of padding as ``Answer.padding`` says.
    PADDED = 4
    #: As a TCP reset.
    RESET = 5


class Answer(NamedTuple):
    """What a request is answered with, and what a poll should make of it."""

    #: Kind of the fault at work, ``ok`` without one.
    fault: str
    #: What a poll that begins with this request should find.
    outcome: Outcome
    #: HTTP status, 0 when none is sent.
    status: int
    #: Head and body; only the head where padding follows.
    data: bytes
    delivery: Delivery = Delivery.WHOLE
    #: Bytes of body that follow the head.
    padding: int = 0
    #: The padding goes out in chunks, its length untold.
    chunked: bool = False
    #: Numbers that the answer carries; ``None`` when it carries none.
    scrape: Scrape | None = None
    #: Redirects that led here, as far as they can be told apart: a poll is counted at 0.
    hop: int = 0


#: Bytes of body that a drip announces: at five bytes a second nobody waits for the end.
DRIP_BYTES = 65_536
_HEAD = {
    form: f"HTTP/1.1 200 OK\r\nContent-Type: {form.content_type}\r\nContent-Length: %d\r\n\r\n".encode()
    for form in Format
}
_CHUNKED = {
    form: f"HTTP/1.1 200 OK\r\nContent-Type: {form.content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for form in Format
}


def _plain(status: int, reason: str, text: str, headers: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n{headers}"
        f"Content-Length: {len(text)}\r\n\r\n{text}"
    ).encode()


_INTERNAL_ERROR = _plain(500, "Internal Server Error", "simulated failure\n")
_UNAVAILABLE = _plain(503, "Service Unavailable", "simulated flapping\n")
#: Answers to requests that are no poll of an agent.
BAD_REQUEST = _plain(400, "Bad Request", "not an HTTP/1 request\n", "Connection: close\r\n")
NOT_FOUND = _plain(404, "Not Found", "no such agent here\n")
NOT_ALLOWED = _plain(405, "Method Not Allowed", "only GET is answered\n", "Allow: GET\r\n")


class SimulatedAgent:
    """An agent with its script, its counters and its paths."""

    def __init__(
        self, *, number: int, prefix: str, width: int, seed: int, faults: Iterable[Fault] = (), writer: Writer
    ) -> None:
        """
        Make an agent that has served nothing yet.

        Args:
            number: From 1; odd ones are polled for a health document, even ones for an exposition, unless the
                script needs a document.
            prefix: Of the name: ``demo`` gives ``demo-0001``.
            width: Digits of the number in names and paths.
            seed: Seed of the fleet.
            faults: In order of their start; no two that last are on at one moment.
            writer: Makes the bodies.

        Raises:
            SettingsError: *prefix* is not fit for a name.
        """
        if _NAME.fullmatch(prefix) is None:
            raise SettingsError(
                f'name prefix "{prefix}" is not usable: expected up to 60 letters, digits, "_", "." and "-", '
                "a letter or digit first"
            )
        self.name = f"{prefix}-{number:0{width}}"
        self.root = f"/agents/{number:0{width}}"
        self.faults = tuple(faults)
        kinds = {fault.kind for fault in self.faults}
        #: What the agent is polled for.
        exposes = number % 2 == 0 or FaultKind.SERIES in kinds
        self.format = Format.PROMETHEUS if exposes and not kinds & DOCUMENT_FAULTS else Format.HEALTH_JSON
        #: The agent's listening socket comes and goes: it needs a port of its own.
        self.private = FaultKind.REFUSED in kinds
        self._loops = FaultKind.REDIRECT in kinds
        self._number = number
        self._seed = seed
        self._writer = writer
        self._counters = Counters(seed, number)
        self._resets = sorted(fault.from_s for fault in self.faults if fault.kind is FaultKind.COUNTER_RESET)
        # A counter reset is a moment, and while the port is closed there is nothing to answer.
        self._lasting = tuple(
            fault for fault in self.faults if fault.kind not in (FaultKind.COUNTER_RESET, FaultKind.REFUSED)
        )
        #: Answers that had a fault and two faces: they alternate.
        self._odd = 0

    @property
    def path(self) -> str:
        """Return the path at which the agent is meant to be polled."""
        return f"{self.root}/{self.format.path}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Return all paths that the agent answers at."""
        both = tuple(f"{self.root}/{form.path}" for form in Format)
        return (*both, f"{self.root}/loop/a", f"{self.root}/loop/b") if self._loops else both

    def phases(self) -> tuple[Fault, ...]:
        """Return when the agent's port is closed."""
        return tuple(fault for fault in self.faults if fault.kind is FaultKind.REFUSED)

    def answer(self, path: str, elapsed_s: float, started_s: float) -> Answer:
        """
        Return what a request is answered with, and count it.

        Args:
            path: One of ``paths``.
            elapsed_s: Seconds since the fleet's start.
            started_s: The fleet's start, in seconds since the Unix epoch.
        """
        form = Format.HEALTH_JSON if path.endswith("/health") else Format.PROMETHEUS
        for fault in self._lasting:
            if fault.active(elapsed_s):
                return self._faulty(fault, form, path, elapsed_s, started_s)
        if self._loops and "/loop/" in path:
            # The phase ended between two hops: the poll still sees the circle that it was sent into.
            return self._redirect(path)
        return self._scraped(form, elapsed_s, started_s)

    def _scraped(
        self,
        form: Format,
        elapsed_s: float,
        started_s: float,
        *,
        fault: str = OK,
        outcome: Outcome = Outcome.HEALTHY,
        status: bytes = b"pass",
        extra: bytes = b"",
    ) -> Answer:
        resets = 0
        for moment_s in self._resets:
            if elapsed_s >= moment_s:
                resets += 1
        scrape = self._counters.advance(resets)
        if resets:
            started_s += self._resets[resets - 1]
        body = self._writer.body(form, scrape, started_s=started_s, status=status, extra=extra)
        return Answer(fault, outcome, 200, _HEAD[form] % len(body) + body, scrape=scrape)

    def _faulty(self, fault: Fault, form: Format, path: str, elapsed_s: float, started_s: float) -> Answer:
        kind = fault.kind
        name = kind.value
        outcome = OUTCOMES[kind]
        match kind:
            case FaultKind.HTTP_500:
                return Answer(name, outcome, 500, _INTERNAL_ERROR)
            case FaultKind.HANG:
                return Answer(name, outcome, 0, b"", Delivery.NEVER)
            case FaultKind.DRIP:
                return Answer(name, outcome, 200, _HEAD[form] % DRIP_BYTES, Delivery.DRIP, DRIP_BYTES)
            case FaultKind.RESET:
                return Answer(name, outcome, 0, b"", Delivery.RESET)
            case FaultKind.GARBAGE:
                self._odd += 1
                body = documents.garbage(form, seed=self._seed, number=self._number, nth=self._odd)
                return Answer(name, outcome, 200, _HEAD[form] % len(body) + body)
            case FaultKind.HUGE:
                # Once with its length and once without, so that a limit on either is met.
                self._odd += 1
                size = int(fault.size)
                chunked = self._odd % 2 == 0
                head = _CHUNKED[form] if chunked else _HEAD[form] % size
                return Answer(name, outcome, 200, head, Delivery.PADDED, size, chunked)
            case FaultKind.FLAP if fault.failing(elapsed_s):
                return Answer(name, outcome, 503, _UNAVAILABLE)
            case FaultKind.FLAP:
                return self._scraped(form, elapsed_s, started_s, fault=name)
            case FaultKind.FAIL | FaultKind.WARN:
                if form is Format.PROMETHEUS:
                    return self._scraped(form, elapsed_s, started_s)
                return self._scraped(form, elapsed_s, started_s, fault=name, outcome=outcome, status=name.encode())
            case FaultKind.REDIRECT:
                return self._redirect(path)
            case FaultKind.NAN:
                return self._scraped(form, elapsed_s, started_s, fault=name, extra=documents.nan(form))
            case FaultKind.DUP:
                return self._scraped(form, elapsed_s, started_s, fault=name, extra=documents.dup(form))
            case FaultKind.SERIES:
                extra = documents.series(form, int(fault.size))
                return self._scraped(form, elapsed_s, started_s, fault=name, extra=extra)
            case FaultKind.REFUSED | FaultKind.COUNTER_RESET:
                raise AssertionError(f"BUG: {kind} is not a way to answer")

    def _redirect(self, path: str) -> Answer:
        hop = 1 if "/loop/" in path else 0
        where = f"{self.root}/loop/{'b' if path.endswith('/a') else 'a'}"
        data = _plain(302, "Found", "round and round\n", f"Location: {where}\r\n")
        kind = FaultKind.REDIRECT
        return Answer(kind.value, OUTCOMES[kind], 302, data, hop=hop)
