"""
Tables and time series to files, in batches: however much there is, memory holds a few of them.

All of a file is of one moment of the database. Rows come in the order of time, or of their key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa

from reports.exports import files, relations
from reports.exports.arrow import Reader, reading
from reports.exports.frames import empty_frame, relation_attrs
from reports.exports.relations import Selection
from reports.exports.series import Series, ask, insist_kept
from reports.exports.tables import Shape, described, shaped
from reports.exports.targets import Target, insist_free
from storage.model import Window
from storage.store import Store

#: Told of rows that are written, and of the share of the work that is done by then, where that is known.
Progress = Callable[[int, float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    rows: int
    #: The relation that was read.
    relation: str
    #: What the file is for: whole buckets around what was asked for; ``None`` for all there is.
    window: Window | None


def export_series(
    store: Store, series: Series, window: Window, shape: Shape, target: Target, progress: Progress
) -> Exported:
    """
    Write time series to *target*.

    Raises:
        UnknownName: There is no such agent, host, metric or type of agents.
        NotRolledUp: *window* reaches below what is kept.
        InputError: *target* is taken, or *shape* makes no sense.
        ExportError: *target* cannot be written; nothing is left of it.
        TransientStorageError: The database could not answer, or dropped what was being read.
    """
    insist_free(target)
    with ExitStack() as stack:
        reader = stack.enter_context(reading(store))
        question = ask(reader, series, window, shape.step, raw=shape.raw)
        schema, tables = shaped(question, shape, reader)
        chosen = question.choice.window

        def told(table: pa.Table) -> None:
            last = table.column(0)[-1].as_py() if table.num_rows else chosen.start
            progress(table.num_rows, (last - chosen.start) / (chosen.end - chosen.start))

        def checked() -> Iterator[pa.Table]:
            yield from tables
            stack.close()
            # Of what is now, not of the snapshot, and before the file gets its name.
            insist_kept(store, question)

        rows = files.write(target, schema, checked(), told)
    return Exported(rows=rows, relation=question.relation, window=chosen)


def export_relation(
    store: Store,
    name: str,
    target: Target,
    progress: Progress,
    *,
    window: Window | None = None,
    filters: Mapping[str, object] | None = None,
    ids: bool = False,
) -> Exported:
    """
    Write a table or view of the relational half to *target*; arguments as in ``frames.table``.

    Raises:
        InputError: There is no such relation, it has no time, or no such column, or *target* is taken.
        UnknownName: There is no agent, host, metric or workflow of a name.
        ExportError: *target* cannot be written; nothing is left of it.
        TransientStorageError: The database could not answer.
    """
    insist_free(target)
    relation = relations.relation(store, name)
    with reading(store) as reader:
        selection = relations.select(reader, relation, window=window, filters=filters, ids=ids)
        count = selection.count(reader)
        done = 0

        def told(table: pa.Table) -> None:
            nonlocal done
            done += table.num_rows
            progress(table.num_rows, done / count if count else None)

        like = empty_frame(selection.fields)
        like.attrs.update(relation_attrs(name, selection.fields, window))
        schema = described(_relation_schema(selection), like)
        rows = files.write(target, schema, _relation_tables(selection, schema, reader), told)
    return Exported(rows=rows, relation=name, window=window)


def _relation_schema(selection: Selection) -> pa.Schema:
    return pa.schema(
        [
            pa.field(each.name, pa.dictionary(pa.int32(), pa.string()) if each.category else each.type)
            for each in selection.fields
        ]
    )


def _relation_tables(selection: Selection, schema: pa.Schema, reader: Reader) -> Iterator[pa.Table]:
    for batch in selection.stream(reader):
        columns = [
            column.dictionary_encode() if field.category else column
            for column, field in zip(batch.columns, selection.fields, strict=True)
        ]
        yield pa.Table.from_arrays(columns, schema=schema)
