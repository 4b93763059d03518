"""
Shapes of data frames of time series: means, wider steps, one column per series.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.definition import MAX_NAMED
from reports.exports.names import OUTCOMES
from storage.errors import InputError, shown
from storage.model import Kind

#: Columns that tell series apart, as far as a frame has them.
KEYS = ("agent", "host", "metric", "labels")
#: What most readers of a frame look for, the first of these that it has.
_VALUES = ("value", "latency_ms", "latency_avg", "avg")
#: Those of them that are means of a bucket.
_MEANS = ("latency_avg", "avg")
#: What ``resample`` puts together, of a tier and of raw rows, of checks and of metrics: beside the keys.
_BUCKETS = (
    (
        *("n", *OUTCOMES.names, "latency_n", "latency_sum", "latency_min", "latency_max", "latency_last"),
        *("late_max", "last_outcome"),
    ),
    ("n", "sum", "min", "max", "last"),
)
_ROWS = (("outcome", "latency_ms", "late_ms"), ("value",))
#: Of a text that is a step: pandas takes a number without a unit for nanoseconds.
_UNIT = re.compile(r"[A-Za-z:]")


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
        InputError: *step* is no multiple of the frame's step, or no step at all, or *frame* is neither of a tier nor of raw
            rows, as it came.
    """
    at = moments_of(frame)
    wanted = width(step)
    own = _step_of(frame, at)
    if wanted <= timedelta(0) or (own and wanted % own):
        raise InputError(
            f"step is {wanted.total_seconds():g} s, expected a multiple of the frame's own, "
            f"{own.total_seconds() or 1e-6:g} s"
        )
    keys = [key for key in KEYS if key in frame]
    for key in keys:
        _categories(frame, key)
    rows = frame if own else _as_buckets(frame)
    moments = at.floor(wanted).rename("bucket")
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
        InputError: *frame* has no such column of numbers, no agents or hosts, or no index of moments; or it has lost the
            attrs that tell which of its metrics are counters, and *value* is not given.
    """
    answer = spread(frame, value)
    return answer.droplevel(0, axis=1) if len(answer.columns.unique(0)) < 2 else answer


def spread(frame: pd.DataFrame, value: str | None = None) -> pd.DataFrame:
    """Return what ``wide`` does, always with pairs of metric and agent as columns; without metrics their name is empty."""
    at = moments_of(frame)
    entity = next((key for key in KEYS[:2] if key in frame), None)
    if entity is None:
        raise InputError(f"frame has columns {listed(frame)}, expected agent or host among them")
    name = _value(frame, value)
    values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    series, metrics = _series(frame)
    if value is None and name in _MEANS:
        counters = _counters(frame, name, metrics)
        values = np.where(counters[series], frame["sum"].to_numpy(), values) if counters.any() else values
    who = _categories(frame, entity)
    many = max(len(who.categories), 1)
    places, columns = pd.factorize(series * many + who.codes, sort=True)
    rows, moments = pd.factorize(at.asi8, sort=True)
    matrix = np.full((len(moments), len(columns)), np.nan)
    matrix[rows, places] = values
    told, names = pd.Index(metrics, dtype="str").take(columns // many), who.categories.take(columns % many)
    pairs = pd.MultiIndex.from_arrays([told, names], names=["metric", entity])
    index = pd.DatetimeIndex(moments.view("M8[us]"), name=frame.index.name).tz_localize("UTC")
    answer = pd.DataFrame(matrix, index=index, columns=pairs)
    answer.attrs = {**frame.attrs, "units": dict(frame.attrs.get("metric_units", {})), "value": name}
    return answer


def _value(frame: pd.DataFrame, wanted: object) -> str:
    """
    Return the column of *frame* to spread: the one that is *wanted*, or what most readers look for.

    Raises:
        InputError: There is no such column, or it holds no numbers.
    """
    name = next((each for each in _VALUES if each in frame), None) if wanted is None else wanted
    if name is None:
        raise InputError(f"frame has no column {' or '.join(_VALUES)}: name one of its own, {listed(frame)}")
    if not isinstance(name, str) or name not in frame:
        raise InputError(f"frame has no column {name}, expected one of {listed(frame)}")
    if not pd.api.types.is_numeric_dtype(frame[name].dtype):
        numbers = listed(frame.select_dtypes("number"))
        raise InputError(f"column {name} is of type {frame[name].dtype}, expected one of numbers: {numbers}")
    return name


def moments_of(frame: object) -> pd.DatetimeIndex:
    """
    Return the index of *frame* in UTC and microseconds.

    Raises:
        InputError: *frame* is none, or has no index of moments that know their zone.
    """
    found = insist_frame(frame, "frame")
    index = found.index
    if not isinstance(index, pd.DatetimeIndex):
        remedy = next((f': set_index("{each}")' for each in ("bucket", "ts") if each in found), "")
        raise InputError(f"frame has an index of type {index.dtype}, expected moments{remedy}")
    if index.tz is None or index.hasnans:
        lack = "without a zone" if index.tz is None else "that are missing"
        raise InputError(f'frame has an index of moments {lack}, expected all of them in a zone: tz_localize("UTC")')
    return index.tz_convert("UTC").as_unit("us")


def insist_frame(frame: object, what: str) -> pd.DataFrame:
    """
    Return *frame*, which is a data frame.

    Raises:
        InputError: It is none, or has two columns of a name; the message calls it *what*.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{what} is a value of type {type(frame).__name__}, expected a data frame")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{what} has the column {twice} twice, expected each once")
    return frame


def _step_of(frame: pd.DataFrame, at: pd.DatetimeIndex) -> timedelta:
    """
    Return the step of a frame whose rows stand at the moments *at*, zero for raw rows.

    Raises:
        InputError: It is neither of a tier nor of raw rows, or does not say its step any more.
    """
    said = frame.attrs.get("step_s")
    if "share" in frame and "run_id" in frame:
        raise InputError(
            "frame has been joined with tasks, where rows stand more than once: resample before join_tasks"
        )
    if any(key in frame for key in KEYS[:2]):
        if not said and _has_all(frame, _ROWS):
            return timedelta(0)
        if _has_all(frame, _BUCKETS):
            step = timedelta(seconds=said or 0)
            if not step:
                raise InputError(
                    "frame does not say its step: concat and merge lose attrs: "
                    'resample first, or set frame.attrs["step_s"] to its seconds'
                )
            if (at.asi8 % (step // timedelta(microseconds=1))).any():
                raise InputError(f"frame has rows between its steps of {said:g} s, expected those of one step")
            return step
    raise InputError(f"frame has columns {listed(frame)}, expected those of a tier or of raw rows, as they came")


def _has_all(frame: pd.DataFrame, kinds: Collection[Collection[str]]) -> bool:
    return any(all(name in frame for name in names) for names in kinds)


def _counters(frame: pd.DataFrame, name: str, metrics: list[str]) -> npt.NDArray[np.bool_]:
    """
    Tell which of *metrics* are counters, of which a sum is wanted, not the mean *name*.

    Raises:
        InputError: *frame* does not say so any more.
    """
    kinds = frame.attrs.get("metric_kinds", {}) if name == "avg" else dict.fromkeys(metrics, Kind.GAUGE)
    lost = next((each for each in metrics if each not in kinds), None)
    if lost is not None or "step_s" not in frame.attrs:
        choice = '"sum" or "avg"' if name == "avg" else f'"{name}"'
        what = "its step" if lost is None else f"whether {lost or 'its metric'} is a gauge or a counter"
        raise InputError(f"frame does not say {what}: concat and merge lose attrs: name the column, value={choice}")
    counters = np.array([kinds[each] == Kind.COUNTER for each in metrics], dtype=bool)
    if counters.any() and "sum" not in frame:
        raise InputError(f'frame has no column sum, which counters are told by: name another, value="{name}"')
    return counters


def listed(frame: pd.DataFrame) -> str:
    """Return the columns of *frame*, or the first of them, as messages name them."""
    names = [str(each) for each in frame.columns]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED]) or 'none'}{more}"


def _categories(frame: pd.DataFrame, key: str) -> pd.Categorical:
    """
    Return the names in the column *key*.

    Raises:
        InputError: Some row has none.
    """
    found = pd.Categorical(frame[key])
    if (found.codes < 0).any():
        raise InputError(f"frame has rows without {key}, expected one in each: dropna(subset={key!r})")
    return found


def _series(frame: pd.DataFrame) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the place of each row's metric, labels included, in a list of them in order; one nameless without metrics."""
    if "metric" not in frame:
        return np.zeros(len(frame), dtype=np.int64), [""]
    metric = _categories(frame, "metric")
    labels = _categories(frame, "labels") if "labels" in frame else pd.Categorical([""]).take(np.zeros(len(frame), int))
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


def width(step: object) -> timedelta:
    """
    Return *step* as a duration.

    Raises:
        InputError: pandas cannot make one of it, or it does not say of what.
    """
    if isinstance(step, timedelta | np.timedelta64) or (isinstance(step, str) and _UNIT.search(step)):
        with suppress(ValueError, OverflowError):
            found = pd.Timedelta(step)
            # What is no time is none of these either.
            if isinstance(found, pd.Timedelta):
                return found.to_pytimedelta()
    raise InputError(f"step is {shown(step)}, expected a timedelta, or a text such as 15min, 6h, 1d")
