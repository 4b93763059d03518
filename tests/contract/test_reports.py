"""
Views and reports on real databases, against numbers worked out by hand.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from sqlalchemy import text

from reports.catalogue import CATALOGUE, UnknownReport
from reports.render import to_csv, to_json
from reports.run import Report, run
from rollups.refresh import refresh_all
from storage.batch import Batch
from storage.model import Loss, MetricKey, Outcome, Transition, Window, to_us
from storage.queries import load
from storage.store import Store
from tests.batches import NOON, SESSION, Spool, every

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
UP, TIMEOUT, DOWN = Outcome.HEALTHY, Outcome.TIMEOUT, Outcome.UNHEALTHY
AFTERNOON = Window(NOON, NOON + 3 * HOUR)


def add_agent(store: Store, name: str, *, type: str = "worker", state: str = "active", interval_s: float = 60) -> None:
    """Register an agent as the command line would."""
    with store.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall, credential,"
                " options, source, state, created_at, retired_at) VALUES (:name, :type, 'http', '', '{}', :interval_s,"
                " 10, 1, 2, '', '{}', 'api', :state, :at, CASE WHEN :state = 'retired' THEN CAST(:at AS timestamptz) END)"
            ),
            {"name": name, "type": type, "state": state, "interval_s": interval_s, "at": NOON},
        )


def schedule(
    store: Store,
    name: str,
    start: datetime,
    end: datetime | None,
    *,
    interval_s: float = 60,
    offset_s: float = 0,
    state: str = "active",
) -> None:
    """Say that the agent is polled so from *start* to *end*."""
    with store.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO agent_schedules (agent_id, from_ts, to_ts, interval_s, offset_s, state)"
                " SELECT id, :start, :end, :interval_s, :offset_s, :state FROM agents WHERE name = :name"
            ),
            {
                "name": name,
                "start": start,
                "end": end,
                "interval_s": interval_s,
                "offset_s": offset_s,
                "state": state,
            },
        )


def write(store: Store, batch: Batch) -> None:
    """Write what a collector saw that has ended since: slots up to now are due."""
    store.write(batch)
    store.close_session(batch.session)


def checks(agent: str, due: Sequence[datetime], outcome: Outcome) -> list[tuple[str, datetime, Outcome, float | None]]:
    """Return one check of each due time."""
    return [(agent, at, outcome, 5.0 if outcome is UP else None) for at in due]


def hours(store: Store, agent: str) -> list[tuple[object, ...]]:
    """Return (hour, expected, up, down, unobserved, skipped, lost, paused) of the view, hours after NOON."""
    rows = store.query(
        "SELECT bucket, expected, up, down, unobserved, skipped, lost, paused FROM availability"
        " WHERE agent = :agent ORDER BY bucket",
        {"agent": agent},
    ).rows
    return [((row[0] - NOON) // HOUR, *row[1:]) for row in rows]  # type: ignore[operator]  # the first one is a moment


def totals(report: Report) -> dict[str, tuple[object, ...]]:
    """Return agent to (expected, up, down, unobserved, skipped, lost, paused)."""
    return {str(row[0]): tuple(row[2:9]) for row in report.rows}


# ---------------------------------------------------------------- availability


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
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE collector_sessions SET ended_at = now()"))
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
    with store.engine.begin() as connection:
        connection.execute(
            text("UPDATE horizons SET closed_before = :at, dropped_before = :at WHERE tbl = 1 AND tier < 3"),
            {"at": NOON + 2 * HOUR},
        )
    report = run(store, "availability", window=Window(NOON + 5 * MINUTE, NOON + 4 * HOUR))

    assert hours(store, "a") == [(2, 60, 60, 0, 0, 0, 0, 0)]
    assert report.window == Window(NOON + 2 * HOUR, NOON + 4 * HOUR)
    assert totals(report) == {"a": (60, 60, 0, 0, 0, 0, 0)}


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


# ---------------------------------------------------------------- incidents


def changes(agent: str, *steps: tuple[float, str, str, str]) -> list[Transition]:
    """Return transitions from (minutes after NOON, old, new, reason)."""
    return [
        Transition(agent=agent, due=NOON + minutes * MINUTE, old=old, new=new, reason=reason)
        for minutes, old, new, reason in steps
    ]


def test_incidents_are_contiguous_times_of_being_down(store: Store) -> None:
    """
    A change between two ways of being down goes on; up, pause, resume and retirement end it; a flap is two incidents.
    """
    spool = Spool()
    for name in ("flap", "paused", "open", "gone"):
        add_agent(store, name, type="llm" if name == "open" else "worker")
    write(
        store,
        spool.batch(
            transitions=[
                *changes(
                    "flap",
                    (0, "unknown", "healthy", ""),
                    (1, "healthy", "timeout", ""),
                    (2, "timeout", "refused", "connection refused"),
                    (3, "refused", "degraded", "slow"),
                    (4, "degraded", "unhealthy", "status 500"),
                    (5, "unhealthy", "healthy", ""),
                    (6, "healthy", "degraded", ""),
                ),
                *changes(
                    "paused",
                    (10, "unknown", "error", "reset"),
                    (12, "error", "paused", ""),
                    (20, "paused", "unknown", "resumed"),
                ),
                *changes("open", (30, "unknown", "stalled", "no progress"), (31, "stalled", "unhealthy", "")),
                *changes("gone", (40, "unknown", "refused", "connection refused")),
            ]
        ),
    )
    with store.engine.begin() as connection:
        connection.execute(
            text("UPDATE agents SET state = 'retired', retired_at = :at WHERE name = 'gone'"),
            {"at": NOON + 50 * MINUTE},
        )
    report = run(store, "incidents", window=AFTERNOON)
    found = [
        (row[0], *(None if at is None else (at - NOON) / MINUTE for at in row[2:4]), *row[5:])  # type: ignore[operator]
        for row in report.rows
    ]
    still_open = report.rows[1]

    assert found == [
        ("gone", 40, 50, "refused", "refused", "connection refused", False),
        ("open", 30, None, "stalled", "unhealthy", "no progress", True),
        ("paused", 10, 12, "error", "error", "reset", False),
        ("flap", 4, 5, "unhealthy", "unhealthy", "status 500", False),
        ("flap", 1, 3, "timeout", "refused", "connection refused", False),
    ]
    assert [row[4] for row in report.rows if row[3] is not None] == [600, 120, 60, 120]
    assert still_open[4] == pytest.approx((datetime.now(UTC) - NOON).total_seconds() - 1800, abs=60)
    overlapping = run(store, "incidents", window=Window(NOON + 2 * MINUTE, NOON + 4 * MINUTE))
    assert [row[2] for row in overlapping.rows] == [NOON + MINUTE]
    assert [row[0] for row in run(store, "incidents", window=AFTERNOON, filters={"type": "llm"}).rows] == ["open"]


# ---------------------------------------------------------------- fleet_health


def test_fleet_health_shows_the_last_check_and_who_is_stale(store: Store) -> None:
    """
    Stale is who should have been looked at and was not for three intervals and ten seconds; nobody else.
    """
    now = datetime.now(UTC)

    def ago(seconds: float) -> datetime:
        return now - timedelta(seconds=seconds)

    spool = Spool()
    last_s = {"fresh": 20.0, "late": 120.0, "slow": 400.0, "silent": 4000.0, "unscheduled": 4000.0, "held": 100.0}
    for name in (*last_s, "new", "gone", "skipped"):
        slow = name in ("slow", "silent")
        add_agent(store, name, state="retired" if name == "gone" else "active", interval_s=300 if slow else 15)
    for name in ("fresh", "late", "slow", "silent", "skipped"):
        schedule(store, name, ago(5000), None, interval_s=300 if name in ("slow", "silent") else 15)
    schedule(store, "unscheduled", ago(5000), ago(3900), interval_s=15)
    schedule(store, "held", ago(5000), None, interval_s=15, state="paused")
    schedule(store, "new", ago(5), None, interval_s=15)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE agents SET state = 'paused' WHERE name = 'held'"))
    for name, seconds in last_s.items():
        write(store, spool.batch(checks=[(name, ago(seconds + 1), UP, 7.0)]))
        write(store, spool.batch(checks=[(name, ago(seconds), TIMEOUT if name == "late" else UP, 8.5)]))
    for seconds in (58, 28):
        write(store, spool.batch(checks=[("skipped", ago(seconds), Outcome.SKIPPED, None)]))
    write(
        store,
        spool.batch(
            transitions=[Transition(agent="fresh", due=ago(900), old="unknown", new="degraded", reason="slow")]
        ),
    )
    rows = store.query(
        "SELECT agent, stale, scheduled, last_outcome, last_latency_ms FROM fleet_health ORDER BY 1"
    ).rows
    one = store.query("SELECT status, since, reason, last_due, interval_s FROM fleet_health WHERE agent = 'fresh'").rows

    assert rows == [
        ("fresh", False, True, "healthy", 8.5),
        ("held", False, False, "healthy", 8.5),
        ("late", True, True, "timeout", 8.5),
        ("new", False, True, None, None),
        ("silent", True, True, None, None),
        ("skipped", True, True, None, None),
        ("slow", False, True, "healthy", 8.5),
        ("unscheduled", False, False, None, None),
    ]
    assert one == [("degraded", ago(900), "slow", ago(20), 15.0)]


def test_fleet_health_report_lists_what_is_down_first(store: Store) -> None:
    """Down, stale, degraded, unknown, healthy, paused; by name within each."""
    add_agent(store, "new")
    steps = {"b": "healthy", "a": "healthy", "warm": "degraded", "dead": "refused", "held": "paused"}
    for name in steps:
        add_agent(store, name)
    write(
        store,
        Spool().batch(
            transitions=[Transition(agent=name, due=NOON, old="unknown", new=new) for name, new in steps.items()]
        ),
    )
    add_agent(store, "stale")
    schedule(store, "stale", NOON, None)
    report = run(store, "fleet_health", window=AFTERNOON)

    assert [row[0] for row in report.rows] == ["dead", "stale", "warm", "new", "a", "b", "held"]
    assert report.window is None


# ---------------------------------------------------------------- system_load


def test_system_load_has_one_row_per_host_and_bucket(store: Store) -> None:
    """Means over the bucket; a short window by minutes, a long one by hours; nothing of what is not load."""
    at = every(NOON, 30, 4)
    values = {"cpu_percent": (10, 30, 50, 90), "load1": (1, 2, 3, 4), "memory_used_percent": (40, 42, 44, 46)}
    system = [
        (host, name, at[k], float(v)) for host in ("h1",) for name, row in values.items() for k, v in enumerate(row)
    ]
    write(store, Spool().batch(system=[*system, ("h1", "processes", NOON, 99.0), ("h2", "load1", NOON, 7.0)]))
    minutes = run(store, "system_load", window=Window(NOON, NOON + HOUR), filters={"host": "h1"})
    by_hour = run(store, "system_load", window=Window(NOON + MINUTE, NOON + 8 * HOUR))

    assert minutes.rows == [
        (NOON, "h1", 20.0, 30.0, 1.5, 41.0, None, None),
        (NOON + MINUTE, "h1", 70.0, 90.0, 3.5, 45.0, None, None),
    ]
    assert by_hour.window == Window(NOON, NOON + 8 * HOUR)
    assert by_hour.rows == [
        (NOON, "h1", 45.0, 90.0, 2.5, 43.0, None, None),
        (NOON, "h2", None, None, 7.0, None, None, None),
    ]


def test_system_load_shows_the_fullest_file_system(store: Store) -> None:
    """Of several mount points, each a series of its own, the one with the highest mean."""
    batch = Spool().batch(system=[("h", "small", NOON, 90.0), ("h", "large", NOON, 20.0), ("h", "large", NOON, 30.0)])
    mounted = tuple(
        MetricKey(name="filesystem_used_percent", labels=(("mountpoint", f"/{key.name}"),)) for key in batch.metrics
    )
    write(store, replace(batch, metrics=mounted))
    report = run(store, "system_load", window=Window(NOON, NOON + HOUR))

    assert report.rows == [(NOON, "h", None, None, None, None, None, 90.0)]


# ---------------------------------------------------------------- catalogue and formats


def test_reports_refuse_what_does_not_exist_and_say_what_does(store: Store) -> None:
    """Unknown reports, filters, agents: an error that names the nearest, never an empty answer."""
    add_agent(store, "worker-1")

    with pytest.raises(UnknownReport, match='report "availabilty" does not exist: did you mean "availability"'):
        run(store, "availabilty", window=AFTERNOON)
    with pytest.raises(UnknownReport, match='report "x" does not exist: expected availability, fleet_health, inci'):
        run(store, "x", window=AFTERNOON)
    with pytest.raises(UnknownReport, match='report incidents has no filter "host": expected agent, type'):
        run(store, "incidents", window=AFTERNOON, filters={"host": "h"})
    with pytest.raises(UnknownReport, match='agent "wrker-1" does not exist: did you mean "worker-1"'):
        run(store, "incidents", window=AFTERNOON, filters={"agent": "wrker-1"})


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_each_report_has_its_statement_and_answers_its_columns(store: Store, name: str) -> None:
    """Each report runs on an empty database; each file holds the one statement of its name."""
    assert set(load("reports", f"sql/{name}.sql")) == {name}
    assert run(store, name, window=AFTERNOON).rows == []


def test_csv_and_json_say_the_same_as_the_rows(store: Store) -> None:
    """What programs read is complete: quoting as in RFC 4180, times in UTC, NULL as nothing, units beside the names."""
    nasty = 'a,"b"\r\nü'
    add_agent(store, nasty)
    schedule(store, nasty, NOON, NOON + 30 * MINUTE)
    write(store, Spool().batch(transitions=changes(nasty, (1, "unknown", "refused", 'said: \x1b[31mno, "never"'))))
    incidents = run(store, "incidents", window=AFTERNOON)
    document = json.loads(to_json(incidents))
    text_rows = list(csv.reader(io.StringIO(to_csv(incidents), newline="")))
    slots = json.loads(to_json(run(store, "availability", window=AFTERNOON)))

    assert document["report"] == "incidents"
    assert document["window"] == {"start": "2026-03-10T12:00:00Z", "end": "2026-03-10T15:00:00Z"}
    assert document["columns"][4] == {"name": "duration_s", "unit": "s"}
    assert document["rows"][0]["agent"] == nasty
    assert document["rows"][0]["started_at"] == "2026-03-10T12:01:00Z"
    assert document["rows"][0]["ended_at"] is None
    assert document["rows"][0]["open"] is True
    assert text_rows[0] == [column["name"] for column in document["columns"]]
    assert text_rows[1][:4] == [nasty, "worker", "2026-03-10T12:01:00Z", ""]
    assert text_rows[1][-2:] == ['said: \x1b[31mno, "never"', "true"]
    assert to_csv(incidents).startswith("agent,type,started_at,ended_at,duration_s,")
    assert '\r\n"a,""b""\r\nü",worker,' in to_csv(incidents)
    assert slots["rows"][0]["availability"] is None
    assert slots["rows"][0]["coverage"] == 0


def test_killed_session_is_not_live_beside_a_later_one(store: Store) -> None:
    """A collector that was killed a moment ago does not speak for the one that came and went after it."""
    spool = Spool()
    killed = spool.batch(checks=[("a", NOON, Outcome.HEALTHY, 1.0)])
    store.write(replace(killed, observed_to_us=to_us(NOON)))
    later = replace(SESSION, uuid=str(uuid4()))
    store.open_session(later)
    live = store.query("SELECT live FROM observation").rows
    store.close_session(later)

    assert live == [(True,)]
    assert store.query("SELECT live FROM observation").rows == [(False,)]
