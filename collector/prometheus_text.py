"""
Prometheus text 0.0.4 and OpenMetrics 1.0: bytes to samples, at the price of a dictionary look-up per line.

Per agent there is a dictionary from the raw bytes of a line's series prefix (``name{label="value"}``) to the series.
A line is cut at its last space; where the part before is known, the part after is the value, and that is all. A line
that is not known so is looked at properly: its prefix is found (labels may hold spaces and braces), and its tail
(value, timestamp, exemplar). Only a prefix that was never seen is taken apart: by a regular expression where it has the
form that every client library writes, by ``prometheus_client`` where it has not.

What a line means depends on the metadata before it (``# TYPE`` makes a counter of a sample), so each dictionary entry
remembers the family in which it was read, and the family that follows; metadata lines are edges between families,
cached in the same way. An entry met in another family is read anew. Hence a warm dictionary gives the same answer as a
cold one, whatever the agent sends, and both give what a full parse gives on what is valid.

Errors are a line's: it is refused and counted, its neighbours survive. Checks that span lines (bucket order, grouping)
are not made. OpenMetrics without its ``# EOF`` is refused whole: it was cut short. A sample's own timestamp is read and
ignored: samples carry the due time of their slot.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from collector.config import Limits
from collector.series import NO_CREATED, Labels, Parsed, Series, refusal, ucum, unit_of
from storage.model import MAX_ABS_VALUE, Kind, MetricKey

#: A series prefix: a name, or braces with an optional name before them. Possessive throughout: linear in the line.
_PREFIX = re.compile(rb'[ \t]*+(?:[^\s{}"#]*+[ \t]*+\{(?:[^"}]|"(?:[^"\\]|\\.)*+")*+\}|[^\s{}"#]++)', re.DOTALL)
#: The form that client libraries write; anything else that is a prefix goes to the reference parser.
_PLAIN = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*+)(?:\{((?:(?!__)[a-zA-Z_][a-zA-Z0-9_]*+="(?:[^"\\]|\\.)*+"(?:,(?=[a-zA-Z_])|,?(?=\})))*+)\})?',
    re.DOTALL,
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r'\\([\\n"])')
_METADATA = re.compile(r'#[ \t]+(HELP|TYPE|UNIT)[ \t]+("(?:[^"\\]|\\.)*"|\S+)(?:[ \t]+(.*))?', re.DOTALL)
_LEGACY_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_EXEMPLAR = re.compile(rb'[ \t]*\{(?:[^"}]|"(?:[^"\\]|\\.)*+")*+\}[ \t]+(\S+)(?:[ \t]+(\S+))?[ \t]*', re.DOTALL)

#: Suffixes of the samples that belong to a family of each type; a type that is missing has its bare name only.
_TEXT_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "summary": ("_count", "_sum", ""),
    "histogram": ("_count", "_sum", "_bucket"),
}
_OPENMETRICS_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": ("_total", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
    "histogram": ("_count", "_sum", "_bucket", "_created"),
    "gaugehistogram": ("_gcount", "_gsum", "_bucket"),
    "info": ("_info",),
}
#: Suffixes of the cumulative samples of each type.
_CUMULATIVE: Mapping[str, tuple[str, ...]] = {
    "counter": ("", "_total"),
    "summary": ("_count", "_sum"),
    "histogram": ("_count", "_sum", "_bucket"),
}
#: Labels that tell samples of one metric apart, and that its ``_created`` sample lacks.
_INNER_LABELS = ("le", "quantile")


@dataclass(slots=True, eq=False)
class _Family:
    """A state of the reader: the metadata that stands above the next line."""

    name: str
    type: str
    unit: str
    #: Name of the family whose start times these samples are, by the ``_created`` families of the text format.
    created_of: str
    #: Names of the samples that belong to it.
    names: frozenset[str]
    description: str = ""
    #: Metadata line to the state after it.
    after: dict[bytes, _Family] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Line:
    """What is known of a series prefix."""

    #: State in which it was read.
    family: _Family
    #: State after the line.
    next: _Family
    #: The series; ``None`` for a start time or a refused series.
    key: MetricKey | None = None
    #: Why it is refused.
    refused: str = ""
    #: Which metric's start time it is, or belongs to: base name and labels.
    group: tuple[str, Labels] | None = None
    #: Its value is a start time.
    created: bool = False
    may_have_exemplar: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class _Layout:
    """An answer without anything to refuse: what follows from its lines when only values change."""

    lines: list[_Line]
    metrics: Sequence[MetricKey]
    #: Positions of the stored samples in ``lines``, ``None`` for all of them.
    stored: list[int] | None
    #: Position of a start time in ``lines`` to the indices into ``metrics`` that it is about.
    created: dict[int, list[int]]
    #: Position of ``process_start_time_seconds``, -1 for none.
    process_start: int


class TextReader:
    """Reads the text expositions of one agent; keeps what it has learnt between polls."""

    def __init__(self, limits: Limits, series: Series, *, openmetrics: bool) -> None:
        self._limits = limits
        self._series = series
        self._openmetrics = openmetrics
        # Longer lines hold a name or value over its limit (an escaped byte takes two), or too many labels; reading them
        # costs the reference parser more than linear time.
        self._line_bytes = limits.name_bytes + limits.labels * (limits.name_bytes + 2 * limits.value_bytes + 8) + 256
        self._created_values: tuple[float, ...] = ()
        self._created: Mapping[int, float] = NO_CREATED
        self._layout: _Layout | None = None
        self._forget()

    def _forget(self) -> None:
        self._known: dict[bytes, _Line] = {}
        self._families: dict[tuple[str, str, str, str], _Family] = {}
        self._known_bytes = 0
        self._edge_bytes = 0
        self._root = self._family("", "untyped", "", "")
        self._layout = None

    def parse(self, body: bytes) -> Parsed:
        """Read one answer; what is wrong with it is in the result, nothing is raised."""
        if len(self._families) > _FAMILIES * self._limits.samples:
            # An agent whose names never repeat, without metadata that would count.
            self._forget()
        lines = body.split(b"\n")
        if self._openmetrics:
            error = _check_end(lines)
            if error:
                return Parsed(error=error)
        found, values, rejected, valid = self._read(lines)
        layout = self._layout
        if layout is None or found != layout.lines or rejected:
            return self._assemble(found, values, rejected, valid)
        # NaN and infinities make the sum fail the comparison; many large values do so too, and are then looked at.
        if not sum(map(abs, values)) <= MAX_ABS_VALUE:
            return self._assemble(found, values, rejected, valid)
        stored = layout.stored
        return Parsed(
            metrics=layout.metrics,
            values=values if stored is None else [values[i] for i in stored],
            created=self._share_created(layout.created, values) if layout.created else NO_CREATED,
            process_start=values[layout.process_start] if layout.process_start >= 0 else None,
        )

    def _read(self, lines: list[bytes]) -> tuple[list[_Line], list[float], Counter[str], int]:
        """Return the known lines and their values, what was refused, and how many lines were well-formed."""
        known = self._known
        family = self._root
        found: list[_Line] = []
        values: list[float] = []
        rejected: Counter[str] = Counter()
        left = self._limits.samples
        valid = 0
        add_line, add_value, look_up = found.append, values.append, known.get
        for number, text in enumerate(lines):
            prefix, _, token = text.rpartition(b" ")
            line = look_up(prefix)
            if line is not None and line.family is family and b"_" not in token:
                try:
                    value = float(token)
                except ValueError:
                    pass
                else:
                    if not left:
                        rejected["too_many_samples"] += _count_samples(lines, number)
                        break
                    left -= 1
                    add_line(line)
                    add_value(value)
                    family = line.next
                    continue
            if text[:1] == b"#" or not text.strip():
                if text[:1] == b"#":
                    family = family.after.get(text) or self._follow(family, text, rejected)
                continue
            if text.lstrip()[:1] == b"#":
                family = self._follow(family, text.strip(), rejected)
                continue
            if not left:
                rejected["too_many_samples"] += _count_samples(lines, number)
                break
            left -= 1
            result = self._resolve(text, family)
            if isinstance(result, str):
                rejected[result] += 1
                if result not in _MALFORMED:
                    valid += 1
                continue
            line, value = result
            add_line(line)
            add_value(value)
            family = line.next
        return found, values, rejected, valid + len(found)

    def _assemble(self, found: list[_Line], values: list[float], rejected: Counter[str], valid: int) -> Parsed:
        """Sort *found* into samples, start times and refusals, and remember the layout where nothing was refused."""
        if not valid and any(rejected[reason] for reason in _MALFORMED):
            return Parsed(rejected=dict(rejected), error=_describe(rejected))
        metrics: list[MetricKey] = []
        positions: list[int] = []
        starts: dict[tuple[str, Labels], int] = {}
        seen: set[tuple[str, Labels]] = set()
        groups: dict[tuple[str, Labels], list[int]] = {}
        process_start = -1
        for position, (line, value) in enumerate(zip(found, values, strict=True)):
            reason = line.refused
            if line.key is not None:
                # By name and labels: the same series under two types is a duplicate too.
                identity = (line.key.name, line.key.labels)
                if identity in seen:
                    reason = "duplicate_series"
                seen.add(identity)
            reason = reason or refusal(value)
            if reason:
                rejected[reason] += 1
                continue
            if line.created and line.group is not None:
                starts.setdefault(line.group, position)
                continue
            if line.key is None:
                raise AssertionError("BUG: a line is neither a series nor refused nor a start time")
            if line.group is not None:
                groups.setdefault(line.group, []).append(len(metrics))
            if line.key.name == "process_start_time_seconds" and not line.key.labels:
                process_start = position
            positions.append(position)
            metrics.append(line.key)
        shared = self._series.shared(metrics)
        created = {position: groups[group] for group, position in starts.items() if group in groups}
        self._layout = None
        if not rejected:
            self._layout = _Layout(
                lines=found,
                metrics=shared,
                stored=None if len(positions) == len(found) else positions,
                created=created,
                process_start=process_start,
            )
        self._created_values = ()
        return Parsed(
            metrics=shared,
            values=[values[i] for i in positions],
            created=self._share_created(created, values) if created else NO_CREATED,
            process_start=values[process_start] if process_start >= 0 else None,
            rejected=dict(rejected),
        )

    def _share_created(self, created: dict[int, list[int]], values: list[float]) -> Mapping[int, float]:
        """Return start times by index, the same object as before while they are the same."""
        found = tuple(values[position] for position in created)
        if found != self._created_values or not found:
            self._created_values = found
            self._created = {i: values[position] for position, indices in created.items() for i in indices}
        return self._created

    # ---------------------------------------------------------------- the slow half

    def _resolve(self, text: bytes, family: _Family) -> tuple[_Line, float] | str:
        """Read a sample line that the look-up by its last space did not know; return a reason where it is refused."""
        if len(text) > self._line_bytes:
            return "line_limit"
        match = _PREFIX.match(text)
        if match is None:
            return "invalid_line"
        try:
            value, exemplar = self._tail(text[match.end() :])
        except ValueError:
            return "invalid_line"
        prefix = match.group().lstrip()
        line = self._known.get(prefix)
        if line is None or line.family is not family:
            learnt = self._learn(prefix, family)
            if isinstance(learnt, str):
                return learnt
            line = learnt
            # Two spellings per series and four whole answers are plenty; past that, lines are read anew each time.
            if len(self._known) < 2 * self._limits.series and self._known_bytes < 4 * self._limits.body_bytes:
                self._known[prefix] = line
                self._known_bytes += len(prefix)
        if exemplar and not line.may_have_exemplar:
            return "invalid_line"
        return line, value

    def _tail(self, tail: bytes) -> tuple[float, bool]:
        """Return the value, and whether an exemplar follows it; raise ``ValueError`` where it is malformed."""
        exemplar = b""
        if self._openmetrics:
            if tail[:1] not in (b" ", b"\t"):
                raise ValueError("no space after the series")
            tail, hash_sign, exemplar = tail.partition(b" #")
            if hash_sign:
                match = _EXEMPLAR.fullmatch(exemplar)
                if match is None:
                    raise ValueError("malformed exemplar")
                _number(match[1])
                _number(match[2] or b"0")
        tokens = tail.split()
        if not 1 <= len(tokens) <= 2:
            raise ValueError("expected a value and at most a timestamp")
        if len(tokens) == 2:
            _number(tokens[1])
        return _number(tokens[0]), bool(exemplar)

    def _learn(self, prefix: bytes, family: _Family) -> _Line | str:
        """Take an unknown prefix apart; return a reason where it is malformed, a refused line where it is over a limit."""
        try:
            name, labels = _take_apart(prefix.decode())
        except UnicodeDecodeError:
            return "bad_utf8"
        except ValueError:
            return "invalid_line"
        belongs = name in family.names
        suffix = name[len(family.name) :] if belongs else ""
        after = family
        if not belongs:
            # A sample that the metadata above it does not cover stands alone; OpenMetrics opens a family of unknown type.
            after = self._family(name, "unknown", "", "") if self._openmetrics else self._root
        kind = Kind.GAUGE
        group = None
        if belongs:
            of_text = bool(family.created_of) and family.type == "gauge"
            if of_text or (self._openmetrics and suffix == "_created"):
                base = family.created_of or family.name
                return _Line(family, after, group=(base, tuple(sorted(labels))), created=True)
            if suffix in _CUMULATIVE.get(family.type, ()):
                kind = Kind.COUNTER
                inner = tuple(sorted(pair for pair in labels if pair[0] not in _INNER_LABELS))
                group = (_base(family), inner)
        unit = family.unit if belongs and suffix not in ("_count", "_bucket", "_gcount") else ""
        key = self._series.intern(name, labels, kind, unit or unit_of(name), family.description if belongs else "")
        may = belongs and (family.type, suffix) in _WITH_EXEMPLAR
        if isinstance(key, str):
            return _Line(family, after, refused=key, may_have_exemplar=may)
        return _Line(family, after, key=key, group=group, may_have_exemplar=may)

    def _family(self, name: str, kind: str, unit: str, created_of: str) -> _Family:
        identity = (name, kind, unit, created_of)
        family = self._families.get(identity)
        if family is None:
            suffixes = (_OPENMETRICS_SUFFIXES if self._openmetrics else _TEXT_SUFFIXES).get(kind, ("",))
            names = frozenset(name + suffix for suffix in suffixes) if name else frozenset()
            family = _Family(name, kind, unit, created_of, names)
            self._families[identity] = family
        return family

    def _follow(self, family: _Family, text: bytes, rejected: Counter[str]) -> _Family:
        """Return the state after a line that starts with ``#``."""
        try:
            match = _METADATA.fullmatch(text.decode().rstrip("\r\n\t "))
        except UnicodeDecodeError:
            rejected["bad_utf8"] += 1
            return family
        if match is None or (match[1] == "UNIT" and not self._openmetrics):
            return family
        name, rest = match[2], match[3] or ""
        if name[0] == '"':
            name = _unescape(name[1:-1])
        elif not _LEGACY_NAME.fullmatch(name):
            name = ""
        if not name or (match[1] == "TYPE" and not rest):
            rejected["invalid_line"] += 1
            return family
        if self._edge_bytes > self._limits.body_bytes:
            # An agent whose metadata never repeats: start anew rather than grow. The family at hand stays valid.
            self._forget()
        kind, unit, created_of, description = family.type, family.unit, family.created_of, family.description
        if name != family.name:
            base = _base(family)
            kind, unit, description = "unknown" if self._openmetrics else "untyped", "", ""
            created_of = base if name == base + "_created" and family.type in _CUMULATIVE else ""
        if match[1] == "TYPE":
            kind = rest.strip()
        elif match[1] == "UNIT":
            unit = ucum(rest.strip())
        else:
            description = _unescape(rest)
        after = self._family(name, kind, unit, created_of)
        after.description = description or after.description
        family.after[text] = after
        self._edge_bytes += len(text) + _EDGE_BYTES
        return after


#: Families that are kept, per sample that an answer may have: each of three metadata lines leads to another.
_FAMILIES = 4
#: What an edge costs in memory beside its text.
_EDGE_BYTES = 400
#: The reference parser copies the rest of a line at each escaped quote: longer prefixes of unusual form are refused.
_REFERENCE_LENGTH = 4096
#: Reasons that say that a line is not of the format at all.
_MALFORMED = ("invalid_line", "bad_utf8", "line_limit")
#: Types and suffixes of the samples that may carry an exemplar.
_WITH_EXEMPLAR = (("counter", "_total"), ("histogram", "_bucket"), ("gaugehistogram", "_bucket"))


def _base(family: _Family) -> str:
    return family.name.removesuffix("_total") if family.type == "counter" else family.name


def _number(token: bytes) -> float:
    """Return the number that *token* is; Python's digit groups (``1_000``) are none."""
    if b"_" in token:
        raise ValueError("digit groups are not of the format")
    return float(token)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


def _take_apart(prefix: str) -> tuple[str, list[tuple[str, str]]]:
    """Return name and labels of a series prefix; raise ``ValueError`` where it is malformed."""
    match = _PLAIN.fullmatch(prefix)
    if match is not None:
        labels = [(name, _unescape(value)) for name, value in _LABEL.findall(match[2] or "")]
        if len({name for name, _ in labels}) != len(labels):
            raise ValueError("a label occurs twice")
        return match[1], labels
    if len(prefix) > _REFERENCE_LENGTH:
        raise ValueError("too long to be read with care")
    try:
        # Its reader of the text format takes the prefixes of both formats, quoted names included.
        (family,) = text_string_to_metric_families(f"{prefix} 0\n")
        (sample,) = family.samples
    except (LookupError, TypeError) as exc:
        raise ValueError("malformed series") from exc
    return sample.name, list(sample.labels.items())


def _count_samples(lines: list[bytes], start: int) -> int:
    """Return how many of the lines from *start* on are neither comments nor blank, without looking closer."""
    return sum(1 for line in lines[start:] if line and line[0] != 0x23 and not line.isspace())


def _check_end(lines: list[bytes]) -> str:
    """Return what is wrong with the end of an OpenMetrics exposition; cut the end mark off where it is right."""
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or lines[-1].rstrip() != b"# EOF":
        return "invalid exposition: no # EOF at its end"
    lines.pop()
    return ""


def _describe(rejected: Mapping[str, int]) -> str:
    words = {"invalid_line": "no valid line", "bad_utf8": "not utf-8", "line_limit": "lines over the limit"}
    return "invalid exposition: " + words[max(_MALFORMED, key=lambda reason: rejected.get(reason, 0))]
