"""
Data frames on every engine: values, types, units, and what becomes of NULL, of nothing, and of names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal
from sqlalchemy import text

from fleetpulse import DatabaseManager, frames
from reports.catalogue import CATALOGUE
from reports.definition import Column
from reports.exports import arrow, relations
from reports.exports.arrow import MOMENT, reading
from reports.exports.frames import table as table_frame
from reports.exports.names import OUTCOMES
from reports.exports.relations import RELATIONS, SERIES
from reports.run import Report, run
from storage.errors import InputError, NotRolledUp, TransientStorageError, UnknownName
from storage.layout import TABLE_CODE, TIER_CODE
from storage.model import ROLLUPS, Table, Tier, Window
from storage.pg.rights import VIEWS
from storage.store import Capability, Store
from storage.transactions import writing
from tests.batches import NOON
from tests.series import AGENTS, HOUR, at, fill, work

pytestmark = pytest.mark.each_kind

UTC_INDEX = "datetime64[us, UTC]"
BEFORE = Window(NOON - timedelta(hours=2), NOON - timedelta(hours=1))

#: Every kind of frame of time series.
SHAPES: dict[str, Callable[[Store, Window], pd.DataFrame]] = {
    "health": lambda store, window: frames.health(store, window, step="1min"),
    "health resampled": lambda store, window: frames.health(store, window, step="5min"),
    "health_records": frames.health_records,
    "agent_metrics": lambda store, window: frames.agent_metrics(store, "depth", window, step="1min"),
    "agent_metrics wide": lambda store, window: frames.agent_metrics(store, None, window, step="1min", wide=True),
    "agent_samples": lambda store, window: frames.agent_samples(store, None, window),
    "system_metrics": lambda store, window: frames.system_metrics(store, None, window, step="1min"),
    "system_samples": lambda store, window: frames.system_samples(store, "disk_used_percent", window, wide=True),
}


def rows(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return a frame as a query would answer it: index first, None where something is missing."""
    plain = frame.reset_index().astype(object)
    return [tuple(row) for row in plain.where(plain.notna(), None).itertuples(index=False)]


def labels(frame: pd.DataFrame) -> list[Any]:
    """Return what the columns of a frame are called."""
    return frame.columns.tolist()


def asked(store: Store, statement: str) -> list[tuple[object, ...]]:
    """Return what a query answers, its first column a moment."""
    answer = store.query(statement, types={"ts": datetime, "bucket": datetime})
    return [tuple(row) for row in answer.rows]


def test_records_equal_the_view(store: Store) -> None:
    """Every check is there, with its names and numbers, in the order of time and id; NULL is NaN."""
    fill(store)
    frame = frames.health_records(store, HOUR)

    assert frame.index.dtype == UTC_INDEX
    assert frame.index.name == "ts"
    assert frame.index.is_monotonic_increasing
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "agent": "category",
        "outcome": "category",
        "late_ms": "float64",
        "latency_ms": "float64",
        "http_status": "int16",
        "reason": "category",
    }
    assert list(frame["agent"].cat.categories) == sorted(AGENTS)
    assert tuple(frame["outcome"].cat.categories) == OUTCOMES.names
    found = [(*row[:-1], row[-1] or "") for row in rows(frame)]
    assert found == asked(
        store,
        "SELECT ts, agent, outcome, late_ms, latency_ms, http_status, reason FROM health_records ORDER BY ts, agent_id",
    )
    assert frame["latency_ms"].isna().sum() == 1
    assert frame.attrs["units"] == {"late_ms": "ms", "latency_ms": "ms"}


def test_tiers_equal_their_views(store: Store) -> None:
    """Every column of a tier has the view's values; means are sums divided by counts; buckets without rows are absent."""
    fill(store)
    for tier in ROLLUPS:
        _tier_equals_its_view(store, tier)


def _tier_equals_its_view(store: Store, tier: Tier) -> None:
    health = frames.health(store, HOUR, step=tier.step)
    metrics = frames.agent_metrics(store, None, HOUR, step=tier.step)
    columns = ", ".join(name for name in health.columns if name not in ("agent", "last_outcome"))

    assert rows(health.drop(columns="last_outcome")) == asked(
        store,
        f"SELECT h.bucket, a.name AS agent, {columns} FROM {Table.HEALTH.relation(tier)} AS h"  # noqa: S608  # our own names
        " JOIN agents AS a ON a.id = h.agent_id ORDER BY h.bucket, a.id",
    )
    numbers = [OUTCOMES.names.index(name) for name in health["last_outcome"]]
    assert numbers == [
        row[1]
        for row in asked(
            store,
            f"SELECT h.bucket, h.last_outcome, a.name FROM {Table.HEALTH.relation(tier)} AS h"  # noqa: S608  # our own names
            " JOIN agents AS a ON a.id = h.agent_id ORDER BY h.bucket, a.id",
        )
    ]
    assert rows(metrics.drop(columns="labels")) == asked(
        store,
        "SELECT s.bucket, a.name AS agent, m.name AS metric, s.n, s.sum, s.avg, s.min, s.max, s.last"  # noqa: S608  # our own names
        f" FROM {Table.AGENT.relation(tier)} AS s JOIN agents AS a ON a.id = s.agent_id"
        " JOIN metrics AS m ON m.id = s.metric_id ORDER BY s.bucket, a.id, m.id",
    )
    assert set(health.dtypes[["n", *OUTCOMES.names, "latency_n"]].astype(str)) == {"int64"}
    assert set(health.filter(regex="^lat").drop(columns="latency_n").dtypes.astype(str)) == {"float64"}
    assert health.attrs["units"]["latency_avg"] == "ms"
    assert (health.attrs["table"], health.attrs["step_s"]) == (Table.HEALTH.relation(tier), tier.step.total_seconds())


def test_any_step_is_made_of_the_coarsest_tier_that_divides_it(store: Store) -> None:
    """Ten minutes of minutes are what ten minutes of raw rows are, in values and types; the window is widened to them."""
    fill(store)
    window = Window(at(0), at(401))
    ten = frames.health(store, window, step=timedelta(minutes=10))
    of_raw = frames.resample(frames.health_records(store, window), "10min")

    assert ten.attrs["table"] == "health_1m"
    assert ten.attrs["step_s"] == of_raw.attrs["step_s"] == 600
    assert ten.attrs["window"] == [NOON.isoformat(), at(600).isoformat()]
    assert ten.attrs["units"] == of_raw.attrs["units"]
    assert_frame_equal(ten, of_raw, check_index_type=True)
    web = ten[ten["agent"] == "web-1"].iloc[0]
    assert (web["n"], web["latency_avg"], web["latency_last"], web["last_outcome"]) == (3, 30.0, 60.0, "unhealthy")
    metrics = frames.agent_metrics(store, ["depth", "tokens_total"], window, step="10min")
    assert_frame_equal(metrics, frames.resample(frames.agent_samples(store, None, window), "10min"))
    assert frames.health(store, HOUR, step="2h").attrs["table"] == "health_1h"


def test_wide_frames_have_a_column_per_series(store: Store) -> None:
    """Gauges by their mean and counters by their sum; agents alone are the columns where there is one metric."""
    fill(store)
    depth = frames.agent_metrics(store, "depth", HOUR, step="1min", wide=True)
    both = frames.agent_metrics(store, ["tokens_total", "depth"], HOUR, step="1min", wide=True)
    disks = frames.system_samples(store, None, HOUR, wide=True)
    nan = float("nan")

    expected = pd.DataFrame(
        {"db-1": [1.0, nan], "web-1": [6.0, -2.0]},
        index=pd.DatetimeIndex([at(0), at(60)], dtype=UTC_INDEX, name="bucket"),
    )
    assert_frame_equal(depth, expected, check_names=False, check_column_type=False)
    assert depth.columns.name == "agent"
    assert labels(both) == [
        ("depth", "db-1"),
        ("depth", "web-1"),
        ("tokens_total", "db-1"),
        ("tokens_total", "web-1"),
    ]
    assert both["tokens_total", "web-1"].tolist()[0] == 150.0
    assert labels(disks) == [
        ('disk_used_percent{device="sda"}', "host-a"),
        ('disk_used_percent{device="sdb"}', "host-a"),
    ]
    assert disks.attrs["units"] == dict.fromkeys(disks.columns.get_level_values(0), "%")
    latency = frames.wide(frames.health_records(store, HOUR), "latency_ms")
    assert list(latency.iloc[0].isna()) == [True, False, True]
    with pytest.raises(InputError, match="frame has no column mean, expected one of agent"):
        frames.wide(frames.health(store, HOUR), "mean")


def test_units_and_kinds_are_those_of_the_metrics(store: Store) -> None:
    """A unit that all rows share is the columns'; each metric has its own, and its kind."""
    fill(store)
    disks = frames.system_metrics(store, "disk_used_percent", HOUR)
    both = frames.agent_samples(store, None, HOUR)

    assert disks.attrs["units"] == dict.fromkeys(("avg", "min", "max", "last", "sum"), "%")
    assert list(disks["labels"].cat.categories) == ['{device="sda"}', '{device="sdb"}']
    assert both.attrs["units"] == {}
    assert both.attrs["metric_units"] == {"depth": "1", "tokens_total": ""}
    assert both.attrs["metric_kinds"] == {"depth": "gauge", "tokens_total": "counter"}


def test_empty_windows_have_the_types_of_full_ones(store: Store) -> None:
    """Nothing found is no row, under the same index and, but for the columns of wide frames, the same types."""
    fill(store)
    for make in SHAPES.values():
        full, empty = make(store, HOUR), make(store, BEFORE)

        assert len(full) > 0
        assert len(empty) == 0
        assert (empty.index.dtype, empty.index.name) == (full.index.dtype, full.index.name)
        assert full.index.dtype == UTC_INDEX
        if "value" not in full.attrs:
            assert [str(each) for each in empty.dtypes] == [str(each) for each in full.dtypes]
            assert list(empty.columns) == list(full.columns)


def test_rows_through_the_stores_own_connection_are_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Arrow's driver is not installed frames are what they are with it."""
    fill(store)
    work(store)
    relations = ("tasks", "messages", "task_runs", "agents", "metrics", "workflows", "status_events", "incidents")
    driven = {kind: make(store, HOUR) for kind, make in SHAPES.items()}
    driven |= {name: table_frame(store, name) for name in relations}
    monkeypatch.setattr(arrow, "_driver", lambda: None)

    for kind, make in SHAPES.items():
        assert_frame_equal(make(store, HOUR), driven[kind])
    for name in relations:
        assert_frame_equal(table_frame(store, name), driven[name], check_exact=False)


def test_filters_choose_and_unknown_names_are_refused_with_the_nearest(store: Store) -> None:
    """Agents by name and type, hosts and metrics by name; what is not there is said, with what it may be."""
    fill(store)

    assert set(frames.health(store, HOUR, type="db")["agent"]) == {"db-1"}
    assert set(frames.health(store, HOUR, agent=["web-1", "ünï-✓"])["agent"]) == {"web-1", "ünï-✓"}
    assert len(frames.agent_samples(store, "tokens_total", HOUR, agent="web-1")) == 2
    with pytest.raises(UnknownName, match=re.escape('there is no agent "web-2": did you mean "web-1"')):
        frames.health(store, HOUR, agent="web-2")
    with pytest.raises(UnknownName, match=re.escape('there is no agent "web-1": it is not of type db')):
        frames.health(store, HOUR, agent="web-1", type="db")
    with pytest.raises(UnknownName, match=re.escape('there is no type of agents "webb": did you mean "web"')):
        frames.health(store, HOUR, type="webb")
    with pytest.raises(UnknownName, match=re.escape('there is no metric "token_total": did you mean "tokens_total"')):
        frames.agent_metrics(store, "token_total", HOUR)
    with pytest.raises(UnknownName, match=re.escape('there is no host "host": did you mean "host-a"')):
        frames.system_metrics(store, None, HOUR, host="host")
    with pytest.raises(InputError, match="agent is an empty list"):
        frames.health(store, HOUR, agent=[])
    with pytest.raises(UnknownName, match="there is no agent \"x' OR 1 = 1 --"):
        frames.health(store, HOUR, agent="x' OR 1 = 1 --\\")


def _raise_horizon(store: Store, tier: Tier, moment: datetime) -> None:
    value: object = moment if store.engine_name != "sqlite" else round(moment.timestamp() * 1_000_000)
    with writing(store.engine).begin() as connection:
        connection.execute(
            text("UPDATE horizons SET closed_before = :at, dropped_before = :at WHERE tbl = :tbl AND tier = :tier"),
            {"at": value, "tbl": TABLE_CODE[Table.HEALTH], "tier": TIER_CODE[tier]},
        )


def test_windows_below_the_horizon_are_refused(store: Store) -> None:
    """What is no longer kept is not answered by less; auto takes the next coarser tier that still knows."""
    fill(store)
    _raise_horizon(store, Tier.RAW, at(60))

    with pytest.raises(
        NotRolledUp, match=r"health_checks is kept from 2026-03-10T12:01:00\+00:00 on: .* 1m or 1h or 1d"
    ):
        frames.health_records(store, HOUR)
    assert frames.health(store, HOUR).attrs["table"] == "health_1m"
    _raise_horizon(store, Tier.M1, at(60))
    assert frames.health(store, HOUR).attrs["table"] == "health_1h"
    with pytest.raises(NotRolledUp, match=r"health_1m is kept from .* or for a step of 1h or 1d"):
        frames.health(store, HOUR, step="5min")


def test_what_retention_drops_meanwhile_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that goes while it is read is an error, not a gap."""
    fill(store)
    before = store.horizons()
    _raise_horizon(store, Tier.RAW, at(60))
    after = store.horizons()
    _raise_horizon(store, Tier.RAW, datetime(1970, 1, 1, tzinfo=UTC))
    assert before != after
    monkeypatch.setattr(store, "horizons", lambda: after)

    with pytest.raises(TransientStorageError, match=r"health_checks was dropped up to .* while it was read"):
        frames.health_records(store, HOUR)


def test_steps_that_are_none_are_refused(store: Store) -> None:
    """A step is whole minutes."""
    for step in ("soon", "90s", "1us", "-1h", "0min", "nat", "15", 5, True, timedelta(days=10**6)):
        with pytest.raises(InputError, match="step is "):
            frames.health(store, HOUR, step=step)  # type: ignore[arg-type]  # what is tried
    minutes = frames.health(store, HOUR, step="2min")
    for step in ("soon", "0s", "-2min", "3min"):
        with pytest.raises(InputError, match="step is "):
            frames.resample(minutes, step)


# ---------------------------------------------------------------- frames that are not as they came


def test_frames_that_lost_their_attrs_are_not_guessed_at(store: Store) -> None:
    """concat and merge drop what is a counter: a mean in place of a sum would be wrong without a word."""
    fill(store)
    first, second = Window(at(0), at(60)), Window(at(60), at(120))
    parts = [frames.agent_metrics(store, ["depth", "tokens_total"], each, step="1min") for each in (first, second)]
    both = pd.concat(parts)
    tokens = both[both["metric"] == "tokens_total"]
    health = pd.concat([frames.health(store, each, step="1min") for each in (first, second)])

    assert parts[0].attrs["step_s"] == 60
    assert both.attrs == {}
    with pytest.raises(InputError, match=r'whether depth is a gauge or a counter: .* value="sum" or "avg"'):
        frames.wide(both)
    with pytest.raises(InputError, match=r'does not say its step: .* value="latency_avg"'):
        frames.wide(health)
    for frame in (both, health):
        with pytest.raises(InputError, match=r"does not say its step: .* frame.attrs\[\"step_s\"\]"):
            frames.resample(frame, "1h")
    assert frames.wide(tokens, "sum").sum().sum() == tokens["sum"].sum() == 157
    assert frames.wide(health, "latency_avg")["web-1"].tolist() == [15.0, 60.0]
    both.attrs = {**parts[0].attrs, "metric_kinds": {"depth": "gauge", "tokens_total": "counter"}}
    assert frames.wide(both).sum().loc["tokens_total"].tolist() == [7.0, 150.0]
    assert frames.resample(both, "1h")["n"].sum() == 7
    both.attrs["step_s"] = 3600
    with pytest.raises(InputError, match="has rows between its steps of 3600 s"):
        frames.resample(both, "2h")


def test_moments_are_the_index_in_whatever_zone(store: Store) -> None:
    """Buckets are those of UTC for a frame in Kathmandu or on the night that clocks go back; what is no moment is refused."""
    fill(store)
    health = frames.health(store, HOUR, step="1min")
    hourly = frames.resample(health, "1h")
    night = pd.date_range("2026-10-24 22:00", periods=8, freq="1h", tz="UTC", name="bucket", unit="ns")
    numbers = dict.fromkeys(("n", "sum", "min", "max", "last", "avg"), 1.0)
    local = pd.DataFrame(
        {"agent": "a", "metric": "m", "labels": "", **numbers}, index=night.tz_convert("Europe/Berlin")
    )
    local.attrs = {"step_s": 3600.0, "metric_kinds": {"m": "gauge"}}

    for zone in ("Asia/Kathmandu", "America/St_Johns"):
        moved = health.tz_convert(zone)
        assert_frame_equal(frames.resample(moved, "1h"), hourly)
        assert_frame_equal(frames.wide(moved), frames.wide(health))
    assert frames.resample(local, "2h")["n"].tolist() == [2, 2, 2, 2]
    assert frames.wide(local).index.equals(night.as_unit("us"))
    none: Any = None
    for frame, said in (
        (health.reset_index(), 'an index of type int64, expected moments: set_index("bucket")'),
        (frames.tasks(store), "an index of type int64, expected moments"),
        (health.tz_localize(None), "moments without a zone"),
        (health.set_axis(health.index.where(health["n"] > 1)), "moments that are missing"),
        (none, "frame is a value of type NoneType"),
    ):
        for shape in (frames.wide, lambda each: frames.resample(each, "1h")):
            with pytest.raises(InputError, match=re.escape(said)):
                shape(frame)


def test_what_cannot_be_reshaped_is_refused(store: Store) -> None:
    """Frames of other things, columns that are no numbers, rows that are nobody's."""
    fill(store)
    health, samples = frames.health(store, HOUR), frames.agent_samples(store, None, HOUR)
    load = frames.report_frame(run(store, "system_load", window=HOUR))

    for frame in (frames.wide(health), load, health[["agent", "n"]], health.drop(columns="late_max")):
        with pytest.raises(InputError, match="expected those of a tier or of raw rows, as they came"):
            frames.resample(frame, "1h")
    for value in ("agent", "last_outcome"):
        with pytest.raises(
            InputError, match=f"column {value} is of type category, expected one of numbers: n, healthy"
        ):
            frames.wide(health, value)
    for none in (["n"], 5, ""):
        with pytest.raises(InputError, match="frame has no column "):
            frames.wide(health, none)  # type: ignore[arg-type]  # what is tried
    with pytest.raises(InputError, match="frame has rows without agent, expected one in each"):
        frames.wide(samples.assign(agent=samples["agent"].where(samples["agent"] == "web-1")))
    with pytest.raises(InputError, match="frame has the column n twice"):
        frames.wide(pd.concat([health, health[["n"]]], axis=1))
    assert frames.wide(samples.drop(columns="labels")).shape == frames.wide(samples).shape


# ---------------------------------------------------------------- the relational half


def test_tables_have_names_and_types(store: Store) -> None:
    """Ids of agents give way to names, NULL has a type to be in, JSON is parsed, few texts are categoricals."""
    fill(store)
    work(store)
    tasks = frames.tasks(store)

    assert tasks["task"].tolist()[:2] == ["plan", "draft"]
    assert tasks["task"].isna().tolist() == [False, False, True, False]
    assert tasks["agent"].astype(object).where(tasks["agent"].notna(), None).tolist() == [
        "web-1",
        "web-1",
        "db-1",
        None,
    ]
    assert tasks["workflow"].tolist()[0] == "night"
    assert tasks["payload"][0] == {"prompt": "ünï", "n": [1, 2]}
    assert tasks["result"].tolist() == [None] * 4
    kinds = {name: str(kind) for name, kind in tasks.dtypes.items()}
    assert kinds["task_id"] == "int64"
    assert kinds["workflow_id"] == "Int64"
    assert kinds["started_at"] == kinds["created_at"] == UTC_INDEX
    assert (kinds["agent"], kinds["state"], kinds["task"]) == ("category", "category", "str")
    assert "lease" not in kinds
    assert tasks["started_at"].isna().tolist() == [False, False, False, True]
    assert [str(each) for each in tasks.dtypes] == [str(each) for each in frames.tasks(store, state="failed").dtypes]
    assert frames.messages(store)["recipient"].isna().tolist() == [False, True]
    assert (
        frames.messages(store, agent="db-1")["message_id"].tolist() == frames.messages(store)["message_id"].tolist()[:1]
    )
    assert table_frame(store, "tasks", ids=True)["agent_id"].dtype == "Int64"
    assert frames.agents(store)["labels"].tolist() == [{}, {}, {}]


def test_tables_are_chosen_by_time_and_by_value(store: Store) -> None:
    """A window takes what came to be in it, or, of what has an end, what touches it."""
    fill(store)
    work(store)

    assert frames.tasks(store, window=Window(at(3600), at(3601)))["task"].tolist() == ["later"]
    assert frames.task_runs(store, window=Window(at(60), at(80)))["task"].tolist()[0] == "draft"
    assert len(frames.task_runs(store, window=Window(at(80), at(90)))) == 1
    assert len(frames.task_runs(store, window=Window(at(-10), at(0)))) == 0
    assert frames.tasks(store, workflow="night", type=["write", "think"])["task"].tolist() == ["plan", "draft", "later"]
    assert len(frames.task_runs(store, agent="db-1", task_type="think")) == 1
    assert len(frames.workflows(store, state="pending")) == 1
    with pytest.raises(InputError, match="task_dependencies has no time of its own, found a window: leave it out"):
        table_frame(store, "task_dependencies", window=HOUR)
    with pytest.raises(InputError, match="hosts has no agent to choose by, expected host, name"):
        table_frame(store, "hosts", agent="web-1")
    with pytest.raises(UnknownName, match='there is no workflow "nigth": did you mean "night"'):
        frames.tasks(store, workflow="nigth")
    with pytest.raises(InputError, match='state of tasks is "done", expected one of pending, running, completed'):
        frames.tasks(store, state=["failed", "done"])
    for wrong in (["web"], "", 3):
        with pytest.raises(InputError, match="expected the type of agents"):
            frames.health(store, HOUR, type=wrong)  # type: ignore[arg-type]  # what is tried
    with pytest.raises(InputError, match='state of task_queue is "ready", expected one of pending'):
        table_frame(store, "task_queue", state="ready")
    with pytest.raises(UnknownName, match='there is no type of tasks "wriet": did you mean "write"'):
        frames.tasks(store, type="wriet")
    with pytest.raises(UnknownName, match='there is no task_type of task_runs "thnik": did you mean "think"'):
        frames.task_runs(store, task_type="thnik")
    with pytest.raises(InputError, match='table "agnets" does not exist: did you mean "agents"'):
        table_frame(store, "agnets")


#: Filters that cannot be, and what is said of them.
NO_FILTERS: list[tuple[str, dict[str, Any], str]] = [
    ("tasks", {"type": 3}, "type is 3, expected text"),
    ("tasks", {"type": []}, "type is an empty list, expected one or more"),
    ("tasks", {"agent": ["web-1", None]}, "agent is None, expected text"),
    ("tasks", {"agent": b"web-1"}, "agent is b'web-1', expected text"),
    ("tasks", {"workflow": "a\0b"}, "expected text without NUL and halves of surrogate pairs"),
    ("tasks", {"type": "\ud800"}, "expected text without NUL and halves of surrogate pairs"),
    ("tasks", {"priority": "3"}, "priority is '3', expected a whole number of 64 bits"),
    ("tasks", {"id": 2**63}, "id is 9223372036854775808, expected a whole number of 64 bits"),
    ("tasks", {"id": True}, "id is True, expected a whole number"),
    ("tasks", {"due_at": "x"}, "tasks has no due_at to choose by, expected agent, workflow, type"),
    ("tasks", {"payload": {}}, "tasks has no payload to choose by, expected agent, workflow, type"),
    ("fleet_health", {"stale": "true"}, "stale is 'true', expected True or False"),
    ("fleet_health", {"stale": 1}, "stale is 1, expected True or False"),
]


def test_filters_fit_their_columns(store: Store) -> None:
    """Numbers and flags choose as texts do, the same on every engine; what cannot be in a column is refused in words."""
    fill(store)
    work(store)

    assert table_frame(store, "tasks", name="draft")["name"].tolist() == ["draft"]
    assert table_frame(store, "tasks", attempts=[0, 7], priority=frames.tasks(store)["priority"][0]).shape[0] == 4
    first = frames.tasks(store)["task_id"][0]
    assert table_frame(store, "tasks", id=first)["id"].tolist() == [first]
    assert table_frame(store, "tasks", id=[first, first + 1], type="write")["id"].tolist() == [first + 1]
    assert [len(table_frame(store, "fleet_health", stale=each)) for each in (True, False, [True, False])] == [0, 3, 3]
    for name, filters, said in NO_FILTERS:
        with pytest.raises(InputError, match=re.escape(said)):
            table_frame(store, name, **filters)
    for agent in (5, [5], b"x", 1.5, "a\0b", "\ud800"):
        with pytest.raises(InputError, match=r"^agent is "):
            frames.health(store, HOUR, agent=agent)  # type: ignore[arg-type]  # what is tried


def test_what_is_no_store_window_or_report_is_said(store: Store) -> None:
    """The likeliest mistakes are told in words: a manager for its store, a text for a window, a frame for a report."""
    fill(store)
    manager = DatabaseManager("sqlite://")
    with closing(manager):
        wrong: Any
        for wrong in (manager, None, "sqlite://"):
            for ask in (frames.tasks, lambda each: frames.health(each, HOUR)):
                with pytest.raises(InputError, match=r"^store is "):
                    ask(wrong)
    for window in ("7d", (NOON, NOON), None):
        with pytest.raises(InputError, match=r"^window is "):
            frames.health(store, window)  # type: ignore[arg-type]  # what is tried
    with pytest.raises(InputError, match=r"^window is "):
        frames.tasks(store, window="7d")  # type: ignore[arg-type]  # what is tried
    with pytest.raises(InputError, match=r"^report is "):
        frames.report_frame(frames.agents(store))  # type: ignore[arg-type]  # what is tried
    with pytest.raises(InputError, match=r"^table is 5"):
        table_frame(store, 5)  # type: ignore[arg-type]  # what is tried


def test_frames_of_tables_say_what_they_are(store: Store) -> None:
    """The relation, the window that was asked for, and the units of its columns."""
    fill(store)

    assert frames.agents(store).attrs == {"table": "agents", "units": {"interval_s": "s", "timeout_s": "s"}}
    assert frames.tasks(store, window=HOUR).attrs == {
        "table": "tasks",
        "units": {},
        "window": [NOON.isoformat(), at(3600).isoformat()],
    }


def test_samples_are_split_between_the_tasks_that_ran(store: Store) -> None:
    """A row stands once for each run of its agent at its moment; values times share add up to what they were."""
    fill(store)
    work(store)
    samples = frames.agent_samples(store, "tokens_total", HOUR)
    joined = frames.join_tasks(samples, frames.task_runs(store, window=HOUR))

    found = [
        (agent, value, None if pd.isna(kind) else kind, share)
        for agent, value, kind, share in joined[["agent", "value", "task_type", "share"]].itertuples(index=False)
    ]
    # At 0 s plan alone; at 10 s plan and draft, which has just begun; at 70 s on db-1 the one that goes on.
    assert found == [
        ("web-1", 100.0, "think", 1.0),
        ("web-1", 50.0, "think", 0.5),
        ("web-1", 50.0, "write", 0.5),
        ("db-1", 7.0, "think", 1.0),
    ]
    assert (joined["value"] * joined["share"]).sum() == samples["value"].sum()
    assert str(joined["task_id"].dtype) == "Int64"
    late = frames.join_tasks(frames.agent_samples(store, "depth", Window(at(60), at(80))), frames.task_runs(store))
    assert late["task"].tolist() == ["draft"]
    idle = frames.join_tasks(samples, frames.task_runs(store, window=BEFORE))
    assert idle["task_id"].isna().all()
    assert idle["share"].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(InputError, match="runs has no column started_at"):
        frames.join_tasks(samples, frames.agents(store))
    runs = frames.task_runs(store)
    local = frames.join_tasks(
        samples.tz_convert("Asia/Kathmandu"), runs.assign(started_at=runs["started_at"].dt.as_unit("ns"))
    )
    assert local["task_id"].tolist() == joined["task_id"].tolist()
    with pytest.raises(
        InputError, match=re.escape('frame has an index of type int64, expected moments: set_index("ts")')
    ):
        frames.join_tasks(samples.reset_index(), runs)
    with pytest.raises(InputError, match="runs has a column started_at of type str, expected moments in a zone"):
        frames.join_tasks(samples, runs.astype({"started_at": "str"}))
    with pytest.raises(InputError, match="joined with tasks, where rows stand more than once: resample before"):
        frames.resample(joined, "1h")


def test_agents_stand_beside_their_rows(store: Store) -> None:
    """Columns and labels of the registry are attached by name."""
    fill(store)
    with writing(store.engine).begin() as connection:
        connection.execute(text("""UPDATE agents SET labels = '{"team": "blue"}' WHERE name = 'web-1'"""))
    joined = frames.join_agents(
        frames.health_records(store, HOUR), frames.agents(store), columns=["type", "interval_s"], labels=["team"]
    )

    assert joined["type"].tolist() == ["db" if agent == "db-1" else "web" for agent in joined["agent"]]
    assert set(joined["interval_s"]) == {60.0}
    assert [team == "blue" for team in joined["label_team"]] == [agent == "web-1" for agent in joined["agent"]]
    assert str(joined["label_team"].dtype) == "category"
    agents = frames.agents(store)
    one = frames.join_agents(frames.health_records(store, HOUR), agents, columns="type", labels="team")
    assert_frame_equal(one, joined.drop(columns="interval_s"))
    bare = frames.join_agents(one[["agent"]], agents.drop(columns="labels"), columns=[])
    assert list(bare.columns) == ["agent"]
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (agents, {"columns": ["colour"]}, "agents has no column colour"),
        (agents, {"columns": ["agent"]}, "columns has agent, which rows are joined by"),
        (agents, {"labels": 5}, "labels is 5, expected text"),
        (agents.drop(columns="labels"), {"labels": "team"}, "agents has no column labels"),
        (pd.concat([agents, agents]), {}, 'agents has "db-1" twice'),
        (None, {}, "agents is a value of type NoneType, expected a data frame"),
    ]
    for known, choice, said in wrong:
        with pytest.raises(InputError, match=said):
            frames.join_agents(joined, known, **choice)


def test_every_public_relation_is_known() -> None:
    """A view that somebody adds has to be entered in reports/relations.py, or nobody could take it away."""
    assert {*RELATIONS, *SERIES} >= VIEWS


def test_every_relation_is_what_the_server_says(store: Store) -> None:
    """Each table and view can be read, empty or not, and its columns are of the kind that PostgreSQL knows them as."""
    known = [relations.relation(store, name) for name in RELATIONS]
    for fill_in in (lambda _store: None, fill, work):
        fill_in(store)
        with reading(store) as reader:
            for relation in known:
                selection = relations.select(reader, relation)
                assert sum(batch.num_rows for batch in selection.stream(reader)) == selection.count(reader)
    if Capability.ARROW not in store.capabilities:
        return
    with reading(store) as reader:
        selections = [relations.select(reader, relation, ids=True) for relation in known]
    driver, source = arrow._driver(), store.arrow_source()
    with closing(arrow._connect(driver, source)) as connection, closing(connection.cursor()) as cursor:
        for selection in selections:
            cursor.execute(source.render(selection.statement, selection.parameters))
            answered = {each.name: _kind(each.type) for each in cursor.fetch_arrow_table().schema}
            assert answered == {each.name: "json" if each.json else _kind(each.type) for each in selection.fields}


def _kind(kind: pa.DataType) -> str:
    if isinstance(kind, pa.BaseExtensionType):
        return str(kind.extension_name).removeprefix("arrow.")
    if kind == MOMENT:
        return "moment"
    for name in ("integer", "floating", "string", "boolean"):
        if getattr(pa.types, f"is_{name}")(kind):
            return name
    return str(kind)


# ---------------------------------------------------------------- snapshots and reports


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_all_statements_see_one_moment(store: Store) -> None:
    """Rows that come while a snapshot is open are not in it, through Arrow's driver or not."""
    fill(store)
    statement = "SELECT count(*) AS n FROM agents"
    fields = (arrow.Field(name="n", type=pa.int64()),)
    with reading(store) as driven, store.snapshot() as plain:
        before = [
            arrow.collect(driven, statement, {}, fields).column(0)[0].as_py(),
            next(plain.read(statement)).rows[0][0],
        ]
        with writing(store.engine).begin() as connection:
            connection.execute(text("DELETE FROM agents WHERE name = 'db-1'"))
        after = [
            arrow.collect(driven, statement, {}, fields).column(0)[0].as_py(),
            next(plain.read(statement)).rows[0][0],
        ]

    assert before == after == [3, 3]
    assert store.query(statement).rows[0][0] == 2


def test_snapshots_only_read_and_errors_are_ours(store: Store) -> None:
    """What would write is refused, and what cannot be read is an error of storage, not of a driver."""
    fill(store)
    gone = (arrow.Field(name="x", type=pa.int64()),)

    with pytest.raises(TransientStorageError), reading(store) as reader:
        arrow.collect(reader, "SELECT x FROM nowhere", {}, gone)
    with pytest.raises(TransientStorageError, match="reading failed"), store.snapshot() as snapshot:
        list(snapshot.read("DELETE FROM agents RETURNING id"))
    assert len(frames.agents(store)) == 3


def test_blocks_of_rows_are_all_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot hands over every row once, however many blocks that takes; no row is one empty block."""
    fill(store)
    for module in ("storage.pg.snapshot", "storage.sqlite"):
        monkeypatch.setattr(f"{module}.BLOCK_ROWS", 2)
    with store.snapshot() as snapshot:
        blocks = [len(block.rows) for block in snapshot.read("SELECT ts FROM health_checks ORDER BY ts")]
        empty = list(snapshot.read("SELECT ts FROM health_checks WHERE agent_id = :who", {"who": -1}))

    assert blocks == [2, 2, 2]
    assert [(each.columns, list(each.rows)) for each in empty] == [(("ts",), [])]


def test_every_report_becomes_a_frame(store: Store) -> None:
    """Each report of the catalogue has a type for every column, the same with rows and without."""
    fill(store)
    work(store)
    names = {"agent": "web-1", "workflow": "night", "metric": "tokens_total", "host": "host-a"}
    for name, definition in CATALOGUE.items():
        filters = {each: names[each] for each in definition.required}
        report = run(store, name, window=HOUR, filters=filters)
        found = frames.report_frame(report)
        bare = frames.report_frame(replace(report, rows=[]))

        assert len(found) == len(report.rows)
        assert [str(each) for each in bare.dtypes] == [str(each) for each in found.dtypes]
        assert str(bare.index.dtype) == str(found.index.dtype)
        told = [
            tuple(each.date() if column.unit == "date" and each is not None else each for column, each in pairs)
            for pairs in (list(zip(report.columns, row, strict=True)) for row in _told(found, report))
        ]
        assert told == [tuple(row) for row in report.rows]


def _told(frame: pd.DataFrame, report: Report) -> list[tuple[Any, ...]]:
    """Return the rows of a frame in the order of the report's columns."""
    plain = frame if frame.index.name is None else frame.reset_index()
    plain = plain[[column.name for column in report.columns]].astype(object)
    return [tuple(row) for row in plain.where(plain.notna(), None).itertuples(index=False)]


def test_reports_become_frames() -> None:
    """Moments, counts, measurements, flags and names each have their type, also without rows."""
    columns = (
        Column(name="bucket", unit="utc"),
        Column(name="agent"),
        Column(name="up", unit="slots"),
        Column(name="latency_ms", unit="ms"),
        Column(name="open", flag=True),
    )
    answer = [(NOON, "a", 3, None, True), (at(60), "ü", None, 1.5, None)]
    full = frames.report_frame(Report(name="x", columns=columns, rows=answer, window=HOUR))
    empty = frames.report_frame(Report(name="x", columns=columns, rows=[], window=None))

    assert full.index.dtype == empty.index.dtype == UTC_INDEX
    for frame in (full, empty):
        assert [str(each) for each in frame.dtypes] == ["category", "Int64", "float64", "boolean"]
    assert rows(full) == answer
    assert full.attrs == {
        "report": "x",
        "units": {"up": "slots", "latency_ms": "ms"},
        "window": [NOON.isoformat(), at(3600).isoformat()],
    }
    assert all(one <= other for one, other in pairwise(full.index))
    own = (
        Column(name="unit"),
        Column(name="amount", unit="1"),
        Column(name="share", unit="ratio"),
        Column(name="b", unit="By"),
    )
    mixed = frames.report_frame(Report(name="x", columns=own, rows=[("s", 1.5, 1.0, 7)], window=None))
    # What an amount is stands beside it.
    assert mixed.attrs["units"] == {"share": "ratio", "b": "By"}
    assert [str(each) for each in mixed.dtypes] == ["category", "float64", "float64", "Int64"]
