"""
Which errors are the fault of the data, in SQLite's codes as in SQLSTATE.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from storage.errors import PermanentStorageError, TransientStorageError
from storage.sqlstate import is_permanent, one_line, sqlstate_of, translate, translated

TABLES = """
CREATE TABLE parents (id INTEGER PRIMARY KEY);
CREATE TABLE children (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, n INTEGER CHECK (n > 0), parent INTEGER REFERENCES parents
);
CREATE TABLE strict (n INTEGER) STRICT;
CREATE TABLE pairs (a INTEGER, b INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TRIGGER guard BEFORE DELETE ON children BEGIN SELECT RAISE(ABORT, 'children stay'); END;
INSERT INTO children (id, name) VALUES (1, 'a');
INSERT INTO pairs VALUES (1, 1);
"""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Return a database in memory with constraints of every kind."""
    found = sqlite3.connect(":memory:", isolation_level=None)
    found.executescript(TABLES)
    found.execute("PRAGMA foreign_keys = ON")
    yield found
    found.close()


def failure(connection: sqlite3.Connection, statement: str, *values: object) -> Exception:
    """Return what the driver raises for *statement*."""
    try:
        connection.execute(statement, values)
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as exc:
        return exc
    raise AssertionError(f"{statement} went through")


@pytest.mark.parametrize(
    ("statement", "values", "state"),
    [
        ("INSERT INTO children (name) VALUES ('a')", (), "23505"),
        ("INSERT INTO children (id, name) VALUES (1, 'b')", (), "23505"),
        ("INSERT INTO pairs VALUES (1, 1)", (), "23505"),
        ("INSERT INTO children (name) VALUES (NULL)", (), "23502"),
        ("INSERT INTO children (name, n) VALUES ('b', 0)", (), "23514"),
        ("INSERT INTO children (name, parent) VALUES ('b', 9)", (), "23503"),
        ("INSERT INTO strict VALUES ('x')", (), "23000"),
        ("DELETE FROM children", (), "23000"),
        ("INSERT INTO children (id, name) VALUES ('x', 'b')", (), "22018"),
        ("SELECT zeroblob(2000000000)", (), "22001"),
        ("SELECT ?", (2**63,), "22003"),
        ("SELECT ?", ("\ud800",), "22021"),
    ],
)
def test_data_at_fault_is_permanent(
    connection: sqlite3.Connection, statement: str, values: tuple[object, ...], state: str
) -> None:
    """What a constraint, a type or the driver refuses for its value is of class 22 or 23."""
    error = failure(connection, statement, *values)
    said = translate(error, "it")

    assert sqlstate_of(error) == state
    assert isinstance(said, PermanentStorageError)
    assert (said.sqlstate, is_permanent(said.sqlstate)) == (state, True)
    assert str(said).startswith("it failed: ")


@pytest.mark.parametrize(
    ("prepare", "statement", "values", "state", "remedy"),
    [
        ("", "SELECT * FROM nowhere", (), "42000", "no such table"),
        ("", "SELECT", (), "42000", "incomplete input"),
        ("", "SELECT ?", (object(),), None, "not supported"),
        ("PRAGMA query_only = ON", "DELETE FROM pairs", (), "25006", "let this user write"),
        ("PRAGMA max_page_count = 1", "INSERT INTO strict SELECT value FROM numbers", (), "53100", "free space"),
    ],
)
def test_all_else_is_transient(
    connection: sqlite3.Connection,
    prepare: str,
    statement: str,
    values: tuple[object, ...],
    state: str | None,
    remedy: str,
) -> None:
    """What is not the fault of the data is kept and tried again, and says what would help."""
    connection.execute(
        "CREATE VIEW numbers AS WITH RECURSIVE r (value) AS"
        " (SELECT 1 UNION ALL SELECT value + 1 FROM r WHERE value < 100000) SELECT value FROM r"
    )
    connection.execute(prepare)
    error = failure(connection, statement, *values)
    said = translate(error, "it")

    assert isinstance(said, TransientStorageError)
    assert said.sqlstate == state
    assert remedy in str(said)


def test_interrupted_statement_is_transient(connection: sqlite3.Connection) -> None:
    """A statement that was out of time has the state that PostgreSQL gives it."""
    connection.set_progress_handler(lambda: 1, 1)

    assert sqlstate_of(failure(connection, "SELECT count(*) FROM children")) == "57014"


def test_every_code_has_a_meaning() -> None:
    """No error that SQLite knows goes without a SQLSTATE, by its own or by its primary code."""
    codes = {name: getattr(sqlite3, name) for name in dir(sqlite3) if name.startswith("SQLITE_")}
    primary = [
        "ERROR", "INTERNAL", "PERM", "ABORT", "BUSY", "LOCKED", "NOMEM", "READONLY", "INTERRUPT", "IOERR", "CORRUPT",
        "FULL", "CANTOPEN", "PROTOCOL", "SCHEMA", "TOOBIG", "CONSTRAINT", "MISMATCH", "MISUSE", "NOLFS", "AUTH",
        "RANGE", "NOTADB",
    ]  # fmt: skip
    extended = [name for name, code in codes.items() if code > 0xFF and code & 0xFF and "_" in name[7:]]
    found = {}
    for name in (*(f"SQLITE_{each}" for each in primary), *extended):
        error = sqlite3.OperationalError("x")
        error.sqlite_errorcode = codes[name]
        found[name] = sqlstate_of(error)

    named = {name: state for name, state in found.items() if name.split("_")[1] in primary}

    assert None not in named.values()
    assert {state for name, state in named.items() if name.startswith("SQLITE_CONSTRAINT")} == {
        "23000", "23502", "23503", "23505", "23514",
    }  # fmt: skip
    permanent = {name.split("_")[1] for name, state in named.items() if is_permanent(state)}

    assert permanent == {"CONSTRAINT", "MISMATCH", "TOOBIG"}


def test_what_drivers_say_is_one_line() -> None:
    """libpq begins a line with a tab where a new sentence begins; other lines go on."""
    said = 'connection to server at "h" failed: Connection refused\n\tIs the server running on that host?\n'

    assert (
        one_line(OSError(said))
        == 'connection to server at "h" failed: Connection refused. Is the server running on that host?'
    )
    assert one_line(ValueError("key is taken\nDETAIL:  Key (a)=(1)")) == "key is taken DETAIL: Key (a)=(1)"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_errors_of_sqlalchemy_are_seen_through() -> None:
    """The driver's error below one of SQLAlchemy decides."""
    engine = create_engine("sqlite://")

    def ask(statement: str, **values: object) -> None:
        with translated("it"), engine.connect() as connection:
            connection.execute(text(statement), values)

    with pytest.raises(TransientStorageError, match=r"it failed: no such table: nowhere \(SQLSTATE 42000\)"):
        ask("SELECT * FROM nowhere")
    with pytest.raises(PermanentStorageError, match="22003"):
        ask("SELECT :n", n=2**64)
    engine.dispose()


@pytest.mark.parametrize(
    "error", [ValueError("ours"), OverflowError("ours"), UnicodeEncodeError("ascii", "é", 0, 1, "ours")]
)
def test_errors_of_others_pass(error: Exception) -> None:
    """What no database has said is not translated."""
    with pytest.raises(type(error), match="ours"), translated("it"):
        raise error


def test_end_of_a_sequence_is_not_the_fault_of_the_data() -> None:
    """PostgreSQL puts it into class 22 all the same."""
    assert is_permanent("22003")
    assert not is_permanent("2200H")
    assert not is_permanent(None)
