"""
Columnar batches: what one flush hands from the collector to the database.

A batch is self-contained: it names agents, hosts, metrics and reasons, never database ids, so that it can
lie in the spool while the database is away, and be written to a database that has never seen it. Columns are
numpy arrays, so that a batch is checked and encoded without a Python loop over its rows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from storage.errors import BatchError
from storage.model import Kind, Loss, MetricKey, Session, Table, Transition, from_us, to_us

DAY_US = 86_400_000_000
#: Rows are dated before the year 2200.
END_US = 7_258_118_400_000_000
#: Names and reasons are looked up by B-trees, whose entries end at 2,704 bytes.
MAX_KEY_BYTES = 2_000
#: Labels are only carried along.
MAX_TEXT_BYTES = 1_000_000
#: First bytes of an encoded batch; the digit is the version of the format.
MAGIC = b"FPB1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Health checks as columns of equal length."""

    #: Due time, microseconds since the Unix epoch.
    ts_us: NDArray[np.int64]
    #: Index into ``Batch.agents``.
    agent: NDArray[np.int32]
    #: ``Outcome`` values.
    outcome: NDArray[np.int16]
    #: Milliseconds from due time to the start of the poll.
    late_ms: NDArray[np.float32]
    #: Milliseconds from the start of the poll to its answer; NaN where there was none.
    latency_ms: NDArray[np.float32]
    #: HTTP status code, 0 where there was none.
    http_status: NDArray[np.int16]
    #: Index into ``Batch.reasons``, -1 for none.
    reason: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ts_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples of agents or of hosts as columns of equal length."""

    #: Due time of the poll, microseconds since the Unix epoch.
    ts_us: NDArray[np.int64]
    #: Index into ``Batch.agents`` or ``Batch.hosts``.
    entity: NDArray[np.int32]
    #: Index into ``Batch.metrics``.
    metric: NDArray[np.int32]
    #: Finite; a counter's increase since the poll before.
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ts_us)


_CHECK_DTYPES: Mapping[str, str] = {
    "ts_us": "<i8",
    "agent": "<i4",
    "outcome": "<i2",
    "late_ms": "<f4",
    "latency_ms": "<f4",
    "http_status": "<i2",
    "reason": "<i4",
}
_SAMPLE_DTYPES: Mapping[str, str] = {"ts_us": "<i8", "entity": "<i4", "metric": "<i4", "value": "<f8"}


def make_checks(**columns: Iterable[float]) -> Checks:
    """Build checks from any sequences, one per column of ``Checks``; no argument gives none."""
    return Checks(**{name: np.asarray(columns.get(name, ()), dtype) for name, dtype in _CHECK_DTYPES.items()})


def make_samples(**columns: Iterable[float]) -> Samples:
    """Build samples from any sequences, one per column of ``Samples``; no argument gives none."""
    return Samples(**{name: np.asarray(columns.get(name, ()), dtype) for name, dtype in _SAMPLE_DTYPES.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one flush saw, within one UTC day."""

    #: Identity of the spool file, minted with it; with ``seq`` the identity of the batch.
    spool_id: UUID
    #: Dense and ascending within a spool, from 1.
    seq: int
    session: Session
    agents: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    metrics: tuple[MetricKey, ...] = ()
    reasons: tuple[str, ...] = ()
    checks: Checks = field(default_factory=make_checks)
    agent_samples: Samples = field(default_factory=make_samples)
    system_samples: Samples = field(default_factory=make_samples)
    transitions: tuple[Transition, ...] = ()
    losses: tuple[Loss, ...] = ()
    #: Every slot due before this moment has been handed over (microseconds since the Unix epoch).
    observed_to_us: int = 0

    def __len__(self) -> int:
        """Return the number of time-series rows."""
        return len(self.checks) + len(self.agent_samples) + len(self.system_samples)

    def columns(self, table: Table) -> Checks | Samples:
        """Return the columns that go to *table*."""
        if table is Table.HEALTH:
            return self.checks
        return self.agent_samples if table is Table.AGENT else self.system_samples

    @property
    def day(self) -> date | None:
        """Return the UTC day of the rows, ``None`` without rows."""
        for table in Table:
            columns = self.columns(table)
            if len(columns):
                return from_us(int(columns.ts_us[0])).date()
        return None

    def validate(self) -> None:
        """
        Check what the database cannot.

        Raises:
            BatchError: Columns differ in length, an index points nowhere, rows span two UTC days or lie outside the
                years that are stored, a moment has no time zone, or the name of an agent or host is none that a
                database takes.
        """
        _check_texts(self)
        _check_moments(self)
        sizes = {Table.HEALTH: len(self.agents), Table.AGENT: len(self.agents), Table.SYSTEM: len(self.hosts)}
        days: set[int] = set()
        for table in Table:
            columns = self.columns(table)
            lengths = {f.name: len(getattr(columns, f.name)) for f in fields(columns)}
            if len(set(lengths.values())) != 1:
                raise BatchError(f"batch {self.name} {table} has columns of unequal length: {lengths}")
            if not len(columns):
                continue
            entity = columns.agent if isinstance(columns, Checks) else columns.entity
            _check_index(self, f"{table} entity", entity, 0, sizes[table])
            if isinstance(columns, Checks):
                _check_index(self, f"{table} reason", columns.reason, -1, len(self.reasons))
            else:
                _check_index(self, f"{table} metric", columns.metric, 0, len(self.metrics))
            if int(columns.ts_us.min()) < 0 or int(columns.ts_us.max()) >= END_US:
                raise BatchError(f"batch {self.name} {table} has rows dated outside 1970 to 2199")
            days.update({int(columns.ts_us.min()) // DAY_US, int(columns.ts_us.max()) // DAY_US})
        if len(days) > 1:
            found = ", ".join(str(from_us(day * DAY_US).date()) for day in sorted(days))
            raise BatchError(f"batch {self.name} spans several UTC days: found {found}, expected one")

    @property
    def name(self) -> str:
        """Return the identity for messages: ``spool/seq``."""
        return f"{self.spool_id}/{self.seq}"


def _check_texts(batch: Batch) -> None:
    for what, texts in (
        ("agent", batch.agents),
        ("host", batch.hosts),
        ("transition", [text for each in batch.transitions for text in (each.agent, each.old, each.new)]),
        ("loss", [loss.agent for loss in batch.losses]),
    ):
        # One look at all of them: nearly always there is nothing to find.
        together = "".join(texts)
        if together.isascii() and "\0" not in together and max(map(len, texts), default=0) <= MAX_KEY_BYTES:
            continue
        for text in texts:
            found = objection(text, MAX_KEY_BYTES)
            if found:
                raise BatchError(
                    f"batch {batch.name} {what} {text[:40]!r} has {found}, "
                    f"expected text of at most {MAX_KEY_BYTES} bytes that a database takes"
                )


def _check_moments(batch: Batch) -> None:
    for what, moments in (
        ("session", [batch.session.started_at]),
        ("transition", [each.due for each in batch.transitions]),
        ("loss", [moment for loss in batch.losses for moment in (loss.from_due, loss.to_due)]),
    ):
        for moment in moments:
            if moment.tzinfo is None:
                raise BatchError(
                    f"batch {batch.name} {what} is dated {moment.isoformat()} without a time zone, "
                    "expected aware UTC: add tzinfo=UTC"
                )
    if not 0 <= batch.observed_to_us < END_US:
        raise BatchError(
            f"batch {batch.name} has observed_to_us {batch.observed_to_us}, expected 0 to {END_US - 1} (1970 to 2199)"
        )


def objection(text: str, limit: int) -> str:
    """Return what keeps *text* from being stored in *limit* bytes of UTF-8; empty where nothing does."""
    # ASCII is the rule, and the cheapest thing to ask.
    if len(text) <= limit and text.isascii() and "\0" not in text:
        return ""
    if "\0" in text:
        return "a NUL byte"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "half a surrogate pair"
    return f"{size} bytes" if size > limit else ""


def unstorable_metrics(batch: Batch) -> NDArray[np.int32]:
    """Return the places in ``batch.metrics`` of those whose name or labels no database takes; others are whole."""
    return np.array(
        [
            place
            for place, metric in enumerate(batch.metrics)
            if objection(metric.name, MAX_KEY_BYTES)
            or any(objection(text, MAX_TEXT_BYTES) for pair in metric.labels for text in pair)
        ],
        np.int32,
    )


def with_clean_words(batch: Batch) -> Batch:
    """Return *batch* with its reasons, units and descriptions made fit to be stored: words for people, no identities."""
    return replace(
        batch,
        metrics=tuple(
            replace(metric, unit=_clean(metric.unit), description=_clean(metric.description))
            if objection(metric.unit + metric.description, MAX_KEY_BYTES)
            else metric
            for metric in batch.metrics
        ),
        reasons=tuple(map(_clean, batch.reasons)),
        transitions=tuple(
            replace(each, reason=_clean(each.reason)) if objection(each.reason, MAX_KEY_BYTES) else each
            for each in batch.transitions
        ),
        losses=tuple(
            replace(loss, reason=_clean(loss.reason)) if objection(loss.reason, MAX_KEY_BYTES) else loss
            for loss in batch.losses
        ),
    )


def _clean(text: str) -> str:
    if not objection(text, MAX_KEY_BYTES):
        return text
    fit = text.replace("\0", "�").encode(errors="replace")
    return fit[:MAX_KEY_BYTES].decode(errors="ignore")


def _check_index(batch: Batch, what: str, index: NDArray[np.int32], low: int, size: int) -> None:
    if int(index.min()) < low or int(index.max()) >= size:
        raise BatchError(
            f"batch {batch.name} {what} index is out of range: "
            f"found {int(index.min())}..{int(index.max())}, expected {low}..{size - 1}"
        )


def encode(batch: Batch) -> bytes:
    """Return *batch* as bytes: magic, header length, CRC-32 of the rest, JSON header, raw columns."""
    header = {
        "spool_id": str(batch.spool_id),
        "seq": batch.seq,
        "session": {
            "uuid": batch.session.uuid,
            "name": batch.session.name,
            "host": batch.session.host,
            "pid": batch.session.pid,
            "version": batch.session.version,
            "started_at": to_us(batch.session.started_at),
            "is_collector": batch.session.is_collector,
        },
        "agents": batch.agents,
        "hosts": batch.hosts,
        "metrics": [[m.name, m.labels, m.kind.value, m.unit, m.description] for m in batch.metrics],
        "reasons": batch.reasons,
        "sizes": [len(batch.checks), len(batch.agent_samples), len(batch.system_samples)],
        "transitions": [[t.agent, to_us(t.due), t.old, t.new, t.reason] for t in batch.transitions],
        "losses": [[x.agent, to_us(x.from_due), to_us(x.to_due), x.n, x.reason] for x in batch.losses],
        "observed_to_us": batch.observed_to_us,
    }
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    parts = [head]
    for columns, dtypes in (
        (batch.checks, _CHECK_DTYPES),
        (batch.agent_samples, _SAMPLE_DTYPES),
        (batch.system_samples, _SAMPLE_DTYPES),
    ):
        parts.extend(np.ascontiguousarray(getattr(columns, name), dtype).tobytes() for name, dtype in dtypes.items())
    body = b"".join(parts)
    return MAGIC + len(head).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def decode(data: bytes) -> Batch:
    """
    Return the batch that *data* holds.

    Raises:
        BatchError: Not a batch, of another format version, cut short, or damaged (CRC-32 differs).
    """
    if data[:4] != MAGIC:
        raise BatchError(f"not a batch: found {data[:4]!r} at its start, expected {MAGIC!r}")
    head_size = int.from_bytes(data[4:8], "little")
    body = memoryview(data)[12:]
    found, expected = zlib.crc32(body), int.from_bytes(data[8:12], "little")
    if found != expected:
        raise BatchError(f"batch is damaged: found CRC-32 {found:08x}, expected {expected:08x}")
    try:
        header = json.loads(bytes(body[:head_size]).decode("utf-8", "surrogatepass"))
        offset = head_size
        groups: list[dict[str, NDArray[np.generic]]] = []
        for size, dtypes in zip(header["sizes"], (_CHECK_DTYPES, _SAMPLE_DTYPES, _SAMPLE_DTYPES), strict=True):
            columns: dict[str, NDArray[np.generic]] = {}
            for name, dtype in dtypes.items():
                columns[name] = np.frombuffer(body, dtype, count=size, offset=offset)
                offset += columns[name].nbytes
            groups.append(columns)
        session = header["session"]
        return Batch(
            spool_id=UUID(header["spool_id"]),
            seq=header["seq"],
            session=Session(
                uuid=session["uuid"],
                name=session["name"],
                host=session["host"],
                pid=session["pid"],
                version=session["version"],
                started_at=from_us(session["started_at"]),
                # Rows of spools that are older than this field are a collector's.
                is_collector=session.get("is_collector", True),
            ),
            agents=tuple(header["agents"]),
            hosts=tuple(header["hosts"]),
            metrics=tuple(
                MetricKey(
                    name=name, labels=tuple((k, v) for k, v in labels), kind=Kind(kind), unit=unit, description=text
                )
                for name, labels, kind, unit, text in header["metrics"]
            ),
            reasons=tuple(header["reasons"]),
            checks=Checks(**groups[0]),  # type: ignore[arg-type]  # dtypes are those of _CHECK_DTYPES
            agent_samples=Samples(**groups[1]),  # type: ignore[arg-type]  # likewise
            system_samples=Samples(**groups[2]),  # type: ignore[arg-type]  # likewise
            transitions=tuple(
                Transition(agent=agent, due=from_us(due), old=old, new=new, reason=reason)
                for agent, due, old, new, reason in header["transitions"]
            ),
            losses=tuple(
                Loss(agent=agent, from_due=from_us(first), to_due=from_us(last), n=n, reason=reason)
                for agent, first, last, n, reason in header["losses"]
            ),
            observed_to_us=header["observed_to_us"],
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise BatchError(f"batch header is malformed: {exc}") from exc


def select(columns: Checks | Samples, keep: NDArray[np.generic]) -> Checks | Samples:
    """Return the rows of *columns* that *keep* (a mask or an index array) picks."""
    return replace(columns, **{f.name: getattr(columns, f.name)[keep] for f in fields(columns)})


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """What became of the rows of one batch; every row is in exactly one of the three."""

    #: Rows committed by this call; of a client's call that is made again, by the first one.
    accepted: int = 0
    #: Rows refused, by reason; they are counted in the database and never offered again.
    rejected: Mapping[str, int] = field(default_factory=dict)
    #: Rows not written and to be offered again.
    kept: int = 0
    #: The ledger already knew this batch: nothing was written now.
    replayed: bool = False

    @property
    def rejections(self) -> int:
        """Return the number of rows refused, over all reasons."""
        return sum(self.rejected.values())
