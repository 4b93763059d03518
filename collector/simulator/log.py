"""
The fleet's log of what it served: JSON lines, appended by the fleet's process and read by whoever judges a collector.

Lines are of four types. ``start`` and ``stop`` bracket one run of a fleet, ``phase`` says when an agent's port
closed and opened again (a refused connection leaves no other trace), and ``request`` says how one request was
answered. Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from collector.simulator.values import Scrape
from storage.errors import FleetpulseError
from storage.model import Outcome, Window, to_us

#: Longest time that a line waits in memory: short against the second by which a judge allows the fleet and a
#: collector to differ, long enough to write a thousand lines by one system call.
FLUSH_S = 0.05
#: Bytes of waiting lines that are written at once.
FLUSH_BYTES = 64 * 1024


class LogError(FleetpulseError):
    """The log of a fleet cannot be written or read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """One request that a fleet has had."""

    #: Runs of fleets before this one in the same file.
    run: int
    agent: str
    path: str
    #: Due time of the poll's slot, as the request's ``X-Fleetpulse-Due`` header told; ``None`` without one.
    due_us: int | None
    #: When the request was complete.
    arrived_us: int
    #: When the last byte of the answer was handed to the kernel; ``None`` when it never was.
    done_us: int | None
    #: Kind of the fault at work, ``ok`` without one.
    fault: str
    #: What a poll that began with this request should have found.
    outcome: Outcome
    #: HTTP status, 0 when none was sent.
    status: int
    #: Bytes of head and body handed to the kernel before this line was written.
    size_bytes: int
    #: More than 0 when a redirect of the same poll led here.
    hop: int
    #: Numbers that the answer carried: how often the counters had started from zero, scrapes since, and totals;
    #: ``None`` and empty when it carried none.
    resets: int | None
    served: int | None
    totals: Mapping[str, int]

    @property
    def slot_us(self) -> int:
        """Return the due time where there is one, else the time of arrival."""
        return self.arrived_us if self.due_us is None else self.due_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A time in which an agent's port was closed."""

    run: int
    agent: str
    fault: str
    #: The port was closed by this moment.
    from_us: int
    #: The port was still closed just before this moment; ``None`` when it never opened again.
    to_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterTotals:
    """What the counters of one agent did over a part of a log."""

    #: Name to total, in the first and the last answer.
    first: Mapping[str, int]
    last: Mapping[str, int]
    #: Name to increase from the first answer to the last, resets allowed for: what a collector that saw both answers
    #: must have stored as the sum of its deltas.
    increase: Mapping[str, int]
    #: Answers that carried counters.
    scrapes: int


class LogWriter:
    """
    Appends to the log.

    Lines wait for at most ``FLUSH_S``; ``close`` writes what is left. Used from the event loop's thread alone.
    """

    def __init__(self, path: Path, on_error: Callable[[LogError], None]) -> None:
        """
        Open *path*, and create it where it is missing.

        Args:
            on_error: Told when a later write fails; what was not written is lost.

        Raises:
            LogError: *path* cannot be opened for writing.
        """
        self._path = path
        self._on_error = on_error
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise LogError(f"fleet log {path} cannot be opened: {exc.strerror}") from exc

    def event(self, kind: str, **fields: object) -> None:
        """Append a line of type *kind* that is not about a request, and write it at once."""
        self._append(json.dumps({"type": kind, **fields}, separators=(",", ":")).encode() + b"\n")
        self.flush()

    def request(
        self,
        *,
        agent: str,
        path: str,
        due_us: int | None,
        arrived_us: int,
        done_us: int | None,
        fault: str,
        outcome: Outcome,
        status: int,
        size_bytes: int,
        hop: int,
        scrape: Scrape | None,
    ) -> None:
        """Append the line of one request; the arguments are those of ``ServedRequest``."""
        # Put together by hand: 2 µs, where ``json.dumps`` takes 6. Names and paths hold nothing to escape (the
        # prefix of names is checked, the path is one of the agent's own).
        numbers = (
            f'"resets":{scrape.resets},"served":{scrape.served},"totals":{{"requests_total":{scrape.requests_total},'
            f'"tokens_total":{scrape.tokens_total}}}'
            if scrape is not None
            else '"resets":null,"served":null,"totals":{}'
        )
        self._append(
            f'{{"type":"request","agent":"{agent}","path":"{path}","due_us":{"null" if due_us is None else due_us},'
            f'"arrived_us":{arrived_us},"done_us":{"null" if done_us is None else done_us},"fault":"{fault}",'
            f'"outcome":"{outcome.label}","status":{status},"size_bytes":{size_bytes},"hop":{hop},{numbers}}}\n'.encode()
        )

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._size_bytes += len(line)
        if self._size_bytes >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand the waiting lines to the kernel; tell ``on_error`` when it does not take them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        data = memoryview(b"".join(self._lines))
        self._lines.clear()
        self._size_bytes = 0
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as exc:
            self._on_error(
                LogError(f"fleet log {self._path} cannot be written, {len(data)} bytes lost: {exc.strerror}")
            )

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        os.close(self._fd)


def read_log(path: Path) -> Iterator[ServedRequest]:
    """
    Yield the requests of the log at *path*, in the order in which they were finished.

    The log may still be growing: a last line without its end is left alone.

    Raises:
        LogError: *path* cannot be read, or holds something else.
    """
    for run, place, event in _events(path):
        if event.get("type") == "request":
            try:
                yield ServedRequest(
                    run=run,
                    agent=event["agent"],
                    path=event["path"],
                    due_us=event["due_us"],
                    arrived_us=event["arrived_us"],
                    done_us=event["done_us"],
                    fault=event["fault"],
                    outcome=Outcome[event["outcome"].upper()],
                    status=event["status"],
                    size_bytes=event["size_bytes"],
                    hop=event["hop"],
                    resets=event["resets"],
                    served=event["served"],
                    totals=event["totals"],
                )
            except (AttributeError, KeyError) as exc:
                raise LogError(f"fleet log {path} line {place} is not a request: {exc} is missing or wrong") from exc


def read_phases(path: Path) -> list[Phase]:
    """
    Return the times in which ports were closed, in order of their beginning.

    Raises:
        LogError: *path* cannot be read, or holds something else.
    """
    phases: list[Phase] = []
    for run, place, event in _events(path):
        if event.get("type") != "phase":
            continue
        try:
            phase = Phase(
                run=run, agent=event["agent"], fault=event["fault"], from_us=event["from_us"], to_us=event["to_us"]
            )
        except KeyError as exc:
            raise LogError(f"fleet log {path} line {place} is not a phase: {exc} is missing") from exc
        if phase.to_us is not None:
            # The end of a phase repeats its beginning.
            phases = [p for p in phases if (p.run, p.agent, p.from_us) != (run, phase.agent, phase.from_us)]
        phases.append(phase)
    return sorted(phases, key=lambda phase: (phase.run, phase.from_us, phase.agent))


def expected_counts(path: Path, window: Window | None = None) -> dict[tuple[str, Outcome], int]:
    """
    Return how many polls of each agent should have ended in which outcome.

    A poll counts once: redirects that it followed do not count, and neither does a request that was sent again
    (told by the same due time). Refused polls leave no request: see ``read_phases``.

    Args:
        window: Count only polls whose due time (time of arrival without one) lies inside.

    Raises:
        LogError: *path* cannot be read, or holds something else.
    """
    counts: Counter[tuple[str, Outcome]] = Counter()
    seen: set[tuple[str, int]] = set()
    for request in _inside(path, window):
        if request.hop or (request.agent, request.due_us) in seen:
            continue
        if request.due_us is not None:
            seen.add((request.agent, request.due_us))
        counts[request.agent, request.outcome] += 1
    return dict(counts)


def counter_totals(path: Path, window: Window | None = None) -> dict[str, CounterTotals]:
    """
    Return, per agent, what its counters did over the answers that were handed over in full.

    Args:
        window: Look only at polls whose due time (time of arrival without one) lies inside.

    Raises:
        LogError: *path* cannot be read, or holds something else.
    """
    answers: dict[str, dict[tuple[int, int, int], Mapping[str, int]]] = {}
    for request in _inside(path, window):
        if request.resets is not None and request.served is not None and request.done_us is not None:
            place = (request.run, request.resets, request.served)
            answers.setdefault(request.agent, {})[place] = request.totals
    result: dict[str, CounterTotals] = {}
    for agent, by_place in answers.items():
        # Two requests at once may be logged in the other order; what was served first counts first.
        places = sorted(by_place)
        increase: Counter[str] = Counter(dict.fromkeys(by_place[places[0]], 0))
        for earlier, later in pairwise(places):
            again = earlier[:2] != later[:2]
            for name, total in by_place[later].items():
                increase[name] += total - (0 if again else by_place[earlier][name])
        result[agent] = CounterTotals(
            first=by_place[places[0]], last=by_place[places[-1]], increase=dict(increase), scrapes=len(places)
        )
    return result


def _inside(path: Path, window: Window | None) -> Iterator[ServedRequest]:
    if window is None:
        yield from read_log(path)
        return
    start_us, end_us = to_us(window.start), to_us(window.end)
    for request in read_log(path):
        if start_us <= request.slot_us < end_us:
            yield request


def _events(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    run = -1
    try:
        with path.open("rb") as file:
            for place, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    event = json.loads(line)
                except ValueError as exc:
                    raise LogError(f"fleet log {path} line {place} is not JSON: {exc}") from exc
                if not isinstance(event, dict):
                    raise LogError(f"fleet log {path} line {place} is not an object: found {type(event).__name__}")
                if event.get("type") == "start":
                    run += 1
                yield max(run, 0), place, event
    except OSError as exc:
        raise LogError(f"fleet log {path} cannot be read: {exc.strerror}") from exc
