"""
Views and reports on real databases, against numbers worked out by hand.
"""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from fleetpulse.commands.status import collect
from fleetpulse.settings import Settings
from reports.catalogue import CATALOGUE
from reports.definition import UnknownReport, UnknownValue
from reports.health_reports import HEALTH
from reports.render import to_csv, to_json
from reports.run import run
from storage.errors import InputError, PermanentStorageError, UnknownName
from storage.model import Loss, MetricKey, Outcome, Transition, Window, to_us
from storage.models import Agent
from storage.queries import load
from storage.store import Store
from storage.transactions import writing
from tests.batches import NOON, SESSION, Spool, every
from tests.fleet import add_agent, checks, schedule, write

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
UP, TIMEOUT, DOWN = Outcome.HEALTHY, Outcome.TIMEOUT, Outcome.UNHEALTHY
AFTERNOON = Window(NOON, NOON + 3 * HOUR)


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
    retired = update(Agent).where(Agent.name == "gone").values(state="retired", retired_at=NOON + 50 * MINUTE)
    with writing(store.engine).begin() as connection:
        connection.execute(retired)
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


def test_incidents_agree_with_a_walk_over_the_changes(store: Store) -> None:
    """
    Agents that change at random, several times at one moment too.
    """
    rng = random.Random(3)
    down = ("unhealthy", "stalled", "timeout", "refused", "error")
    spool = Spool()
    expected: list[tuple[object, ...]] = []
    for name in ("a", "b", "c"):
        add_agent(store, name)
        at, status = NOON, "unknown"
        since: datetime | None = None
        statuses: list[str] = []
        told: list[str] = []
        for _ in range(60):
            at += rng.choice((timedelta(0), MINUTE, timedelta(seconds=7.25)))
            old, status = (
                status,
                rng.choice([each for each in (*down, "healthy", "degraded", "paused") if each != status]),
            )
            reason = rng.choice(("", f"said {rng.randrange(100)}"))
            write(
                store,
                spool.batch(transitions=[Transition(agent=name, due=at, old=old, new=status, reason=reason)]),
            )
            if status in down:
                since = at if since is None else since
                statuses.append(status)
                told += [reason] if reason else []
            elif since is not None:
                expected.append((name, since, at, statuses[0], statuses[-1], next(iter(told), None), False))
                since, statuses, told = None, [], []
        if since is not None:
            expected.append((name, since, None, statuses[0], statuses[-1], next(iter(told), None), True))
    asked = "SELECT agent, started_at, ended_at, first_status, last_status, reason, open FROM incidents WHERE {}"
    types = {"started_at": datetime, "ended_at": datetime, "open": bool}
    rows = store.query(asked.format("1 = 1"), types=types).rows
    one = store.query(asked.format("agent_id = (SELECT id FROM agents WHERE name = 'b')"), types=types).rows

    assert len(expected) > 20
    assert sorted(rows, key=repr) == sorted(expected, key=repr)
    assert sorted(one, key=repr) == sorted((row for row in expected if row[0] == "b"), key=repr)


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
    with writing(store.engine).begin() as connection:
        connection.execute(update(Agent).where(Agent.name == "held").values(state="paused"))
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
        "SELECT agent, stale, scheduled, last_outcome, last_latency_ms FROM fleet_health ORDER BY 1",
        types={"stale": bool, "scheduled": bool},
    ).rows
    one = store.query(
        "SELECT status, since, reason, last_due, interval_s FROM fleet_health WHERE agent = 'fresh'",
        types={"since": datetime, "last_due": datetime},
    ).rows

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


# ---------------------------------------------------------------- latencies


def test_latency_quantiles_are_the_same_numbers_on_every_engine(store: Store) -> None:
    """To the last bit, in every tier: the middle of a bin, 0.1 ms for what is faster, the maximum for what is slower."""
    latencies = (0.0625, 0.75, 5.0, 5.0, 77.5, 1250.0, 99_000.0, 250_000.0)
    add_agent(store, "a")
    write(store, Spool().batch(checks=[("a", NOON, UP, ms) for ms in latencies]))
    asked = "SELECT latency_quantile(latency_bins, CAST(:q AS double precision), latency_max) FROM {}"
    found = {
        tier: [store.query(asked.format(tier), {"q": q}).rows[0][0] for q in (0, 0.2, 0.5, 0.6, 0.7, 0.8, 1)]
        for tier in ("health_1m", "health_1h", "health_1d")
    }

    numbers = [
        0.1,
        0.7462702793494782,
        4.994737113553873,
        76.79560006323659,
        1253.0273677415303,
        99677.8165200526,
        250000.0,
    ]
    assert found == dict.fromkeys(found, numbers)


# ---------------------------------------------------------------- catalogue and formats


def test_reports_refuse_what_does_not_exist_and_say_what_does(store: Store) -> None:
    """Unknown reports, filters, agents: an error that names the nearest, never an empty answer."""
    add_agent(store, "worker-1")

    with pytest.raises(UnknownReport, match='report "availabilty" does not exist: did you mean "availability"'):
        run(store, "availabilty", window=AFTERNOON)
    with pytest.raises(UnknownReport, match='report "x" does not exist: expected availability, blast_radius, cap'):
        run(store, "x", window=AFTERNOON)
    with pytest.raises(UnknownReport, match='report incidents has no filter "host": expected agent, type'):
        run(store, "incidents", window=AFTERNOON, filters={"host": "h"})
    with pytest.raises(UnknownReport, match='agent "wrker-1" does not exist: did you mean "worker-1"') as caught:
        run(store, "incidents", window=AFTERNOON, filters={"agent": "wrker-1"})
    assert isinstance(caught.value, UnknownName)
    assert (caught.value.kind, caught.value.name) == ("agent", "wrker-1")
    bad: list[dict[str, Any]] = [{"filters": {"agent": 7}}, {"options": {"target": "0.9"}}, {"tz": "UTC"}]
    for asked, message in zip(bad, ("filter agent is 7", "option target is '0.9'", "tz is 'UTC'"), strict=True):
        with pytest.raises(InputError, match=message):
            run(store, "error_budget", window=AFTERNOON, **asked)


def test_names_that_no_database_holds_are_nobodys(store: Store) -> None:
    """Told like any other name that is not there, in a line, on every engine."""
    add_agent(store, "worker-1")

    for text in ("a\0b", "\ud800", "x" * 100_000, ""):
        with pytest.raises(UnknownValue, match=r"^agent .{2,150} does not exist: expected worker-1$"):
            run(store, "availability", window=AFTERNOON, filters={"agent": text})


def test_values_that_no_database_holds_are_at_fault(store: Store) -> None:
    """Half of a surrogate pair, and NUL where text has none: trying again cannot help, as queries and snapshots say."""
    asked = "SELECT 1 AS one FROM agents WHERE name = :name"
    impossible = ["\ud800"] if store.engine_name == "sqlite" else ["\ud800", "a\0b"]

    for text in impossible:
        with pytest.raises(PermanentStorageError, match="22021"):
            store.query(asked, {"name": text})
        with pytest.raises(PermanentStorageError, match="22021"), store.snapshot() as taken:
            list(taken.read(asked, {"name": text}))


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_each_report_has_its_statement_and_answers_its_columns(store: Store, name: str) -> None:
    """Each report runs on a database with nothing to tell; each file holds the statements of one report."""
    needed = dict.fromkeys(CATALOGUE[name].required, "a")
    if needed:
        add_agent(store, "a")
    statements = set(load("reports", f"sql/{name}.sql"))

    assert {each for each in statements if not each.startswith(f"{name}_")} == {name}
    assert run(store, name, window=AFTERNOON, filters=needed).rows == []


def test_reports_answer_the_same_types_on_every_engine(store: Store) -> None:
    """Moments are aware UTC, flags bool, slots int, all that is measured float, the rest text."""
    now = datetime.now(UTC)
    start = now - 30 * MINUTE
    for name in ("a", "paused", "idle"):
        add_agent(store, name)
    schedule(store, "a", start, None)
    schedule(store, "paused", start, None, state="paused")
    at = now - timedelta(seconds=30)
    write(
        store,
        Spool().batch(
            checks=checks("a", [at], UP),
            system=[("h", "load1", at, 2.0), ("h", "cpu_percent", at, 3.0)],
            transitions=[Transition(agent="a", due=at, old="unknown", new="timeout", reason="slow")],
        ),
    )
    wanted = {"utc": datetime, "slots": int, "n": int, "": str}
    found = {each.name: run(store, each.name, window=Window(start, now)) for each in HEALTH}

    for name, report in found.items():
        assert report.rows, name
        for row in report.rows:
            for column, value in zip(report.columns, row, strict=True):
                expected = bool if column.flag else wanted.get(column.unit, float)
                assert value is None or type(value) is expected, (name, column.name, value)
                assert not isinstance(value, datetime) or value.utcoffset() == timedelta(0)


def test_status_says_the_same_on_every_engine(store: Store, tmp_path: Path) -> None:
    """The command's own look at the collector: moments are aware UTC, and whether it is live is a bool."""
    now = datetime.now(UTC)
    at = now - timedelta(seconds=1)
    lost = Loss(agent="a", from_due=at, to_due=at, n=1, reason="spool_full")
    store.write(replace(Spool().batch(checks=checks("a", [at], UP), losses=[lost]), observed_to_us=to_us(now)))
    live = collect(store, Settings(home=tmp_path), now)
    store.close_session(SESSION)
    ended = collect(store, Settings(home=tmp_path), now)

    assert (live["collector"]["live"], ended["collector"]["live"]) == (True, False)
    assert live["collector"]["observed_to"] == now
    assert live["collector"]["ended_at"] is None
    assert timedelta(0) <= ended["collector"]["ended_at"] - now < MINUTE
    assert live["losses"] == {"spool_full": 1}
    assert [each["waiting"] for each in live["rollups"]] == [0, 0, 0]


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
    live = store.query("SELECT live FROM observation", types={"live": bool}).rows
    store.close_session(later)

    assert live == [(True,)]
    assert store.query("SELECT live FROM observation", types={"live": bool}).rows == [(False,)]
