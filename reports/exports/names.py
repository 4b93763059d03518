"""
Names for the ids of time series, looked up in the snapshot that the rows come from.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reports.definition import suggestion
from reports.exports.arrow import Field, Reader, collect
from storage.errors import UnknownName
from storage.model import Outcome, Table

Ints = npt.NDArray[np.integer[Any]]

#: Stands for NULL among ids: greater than any.
NO_ID = np.iinfo(np.int32).max

#: Names that a message about an unknown one is made from.
_NEAR = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dictionary:
    """From ids to names."""

    #: Every name once, in order.
    names: tuple[str, ...]
    #: Place of an id's name in ``names``; -1 for an id without one, which the last element stands for.
    places: npt.NDArray[np.int32]

    def codes(self, ids: Ints) -> npt.NDArray[np.int32]:
        """Return the place of each id's name in ``names``, -1 where it has none."""
        return self.places.take(ids, mode="clip")

    def present(self, ids: Ints) -> Ints:
        """Return each of *ids* once; those without a name as one."""
        return np.flatnonzero(np.bincount(np.minimum(ids, len(self.places) - 1)))

    def of(self, ids: Ints) -> list[str]:
        """Return the name of each id; of one without a name that of none."""
        return ["" if code < 0 else self.names[code] for code in self.codes(ids)]

    def narrowed(self, ids: Ints) -> Dictionary:
        """Return the same with no names but those of *ids*."""
        codes = np.unique(self.codes(ids))
        codes = codes[codes >= 0]
        if len(codes) == len(self.names):
            return self
        moved = np.full(len(self.names) + 1, -1, dtype=np.int32)
        moved[codes] = np.arange(len(codes), dtype=np.int32)
        # The place of none, -1, is the last element, and stays what it is.
        return Dictionary(names=tuple(self.names[code] for code in codes), places=moved[self.places])


def dictionary(ids: Sequence[int], names: Sequence[str]) -> Dictionary:
    """Return the dictionary in which the *ids* have *names*."""
    ordered = tuple(sorted(set(names)))
    place = {name: code for code, name in enumerate(ordered)}
    places = np.full(max(ids, default=-1) + 2, -1, dtype=np.int32)
    places[list(ids)] = [place[name] for name in names]
    return Dictionary(names=ordered, places=places)


#: In the order of the numbers, which is that of getting worse.
OUTCOMES = Dictionary(
    names=tuple(each.label for each in Outcome), places=np.array([*range(len(Outcome)), -1], dtype=np.int32)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The metrics of one question."""

    ids: tuple[int, ...]
    #: Id to name, and id to labels as ``{label="value"}``.
    names: Dictionary
    labels: Dictionary
    #: Metric with its labels to its unit, and to its kind.
    units: Mapping[str, str]
    kinds: Mapping[str, str]


def entities(reader: Reader, table: Table, names: Sequence[str], type: str) -> tuple[tuple[int, ...], Dictionary]:
    """
    Return ids and names of the agents or hosts that *table* is about.

    Args:
        names: Only these; all without.
        type: Only agents of this type; empty for every one.

    Raises:
        UnknownName: One of them does not exist, or is not of that type.
    """
    relation = table.entity.replace("_id", "s")
    given: dict[str, Collection[str]] = {"name": names} if names else {}
    if type:
        given["type"] = (type,)
    found = _look_up(reader, relation, ("name",), given)
    for name in set(names) - set(found["name"]):
        raise _unknown(reader, relation, "name", name, f"it is not of type {type}")
    if type and not found["id"]:
        raise _unknown(reader, relation, "type", type, "none has it")
    return tuple(found["id"]), dictionary(found["id"], found["name"])


def metrics(reader: Reader, wanted: Sequence[str]) -> Metrics:
    """
    Return the metrics called *wanted*, each with all its labels; all of them without.

    Raises:
        UnknownName: One of them does not exist.
    """
    found = _look_up(reader, "metrics", ("name", "kind", "unit", "labels"), {"name": wanted} if wanted else {})
    for name in set(wanted) - set(found["name"]):
        raise _unknown(reader, "metrics", "name", name, "it is gone")
    labels = [label_text(json.loads(each)) for each in found["labels"]]
    full = [name + label for name, label in zip(found["name"], labels, strict=True)]
    return Metrics(
        ids=tuple(found["id"]),
        names=dictionary(found["id"], found["name"]),
        labels=dictionary(found["id"], labels),
        units=dict(zip(full, found["unit"], strict=True)),
        kinds=dict(zip(full, found["kind"], strict=True)),
    )


def ids_of(reader: Reader, relation: str, wanted: Sequence[str]) -> tuple[int, ...]:
    """
    Return the ids of the rows of *relation* that are called *wanted*.

    Raises:
        UnknownName: One of them does not exist.
    """
    found = _look_up(reader, relation, ("name",), {"name": wanted})
    for name in set(wanted) - set(found["name"]):
        raise _unknown(reader, relation, "name", name, "it is gone")
    return tuple(found["id"])


def insist_there(reader: Reader, relation: str, column: str, text: str) -> None:
    """
    Insist that some row of *relation* has *text* in *column*.

    Raises:
        UnknownName: None has.
    """
    statement = f"SELECT 1 AS n FROM {relation} WHERE {column} = :text LIMIT 1"  # noqa: S608  # our own names
    if not collect(reader, statement, {"text": text}, (Field(name="n", type=pa.int64()),)).num_rows:
        raise _unknown(reader, relation, column, text, "none has it")


def reasons(reader: Reader) -> Dictionary:
    """Return the reasons of checks."""
    found = _look_up(reader, "reasons", ("reason",), {})
    return dictionary(found["id"], found["reason"])


def label_text(labels: Mapping[str, str]) -> str:
    r"""Return *labels* as the text exposition has them, ``{device="sda"}``; nothing where there are none."""
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()))
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _look_up(
    reader: Reader, relation: str, columns: Sequence[str], given: Mapping[str, Collection[str]]
) -> dict[str, list[Any]]:
    """Return *columns*, and the id, of the rows of *relation* whose columns have one of the values *given*."""
    fields = (
        Field(name="id", type=pa.int64()),
        *(Field(name=name, type=pa.string(), json=name == "labels") for name in columns),
    )
    parameters: dict[str, object] = {}
    conditions: list[str] = []
    for column, values in given.items():
        names = [f"{column}_{place}" for place in range(len(values))]
        parameters |= dict(zip(names, values, strict=True))
        conditions.append(f"{column} IN ({', '.join(f':{name}' for name in names)})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {', '.join(each.name for each in fields)} FROM {relation}{where} ORDER BY id"  # noqa: S608  # our own names
    answer: dict[str, list[Any]] = collect(reader, statement, parameters, fields).to_pydict()
    return answer


def _unknown(reader: Reader, relation: str, column: str, name: str, otherwise: str) -> UnknownName:
    statement = f"SELECT DISTINCT {column} FROM {relation} ORDER BY {column} LIMIT {_NEAR}"  # noqa: S608  # our own names
    found = collect(reader, statement, {}, (Field(name=column, type=pa.string()),))
    known = [str(each) for each in found.column(0).to_pylist()]
    kind = relation.removesuffix("s") if column == "name" else f"{column} of {relation}"
    return UnknownName(kind, name, otherwise if name in known else suggestion(name, known))
