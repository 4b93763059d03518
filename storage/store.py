"""
The contract that every engine fulfils, and the only thing that the rest of the program sees of a database.

A store is synchronous. One thread writes, others may read and refresh at the same time; each public method takes
a connection of its own from the engine, except ``write``, which keeps one. Methods raise the errors of
``storage.errors`` and nothing of a driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Protocol

from sqlalchemy import Engine

from storage.batch import Batch, WriteResult
from storage.forks import Lock
from storage.model import Session, Table, Tier, Window

#: What a store says that was closed.
CLOSED = "database is closed: open it again"


class Capability(Enum):
    """What an engine may or may not be able to do."""

    #: Public views equal a GROUP BY over raw at every moment, not only where nothing is marked.
    EXACT_VIEWS = "views that are exact at every moment"
    #: Batches are written by COPY.
    COPY = "binary COPY"
    #: Several connections may write at once.
    SEVERAL_WRITERS = "several writers at once"
    #: Old rows are kept by column.
    COLUMNSTORE = "columnstore"
    #: Arrow's own driver can read the server.
    ARROW = "columns by Arrow's driver"
    #: The server refreshes and compresses by jobs of its own, whether a daemon runs or not.
    SERVER_JOBS = "background jobs of the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """How far back one tier of one table still lives."""

    table: Table
    tier: Tier
    #: Nothing is written below this moment.
    closed_before: datetime
    #: Nothing is held, refreshed, rebuilt or computed below this moment; never above ``closed_before``.
    dropped_before: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A slice of one tier of one table, dropped as a whole."""

    table: Table
    tier: Tier
    #: Name of the relation.
    name: str
    window: Window
    #: Heap and indexes.
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult:
    """What one refresh transaction did."""

    #: Buckets recomputed.
    buckets: int = 0
    #: Rows that those buckets now have.
    rows: int = 0
    #: Marks removed.
    marks: int = 0
    #: Another refresher holds the table; nothing was done.
    busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A difference that ``verify`` found."""

    table: Table
    tier: Tier
    #: The offending bucket, or midnight UTC of the day for the ledger.
    bucket: datetime
    #: Entity and metric ids of the row, empty for the ledger.
    key: Mapping[str, int] = field(default_factory=dict)
    #: Column names to values.
    found: Mapping[str, object] = field(default_factory=dict)
    expected: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerDay:
    """What the ledger says of one UTC day of one table, beside what the table holds."""

    table: Table
    day: date
    #: Rows that the committed batches claim.
    ledger: int
    #: Rows that ``count(*)`` finds in the same snapshot.
    stored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The answer to a query."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]


class Snapshot(Protocol):
    """One moment of a database, that of the first statement, for as many as it takes; nothing can be written in it."""

    def read(self, sql: str, parameters: Mapping[str, object] | None = None) -> Iterator[Rows]:
        """
        Run a statement with ``:name`` parameters and yield its rows in blocks, at least one, which may be empty.

        However long the answer is, memory holds one block. Values are as the engine keeps them: what it has no type
        for comes as the number or the text that stands for it.
        """
        ...


class Closeable(Protocol):
    """Something that has to be closed."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrowSource:
    """How Arrow's own driver reads a server as ``Store.snapshot`` does: one moment, in UTC, under the same deadline."""

    #: Address for libpq, password included.
    uri: str = field(repr=False)
    #: Statements that make a snapshot of the transaction that a new connection begins.
    begin: tuple[str, ...]
    #: Puts parameters into a statement as literals: the driver cannot bind what it reads by COPY.
    render: Callable[[str, Mapping[str, object]], str] = field(repr=False)
    #: What the first reader has made for those after it, closed with the store; ``lock`` guards it.
    kept: list[Closeable] = field(default_factory=list, repr=False)
    lock: Lock = field(default_factory=Lock, repr=False)

    def close(self) -> None:
        """Close what is kept."""
        with self.lock:
            while self.kept:
                self.kept.pop().close()


class Store(Protocol):
    """A database that holds the relational tables, the time series and their rollups."""

    @property
    def engine_name(self) -> str:
        """Return ``postgresql``, ``timescaledb`` or ``sqlite``."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Return what this engine, on this server, can do."""
        ...

    @property
    def grace(self) -> timedelta:
        """
        Return how long a bucket is left alone after its end before a daemon refreshes it.

        The polls of its last second are on their way until then, and the server's own jobs, where it has any, come
        first.
        """
        ...

    @property
    def engine(self) -> Engine:
        """Return the SQLAlchemy engine of the relational half."""
        ...

    def close(self) -> None:
        """Give every connection back; whoever uses the store afterwards gets a ``StorageError``."""
        ...

    def require(self, capability: Capability) -> None:
        """
        Insist on *capability*.

        Raises:
            CapabilityMissing: This engine or server lacks it.
        """
        ...

    def server_version(self) -> str:
        """Return product and version of the server, for people."""
        ...

    def server_identity(self) -> str:
        """
        Return what names this database's history: cluster, timeline and database.

        It changes with a failover, a restore or a move; commits seen under another identity may be gone.
        """
        ...

    def now(self) -> datetime:
        """
        Return what time it is for everybody who uses this database: by the server's clock, where there is a server.

        A round trip; ``storage.clock`` has one that costs nothing.
        """
        ...

    # ---------------------------------------------------------------- schema

    def check_schema(self) -> None:
        """
        Insist that both halves of the schema are at the revision of this code.

        Raises:
            SchemaMismatch: They are not; the message names the remedy.
        """
        ...

    def timeseries_version(self) -> tuple[int, int]:
        """Return the version that the time-series half is at, 0 where there is none, and the one that the code needs."""
        ...

    def provision(self) -> None:
        """Create the time-series half, or bring it up to this code's version; does nothing when it is there."""
        ...

    def drop(self) -> None:
        """Drop the time-series half, data included."""
        ...

    def audit(self, keep: Mapping[Tier, timedelta | None]) -> Sequence[str]:
        """
        Look for what would make the server's own jobs lose or miss rollups; return one line for each danger.

        Args:
            keep: How long each tier is kept; ``None`` is for ever.
        """
        ...

    def ensure_partitions(self, window: Window) -> int:
        """Make the partitions that rows of *window* need, raw and tiers; return how many were made."""
        ...

    def may_maintain(self) -> bool:
        """
        Tell whether this session's role may do what only the owner of the time series may: refresh, close, drop.

        Whoever may not can still write, and have the partitions made that its rows need.
        """
        ...

    # ---------------------------------------------------------------- writing

    def claim_collector(self, name: str) -> None:
        """
        Become the one collector of this database until ``close`` or a lost connection.

        Raises:
            CollectorRunning: Another one holds it.
        """
        ...

    def open_session(self, session: Session) -> int:
        """Record the start of a collector; return its small id. Doing so twice is harmless."""
        ...

    def close_session(self, session: Session) -> None:
        """Record the orderly end of a collector."""
        ...

    def write(self, batch: Batch) -> WriteResult:
        """
        Write *batch* in one transaction, once: ledger, rows, marks, transitions and losses.

        A batch that the ledger knows writes nothing. Rows below the raw horizon, and rows that the database refuses
        (SQLSTATE class 22 and 23), are left out, counted, and the latter kept in quarantine.

        Raises:
            BatchError: The batch is malformed.
            TransientStorageError: Nothing was written; offer it again.
        """
        ...

    def abandon(self, batch_range: range, spool_id: str, reason: str) -> None:
        """Record in the ledger that these sequence numbers of a spool were dropped and will never come."""
        ...

    # ---------------------------------------------------------------- rollups

    def dirty(self, table: Table, tier: Tier, closed_before: datetime) -> Sequence[datetime]:
        """Return the marked buckets of *tier* that end at or before *closed_before*, ascending, distinct."""
        ...

    def refresh(self, table: Table, tier: Tier, *, closed_before: datetime, limit: int = 120) -> RefreshResult:
        """
        Recompute up to *limit* marked, closed buckets of *tier* from the tier below, in one transaction.

        The marks that the transaction saw go, the next tier's marks come; marks that others add meanwhile stay.
        """
        ...

    def mark(self, table: Table, window: Window) -> int:
        """Mark what each tier holds within *window*, from the raw horizon on; return the number of buckets marked."""
        ...

    def verify_tier(self, table: Table, tier: Tier, window: Window, *, against: Tier = Tier.RAW) -> Sequence[Mismatch]:
        """
        Compare the public view of *tier* with a GROUP BY over a finer tier, within *window* and above its horizon.

        *against* is raw or the next finer tier.

        ``n``, ``min``, ``max`` must be equal, sums within 1e-9 · n · max(|min|, |max|).
        """
        ...

    def verify_ledger(self) -> Sequence[LedgerDay]:
        """Return, of one snapshot, every UTC day above the raw horizon with ledger and stored counts."""
        ...

    # ---------------------------------------------------------------- retention

    def horizons(self) -> Sequence[Horizon]:
        """Return the horizon of every table and tier."""
        ...

    def partitions(self, table: Table, tier: Tier) -> Sequence[Partition]:
        """Return the partitions of *tier*, ascending."""
        ...

    def boundary(self, tier: Tier, moment: datetime) -> datetime:
        """Return the latest moment not after *moment* at which *tier* can be cut."""
        ...

    def close_below(self, table: Table, tier: Tier, boundary: datetime) -> None:
        """
        Stop writes below *boundary*: when this returns, every transaction that wrote there has ended.

        Raises:
            TransientStorageError: Writers did not finish in time; try again later.
        """
        ...

    def drop_below(self, table: Table, tier: Tier, boundary: datetime) -> Sequence[Partition]:
        """
        Drop the partitions of *tier* that end at or before *boundary*, which must be closed and clean.

        Raises:
            NotSettled: Marks are left in the range; refresh, then try again.
            StorageError: The range is not closed, or the finer tier still holds rows in it.
            TransientStorageError: A lock was not had in time; what was dropped so far stays dropped.
        """
        ...

    def purge_ledger(self, before: datetime, limit: int = 50_000) -> int:
        """Forget up to *limit* batches that were committed before *before*; return how many."""
        ...

    # ---------------------------------------------------------------- reading

    def query(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        *,
        types: Mapping[str, type] | None = None,
    ) -> Rows:
        """
        Run a read-only statement with ``:name`` parameters and return everything it answers.

        Args:
            parameters: By name; moments are aware.
            types: Columns of the answer whose values are to be ``datetime`` (aware UTC) or ``bool``. An engine that has
                no such type stores numbers and needs to be told; the others know.

        Raises:
            TransientStorageError: The database could not answer now, or not at all: it does not know such a statement.
        """
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """
        Lend one moment of the database, on a connection of its own: for exports, which read more than fits into memory.

        Raises:
            TransientStorageError: The database could not answer, or the export took longer than ``deadlines.EXPORT``.
        """
        ...

    def arrow_source(self) -> ArrowSource:
        """
        Return how Arrow's own driver reads this database.

        Raises:
            CapabilityMissing: There is no ``Capability.ARROW``: use ``snapshot``.
        """
        ...
