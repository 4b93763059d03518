"""
The relations of ours that people may take away whole: tables of the relational half, and public views.

What a column is does not depend on the engine. Of a table, the ORM says it. Of a view no engine but PostgreSQL knows, so
that its name does: a column of one name is one thing in every view, and a test holds that PostgreSQL agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from sqlalchemy import Boolean, Column, Double, Integer
from sqlalchemy.types import JSON

from reports.definition import suggestion
from reports.exports import asked, names
from reports.exports.arrow import MOMENT, Field, Reader, collect
from storage.errors import InputError, shown
from storage.model import ROLLUPS, Table, Tier, Window
from storage.models import Moment, values_of
from storage.store import Store
from storage.work_models import Task

#: Of every table: those of agents' work come with this one.
_TABLES = Task.metadata.tables

#: Bookkeeping of the collector, and what only a task's worker may know.
_HIDDEN = frozenset(
    {"lease", "status_spool", "status_seq", "spool_id", "seq", "uuid", "labels_digest", "source_paused"}
)

#: Column of ids to the table that it points to, and to what the name there is called beside it.
_POINTERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "agent_id": ("agents", "agent"),
        "sender_id": ("agents", "sender"),
        "recipient_id": ("agents", "recipient"),
        "host_id": ("hosts", "host"),
        "metric_id": ("metrics", "metric"),
        "workflow_id": ("workflows", "workflow"),
    }
)
#: Filter to the table of the names that it takes.
_NAMED = MappingProxyType({"agent": "agents", "host": "hosts", "metric": "metrics", "workflow": "workflows"})
#: View to the table whose states it shows.
_SHOWN = MappingProxyType(
    {
        "fleet_health": "agents",
        "message_log": "messages",
        "task_queue": "tasks",
        "task_runs": "task_assignments",
        "workflow_progress": "workflows",
    }
)
#: What a filter of whole numbers may ask for.
_MAX_NUMBER = 2**63 - 1
#: Columns of which the first that a table has tells when a row came to be.
_TIMES = ("ts", "created_at", "started_at", "from_due", "from_ts", "added_at", "at")
#: Columns that end what they began.
_ENDS = MappingProxyType({"from_ts": "to_ts", "from_due": "to_due", "started_at": "ended_at"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table or view."""

    name: str
    #: Columns that its rows are ordered by.
    order: tuple[str, ...]
    #: Column of the moment by which a window chooses rows; empty where it has none.
    time: str = ""
    #: Column of the end of what began then, NULL while it goes on: a window chooses what it touches.
    until: str = ""
    #: Of a view those of the moment: ``relation`` asks for them.
    columns: tuple[Field, ...] = ()


def _view(name: str, order: str, time: str = "", until: str = "") -> Relation:
    return Relation(name=name, order=tuple(order.split()), time=time, until=until)


#: Public views, but for tiers and raw rows, which ``series`` reads; a new one has to be entered here.
VIEWS = (
    _view("availability", "bucket agent_id", "bucket"),
    _view("availability_1d", "bucket agent_id", "bucket"),
    _view("fleet_health", "agent_id"),
    _view("incidents", "started_at agent_id", "started_at", "ended_at"),
    _view("message_log", "message_id", "created_at"),
    _view("observation", "observed_to"),
    _view("system_load", "bucket host_id", "bucket"),
    _view("system_load_1h", "bucket host_id", "bucket"),
    _view("task_queue", "task_id", "created_at"),
    _view("task_runs", "run_id", "started_at", "ended_at"),
    _view("workflow_progress", "workflow_id", "created_at"),
)

#: What is in a column of a view that has this name.
_TEXTS = frozenset({"task", "reason", "name"})
_CATEGORIES = frozenset(
    {
        *("agent", "host", "metric", "workflow", "sender", "recipient", "probe", "source", "credential"),
        *("type", "state", "status", "outcome", "kind", "unit", "standing"),
    }
)
_CATEGORY_ENDS = ("_type", "_state", "_status", "_outcome")
_FLAGS = frozenset({"open", "stale", "scheduled", "live"})
_MOMENTS = frozenset({"ts", "bucket", "since", "observed_to", "last_due", "lease_until"})
_NUMBERS = frozenset({"availability", "coverage", "progress", "load1", "load5", "load15"})
#: Ending of a column's name to the unit of its values.
_UNITS = MappingProxyType({"_ms": "ms", "_s": "s", "_percent": "%", "_percent_max": "%"})


def _table_relation(name: str) -> Relation:
    table = _TABLES[name]
    fields = tuple(_orm_field(column) for column in table.columns if column.name not in _HIDDEN)
    time = next((each for each in _TIMES if each in table.columns), "")
    until = _ENDS.get(time, "")
    return Relation(
        name=name,
        order=tuple(column.name for column in table.primary_key.columns),
        time=time,
        until=until if until in table.columns else "",
        columns=fields,
    )


def _orm_field(column: Column[object]) -> Field:
    kind, name, nullable = column.type, column.name, bool(column.nullable)
    if isinstance(kind, type(Moment)):
        return Field(name=name, type=MOMENT, nullable=nullable)
    if isinstance(kind, JSON):
        return Field(name=name, type=pa.string(), nullable=nullable, json=True)
    if isinstance(kind, Boolean):
        return Field(name=name, type=pa.bool_(), nullable=nullable)
    if isinstance(kind, Double):
        return Field(name=name, type=pa.float64(), nullable=nullable, unit=_unit(name))
    if isinstance(kind, Integer):
        return Field(name=name, type=pa.int64(), nullable=nullable)
    return Field(name=name, type=pa.string(), nullable=nullable, category=_is_category(name))


def view_field(relation: Relation, name: str) -> Field:
    """Return what the column *name* of a view is."""
    if name in _MOMENTS or name.endswith("_at"):
        return Field(name=name, type=MOMENT, nullable=True)
    if name in _FLAGS:
        return Field(name=name, type=pa.bool_(), nullable=True)
    if name == "labels":
        return Field(name=name, type=pa.string(), nullable=True, json=True)
    if name in _TEXTS or _is_category(name):
        return Field(name=name, type=pa.string(), nullable=True, category=_is_category(name))
    if name in _NUMBERS or _unit(name):
        return Field(name=name, type=pa.float64(), nullable=True, unit=_unit(name))
    return Field(name=name, type=pa.int64(), nullable=name not in relation.order)


def _is_category(name: str) -> bool:
    return name in _CATEGORIES or name.endswith(_CATEGORY_ENDS)


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")


#: Every relation by its name.
RELATIONS: Mapping[str, Relation] = MappingProxyType(
    {each.name: each for each in (*VIEWS, *map(_table_relation, _TABLES))}
)
#: Names under which time series are known: table, and tier; ``None`` is for the reader to choose.
SERIES: Mapping[str, tuple[Table, Tier | None]] = MappingProxyType(
    {
        "health": (Table.HEALTH, None),
        **{table.value: (table, Tier.RAW) for table in Table},
        "health_records": (Table.HEALTH, Tier.RAW),
        "agent_samples": (Table.AGENT, Tier.RAW),
        "system_samples": (Table.SYSTEM, Tier.RAW),
        **{table.relation(tier): (table, tier) for table in Table for tier in ROLLUPS},
    }
)


def described(name: str) -> dict[str, str]:
    """
    Return what *name* is: ``kind``, and ``time``, the column by which a window chooses its rows, empty for none.

    Raises:
        InputError: There is no relation or time series of that name; the message names the nearest.
    """
    insist_known(name)
    if name in SERIES:
        return {"kind": "time series", "time": "ts" if SERIES[name][1] is Tier.RAW else "bucket"}
    return {"kind": "table" if name in _TABLES else "view", "time": RELATIONS[name].time}


def insist_known(name: str) -> None:
    """
    Insist on a relation or time series called *name*.

    Raises:
        InputError: There is none; the message names the nearest.
    """
    if not isinstance(name, str):
        raise InputError(f"table is {shown(name)}, expected its name")
    if name not in RELATIONS and name not in SERIES:
        raise InputError(f'table "{name}" does not exist: {suggestion(name, [*SERIES, *RELATIONS])}')


def relation(store: Store, name: str) -> Relation:
    """
    Return the relation called *name*, with its columns.

    Raises:
        InputError: There is none; the message names the nearest.
    """
    insist_known(name)
    if name in SERIES:
        raise InputError(f"{name} is a time series, expected a table or view: {', '.join(RELATIONS)}")
    found = RELATIONS[name]
    if found.columns:
        return found
    names = store.query(f"SELECT * FROM {name} WHERE 1 = 0").columns  # noqa: S608  # one of our own names
    return replace(found, columns=tuple(view_field(found, each) for each in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows of a relation that are asked for, as a statement and what it answers."""

    statement: str
    parameters: Mapping[str, object]
    fields: tuple[Field, ...]

    def stream(self, reader: Reader) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the relation's order."""
        return reader.read(self.statement, self.parameters, self.fields)

    def count(self, reader: Reader) -> int:
        """Return how many rows there are."""
        counted = f"SELECT count(*) AS n FROM ({self.statement}) AS counted"  # noqa: S608  # our own statement
        return int(collect(reader, counted, self.parameters, (Field(name="n", type=pa.int64()),)).column(0)[0].as_py())


def select(
    reader: Reader,
    relation: Relation,
    *,
    window: Window | None = None,
    filters: Mapping[str, object] | None = None,
    ids: bool = False,
) -> Selection:
    """
    Return how the rows of *relation*, with its columns, are read.

    Args:
        window: Rows of that time; what has a beginning and an end is chosen when it touches the window.
        filters: ``agent``, ``host``, ``metric``, ``workflow`` to names, columns of text, whole numbers and flags to values.
        ids: Leave ids as they are. Otherwise names of agents, hosts and metrics take their place, and a workflow's name
            stands beside its id.

    Raises:
        InputError: The relation has no time, no such column to choose by, or that cannot have such a value.
        UnknownName: There is no agent, host, metric or workflow of a name; no row has that text.
    """
    own = relation.columns
    there = [each.name for each in own]
    conditions, parameters = _conditions(reader, relation, window, filters or {})
    columns: list[tuple[str, Field]] = []
    joins: list[str] = []
    for each in own:
        pointer = _POINTERS.get(each.name)
        if pointer is None or pointer[1] in there or ids:
            columns.append((f"t.{each.name}", each))
            continue
        table, called = pointer
        if called == "workflow":
            columns.append((f"t.{each.name}", each))
        columns.append(
            (f"{called}_of.name", Field(name=called, type=pa.string(), nullable=each.nullable, category=True))
        )
        joins.append(f"LEFT JOIN {table} AS {called}_of ON {called}_of.id = t.{each.name}")
    parts = [
        "SELECT " + ", ".join(f"{source} AS {field.name}" for source, field in columns),
        f"FROM {relation.name} AS t",
        *joins,
        *([f"WHERE {' AND '.join(conditions)}"] if conditions else []),
        "ORDER BY " + ", ".join(f"t.{name}" for name in relation.order),
    ]
    return Selection(statement=" ".join(parts), parameters=parameters, fields=tuple(field for _, field in columns))


def _conditions(
    reader: Reader,
    relation: Relation,
    window: Window | None,
    filters: Mapping[str, object],
) -> tuple[list[str], dict[str, object]]:
    choosable = _choosable(relation)
    conditions: list[str] = []
    parameters: dict[str, object] = {}
    if window is not None:
        if not relation.time:
            raise InputError(f"{relation.name} has no time of its own, found a window: leave it out")
        parameters |= {"start": window.start, "finish": window.end}
        conditions.append(f"t.{relation.time} < :finish")
        if relation.until:
            conditions.append(
                f"(t.{relation.until} IS NULL OR t.{relation.until} > :start OR t.{relation.time} >= :start)"
            )
        else:
            conditions.append(f"t.{relation.time} >= :start")
    for name, given in filters.items():
        pointing = _pointing(relation, name)
        if pointing:
            ids = ", ".join(map(str, names.ids_of(reader, _NAMED[name], asked.names(name, given))))
            conditions.append(f"({' OR '.join(f't.{column} IN ({ids})' for column in pointing)})")
        elif name in choosable:
            values = _values(choosable[name], given)
            _insist_there(reader, relation, choosable[name], values)
            keys = [f"{name}_{place}" for place in range(len(values))]
            parameters |= dict(zip(keys, values, strict=True))
            conditions.append(f"t.{name} IN ({', '.join(f':{key}' for key in keys)})")
        else:
            known = dict.fromkeys([*(each for each in _NAMED if _pointing(relation, each)), *choosable])
            raise InputError(f"{relation.name} has no {name} to choose by, expected {', '.join(known) or 'no filter'}")
    return conditions, parameters


def _choosable(relation: Relation) -> dict[str, Field]:
    """Return the columns that a filter of values goes by, texts first: moments a window chooses, JSON nothing."""
    texts = [each for each in relation.columns if pa.types.is_string(each.type) and not each.json]
    plain = [each for each in relation.columns if pa.types.is_integer(each.type) or pa.types.is_boolean(each.type)]
    return {each.name: each for each in (*texts, *plain)}


def _values(column: Field, given: object) -> tuple[object, ...]:
    """Return what a filter asks of *column* as the database compares it, each once."""
    if pa.types.is_string(column.type):
        return asked.names(column.name, given)
    flag = pa.types.is_boolean(column.type)
    answer: list[object] = []
    for value in asked.several(column.name, given):
        is_flag = isinstance(value, bool | np.bool_)
        if (
            is_flag != flag
            or not isinstance(value, bool | np.bool_ | int | np.integer)
            or abs(int(value)) > _MAX_NUMBER
        ):
            expected = "True or False" if flag else "a whole number of 64 bits, a list of them"
            raise InputError(f"{column.name} is {shown(value)}, expected {expected}, or None for all")
        answer.append(bool(value) if flag else int(value))
    return tuple(dict.fromkeys(answer))


def _pointing(relation: Relation, name: str) -> list[str]:
    """Return the columns of ids that a filter of names goes by; none where it is no such filter."""
    if name not in _NAMED:
        return []
    if relation.name == _NAMED[name]:
        return ["id"]
    return [each.name for each in relation.columns if _POINTERS.get(each.name, ("",))[0] == _NAMED[name]]


def _insist_there(reader: Reader, relation: Relation, column: Field, wanted: Sequence[object]) -> None:
    """Insist that what is asked for can be in *column*, or, where that may hold any text, that it is in some row."""
    table = _TABLES.get(_SHOWN.get(relation.name, relation.name))
    allowed = () if table is None else values_of(table, column.name)
    for value in wanted:
        if allowed and value not in allowed:
            raise InputError(f'{column.name} of {relation.name} is "{value}", expected one of {", ".join(allowed)}')
        if not allowed and isinstance(value, str):
            names.insist_there(reader, relation.name, column.name, value)
