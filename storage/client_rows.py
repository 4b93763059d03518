"""
Rows as a client hands them over, checked, and the batches that they become.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import numpy as np

from storage.batch import DAY_US, END_US, MAX_KEY_BYTES, Batch, make_checks, make_samples, objection
from storage.errors import InputError, quoted, shown
from storage.model import Kind, MetricKey, Outcome, Session, from_us, to_us
from storage.payloads import check_integer, several

T = TypeVar("T")

#: Rows of one transaction: its memory and its deadline stay small whatever is handed over at once.
MAX_ROWS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How an agent was found, by somebody other than the collector."""

    #: Name of a registered agent.
    agent: str
    #: When; aware.
    at: datetime
    #: An ``Outcome``, or its name in lower case.
    outcome: Outcome | str
    #: Milliseconds until it answered; ``None`` where it did not.
    latency_ms: float | None = None
    #: HTTP status code, 0 where there was none.
    http_status: int = 0
    #: Why, in a few words from a small set; empty when the outcome speaks for itself.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value of one metric, of an agent or of a host."""

    #: Name of a registered agent; empty where it is a host's.
    agent: str = ""
    #: Name of a host; empty where it is an agent's.
    host: str = ""
    metric: str
    #: Of a counter, the increase since the last sample, never its reading.
    value: float
    #: When; aware.
    at: datetime
    #: A ``Kind``, or its name.
    kind: Kind | str = Kind.GAUGE
    #: Part of the metric's identity.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: UCUM-like unit (``ms``, ``By``, ``1``); a metric keeps the one that it was first recorded with.
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """A check as a batch takes it."""

    #: Microseconds since the Unix epoch.
    ts_us: int
    agent: str
    #: An ``Outcome``.
    outcome: int
    #: NaN where there was no answer.
    latency_ms: float
    http_status: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A sample as a batch takes it."""

    #: Microseconds since the Unix epoch.
    ts_us: int
    #: Name of the agent or host.
    entity: str
    is_host: bool
    metric: MetricKey
    value: float


Row = CheckRow | SampleRow


def check_row(row: HealthCheck) -> CheckRow:
    """
    Return *row* as a batch takes it.

    Raises:
        InputError: No database could make sense of it.
    """
    agent = name_of("agent", row.agent)
    what = f"of agent {quoted(agent)}"
    check_integer(f"HTTP status {what}", row.http_status)
    if not 0 <= row.http_status <= 999:
        raise InputError(f"HTTP status {what} is {row.http_status}, expected 0 (none) to 999")
    latency = math.nan if row.latency_ms is None else _number(f"latency {what}", row.latency_ms)
    if latency < 0:
        raise InputError(f"latency {what} is {latency:g} ms, expected 0 or more")
    return CheckRow(
        ts_us=_moment(row.at),
        agent=agent,
        outcome=int(_outcome(what, row.outcome)),
        latency_ms=latency,
        http_status=row.http_status,
        reason=_text(f"reason {what}", row.reason),
    )


def check_rows(rows: Iterable[HealthCheck]) -> list[CheckRow]:
    """Return *rows* as a batch takes them; raises as ``check_row`` does."""
    return [check_row(row) for row in several("checks", rows, HealthCheck)]


def _outcome(what: str, given: object) -> Outcome:
    known = {each.label: each for each in Outcome}
    if isinstance(given, str) and given in known:
        return known[given]
    if isinstance(given, int) and not isinstance(given, bool) and given in known.values():
        return Outcome(given)
    raise InputError(f"outcome {what} is {quoted(given)}, expected one of {', '.join(known)}")


def sample_row(row: Sample) -> SampleRow:
    """
    Return *row* as a batch takes it.

    Raises:
        InputError: No database could make sense of it.
    """
    metric = _text("metric", row.metric)
    if not metric:
        raise InputError("metric is '', expected its name")
    what = quoted(metric)
    agent, host = _text(f"agent of {what}", row.agent), _text(f"host of {what}", row.host)
    if bool(agent) == bool(host):
        raise InputError(
            f"sample of {what} has agent {quoted(agent)} and host {quoted(host)}, expected the name of one of them"
        )
    try:
        kind = Kind(row.kind)
    except ValueError as exc:
        raise InputError(f"kind of {what} is {quoted(row.kind)}, expected {' or '.join(Kind)}") from exc
    value = _number(what, row.value)
    if kind is Kind.COUNTER and value < 0:
        raise InputError(f"counter {what} has {value:g}, expected the increase since the last sample, 0 or more")
    return SampleRow(
        ts_us=_moment(row.at),
        entity=name_of("host", host) if host else name_of("agent", agent),
        is_host=bool(host),
        metric=MetricKey(
            name=metric, labels=_labels(what, row.labels), kind=kind, unit=_text(f"unit of {what}", row.unit)
        ),
        value=value,
    )


def sample_rows(rows: Iterable[Sample]) -> list[SampleRow]:
    """Return *rows* as a batch takes them; raises as ``sample_row`` does."""
    return [sample_row(row) for row in several("samples", rows, Sample)]


def metric_rows(
    what: str,
    name: str,
    values: Mapping[str, float],
    *,
    at: datetime,
    kind: Kind | str,
    labels: Mapping[str, str] | None,
    units: Mapping[str, str] | None,
) -> list[SampleRow]:
    """
    Return one sample of each metric of *values*, of the agent or host *name*, as a batch takes it.

    Args:
        what: ``agent`` or ``host``.

    Raises:
        InputError: No database could make sense of it.
    """
    name_of(what, name)
    given, units_of = _mapping("values", values), _mapping("units", {} if units is None else units)
    for metric in units_of:
        if metric not in given:
            known = ", ".join(map(shown, given)) or "none"
            raise InputError(f"unit of {quoted(metric)} is given without a value, expected units of {known}")
    common: dict[str, Any] = {what: name, "at": at, "kind": kind, "labels": {} if labels is None else labels}
    return [
        sample_row(Sample(metric=metric, value=value, unit=units_of.get(metric, ""), **common))
        for metric, value in given.items()
    ]


def name_of(what: str, name: object) -> str:
    """
    Return *name*.

    Raises:
        InputError: No database takes it.
    """
    if not isinstance(name, str):
        raise InputError(f"name of {what} is {shown(name)}, expected text")
    found = objection(name, MAX_KEY_BYTES) if name else "no letter"
    if found:
        raise InputError(f"name of {what} {shown(name)} has {found}, expected text of at most {MAX_KEY_BYTES} bytes")
    return name


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} is {shown(value)}, expected text")
    return value


def _mapping(what: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{what} is {shown(value)}, expected a mapping by metric")
    return value


def _labels(what: str, labels: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(labels, Mapping):
        raise InputError(f"labels of {what} is {shown(labels)}, expected a mapping of text to text")
    for key, value in labels.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise InputError(f"label of {what} is {shown(key)}: {shown(value)}, expected text for text")
    return tuple(sorted(labels.items()))


def _number(what: str, value: object) -> float:
    try:
        # All of these Python makes a number of.
        number = float("no number" if isinstance(value, str | bytes | bytearray | bool) else value)  # type: ignore[arg-type]  # told below
    except (TypeError, ValueError, OverflowError) as exc:
        raise InputError(f"{what} is {shown(value)}, expected a number") from exc
    return number


def _moment(at: datetime) -> int:
    us = to_us(at)
    if not 0 <= us < END_US:
        raise InputError(
            f"moment {at.isoformat()} is out of range, expected {from_us(0):%Y} to {from_us(END_US - 1):%Y}"
        )
    return us


def agent_of(row: Row) -> str:
    """Return the agent that *row* is about, empty where it is a host."""
    if isinstance(row, CheckRow):
        return row.agent
    return "" if row.is_host else row.entity


def parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield *rows* by UTC day, ascending, ``MAX_ROWS`` at a time: the same rows always in the same parts."""
    days: dict[int, list[Row]] = {}
    for row in rows:
        days.setdefault(row.ts_us // DAY_US, []).append(row)
    for _, found in sorted(days.items()):
        for start in range(0, len(found), MAX_ROWS):
            yield found[start : start + MAX_ROWS]


def digest(rows: Sequence[Row], *, clocked: bool) -> bytes:
    """
    Return what tells a call that is made again from others.

    Args:
        clocked: The moment of *rows* was not the caller's, and is another one then.
    """
    said = hashlib.sha256(b"clocked" if clocked else b"")
    for row in rows:
        said.update(repr(replace(row, ts_us=0) if clocked else row).encode("utf-8", "surrogatepass"))
    return said.digest()


class _Places(dict[T, int]):
    """What a batch names, by its place in it."""

    def of(self, name: T) -> int:
        return self.setdefault(name, len(self))


def batch_of(rows: Sequence[Row], spool_id: UUID, seq: int, session: Session) -> Batch:
    """Return *rows*, which are of one UTC day, as a batch."""
    checks = [row for row in rows if isinstance(row, CheckRow)]
    samples = [row for row in rows if isinstance(row, SampleRow)]
    agents, hosts, metrics, reasons = _Places[str](), _Places[str](), _Places[MetricKey](), _Places[str]()
    # A latency beyond what the column holds is infinite to it, and refused as such.
    with np.errstate(over="ignore"):
        check_columns = make_checks(
            ts_us=[row.ts_us for row in checks],
            agent=[agents.of(row.agent) for row in checks],
            outcome=[row.outcome for row in checks],
            # Nobody had planned it for any other moment.
            late_ms=[math.nan for _ in checks],
            latency_ms=[row.latency_ms for row in checks],
            http_status=[row.http_status for row in checks],
            reason=[reasons.of(row.reason) if row.reason else -1 for row in checks],
        )
    agent_samples, system_samples = (
        make_samples(
            ts_us=[row.ts_us for row in samples if row.is_host is is_host],
            entity=[names.of(row.entity) for row in samples if row.is_host is is_host],
            metric=[metrics.of(row.metric) for row in samples if row.is_host is is_host],
            value=[row.value for row in samples if row.is_host is is_host],
        )
        for is_host, names in ((False, agents), (True, hosts))
    )
    return Batch(
        spool_id=spool_id,
        seq=seq,
        session=session,
        agents=tuple(agents),
        hosts=tuple(hosts),
        metrics=tuple(metrics),
        reasons=tuple(reasons),
        checks=check_columns,
        agent_samples=agent_samples,
        system_samples=system_samples,
    )
