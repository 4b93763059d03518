"""
Grafana's dashboards: every statement runs on a database with a fleet in it and answers rows, and the files are sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from rollups.refresh import refresh_all
from storage.model import Window
from storage.open import open_store
from tests import servers
from tests.deploy.dashboards import PATHS, ROOT, Statement, expand, load, panels, statements, unit_of, variables
from tests.deploy.fleet_of_now import BAD, CHECKS, GOOD, SLOW, populate
from tests.servers import Servers

SOURCE = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "fleetpulse.yaml"
#: Schema of the pinned Grafana's dashboards.
SCHEMA_VERSION = 42
#: Kinds of panels that the dashboards use, all of them parts of Grafana.
KINDS = {"stat", "timeseries", "table", "state-timeline"}
#: How far back a window begins, and the tier that it is read from. The data begin three hours ago.
WINDOWS = {"1m": timedelta(hours=4), "1h": timedelta(days=7), "1d": timedelta(days=200)}

#: Panels whose numbers are just numbers.
UNITLESS = {"Agents", "Run queue"}
#: Engines of the PostgreSQL family, which is what Grafana reads; one's own server only where there is one.
ENGINES = ["postgresql", "timescaledb", *(["timescaledb-url"] if not servers.missing("timescaledb-url") else [])]

ALL = [each for path in PATHS for each in statements(path)]
_paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A database with a fleet in it."""

    #: May only read, in a time zone that is not UTC, as a reader's may be.
    connection: psycopg.Connection
    #: The moment at which its past ends.
    now: datetime

    def window(self, tier: str) -> Window:
        """Return the window that is read from *tier*."""
        return Window(self.now - WINDOWS[tier], self.now)

    def ask(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return columns and rows of a statement."""
        cursor = self.connection.execute(sql.encode())
        assert cursor.description is not None
        return [column.name for column in cursor.description], cursor.fetchall()


@pytest.fixture(scope="module", params=ENGINES)
def fleet(request: pytest.FixtureRequest, database_servers: Servers) -> Iterator[Fleet]:
    """Return a fleet whose last check was due within the last minute; what is closed is materialised."""
    if reason := servers.missing(request.param):
        pytest.skip(reason)
    with database_servers.database(request.param) as url:
        store = open_store(url)
        try:
            populate(store, datetime.now(UTC))
            refresh_all(store, datetime.now(UTC))
        finally:
            store.close()
        options = "-c TimeZone=Asia/Kolkata -c default_transaction_read_only=on"
        with psycopg.connect(url, autocommit=True, options=options) as connection:
            # Now is later than what the database itself noted down the time of.
            yield Fleet(connection=connection, now=datetime.now(UTC))


def chosen(fleet: Fleet, dashboard: str, window: Window) -> dict[str, str]:
    """Return what Grafana chooses for the variables of *dashboard*: the agent that is down, of others the first value."""
    path = next(path for path in PATHS if path.stem == dashboard)
    values: dict[str, str] = {}
    for variable in variables(path):
        columns, rows = fleet.ask(expand(variable.sql, window, values))
        assert len(columns) == 1, f"{variable} answers {columns}, expected one column"
        assert rows, f"{variable} answers nothing"
        name = variable.panel["name"]
        values[name] = BAD if name == "agent" else str(rows[0][0])
        assert (values[name],) in rows, f"{variable} has no value {values[name]}"
    return values


# ---------------------------------------------------------------- on a database


def test_statements_answer_rows_from_every_tier(fleet: Fleet) -> None:
    """Whichever tier a window is read from, every panel shows something of a fleet that has something to show."""
    wrong: list[str] = []
    for tier in WINDOWS:
        window = fleet.window(tier)
        values = {path.stem: chosen(fleet, path.stem, window) for path in PATHS}
        assert {dashboard: each["tier"] for dashboard, each in values.items()} == dict.fromkeys(values, tier)
        for statement in ALL:
            try:
                _insist_answer(fleet, statement, window, values[statement.dashboard])
            except (AssertionError, psycopg.Error) as exc:
                wrong.append(f"{statement}, tier {tier}: {exc}")

    assert wrong == []


def _insist_answer(fleet: Fleet, statement: Statement, window: Window, values: dict[str, str]) -> None:
    if statement.dashboard == "agent" and "metric" in statement.title.lower():
        values = values | {"agent": GOOD, "metric": "requests_total"}
    columns, rows = fleet.ask(expand(statement.sql, window, values))
    assert rows, "it has nothing to show"
    _insist_form(statement, columns, rows)
    _insist_units(statement, columns, rows)


def _insist_form(statement: Statement, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Insist on what Grafana makes a series of: a column "time", ascending, and values; one text names the series."""
    if statement.format == "annotation":
        assert columns == ["time", "timeend", "text"]
    if statement.format != "time_series":
        return
    moments = [row[columns.index("time")] for row in rows]
    assert all(isinstance(moment, datetime) for moment in moments), "time is none"
    assert moments == sorted(moments), "time does not ascend"
    texts = {name for row in rows for name, value in zip(columns, row, strict=True) if isinstance(value, str)}
    if statement.panel["type"] == "timeseries":
        assert texts <= {"metric"}, f"{texts} would be taken for labels"
        keys = [tuple(row[columns.index(name)] for name in ("time", *sorted(texts))) for row in rows]
        assert len(keys) == len(set(keys)), "two values of one series at one time"


def _insist_units(statement: Statement, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    if statement.format not in ("time_series", "table"):
        return
    for name, values in zip(columns, zip(*rows, strict=True), strict=True):
        kinds = {type(value) for value in values if value is not None}
        unit = unit_of(statement.panel, name)
        # Grafana's driver takes a numeric for a number too; of a double nobody has to know that.
        assert Decimal not in kinds, f"{name} is numeric, expected a cast to float8"
        if kinds & {int, float} and name != "time":
            assert unit not in (None, "none") or statement.title in UNITLESS, f"{name} has no unit"
        if datetime in kinds and name != "time":
            assert unit == "dateTimeAsIso", f"{name} is a moment, shown as {unit}"


def test_numbers_are_those_of_the_fleet(fleet: Fleet) -> None:
    """What the panels say is what the fleet did: three hours, of which one agent was down for one and a half."""
    window = fleet.window("1m")

    def answer(dashboard: str, title: str, **values: str) -> list[dict[str, Any]]:
        found = next(each for each in ALL if (each.dashboard, each.title) == (dashboard, title))
        columns, rows = fleet.ask(expand(found.sql, window, chosen(fleet, dashboard, window) | values))
        return [dict(zip(columns, row, strict=True)) for row in rows]

    assert answer("fleet", "Agents") == [
        {"healthy": 1, "degraded": 1, "down": 1, "stale": 0, "unknown": 0, "paused": 0}
    ]
    outcomes = answer("fleet", "Slots by outcome")
    assert sum(row["healthy"] for row in outcomes) == CHECKS + (CHECKS - 90 - 1 - 3)
    assert sum(row["timeout"] for row in outcomes) == 90
    assert sum(row["skipped"] for row in outcomes) == 1
    up, down = CHECKS * 2 + 86, 90
    assert answer("fleet", "Availability")[0]["availability"] == pytest.approx(up / (up + down))
    assert [row["agent"] for row in answer("fleet", "Slowest agents")] == [SLOW, BAD, GOOD]
    assert answer("fleet", "Least available agents")[0]["agent"] == BAD
    assert [(row["agent"], row["status"]) for row in answer("fleet", "Agents to look after, now")] == [
        (BAD, "timeout"),
        (SLOW, "degraded"),
    ]
    assert [(row["reason"], row["slots"]) for row in answer("fleet", "Losses")] == [("spool_full", 3)]
    assert [(row["table"], row["rows"]) for row in answer("fleet", "Refused rows")] == [("agent_metrics", 1)]
    assert len(answer("agent", "Incidents")) == 2
    assert [row["agent"] for row in answer("fleet", "Incidents")] == [BAD, BAD]
    # The counter told 30 more every minute.
    rates = answer("agent", "$metric", agent=GOOD, metric="requests_total")
    assert {row["value"] for row in rates} == {0.5}
    told = {row["metric"]: row for row in answer("agent", "Metrics", agent=GOOD)}
    assert told["requests_total"]["counted"] == 30 * CHECKS
    assert told["queue_length"]["max"] == CHECKS - 1
    assert told["queue_length"]["last"] == CHECKS - 1
    assert answer("agent", "Status") == [{"status": "timeout"}]


# ---------------------------------------------------------------- as files


def test_there_are_two() -> None:
    """One dashboard of the fleet, one of an agent."""
    found = {load(path)["uid"]: load(path)["title"] for path in PATHS}

    assert found == {"fleetpulse-agent": "One agent", "fleetpulse-fleet": "Fleet"}


@_paths
def test_panels_are_sound(path: Path) -> None:
    """Panels have numbers of their own, titles, descriptions and units, and do not overlap."""
    dashboard = load(path)
    cells: dict[tuple[int, int], str] = {}
    ids = [panel["id"] for panel in panels(dashboard)]

    assert dashboard["schemaVersion"] == SCHEMA_VERSION
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        title, place = panel["title"], panel["gridPos"]
        assert title
        assert panel["description"]
        assert panel["type"] in KINDS
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, title
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, f"{title} lies over {cells[x, y]}"
                cells[x, y] = title


@_paths
def test_everything_asks_the_provisioned_data_source(path: Path) -> None:
    """Panels, targets, variables and annotations name the data source that is provisioned."""
    source = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))["datasources"][0]
    expected = {"type": source["type"], "uid": source["uid"]}
    dashboard = load(path)

    found = list(_data_sources(dashboard))

    assert found
    assert [each for each in found if each != expected] == []
    asking = [*panels(dashboard), *dashboard["templating"]["list"], *dashboard["annotations"]["list"]]
    assert len(found) == len(asking) + sum(1 for each in asking for _ in _targets(each))


def _targets(asking: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from asking.get("targets", [])
    if "target" in asking:
        yield asking["target"]


def _data_sources(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "datasource":
                yield value
            else:
                yield from _data_sources(value)
    elif isinstance(node, list):
        for value in node:
            yield from _data_sources(value)


@_paths
def test_links_lead_to_dashboards_that_exist(path: Path) -> None:
    """A link to another dashboard names its uid."""
    known = {load(each)["uid"] for each in PATHS}
    found = re.findall(r'"url": "/d/([^/"]+)/', path.read_text(encoding="utf-8"))

    assert found
    assert set(found) <= known


@_paths
def test_variables_are_used(path: Path) -> None:
    """A variable that no statement reads would be asked for nothing."""
    text = " ".join(each.sql for each in [*statements(path), *variables(path)])

    assert [each.panel["name"] for each in variables(path) if f"${{{each.panel['name']}:" not in text] == []


# ---------------------------------------------------------------- the expander


def test_expander_expands_as_grafana_does() -> None:
    """Values are put in first, quoted as they ask for; then macros become literals in UTC."""
    window = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, 0, 0, 0, 500_000, tzinfo=UTC))
    sql = "SELECT ${a:sqlstring} FROM t_${b:raw} WHERE $__timeFilter(c.d) AND $__timeFrom()::timestamptz < $__timeTo()"

    assert expand(sql, window, {"a": "o'x", "b": "1h"}) == (
        "SELECT 'o''x' FROM t_1h WHERE c.d BETWEEN '2026-03-01T00:00:00Z' AND '2026-03-01T00:00:00.500000Z'"
        " AND '2026-03-01T00:00:00Z'::timestamptz < '2026-03-01T00:00:00.500000Z'"
    )


@pytest.mark.parametrize("sql", ["$__timeGroup(ts, 1h)", "$agent", "${agent}", "${agent:csv}", "$__timeFrom(ts)"])
def test_expander_refuses_what_it_does_not_know(sql: str) -> None:
    """A macro that the tests do not know would otherwise be sent as it stands, and never be tested."""
    window = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))

    with pytest.raises(AssertionError):
        expand(sql, window, {"agent": "a"})
