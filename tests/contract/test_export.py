"""
Files on every engine: what is in them, what pandas makes of them, and that there is none when something goes wrong.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from pandas.testing import assert_frame_equal

from fleetpulse import frames
from reports.exports import files, tables
from reports.exports.frames import table as table_frame
from reports.exports.run import Exported, export_relation, export_series
from reports.exports.series import Series
from reports.exports.tables import Shape
from reports.exports.targets import Compression, ExportError, Format, Target
from storage.errors import InputError, NotRolledUp, TransientStorageError, UnknownName
from storage.model import Outcome, Table, Tier, Window
from storage.store import Store
from tests.batches import NOON, Spool, every
from tests.fleet import add_agent
from tests.series import HOUR, at, fill, work

pytestmark = pytest.mark.each_kind

MINUTE = timedelta(minutes=1)
AGENT = Series(table=Table.AGENT, metrics=("depth", "tokens_total"))
HEALTH = Series(table=Table.HEALTH)
RAW = Shape(raw=True)


def silent(_rows: int, _share: float | None) -> None:
    """Tell nobody."""


def target(path: Path, **options: Any) -> Target:
    """Return a target whose form is that of its name."""
    return Target(path=path, format=Format(path.suffix[1:]), **options)


def exported(store: Store, series: Series, shape: Shape, path: Path, window: Window = HOUR) -> Exported:
    """Export into *path*."""
    return export_series(store, series, window, shape, target(path), silent)


def lines(path: Path) -> list[list[str]]:
    """Return the records of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("small", [False, True])
def test_parquet_is_read_back_as_the_frame(
    store: Store, tmp_path: Path, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pandas makes the very frame of the file: index, types, values, units; however small the pieces it came in."""
    fill(store)
    if small:
        monkeypatch.setattr("storage.sqlite.BLOCK_ROWS", 2)
        monkeypatch.setattr("reports.exports.arrow.BATCH_BYTES", 64)
        monkeypatch.setattr(files, "GROUP_BYTES", 100)
    expected: dict[str, tuple[Series, Shape, pd.DataFrame]] = {
        "records": (HEALTH, RAW, frames.health_records(store, HOUR)),
        "samples": (AGENT, RAW, frames.agent_samples(store, None, HOUR)),
        "minutes": (AGENT, Shape(step=MINUTE), frames.agent_metrics(store, None, HOUR, step=MINUTE)),
        "auto": (HEALTH, Shape(), frames.health(store, HOUR)),
        "ten": (HEALTH, Shape(step=10 * MINUTE), frames.health(store, HOUR, step=10 * MINUTE)),
        "five": (AGENT, Shape(step=5 * MINUTE), frames.agent_metrics(store, None, HOUR, step=5 * MINUTE)),
        "hosts": (
            Series(table=Table.SYSTEM, entities=("host-a",), metrics=("disk_used_percent",)),
            Shape(step=MINUTE),
            frames.system_metrics(store, "disk_used_percent", HOUR, step=MINUTE),
        ),
    }
    for name, (series, shape, frame) in expected.items():
        path = tmp_path / f"{name}.parquet"
        done = exported(store, series, shape, path)
        found = pd.read_parquet(path)

        assert done.rows == len(frame)
        assert_frame_equal(found, frame, check_categorical=False)
        assert [str(each) for each in found.dtypes] == [str(each) for each in frame.dtypes]
        assert found.attrs == frame.attrs
        assert done.relation == frame.attrs["table"]


def test_empty_windows_are_files_without_rows(store: Store, tmp_path: Path) -> None:
    """Nothing found is a file with its columns and types."""
    fill(store)
    before = Window(NOON - timedelta(hours=2), NOON - timedelta(hours=1))
    shapes = {
        "raw": RAW,
        "minutes": Shape(step=MINUTE),
        "five": Shape(step=5 * MINUTE),
        "wide": Shape(raw=True, wide=True),
    }
    for name, shape in shapes.items():
        path, full = tmp_path / f"{name}.parquet", tmp_path / f"{name}-full.parquet"
        assert exported(store, AGENT, shape, path, before).rows == 0
        assert exported(store, AGENT, shape, full).rows > 0
        found, expected = pd.read_parquet(path), pd.read_parquet(full)

        assert len(found) == 0
        assert str(found.index.dtype) == "datetime64[us, UTC]"
        if name != "wide":
            assert [str(each) for each in found.dtypes] == [str(each) for each in expected.dtypes]
            assert list(found.columns) == list(expected.columns)
    path = tmp_path / "empty.csv"
    exported(store, AGENT, RAW, path, before)
    assert lines(path) == [["ts", "agent", "metric", "labels", "value"]]


def test_csv_has_iso_moments_and_what_quotes_need(store: Store, tmp_path: Path) -> None:
    """A header, moments in UTC, NULL as nothing, names in UTF-8, commas and quotes and line ends inside quotes."""
    fill(store)
    work(store)
    exported(store, HEALTH, RAW, tmp_path / "checks.csv")
    export_relation(store, "messages", target(tmp_path / "messages.csv"), silent)
    checks, messages = lines(tmp_path / "checks.csv"), lines(tmp_path / "messages.csv")

    assert checks[0] == ["ts", "agent", "outcome", "late_ms", "latency_ms", "http_status", "reason"]
    assert checks[1] == ["2026-03-10T12:00:00.000000Z", "db-1", "timeout", "1", "", "0", "busy"]
    assert checks[3][1] == "ünï-✓"
    assert len(checks) == 7
    place = messages[0].index("payload")
    assert messages[1][place].replace(" ", "") == '{"text":"a,b\\n\\"c\\""}'
    assert messages[2][messages[0].index("recipient")] == ""
    read = pd.read_csv(tmp_path / "checks.csv", parse_dates=["ts"], index_col="ts")
    assert read["latency_ms"].tolist()[2:] == [30.0, 20.0, 60.0, 5.0]
    assert str(pd.DatetimeIndex(read.index).tz) == "UTC"


def test_ids_stay_where_they_are_wanted(store: Store, tmp_path: Path) -> None:
    """Ids of agents and metrics instead of names, for who joins them in a database."""
    fill(store)
    exported(store, AGENT, Shape(step=MINUTE, ids=True), tmp_path / "ids.parquet")
    found = pd.read_parquet(tmp_path / "ids.parquet")
    answer = store.query("SELECT agent_id, metric_id, avg FROM agent_metrics_1m ORDER BY bucket, agent_id, metric_id")

    assert list(found.columns) == ["agent_id", "metric_id", "n", "sum", "avg", "min", "max", "last"]
    assert [tuple(row) for row in found[["agent_id", "metric_id", "avg"]].itertuples(index=False)] == answer.rows
    assert str(found["agent_id"].dtype) == "int32"
    with pytest.raises(InputError, match="ids stand in raw rows and tiers as they are"):
        exported(store, AGENT, Shape(raw=True, wide=True, ids=True), tmp_path / "none.parquet")


def test_wide_files_have_a_column_per_series(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the wide frame, flat: agents, or metric@agent; however the rows are cut."""
    fill(store)
    monkeypatch.setattr("storage.sqlite.BLOCK_ROWS", 2)
    monkeypatch.setattr("reports.exports.arrow.BATCH_BYTES", 64)
    monkeypatch.setattr(tables, "_CELLS", 1)
    for name, shape in {"raw": RAW, "minutes": Shape(step=MINUTE), "ten": Shape(step=10 * MINUTE)}.items():
        path = tmp_path / f"{name}.parquet"
        exported(store, AGENT, Shape(raw=shape.raw, step=shape.step, wide=True), path)
        long = (
            frames.agent_samples(store, None, HOUR)
            if shape.raw
            else frames.agent_metrics(store, None, HOUR, step=shape.step or MINUTE)
        )
        expected = frames.wide(long)
        pairs: list[Any] = expected.columns.tolist()
        expected.columns = pd.Index([f"{metric}@{agent}" for metric, agent in pairs])

        assert_frame_equal(pd.read_parquet(path), expected, check_names=False, check_column_type=False)
    one = Series(table=Table.AGENT, metrics=("depth",))
    exported(store, one, Shape(step=MINUTE, wide=True, value="max"), tmp_path / "depth.csv")
    assert lines(tmp_path / "depth.csv") == [
        ["bucket", "db-1", "web-1"],
        ["2026-03-10T12:00:00.000000Z", "1", "8"],
        ["2026-03-10T12:01:00.000000Z", "", "-2"],
    ]
    exported(store, HEALTH, Shape(raw=True, wide=True), tmp_path / "latency.parquet")
    assert pd.read_parquet(tmp_path / "latency.parquet")["ünï-✓"].dropna().tolist() == [30.0]
    with pytest.raises(InputError, match="column outcome is of type category, expected one of numbers: late_ms"):
        exported(store, HEALTH, Shape(raw=True, wide=True, value="outcome"), tmp_path / "text.parquet")
    monkeypatch.setattr(tables, "MAX_COLUMNS", 2)
    with pytest.raises(InputError, match="a wide file would have 4 columns, expected 2 at the most"):
        exported(store, AGENT, Shape(raw=True, wide=True), tmp_path / "many.parquet")


def test_relations_are_read_back_as_their_frames(store: Store, tmp_path: Path) -> None:
    """A table's file has the types of its frame, also where nothing or NULL is in it; JSON is text there."""
    fill(store)
    work(store)
    for name in ("task_runs", "tasks", "messages", "workflow_events", "status_events", "agents"):
        path = tmp_path / f"{name}.parquet"
        done = export_relation(store, name, target(path), silent)
        found, expected = pd.read_parquet(path), table_frame(store, name)
        plain = [each for each in expected if each not in ("labels", "options", "payload", "result", "so_far_s")]

        assert done.rows == len(expected)
        assert list(found.columns) == list(expected.columns)
        assert_frame_equal(found[plain], expected[plain], check_categorical=False, check_index_type=False)
        assert found.attrs == expected.attrs
    export_relation(store, "tasks", target(tmp_path / "hour.parquet"), silent, window=HOUR, filters={"attempts": 0})
    assert pd.read_parquet(tmp_path / "hour.parquet").attrs == frames.tasks(store, window=HOUR).attrs


def test_rows_are_in_order_across_partitions(store: Store, tmp_path: Path) -> None:
    """Whatever order they came in, rows of two days leave in the order of time and id."""
    spool, midnight = Spool(), NOON.replace(hour=0) + timedelta(days=1)
    store.ensure_partitions(Window(NOON, NOON + timedelta(days=2)))
    for start in (midnight, midnight - timedelta(minutes=2)):
        due = every(start, 10, 12)
        store.write(spool.batch(checks=[(agent, when, Outcome.HEALTHY, 1.0) for when in due for agent in ("b", "a")]))
    told: list[tuple[int, float | None]] = []
    window = Window(NOON, NOON + timedelta(days=1))
    export_series(store, HEALTH, window, RAW, target(tmp_path / "x.parquet"), lambda *each: told.append(each))
    found = pd.read_parquet(tmp_path / "x.parquet")

    assert len(found) == 48
    assert found.index.is_monotonic_increasing
    assert sum(rows for rows, _ in told) == 48
    shares = [share for _, share in told if share is not None]
    assert shares == sorted(shares)
    assert 0.5 < shares[-1] <= 1


def test_compression_is_that_of_the_file(store: Store, tmp_path: Path) -> None:
    """Each of the compressions is what the file says of itself."""
    fill(store)
    for each in Compression:
        path = tmp_path / f"{each}.parquet"
        export_series(store, HEALTH, HOUR, RAW, target(path, compression=each), silent)
        found = pa.parquet.ParquetFile(path)
        with found:
            used = found.metadata.row_group(0).column(0).compression

        assert used == {"none": "UNCOMPRESSED"}.get(each.value, each.value.upper())


def test_wide_files_have_each_column_once(store: Store, tmp_path: Path) -> None:
    """Two series that would share a column, or take that of the moments, are refused before there is a file."""
    fill(store)
    for name in ("b@c", "c", "ts"):
        add_agent(store, name)
    store.write(Spool().batch(samples=[("b@c", "a", at(0), 1.0), ("c", "a@b", at(0), 2.0), ("ts", "x", at(0), 3.0)]))
    for metrics, twice in ((("a", "a@b"), "a@b@c"), (("x",), "ts")):
        series = Series(table=Table.AGENT, metrics=metrics)
        with pytest.raises(InputError, match=f"would have two columns called {twice}: choose other agents or metrics"):
            exported(store, series, Shape(raw=True, wide=True), tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_links_lead_to_the_file_that_is_written(store: Store, tmp_path: Path) -> None:
    """A link stays, and so does what it points to without force; what leads nowhere gets its file there."""
    fill(store)
    old, link, ahead = (tmp_path / name for name in ("old.csv", "link.csv", "ahead.csv"))
    old.write_text("mine")
    link.symlink_to("old.csv")
    ahead.symlink_to("new.csv")
    (tmp_path / "round.csv").symlink_to("round.csv")
    (tmp_path / "null.csv").symlink_to("/dev/null")

    with pytest.raises(InputError, match=r"link.csv is there already"):
        exported(store, HEALTH, RAW, link)
    assert old.read_text() == "mine"
    export_series(store, HEALTH, HOUR, RAW, target(link, force=True), silent)
    exported(store, HEALTH, RAW, ahead)
    assert [path.is_symlink() for path in (old, link, ahead, tmp_path / "new.csv")] == [False, True, True, False]
    assert old.read_bytes() == ahead.read_bytes() != b"mine"
    for name in ("round.csv", "null.csv"):
        with pytest.raises(InputError, match=f"{name} is not a file: name another"):
            export_series(store, HEALTH, HOUR, RAW, target(tmp_path / name, force=True), silent)
    assert len(list(tmp_path.iterdir())) == 6


def test_names_are_as_long_as_the_file_system_allows(store: Store, tmp_path: Path) -> None:
    """While it is written a file needs no longer name than its own; what is too long is told under the name that was given."""
    fill(store)
    for name in ("n" * 251 + ".csv", "ü" * 125 + ".csv"):
        assert exported(store, HEALTH, RAW, tmp_path / name).rows == 6
    with pytest.raises(ExportError, match=r"^file [^ ]*/n{252}\.csv cannot be written: file name too long"):
        exported(store, HEALTH, RAW, tmp_path / ("n" * 252 + ".csv"))
    assert len(list(tmp_path.iterdir())) == 2


# ---------------------------------------------------------------- when something goes wrong


def _refusals(store: Store, folder: Path) -> Iterator[tuple[Callable[[], object], type[Exception], str]]:
    taken, locked = folder / "taken.parquet", folder / "nowhere" / "x.parquet"
    taken.write_text("mine")
    unknown = Series(table=Table.HEALTH, entities=("web-2",))
    yield lambda: exported(store, HEALTH, RAW, taken), InputError, "is there already: name another, or .* --force"
    yield lambda: exported(store, HEALTH, RAW, locked), ExportError, "there is no folder .*nowhere: make it"
    yield lambda: exported(store, HEALTH, RAW, taken / "x.csv"), ExportError, "x.csv cannot be written: "
    yield (
        lambda: export_relation(store, "agnets", target(folder / "a.csv"), silent),
        InputError,
        'did you mean "agents"',
    )
    yield lambda: exported(store, unknown, RAW, folder / "b.csv"), UnknownName, 'did you mean "web-1"'
    yield (
        lambda: exported(store, HEALTH, Shape(step=timedelta(seconds=90)), folder / "c.csv"),
        InputError,
        "whole minutes",
    )
    yield (
        lambda: exported(store, HEALTH, Shape(value="max"), folder / "d.csv"),
        InputError,
        "expected none unless the file",
    )


def test_what_is_refused_leaves_no_file(store: Store, tmp_path: Path) -> None:
    """Every refusal names what it is about, and the folder is as it was."""
    fill(store)
    for attempt, kind, said in _refusals(store, tmp_path):
        with pytest.raises(kind, match=said):
            attempt()

    assert [each.name for each in tmp_path.iterdir()] == ["taken.parquet"]
    assert (tmp_path / "taken.parquet").read_text() == "mine"
    export_series(store, HEALTH, HOUR, RAW, target(tmp_path / "taken.parquet", force=True), silent)
    assert len(pd.read_parquet(tmp_path / "taken.parquet")) == 6


def test_what_ends_in_the_middle_leaves_no_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were dropped meanwhile, or an interruption, after the first rows were written: nothing is left."""
    fill(store)
    horizons = store.horizons()
    late = [each if each.tier is not Tier.RAW else _dropped(each) for each in horizons]
    with monkeypatch.context() as patch:
        patch.setattr(store, "horizons", lambda: late)
        with pytest.raises(TransientStorageError, match=r"was dropped up to .* while it was"):
            exported(store, HEALTH, RAW, tmp_path / "x.parquet")

    def interrupt(_rows: int, _share: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_series(store, HEALTH, HOUR, RAW, target(tmp_path / "x.csv"), interrupt)

    assert list(tmp_path.iterdir()) == []


def _dropped(horizon: Any) -> Any:
    return type(horizon)(table=horizon.table, tier=horizon.tier, closed_before=at(60), dropped_before=at(60))


def test_file_that_comes_meanwhile_is_not_replaced(store: Store, tmp_path: Path) -> None:
    """The name is taken last, and only where it is free."""
    fill(store)
    path = tmp_path / "x.csv"

    def somebody_else(_rows: int, _share: float | None) -> None:
        path.write_text("mine")

    with pytest.raises(InputError, match="came to be meanwhile"):
        export_series(store, HEALTH, HOUR, RAW, target(path), somebody_else)

    assert path.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_horizon_is_looked_at(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export below what is kept is refused before there is a file."""
    fill(store)
    kept = dict.fromkeys(Tier, at(60))
    monkeypatch.setattr("reports.exports.series._kept", lambda _reader, _table: kept)

    with pytest.raises(NotRolledUp, match="health_checks is kept from"):
        exported(store, HEALTH, RAW, tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []
