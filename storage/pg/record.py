"""
The function by which clients that speak SQL write a batch.

It does in the database what ``storage.pg.ingest`` does from outside, by the same rules: they stand in
``storage.admission`` and ``storage.batch``, and are filled in here.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from storage import deadlines
from storage.batch import END_US, MAX_KEY_BYTES, MAX_TEXT_BYTES
from storage.model import EPOCH, MAX_ABS_VALUE, MAX_DATED_AHEAD, MIN_ABS_VALUE, Outcome, from_us
from storage.pg.layout import GATE_LOCK, current_schema, interval, moment
from storage.queries import load

#: Name of the function.
RECORD_BATCH = "record_batch"

_RECORD = "sql/postgresql/record.sql"
#: ISO 8601 with a time zone: without one, the moment would be another one in another session.
_MOMENT = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)$"


def make_function(connection: psycopg.Connection) -> None:
    """Make, or make anew, the function that writes a batch; nobody but its owner may call it until that is granted."""
    schema = current_schema(connection)
    function = sql.Identifier(schema, RECORD_BATCH)
    connection.execute(
        sql.SQL(load("storage", _RECORD)["record_batch"]).format(
            function=function,
            schema=sql.Identifier(schema),
            place=sql.Literal(schema),
            lock_timeout=sql.Literal(f"{deadlines.WRITE.lock_ms}ms"),
            outcomes=sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(sql.Literal(each.label) for each in Outcome)),
            moment=sql.Literal(_MOMENT),
            start=moment(EPOCH),
            end=moment(from_us(END_US)),
            ahead=interval(MAX_DATED_AHEAD),
            gate=sql.Literal(GATE_LOCK),
            key_bytes=sql.Literal(MAX_KEY_BYTES),
            text_bytes=sql.Literal(MAX_TEXT_BYTES),
            most=sql.Literal(MAX_ABS_VALUE),
            least=sql.Literal(MIN_ABS_VALUE),
            late_ms=_number("real", "late_ms"),
            latency_ms=_number("real", "latency_ms"),
            value=_number("double", "value"),
        )
    )
    connection.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(function))


def _number(shape: str, field: str) -> sql.Composed:
    """Return the expression that reads *field* of a row as a number of *shape*."""
    number = sql.SQL("(e.item ->> {})::numeric").format(sql.Literal(field))
    return sql.SQL(load("storage", _RECORD)[shape]).format(number=number)
