"""
Time series as columns: which rows, from which tier, under which names.

Rows travel with ids: an agent's name would be sent, parsed and compared once per row, its id takes four bytes. Names come
once, in the same snapshot, and take the place of the ids here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from reports.exports import names, steps
from reports.exports.arrow import MOMENT, Field, Reader, collect
from reports.exports.names import NO_ID, OUTCOMES, Dictionary, Ints
from reports.exports.steps import Choice
from storage.errors import TransientStorageError
from storage.layout import TABLE_CODE, slices
from storage.model import Table, Tier, Window
from storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Whose rows of which table are asked for."""

    table: Table
    #: Names of agents or hosts; none means all.
    entities: tuple[str, ...] = ()
    #: Type of agents; empty means every one.
    type: str = ""
    #: Names of metrics, each with all its labels; none means all.
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is read for some series in a window, and what the ids in the answer mean."""

    table: Table
    choice: Choice
    fields: tuple[Field, ...]
    #: Column of ids to the columns of names that take its place.
    names: Mapping[str, Mapping[str, Dictionary]]
    #: Ids that the rows are held to, by column; a column that is not there is free.
    wanted: Mapping[str, tuple[int, ...]]
    #: Metric with its labels, as ``name{label="value"}``, to its unit and to its kind; empty for health.
    units: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def relation(self) -> str:
        """Return the relation that is read."""
        return self.table.relation(self.choice.tier)

    @property
    def time(self) -> str:
        """Return the column of moments."""
        return self.fields[0].name

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the columns of ids that tell series apart."""
        return tuple(each.name for each in self.fields if each.name in (self.table.entity, "metric_id"))

    def read(self, reader: Reader) -> pa.Table:
        """Return every row, in whatever order the database has them."""
        return collect(reader, *self._statement(self.choice.window, ordered=False), self.fields)

    def stream(self, reader: Reader) -> Iterator[pa.RecordBatch]:
        """
        Yield the rows in the order of time, then of ids.

        Partition by partition: the database sorts what belongs to one, such as a day of raw rows, and no more.
        """
        whole = self.choice.window
        for part in slices(self.table, self.choice.tier, whole):
            window = Window(max(part.window.start, whole.start), min(part.window.end, whole.end))
            yield from reader.read(*self._statement(window, ordered=True), self.fields)

    def shown(self, reader: Reader) -> pa.Table:
        """Return the keys of every series that has a row in the window, in order."""
        keys = [each for each in self.fields if each.name in self.keys]
        columns = ", ".join(self.keys)
        where, parameters = self._where(self.choice.window)
        statement = f"SELECT DISTINCT {columns} FROM {self.relation} WHERE {where} ORDER BY {columns}"  # noqa: S608  # our own names
        return collect(reader, statement, parameters, keys)

    def _statement(self, window: Window, *, ordered: bool) -> tuple[str, dict[str, object]]:
        where, parameters = self._where(window)
        columns = ", ".join(each.name for each in self.fields)
        order = f" ORDER BY {', '.join((self.time, *self.keys))}" if ordered else ""
        return f"SELECT {columns} FROM {self.relation} WHERE {where}{order}", parameters  # noqa: S608  # our own names

    def _where(self, window: Window) -> tuple[str, dict[str, object]]:
        conditions = [f"{self.time} >= :start", f"{self.time} < :finish"]
        conditions += [f"{column} IN ({', '.join(map(str, ids))})" for column, ids in self.wanted.items()]
        return " AND ".join(conditions), {"start": window.start, "finish": window.end}


def ask(reader: Reader, series: Series, window: Window, step: timedelta | None, *, raw: bool = False) -> Question:
    """
    Look up what *series* names, and choose the tier that answers.

    Args:
        step: As in ``steps.choose``.
        raw: Raw rows instead of a tier; *step* means nothing then.

    Raises:
        UnknownName: There is no such agent, host, metric or type of agents.
        NotRolledUp: *window* reaches below what is kept.
        InputError: *step* is not a number of whole minutes.
    """
    kept = _kept(reader, series.table)
    choice = steps.raw(series.table, window, kept) if raw else steps.choose(series.table, window, step, kept)
    entity = series.table.entity
    ids, known = names.entities(reader, series.table, series.entities, series.type)
    columns = {entity: {entity.removesuffix("_id"): known}}
    wanted = {entity: ids} if series.entities or series.type else {}
    if series.table is Table.HEALTH:
        if raw:
            columns |= {"outcome": {"outcome": OUTCOMES}, "reason_id": {"reason": names.reasons(reader)}}
        else:
            columns |= {"last_outcome": {"last_outcome": OUTCOMES}}
        return Question(
            table=series.table, choice=choice, fields=fields_of(series.table, choice.tier), names=columns, wanted=wanted
        )
    metrics = names.metrics(reader, series.metrics)
    if series.metrics:
        wanted["metric_id"] = metrics.ids
    return Question(
        table=series.table,
        choice=choice,
        fields=fields_of(series.table, choice.tier),
        names=columns | {"metric_id": {"metric": metrics.names, "labels": metrics.labels}},
        wanted=wanted,
        units=metrics.units,
        kinds=metrics.kinds,
    )


def insist_kept(store: Store, question: Question) -> None:
    """
    Insist that nothing of the window was dropped while it was read: a snapshot does not hold a partition back.

    Raises:
        TransientStorageError: Retention took a part of it away.
    """
    start = question.choice.window.start
    for each in store.horizons():
        if each.table is question.table and each.tier is question.choice.tier and start < each.dropped_before:
            raise TransientStorageError(
                f"{question.relation} was dropped up to {each.dropped_before.isoformat()} while it was read from "
                f"{start.isoformat()} on: ask again, for a later window"
            )


def named(batch: pa.RecordBatch, question: Question, keep: Collection[str] = ()) -> dict[str, Any]:
    """Return the columns of *batch* with names, as dictionaries, in place of all ids but those to *keep*."""
    columns: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name not in question.names or name in keep:
            columns[name] = column
            continue
        for label, dictionary in question.names[name].items():
            codes = dictionary.codes(plain_ids(column))
            indices = pa.array(codes, mask=codes < 0)
            columns[label] = pa.DictionaryArray.from_arrays(indices, pa.array(dictionary.names, type=pa.string()))
    return columns


def plain_ids(column: pa.Array | pa.ChunkedArray) -> Ints:
    """Return a column of ids as numbers, NULL as one that nothing has."""
    ids: Ints = (column.fill_null(NO_ID) if column.null_count else column).to_numpy()
    return ids


def fields_of(table: Table, tier: Tier) -> tuple[Field, ...]:
    """Return the columns that are read of *tier*: the moment, ids, values."""
    time = Field(name="ts" if tier is Tier.RAW else "bucket", type=MOMENT)
    entity = Field(name=table.entity, type=pa.int32())
    if table is Table.HEALTH:
        return (time, entity, *(_CHECKS if tier is Tier.RAW else _HEALTH))
    return (time, entity, Field(name="metric_id", type=pa.int32()), *(_SAMPLES if tier is Tier.RAW else _METRICS))


def _latency(name: str) -> Field:
    return Field(name=name, type=pa.float64(), nullable=True, unit="ms")


_CHECKS = (
    Field(name="outcome", type=pa.int16()),
    _latency("late_ms"),
    _latency("latency_ms"),
    Field(name="http_status", type=pa.int16()),
    Field(name="reason_id", type=pa.int32(), nullable=True),
)
_HEALTH = (
    *(Field(name=name, type=pa.int64(), unit="slots") for name in ("n", *OUTCOMES.names)),
    Field(name="latency_n", type=pa.int64(), unit="slots"),
    *(_latency(f"latency_{name}") for name in ("sum", "min", "max", "last")),
    _latency("late_max"),
    Field(name="last_outcome", type=pa.int16()),
)
_SAMPLES = (Field(name="value", type=pa.float64()),)
_METRICS = (
    Field(name="n", type=pa.int64()),
    *(Field(name=name, type=pa.float64()) for name in ("sum", "min", "max", "last")),
)


def _kept(reader: Reader, table: Table) -> dict[Tier, datetime]:
    found = collect(
        reader,
        "SELECT dropped_before FROM horizons WHERE tbl = :tbl ORDER BY tier",
        {"tbl": TABLE_CODE[table]},
        (Field(name="dropped_before", type=MOMENT),),
    )
    return dict(zip(Tier, found.column(0).to_pylist(), strict=True))
