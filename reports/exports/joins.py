"""
What else is known of the rows of a frame: the agents that they are about, and the tasks that ran meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.exports.asked import names
from reports.exports.shapes import insist_frame, listed, moments_of
from storage.errors import InputError

#: What ``join_tasks`` brings along.
_OF_A_RUN = ("run_id", "task_id", "task", "task_type", "workflow", "workflow_type", "outcome")


def join_agents(
    frame: pd.DataFrame,
    agents: pd.DataFrame,
    *,
    columns: str | Sequence[str] = ("type",),
    labels: str | Sequence[str] = (),
) -> pd.DataFrame:
    """
    Attach what is known of each row's agent.

    Args:
        frame: Any with a column ``agent``.
        agents: What ``agents(store)`` returned.
        columns: Which of its columns, one or several; one that *frame* has already comes as ``agent_<name>``.
        labels: Which of the agents' labels, one or several, each as a categorical column ``label_<name>``.

    Returns:
        The rows of *frame*, in order, with these columns behind its own; missing where *agents* has no such agent, or
        that has no such label.

    Raises:
        InputError: *frame* has no agents, or *agents* no such column, or some agent twice.
    """
    wanted, said_of = _chosen("columns", columns), _chosen("labels", labels)
    _insist(frame, ("agent",), "frame")
    _insist(agents, ("agent", *wanted, *(("labels",) if said_of else ())), "agents")
    if "agent" in wanted:
        raise InputError("columns has agent, which rows are joined by: leave it out")
    known = agents.set_index("agent")
    if not known.index.is_unique:
        twice = known.index[known.index.duplicated()][0]
        raise InputError(f'agents has "{twice}" twice, expected each agent once: agents(store)')
    who = pd.Categorical(frame["agent"])
    # One look-up per agent, not per row.
    found = known.reindex(who.categories)
    answer = frame.copy()
    for name in wanted:
        answer[f"agent_{name}" if name in frame else name] = _spread(found[name], who.codes, frame.index)
    for name in said_of:
        said = [each.get(name) if isinstance(each, dict) else None for each in found["labels"]]
        answer[f"label_{name}"] = _spread(pd.Series(said, dtype="str").astype("category"), who.codes, frame.index)
    return answer


def join_tasks(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """
    Attach the tasks that each row's agent was working on at the row's moment.

    Args:
        frame: Any with a column ``agent``, indexed by moments. A bucket is joined by its start: take raw samples where
            that is too coarse.
        runs: What ``task_runs(store, …)`` returned. A run is half-open; one without an end goes on.

    Returns:
        The rows of *frame*, each once for every run that went on, and once with nothing where none did, in order; behind
        its columns those of the run, and ``share``: 1 divided by the number of runs that a row is split between (1 for
        none), so that sums of a value times share are what they were before.

    Raises:
        InputError: One of them lacks a column, *frame* an index of moments, or the times of *runs* their zone.
    """
    _insist(frame, ("agent",), "frame")
    _insist(runs, ("agent", "started_at", "ended_at", *_OF_A_RUN), "runs")
    rows, which = _overlaps(frame, runs)
    counts = np.bincount(rows, minlength=len(frame))
    idle = np.flatnonzero(counts == 0)
    rows = np.concatenate([rows, idle])
    which = np.concatenate([which, np.full(len(idle), -1)])
    order = np.lexsort((which, rows))
    rows, which = rows[order], which[order]
    answer = frame.iloc[rows].copy()
    for name in _OF_A_RUN:
        column = f"task_{name}" if name in frame else name
        answer[column] = _spread(runs[name], which, answer.index)
    answer["share"] = 1.0 / np.maximum(counts, 1)[rows]
    answer.attrs = dict(frame.attrs)
    return answer


def _overlaps(frame: pd.DataFrame, runs: pd.DataFrame) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """
    Return pairs of places: a row of *frame*, and a run of its agent that went on at its moment.

    In the order of an agent's moments, what falls into one run stands together: two searches per run find it.
    """
    at = moments_of(frame).asi8
    started, ended = _moments(runs, "started_at"), _moments(runs, "ended_at")
    until = np.where(ended.isna(), np.iinfo(np.int64).max, ended.asi8)
    who = pd.Categorical(frame["agent"])
    theirs = who.categories.get_indexer(pd.Index(runs["agent"].astype("str")))
    order = np.lexsort((at, who.codes))
    bounds = np.searchsorted(who.codes[order], np.arange(len(who.categories) + 1))
    rows: list[npt.NDArray[np.intp]] = [np.empty(0, dtype=np.intp)]
    which: list[npt.NDArray[np.intp]] = [np.empty(0, dtype=np.intp)]
    for agent in np.unique(theirs[theirs >= 0]):
        mine = order[bounds[agent] : bounds[agent + 1]]
        of_agent = np.flatnonzero(theirs == agent)
        first = np.searchsorted(at[mine], started.asi8[of_agent])
        sizes = np.maximum(np.searchsorted(at[mine], until[of_agent]) - first, 0)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows.append(mine[np.repeat(first, sizes) + within])
        which.append(np.repeat(of_agent, sizes))
    return np.concatenate(rows), np.concatenate(which)


def _spread(column: pd.Series, places: npt.NDArray[np.integer], index: pd.Index) -> pd.Series:
    """Return the elements of *column* at *places*, missing at -1, under another index."""
    if pd.api.types.is_integer_dtype(column.dtype):
        # numpy's own have no room for what is missing.
        column = column.astype("Int64")
    values = pd.api.extensions.take(column.array, np.asarray(places, dtype=np.intp), allow_fill=True)
    return pd.Series(values, index=index)


def _moments(runs: pd.DataFrame, name: str) -> pd.DatetimeIndex:
    if not isinstance(runs[name].dtype, pd.DatetimeTZDtype):
        raise InputError(f"runs has a column {name} of type {runs[name].dtype}, expected moments in a zone")
    return pd.DatetimeIndex(runs[name]).as_unit("us")


def _chosen(what: str, given: object) -> tuple[str, ...]:
    """Return which of several are wanted; unlike a filter, an empty list is none of them."""
    return () if isinstance(given, list | tuple) and not given else names(what, given)


def _insist(frame: object, columns: Sequence[str], what: str) -> None:
    found = insist_frame(frame, what)
    for name in columns:
        if name not in found:
            raise InputError(f"{what} has no column {name}, found {listed(found)}")
