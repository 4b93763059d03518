"""
What reports are asked with: whatever it is, a mistake is told in words, before a database is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from reports.arguments import REACH, insist_window
from reports.definition import UnknownReport, suggestion
from reports.run import run
from reports.windows import zone_name
from storage.database import DatabaseManager
from storage.errors import InputError, InvalidWindow
from storage.model import Window
from storage.store import Store
from tests.batches import NOON

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def nowhere() -> Iterator[Store]:
    """Return a store that no question would be answered by: there is nothing in it, not even tables."""
    with closing(DatabaseManager("sqlite://")) as manager:
        yield manager.store


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"window": "7d"}, r"window is '7d', expected Window\(start, end\)"),
        ({"window": (NOON, NOON)}, r"window is \(datetime.datetime\(2026, .*, expected Window\(start, end\)"),
        ({"filters": ["agent"]}, r"filters are \['agent'\], expected names with their values"),
        ({"filters": "agent"}, "filters are 'agent', expected names"),
        ({"filters": {"agent": None}}, "filter agent is None, expected one name"),
        ({"options": 5}, "options are 5, expected names"),
        ({"options": {"target": Decimal("0.9")}}, "option target is Decimal.*, expected a number"),
        ({"options": {"target": True}}, "option target is True, expected a number"),
        ({"tz": None}, "tz is None, expected a time zone"),
    ],
)
@pytest.mark.parametrize("name", ["error_budget"])
def test_arguments_of_other_types_are_named(nowhere: Store, name: str, asked: dict[str, Any], said: str) -> None:
    """What was found stands beside what was expected."""
    with pytest.raises(InputError, match=said):
        run(nowhere, name, **asked)


def test_window_of_a_report_about_now_is_one_all_the_same(nowhere: Store) -> None:
    """What is ignored is no licence to hand over anything."""
    with pytest.raises(InputError, match="window is 5, expected"):
        run(nowhere, "queue_age", window=5)  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize("store", [None, 5, "sqlite://", DatabaseManager])
def test_what_is_no_store_is_refused(store: Any) -> None:
    """Whatever it is, it is named."""
    with pytest.raises(InputError, match=r"store is .*, expected a Store"):
        run(store, "availability")


def test_whoever_hands_over_a_manager_is_told_where_it_has_its_store() -> None:
    """The likeliest mistake of all."""
    with (
        closing(DatabaseManager("sqlite://")) as manager,
        pytest.raises(InputError, match=r"store is a DatabaseManager, expected a Store: hand over its \.store"),
    ):
        run(manager, "availability")  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize("name", [None, 5, b"x", ["x"], {}, "x" * 5000, "a\0b", pytest.param(10**5000, id="huge")])
def test_what_is_no_name_of_a_report_is_none(nowhere: Store, name: Any) -> None:
    """Told in a line, with those that there are."""
    with pytest.raises(UnknownReport, match=r"^report .{1,90} does not exist: expected availability, "):
        run(nowhere, name)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("error_budget", {"target": 10**400}, "option target is 1000.*, expected 0 to 0.999999$"),
        ("error_budget", {"target": 10**5000}, "option target is .*, expected 0 to 0.999999$"),
        ("error_budget", {"target": 0.9999999}, "option target is 0.9999999, expected"),
        ("error_budget", {"target": float("nan")}, "option target is nan, expected"),
        ("error_budget", {"burn_for_s": np.float64(1e9)}, "option burn_for_s is 1000000000, expected 60 to 31622400$"),
        ("hot_spots", {"limit": 2.5}, "option limit is 2.5, expected a whole number from 1 to 100000$"),
        ("hot_spots", {"limit": float("inf")}, "option limit is inf, expected a whole number"),
    ],
)
def test_options_out_of_range_are_told_to_the_last_digit(
    nowhere: Store, name: str, options: Mapping[str, float], said: str
) -> None:
    """A number that was rounded would look like one that is allowed."""
    with pytest.raises(UnknownReport, match=said):
        run(nowhere, name, options=options)


@pytest.mark.parametrize("start", [None, "a", date(2026, 3, 10), NOON.replace(tzinfo=None), 5, pd.NaT])
def test_windows_are_of_aware_moments(start: Any) -> None:
    """Whatever else stands at an end is named with it."""
    with pytest.raises(InvalidWindow, match=r"^window start .* expected (an aware|aware|the years)"):
        Window(start, NOON)
    with pytest.raises(ValueError, match=r"^window end .* expected (an aware|aware|the years)"):
        Window(NOON, start)


@pytest.mark.parametrize(
    "window",
    [
        Window(datetime(1, 1, 1, tzinfo=UTC), NOON),
        Window(NOON, datetime.max.replace(tzinfo=UTC)),
        Window(NOON, REACH.end + timedelta(microseconds=1)),
    ],
)
def test_windows_beyond_the_years_of_rows_are_refused(nowhere: Store, window: Window) -> None:
    """Widening them would leave the calendar; those that just fit are fine in every zone."""
    with pytest.raises(InvalidWindow, match="expected moments in the years 1970 to 2199"):
        run(nowhere, "availability", window=window)
    insist_window(REACH)


def test_zones_are_those_that_databases_know() -> None:
    """The files of a machine have other names as well."""
    assert zone_name(ZoneInfo("Europe/Berlin")) == "Europe/Berlin"
    with pytest.raises(InputError, match="expected one of the IANA"):
        zone_name(cast(tzinfo, SimpleNamespace(key="posix/Europe/Berlin")))


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("WRITER-1", ["reader", "writer-1"], 'did you mean "writer-1"'),
        ("writer-1", ["Writer-1", "other"], 'did you mean "Writer-1"'),
        ("wirter", ["WRITER"], 'did you mean "WRITER"'),
        ("x", ["reader", "writer"], "expected reader, writer"),
        ("x", [f"agent-{k:02}" for k in range(22)], "agent-18, agent-19 and 2 more"),
        ("x", [], "there is none yet"),
    ],
)
def test_suggestions_look_at_letters_not_at_capitals(name: str, known: list[str], said: str) -> None:
    """Whoever shouts a name has meant it; where there is nothing, nothing can be meant."""
    assert suggestion(name, known).endswith(said)
