"""
What files of time series are made of: tables in the order of time, long or wide, as many as it takes.

Their columns are those of the frames in ``reports.exports.frames``, and a Parquet file says so: pandas makes the same frame of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from reports.exports.arrow import MOMENT, Reader, schema_of
from reports.exports.frames import attrs_of, frame_of
from reports.exports.series import Question, named
from reports.exports.shapes import resample, spread, wide, with_means
from storage.errors import InputError
from storage.model import MICROSECOND, Tier

#: Series that a wide file can have: readers of more columns take minutes for the headings alone.
MAX_COLUMNS = 10_000
#: Cells of a piece of a wide file, 16 MB: of thousands of series each may have a row of its own.
_CELLS = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How time series stand in a file."""

    #: Raw rows.
    raw: bool = False
    #: Width of a bucket, as in ``steps.choose``.
    step: timedelta | None = None
    #: Ids in place of the names of agents, hosts and metrics.
    ids: bool = False
    #: One column per series.
    wide: bool = False
    #: Column that a wide file is made of.
    value: str | None = None


def shaped(question: Question, shape: Shape, reader: Reader) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """
    Return schema and rows of the file of *question*; what is long is read as it is asked for.

    Raises:
        InputError: *shape* makes no sense, or has more columns than anybody can read.
    """
    choice = question.choice
    resampled = choice.step != choice.tier.step
    if shape.ids and (shape.wide or resampled):
        raise InputError(
            "ids stand in raw rows and tiers as they are, found another shape: take names, or a tier's step"
        )
    if shape.value is not None and not shape.wide:
        raise InputError(f"column to spread is {shape.value}, expected none unless the file is wide")
    if shape.wide:
        return _wide(question, shape, reader)
    empty = _long(pa.RecordBatch.from_pylist([], schema=schema_of(question.fields)), question, ids=shape.ids)
    schema = described(empty.schema, _empty_frame(empty, question))
    if resampled:
        return schema, (_of_frame(frame, schema) for frame in _frames(question, reader))
    batches = (_long(batch, question, ids=shape.ids) for batch in question.stream(reader))
    return schema, (pa.Table.from_batches([batch.cast(schema)]) for batch in batches)


def described(schema: pa.Schema, frame: pd.DataFrame) -> pa.Schema:
    """Return *schema* with what pandas needs to make something like *frame* of a file."""
    return schema.with_metadata(pa.Schema.from_pandas(frame).metadata)


def _empty_frame(batch: pa.RecordBatch, question: Question) -> pd.DataFrame:
    frame: pd.DataFrame = batch.to_pandas().set_index(question.time)
    frame.attrs.update(_attrs(question, list(frame.columns)))
    return frame


def _attrs(question: Question, columns: list[str]) -> dict[str, object]:
    # Those of whole fleets would be longer than the rows.
    metrics = question.units if len(question.units) <= MAX_COLUMNS else {}
    return {**attrs_of(question, metrics, columns), "step_s": question.choice.step.total_seconds()}


# ---------------------------------------------------------------- long


def _long(batch: pa.RecordBatch, question: Question, *, ids: bool) -> pa.RecordBatch:
    """Return *batch* with names, unless for *ids*, and means."""
    columns = named(batch, question, keep=question.keys if ids else ())
    if question.choice.tier is not Tier.RAW:
        columns = with_means(columns)
    return pa.RecordBatch.from_pydict(
        {
            name: pa.array(values, from_pandas=True) if isinstance(values, np.ndarray) else values
            for name, values in columns.items()
        }
    )


def _frames(question: Question, reader: Reader, most: int = _CELLS) -> Iterator[pd.DataFrame]:
    """Yield long frames of whole buckets, *most* buckets each at the most."""
    choice = question.choice
    for rows in _whole(question.stream(reader), choice.step or MICROSECOND, most):
        frame = frame_of(rows, question)
        yield frame if choice.step == choice.tier.step else resample(frame, choice.step)


def _of_frame(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    columns: list[pa.Array] = []
    for field in schema:
        if field.name == frame.index.name:
            columns.append(pa.array(pd.DatetimeIndex(frame.index).asi8).cast(field.type))
        elif pa.types.is_dictionary(field.type):
            found = pd.Categorical(frame[field.name])
            codes = found.codes.astype(np.int32)
            known = pa.array(list(found.categories), type=pa.string())
            columns.append(pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), known))
        else:
            columns.append(pa.array(frame[field.name].to_numpy(), type=field.type, from_pandas=True))
    return pa.Table.from_arrays(columns, schema=schema)


def _whole(batches: Iterable[pa.RecordBatch], step: timedelta, most: int) -> Iterator[pa.Table]:
    """
    Yield the rows of *batches*, which are in the order of time, cut where a bucket of *step* ends.

    Args:
        most: Buckets of one table.
    """
    width = step // MICROSECOND
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        if held and _bucket(batch, 0, width) != _bucket(held[-1], -1, width):
            yield from _cut(held, width, most)
            held = []
        last = batch.column(0).cast(pa.int64()).to_numpy()
        cut = int(np.searchsorted(last, last[-1] - last[-1] % width))
        if cut:
            yield from _cut([*held, batch.slice(0, cut)], width, most)
            held = []
        held.append(batch.slice(cut))
    if held:
        yield from _cut(held, width, most)


def _bucket(batch: pa.RecordBatch, row: int, width: int) -> int:
    at: int = batch.column(0)[row].cast(pa.int64()).as_py()
    return at - at % width


def _cut(batches: list[pa.RecordBatch], width: int, most: int) -> Iterator[pa.Table]:
    rows = pa.Table.from_batches(batches)
    at = rows.column(0).cast(pa.int64()).to_numpy()
    buckets = at - at % width
    starts = np.flatnonzero(np.diff(buckets, prepend=-1))[::most].tolist()
    for start, end in zip(starts, [*starts[1:], len(at)], strict=True):
        yield rows.slice(start, end - start)


# ---------------------------------------------------------------- wide


def _wide(question: Question, shape: Shape, reader: Reader) -> tuple[pa.Schema, Iterator[pa.Table]]:
    columns = _columns(question, reader)
    if len(columns) > MAX_COLUMNS:
        raise InputError(
            f"a wide file would have {len(columns)} columns, expected {MAX_COLUMNS} at the most: choose fewer agents or metrics"
        )
    empty = frame_of(pa.Table.from_batches([], schema=schema_of(question.fields)), question)
    if question.choice.step != question.choice.tier.step:
        empty = resample(empty, question.choice.step)
    like = wide(empty, shape.value).reindex(columns=list(columns.values()))
    like.attrs.update({**_attrs(question, []), "units": question.units, "value": like.attrs["value"]})
    schema = pa.schema(
        [pa.field(str(like.index.name), MOMENT), *(pa.field(name, pa.float64()) for name in columns.values())]
    )
    return described(schema, like), _spread(question, shape, reader, columns, schema)


def _columns(question: Question, reader: Reader) -> dict[tuple[str, str], str]:
    """
    Return every series that has a row, metric and entity, and what its column is called; in order of both.

    Raises:
        InputError: Two columns would have one name.
    """
    shown = question.shown(reader)
    found: set[tuple[str, str]] = set()
    for batch in shown.to_batches():
        names = [column.to_pylist() for column in named(batch, question).values()]
        entities, *metric = names
        told = map("".join, zip(*metric, strict=True)) if metric else ("" for _ in entities)
        found |= set(zip(told, entities, strict=True))
    many = len({metric for metric, _ in found}) > 1
    columns = {(metric, entity): f"{metric}@{entity}" if many else entity for metric, entity in sorted(found)}
    taken = Counter([question.time, *columns.values()])
    twice = next((name for name, times in taken.items() if times > 1), None)
    if twice is not None:
        raise InputError(
            f"a wide file would have two columns called {twice}: choose other agents or metrics, or a file that is not wide"
        )
    return columns


def _spread(
    question: Question, shape: Shape, reader: Reader, columns: dict[tuple[str, str], str], schema: pa.Schema
) -> Iterator[pa.Table]:
    most = max(1, _CELLS // max(1, len(columns)))
    for frame in _frames(question, reader, most):
        pieces = spread(frame, shape.value)
        arrays = [pa.array(pd.DatetimeIndex(pieces.index).asi8).cast(MOMENT)]
        nothing = pa.nulls(len(pieces), pa.float64())
        there = {key: pa.array(values.to_numpy(), from_pandas=True) for key, values in pieces.items()}
        arrays += [there.get(key, nothing) for key in columns]
        yield pa.Table.from_arrays(arrays, schema=schema)
