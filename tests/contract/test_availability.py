"""
What became of the slots of each agent, as view and as report, against numbers worked out by hand.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

from sqlalchemy import bindparam, text, update

from reports.run import Report, run
from rollups.refresh import refresh_all
from storage.model import Loss, Outcome, Window, to_us
from storage.models import CollectorSession, Moment
from storage.store import Store
from storage.transactions import writing
from tests.batches import NOON, SESSION, Spool, every
from tests.fleet import add_agent, checks, schedule, write

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
UP, TIMEOUT, DOWN = Outcome.HEALTHY, Outcome.TIMEOUT, Outcome.UNHEALTHY
AFTERNOON = Window(NOON, NOON + 3 * HOUR)
CONDITIONS = (
    "SELECT bucket, agent_id, agent, type, expected, up, down, unobserved, lost, paused, availability, coverage"
    " FROM availability WHERE {} ORDER BY bucket, agent"
)


def hours(store: Store, agent: str) -> list[tuple[object, ...]]:
    """Return (hour, expected, up, down, unobserved, skipped, lost, paused) of the view, hours after NOON."""
    rows = store.query(
        "SELECT bucket, expected, up, down, unobserved, skipped, lost, paused FROM availability"
        " WHERE agent = :agent ORDER BY bucket",
        {"agent": agent},
        types={"bucket": datetime},
    ).rows
    return [((row[0] - NOON) // HOUR, *row[1:]) for row in rows]  # type: ignore[operator]  # the first one is a moment


def totals(report: Report) -> dict[str, tuple[object, ...]]:
    """Return agent to (expected, up, down, unobserved, skipped, lost, paused)."""
    return {str(row[0]): tuple(row[2:9]) for row in report.rows}


def test_availability_planned_maintenance_is_paused_and_never_down(store: Store) -> None:
    """An hour of pause between two healthy ones: 60 slots each, none expected, none down and none missing in it."""
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + HOUR, offset_s=30)
    schedule(store, "a", NOON + HOUR, NOON + 2 * HOUR, offset_s=30, state="paused")
    schedule(store, "a", NOON + 2 * HOUR, NOON + 3 * HOUR, offset_s=30)
    due = every(NOON + timedelta(seconds=30), 60, 180)
    write(
        store,
        Spool().batch(
            checks=checks("a", due[:60], UP) + checks("a", due[60:120], Outcome.PAUSED) + checks("a", due[120:], UP)
        ),
    )

    assert hours(store, "a") == [
        (0, 60, 60, 0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0, 0, 0, 60),
        (2, 60, 60, 0, 0, 0, 0, 0),
    ]
    assert totals(run(store, "availability", window=AFTERNOON)) == {"a": (120, 120, 0, 0, 0, 0, 60)}


def test_availability_pause_is_known_to_collector_a_moment_later(store: Store) -> None:
    """
    The schedule pauses from 12:30 to 13:00, the collector from 12:32 to 13:06; no slot is counted twice.

    12 o'clock: 30 slots active, 30 paused, 32 polled. 13 o'clock: 60 slots active, 6 of them ended as paused.
    """
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + 30 * MINUTE)
    schedule(store, "a", NOON + 30 * MINUTE, NOON + HOUR, state="paused")
    schedule(store, "a", NOON + HOUR, NOON + 2 * HOUR)
    due = every(NOON, 60, 120)
    write(
        store,
        Spool().batch(
            checks=checks("a", due[:32], UP) + checks("a", due[32:66], Outcome.PAUSED) + checks("a", due[66:], UP)
        ),
    )

    assert hours(store, "a") == [(0, 30, 32, 0, 0, 0, 0, 30), (1, 54, 54, 0, 0, 0, 0, 6)]


def test_availability_pause_without_collector_is_paused_not_unobserved(store: Store) -> None:
    """Nobody looks during planned maintenance, and nobody has to: its 60 slots are paused."""
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + HOUR, state="paused")

    assert hours(store, "a") == [(0, 0, 0, 0, 0, 0, 0, 60)]
    part = Window(NOON + 10 * MINUTE, NOON + 40 * MINUTE)
    assert totals(run(store, "availability", window=part)) == {"a": (0, 0, 0, 0, 0, 0, 30)}


def test_availability_collector_outage_is_unobserved_and_says_nothing_of_the_agent(store: Store) -> None:
    """20 polls, half an hour without a collector, 10 polls: 30 of 60 slots unobserved, availability 1, coverage 0.5."""
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + HOUR)
    due = every(NOON, 60, 60)
    write(store, Spool().batch(checks=checks("a", due[:20], UP) + checks("a", due[50:], UP)))
    report = run(store, "availability", window=Window(NOON, NOON + HOUR))

    assert hours(store, "a") == [(0, 60, 30, 0, 30, 0, 0, 0)]
    assert report.rows == [("a", "worker", 60, 30, 0, 30, 0, 0, 0, 1.0, 0.5)]


def test_availability_skipped_and_lost_slots_are_unobserved(store: Store) -> None:
    """
    A loss of four slots from 12:58 to 13:01 counts two in each hour.

    12 o'clock: 45 up, 5 timeouts, 8 skipped, 2 lost of 60. 13 o'clock: 2 lost, 58 down.
    """
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + 2 * HOUR)
    due = every(NOON, 60, 120)
    write(
        store,
        Spool().batch(
            checks=[
                *checks("a", due[:45], UP),
                *checks("a", due[45:50], TIMEOUT),
                *checks("a", due[50:58], Outcome.SKIPPED),
                *checks("a", due[62:], DOWN),
            ],
            losses=[Loss(agent="a", from_due=due[58], to_due=due[61], n=4, reason="spool_full")],
        ),
    )
    report = run(store, "availability", window=Window(NOON, NOON + 2 * HOUR))

    assert hours(store, "a") == [(0, 60, 45, 5, 10, 8, 2, 0), (1, 60, 0, 58, 2, 0, 2, 0)]
    assert report.rows == [("a", "worker", 120, 45, 63, 12, 8, 4, 0, 45 / 108, 108 / 120)]


def test_availability_follows_a_change_of_interval_within_the_hour(store: Store) -> None:
    """Every minute until 12:30, every ten seconds from then on: 30 + 180 slots; agents without slots are left out."""
    add_agent(store, "a")
    add_agent(store, "idle")
    schedule(store, "a", NOON, NOON + 30 * MINUTE)
    schedule(store, "a", NOON + 30 * MINUTE, NOON + HOUR, interval_s=10)
    due = [*every(NOON, 60, 30), *every(NOON + 30 * MINUTE, 10, 180)]
    write(store, Spool().batch(checks=checks("a", due[:-10], UP)))
    report = run(store, "availability", window=Window(NOON, NOON + HOUR))

    assert hours(store, "a") == [(0, 210, 200, 0, 10, 0, 0, 0)]
    assert report.rows == [("a", "worker", 210, 200, 0, 10, 0, 0, 0, 1.0, 200 / 210)]


def test_availability_report_counts_minutes_at_both_ends(store: Store) -> None:
    """
    12:10:30 to 14:19:01 is answered for 12:10 to 14:20, before and after the rollups are refreshed.

    A slot a minute: 50 + 60 + 20 = 130; down from 13:50 until 14:10: 20; lost 12:20 to 12:29: 10, of which a window
    that begins at 12:25 sees 5.
    """
    add_agent(store, "a")
    schedule(store, "a", NOON - HOUR, NOON + 4 * HOUR)
    due = every(NOON - HOUR, 60, 300)
    lost = due[80:90]
    down = due[170:190]
    write(
        store,
        Spool().batch(
            checks=[*checks("a", [d for d in due if d not in (*lost, *down)], UP), *checks("a", down, DOWN)],
            losses=[Loss(agent="a", from_due=lost[0], to_due=lost[-1], n=10, reason="spool_age")],
        ),
    )
    asked = Window(NOON + timedelta(minutes=10, seconds=30), NOON + timedelta(hours=2, minutes=19, seconds=1))
    before = run(store, "availability", window=asked)
    refresh_all(store, NOON + timedelta(days=2))

    assert before.window == Window(NOON + 10 * MINUTE, NOON + 2 * HOUR + 20 * MINUTE)
    assert totals(before) == {"a": (130, 100, 20, 10, 0, 10, 0)}
    assert totals(run(store, "availability", window=asked)) == totals(before)
    later = Window(NOON + 25 * MINUTE, NOON + 40 * MINUTE)
    assert totals(run(store, "availability", window=later)) == {"a": (15, 10, 0, 5, 0, 5, 0)}


def test_availability_report_of_any_window_is_the_sum_of_its_minutes(store: Store) -> None:
    """Splitting a window anywhere changes no total: each slot is counted in exactly one of the parts."""
    rng = random.Random(1)
    add_agent(store, "a")
    schedule(store, "a", NOON + timedelta(seconds=7.3), NOON + 95 * MINUTE, interval_s=7, offset_s=3.3)
    schedule(store, "a", NOON + 95 * MINUTE, NOON + 4 * HOUR, interval_s=0.7, offset_s=0.1)
    due = [at for at in every(NOON + timedelta(seconds=7.3), 7, 800) if at < NOON + 95 * MINUTE]
    write(store, Spool().batch(checks=[(*each[:2], rng.choice((UP, DOWN)), None) for each in checks("a", due, UP)]))
    whole = totals(run(store, "availability", window=Window(NOON, NOON + 4 * HOUR)))["a"]
    for _ in range(10):
        cuts = sorted({0, 240, *(rng.randrange(240) for _ in range(3))})
        parts = [
            totals(run(store, "availability", window=Window(NOON + a * MINUTE, NOON + b * MINUTE))).get("a", (0,) * 7)
            for a, b in pairwise(cuts)
        ]

        assert tuple(sum(column) for column in zip(*parts, strict=True)) == whole
    assert whole[1] + whole[2] == len(due)  # type: ignore[operator]  # numbers


def test_availability_of_a_live_collector_waits_for_slots_on_their_way(store: Store) -> None:
    """Slots after the collector's word are not expected while it is live, and unobserved once it is not."""
    now = datetime.now(UTC)
    start = now - 10 * MINUTE
    add_agent(store, "a", interval_s=1)
    schedule(store, "a", start, None, interval_s=1)
    first = start.replace(microsecond=0) + timedelta(seconds=1)
    due = every(first, 1, 300)
    batch = Spool().batch(checks=[each for each in checks("a", due, UP) if each[1].date() == now.date()])
    n = len(batch.checks)
    store.write(replace(batch, observed_to_us=to_us(first + timedelta(seconds=300))))
    window = Window(start - HOUR, now + HOUR)
    live = totals(run(store, "availability", window=window))["a"]
    with writing(store.engine).begin() as connection:
        connection.execute(update(CollectorSession).values(ended_at=datetime.now(UTC)))
    ended = totals(run(store, "availability", window=window))["a"]

    assert live[0] == 300
    assert live[1:4] == (n, 0, 300 - n)
    assert ended[0] >= 599  # type: ignore[operator]  # a number
    assert ended[3] == ended[0] - n  # type: ignore[operator]  # numbers


def test_availability_below_the_hours_horizon_is_cut_off(store: Store) -> None:
    """What is no longer kept is not reported as unobserved; the effective window says so."""
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + 3 * HOUR)
    write(store, Spool().batch(checks=checks("a", every(NOON + 2 * HOUR, 60, 60), UP)))
    moved = text("UPDATE horizons SET closed_before = :at, dropped_before = :at WHERE tbl = 1 AND tier < 3")
    with writing(store.engine).begin() as connection:
        connection.execute(moved.bindparams(bindparam("at", NOON + 2 * HOUR, type_=Moment)))
    report = run(store, "availability", window=Window(NOON + 5 * MINUTE, NOON + 4 * HOUR))

    assert hours(store, "a") == [(2, 60, 60, 0, 0, 0, 0, 0)]
    assert report.window == Window(NOON + 2 * HOUR, NOON + 4 * HOUR)
    assert totals(report) == {"a": (60, 60, 0, 0, 0, 0, 0)}


def test_availability_view_has_no_ratio_of_nothing(store: Store) -> None:
    """An hour that is paused has no availability and no coverage, one without a collector no availability and none of it."""
    add_agent(store, "a")
    schedule(store, "a", NOON, NOON + HOUR, state="paused")
    schedule(store, "a", NOON + HOUR, NOON + 3 * HOUR)
    write(store, Spool().batch(checks=checks("a", every(NOON + 2 * HOUR, 60, 30), UP)))
    rows = store.query("SELECT expected, availability, coverage FROM availability ORDER BY bucket").rows

    assert rows == [(0, None, None), (60, None, 0.0), (60, 1.0, 0.5)]


def test_availability_conditions_leave_out_rows_and_change_none(store: Store) -> None:
    """Whatever a reader asks the view for by hour, agent or type, it answers those of its rows, checks without slots too."""
    spool = Spool()
    agents = {"a": "worker", "b": "llm", "c": "worker"}
    for name, kind in agents.items():
        add_agent(store, name, type=kind)
        if name != "c":
            schedule(store, name, NOON, NOON + 5 * HOUR)
    due = every(NOON, 60, 300)
    write(
        store,
        spool.batch(
            checks=[*checks("a", due[:200], UP), *checks("b", due[90:], DOWN), *checks("c", due[:60], UP)],
            losses=[
                Loss(agent="a", from_due=due[200], to_due=due[269], n=70, reason="spool_full"),
                Loss(agent="c", from_due=due[170], to_due=due[189], n=20, reason="spool_full"),
            ],
        ),
    )
    refresh_all(store, NOON + 3 * HOUR + MINUTE)
    ids = {str(name): key for name, key in store.query("SELECT name, id FROM agents").rows}

    def asked(condition: str, **parameters: object) -> list[tuple[object, ...]]:
        return list(store.query(CONDITIONS.format(condition), parameters, types={"bucket": datetime}).rows)

    whole = asked("1 = 1")
    at = NOON + 2 * HOUR

    assert len(whole) == 5 + 5 + 3
    assert [row[0] for row in whole if row[2] == "c"] == [NOON, NOON + 2 * HOUR, NOON + 3 * HOUR]
    assert asked("bucket >= :at", at=at) == [row for row in whole if row[0] >= at]  # type: ignore[operator]  # a moment
    assert asked("bucket = :at AND type = 'worker'", at=at) == [r for r in whole if r[0] == at and r[3] == "worker"]
    assert asked("agent = 'c'") == [row for row in whole if row[2] == "c"]
    assert asked("agent_id = :id", id=ids["a"]) == [row for row in whole if row[2] == "a"]
    assert asked("availability < 1") == [row for row in whole if row[10] == 0.0]


def test_slots_between_agrees_with_a_walk_over_the_grid(store: Store) -> None:
    """Grids with intervals and offsets of any kind, cut at their own due times and elsewhere, slot by slot."""
    rng = random.Random(2)
    for _ in range(60):
        interval_us = rng.choice((100_000, 250_000, 1_000_000, 7_000_000, 15_000_000, 333_000, 3_600_000_000))
        offset_us = rng.randrange(interval_us)
        base = to_us(NOON) // interval_us * interval_us + offset_us
        due = [NOON + timedelta(microseconds=base - to_us(NOON) + k * interval_us) for k in range(-40, 40)]
        cuts = sorted(
            [rng.choice(due[5:-5]) for _ in range(2)]
            + [rng.choice(due[5:-5]) + timedelta(microseconds=rng.randrange(interval_us)) for _ in range(2)]
        )
        rng.shuffle(cuts)
        window, row = sorted(cuts[:2]), sorted(cuts[2:])
        (found,) = store.query(
            "SELECT slots_between(:a, :b, :c, :d, :interval_s, :offset_s)",
            {
                "a": window[0],
                "b": window[1],
                "c": row[0],
                "d": row[1],
                "interval_s": interval_us / 1e6,
                "offset_s": offset_us / 1e6,
            },
        ).rows[0]

        assert found == sum(max(window[0], row[0]) <= at < min(window[1], row[1]) for at in due)


def test_lost_between_gives_each_slot_of_a_loss_to_one_window(store: Store) -> None:
    """Whatever the cuts, the parts add up to the loss, and a cut at a due time gives that slot to the later part."""
    sql = "SELECT lost_between(:a, :b, :c, :d, :n)"
    loss = {"c": NOON, "d": NOON + 9 * MINUTE, "n": 10}
    at = [NOON - HOUR, NOON + 3 * MINUTE, NOON + 3 * MINUTE + timedelta(seconds=1), NOON + HOUR]
    parts = [store.query(sql, {**loss, "a": a, "b": b}).rows[0][0] for a, b in pairwise(at)]
    single = store.query(sql, {"a": NOON, "b": NOON + MINUTE, "c": NOON, "d": NOON, "n": 1}).rows[0][0]
    outside = store.query(sql, {"a": NOON - MINUTE, "b": NOON, "c": NOON, "d": NOON, "n": 1}).rows[0][0]

    assert parts == [3, 1, 6]
    assert (single, outside) == (1, 0)


def test_availability_whole_days_are_counted_by_day(store: Store) -> None:
    """
    Three days and three hours, of which the second day has an hour of pause: days, hours and minutes add up.

    From 22:30 on the first day to 01:30 on the fifth: 90 slots, three days of 1,440 without 60, 90 slots.
    """
    start = NOON.replace(hour=22, minute=30)
    pause = Window(NOON.replace(hour=5) + timedelta(days=2), NOON.replace(hour=6) + timedelta(days=2))
    end = NOON.replace(hour=1, minute=30) + timedelta(days=4)
    add_agent(store, "a")
    schedule(store, "a", start, pause.start)
    schedule(store, "a", pause.start, pause.end, state="paused")
    schedule(store, "a", pause.end, end)
    due = every(start, 60, (end - start) // MINUTE)
    spool = Spool()
    for day in sorted({at.date() for at in due}):
        moments = [at for at in due if at.date() == day]
        paused = [at for at in moments if pause.start <= at < pause.end]
        polled = [at for at in moments if at not in paused]
        write(store, spool.batch(checks=checks("a", polled, UP) + checks("a", paused, Outcome.PAUSED)))
    days = store.query(
        "SELECT bucket, expected, up, unobserved, paused FROM availability_1d ORDER BY bucket",
        types={"bucket": datetime},
    ).rows
    midnight = NOON.replace(hour=0)

    assert days == [
        (midnight, 90, 90, 0, 0),
        (midnight + timedelta(days=1), 1440, 1440, 0, 0),
        (midnight + timedelta(days=2), 1380, 1380, 0, 60),
        (midnight + timedelta(days=3), 1440, 1440, 0, 0),
        (midnight + timedelta(days=4), 90, 90, 0, 0),
    ]
    assert totals(run(store, "availability", window=Window(start, end))) == {
        "a": (180 + 3 * 1440 - 60, 180 + 3 * 1440 - 60, 0, 0, 0, 0, 60)
    }
    assert sum(row[1] for row in hours(store, "a")) == 180 + 3 * 1440 - 60  # type: ignore[misc]  # counts


def test_observation_is_that_of_the_session_that_goes_on(store: Store) -> None:
    """What is replayed of a session that has ended elsewhere makes it neither live nor the latest."""
    now = datetime.now(UTC)
    live = replace(SESSION, uuid=str(uuid4()), started_at=now - HOUR)
    ended = replace(SESSION, uuid=str(uuid4()), started_at=now - 5 * HOUR)
    store.open_session(live)
    store.write(replace(Spool().batch(checks=[("a", now, UP, 1.0)]), session=live, observed_to_us=to_us(now)))
    store.write(replace(Spool().batch(checks=[("a", now - 4 * HOUR, UP, 1.0)]), session=ended))
    types = {"live": bool, "observed_to": datetime}
    going_on = store.query("SELECT live, observed_to FROM observation", types=types).rows
    store.close_session(live)
    over = store.query("SELECT live FROM observation", types=types).rows

    assert going_on == [(True, now)]
    assert over == [(False,)]
