"""
Shapes of data frames of time series: means, wider steps, one column per series.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.exports.names import OUTCOMES
from storage.errors import InputError
from storage.model import Kind

#: Columns that tell series apart, as far as a frame has them.
KEYS = ("agent", "host", "metric", "labels")
#: What most readers of a frame look for, the first of these that it has.
_VALUES = ("value", "latency_ms", "latency_avg", "avg")


def mean_of(total: npt.NDArray[Any], count: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return means out of sums and counts, NaN where nothing was counted."""
    means: npt.NDArray[np.float64] = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return means


def with_means(columns: dict[str, Any]) -> dict[str, Any]:
    """
    Return the *columns* of a tier with its mean in front of the least value.

    A mean is always a sum divided by a count, never a mean of means.
    """
    name, place, total, count = "avg", "min", "sum", "n"
    if "latency_sum" in columns:
        name, place, total, count = "latency_avg", "latency_min", "latency_sum", "latency_n"
    mean = mean_of(np.asarray(columns[total]), np.asarray(columns[count]))
    answer: dict[str, Any] = {}
    for each, values in columns.items():
        if each == place:
            answer[name] = mean
        answer[each] = values
    return answer


def resample(frame: pd.DataFrame, step: timedelta | str) -> pd.DataFrame:
    """
    Put the rows of a long frame together in buckets of *step*.

    Args:
        frame: Of a tier or of raw rows, as it came.
        step: A multiple of the frame's own step: a ``timedelta``, or what pandas makes one of (``15min``, ``6h``). Buckets
            begin at multiples of it since the Unix epoch, UTC.

    Returns:
        What a tier of that step would have: index ``bucket``, the same keys, ``n`` and the other columns.

    Raises:
        InputError: *step* is no multiple of the frame's step, or no step at all.
    """
    wanted = width(step)
    own = timedelta(seconds=frame.attrs.get("step_s", 0))
    if wanted <= timedelta(0) or (own and wanted % own):
        raise InputError(
            f"step is {wanted.total_seconds():g} s, expected a multiple of the frame's own, "
            f"{own.total_seconds() or 1e-6:g} s"
        )
    keys = [key for key in KEYS if key in frame]
    rows = frame if own else _as_buckets(frame)
    moments = pd.DatetimeIndex(frame.index).floor(wanted).rename("bucket")
    grouped = rows.groupby([moments, *(rows[key] for key in keys)], observed=True, sort=True)
    if "latency_sum" in rows:
        parts = [
            grouped[["n", *OUTCOMES.names, "latency_n"]].sum(),
            grouped[["latency_sum"]].sum(min_count=1),
            grouped[["latency_min"]].min(),
            grouped[["latency_max"]].max(),
            grouped[["latency_last"]].last(),
            grouped[["late_max"]].max(),
            grouped[["last_outcome"]].last(),
        ]
    else:
        parts = [grouped[["n", "sum"]].sum(), grouped[["min"]].min(), grouped[["max"]].max(), grouped[["last"]].last()]
    found = pd.concat(parts, axis=1).reset_index(keys)
    answer = pd.DataFrame(with_means({str(name): found[name] for name in found}), index=found.index)
    answer.attrs = {**frame.attrs, "step_s": wanted.total_seconds()}
    answer.attrs["units"] = {name: unit for name, unit in _units(frame, answer).items() if name in answer}
    return answer


def wide(frame: pd.DataFrame, value: str | None = None) -> pd.DataFrame:
    """
    Return a long *frame* with one column per series and one row per moment.

    Args:
        frame: Of a tier or of raw rows, as it came, or filtered.
        value: Column to spread. Without, the value of samples and the latency of checks; of a tier the mean of gauges and
            latencies, and the sum of counters.

    Returns:
        The same index, each moment once, and float64 columns in alphabetical order: agents (or hosts) where there is one
        series for each, else pairs of metric, labels included, and agent. NaN where a series has nothing. Of two rows of
        one series at one moment the later one in *frame* counts.

    Raises:
        InputError: *frame* has no such column, or no agents or hosts.
    """
    answer = spread(frame, value)
    return answer.droplevel(0, axis=1) if len(answer.columns.unique(0)) < 2 else answer


def spread(frame: pd.DataFrame, value: str | None = None) -> pd.DataFrame:
    """Return what ``wide`` does, always with pairs of metric and agent as columns; without metrics their name is empty."""
    entity = next((key for key in KEYS if key in frame), None)
    if entity is None:
        raise InputError(f"frame has columns {', '.join(map(str, frame.columns))}, expected agent or host among them")
    name = value or next((each for each in _VALUES if each in frame), None)
    if name not in frame:
        raise InputError(f"frame has no column {name}, expected one of {', '.join(map(str, frame.columns))}")
    values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    series, metrics = _series(frame)
    if value is None and name == "avg":
        kinds = frame.attrs.get("metric_kinds", {})
        counters = np.array([kinds.get(each) == Kind.COUNTER for each in metrics], dtype=bool)
        values = np.where(counters[series], frame["sum"].to_numpy(), values) if len(metrics) else values
    who = pd.Categorical(frame[entity])
    many = max(len(who.categories), 1)
    places, columns = pd.factorize(series * many + who.codes, sort=True)
    rows, moments = pd.factorize(pd.DatetimeIndex(frame.index).asi8, sort=True)
    matrix = np.full((len(moments), len(columns)), np.nan)
    matrix[rows, places] = values
    told, names = pd.Index(metrics, dtype="str").take(columns // many), who.categories.take(columns % many)
    pairs = pd.MultiIndex.from_arrays([told, names], names=["metric", entity])
    index = pd.DatetimeIndex(moments.view("M8[us]"), name=frame.index.name).tz_localize("UTC")
    answer = pd.DataFrame(matrix, index=index, columns=pairs)
    answer.attrs = {**frame.attrs, "units": dict(frame.attrs.get("metric_units", {})), "value": name}
    return answer


def _series(frame: pd.DataFrame) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the place of each row's metric, labels included, in a list of them in order; one nameless without metrics."""
    if "metric" not in frame:
        return np.zeros(len(frame), dtype=np.int64), [""]
    metric, labels = pd.Categorical(frame["metric"]), pd.Categorical(frame["labels"])
    many = max(len(labels.categories), 1)
    places, found = pd.factorize(metric.codes.astype(np.int64) * many + labels.codes, sort=True)
    names = [f"{metric.categories[each // many]}{labels.categories[each % many]}" for each in found]
    return places.astype(np.int64), names


def _as_buckets(frame: pd.DataFrame) -> pd.DataFrame:
    """Return raw rows as if each were a bucket of its own."""
    keys = {key: frame[key] for key in KEYS if key in frame}
    one = np.ones(len(frame), dtype=np.int64)
    if "value" in frame:
        value = frame["value"]
        columns = {**keys, "n": one, "sum": value, "min": value, "max": value, "last": value}
        return pd.DataFrame(columns, index=frame.index)
    latency = frame["latency_ms"]
    outcomes = {name: (frame["outcome"] == name).astype(np.int64) for name in OUTCOMES.names}
    return pd.DataFrame(
        {
            **keys,
            "n": one,
            **outcomes,
            "latency_n": latency.notna().astype(np.int64),
            **{f"latency_{each}": latency for each in ("sum", "min", "max", "last")},
            "late_max": frame["late_ms"],
            "last_outcome": frame["outcome"],
        },
        index=frame.index,
    )


def _units(frame: pd.DataFrame, answer: pd.DataFrame) -> dict[str, str]:
    """Return the units of the columns that *answer* may have, made of *frame*."""
    units: dict[str, str] = frame.attrs.get("units", {})
    if "value" in units:
        return dict.fromkeys(("avg", "min", "max", "last", "sum"), units["value"])
    if "latency_ms" in units:
        counts = dict.fromkeys(("n", *OUTCOMES.names, "latency_n"), "slots")
        return counts | {str(name): "ms" for name in answer if str(name).startswith("lat") and name != "latency_n"}
    return units


def width(step: timedelta | str) -> timedelta:
    """
    Return *step* as a duration.

    Raises:
        InputError: pandas cannot make one of it.
    """
    try:
        found = pd.Timedelta(step)
    except ValueError:
        found = None
    # What is no time is none of these either.
    if not isinstance(found, pd.Timedelta):
        raise InputError(f'step is "{step}", expected a duration such as 15min, 6h, 1d')
    return found.to_pytimedelta()
