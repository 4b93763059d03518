"""
CSV and Parquet, written batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from reports.exports.targets import Compression, Format, Target, sink

#: What becomes one row group of a Parquet file: 300,000 samples, which a reader has to take in at a time.
GROUP_BYTES = 8 * 1024**2
#: Rows that are text at a time: as text they take three times the memory that they do as columns.
TEXT_ROWS = 20_000


class Writer(Protocol):
    """Takes tables of one schema, one after another."""

    def write_table(self, table: pa.Table) -> None:
        """Append the rows of *table*."""
        ...


def write(target: Target, schema: pa.Schema, tables: Iterator[pa.Table], told: Callable[[pa.Table], None]) -> int:
    """
    Write *tables* to *target*; return the number of rows.

    Args:
        told: Called with each table that was written.

    Raises:
        InputError: There is a file of that name already, or something that is none.
        ExportError: The disk is full, the folder cannot be written, …
    """
    rows = 0
    with (
        sink(target) as file,
        _csv(file, schema) if target.format is Format.CSV else _parquet(file, schema, target.compression) as writer,
    ):
        for table in _gathered(tables):
            writer.write_table(table)
            rows += table.num_rows
            told(table)
    return rows


def _gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables that are worth a row group each."""
    waiting: list[pa.Table] = []
    size_bytes = 0
    for table in tables:
        waiting.append(table)
        size_bytes += table.nbytes
        if size_bytes >= GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, size_bytes = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


# ---------------------------------------------------------------- forms


@contextmanager
def _parquet(file: BinaryIO, schema: pa.Schema, compression: Compression) -> Iterator[Writer]:
    # Dictionaries pay where a column repeats itself: names do, measurements do not.
    repeating = [each.name for each in schema if pa.types.is_dictionary(each.type)]
    with pyarrow.parquet.ParquetWriter(
        file, schema, compression=compression.value, use_dictionary=repeating or False
    ) as writer:
        yield writer


@contextmanager
def _csv(file: BinaryIO, schema: pa.Schema) -> Iterator[Writer]:
    plain = pa.schema([pa.field(each.name, _plain_type(each.type)) for each in schema])
    with pyarrow.csv.CSVWriter(file, plain) as writer:
        yield _Plain(writer, plain)


class _Plain:
    """Writes every value of a table as text that any reader takes."""

    def __init__(self, writer: pyarrow.csv.CSVWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema

    def write_table(self, table: pa.Table) -> None:
        """Append the rows of *table*."""
        for start in range(0, table.num_rows, TEXT_ROWS):
            columns = [_plain(column) for column in table.slice(start, TEXT_ROWS).columns]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(kind) or pa.types.is_timestamp(kind) else kind


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        # Arrow writes a blank where ISO 8601 has a T.
        return pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
    return column.cast(_plain_type(column.type))
