"""
What TimescaleDB would do to rollups if it were left alone, and does not: late rows, dropped chunks, columns, jobs.

Of its known traps these cannot happen here, and have no test: a unique key without the time (the time series have none,
exactly-once comes from the ledger), upserts into compressed chunks (there are no upserts on time series), altering a
compressed table or a continuous aggregate (a version of ``provision()`` would make a new one beside it), refreshes inside
a transaction block, and with an open bound (``refresh`` is the only caller, with both bounds, in autocommit). Differences
that Alembic would see are tested with the migrations, on every engine; dump, restore and updates of the extension are an
administrator's, and docs/deployment.md has them step by step.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from rollups.audit import findings
from rollups.policy import RetentionPolicy
from rollups.refresh import rebuild, refresh_all
from rollups.retention import apply
from rollups.verify import verify
from storage.errors import CapabilityMissing
from storage.model import ROLLUPS, Outcome, Table, Tier, Window
from storage.open import open_store
from storage.pg.series import Server
from storage.store import Capability, Store
from storage.timescaledb import TimescaledbSeries
from tests.batches import NOON, Spool, every

DAY = timedelta(days=1)
NOW = NOON + timedelta(days=11, hours=6)
POLICY = RetentionPolicy(raw=3 * DAY, m1=6 * DAY, h1=400 * DAY, d1=None, ledger=30 * DAY)

on_timescaledb = pytest.mark.needs(Capability.COLUMNSTORE)


def fill(store: Store, spool: Spool, days: int = 12) -> None:
    """Write a sample and a check every six hours."""
    for day in range(days):
        moments = every(NOON.replace(hour=0) + day * DAY, 6 * 3600, 4)
        store.write(
            spool.batch(
                samples=[("a", "m", at, float(day)) for at in moments],
                checks=[("a", at, Outcome.HEALTHY, 1.0 + day) for at in moments],
            )
        )


def rows(store: Store, tier: Tier) -> list[tuple[object, ...]]:
    """Return the agent's metric at *tier*."""
    return list(store.query(f"SELECT bucket, n, sum FROM {Table.AGENT.relation(tier)} ORDER BY bucket, n, sum").rows)  # noqa: S608  # the test's own names


def autocommit(store: Store, statement: str) -> None:
    """Run what may not stand in a transaction."""
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))


def to_columns(store: Store, relation: str) -> None:
    """Turn every chunk of *relation* to columns, as the policy does after some days."""
    for (chunk,) in store.query(f"SELECT show_chunks('{relation}')::text").rows:  # the test's own names
        autocommit(store, f"CALL convert_to_columnstore('{chunk}', if_not_columnstore => true)")


def columns_used(store: Store, table: str) -> int:
    """Return how many chunks of *table* are kept by columns."""
    count = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed AND hypertable_name = :name"
    found = store.query(count, {"name": table}).rows[0][0]
    assert isinstance(found, int)
    return found


@on_timescaledb
def test_late_rows_below_the_watermark_wait_for_their_refresh(store: Store) -> None:
    """What was never refreshed shows at once; a late row shows with the refresh of its minute, its hour, its day."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 120)]))
    at_once = rows(store, Tier.D1)
    refresh_all(store, NOW)
    store.write(spool.batch(samples=[("a", "m", NOON + timedelta(seconds=30), 5.0)]))
    marked = store.dirty(Table.AGENT, Tier.M1, NOW)
    summary = refresh_all(store, NOW)

    assert at_once == [(NOON.replace(hour=0), 120, 120.0)]
    assert marked == [NOON]
    assert summary.buckets == 3
    assert rows(store, Tier.M1)[0] == (NOON, 2, 6.0)
    assert rows(store, Tier.D1) == [(NOON.replace(hour=0), 121, 125.0)]
    assert store.query("SELECT count(*) FROM marks").rows == [(0,)]


@on_timescaledb
def test_verify_says_nothing_of_what_is_marked_and_settles_first(store: Store) -> None:
    """A marked bucket that lags is no difference; a proof refreshes before it compares."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 3)]))
    refresh_all(store, NOW)
    store.write(spool.batch(samples=[("a", "m", NOON, 5.0)]))
    lagging = store.verify_tier(Table.AGENT, Tier.M1, Window(NOON, NOON + timedelta(hours=1)))
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM marks"))
    forgotten = store.verify_tier(Table.AGENT, Tier.M1, Window(NOON, NOON + timedelta(hours=1)))
    rebuild(store, Window(NOON, NOON + timedelta(hours=1)), NOW)

    assert lagging == []
    assert [(each.bucket, each.found["n"], each.expected["n"]) for each in forgotten] == [(NOON, 1, 2)]
    assert verify(store, NOW).holds


@on_timescaledb
def test_late_rows_reach_compressed_chunks_and_tiers(store: Store) -> None:
    """Raw rows and tiers kept by columns take late rows, are refreshed, and are equal to raw."""
    spool = Spool()
    moments = every(NOON.replace(hour=0), 60, 1440)
    store.write(
        spool.batch(
            samples=[("a", "m", at, float(k)) for k, at in enumerate(moments)],
            checks=[("a", at, Outcome.HEALTHY, 5.0) for at in moments],
        )
    )
    refresh_all(store, NOW)
    for table in (Table.AGENT, Table.HEALTH):
        for tier in Tier:
            to_columns(store, table.value if tier is Tier.RAW else f"{table.relation(tier)}_mat")
    compressed = (columns_used(store, "agent_metrics"), columns_used(store, "health_checks"))
    late = store.write(
        spool.batch(
            samples=[("a", "m", NOON + timedelta(seconds=k), -1.0) for k in range(1, 50)],
            checks=[("a", NOON + timedelta(seconds=1), Outcome.ERROR, None)],
        )
    )
    refresh_all(store, NOW)

    assert compressed == (1, 1)
    assert late.accepted == 50
    assert rows(store, Tier.D1)[0][1] == 1440 + 49
    assert store.query("SELECT n, error FROM health_1d").rows == [(1441, 1)]
    assert verify(store, NOW).holds


@on_timescaledb
def test_retention_drops_compressed_chunks_and_keeps_every_rollup(store: Store) -> None:
    """Chunks by columns are proven and dropped as others are."""
    fill(store, Spool())
    refresh_all(store, NOW)
    before = {tier: rows(store, tier) for tier in ROLLUPS}
    to_columns(store, "agent_metrics")
    result = apply(store, POLICY, NOW)

    assert result.ok
    assert [part.window.start.day for part in store.partitions(Table.AGENT, Tier.RAW)] == [18, 19, 20, 21]
    assert rows(store, Tier.H1) == before[Tier.H1]
    assert rows(store, Tier.D1) == before[Tier.D1]
    assert verify(store, NOW).holds


@pytest.mark.needs(Capability.COLUMNSTORE, Capability.SERVER_JOBS)
def test_refresh_of_everything_after_a_drop_changes_nothing(store: Store) -> None:
    """
    Chunks go without a word to the aggregates: nobody's refresh computes their buckets from nothing.

    A batch of few rows that are far apart is noted by the server as everything in between.
    """
    spool = Spool()
    autocommit(
        store, "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
    )
    fill(store, spool)
    refresh_all(store, NOW)
    store.write(
        spool.batch(
            samples=[("b", "m", at, 1.0) for at in every(NOON.replace(hour=0) + 6 * DAY, 24 * 3600 - 60, 2)],
            checks=[("b", at, Outcome.HEALTHY, 1.0) for at in every(NOON.replace(hour=0) + 6 * DAY, 24 * 3600 - 60, 2)],
        )
    )
    apply(store, POLICY, NOW)
    before = {tier: rows(store, tier) for tier in ROLLUPS}
    for table in (Table.AGENT, Table.HEALTH):
        for tier in ROLLUPS:
            autocommit(store, f"CALL refresh_continuous_aggregate('{table.relation(tier)}_mat', NULL, NULL)")

    assert {tier: rows(store, tier) for tier in ROLLUPS} == before
    assert len(before[Tier.D1]) == 13


@on_timescaledb
def test_row_ahead_of_the_clock_moves_no_watermark(store: Store) -> None:
    """A row of tomorrow is taken and shown; what is dated far ahead is refused; rows of now still show at once."""
    spool, now = Spool(), datetime.now(UTC)
    ahead = store.write(spool.batch(samples=[("a", "m", now + timedelta(hours=20), 7.0)]))
    garbage = store.write(spool.batch(samples=[("a", "m", now + timedelta(days=5 * 365), 7.0)]))
    refresh_all(store, now)
    store.write(spool.batch(samples=[("a", "m", now, 1.0)]))

    assert ahead.accepted == 1
    assert dict(garbage.rejected) == {"too_far_ahead": 1}
    assert [row[2] for row in rows(store, Tier.M1)] == [1.0, 7.0]


@on_timescaledb
def test_days_of_rows_are_days_of_chunks(store: Store) -> None:
    """Garbage dates make no chunks: those below the horizon and ahead of the clock are refused before they are made."""
    spool = Spool()
    fill(store, spool, days=3)
    store.close_below(Table.AGENT, Tier.RAW, NOON - DAY)
    for year in (1971, 1999, 2015, 2150):
        store.write(spool.batch(samples=[("a", "m", datetime(year, 5, 5, tzinfo=UTC), 1.0)]))

    assert len(store.partitions(Table.AGENT, Tier.RAW)) == 3
    assert store.query("SELECT reason, sum(n)::int FROM ingest_rejections GROUP BY reason ORDER BY reason").rows == [
        ("below_horizon", 3),
        ("too_far_ahead", 1),
    ]


@on_timescaledb
def test_no_foreign_key_leaves_the_time_series(store: Store) -> None:
    """Dropping a chunk locks what its keys point to, and stalls ingest: there are none."""
    keys = (
        "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid IN"
        " ('health_checks'::regclass, 'agent_metrics'::regclass, 'system_metrics'::regclass)"
    )

    assert store.query(keys).rows == [(0,)]


@pytest.mark.needs(Capability.COLUMNSTORE, Capability.SEVERAL_WRITERS)
def test_refresh_that_gets_no_lock_leaves_its_marks(store: Store, database_url: str) -> None:
    """A chunk that is being converted makes the refresh busy; its marks stay and the next round computes them."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)]))
    refresh_all(store, NOW)
    store.write(spool.batch(samples=[("a", "m", NOON, 2.0)]))
    hypertable = store.query(
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)"
        " FROM timescaledb_information.continuous_aggregates WHERE view_name = 'agent_metrics_1m_mat'"
    ).rows[0][0]
    other = open_store(database_url)
    try:
        with store.engine.connect() as holder:
            holder.execute(text(f"LOCK TABLE {hypertable} IN ACCESS EXCLUSIVE MODE"))
            busy = other.refresh(Table.AGENT, Tier.M1, closed_before=NOW)
            written = other.write(spool.batch(samples=[("a", "m", NOON + timedelta(minutes=1), 1.0)]))
            holder.rollback()
    finally:
        other.close()
    left = store.dirty(Table.AGENT, Tier.M1, NOW)
    refresh_all(store, NOW)

    assert busy.busy
    assert written.accepted == 1
    assert left == [NOON, NOON + timedelta(minutes=1)]
    assert rows(store, Tier.D1) == [(NOON.replace(hour=0), 3, 4.0)]


# ---------------------------------------------------------------- the server's own jobs


@on_timescaledb
def test_policies_as_provisioned_pass_the_audit(store: Store) -> None:
    """Each tier has one refresh policy, everything one columnstore policy, and nothing drops by itself."""
    jobs = store.query(
        "SELECT proc_name::text, count(*)::int FROM timescaledb_information.jobs WHERE job_id >= 1000"
        " GROUP BY proc_name ORDER BY proc_name"
    ).rows

    assert jobs == [("policy_compression", 12), ("policy_refresh_continuous_aggregate", 9)]
    assert findings(store, RetentionPolicy()) == []


@on_timescaledb
@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("SELECT add_retention_policy('agent_metrics', INTERVAL '2 days')", r"agent_metrics has a retention policy"),
        (
            "SELECT remove_continuous_aggregate_policy('health_1h_mat')",
            r"health_1h_mat has no refresh policy: while no daemon runs, nothing refreshes it",
        ),
        (
            "SELECT alter_job(job_id, config => jsonb_set(config, '{start_offset}', '\"8 days\"'))"
            " FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'"
            " AND config ->> 'end_offset' = '00:01:00'",
            r"refresh policy of agent_metrics_1m_mat reaches back over 8 days, 0:00:00, expected less than 6 days",
        ),
        (
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs"
            " WHERE proc_name = 'policy_refresh_continuous_aggregate'",
            r"refresh policy of system_metrics_1d_mat is switched off",
        ),
    ],
)
def test_audit_finds_what_endangers_rollups(store: Store, statement: str, finding: str) -> None:
    """A policy that drops, that reaches below what is kept, or that is missing is told, with the remedy."""
    autocommit(store, statement.replace(":", r"\:"))
    found = "\n".join(findings(store, RetentionPolicy()))

    assert re.search(finding, found), found


@on_timescaledb
def test_audit_finds_what_was_refreshed_beyond_now(store: Store) -> None:
    """A refresh by hand without an end takes the running bucket as it is; what comes after waits for its end."""
    store.write(Spool().batch(samples=[("a", "m", datetime.now(UTC), 1.0)]))
    autocommit(store, "CALL refresh_continuous_aggregate('agent_metrics_1m_mat', NULL, NULL)")
    autocommit(store, "CALL refresh_continuous_aggregate('agent_metrics_1h_mat', NULL, NULL)")
    found = findings(store, RetentionPolicy())

    assert any(finding.startswith("agent_metrics_1h_mat was refreshed by hand up to 20") for finding in found), found


@on_timescaledb
def test_audit_finds_jobs_that_get_no_worker(store: Store) -> None:
    """A job whose time is long past is told; one that has just begun has no next time, and is not late."""
    if Capability.SERVER_JOBS in store.capabilities:
        autocommit(store, "SELECT _timescaledb_functions.stop_background_workers()")
    jobs = (
        "FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression' AND hypertable_name = 'agent_metrics'"
    )
    autocommit(store, f"SELECT alter_job(job_id, next_start => now() - INTERVAL '1000 days') {jobs}")
    late = findings(store, RetentionPolicy())
    autocommit(
        store,
        f"UPDATE _timescaledb_internal.bgw_job_stat SET next_start = '-infinity' WHERE job_id = (SELECT job_id {jobs})",  # noqa: S608  # the test's own words
    )
    begun = findings(store, RetentionPolicy())

    assert [finding.partition(":")[0] for finding in late] == ["policy_compression of agent_metrics is long overdue"]
    assert begun == []


@pytest.mark.needs(Capability.COLUMNSTORE, Capability.SERVER_JOBS)
def test_policy_refreshes_by_itself(store: Store) -> None:
    """The policy of the 1m tier, run by the server, materialises what has been written; its marks find nothing to do."""
    spool, now = Spool(), datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0) - timedelta(minutes=30)
    store.write(spool.batch(samples=[("a", "m", minute, 4.0)]))
    job = store.query(
        "SELECT j.job_id FROM timescaledb_information.jobs AS j"
        " JOIN timescaledb_information.continuous_aggregates AS c"
        " ON j.hypertable_name IN (c.view_name, c.materialization_hypertable_name)"
        " WHERE c.view_name = 'agent_metrics_1m_mat' AND j.proc_name = 'policy_refresh_continuous_aggregate'"
    ).rows[0][0]
    autocommit(store, f"CALL run_job({job})")
    held = len(store.partitions(Table.AGENT, Tier.M1))
    summary = refresh_all(store, now)

    assert held == 1
    assert summary.buckets >= 1
    assert rows(store, Tier.M1) == [(minute, 1, 4.0)]
    assert verify(store, now).holds


# ---------------------------------------------------------------- servers that it does not work on


SERVER = Server(
    version=180_004, version_text="18.4", wasm=False, timescaledb="2.29.2", license="timescale", provisioned=None
)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"timescaledb": None, "license": None},
            r"found PostgreSQL 18\.4 without the extension .*CREATE EXTENSION timescaledb",
        ),
        ({"timescaledb": "2.26.3"}, r"found TimescaleDB 2\.26\.3, needed TimescaleDB 2\.28\.2 or later"),
        ({"timescaledb": "2.22.0", "wasm": True}, r"found TimescaleDB 2\.22\.0, needed TimescaleDB 2\.23\.0 or later"),
        ({"license": "apache"}, r"with license apache, needed the community edition"),
        ({"version": 150_010, "version_text": "15.10"}, r"found PostgreSQL 15\.10, needed PostgreSQL 16 or later"),
    ],
)
def test_server_that_will_not_do_is_named_with_the_alternative(found: dict[str, object], message: str) -> None:
    """What is missing is said, with what would mend it and the engine that does without."""
    values = {name: getattr(SERVER, name) for name in Server.__slots__} | found
    with pytest.raises(CapabilityMissing, match=message) as caught:
        TimescaledbSeries(Server(**values)).insist()

    assert 'or set engine = "postgresql"' in str(caught.value)


@pytest.mark.parametrize("version", ["2.28.2", "2.29.2", "2.31.0", "2.30.0-dev"])
def test_server_that_will_do_passes(version: str) -> None:
    """From the oldest version on every later one will do."""
    values = {name: getattr(SERVER, name) for name in Server.__slots__} | {"timescaledb": version}
    TimescaledbSeries(Server(**values)).insist()
