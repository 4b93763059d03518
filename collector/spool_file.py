"""
The spool's file: batches that the database does not have for certain yet, and what must agree with them.

A SQLite database in WAL mode with ``synchronous=FULL`` (``NORMAL`` does not sync every commit), so that what
``append`` returned is on the disk. One connection, one thread; ``collector.spool`` gives it both.

What the tables hold:

============  =====================================================================================================
meta          identity of the file, last sequence number, identity of the database's server
cache         what the daemon needs to start without its database: the agent list
agents        name, last known status, names of the counters
baselines     last cumulative values of an agent's counters, written in the transaction of the batch that used them
batches       one row per batch: size, age, and which slots of which agents it holds, so that dropping one needs no
              look into its body
bodies        the batch itself, encoded
pending       batches to be written; a batch in neither this nor ``settled`` does not exist
settled       batches that the database has committed, kept for a while in case a failover takes them back
owed          losses and transitions of dropped batches; the next batch carries them
abandoned     sequence numbers that will never come, until the ledger knows
set_aside     bodies that could not be read or written, for a person to look at
============  =====================================================================================================

Invariants: every sequence number ends settled or abandoned. Bytes of file and write-ahead log stay below the bound:
room is made before a batch goes in, from what costs nothing (committed batches) to what costs data (the oldest
pending ones, whose slots then are losses).
"""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np

from collector.buffer import PendingBatch
from collector.config import SpoolConfig
from storage.batch import Batch, Checks, decode, encode
from storage.errors import BatchError, FleetpulseError
from storage.model import Loss, Session, Transition, from_us, to_us

log = logging.getLogger(__name__)

#: Version of the tables below; a file of another version is set aside.
VERSION = 1
#: Pages after which the write-ahead log is copied back: 4 MB, SQLite's own default.
CHECKPOINT_PAGES = 1000
#: Committed batches deleted, and free pages given back, in one go: keeps each transaction below some 10 ms.
CHUNK = 200
#: Set-aside bodies that are kept; more of them say nothing that these do not.
SET_ASIDE = 100
#: What one transaction costs beyond its bodies: pages of the small tables and of the tree above them.
OVERHEAD_BYTES = 256 * 1024

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cache (key TEXT PRIMARY KEY, crc INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE agents (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, status TEXT, crc INTEGER, keys BLOB);
CREATE TABLE baselines (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY, created_us INTEGER NOT NULL, size_bytes INTEGER NOT NULL, n_rows INTEGER NOT NULL,
    crc INTEGER NOT NULL, extra TEXT NOT NULL, slots BLOB NOT NULL
);
CREATE TABLE bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE pending (seq INTEGER PRIMARY KEY);
CREATE TABLE settled (seq INTEGER PRIMARY KEY, settled_us INTEGER NOT NULL);
CREATE TABLE owed (id INTEGER PRIMARY KEY, extra TEXT NOT NULL);
CREATE TABLE abandoned (spool_id TEXT NOT NULL, seq INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (spool_id, seq))
    WITHOUT ROWID;
CREATE TABLE set_aside (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, body BLOB);
"""

#: Slots of one agent in one batch.
_SLOTS = np.dtype([("agent", "<i4"), ("n", "<i4"), ("from_us", "<i8"), ("to_us", "<i8")])

_UNAVAILABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SpoolError(FleetpulseError):
    """Base of what the spool raises."""


class SpoolUnavailable(SpoolError):
    """The disk is full or refuses; nothing was changed, try again."""


class SpoolDamaged(SpoolError):
    """The file is not a spool any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The last cumulative values of one agent's counters."""

    agent: str
    #: Names of the counters; ``None`` where they are those of the last baseline.
    keys: bytes | None
    values: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStats:
    """How full the spool is."""

    #: Batches that the database does not have yet, their encoded bytes and their rows.
    batches: int = 0
    pending_bytes: int = 0
    rows: int = 0
    #: When the oldest of them was made, microseconds since the Unix epoch; 0 without any.
    oldest_us: int = 0
    #: File and write-ahead log.
    size_bytes: int = 0
    #: Since the daemon started: batches dropped for size or age, and their rows.
    dropped_batches: int = 0
    dropped_rows: int = 0
    #: Since the daemon started: batches set aside because they could not be read or written.
    set_aside: int = 0


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Let nothing but errors of the spool out of the block."""
    try:
        yield
    except sqlite3.Error as exc:
        # A MemoryError and misuse have no code; a file that is no database has one.
        code = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF
        if code in _DAMAGED:
            raise SpoolDamaged(f"spool {path} is damaged: {exc}") from exc
        if code in _UNAVAILABLE:
            raise SpoolUnavailable(f"spool {path} cannot be written: {exc}; free space or mend the disk") from exc
        raise


class SpoolFile:
    """
    One spool file, open.

    Args:
        path: The file; made when it is not there.
        bounds: Bytes, age, and how long committed batches stay.
        now_us: Clock for ages, microseconds since the Unix epoch.

    Raises:
        SpoolDamaged: The file is there and is no spool, or not of this version.
        SpoolUnavailable: It cannot be opened or made.
    """

    def __init__(self, path: Path, bounds: SpoolConfig, now_us: Callable[[], int]) -> None:
        self.path = path
        self._bounds = bounds
        self._now_us = now_us
        self._dropped_batches = self._dropped_rows = self._set_aside = 0
        with _translated(path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        db = self._db
        # Before the first table: the choice is part of the file.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        self._page_bytes = int(db.execute("PRAGMA page_size").fetchone()[0])
        pages = max(8, min(CHECKPOINT_PAGES, self._bounds.max_bytes // 8 // self._page_bytes))
        db.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        db.execute(f"PRAGMA journal_size_limit = {pages * self._page_bytes}")
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        if found == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
                self._put_meta("spool_id", str(uuid4()))
                self._put_meta("last_seq", "0")
        elif found != VERSION:
            raise SpoolDamaged(f"spool {self.path} is of version {found}, expected {VERSION}")
        try:
            self.spool_id = UUID(self._meta("spool_id"))
            self._last_seq = int(self._meta("last_seq"))
        except (TypeError, ValueError) as exc:
            raise SpoolDamaged(f"spool {self.path} has lost its identity: {exc}") from exc
        self._agent_ids: dict[str, int] = dict(db.execute("SELECT name, id FROM agents"))
        # Reads every page of the small tables once: what is broken there shows now and not in the middle of a flush.
        for table in ("meta", "baselines", "settled", "owed", "abandoned"):
            db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  # names from this line
        self._batches, self._bytes, self._rows = db.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(sum(n_rows), 0)"
            " FROM pending JOIN batches USING (seq)"
        ).fetchone()

    def close(self) -> None:
        """Close the file; its write-ahead log is copied back and removed."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Run a transaction; give the counts of this object back as they were when it fails."""
        before = (
            self._batches, self._bytes, self._rows, self._last_seq,
            self._dropped_batches, self._dropped_rows, self._set_aside, self._agent_ids.copy(),
        )  # fmt: skip
        try:
            with _translated(self.path), self._transaction():
                yield
        except BaseException:
            (
                self._batches, self._bytes, self._rows, self._last_seq,
                self._dropped_batches, self._dropped_rows, self._set_aside, self._agent_ids,
            ) = before  # fmt: skip
            raise

    def _meta(self, key: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def _put_meta(self, key: str, value: str) -> None:
        self._db.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )
