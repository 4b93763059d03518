"""
What clients write themselves: checks and samples of a ``Recorder``.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rollups.refresh import refresh_all
from rollups.verify import verify
from storage.batch import Batch, WriteResult
from storage.errors import InputError, StorageError, TransientStorageError, UnknownName
from storage.model import Loss, Outcome, Table, Tier, to_us
from storage.open import open_store
from storage.recorder import HealthCheck, Recorder, Sample
from storage.store import Capability, Store
from tests.batches import NOON, SESSION, Spool
from tests.fleet import add_agent, schedule

pytestmark = pytest.mark.each_kind

CHECKS = "SELECT ts, agent, outcome, late_ms, latency_ms, http_status, reason FROM health_records ORDER BY ts, agent"
AGENTS = "SELECT ts, agent, metric, kind, unit, value FROM agent_samples ORDER BY ts, agent, metric"
HOSTS = "SELECT ts, host, metric, kind, unit, value FROM system_samples ORDER BY ts, host, metric"
DAYS = "SELECT tbl, CAST(utc_day AS text), sum(n) FROM ingest_batch_days GROUP BY tbl, utc_day ORDER BY 1, 2"
REJECTED = "SELECT tbl, reason, n FROM ingest_rejections ORDER BY 1, 2"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


class Faulty:
    """
    A store that fails its next writes as a database that is away does.

    Args:
        answers: The batch is written and the answer is lost; otherwise it never gets there.
    """

    def __init__(self, store: Store, *, answers: bool) -> None:
        self._store = store
        self._answers = answers
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Batch) -> WriteResult:
        """Write *batch* as the store does, or fail."""
        if not self.failures:
            return self._store.write(batch)
        self.failures -= 1
        if self._answers:
            self._store.write(batch)
        raise TransientStorageError("link was cut")


@pytest.fixture
def recorder(store: Store) -> Recorder:
    """Return a recorder whose clock stands at noon, with agents ``alpha`` and ``beta``."""
    add_agent(store, "alpha")
    add_agent(store, "beta", state="retired")
    return Recorder(store, name="orders", clock=lambda: NOON)


def read(store: Store, statement: str) -> list[tuple[object, ...]]:
    """Return rows with moments as such."""
    return list(store.query(statement, types={"ts": datetime}).rows)


def test_rows_are_stored_as_the_collectors_are(store: Store, recorder: Recorder) -> None:
    """Checks and samples show in views and rollups, and the ledger knows how many they are."""
    results = [
        recorder.health_check("alpha", "degraded", latency_ms=12.5, http_status=200, reason="queue is long"),
        recorder.health_check("beta", Outcome.TIMEOUT, at=NOON - timedelta(hours=1)),
        recorder.agent_metrics("alpha", {"tokens": 7, "calls": 1}, kind="counter", units={"tokens": "1"}),
        recorder.agent_metrics("alpha", {"tokens": 3}, kind="counter", labels={"model": "small"}),
        recorder.system_metrics("box", {"cpu": 0.5}, at=NOON, units={"cpu": "%"}),
    ]
    refresh_all(store, NOON + timedelta(days=2))
    sessions = store.query(
        "SELECT name, observed_to, is_collector AS c FROM collector_sessions", types={"c": bool}
    ).rows
    labels = store.query("SELECT labels FROM agent_samples WHERE value = 3").rows

    assert [result.accepted for result in results] == [1, 1, 2, 1, 1]
    assert read(store, CHECKS) == [
        (NOON - timedelta(hours=1), "beta", "timeout", None, None, 0, ""),
        (NOON, "alpha", "degraded", None, 12.5, 200, "queue is long"),
    ]
    assert read(store, AGENTS) == [
        (NOON, "alpha", "calls", "counter", "", 1.0),
        (NOON, "alpha", "tokens", "counter", "1", 7.0),
        (NOON, "alpha", "tokens", "counter", "", 3.0),
    ]
    assert read(store, HOSTS) == [(NOON, "box", "cpu", "gauge", "%", 0.5)]
    assert labels in ([({"model": "small"},)], [('{"model":"small"}',)])
    assert store.query("SELECT sum(sum) FROM agent_metrics_1h").rows == [(11.0,)]
    assert sessions == [("orders", None, False)]
    assert verify(store, NOON + timedelta(days=2)).holds


def test_rows_that_may_not_be_stored_are_counted(store: Store, recorder: Recorder) -> None:
    """What the collector's rows would be refused for, these are: in the answer and in the database; the rest is written."""
    store.close_below(Table.AGENT, Tier.RAW, NOON - timedelta(days=1))
    store.close_below(Table.HEALTH, Tier.RAW, NOON - timedelta(days=1))
    far = datetime.now(NOON.tzinfo) + timedelta(days=2)
    values = [math.nan, math.inf, -math.inf, 1e291, -1e291, 1e-300, 1.0]
    samples = recorder.samples(
        [
            *(Sample(agent="alpha", metric="m", value=value, at=NOON) for value in values),
            Sample(agent="alpha", metric="m", value=2.0, at=NOON - timedelta(days=2)),
            Sample(agent="alpha", metric="m", value=3.0, at=far),
            Sample(agent="alpha", metric="m" * 3_000, value=4.0, at=NOON),
        ]
    )
    checks = recorder.health_checks(
        [
            HealthCheck(agent="alpha", at=NOON, outcome="healthy", latency_ms=1e39),
            HealthCheck(agent="alpha", at=NOON - timedelta(days=2), outcome="healthy"),
            HealthCheck(agent="alpha", at=NOON, outcome="healthy", latency_ms=math.nan),
        ]
    )

    assert samples.accepted == 2
    assert samples.rejected == {
        "not_finite": 3,
        "out_of_range": 2,
        "below_horizon": 1,
        "too_far_ahead": 1,
        "bad_text": 1,
    }
    assert checks.accepted == 1
    assert checks.rejected == {"not_finite": 1, "below_horizon": 1}
    assert [value for *_, value in read(store, AGENTS)] == [0.0, 1.0]
    assert sum(n for _, _, n in store.query(REJECTED).rows) == 10  # type: ignore[misc]  # numbers
    assert store.query("SELECT reason, n FROM losses ORDER BY reason").rows == [("below_horizon", 1), ("not_finite", 1)]
    assert verify(store, NOON + timedelta(days=2)).holds


def test_agent_that_is_not_there_is_named(store: Store, recorder: Recorder) -> None:
    """An unknown agent is no retired one in the making: it is refused with those that are called alike, and all with it."""
    attempts: list[Callable[[], WriteResult]] = [
        lambda: recorder.health_check("alpah", "healthy"),
        lambda: recorder.agent_metrics("alpah", {"m": 1}),
        lambda: recorder.samples(
            [Sample(agent="alpha", metric="m", value=1, at=NOON), Sample(agent="alpah", metric="m", value=1, at=NOON)]
        ),
    ]
    for attempt in attempts:
        with pytest.raises(UnknownName, match='there is no agent "alpah": did you mean alpha'):
            attempt()
    with pytest.raises(UnknownName, match='"zzz": register it first'):
        recorder.health_check("zzz", "healthy")

    assert store.query("SELECT name FROM agents ORDER BY name").rows == [("alpha",), ("beta",)]
    assert store.query("SELECT count(*) FROM ingest_batches").rows == [(0,)]


def test_bad_row_keeps_all_of_them_out(store: Store, recorder: Recorder) -> None:
    """Nothing is half-written: what no database could make sense of is told before any row is."""
    good = HealthCheck(agent="alpha", at=NOON, outcome="healthy")
    with pytest.raises(InputError, match="has no time zone"):
        recorder.health_checks([good, HealthCheck(agent="alpha", at=NOON.replace(tzinfo=None), outcome="healthy")])
    with pytest.raises(InputError, match='outcome of agent "alpha" is "fine", expected one of healthy'):
        recorder.health_checks([good, HealthCheck(agent="alpha", at=NOON, outcome="fine")])

    assert read(store, CHECKS) == []
    assert recorder.health_checks([]) == WriteResult()


def test_rows_of_many_days_are_batches_of_a_day(store: Store, recorder: Recorder) -> None:
    """Days are written one after another under numbers without holes, and counted each by itself."""
    days = [NOON + timedelta(days=day) for day in (2, 0, 1, 0)]
    result = recorder.samples([Sample(host="box", metric="m", value=1, at=at) for at in days])
    seqs = store.query("SELECT seq FROM ingest_batches ORDER BY seq").rows
    found = [tuple(row) for row in store.query(DAYS).rows]

    assert result.accepted == 4
    assert seqs == [(1,), (2,), (3,)]
    assert found == [(3, f"{NOON + timedelta(days=day):%Y-%m-%d}", n) for day, n in ((0, 2), (1, 1), (2, 1))]
    assert all(day.ledger == day.stored for day in store.verify_ledger())


def test_lost_answer_is_no_second_row(store: Store, recorder: Recorder) -> None:
    """A try whose answer is lost is made again at once; the database knows the batch, and the call says what it did."""
    faulty = Faulty(store, answers=True)
    recorder = Recorder(faulty, clock=lambda: NOON)
    faulty.failures = 1
    values = {"tokens": 5, "calls": 1, "bad": math.nan, "worse": math.inf, "huge": 1e300}
    result = recorder.agent_metrics("alpha", values, kind="counter")
    faulty.failures = 1
    none = recorder.health_check("alpha", "healthy", latency_ms=1e39)

    assert result == WriteResult(accepted=2, rejected={"not_finite": 2, "out_of_range": 1})
    assert none == WriteResult(accepted=0, rejected={"not_finite": 1})
    assert [value for *_, value in read(store, AGENTS)] == [1.0, 5.0]


@pytest.mark.parametrize("answers", [True, False])
def test_call_that_failed_can_be_made_again(store: Store, recorder: Recorder, answers: bool) -> None:
    """
    The same call writes what the first one did not, and no more: whether the first got through or not.

    Other calls between the two are calls of their own.
    """
    clock, faulty = Clock(), Faulty(store, answers=answers)
    recorder = Recorder(faulty, clock=clock)
    faulty.failures = 6
    with pytest.raises(TransientStorageError, match="link was cut: nothing is known to be lost, make the same call"):
        recorder.agent_metrics("alpha", {"tokens": 5}, kind="counter")
    with pytest.raises(TransientStorageError):
        recorder.samples([Sample(host="box", metric="m", value=1, at=NOON - timedelta(days=day)) for day in (0, 1)])
    clock.now += timedelta(minutes=1)
    recorder.agent_metrics("alpha", {"tokens": 6}, kind="counter")
    again = recorder.agent_metrics("alpha", {"tokens": 5}, kind="counter")
    more = recorder.samples([Sample(host="box", metric="m", value=1, at=NOON - timedelta(days=day)) for day in (0, 1)])
    third = recorder.agent_metrics("alpha", {"tokens": 5}, kind="counter")
    found = [(ts, value) for ts, *_, value in read(store, AGENTS)]

    assert (again.accepted, again.replayed) == (1, answers)
    # Of the second call, one day had got through when it failed, or none.
    assert (more.accepted, more.replayed) == (2, False)
    assert not third.replayed
    assert sorted(found) == [(NOON if answers else clock.now, 5.0), (clock.now, 5.0), (clock.now, 6.0)]
    assert len(read(store, HOSTS)) == 2
    assert all(day.ledger == day.stored for day in store.verify_ledger())


def test_documented_example_runs(store: Store) -> None:
    """The lines in docs/storage.md write a check and two values."""
    add_agent(store, "planner")
    text = (Path(__file__).parents[2] / "docs" / "storage.md").read_text(encoding="utf-8")
    example = next(part for part in text.split("```python\n")[1:] if "Recorder(" in part).partition("```")[0]
    exec(example, {"store": store})  # our own documentation

    assert [len(read(store, each)) for each in (CHECKS, AGENTS, HOSTS)] == [1, 1, 1]


def test_threads_take_turns(store: Store, recorder: Recorder) -> None:
    """Calls of several threads are batches one after another; none is lost, none doubled."""
    failed: list[BaseException] = []

    def work(place: int) -> None:
        try:
            for k in range(10):
                recorder.health_check("alpha", "healthy", at=NOON + timedelta(seconds=place * 10 + k))
        except BaseException as exc:  # noqa: BLE001  # told by the test
            failed.append(exc)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    seqs = [seq for (seq,) in store.query("SELECT seq FROM ingest_batches ORDER BY seq").rows]

    assert failed == []
    assert seqs == list(range(1, 41))
    assert len({ts for ts, *_ in read(store, CHECKS)}) == 40


def test_process_of_its_own_has_a_spool_of_its_own(
    store: Store, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a forked child writes is not taken for a replay of what its parent has written."""
    recorder.health_check("alpha", "healthy", at=NOON)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    result = recorder.health_check("alpha", "healthy", at=NOON + timedelta(seconds=1))

    assert result.accepted == 1
    assert not result.replayed
    assert store.query("SELECT count(DISTINCT spool_id) FROM ingest_batches").rows == [(2,)]


def test_clients_do_not_pass_for_a_collector(store: Store, recorder: Recorder) -> None:
    """Whether anybody polls, and up to when, is said by collectors alone; so is how an agent is."""
    schedule(store, "alpha", NOON, None)
    observation = "SELECT live, observed_to AS ts FROM observation"
    recorder.health_check("alpha", "unhealthy", at=NOON)
    before = [bool(live) for live, _ in read(store, observation)]
    store.open_session(SESSION)
    lost = Loss(agent="alpha", from_due=NOON, to_due=NOON, n=1, reason="spool_age")
    store.write(replace(Spool().batch(losses=[lost]), observed_to_us=to_us(NOON)))
    live = read(store, observation)
    recorder.health_check("alpha", "unhealthy", at=NOON + timedelta(seconds=1))
    still = read(store, observation)
    store.close_session(SESSION)
    recorder.health_check("alpha", "unhealthy", at=NOON + timedelta(seconds=2))
    over = [bool(live) for live, _ in read(store, observation)]

    assert before == [False]
    assert bool(live[0][0])
    assert live[0][1] == NOON
    assert still == live
    assert over == [False]
    assert store.query("SELECT status FROM agents WHERE name = 'alpha'").rows == [("unknown",)]
    assert store.query("SELECT count(*) FROM status_events").rows == [(0,)]


def test_closed_recorder_says_so(store: Store, recorder: Recorder) -> None:
    """After its end a client records nothing any more, and no second session is opened for it."""
    recorder.health_check("alpha", "healthy")
    recorder.close()
    with pytest.raises(StorageError, match="recorder orders is closed: make another one"):
        recorder.health_check("alpha", "healthy")

    assert store.query("SELECT count(*), count(ended_at) FROM collector_sessions").rows == [(1, 1)]


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_clients_neither_claim_nor_mind_a_claim(store: Store, database_url: str, recorder: Recorder) -> None:
    """A collector may start while a client writes, and a client may write beside a collector."""
    recorder.health_check("alpha", "healthy")
    collector = open_store(database_url)
    try:
        collector.claim_collector("test")
        result = recorder.health_check("alpha", "healthy", at=NOON + timedelta(seconds=1))
    finally:
        collector.close()

    assert result.accepted == 1
