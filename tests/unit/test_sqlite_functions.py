"""
The functions that SQLite is given, against their definitions; the contract tests hold them to the other engines.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import schema
from storage.errors import PermanentStorageError
from storage.lite import functions
from storage.lite.functions import latency_bin, lost_between, slots_between
from storage.open import open_store
from storage.queries import load
from tests.batches import NOON

S = 1_000_000
HOUR_US = 3_600 * S


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Return an empty database that knows the functions."""
    with closing(sqlite3.connect(":memory:")) as found:
        functions.register(found)
        yield found


def answer(connection: sqlite3.Connection, expression: str, values: list[float | None], *parameters: object) -> object:
    """Return *expression* over a table of one column ``v``."""
    connection.execute("CREATE TEMP TABLE given (v)")
    connection.executemany("INSERT INTO given VALUES (?)", [(value,) for value in values])
    (found,) = connection.execute(f"SELECT {expression} FROM given", parameters).fetchone()  # noqa: S608  # own words
    connection.execute("DROP TABLE given")
    return found


# ---------------------------------------------------------------- slots


@given(
    st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.one_of(st.none(), st.integers(0, 10**9)),
    st.sampled_from([100_000_000, 33_333_333, 77_000_001]), st.integers(0, 33_000_000),
)  # fmt: skip
def test_slots_between_is_a_walk_over_the_grid(
    start: int, end: int, from_ts: int, to_ts: int | None, interval_us: int, offset_us: int
) -> None:
    """A slot counts where window and row both hold it; each end of both is open above and closed below."""
    found = slots_between(start, end, from_ts, to_ts, interval_us / S, offset_us / S)

    due = range(offset_us - interval_us, 10**9 + interval_us, interval_us)
    assert found == sum(max(start, from_ts) <= at < min(end, 10**10 if to_ts is None else to_ts) for at in due)


@given(st.integers(1, 10**6), st.integers(0, 10**14), st.lists(st.integers(-(10**12), 2 * 10**14), min_size=2))
def test_lost_between_gives_away_each_slot_once(n: int, span: int, cuts: list[int]) -> None:
    """However long a loss and however it is cut, the parts are what was lost."""
    first = 1_700_000_000 * S
    at = sorted({first - 1, first + span + 1, *(first + min(max(cut, -1), span + 1) for cut in cuts)})

    assert sum(lost_between(a, b, first, first + span, n) or 0 for a, b in pairwise(at)) == n


# ---------------------------------------------------------------- latencies


def test_latency_bin_holds_what_is_at_most_its_upper_bound() -> None:
    """Bins grow by 2 %, hold their upper bounds, and end at 0.1 ms and 120 s."""
    assert [latency_bin(ms) for ms in (None, -1.0, 0, 0.1)] == [None, 0, 0, 0]
    assert [latency_bin(ms) for ms in (0.1000001, 119_999.9, 120_000, 120_000.1, math.inf)] == [1, 707, 707, 708, 708]
    for number in range(1, 707):
        bound = 0.1 * 1.02**number
        assert latency_bin(bound * (1 - 1e-9)) == number
        assert latency_bin(bound * (1 + 1e-9)) == number + 1


def test_latency_quantile_is_within_one_percent_of_the_sample(connection: sqlite3.Connection) -> None:
    """Of any latencies, in one group or merged out of several; faster than 0.1 ms is 0.1, slower than 120 s the maximum."""
    rng = random.Random(4)
    for spread in (0.1, 1.0, 3.0):
        values: list[float | None] = [min(rng.lognormvariate(3, spread), 200_000.0) for _ in range(500)]
        parts = [answer(connection, "latency_bins_of(v)", values[start::5]) for start in range(5)]
        merged = answer(connection, "latency_bins_merge(v)", [*parts, None])  # type: ignore[list-item]  # text of bins

        assert merged == answer(connection, "latency_bins_of(v)", values)
        for q in (0, 0.01, 0.5, 0.95, 0.999, 1):
            sample = answer(connection, "percentile_disc(v, ?)", values, q)
            assert isinstance(sample, float)
            (found,) = connection.execute(
                "SELECT latency_quantile(?, ?, ?)", (merged, q, max(filter(None, values)))
            ).fetchone()
            assert found == (pytest.approx(sample, rel=0.01) if 0.1 < sample <= 120_000 else max(0.1, sample))


def test_latency_bins_are_one_pair_per_bin_ascending(connection: sqlite3.Connection) -> None:
    """Compact JSON without spaces; of no latencies it is NULL, and so is their quantile."""
    bins = answer(connection, "latency_bins_of(v)", [500_000.0, 0.05, 5.0, None, 5.01, 0.1])
    added = answer(connection, "latency_bins_merge(v)", ["[[708,1],[0,2]]", bins, "[]"])  # type: ignore[list-item]

    assert bins == "[[0,2],[198,2],[708,1]]"
    assert added == "[[0,4],[198,2],[708,2]]"
    for nothing in ("latency_bins_of(v)", "latency_bins_merge(v)", "latency_quantile(latency_bins_of(v), 0.5, 1)"):
        assert answer(connection, nothing, [None]) is None
        assert answer(connection, nothing, []) is None


def test_latency_quantile_never_exceeds_the_maximum(connection: sqlite3.Connection) -> None:
    """The middle of a bin may lie above everything that was measured; without a maximum it is answered as it is."""
    rows = [
        connection.execute("SELECT latency_quantile(?, ?, ?)", (json.dumps(bins), q, highest)).fetchone()[0]
        for bins, q, highest in (
            ([[198, 3]], 0.5, 4.95),
            ([[198, 3]], 0.5, None),
            ([[0, 3]], 0.5, 0.02),
            ([[1, 1], [708, 1]], 1, 130_000.0),
        )
    ]

    assert rows == [4.95, pytest.approx(4.995, abs=0.001), 0.02, 130_000.0]


# ---------------------------------------------------------------- percentiles


def test_percentiles_are_those_of_the_standard(connection: sqlite3.Connection) -> None:
    """Interpolated and discrete, NULL left out; of nothing they are NULL."""
    values: list[float | None] = [40, None, 10, 20, 30]
    cont = [answer(connection, "percentile_cont(v, ?)", values, q) for q in (0, 0.25, 0.5, 0.9, 1)]
    disc = [answer(connection, "percentile_disc(v, ?)", values, q) for q in (0, 0.25, 0.26, 0.5, 0.9, 1)]

    assert cont == [10.0, 17.5, 25.0, 37.0, 40.0]
    assert disc == [10, 10, 20, 20, 40, 40]
    assert answer(connection, "percentile_cont(v, 0.5)", []) is None
    assert answer(connection, "percentile_disc(v, NULL)", [1.0]) is None


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("latency_bin('fast')", "latency_bin: ms is 'fast', expected a number (milliseconds)"),
        (
            "slots_between('2026-03-10', 1, 2, 3, 4, 5)",
            "slots_between: window_start is '2026-03-10', expected an integer (microseconds since the Unix epoch)",
        ),
        ("slots_between(1, 2, 1, 2, 0, 0)", "slots_between: interval_s is 0, expected a microsecond or more"),
        ("slots_between(1, 2, 1, 2, 1, 9e999)", "slots_between: offset_s is inf, expected a finite number (seconds)"),
        ("latency_quantile('{}', 0.5, 1)", "latency_quantile: bins is '{}', expected JSON pairs of bin and count: [["),
        ("latency_bins_merge('[[709,1]]')", "latency_bins_merge: bins is '[[709,1]]', expected JSON pairs of bin and"),
        ("percentile_cont(1, 95)", "percentile_cont: q is 95, expected 0 to 1"),
        ("percentile_disc('a', 0.5)", "percentile_disc: value is 'a', expected a number (any unit)"),
    ],
)
def test_functions_say_what_is_wrong_with_their_arguments(
    connection: sqlite3.Connection, expression: str, said: str
) -> None:
    """The driver says that something failed; with what was wrong put in its place, argument, found and expected."""
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute(f"SELECT {expression}").fetchall()  # the test's own words
    functions.explain(caught.value)

    assert str(caught.value).startswith(said)


def test_other_errors_keep_their_words(connection: sqlite3.Connection) -> None:
    """A complaint is told once, and only of the statement that it belongs to."""
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("SELECT latency_bin('fast')").fetchall()
    with pytest.raises(sqlite3.OperationalError) as other:
        connection.execute("SELECT nowhere")
    functions.explain(other.value)
    functions.explain(caught.value)

    assert str(other.value) == "no such column: nowhere"
    assert str(caught.value) == "user-defined function raised exception"


def test_a_query_says_what_is_wrong_with_its_arguments() -> None:
    """What a function complains about reaches whoever asks a store, as an error that trying again cannot cure."""
    with (
        closing(open_store("sqlite://")) as store,
        pytest.raises(PermanentStorageError, match=r"latency_bin: ms is 'fast', expected .* \(SQLSTATE 22023\)"),
    ):
        store.query("SELECT latency_bin('fast')")


# ---------------------------------------------------------------- views


def test_views_read_only_what_is_asked_for() -> None:
    """Conditions on hour and agent reach the indexes of the tables below the views, through all that lies between."""
    with closing(open_store("sqlite://")) as store:
        schema.upgrade(store.engine)
        store.provision()

        def plan(statement: str, **parameters: object) -> list[str]:
            return [str(row[-1]) for row in store.query(f"EXPLAIN QUERY PLAN {statement}", parameters).rows]

        by_hour = plan("SELECT * FROM availability WHERE bucket >= :at", at=NOON)
        by_agent = plan("SELECT * FROM availability WHERE agent_id = 7")
        health = plan("SELECT * FROM fleet_health")
        load_by_minute = plan("SELECT * FROM system_load WHERE bucket >= :at", at=NOON)
        incidents = plan("SELECT * FROM incidents WHERE agent_id = 7")

    assert "SEARCH m USING INDEX health_1h_mat_bucket (bucket>?)" in by_hour
    assert "SEARCH m USING INDEX sqlite_autoindex_health_1h_mat_1 (agent_id=?)" in by_agent
    assert any(step.startswith("SEARCH c USING INDEX health_checks_entity (agent_id=? AND ts>?") for step in health)
    assert "SEARCH m USING INDEX system_metrics_1m_mat_bucket (bucket>?)" in load_by_minute
    assert any("status_events_agent_id_ts_idx (agent_id=?)" in step for step in incidents)


def test_views_are_those_of_the_other_engines() -> None:
    """Each view of the file has a counterpart there; functions are of this module here."""
    own, others = (set(load("storage", f"sql/{engine}/views.sql")) for engine in ("sqlite", "postgresql"))

    assert own == others - {"slots_between", "lost_between", "seconds_between", "local_day"}
