"""
The series that one agent has shown: checked against the limits once, then shared by every poll.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from collector.config import Limits
from storage.model import MAX_ABS_VALUE, Kind, MetricKey

#: Characters of a metric's help text that are kept; some exporters put whole pages there.
DESCRIPTION_LENGTH = 300
#: Characters of a unit that are kept; the longest of UCUM's own are half of that.
UNIT_LENGTH = 40

Labels = tuple[tuple[str, str], ...]

NO_METRICS: tuple[MetricKey, ...] = ()
NO_CREATED: Mapping[int, float] = MappingProxyType({})

#: Endings of names to UCUM units, by the naming rules of Prometheus (base units, spelled out, at the end).
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "celsius": "Cel", "meters": "m", "volts": "V", "amperes": "A"}
_SUFFIXES = ("_total", "_sum", "_gsum")


def unit_of(name: str) -> str:
    """Return the UCUM unit that a metric's *name* ends in (``_seconds_total`` gives ``s``), or an empty string."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return _UNITS.get(name.rpartition("_")[2], "")


def ucum(unit: str) -> str:
    """Return *unit* as UCUM has it where it is one of the words that exporters use, otherwise as it is."""
    return _UNITS.get(unit, unit)


def _clean_unit(unit: str) -> str:
    """
    Return *unit* as it may be stored: short, printable, UTF-8.

    A batch holds the answers of many agents and is refused whole, so nothing that an agent says may reach it unchecked.
    """
    if len(unit) <= UNIT_LENGTH and unit.isprintable():
        return unit
    return "".join(c for c in unit[:UNIT_LENGTH] if c.isprintable())


def refusal(value: float) -> str:
    """Return why *value* may not be stored: ``not_finite``, ``out_of_range`` or an empty string."""
    if not math.isfinite(value):
        return "not_finite"
    return "" if -MAX_ABS_VALUE <= value <= MAX_ABS_VALUE else "out_of_range"


@dataclass(slots=True, kw_only=True)
class Parsed:
    """The samples of one answer; see ``Reading`` for what the fields mean and which of them are shared."""

    metrics: Sequence[MetricKey] = NO_METRICS
    values: list[float] = field(default_factory=list)
    created: Mapping[int, float] = field(default_factory=lambda: NO_CREATED)
    process_start: float | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    #: Why the answer as a whole is worthless, empty otherwise.
    error: str = ""


class Series:
    """
    The distinct series that one agent has had since the daemon started, bounded by ``Limits.series``.

    Memory is what the bound is for: an agent that invents a label value per poll fills its own quota and nothing else.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[MetricKey, MetricKey] = {}
        self._last: Sequence[MetricKey] = ()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def full(self) -> bool:
        """Tell whether no further series will be taken."""
        return len(self._known) >= self._limits.series

    def intern(
        self, name: str, labels: Iterable[tuple[str, str]], kind: Kind, unit: str = "", description: str = ""
    ) -> MetricKey | str:
        """Return the one key of a series, or the reason (``name_limit``, ``too_many_series``, …) why it is refused."""
        pairs = tuple(sorted(labels))
        reason = self._refusal(name, pairs)
        if reason:
            return reason
        text = description.replace("\0", "")[:DESCRIPTION_LENGTH].encode("utf-8", "replace").decode()
        key = MetricKey(name=name, labels=pairs, kind=kind, unit=_clean_unit(unit), description=text)
        known = self._known.get(key)
        if known is not None:
            return known
        if self.full:
            return "too_many_series"
        self._known[key] = key
        return key

    def _refusal(self, name: str, labels: Labels) -> str:
        limits = self._limits
        if len(labels) > limits.labels:
            return "label_limit"
        try:
            # PostgreSQL takes neither a NUL nor half a surrogate pair in a text, JSON brings both.
            if "\0" in name or any("\0" in key or "\0" in value for key, value in labels):
                return "nul_byte"
            if not name or any(len(text.encode()) > limits.name_bytes for text in (name, *(k for k, _ in labels))):
                return "name_limit"
            if any(len(value.encode()) > limits.value_bytes for _, value in labels):
                return "value_limit"
        except UnicodeEncodeError:
            return "bad_utf8"
        return ""

    def shared(self, metrics: list[MetricKey]) -> Sequence[MetricKey]:
        """Return the list of the poll before where *metrics* equals it, otherwise *metrics* itself."""
        # Keys are interned, so this compares pointers.
        if metrics != self._last:
            self._last = metrics
        return self._last
