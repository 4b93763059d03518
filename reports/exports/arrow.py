"""
Columns out of a database: by Arrow's own driver where the engine has one, from rows elsewhere.

Arrow's driver sends ``COPY (…) TO STDOUT (FORMAT binary)`` and turns what comes into columns, without an object per value.
It binds no parameters in a COPY, so that values stand in the statement as literals, made by ``storage``. Where its wheel
is not to be had (musl), rows come through the store's own connection, slower.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from reports.arguments import insist_store
from storage.sqlstate import translate
from storage.store import ArrowSource, Capability, Snapshot, Store

MOMENT = pa.timestamp("us", tz="UTC")

#: What Arrow's driver gathers before it hands a batch over. Its own 16 MB are 600,000 samples; an export holds two or
#: three batches at a time.
BATCH_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column as it leaves here, whatever the engine keeps it as."""

    name: str
    type: pa.DataType
    nullable: bool = False
    #: Few different texts, many rows: a categorical.
    category: bool = False
    #: Text that is JSON.
    json: bool = False
    #: As in ``Column.unit`` of a report.
    unit: str = ""


class Reader(Protocol):
    """One moment of a database, statement by statement."""

    def read(
        self, statement: str, parameters: Mapping[str, object], fields: Sequence[Field]
    ) -> Iterator[pa.RecordBatch]:
        """Run *statement*, whose columns are *fields* in order, and yield its rows; at least one batch, maybe empty."""
        ...


@contextmanager
def reading(store: Store) -> Iterator[Reader]:
    """
    Lend one moment of *store*.

    Raises:
        InputError: *store* is none.
        TransientStorageError: The database could not answer.
    """
    insist_store(store)
    if Capability.ARROW in store.capabilities and (driver := _driver()) is not None:
        with _session(driver, store.arrow_source()) as reader:
            yield reader
    else:
        with store.snapshot() as snapshot:
            yield _Rows(snapshot)


def collect(reader: Reader, statement: str, parameters: Mapping[str, object], fields: Sequence[Field]) -> pa.Table:
    """Return all rows of *statement* at once."""
    return pa.Table.from_batches(list(reader.read(statement, parameters, fields)))


# ---------------------------------------------------------------- Arrow's driver


def _driver() -> Any:  # its types are those of any DBAPI module
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        return None
    return dbapi


@contextmanager
def _session(driver: Any, source: ArrowSource) -> Iterator[Reader]:
    try:
        with closing(_connect(driver, source)) as connection, closing(connection.cursor()) as cursor:
            for statement in source.begin:
                cursor.execute(statement)
                # A COPY is over with its last row.
                cursor.fetchall()
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            yield _Copies(cursor, source)
    except driver.Error as exc:
        raise translate(exc, "reading") from exc


def _connect(driver: Any, source: ArrowSource) -> Any:
    """Open a connection; what the driver learned of the server's types with the first one, some 50 ms, serves them all."""
    with source.lock:
        first: Any = source.kept[0] if source.kept else None
        if first is None:
            first = driver.connect(source.uri)
            source.kept.append(first)
            # What it knows is all that is of use.
            first.adbc_connection.close()
        return first.adbc_clone()


class _Copies:
    def __init__(self, cursor: Any, source: ArrowSource) -> None:
        self._cursor = cursor
        self._source = source

    def read(
        self, statement: str, parameters: Mapping[str, object], fields: Sequence[Field]
    ) -> Iterator[pa.RecordBatch]:
        self._cursor.execute(self._source.render(statement, parameters))
        schema = schema_of(fields)
        empty = True
        with closing(self._cursor.fetch_record_batch()) as batches:
            for batch in batches:
                empty = False
                arrays = [_cast(column, field) for column, field in zip(batch.columns, fields, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        if empty:
            yield pa.RecordBatch.from_pylist([], schema=schema)


def _cast(column: pa.Array, field: Field) -> pa.Array:
    # JSON and numeric come as text with a label.
    array = column.storage if isinstance(column, pa.ExtensionArray) else column
    return array if array.type == field.type else array.cast(field.type)


# ---------------------------------------------------------------- rows


class _Rows:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def read(
        self, statement: str, parameters: Mapping[str, object], fields: Sequence[Field]
    ) -> Iterator[pa.RecordBatch]:
        schema = schema_of(fields)
        for block in self._snapshot.read(statement, parameters):
            columns = zip(*block.rows, strict=True) if block.rows else ([] for _ in fields)
            arrays = [_array(values, field) for values, field in zip(columns, fields, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: Sequence[object], field: Field) -> pa.Array:
    if field.json:
        # A driver that knows JSON has read it already.
        values = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    elif pa.types.is_boolean(field.type):
        values = [None if v is None else bool(v) for v in values]
    return pa.array(values, type=field.type)


def schema_of(fields: Sequence[Field]) -> pa.Schema:
    """Return the schema of *fields*, texts as they are."""
    return pa.schema([pa.field(each.name, each.type, nullable=True) for each in fields])
