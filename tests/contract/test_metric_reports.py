"""
Reliability, latency, error budget and capacity trend, against numbers worked out by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import bindparam, text

from reports.catalogue import CATALOGUE
from reports.definition import Span, UnknownReport
from reports.run import Report, run
from rollups.refresh import refresh_all
from storage.errors import InputError, NotRolledUp
from storage.model import MetricKey, Outcome, Transition, Window
from storage.models import Moment
from storage.store import Store
from storage.transactions import writing
from tests.batches import NOON, Spool, every
from tests.fleet import add_agent, checks, schedule, write

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
UP, DOWN, PAUSED = Outcome.HEALTHY, Outcome.UNHEALTHY, Outcome.PAUSED
AFTERNOON = Window(NOON, NOON + 3 * HOUR)


def minutes(*spans: tuple[float, float]) -> list[datetime]:
    """Return a moment a minute, from and to minutes after NOON."""
    return [at for start, end in spans for at in every(NOON + start * MINUTE, 60, round(end - start))]


def down(agent: str, start: float, end: float | None) -> list[Transition]:
    """Return what takes *agent* down, and up again, minutes after NOON."""
    steps = [Transition(agent=agent, due=NOON + start * MINUTE, old="healthy", new="timeout")]
    if end is not None:
        steps.append(Transition(agent=agent, due=NOON + end * MINUTE, old="timeout", new="healthy"))
    return steps


def by_name(report: Report) -> dict[object, tuple[object, ...]]:
    """Return the rows of *report* by what stands in their first column, without that."""
    return {row[0]: tuple(row[1:]) for row in report.rows}


def close_below(store: Store, at: datetime, tiers: int) -> None:
    """Say that the *tiers* finest tiers of every table are kept from *at* on."""
    moved = text("UPDATE horizons SET closed_before = :at, dropped_before = :at WHERE tier < :tiers")
    with writing(store.engine).begin() as connection:
        connection.execute(moved.bindparams(bindparam("at", at, type_=Moment), tiers=tiers))


# ---------------------------------------------------------------- reliability


def test_reliability_cuts_downtime_at_the_window_and_counts_only_time_that_was_seen(store: Store) -> None:
    """
    12:00 to 15:00, a slot a minute; down 11:50 to 12:10, 13:00 to 13:05 and from 14:50 on.

    Failures: the second and the third. Downtime: 600 + 300 + 600 s. To repair: (1200 + 300) / 2 of those that ended.
    Seen up: 50 minutes until 13:00, 25 until the pause at 13:30, 20 after it (13:40) until nobody looks (14:00), 40
    from 14:10 until 14:50: 135 minutes, 8100 s, of which half lies before each failure.
    """
    add_agent(store, "a")
    schedule(store, "a", NOON - HOUR, NOON + 90 * MINUTE)
    schedule(store, "a", NOON + 90 * MINUTE, NOON + 100 * MINUTE, state="paused")
    schedule(store, "a", NOON + 100 * MINUTE, None)
    seen = minutes((-60, -10), (10, 60), (65, 90), (100, 120), (130, 170))
    write(
        store,
        Spool().batch(
            checks=[
                *checks("a", seen, UP),
                *checks("a", minutes((-10, 10), (60, 65), (170, 240)), DOWN),
                *checks("a", minutes((90, 100)), PAUSED),
            ],
            transitions=[*down("a", -10, 10), *down("a", 60, 65), *down("a", 170, None)],
        ),
    )
    report = run(store, "reliability", window=AFTERNOON)
    refresh_all(store, NOON + 2 * DAY)

    assert report.rows == [("a", "worker", 2, 8100.0, 1500.0, 750.0, 4050.0, 600.0, True)]
    assert run(store, "reliability", window=AFTERNOON).rows == report.rows


def test_reliability_of_adjoining_windows_counts_each_failure_and_each_repair_once(store: Store) -> None:
    """Down 12:40 to 13:00, cut at 13:00: a failure of 1200 s in the first hour, its repair in the second."""
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + 2 * HOUR)
    write(store, Spool().batch(checks=checks("a", minutes((0, 40), (60, 120)), UP), transitions=down("a", 40, 60)))
    first = run(store, "reliability", window=Window(NOON, NOON + HOUR)).rows
    second = run(store, "reliability", window=Window(NOON + HOUR, NOON + 2 * HOUR)).rows

    assert first == [("a", "worker", 1, 2400.0, 1200.0, None, 2400.0, 1200.0, True)]
    assert second == [("a", "worker", 0, 3600.0, 0.0, 1200.0, None, 0.0, False)]


def test_reliability_slots_stand_for_the_mean_interval(store: Store) -> None:
    """Every minute until 12:30, every ten seconds from then on: 30 + 180 slots of 3600 s; all seen, 3600 s of uptime."""
    add_agent(store, "a", type="llm")
    schedule(store, "a", NOON, NOON + 30 * MINUTE)
    schedule(store, "a", NOON + 30 * MINUTE, NOON + HOUR, interval_s=10)
    add_agent(store, "never")
    add_agent(store, "unseen")
    schedule(store, "unseen", NOON, NOON + HOUR)
    write(store, Spool().batch(checks=checks("a", [*minutes((0, 30)), *every(NOON + 30 * MINUTE, 10, 180)], UP)))
    found = by_name(run(store, "reliability", window=Window(NOON, NOON + HOUR)))

    assert found["a"] == ("llm", 0, pytest.approx(3600), 0.0, None, None, None, False)
    assert found["unseen"] == ("worker", 0, 0.0, 0.0, None, None, None, False)
    assert set(found) == {"a", "unseen"}
    only = run(store, "reliability", window=Window(NOON, NOON + HOUR), filters={"type": "llm"})
    assert set(by_name(only)) == {"a"}


def test_open_incident_goes_on_until_now_and_no_further(store: Store) -> None:
    """
    Down for ten minutes: 600 s of the two hours around now, and nothing of an hour that has yet to come, nor of one before.

    One that began by a clock that is ahead of the server's has not lasted yet.
    """
    now = datetime.now(UTC)
    for name in ("a", "ahead"):
        add_agent(store, name)
        schedule(store, name, now - 20 * MINUTE, None)
    started = {"a": now - 10 * MINUTE, "ahead": now + 3 * MINUTE}
    changes = [Transition(agent=name, due=at, old="healthy", new="timeout") for name, at in started.items()]
    write(store, Spool().batch(transitions=changes))
    around = Window(now - HOUR, now + HOUR)
    ahead = Window(now + 30 * MINUTE, now + HOUR)
    found = by_name(run(store, "reliability", window=around))

    assert found["a"] == ("worker", 1, 0.0, pytest.approx(600, abs=60), None, 0.0, pytest.approx(600, abs=60), True)
    assert found["ahead"] == ("worker", 1, 0.0, 0.0, None, 0.0, 0.0, True)
    assert [row[0] for row in run(store, "incidents", window=around).rows] == ["ahead", "a"]
    for window in (ahead, Window(now - HOUR, now - 15 * MINUTE)):
        assert run(store, "incidents", window=window).rows == []
        assert all(row[4] == 0 and row[8] is False for row in run(store, "reliability", window=window).rows)
    assert run(store, "reliability", window=ahead).rows == []


# ---------------------------------------------------------------- latency


def test_latency_percentiles_are_those_of_the_polls_within_one_percent(store: Store) -> None:
    """
    1 to 100 ms, one a minute from 12:00 on: the q-th percentile is q ms, the mean 50.5; an hour and minutes of one poll.

    From 12:10 to 12:20 the polls took 11 to 20 ms: their median is the fifth, 15, their mean 15.5.
    """
    add_agent(store, "a")
    add_agent(store, "fast", type="llm")
    add_agent(store, "mute")
    polls = [("a", at, UP, float(k + 1)) for k, at in enumerate(minutes((0, 100)))]
    silent = checks("mute", minutes((0, 10)), DOWN)
    write(store, Spool().batch(checks=[*polls, *silent, ("fast", NOON, UP, 0.05)]))
    report = run(store, "latency", window=Window(NOON, NOON + 100 * MINUTE))
    near = [pytest.approx(q, rel=0.01) for q in (50, 90, 95, 99)]
    part = run(store, "latency", window=Window(NOON + 10.5 * MINUTE, NOON + 20 * MINUTE), filters={"agent": "a"})

    assert report.rows == [
        ("a", "worker", 100, *near, 100.0, 50.5),
        ("fast", "llm", 1, *[pytest.approx(0.05)] * 6),
    ]
    assert part.window == Window(NOON + 10 * MINUTE, NOON + 20 * MINUTE)
    assert part.rows[0][2] == 10
    assert part.rows[0][3] == pytest.approx(15, rel=0.01)
    assert part.rows[0][7:] == (20.0, 15.5)


def test_latency_of_days_hours_and_minutes_add_up(store: Store) -> None:
    """10 ms at 23:59, 20 to 50 on the day after, 60 at 00:30: six polls, mean 35, whatever tier holds them."""
    midnight = NOON.replace(hour=0) + DAY
    spool = Spool()
    add_agent(store, "a")
    for at, ms in (
        (midnight - MINUTE, 10.0),
        *((midnight + k * 5 * HOUR, 20.0 + 10 * k) for k in range(4)),
        (midnight + DAY + 30 * MINUTE, 60.0),
    ):
        write(store, spool.batch(checks=[("a", at, UP, ms)]))
    window = Window(midnight - 30 * MINUTE, midnight + DAY + 31 * MINUTE)
    before = run(store, "latency", window=window).rows
    refresh_all(store, midnight + 3 * DAY)

    assert before == [("a", "worker", 6, *(pytest.approx(q, rel=0.01) for q in (30, 60, 60, 60)), 60.0, 35.0)]
    assert run(store, "latency", window=window).rows == before


# ---------------------------------------------------------------- error_budget


def budgets(store: Store) -> None:
    """Make an agent that was up for 170 of 180 slots of the afternoon, and down for 5 of its last hour."""
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + 3 * HOUR)
    bad = minutes((30, 35), (150, 155))
    write(
        store,
        Spool().batch(
            checks=[*checks("a", [at for at in minutes((0, 180)) if at not in bad], UP), *checks("a", bad, DOWN)]
        ),
    )


@pytest.mark.parametrize(
    ("target", "allowed", "exhausted"),
    [
        # 180 slots, 10 down: a tenth of them may be, a twentieth, an eighteenth (exactly what was used).
        (0.9, 18, False),
        (0.95, 9, True),
        (17 / 18, 10, True),
    ],
)
def test_error_budget_is_what_the_target_allows(store: Store, target: float, allowed: float, exhausted: bool) -> None:
    """Used is 10 slots of those allowed; the last hour was down for 5 of 60, which is so many times the allowed share."""
    budgets(store)
    report = run(store, "error_budget", window=AFTERNOON, options={"target": target})
    counted = run(store, "availability", window=AFTERNOON)

    assert report.rows == [
        (
            *("a", "worker", 170, 10, pytest.approx(170 / 180), target, pytest.approx(allowed)),
            *(
                pytest.approx(10 / allowed),
                pytest.approx(allowed - 10),
                pytest.approx(5 / 60 / (1 - target)),
                exhausted,
            ),
        )
    ]
    assert report.rows[0][2:4] == counted.rows[0][3:5]
    assert report.rows[0][4] == counted.rows[0][9]


def test_error_budget_burns_by_the_end_of_the_window(store: Store) -> None:
    """Of the last half hour none was down, of the last 100 minutes 5, of the last 10 hours (the window) 10 of 180."""
    budgets(store)
    found = [
        run(store, "error_budget", window=AFTERNOON, options={"target": 0.9, "burn_for_s": seconds}).rows[0][9]
        for seconds in (1500, 6000, 36_000)
    ]
    close_below(store, NOON + DAY, 2)
    late = run(store, "error_budget", window=Window(NOON, NOON + 170 * MINUTE), options={"target": 0.9})

    assert found == [0, pytest.approx(5 / 100 / 0.1), pytest.approx(10 / 180 / 0.1)]
    # Minutes are gone: what is asked for until 14:50 is answered until 15:00, and so is the last hour of it.
    assert late.window == AFTERNOON
    assert late.rows[0][9] == pytest.approx(5 / 60 / 0.1)


def test_error_budget_of_a_window_that_goes_on_burns_by_the_hour_until_now(store: Store) -> None:
    """Of the last hour one of four was down, of what came before both: a quarter is 2.5 times the tenth that may be."""
    now = datetime.now(UTC)
    add_agent(store, "a")
    spool = Spool()
    for ago, outcome in ((100, DOWN), (90, DOWN), (40, UP), (30, UP), (20, UP), (10, DOWN)):
        write(store, spool.batch(checks=checks("a", [now - ago * MINUTE], outcome)))
    month = Window(now - DAY, now + 29 * DAY)
    (row,) = run(store, "error_budget", window=month, options={"target": 0.9}).rows

    assert row[2:5] == (3, 3, 0.5)
    assert row[9] == pytest.approx(2.5)
    assert run(store, "error_budget", window=Window(now + DAY, now + 2 * DAY)).rows == []


# ---------------------------------------------------------------- capacity_trend


def disks(store: Store, samples: Sequence[tuple[str, str, datetime, float]]) -> None:
    """Write samples of hosts (host, mount point, moment, value), one batch for each UTC day."""
    spool = Spool()
    for day in sorted({at.date() for _, _, at, _ in samples}):
        batch = spool.batch(system=[each for each in samples if each[2].date() == day])
        keys = tuple(
            MetricKey(name="filesystem_used_percent", labels=(("mountpoint", key.name),), unit="%")
            for key in batch.metrics
        )
        write(store, replace(batch, metrics=keys))


def test_capacity_trend_is_a_line_through_daily_means(store: Store) -> None:
    """
    Four days from 10 March on, or three.

    / has means of 50 (40 and 60), 52, 54, 56: 2 a day, 100 is (100 - 56) / 2 = 22 days after the 13th.
    /b 10, 20, 15: mean 15, slope (5 + 0) / 2 = 2.5, r2 = 5² / (2 · 50); the line reaches 100 85 / 2.5 = 34 days after
    the 11th, 33 after the last. /c falls, /d stays, /e is full already, /f has a day only, /g needs 4 million days.
    """
    values = {
        "/": (50, 52, 54, 56),
        "/b": (10, 20, 15),
        "/c": (50, 40),
        "/d": (7, 7, 7),
        "/e": (99, 100),
        "/f": (1,),
        "/g": (1, 1.000025),
    }
    disks(
        store,
        [
            *(("h", mount, NOON + k * DAY, float(v)) for mount, row in values.items() for k, v in enumerate(row)),
            ("h", "/", NOON, 40.0),
            ("h", "/", NOON, 60.0),
            ("other", "/", NOON, 5.0),
        ],
    )
    window = Window(NOON, NOON + 3 * DAY + HOUR)
    report = run(store, "capacity_trend", window=window, filters={"host": "h"})
    found = {row[2]: row[4:] for row in report.rows}

    assert report.window == Window(NOON.replace(hour=0), NOON.replace(hour=0) + 4 * DAY)
    assert {row[:2] + row[3:4] for row in report.rows} == {("h", "filesystem_used_percent", "%")}
    assert found == {
        "mountpoint=/": (4, 50, 56, pytest.approx(2), pytest.approx(1), pytest.approx(22), date(2026, 4, 4)),
        "mountpoint=/b": (3, 10, 15, pytest.approx(2.5), pytest.approx(0.25), pytest.approx(33), date(2026, 4, 14)),
        "mountpoint=/c": (2, 50, 40, pytest.approx(-10), pytest.approx(1), None, None),
        "mountpoint=/d": (3, 7, 7, 0, None, None, None),
        "mountpoint=/e": (2, 99, 100, pytest.approx(1), pytest.approx(1), 0, date(2026, 3, 11)),
        "mountpoint=/f": (1, 1, 1, None, None, None, None),
        "mountpoint=/g": (2, 1, 1.000025, pytest.approx(0.000025), pytest.approx(1), None, None),
    }
    at_60 = run(store, "capacity_trend", window=window, filters={"host": "h"}, options={"full_at": 60})
    assert [row[9:] for row in at_60.rows if row[2] == "mountpoint=/"] == [(pytest.approx(2), date(2026, 3, 15))]
    assert len(run(store, "capacity_trend", window=window).rows) == 8


def test_capacity_trend_counts_days_of_the_time_zone(store: Store) -> None:
    """
    Samples of 10, 20 and 30 % at 18:10, 18:20 and 23:30 UTC: of one day in London, of two elsewhere.

    In Berlin (an hour ahead) the last one is of the day after, in Kathmandu (5:45 ahead) the last two; before and after
    the rollups are refreshed.
    """
    evening = NOON.replace(hour=18, minute=10)
    times = (evening, evening + 10 * MINUTE, NOON.replace(hour=23, minute=30))
    disks(store, [("h", "/", at, 10.0 * (k + 1)) for k, at in enumerate(times)])
    window = Window(evening, NOON + 12 * HOUR)
    wanted = {
        "UTC": (1, 20, 20, None),
        "Europe/London": (1, 20, 20, None),
        "Europe/Berlin": (2, 15, 30, pytest.approx(15)),
        "Asia/Kathmandu": (2, 10, 25, pytest.approx(15)),
    }

    for _ in range(2):
        for zone, expected in wanted.items():
            report = run(store, "capacity_trend", window=window, tz=ZoneInfo(zone))
            assert [row[4:8] for row in report.rows] == [expected], zone
        refresh_all(store, NOON + 5 * DAY)
    with pytest.raises(InputError, match="time zone is UTC-03:00, expected one of the IANA"):
        run(store, "capacity_trend", window=window, tz=datetime.fromisoformat("2026-01-01T00:00-03:00").tzinfo or UTC)


def test_capacity_trend_lists_series_as_their_labels_read(store: Store) -> None:
    """By host and by what is told of their labels, not by how the database writes them."""
    disks(store, [("h", mount, NOON, 5.0) for mount in ("/b", "/a b", "/a", "/B")])
    report = run(store, "capacity_trend", window=Window(NOON, NOON + DAY))

    assert [row[2] for row in report.rows] == [f"mountpoint={mount}" for mount in ("/B", "/a", "/a b", "/b")]


def test_capacity_trend_of_a_metric_is_any_gauge_of_that_name(store: Store) -> None:
    """load1 is none of those that it tells unasked; asked for, it is told, and full at what is said."""
    spool = Spool()
    for k in range(3):
        write(
            store,
            spool.batch(system=[("h", "load1", NOON + k * DAY, 1.0 + k), ("h", "cpu_percent", NOON, 3.0)][: 2 - k]),
        )
    window = Window(NOON, NOON + 3 * DAY)
    load = run(store, "capacity_trend", window=window, filters={"metric": "load1"}, options={"full_at": 8})

    assert [row[1] for row in run(store, "capacity_trend", window=window).rows] == ["cpu_percent"]
    assert [(row[0], row[1], row[2], *row[4:8]) for row in load.rows] == [("h", "load1", "", 2, 1, 2, pytest.approx(1))]


def test_local_day_is_that_of_the_calendar(store: Store) -> None:
    """Before and behind the two nights in which Berlin changes its clocks, on leap days, and where UTC has another date."""
    for zone in ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/Havana", "Pacific/Kiritimati"):
        for at in (
            datetime(2026, 3, 28, 22, 59, 59, tzinfo=UTC),
            datetime(2026, 3, 28, 23, tzinfo=UTC),
            datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
            datetime(2026, 10, 25, 22, 59, tzinfo=UTC),
            datetime(2026, 11, 1, 4, 30, tzinfo=UTC),
            datetime(2024, 2, 29, 23, 59, tzinfo=UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
        ):
            (found,) = store.query("SELECT local_day(:at, :zone)", {"at": at, "zone": zone}).rows[0]

            assert found == (at.astimezone(ZoneInfo(zone)).date() - date(1970, 1, 1)).days, (zone, at)


def test_seconds_between_is_exact(store: Store) -> None:
    """To the microsecond, over days too, and negative backwards."""
    later = NOON + timedelta(days=40, seconds=7, microseconds=1)
    asked = "SELECT seconds_between(:a, :b), seconds_between(:b, :a)"

    assert store.query(asked, {"a": NOON, "b": later}).rows == [(3_456_007.000001, -3_456_007.000001)]


# ---------------------------------------------------------------- what cannot be asked


@pytest.mark.parametrize("name", [name for name, each in CATALOGUE.items() if each.span not in (Span.NOW, Span.EXACT)])
def test_windows_below_what_is_kept_are_refused(store: Store, name: str) -> None:
    """A window that lies below the hours ends in an error that says from when on they are kept, not in no rows."""
    close_below(store, NOON, 4)

    with pytest.raises(
        NotRolledUp, match=r"window ends at .*, (days|hours) are kept from 2026-03-10T12:00:00\+00:00 on"
    ):
        run(store, name, window=Window(NOON - 3 * DAY, NOON - 2 * DAY))
    if CATALOGUE[name].span is not Span.DAYS:
        with pytest.raises(NotRolledUp, match="window ends at 2026-03-10T12:00:00"):
            run(store, name, window=Window(NOON - 3 * DAY, NOON))


def test_options_that_make_no_sense_are_refused(store: Store) -> None:
    """An option of another report, and one out of its range, are named with what is expected."""
    with pytest.raises(UnknownReport, match='report latency has no option "target": expected none'):
        run(store, "latency", window=AFTERNOON, options={"target": 0.9})
    with pytest.raises(UnknownReport, match=r"report error_budget option target is 1, expected 0 to 0\.999999"):
        run(store, "error_budget", window=AFTERNOON, options={"target": 1})
