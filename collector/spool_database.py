"""
The spool's SQLite database: how it is opened, how its errors are named, and how its bytes are counted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from collector.spool_states import SCHEMA as STATES_SCHEMA
from storage.errors import FleetpulseError

#: Version of the tables below; a file of another version is set aside.
VERSION = 2
#: Pages after which the write-ahead log is copied back: 4 MB, SQLite's own default.
CHECKPOINT_PAGES = 1000
#: Pages given back to the disk in one go: moving them takes some 10 ms.
SHRINK_PAGES = 200

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cache (key TEXT PRIMARY KEY, crc INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY, created_us INTEGER NOT NULL, size_bytes INTEGER NOT NULL, n_rows INTEGER NOT NULL
);
CREATE TABLE bodies (
    seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, extra TEXT NOT NULL, slots BLOB NOT NULL, body BLOB NOT NULL
);
CREATE TABLE pending (seq INTEGER PRIMARY KEY, again INTEGER NOT NULL DEFAULT 0);
CREATE TABLE settled (seq INTEGER PRIMARY KEY, settled_us INTEGER NOT NULL);
CREATE INDEX settled_by_time ON settled (settled_us);
CREATE TABLE owed (id INTEGER PRIMARY KEY, extra TEXT NOT NULL);
CREATE TABLE abandoned (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE set_aside (seq INTEGER PRIMARY KEY, reason TEXT NOT NULL, body BLOB);
"""

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


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Let nothing but errors of the spool out of the block."""
    try:
        yield
    except sqlite3.Error as exc:
        # A MemoryError and misuse have no code; a file that is no database has one.
        code = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF
        # Every table was there when the file was opened.
        if code in _DAMAGED or str(exc).startswith("no such table"):
            raise SpoolDamaged(f"spool {path} is damaged: {exc}") from exc
        if code in _UNAVAILABLE:
            raise SpoolUnavailable(f"spool {path} cannot be written: {exc}; free space or mend the disk") from exc
        raise


class SpoolDatabase:
    """
    An open spool database, for one thread.

    Args:
        path: The file; made with its tables when it is not there.
        max_bytes: Bound of file and write-ahead log together.

    Raises:
        SpoolDamaged: The file is there and is no spool, or not of this version.
        SpoolUnavailable: It cannot be opened or made.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        with translated(path):
            # For its owner alone: it holds what agents said. SQLite gives the files beside it the same mode, and says what is
            # wrong where a file cannot be made.
            with suppress(OSError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            try:
                self._open()
            except BaseException:
                self.connection.close()
                raise

    def _open(self) -> None:
        db = self.connection
        # Before the first table: the choice is part of the file.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        self._page_bytes = int(db.execute("PRAGMA page_size").fetchone()[0])
        pages = max(8, min(CHECKPOINT_PAGES, self._max_bytes // 8 // self._page_bytes))
        db.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        db.execute(f"PRAGMA journal_size_limit = {pages * self._page_bytes}")
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        if found == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            with self.transaction():
                for statement in (_SCHEMA + STATES_SCHEMA).split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
        elif found != VERSION:
            raise SpoolDamaged(f"spool {self.path} is of version {found}, expected {VERSION}")

    def close(self) -> None:
        """Close the file; its write-ahead log is copied back and removed."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction, durable at its end."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back already.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def meta(self, key: str) -> str:
        """Return what was noted under *key*, empty where nothing was."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def put_meta(self, key: str, value: str) -> None:
        """Note *value* under *key*; the transaction is the caller's."""
        self.connection.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    # ---------------------------------------------------------------- bytes

    def pages(self) -> tuple[int, int]:
        """Return the pages of the file, and how many of them are free."""
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        return int(pages), int(self.connection.execute("PRAGMA freelist_count").fetchone()[0])

    def size_bytes(self) -> int:
        """Return the bytes of file and write-ahead log."""
        return self.path.stat().st_size + self._wal_bytes()

    def has_room(self, need_bytes: int) -> bool:
        """Tell whether *need_bytes* fit twice beside what is in use: what is written is in the log first."""
        pages, free = self.pages()
        return (pages - free) * self._page_bytes + 2 * need_bytes <= self._max_bytes

    def fits(self, need_bytes: int) -> bool:
        """Tell whether file and log, as they are now, stay below the bound while *need_bytes* are written."""
        with translated(self.path):
            pages, free = self.pages()
        grown = max(0, -(-need_bytes // self._page_bytes) - free)
        return (pages + grown) * self._page_bytes + self._wal_bytes() + need_bytes <= self._max_bytes

    def checkpoint(self) -> None:
        """Copy the write-ahead log back and cut it to nothing."""
        with translated(self.path):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def shrink(self) -> None:
        """Give some free pages back to the disk."""
        # Not ``execute``: it stops at the first page, because the statement returns rows without columns.
        with translated(self.path):
            self.connection.executescript(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")

    def _wal_bytes(self) -> int:
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0
