"""
What goes wrong with which simulated agent and when: the grammar of a fault script, and what a poll should find.

::

    spec    = "demo" | entry { ";" entry }
    entry   = agents ":" fault { "," fault }
    agents  = "*" | range { "," range }            agents are numbered from 1
    range   = N [ "-" M [ "/" step ] ]
    fault   = kind [ "(" argument ")" ] [ "@" from [ "-" to ] ]
    from/to = number ("ms" | "s" | "m" | "h")      since the fleet's start; half-open

Without a time a fault lasts for ever; with one time it lasts from then on. ``docs/simulator.md`` describes each kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType

from collector.config import Limits
from storage.errors import SettingsError
from storage.model import Outcome

#: Fault name of an answer with nothing wrong.
OK = "ok"

#: Twenty agents: eight go through a phase that begins 10 s in or later and ends before 90 s, one resets its counters,
#: seven stay odd or broken, four are well throughout.
DEMO = (
    "3:500s@20s-40s;4:flap(10s)@10s-70s;5:hang@15s-45s;7:drip@25s-55s;8:refused@30s-60s;9:reset@10s-35s;"
    "10:warn@20s-60s;11:garbage;12:huge(50MB);13:redirect;14:counter_reset@45s;15:fail@30s-75s;16:fail;"
    "17:nan;18:dup;19:series(20000)"
)
#: Number of agents that the demo's script is written for; on a smaller fleet the rest of it is left out.
DEMO_AGENTS = 20


class FaultKind(StrEnum):
    """A way of going wrong, under the name that scripts use."""

    #: Answers status 500.
    HTTP_500 = "500s"
    #: Accepts the request and never answers.
    HANG = "hang"
    #: Sends the head of an answer and then one byte every 0.2 s.
    DRIP = "drip"
    #: Closes the listening socket.
    REFUSED = "refused"
    #: Answers with a TCP reset.
    RESET = "reset"
    #: Status 200 and a body that is not what its content type says.
    GARBAGE = "garbage"
    #: Status 200 and a body of the given size.
    HUGE = "huge"
    #: Well for the given time, then status 503 for as long, and so on.
    FLAP = "flap"
    #: All counters start again from zero at the given moment.
    COUNTER_RESET = "counter_reset"
    #: Status 200, and the document says ``fail``.
    FAIL = "fail"
    #: Status 200, and the document says ``warn``.
    WARN = "warn"
    #: Redirects in a circle.
    REDIRECT = "redirect"
    #: Besides the usual samples some that are not finite or too large to store.
    NAN = "nan"
    #: Besides the usual samples one series twice.
    DUP = "dup"
    #: Besides the usual samples as many series as given.
    SERIES = "series"


#: What a poll that meets the fault should find; ``flap`` is healthy in between.
OUTCOMES: Mapping[FaultKind, Outcome] = MappingProxyType(
    {
        FaultKind.HTTP_500: Outcome.UNHEALTHY,
        FaultKind.HANG: Outcome.TIMEOUT,
        FaultKind.DRIP: Outcome.TIMEOUT,
        FaultKind.REFUSED: Outcome.REFUSED,
        FaultKind.RESET: Outcome.ERROR,
        FaultKind.GARBAGE: Outcome.UNHEALTHY,
        FaultKind.HUGE: Outcome.ERROR,
        FaultKind.FLAP: Outcome.UNHEALTHY,
        FaultKind.COUNTER_RESET: Outcome.HEALTHY,
        FaultKind.FAIL: Outcome.UNHEALTHY,
        FaultKind.WARN: Outcome.DEGRADED,
        FaultKind.REDIRECT: Outcome.ERROR,
        FaultKind.NAN: Outcome.HEALTHY,
        FaultKind.DUP: Outcome.HEALTHY,
        FaultKind.SERIES: Outcome.HEALTHY,
    }
)

#: Only a health document has words for these: an agent that has one in its script is polled at ``/health``.
DOCUMENT_FAULTS = frozenset({FaultKind.FAIL, FaultKind.WARN})

#: 100,000 short series are 2.4 MB of exposition: many more would run into the collector's limit on bodies, another
#: fault. Who has them is polled at ``/metrics``, because health documents have a lower limit.
MAX_SERIES = 100_000
#: Bodies are made chunk by chunk and cost no memory; this bounds what a typing error can set going.
MAX_HUGE_BYTES = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of one agent and when it is on."""

    kind: FaultKind
    #: Seconds since the fleet's start: first moment of the fault.
    from_s: float = 0.0
    #: Seconds since the fleet's start: first moment after the fault; infinite when it never ends.
    to_s: float = math.inf
    #: Bytes of ``huge``, seconds of half a period of ``flap``, number of ``series``; 0 for the others.
    size: float = 0.0

    def active(self, elapsed_s: float) -> bool:
        """Tell whether the fault is on *elapsed_s* seconds after the fleet's start."""
        return self.from_s <= elapsed_s < self.to_s

    def failing(self, elapsed_s: float) -> bool:
        """Tell whether an agent under ``flap`` is in a failing half of its period; each phase begins well."""
        return int((elapsed_s - self.from_s) / self.size) % 2 == 1

    def __str__(self) -> str:
        """Return the fault as a script would have it: ``huge(50000000)@20s-40s``."""
        text = self.kind.value
        if self.kind in _ARGUMENTS:
            text += f"({self.size:g}s)" if self.kind is FaultKind.FLAP else f"({int(self.size)})"
        if self.from_s or math.isfinite(self.to_s):
            text += f"@{self.from_s:g}s"
        if math.isfinite(self.to_s):
            text += f"-{self.to_s:g}s"
        return text


#: Agent number to its faults, in order of their start; agents without faults are absent.
Script = Mapping[int, tuple[Fault, ...]]


def parse_faults(spec: str, agents: int) -> Script:
    """
    Return the script that *spec* describes for a fleet of *agents* agents.

    Args:
        spec: As the module's grammar has it; empty for no faults, ``demo`` for the built-in mix.
        agents: Size of the fleet; agents are numbered from 1 to this.

    Raises:
        SettingsError: *spec* is not of the grammar, names an agent that does not exist, or gives an agent two
            faults at one moment.
    """
    script: dict[int, list[Fault]] = {}
    demo = spec.strip() == "demo"
    for entry in _entries(DEMO if demo else spec):
        numbers, colon, text = entry.partition(":")
        if not colon:
            raise SettingsError(f'fault "{entry}" has no agent: expected AGENTS:FAULT, as in "3:500s@20s-40s"')
        faults = [_parse_fault(part.strip(), entry) for part in text.split(",")]
        for number in _parse_agents(numbers, entry, max(agents, DEMO_AGENTS) if demo else agents):
            script.setdefault(number, []).extend(faults)
    for number, found in script.items():
        found.sort(key=lambda fault: fault.from_s)
        _refuse_overlap(number, found)
    return {number: tuple(faults) for number, faults in sorted(script.items()) if number <= agents}


def _entries(spec: str) -> Iterator[str]:
    return (entry for part in spec.split(";") if (entry := part.strip()))


_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:/(\d+))?)?")


def _parse_agents(text: str, entry: str, agents: int) -> Iterator[int]:
    if text.strip() == "*":
        yield from range(1, agents + 1)
        return
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise SettingsError(
                f'fault "{entry}" names no agents: found "{part.strip()}", expected a number, a range like 3-9 or '
                '3-99/10, or "*"'
            )
        first = int(match[1])
        last = int(match[2] or match[1])
        step = int(match[3] or 1)
        if first < 1 or last > agents:
            wrong = first if first < 1 else last
            raise SettingsError(f'fault "{entry}" names agent {wrong}: expected 1 to {agents}, the size of the fleet')
        if last < first or step < 1:
            raise SettingsError(f'fault "{entry}" names no agents: range "{part.strip()}" is empty')
        yield from range(first, last + 1, step)


_FAULT = re.compile(r"(?P<kind>[\w-]*)(?:\((?P<argument>[^()]*)\))?(?:@(?P<from>[^-@]*)(?:-(?P<to>[^-@]*))?)?")


def _parse_fault(text: str, entry: str) -> Fault:
    match = _FAULT.fullmatch(text)
    if match is None or not match["kind"]:
        raise SettingsError(
            f'fault "{entry}" is not understood: found "{text}", expected KIND, KIND(SIZE) or KIND@FROM-TO'
        )
    try:
        kind = FaultKind(match["kind"])
    except ValueError as exc:
        known = ", ".join(FaultKind)
        raise SettingsError(
            f'fault "{entry}" is of an unknown kind: found "{match["kind"]}", expected {known}'
        ) from exc
    from_s = 0.0 if match["from"] is None else _parse_duration(match["from"], entry)
    to_s = math.inf if match["to"] is None else _parse_duration(match["to"], entry)
    if to_s <= from_s:
        raise SettingsError(f'fault "{entry}" ends before it begins: found {from_s:g}s to {to_s:g}s')
    if kind is FaultKind.COUNTER_RESET and (match["from"] is None or match["to"] is not None):
        raise SettingsError(f'fault "{entry}" needs one moment: write it as "counter_reset@45s"')
    return Fault(kind=kind, from_s=from_s, to_s=to_s, size=_parse_argument(kind, match["argument"], entry))


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse_duration(text: str, entry: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise SettingsError(f'fault "{entry}" has a bad time: found "{text}", expected a number with ms, s, m or h')
    return float(match[1]) * _SECONDS[match[2]]


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]?i?)B?")
_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "ki": 2**10, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def _parse_huge(text: str, entry: str) -> float:
    match = _BYTES.fullmatch(text.strip())
    if match is None or match[2] not in _PREFIXES:
        raise SettingsError(f'fault "{entry}" has a bad size: found "{text}", expected bytes, like 50MB or 64MiB')
    size_bytes = float(match[1]) * _PREFIXES[match[2]]
    limit = Limits().body_bytes
    if not limit < size_bytes <= MAX_HUGE_BYTES:
        raise SettingsError(
            f'fault "{entry}" has a bad size: found {size_bytes:.0f} bytes, expected more than the {limit} that the '
            f"collector reads, and at most {MAX_HUGE_BYTES}"
        )
    return float(int(size_bytes))


def _parse_flap(text: str, entry: str) -> float:
    half_s = _parse_duration(text, entry)
    if half_s <= 0:
        raise SettingsError(f'fault "{entry}" has a bad period: found "{text}", expected more than 0 s')
    return half_s


def _parse_series(text: str, entry: str) -> float:
    if not text.strip().isdecimal() or not 1 <= int(text) <= MAX_SERIES:
        raise SettingsError(f'fault "{entry}" has a bad number: found "{text}", expected 1 to {MAX_SERIES} series')
    return float(text)


#: Kinds that take an argument: how it is read, and what it is when it is left out.
_ARGUMENTS: Mapping[FaultKind, tuple[Callable[[str, str], float], str]] = {
    FaultKind.HUGE: (_parse_huge, "50MB"),
    FaultKind.FLAP: (_parse_flap, "10s"),
    FaultKind.SERIES: (_parse_series, str(MAX_SERIES)),
}


def _parse_argument(kind: FaultKind, text: str | None, entry: str) -> float:
    if kind not in _ARGUMENTS:
        if text is not None:
            raise SettingsError(f'fault "{entry}" takes no argument: found "({text})"')
        return 0.0
    parse, default = _ARGUMENTS[kind]
    return parse(default if text is None else text, entry)


def _refuse_overlap(number: int, faults: list[Fault]) -> None:
    # The log states one expected outcome per request, so that no two faults may be on at once. A counter
    # reset is a moment and changes no outcome: it goes with anything.
    lasting = [fault for fault in faults if fault.kind is not FaultKind.COUNTER_RESET]
    for earlier, later in pairwise(lasting):
        if later.from_s < earlier.to_s:
            raise SettingsError(
                f"agent {number} has two faults at {later.from_s:g}s: found {earlier} and {later}, expected one"
            )
