"""
Data frames of the fleet: time series, agents, their work, and answers of reports.

Frames of time series have an index of moments (``datetime64[us, UTC]``, ascending), names as categoricals, counts as int64
and measurements as float64 with NaN for NULL. Long ones have one row per series and moment, those of ``wide`` one column
per series. ``attrs`` tell what numbers cannot:

- ``table``: the relation that was read; ``step_s``: width of a bucket in seconds, 0 for raw rows;
- ``window``: start and end that the answer is for, in ISO 8601: whole buckets around what was asked for;
- ``units``: column to unit (``ms``, ``slots``, …), as far as it has one for all rows;
- ``metric_units``, ``metric_kinds``: metric, labels included, to its unit and kind, for frames of metrics. Of a counter
  only ``n`` and ``sum`` mean something, and a raw value is the increase since the poll before.

A window reaches from the first moment inside to the first after. Nothing is found of agents that have no rows in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from reports.arguments import insist_store, insist_type, insist_window
from reports.definition import Column
from reports.exports import relations
from reports.exports.arrow import Field, reading, schema_of
from reports.exports.asked import names, type_of
from reports.exports.names import OUTCOMES, Dictionary, Ints
from reports.exports.series import Question, Series, ask, insist_kept, plain_ids
from reports.exports.shapes import resample, width, with_means
from reports.exports.shapes import wide as spread
from reports.exports.steps import AUTO
from reports.run import Report
from storage.model import Table, Tier, Window
from storage.store import Store

#: One name, several, or none for all of them.
Names = str | Sequence[str] | None
#: The same of a column of numbers or flags.
Values = Names | int | Sequence[int]
#: Width of a bucket; ``auto`` chooses it.
Step = timedelta | str

_SAMPLE_VALUES = frozenset({"value", "sum", "min", "max", "last", "avg"})
#: Columns of reports whose unit stands in the column ``unit`` of their row.
_OF_A_ROW = frozenset({"amount", "total", "first_mean", "last_mean", "slope_per_day"})


def health(
    store: Store, window: Window, *, agent: Names = None, type: str | None = None, step: Step = AUTO
) -> pd.DataFrame:
    """
    Load how checks ended, by agent and bucket.

    Args:
        agent: Only these agents.
        type: Only agents of this type.
        step: Width of a bucket, whole minutes: a ``timedelta`` or ``5min``, ``1h``, ``1d``. It is answered out of the
            coarsest tier that divides it. ``auto`` is a minute up to 6 hours of window, an hour up to 60 days, a day
            beyond, and the next coarser where that is no longer kept.

    Returns:
        Index ``bucket``. Columns ``agent``; ``n`` and one count per outcome (int64, slots); ``latency_n`` (int64),
        ``latency_sum``, ``latency_avg``, ``latency_min``, ``latency_max``, ``latency_last``, ``late_max`` (float64, ms);
        ``last_outcome``. Buckets without checks are absent.

    Raises:
        UnknownName: There is no such agent, or none of that type.
        NotRolledUp: *window* reaches below what is kept at that step.
        InputError: *step* is not a number of whole minutes.
        TransientStorageError: The database could not answer.
    """
    return _series(store, Series(table=Table.HEALTH, entities=names("agent", agent), type=type_of(type)), window, step)


def health_records(store: Store, window: Window, *, agent: Names = None, type: str | None = None) -> pd.DataFrame:
    """
    Load every check.

    Returns:
        Index ``ts``, the due time of the slot. Columns ``agent``, ``outcome``; ``late_ms`` and ``latency_ms`` (float64,
        NaN where nobody was asked or nothing answered); ``http_status`` (int16, 0 for none); ``reason`` (missing for
        none).

    Raises:
        UnknownName: There is no such agent, or none of that type.
        NotRolledUp: *window* reaches below what is kept of raw rows: ``health`` may still know.
    """
    return _series(
        store, Series(table=Table.HEALTH, entities=names("agent", agent), type=type_of(type)), window, None, raw=True
    )


def agent_metrics(
    store: Store,
    metric: Names,
    window: Window,
    *,
    agent: Names = None,
    type: str | None = None,
    step: Step = AUTO,
    wide: bool = False,
) -> pd.DataFrame:
    """
    Load metrics of agents by bucket.

    Args:
        metric: Name of a metric, or several; each comes with all its labels. ``None`` is every metric.
        agent, type, step: As in ``health``.
        wide: One column per series, as ``wide`` makes them: means of gauges, sums of counters.

    Returns:
        Index ``bucket``. Columns ``agent``, ``metric``, ``labels`` (``{device="sda"}``, empty for none), ``n`` (int64,
        samples), ``sum``, ``avg``, ``min``, ``max``, ``last`` (float64, in the metric's unit).

    Raises:
        As ``health``; ``UnknownName`` for a metric as well.
    """
    series = Series(
        table=Table.AGENT, entities=names("agent", agent), type=type_of(type), metrics=names("metric", metric)
    )
    found = _series(store, series, window, step)
    return spread(found) if wide else found


def agent_samples(
    store: Store, metric: Names, window: Window, *, agent: Names = None, type: str | None = None, wide: bool = False
) -> pd.DataFrame:
    """
    Load every sample of metrics of agents; arguments as in ``agent_metrics``.

    Returns:
        Index ``ts``. Columns ``agent``, ``metric``, ``labels``, ``value`` (float64; of a counter the increase since the
        poll before).

    Raises:
        As ``health_records``; ``UnknownName`` for a metric as well.
    """
    series = Series(
        table=Table.AGENT, entities=names("agent", agent), type=type_of(type), metrics=names("metric", metric)
    )
    found = _series(store, series, window, None, raw=True)
    return spread(found) if wide else found


def system_metrics(
    store: Store, metric: Names, window: Window, *, host: Names = None, step: Step = AUTO, wide: bool = False
) -> pd.DataFrame:
    """Load metrics of hosts by bucket: as ``agent_metrics``, with a column ``host`` in place of ``agent``."""
    series = Series(table=Table.SYSTEM, entities=names("host", host), metrics=names("metric", metric))
    found = _series(store, series, window, step)
    return spread(found) if wide else found


def system_samples(
    store: Store, metric: Names, window: Window, *, host: Names = None, wide: bool = False
) -> pd.DataFrame:
    """Load every sample of metrics of hosts: as ``agent_samples``, with a column ``host`` in place of ``agent``."""
    series = Series(table=Table.SYSTEM, entities=names("host", host), metrics=names("metric", metric))
    found = _series(store, series, window, None, raw=True)
    return spread(found) if wide else found


# ---------------------------------------------------------------- the relational half


def table(
    store: Store, name: str, /, *, window: Window | None = None, ids: bool = False, **filters: Values
) -> pd.DataFrame:
    """
    Load a table or public view of the relational half whole, such as ``status_events`` or ``task_queue``.

    Args:
        window: Rows of that time: by the moment at which they came to be, or, where they have an end, those that touch
            it. Without, all of them.
        ids: Leave ids as they are. Otherwise names of agents, hosts and metrics take their place, and the name of a
            workflow stands beside its id.
        filters: ``agent``, ``host``, ``metric``, ``workflow``: names. ``type``, ``state`` and other columns of text, whole
            numbers or flags: values.

    Returns:
        Columns as in the database, ordered by its key. Text is ``str``, or a categorical where few texts stand in many
        rows; numbers that may be NULL are ``Int64``; moments ``datetime64[us, UTC]``; JSON is parsed. ``attrs``:
        ``table``, ``units``, and ``window`` where there is one.

    Raises:
        InputError: There is no such relation, it has no time, or no such column to choose by.
        UnknownName: There is no agent, host, metric or workflow of a name.
    """
    insist_store(store)
    if window is not None:
        insist_window(window)
    relation = relations.relation(store, name)
    chosen = {key: value for key, value in filters.items() if value is not None}
    with reading(store) as reader:
        selection = relations.select(reader, relation, window=window, filters=chosen, ids=ids)
        rows = pa.Table.from_batches(list(selection.stream(reader)), schema=schema_of(selection.fields))
    frame = pd.DataFrame({each.name: _column(rows.column(each.name), each) for each in selection.fields})
    frame.attrs.update(relation_attrs(name, selection.fields, window))
    return frame


def agents(store: Store, *, type: Names = None, state: Names = None) -> pd.DataFrame:
    """Load the agents: ``agent_id``, ``agent`` (its name), and what else the registry knows; ``labels`` are dicts."""
    return table(store, "agents", type=type, state=state).rename(columns={"id": "agent_id", "name": "agent"})


def workflows(store: Store, *, window: Window | None = None, type: Names = None, state: Names = None) -> pd.DataFrame:
    """Load the workflows: ``workflow_id``, ``workflow`` (its name), state and times."""
    found = table(store, "workflows", window=window, type=type, state=state)
    return found.rename(columns={"id": "workflow_id", "name": "workflow"})


def tasks(
    store: Store,
    *,
    window: Window | None = None,
    workflow: Names = None,
    agent: Names = None,
    type: Names = None,
    state: Names = None,
) -> pd.DataFrame:
    """Load the tasks: ``task_id``, ``task`` (its name), the name of its workflow and of its latest agent, and the rest."""
    found = table(store, "tasks", window=window, workflow=workflow, agent=agent, type=type, state=state)
    return found.rename(columns={"id": "task_id", "name": "task"})


def task_runs(
    store: Store, *, window: Window | None = None, workflow: Names = None, agent: Names = None, task_type: Names = None
) -> pd.DataFrame:
    """Load the tries of agents at tasks, from when to when: those that *window* touches. For ``join_tasks``."""
    return table(store, "task_runs", window=window, workflow=workflow, agent=agent, task_type=task_type)


def messages(
    store: Store, *, window: Window | None = None, agent: Names = None, workflow: Names = None, type: Names = None
) -> pd.DataFrame:
    """Load the messages: ``message_id``, sender and recipient (missing for one to all); *agent* is either of them."""
    found = table(store, "messages", window=window, agent=agent, workflow=workflow, type=type)
    return found.rename(columns={"id": "message_id"})


def incidents(store: Store, *, window: Window | None = None, agent: Names = None, type: Names = None) -> pd.DataFrame:
    """Load the times in which agents were down: those that *window* touches."""
    return table(store, "incidents", window=window, agent=agent, type=type)


# ---------------------------------------------------------------- reports


def report_frame(report: Report) -> pd.DataFrame:
    """
    Return the answer of a report as a data frame.

    Returns:
        Its columns in order; the index is ``bucket`` where it has one. ``attrs``: ``report``, ``units``, and ``window``
        for those that have one.

    Raises:
        InputError: *report* is none.
    """
    insist_type("report", report, Report, "what report(store, name, …) answers")
    own = _OF_A_ROW if any(column.name == "unit" for column in report.columns) else frozenset()
    places = range(len(report.columns))
    frame = pd.DataFrame(
        {report.columns[k].name: _reported(report.columns[k], [row[k] for row in report.rows]) for k in places}
    )
    if any(column.name == "bucket" for column in report.columns):
        frame = frame.set_index("bucket")
    frame.attrs = {
        "report": report.name,
        "units": {
            column.name: column.unit
            for column in report.columns
            if column.unit not in ("", "utc", "id", "date") and column.name not in own
        },
    }
    if report.window is not None:
        frame.attrs["window"] = _told(report.window)
    return frame


def _reported(column: Column, values: list[Any]) -> pd.Series:
    if column.unit == "utc":
        return pd.Series(pd.DatetimeIndex(pd.array(values, dtype="datetime64[us, UTC]")))
    if column.flag:
        return pd.Series(values, dtype="boolean")
    if column.unit in ("n", "slots", "id", "By"):
        return pd.Series(values, dtype="Int64")
    if column.unit == "date":
        return pd.Series(values, dtype="datetime64[us]")
    if column.unit:
        return pd.Series(values, dtype="float64")
    # Names and states: few of them, and in many rows.
    return pd.Series(pd.Categorical(pd.array(values, dtype="str")))


# ---------------------------------------------------------------- from columns to frames


def _series(store: Store, series: Series, window: Window, step: Step | None, *, raw: bool = False) -> pd.DataFrame:
    insist_window(window)
    with reading(store) as reader:
        question = ask(reader, series, window, None if step in (None, AUTO) else width(step), raw=raw)
        rows = question.read(reader)
    insist_kept(store, question)
    frame = frame_of(rows, question)
    choice = question.choice
    return frame if choice.step == choice.tier.step else resample(frame, choice.step)


def frame_of(rows: pa.Table, question: Question) -> pd.DataFrame:
    """Return the *rows* of a question as a long frame, in the order of time, then of ids, as files have them."""
    moments = rows.column(question.time).cast(pa.int64()).to_numpy()
    columns = {
        name: plain_ids(values) if name in question.names else values.to_numpy()
        for name, values in zip(rows.column_names[1:], rows.columns[1:], strict=True)
    }
    order = _order(moments, [columns[key] for key in question.keys])
    if order is not None:
        moments = moments[order]
        columns = {name: values[order] for name, values in columns.items()}
    named: dict[str, Any] = {}
    metrics: list[str] = []
    for name, values in columns.items():
        if name not in question.names:
            named[name] = values
            continue
        dictionaries = question.names[name]
        there = next(iter(dictionaries.values())).present(values)
        named |= {label: _categorical(values, there, known) for label, known in dictionaries.items()}
        if name == "metric_id":
            told = map("".join, zip(*(known.of(there) for known in dictionaries.values()), strict=True))
            metrics = [each for each in told if each in question.units]
    if question.choice.tier is not Tier.RAW:
        named = with_means(named)
    index = pd.DatetimeIndex(moments.view("M8[us]"), name=question.time).tz_localize("UTC")
    frame = pd.DataFrame(named, index=index, copy=False)
    frame.attrs.update(attrs_of(question, sorted(metrics), list(named)))
    return frame


def attrs_of(question: Question, metrics: Iterable[str], columns: Sequence[str]) -> dict[str, Any]:
    """
    Return what a frame of *question* says of itself.

    Args:
        metrics: Those that it has, labels included.
        columns: Its columns.
    """
    attrs: dict[str, Any] = {
        "table": question.relation,
        "step_s": question.choice.tier.step.total_seconds(),
        "window": _told(question.choice.window),
    }
    if question.table is Table.HEALTH:
        units = {field.name: field.unit for field in question.fields if field.unit}
        units |= {name: "ms" for name in columns if name == "latency_avg"}
        return {**attrs, "units": units}
    there = {each: question.units[each] for each in metrics}
    shared = set(there.values())
    unit = shared.pop() if len(shared) == 1 else ""
    return {
        **attrs,
        "units": {name: unit for name in columns if name in _SAMPLE_VALUES and unit},
        "metric_units": there,
        "metric_kinds": {each: question.kinds[each] for each in there},
    }


def _order(moments: Any, keys: Sequence[Any]) -> Any:
    """Return the order by moments, then by keys; ``None`` where rows stand in it already, as they mostly do."""
    if len(moments) < 2:
        return None
    falls = moments[1:] < moments[:-1]
    ties = moments[1:] == moments[:-1]
    for key in keys:
        falls |= ties & (key[1:] < key[:-1])
        ties &= key[1:] == key[:-1]
    return np.lexsort((*reversed(keys), moments)) if falls.any() else None


def _categorical(ids: Ints, there: Ints, known: Dictionary) -> pd.Categorical:
    """
    Return names as a categorical: of outcomes all that there are, otherwise those that occur.

    Args:
        there: Each id that is among *ids*: looking a million of them through once is enough.
    """
    if known is OUTCOMES:
        return pd.Categorical.from_codes(known.codes(ids), pd.Index(known.names, dtype="str"), validate=False)
    used = known.narrowed(there)
    return pd.Categorical.from_codes(used.codes(ids), pd.Index(used.names, dtype="str"), validate=False)


def empty_frame(fields: Sequence[Field]) -> pd.DataFrame:
    """Return a frame of columns *fields* without rows."""
    rows = schema_of(fields).empty_table()
    return pd.DataFrame({each.name: _column(rows.column(each.name), each) for each in fields})


def relation_attrs(name: str, fields: Sequence[Field], window: Window | None) -> dict[str, Any]:
    """Return what a frame of the relation *name* says of itself."""
    attrs: dict[str, Any] = {"table": name, "units": {each.name: each.unit for each in fields if each.unit}}
    return attrs if window is None else {**attrs, "window": _told(window)}


def _column(values: pa.ChunkedArray, field: Field) -> pd.Series:
    if pa.types.is_timestamp(field.type):
        moments = values.cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
        return pd.Series(pd.DatetimeIndex(moments.view("M8[us]")).tz_localize("UTC"))
    if field.json:
        return pd.Series([None if each is None else json.loads(each) for each in values.to_pylist()], dtype="object")
    if pa.types.is_string(field.type):
        text = pd.Series(values.to_pandas(), dtype="str")
        return text.astype("category") if field.category else text
    if field.nullable and not pa.types.is_floating(field.type):
        kind = "boolean" if pa.types.is_boolean(field.type) else "Int64"
        return pd.Series(values.to_pylist(), dtype=kind)
    return pd.Series(values.to_numpy())


def _told(window: Window) -> list[str]:
    return [window.start.isoformat(), window.end.isoformat()]
