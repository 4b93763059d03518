"""
The SQL function ``record_batch``: what it writes is what ``Store.write`` writes.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors, sql

from rollups.refresh import refresh_all
from rollups.verify import verify
from storage.batch import Batch, make_checks, make_samples
from storage.errors import TransientStorageError
from storage.metric_labels import labels_json
from storage.model import ROLLUPS, Kind, MetricKey, Outcome, Table, Tier, from_us, to_us
from storage.open import open_store
from storage.store import Capability, Store
from tests.batches import NOON, SESSION
from tests.fleet import add_agent
from tests.roles import lent
from tests.servers import Servers

#: SQLite has no functions that a client could call.
pytestmark = pytest.mark.needs(Capability.COPY)

HORIZON = NOON - timedelta(hours=3)
LATER = NOON + timedelta(days=3)
ROLES = Path(__file__).parents[2] / "docs" / "roles.md"
STORAGE = ROLES.with_name("storage.md")

#: What is there after writing, by names instead of ids.
STATE = {
    "checks": "SELECT ts, agent, outcome, late_ms, latency_ms, http_status, reason FROM health_records",
    "agents": "SELECT ts, agent, metric, CAST(labels AS text), kind, unit, value FROM agent_samples",
    "hosts": "SELECT ts, host, metric, CAST(labels AS text), kind, unit, value FROM system_samples",
    "metrics": "SELECT name, kind, CAST(labels AS text), labels_digest, unit, description FROM metrics",
    "reasons": "SELECT reason FROM reasons",
    "marks": "SELECT tbl, tier, bucket FROM marks",
    "batches": "SELECT spool_id, seq, status, n_rows, reason FROM ingest_batches",
    "days": "SELECT spool_id, seq, tbl, utc_day, n FROM ingest_batch_days",
    "refused": "SELECT spool_id, seq, tbl, reason, n FROM ingest_rejections",
    "losses": "SELECT a.name, x.from_due, x.to_due, x.n, x.reason, x.spool_id, x.seq FROM losses AS x"
    " JOIN agents AS a ON a.id = x.agent_id",
    "forced": "SELECT count(*) FROM quarantine",
}


def words_of(batch: Batch) -> dict[str, object]:
    """Return *batch* as ``record_batch`` takes it."""

    def number(value: float) -> float | str:
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")

    def moment(us: int) -> str:
        return from_us(int(us)).isoformat()

    checks = batch.checks
    samples = {
        key: [
            {
                entity: names[place],
                "metric": batch.metrics[metric].name,
                "labels": dict(batch.metrics[metric].labels),
                "kind": batch.metrics[metric].kind.value,
                "unit": batch.metrics[metric].unit,
                "ts": moment(us),
                "value": number(value),
            }
            for us, place, metric, value in zip(
                columns.ts_us.tolist(),
                columns.entity.tolist(),
                columns.metric.tolist(),
                columns.value.tolist(),
                strict=True,
            )
        ]
        for key, entity, names, columns in (
            ("agent_samples", "agent", batch.agents, batch.agent_samples),
            ("system_samples", "host", batch.hosts, batch.system_samples),
        )
    }
    return {
        "client": "orders",
        "checks": [
            {
                "agent": batch.agents[checks.agent[row]],
                "ts": moment(checks.ts_us[row]),
                "outcome": Outcome(int(checks.outcome[row])).label,
                "late_ms": number(float(checks.late_ms[row])),
                "latency_ms": number(float(checks.latency_ms[row])),
                "http_status": int(checks.http_status[row]),
                "reason": batch.reasons[checks.reason[row]] if checks.reason[row] >= 0 else "",
            }
            for row in range(len(checks))
        ],
        **samples,
    }


def random_batch(rng: random.Random, spool: UUID, seq: int) -> Batch:
    """Return a batch of one day with everything in it that rows are refused or changed for."""
    start = rng.choice([HORIZON - timedelta(minutes=5), NOON, LATER, datetime.now(UTC) + timedelta(days=3)])
    odd = ['"\\/\b\f\n\r\t', "\x01\x1f\x7f", "ünïcödé", "\u2028", "🦉", "a", "B", ""]
    labels = [tuple(sorted({rng.choice(odd): rng.choice(odd) for _ in range(rng.randrange(4))}.items())) for _ in "123"]
    metrics = tuple(
        dict.fromkeys(
            MetricKey(
                name=rng.choice(["m", "M", "µ" * 900, "µ" * 1_001]),
                labels=rng.choice(labels),
                kind=rng.choice(list(Kind)),
                unit=rng.choice(["By", "€" * 700]),
            )
            for _ in range(6)
        )
    )
    values = [0.0, 1.0, 0.1 + 0.2, 1e-300, 1e-290, 5e-324, 1e290, 1.1e290, 1.7e308, math.nan, math.inf, 1e-5]
    latencies = [math.nan, 0.0, 12.5, 3.4e38, 3.5e38, math.inf, 1e-40, 1e-60, 0.1]
    reasons = ("slow", "€" * 667, "x" * 2_001)

    def moments(n: int) -> list[int]:
        return sorted(to_us(start) + rng.randrange(600) * 1_000_000 + rng.randrange(10**6) for _ in range(n))

    n, na, ns = (rng.randrange(1, 20) for _ in range(3))
    return Batch(
        spool_id=spool,
        seq=seq,
        session=replace(SESSION, is_collector=False),
        agents=("alpha", "beta"),
        hosts=("box", "dose"),
        metrics=metrics,
        reasons=reasons,
        checks=make_checks(
            ts_us=moments(n),
            agent=[rng.randrange(2) for _ in range(n)],
            outcome=[int(rng.choice(list(Outcome))) for _ in range(n)],
            late_ms=[math.nan if rng.random() < 0.5 else 1.5 for _ in range(n)],
            # As a column holds them: what is too large is infinite there.
            latency_ms=[math.inf if each > 3.4e38 else each for each in rng.choices(latencies, k=n)],
            http_status=[rng.choice([0, 200, 503]) for _ in range(n)],
            reason=[rng.randrange(-1, 3) for _ in range(n)],
        ),
        agent_samples=make_samples(
            ts_us=moments(na),
            entity=[rng.randrange(2) for _ in range(na)],
            metric=[rng.randrange(len(metrics)) for _ in range(na)],
            value=rng.choices(values, k=na),
        ),
        system_samples=make_samples(
            ts_us=moments(ns),
            entity=[rng.randrange(2) for _ in range(ns)],
            metric=[rng.randrange(len(metrics)) for _ in range(ns)],
            value=rng.choices(values, k=ns),
        ),
    )


def named_in(batch: Batch) -> Batch:
    """Return *batch* without names that no row of it mentions: a client's batch has none."""
    used = sorted({*batch.agent_samples.metric.tolist(), *batch.system_samples.metric.tolist()})
    place = {metric: k for k, metric in enumerate(used)}
    reasons = sorted({*batch.checks.reason.tolist()} - {-1})
    said = {-1: -1} | {reason: k for k, reason in enumerate(reasons)}
    hosts = sorted({*batch.system_samples.entity.tolist()})
    return replace(
        batch,
        metrics=tuple(batch.metrics[metric] for metric in used),
        reasons=tuple(batch.reasons[reason] for reason in reasons),
        hosts=tuple(batch.hosts[host] for host in hosts),
        checks=replace(batch.checks, reason=make_checks(reason=[said[k] for k in batch.checks.reason.tolist()]).reason),
        agent_samples=_with_metrics(batch.agent_samples, place),
        system_samples=replace(
            _with_metrics(batch.system_samples, place),
            entity=make_samples(entity=[hosts.index(k) for k in batch.system_samples.entity.tolist()]).entity,
        ),
    )


def _with_metrics(columns: Any, place: Mapping[int, int]) -> Any:
    return replace(columns, metric=make_samples(metric=[place[k] for k in columns.metric.tolist()]).metric)


@contextmanager
def connected(store: Store) -> Iterator[psycopg.Connection]:
    """Lend a session of a client's."""
    url = store.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def call(connection: psycopg.Connection, spool: UUID, seq: int, batch: Mapping[str, object]) -> dict[str, Any]:
    """Return what ``record_batch`` answers."""
    row = connection.execute("SELECT record_batch(%s, %s, %s::jsonb)", (spool, seq, json.dumps(batch))).fetchone()
    assert row is not None
    answer: dict[str, Any] = row[0]
    return answer


def state(store: Store) -> dict[str, list[str]]:
    """Return everything that writing leaves."""
    found = {name: sorted(map(repr, store.query(statement).rows)) for name, statement in STATE.items()}
    for table in Table:
        for tier in ROLLUPS:
            # Bins stand in the order in which rows were read.
            left_out = "ARRAY['metric_id', 'agent_id', 'host_id', 'latency_bins']"
            rows = f"SELECT to_jsonb(r) - {left_out} FROM {table.relation(tier)} AS r"  # noqa: S608  # names of our own
            found[f"{table} {tier}"] = sorted(map(repr, store.query(rows).rows))
    return found


def open_agents(store: Store) -> None:
    """Register agents, and close the first hours of the morning."""
    add_agent(store, "alpha")
    add_agent(store, "beta")
    for table in Table:
        store.close_below(table, Tier.RAW, HORIZON)


def test_same_rows_as_store_write(database_servers: Servers, engine_name: str) -> None:
    """Twelve random batches leave the same rows, marks, ledger, refusals and losses on either way, and the same rollups."""
    rng, spool = random.Random(20260310), uuid4()
    batches = [named_in(random_batch(rng, spool, seq)) for seq in range(1, 13)]
    with database_servers.database(engine_name) as url, open_closed(url) as store:
        open_agents(store)
        results = [store.write(batch) for batch in batches]
        marks = store.query(STATE["marks"]).rows
        refresh_all(store, LATER + timedelta(days=400))
        expected = state(store)
    with database_servers.database(engine_name) as url, open_closed(url) as store:
        open_agents(store)
        with connected(store) as connection:
            answers = [call(connection, spool, batch.seq, words_of(batch)) for batch in batches]
        found_marks = store.query(STATE["marks"]).rows
        refresh_all(store, LATER + timedelta(days=400))
        found = state(store)
        proof = verify(store, LATER + timedelta(days=400))

    assert answers == [
        {"accepted": result.accepted, "rejected": dict(result.rejected), "replayed": False} for result in results
    ]
    assert sorted(found_marks) == sorted(marks)
    assert found == expected
    assert proof.holds
    seen = {reason for result in results for reason in result.rejected}
    assert seen == {"below_horizon", "too_far_ahead", "bad_text", "not_finite", "out_of_range"}


@contextmanager
def open_closed(url: str) -> Iterator[Store]:
    """Lend a store that is closed in the end."""
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


def test_documented_batch_is_one(store: Store) -> None:
    """The statement in docs/storage.md answers what stands below it."""
    add_agent(store, "planner")
    block = next(part for part in STORAGE.read_text(encoding="utf-8").split("```") if "SELECT record_batch(" in part)
    statement, _, answer = block.removeprefix("sql\n").partition("-- ")
    with connected(store) as connection:
        row = connection.execute(statement.encode()).fetchone()

    assert row == (json.loads(answer),)
    assert json.loads(answer)["accepted"] == 3


def sample(**change: object) -> dict[str, object]:
    """Return one sample of an agent as a client says it."""
    return {"agent": "alpha", "metric": "m", "ts": "2026-03-10T12:00:00Z", "value": 1} | change


def test_batch_is_written_once(store: Store) -> None:
    """The same identity again is a replay, whatever it holds; the next one is not."""
    add_agent(store, "alpha")
    spool = uuid4()
    with connected(store) as connection:
        first = call(connection, spool, 1, {"agent_samples": [sample()]})
        again = call(connection, spool, 1, {"agent_samples": [sample(value=2), sample(value=3)]})
        second = call(connection, spool, 2, {"client": "orders"})
        user = connection.info.user
    rows = store.query("SELECT value FROM agent_metrics").rows
    sessions = store.query("SELECT uuid, name, is_collector FROM collector_sessions").rows
    everybody = "has_function_privilege('public', 'record_batch(uuid, bigint, jsonb)', 'EXECUTE')"

    assert store.query(f"SELECT {everybody}").rows == [(False,)]
    assert first == {"accepted": 1, "rejected": {}, "replayed": False}
    assert again == {"accepted": 0, "rejected": {}, "replayed": True}
    assert second == {"accepted": 0, "rejected": {}, "replayed": False}
    assert rows == [(1.0,)]
    assert sessions == [(spool, user, False)]


def test_batch_may_be_of_several_days(store: Store) -> None:
    """Days that nobody made room for get it; each is counted by itself."""
    add_agent(store, "alpha")
    moments = ["2026-03-10T23:59:59.9999Z", "2026-03-11T01:00:00+02:00", "2026-03-11T00:00:00Z", "2025-01-01 00:00Z"]
    with connected(store) as connection:
        answer = call(connection, uuid4(), 1, {"agent_samples": [sample(ts=ts) for ts in moments]})
    days = store.query("SELECT CAST(utc_day AS text), n FROM ingest_batch_days ORDER BY 1").rows

    assert answer["accepted"] == 4
    assert days == [("2025-01-01", 1), ("2026-03-10", 2), ("2026-03-11", 1)]
    assert all(day.ledger == day.stored for day in store.verify_ledger())


def test_unknown_agent_is_named(store: Store) -> None:
    """It is SQLSTATE 23503, and nothing is left of the batch: its number can be used again."""
    add_agent(store, "alpha")
    spool, rows = uuid4(), [sample(), sample(agent="alpah")]
    with connected(store) as connection:
        with pytest.raises(errors.ForeignKeyViolation, match='there is no agent "alpah"') as raised:
            call(connection, spool, 1, {"agent_samples": rows, "system_samples": []})
        again = call(connection, spool, 1, {"agent_samples": rows[:1]})

    assert raised.value.diag.message_hint == "register it first"
    assert again == {"accepted": 1, "rejected": {}, "replayed": False}
    assert store.query("SELECT name FROM agents").rows == [("alpha",)]


NOT_TEXT: list[object] = [5, ["x"], {}, False]
#: What is no batch, and what is said of it.
MALFORMED: list[tuple[object, str]] = [
    ([], "is array, expected a uuid, a number from 1 on and an object"),
    (
        {"samples": []},
        "batch has samples, expected client .text of at most 2000 bytes., checks, agent_samples, system_samples",
    ),
    ({"client": {"a": 1}}, "batch has client of type object"),
    ({"client": 5}, "batch has client of type number"),
    ({"client": ""}, "batch has client of 0 bytes"),
    ({"checks": {}}, "checks is object, expected an array"),
    ({"checks": [1]}, r"checks\[0\] is number, expected an object"),
    (
        {"agent_samples": [sample(), sample(v=1)]},
        r"agent_samples\[1\] has v, expected agent, ts, metric, value, labels",
    ),
    ({"agent_samples": [sample(value=None)]}, r"agent_samples\[0\] has no value"),
    ({"system_samples": [sample()]}, r"system_samples\[0\] has agent, expected host, ts"),
    (
        {"agent_samples": [sample(ts="2026-03-10T12:00:00")]},
        "has ts 2026-03-10T12:00:00, expected ISO 8601 with a time",
    ),
    ({"agent_samples": [sample(ts="infinity")]}, "has ts infinity, expected ISO 8601"),
    ({"agent_samples": [sample(ts="1969-12-31T23:59:59Z")]}, "expected 1970 to 2199"),
    ({"agent_samples": [sample(ts="2200-01-01T00:00:00Z")]}, "expected 1970 to 2199"),
    ({"agent_samples": [sample(kind="gauges")]}, "has kind gauges, expected gauge or counter"),
    ({"agent_samples": [sample(kind="counter", value=-1)]}, "has a counter with -1, expected the increase, 0 or more"),
    ({"agent_samples": [sample(labels={"k": 1})]}, 'has labels {"k": 1}, expected an object of text'),
    ({"agent_samples": [sample(labels=["k"])]}, "expected an object of text"),
    *(
        ({"agent_samples": [sample(labels={"k": value})]}, "expected an object of text")
        for value in (["x"], [], [["x"]], {"a": "b"}, None, True)
    ),
    *(
        ({"agent_samples": [sample(), sample(value=value)]}, rf"agent_samples\[1\] has value {said}, expected a number")
        for value, said in (("1", '"1"'), ("0x10", '"0x10"'), ("nan", '"nan"'), (True, "true"), ([1], r"\[1\]"))
    ),
    *(
        ({"agent_samples": [sample(**{field: value})]}, f"has {field} .*, expected text")
        for field in ("agent", "metric", "unit", "kind", "ts")
        for value in NOT_TEXT
    ),
    *(
        (
            {"system_samples": [{"host": host, "metric": "m", "ts": NOON.isoformat(), "value": 1}]},
            "has host .*, expected te",
        )
        for host in NOT_TEXT
    ),
    *(
        ({"checks": [{"agent": "alpha", "ts": NOON.isoformat(), "outcome": "healthy", **more}]}, message)
        for more, message in (
            ({"reason": {"a": 1}}, 'has reason {"a": 1}, expected text'),
            ({"latency_ms": "1e2"}, 'has latency_ms "1e2", expected a number'),
            ({"late_ms": False}, "has late_ms false, expected a number"),
            ({"http_status": "200"}, 'has http_status "200", expected a number'),
            ({"http_status": "NaN"}, 'has http_status "NaN", expected a number'),
        )
    ),
    (
        {"checks": [{"agent": "alpha", "ts": NOON.isoformat(), "outcome": "fine"}]},
        "has outcome fine, expected healthy, ",
    ),
    (
        {"checks": [{"agent": "alpha", "ts": NOON.isoformat(), "outcome": "healthy", "http_status": 1000}]},
        "has http_status 1000, expected 0 .none. to 999",
    ),
    (
        {"checks": [{"agent": "alpha", "ts": NOON.isoformat(), "outcome": "healthy", "latency_ms": -1}]},
        "has latency_ms -1, expected 0 or more",
    ),
    ({"system_samples": [{"host": "", "metric": "m", "ts": NOON.isoformat(), "value": 1}]}, "has a host of 0 bytes"),
]


def test_malformed_batch_is_told_apart(store: Store) -> None:
    """Each is SQLSTATE 22023 and names the row, what was found and what was expected; nothing is written."""
    add_agent(store, "alpha")
    with connected(store) as connection:
        for batch, message in MALFORMED:
            with pytest.raises(errors.InvalidParameterValue, match=message):
                call(connection, uuid4(), 1, batch)  # type: ignore[arg-type]  # what it is about
        for spool, seq in ((None, 1), (uuid4(), 0), (uuid4(), None)):
            with pytest.raises(errors.InvalidParameterValue, match="expected a uuid, a number from 1 on"):
                call(connection, spool, seq, {})  # type: ignore[arg-type]  # what it is about
        connection.execute("SET default_transaction_isolation = 'repeatable read'")
        with pytest.raises(errors.InvalidTransactionState, match="is repeatable read, expected read committed"):
            call(connection, uuid4(), 1, {})

    assert store.query("SELECT count(*) FROM ingest_batches").rows == [(0,)]
    assert store.query("SELECT count(*) FROM collector_sessions").rows == [(0,)]


def test_spool_of_another_is_left_alone(store: Store) -> None:
    """Nobody takes the numbers of a collector's spool, nor keeps a collector's session alive."""
    add_agent(store, "alpha")
    spool = uuid4()
    store.open_session(SESSION)
    store.write(Batch(spool_id=spool, seq=1, session=SESSION))
    with connected(store) as connection:
        for other in (spool, UUID(SESSION.uuid)):
            with pytest.raises(errors.InsufficientPrivilege, match="is another writer's, expected one of your own"):
                call(connection, other, 2, {"agent_samples": [sample()]})

    assert store.query("SELECT seq FROM ingest_batches").rows == [(1,)]


def test_name_of_a_metric_is_its_labels(store: Store) -> None:
    """Labels of the same words are the same metric to both writers, however they are ordered."""
    add_agent(store, "alpha")
    labels = {"b": 'x"\\\n\x07', "a": "ü"}
    key = MetricKey(name="m", labels=tuple(sorted(labels.items())))
    store.write(
        Batch(
            spool_id=uuid4(),
            seq=1,
            session=SESSION,
            agents=("alpha",),
            metrics=(key,),
            agent_samples=make_samples(ts_us=[to_us(NOON)], entity=[0], metric=[0], value=[1.0]),
        )
    )
    with connected(store) as connection:
        call(connection, uuid4(), 1, {"agent_samples": [sample(labels=labels), sample(labels=None)]})

    assert json.loads(labels_json(key.labels)) == labels
    assert store.query("SELECT count(*) FROM metrics").rows == [(2,)]
    assert store.query("SELECT n FROM agent_metrics_1m ORDER BY n").rows == [(1,), (2,)]


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_horizon_waits_for_a_client(store: Store) -> None:
    """A horizon does not move while a client's transaction may still write below it; once it is over, it does."""
    add_agent(store, "alpha")
    with connected(store) as connection, connection.transaction():
        call(connection, uuid4(), 1, {"agent_samples": [sample()]})
        with pytest.raises(TransientStorageError):
            store.close_below(Table.AGENT, Tier.RAW, NOON + timedelta(days=1))
    store.close_below(Table.AGENT, Tier.RAW, NOON + timedelta(days=1))
    with connected(store) as connection:
        late = call(connection, uuid4(), 1, {"agent_samples": [sample()]})

    assert late["rejected"] == {"below_horizon": 1}
    assert store.query("SELECT count(*) FROM agent_metrics").rows == [(1,)]


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_application_needs_no_other_right(database_servers: Servers, engine_name: str) -> None:
    """Writer and whoever it was granted to, as docs/roles.md says, may call it; they get no table by it, others nothing."""
    documented = ROLES.read_text(encoding="utf-8").partition("## Letting an application write")[2]
    statements = documented.partition("```sql\n")[2].partition("```")[0]
    with lent(database_servers, engine_name) as place:
        place.apply()
        application = place.other("application")
        with place.connected() as connection:
            login = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(application), application)
            connection.execute(login)
            said = statements.replace("CREATE ROLE orders LOGIN;\n", "").replace("orders", application)
            connection.execute(said.replace("DATABASE fleetpulse", f"DATABASE {connection.info.dbname}").encode())
        with place.store() as store:
            add_agent(store, "alpha")
        rows = {"agent_samples": [sample()]}
        answers = []
        for role in (place.names.writer, application):
            with place.connected(role) as connection:
                answers.append(call(connection, uuid4(), 1, rows))
        with place.connected(place.names.reader) as connection:
            connection.execute("SET default_transaction_read_only = off")
            with pytest.raises(errors.InsufficientPrivilege):
                call(connection, uuid4(), 1, rows)
        with place.connected(application) as connection:
            for statement in ("SELECT FROM agent_metrics", "SELECT FROM agents", "DELETE FROM marks"):
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(statement.encode())
            # Whose name is looked for first is not for the caller to say.
            connection.execute("SET search_path = pg_temp, public")
            answers.append(call(connection, uuid4(), 1, rows))
        left = place.plan()
        with place.connected() as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(application)))

    assert [answer["accepted"] for answer in answers] == [1, 1, 1]
    assert left == []
