"""
The rule that tells errors that retrying can cure from errors that it cannot.

Decided by SQLSTATE and never by Python class: class 22 (data exception) and 23 (integrity constraint) say that the
data is at fault, everything else may pass. A driver gives no SQLSTATE for a refused log-in or a cut link. SQLite has
codes of its own; each stands for a SQLSTATE here, so that the rule is one.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from storage.errors import PermanentStorageError, StorageError, TransientStorageError

#: SQLSTATE classes that retrying cannot cure.
PERMANENT_CLASSES = ("22", "23")
#: A sequence that has come to its end is of class 22, and no fault of the data.
SEQUENCE_EXHAUSTED = "2200H"


#: What a commit may answer, beside nothing at all, whose transaction is there all the same: the link or the server broke
#: down, or the disk, while it was done.
UNDECIDED = ("08", "57P", "58", "40003")

_NEXT_SENTENCE = re.compile(r"\n\t(?=[A-Z])")

#: Tables or columns are missing; SQLite has one code for all that is wrong with a statement.
UNDEFINED = ("42P01", "42703", "42000")


class _Meaning(NamedTuple):
    #: What the standard, or PostgreSQL, calls it.
    sqlstate: str
    #: SQLite's own words are short.
    remedy: str = ""


_DATA = "the value does not fit its column"

#: SQLSTATE to what helps, where a server's own words do not say it.
_SERVER_REMEDIES = {
    "25006": "queries only read; for all else connect to the primary, or turn default_transaction_read_only off",
    "53100": "free space on the server's disk",
}

#: What is not listed under its extended code is looked up by the primary one, its lowest eight bits.
_SQLITE = {
    sqlite3.SQLITE_CONSTRAINT: _Meaning("23000"),
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: _Meaning("23502"),
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: _Meaning("23503"),
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: _Meaning("23505"),
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: _Meaning("23505"),
    sqlite3.SQLITE_CONSTRAINT_ROWID: _Meaning("23505"),
    sqlite3.SQLITE_CONSTRAINT_CHECK: _Meaning("23514"),
    sqlite3.SQLITE_MISMATCH: _Meaning("22018", _DATA),
    # PostgreSQL's own limit of this kind is of class 54; here it is only ever one value, and it will never fit.
    sqlite3.SQLITE_TOOBIG: _Meaning("22001", _DATA),
    sqlite3.SQLITE_RANGE: _Meaning("42P02"),
    sqlite3.SQLITE_ERROR: _Meaning("42000"),
    sqlite3.SQLITE_SCHEMA: _Meaning("40001", "another process changes the schema: try again"),
    sqlite3.SQLITE_ABORT: _Meaning("40000"),
    sqlite3.SQLITE_BUSY: _Meaning("55P03", "another process or thread writes: try again"),
    # The snapshot that the transaction has read is not the newest one: begun again, it reads that.
    sqlite3.SQLITE_BUSY_SNAPSHOT: _Meaning("40001", "another process or thread has written since: try again"),
    sqlite3.SQLITE_LOCKED: _Meaning("55P03", "another transaction uses the table: try again"),
    sqlite3.SQLITE_PROTOCOL: _Meaning("55P03", "other processes open the file at the same moment: try again"),
    sqlite3.SQLITE_INTERRUPT: _Meaning("57014", "its deadline is over: ask for less at a time"),
    sqlite3.SQLITE_FULL: _Meaning("53100", "free space on the disk"),
    sqlite3.SQLITE_NOMEM: _Meaning("53200", "free memory"),
    sqlite3.SQLITE_PERM: _Meaning("42501", "let this user write the file and its folder"),
    sqlite3.SQLITE_AUTH: _Meaning("42501"),
    sqlite3.SQLITE_READONLY: _Meaning(
        "25006", "queries only read; for all else let this user write the file and its folder"
    ),
    # By a restore or a move, while it was open here.
    sqlite3.SQLITE_READONLY_DBMOVED: _Meaning("58P01", "the file was moved or replaced: try again"),
    sqlite3.SQLITE_CANTOPEN: _Meaning("58030", "let this user write the file and its folder"),
    sqlite3.SQLITE_IOERR: _Meaning("58030", "free space or mend the disk"),
    sqlite3.SQLITE_NOLFS: _Meaning("58030", "the file system cannot hold a file of that size"),
    sqlite3.SQLITE_CORRUPT: _Meaning("XX001", "move the file away and restore a backup"),
    sqlite3.SQLITE_NOTADB: _Meaning("XX001", "correct the address, or move the file away and restore a backup"),
    sqlite3.SQLITE_MISUSE: _Meaning("XX000"),
    sqlite3.SQLITE_INTERNAL: _Meaning("XX000"),
}


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that *error* carries or stands for, itself or as the driver's error below it."""
    origin = _origin(error)
    state = getattr(origin, "sqlstate", None)
    if isinstance(state, str):
        return state
    meaning = _meaning(origin)
    return meaning.sqlstate if meaning else None


def is_permanent(state: str | None) -> bool:
    """Tell whether the data is at fault."""
    return state is not None and state[:2] in PERMANENT_CLASSES and state != SEQUENCE_EXHAUSTED


def is_undecided(state: str | None) -> bool:
    """Tell whether a commit that ended with *state* may have been done."""
    return state is None or state.startswith(UNDECIDED)


def translate(error: BaseException, doing: str) -> StorageError:
    """
    Return *error* of a driver or of SQLAlchemy as an error of storage.

    Args:
        doing: What failed, as the subject of the message: ``reading agents``.
    """
    origin = _origin(error)
    state = sqlstate_of(origin)
    meaning = _meaning(origin)
    said = one_line(origin)
    message = f"{doing} failed: {said}" + (f" (SQLSTATE {state})" if state else "")
    remedy = meaning.remedy if meaning else _SERVER_REMEDIES.get(state or "")
    if remedy:
        message += f": {remedy}"
    if state is not None and is_permanent(state):
        return PermanentStorageError(message, sqlstate=state)
    return TransientStorageError(message, sqlstate=state)


def one_line(error: BaseException) -> str:
    """Return what *error* says on one line; libpq ends some sentences with their line alone."""
    return " ".join(_NEXT_SENTENCE.sub(". ", str(error)).split()) or type(error).__name__


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Let nothing but errors of storage out of the block; *doing* is the subject of their message."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OverflowError, UnicodeEncodeError) as exc:
        if not isinstance(exc, SQLAlchemyError | sqlite3.Error) and sqlstate_of(exc) is None:
            raise
        raise translate(exc, doing) from exc


def _origin(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _meaning(error: BaseException) -> _Meaning | None:
    if isinstance(error, sqlite3.Error):
        # Errors of Python's module itself have no code.
        code = getattr(error, "sqlite_errorcode", None)
        if not isinstance(code, int):
            return None
        return _SQLITE.get(code) or _SQLITE.get(code & 0xFF)
    # Values that Python, or psycopg, cannot hand over; a server would have refused them in these words.
    if isinstance(error, OverflowError) and "SQLite INTEGER" in str(error):
        return _Meaning("22003", _DATA)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return _Meaning("22021", "text is stored as UTF-8")
    if str(error).endswith("cannot contain NUL (0x00) bytes"):
        return _Meaning("22021")
    return None
