-- Time-series half of the schema on SQLite: raw tables, rollups, and what keeps both honest.
-- Codes: tbl 1 health_checks, 2 agent_metrics, 3 system_metrics; tier 0 raw, 1 1m, 2 1h, 3 1d.
-- Moments are integers of microseconds since the Unix epoch, UUIDs 32 hexadecimal digits, as in the relational half.

-- version_table --
-- The version of everything below, beside Alembic's own of the relational half. The identity is minted with it.
CREATE TABLE IF NOT EXISTS provision_version (
    only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    version INTEGER NOT NULL,
    engine TEXT NOT NULL,
    identity TEXT NOT NULL
) STRICT

-- health_checks --
-- One row per slot. Nothing is unique: exactly-once comes from the ledger.
CREATE TABLE health_checks (
    ts INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    late_ms REAL,
    latency_ms REAL,
    http_status INTEGER NOT NULL,
    reason_id INTEGER,
    session_id INTEGER NOT NULL
) STRICT

-- samples --
-- Narrow: any metric without DDL.
CREATE TABLE {table} (
    ts INTEGER NOT NULL,
    {entity} INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    value REAL NOT NULL
) STRICT

-- entity_index --
-- Finds one series.
CREATE INDEX {table}_entity ON {table} ({key}, ts)

-- time_index --
-- Finds one bucket or day of all series; rows come nearly in its order, so it costs little to write.
CREATE INDEX {table}_{time} ON {table} ({time})

-- series --
-- Which series have raw rows. The views look up the series of a marked bucket one by one: a condition on entity or metric
-- reaches the rows below through this table, which it would not through a subquery that puts two tiers together.
CREATE TABLE {table}_series (
    {columns},
    PRIMARY KEY ({key})
) STRICT, WITHOUT ROWID

-- health_mat --
-- Hours and days have hundreds of latency bins: in a table without row ids, which is an index, each such row would take a
-- page of its own.
CREATE TABLE {table} (
    bucket INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    degraded INTEGER NOT NULL,
    unhealthy INTEGER NOT NULL,
    stalled INTEGER NOT NULL,
    timeout INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    error INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    latency_n INTEGER NOT NULL,
    latency_sum REAL,
    latency_min REAL,
    latency_max REAL,
    latency_last REAL,
    late_max REAL,
    last_outcome INTEGER NOT NULL,
    latency_bins TEXT,
    PRIMARY KEY (agent_id, bucket)
) {storage}

-- samples_mat --
CREATE TABLE {table} (
    bucket INTEGER NOT NULL,
    {entity} INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sum REAL NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    last REAL NOT NULL,
    PRIMARY KEY ({entity}, metric_id, bucket)
) STRICT, WITHOUT ROWID

-- marks --
-- An append-only log: "this bucket of this tier may differ from the tier below". Never unique; removed by id.
CREATE TABLE marks (
    mark_id INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    bucket INTEGER NOT NULL
) STRICT

-- marks_bucket --
CREATE INDEX marks_bucket ON marks (tbl, tier, bucket)

-- horizons --
-- Nothing is written below closed_before; nothing is held or computed below dropped_before.
CREATE TABLE horizons (
    tbl INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    closed_before INTEGER NOT NULL,
    dropped_before INTEGER NOT NULL,
    PRIMARY KEY (tbl, tier),
    CHECK (dropped_before <= closed_before)
) STRICT, WITHOUT ROWID

-- horizons_rows --
INSERT INTO horizons (tbl, tier, closed_before, dropped_before)
SELECT t.column1, r.column1, 0, 0
FROM (VALUES (1), (2), (3)) AS t
CROSS JOIN (VALUES (0), (1), (2), (3)) AS r

-- ingest_batches --
-- The ledger: a batch that is in it has been dealt with, for ever.
CREATE TABLE ingest_batches (
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('committed', 'dropped')),
    n_rows INTEGER NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    committed_at INTEGER NOT NULL,
    PRIMARY KEY (spool_id, seq)
) STRICT, WITHOUT ROWID

-- ingest_batches_age --
CREATE INDEX ingest_batches_age ON ingest_batches (committed_at)

-- ingest_batch_days --
-- Rows that a batch put into a table on a UTC day (YYYY-MM-DD): their sum must equal count(*).
CREATE TABLE ingest_batch_days (
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    utc_day TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (spool_id, seq, tbl, utc_day)
) STRICT, WITHOUT ROWID

-- ingest_batch_days_day --
CREATE INDEX ingest_batch_days_day ON ingest_batch_days (tbl, utc_day, n)

-- ingest_rejections --
-- Rows that were refused, by reason.
CREATE TABLE ingest_rejections (
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    reason TEXT NOT NULL,
    n INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (spool_id, seq, tbl, reason)
) STRICT, WITHOUT ROWID

-- quarantine --
-- Rows that the database refused, in the collector's words (JSON), for a person to look at.
CREATE TABLE quarantine (
    quarantine_id INTEGER PRIMARY KEY,
    spool_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    payload TEXT NOT NULL,
    sqlstate TEXT NOT NULL,
    message TEXT NOT NULL,
    recorded_at INTEGER NOT NULL
) STRICT
