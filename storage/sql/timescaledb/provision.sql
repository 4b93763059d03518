-- Time-series half of the schema on TimescaleDB: hypertables, hierarchical continuous aggregates and their policies.
-- What it shares with plain PostgreSQL (ledger, horizons, functions, public views) is in sql/postgresql.

-- health_checks --
-- One row per slot. No primary key: exactly-once comes from the ledger, and COPY is twice as fast without. No foreign
-- key: dropping a chunk would lock the table that it points to, and with it stall ingest.
CREATE TABLE health_checks (
    ts timestamptz NOT NULL,
    agent_id int NOT NULL,
    outcome smallint NOT NULL,
    late_ms real,
    latency_ms real,
    http_status smallint NOT NULL,
    reason_id int,
    session_id int NOT NULL
) WITH (
    tsdb.hypertable, tsdb.partition_column = 'ts', tsdb.chunk_interval = '1 day',
    tsdb.create_default_indexes = false, tsdb.segmentby = 'agent_id', tsdb.orderby = 'ts'
)

-- samples --
-- Narrow: any metric without DDL.
CREATE TABLE {table} (
    ts timestamptz NOT NULL,
    {entity} int NOT NULL,
    metric_id int NOT NULL,
    value float8 NOT NULL
) WITH (
    tsdb.hypertable, tsdb.partition_column = 'ts', tsdb.chunk_interval = '1 day',
    tsdb.create_default_indexes = false, tsdb.segmentby = {segmentby}, tsdb.orderby = 'ts'
)

-- marks --
-- An append-only log: "this bucket of this tier may differ from the tier below". A forced one has its bucket computed
-- anew even where the server's own log of changes knows of none.
CREATE TABLE marks (
    mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tbl smallint NOT NULL,
    tier smallint NOT NULL,
    bucket timestamptz NOT NULL,
    forced boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 2000)

-- aggregate --
-- A tier. Real-time: what was never refreshed is computed on reading. WITH NO DATA: a first refresh of everything
-- would move the watermark to the newest row, however far ahead that is dated.
CREATE MATERIALIZED VIEW {aggregate}
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
{computed}
WITH NO DATA

-- aggregate_chunks --
SELECT set_chunk_time_interval({aggregate}, {interval})

-- aggregate_index --
CREATE INDEX {index} ON {aggregate} ({keys}, bucket)

-- aggregate_columnstore --
ALTER MATERIALIZED VIEW {aggregate} SET (
    timescaledb.enable_columnstore = true, timescaledb.segmentby = {segmentby}, timescaledb.orderby = 'bucket'
)

-- drop_columnstore_policy --
-- The one that comes with the hypertable compresses after one chunk, while late rows are still on their way.
CALL remove_columnstore_policy({relation}, if_exists => true)

-- add_columnstore_policy --
CALL add_columnstore_policy({relation}, after => {after}, schedule_interval => INTERVAL '6 hours')

-- add_refresh_policy --
SELECT add_continuous_aggregate_policy(
    {aggregate}, start_offset => {reach}, end_offset => {delay}, schedule_interval => {every}
)
