-- Time-series half of the schema on the PostgreSQL family: raw tables, rollups, and what keeps both honest.
-- Codes: tbl 1 health_checks, 2 agent_metrics, 3 system_metrics; tier 0 raw, 1 1m, 2 1h, 3 1d.

-- version_table --
-- The version of everything below, beside Alembic's own of the relational half.
CREATE TABLE IF NOT EXISTS provision_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version int NOT NULL,
    engine text NOT NULL
)

-- health_checks --
-- One row per slot. No primary key: exactly-once comes from the ledger, and COPY is twice as fast without.
CREATE TABLE health_checks (
    ts timestamptz NOT NULL,
    agent_id int NOT NULL,
    outcome smallint NOT NULL,
    late_ms real,
    latency_ms real,
    http_status smallint NOT NULL,
    reason_id int,
    session_id int NOT NULL
) PARTITION BY RANGE (ts)

-- health_checks_entity --
CREATE INDEX health_checks_entity ON health_checks (agent_id, ts)

-- samples --
-- Narrow: any metric without DDL.
CREATE TABLE {table} (
    ts timestamptz NOT NULL,
    {entity} int NOT NULL,
    metric_id int NOT NULL,
    value float8 NOT NULL
) PARTITION BY RANGE (ts)

-- samples_entity --
CREATE INDEX {index} ON {table} ({entity}, metric_id, ts)

-- brin --
-- Finds one bucket in a day without scanning the day; 32 pages per range: 72 kB for a day of 10,000 series.
CREATE INDEX {index} ON {table} USING brin ({time}) WITH (pages_per_range = 32, autosummarize = on)

-- health_mat --
CREATE TABLE {table} (
    bucket timestamptz NOT NULL,
    agent_id int NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum float8,
    latency_min float8,
    latency_max float8,
    latency_last float8,
    late_max float8,
    last_outcome smallint NOT NULL,
    latency_bins int[],
    PRIMARY KEY (agent_id, bucket)
) PARTITION BY RANGE (bucket)

-- samples_mat --
CREATE TABLE {table} (
    bucket timestamptz NOT NULL,
    {entity} int NOT NULL,
    metric_id int NOT NULL,
    n bigint NOT NULL,
    sum float8 NOT NULL,
    min float8 NOT NULL,
    max float8 NOT NULL,
    last float8 NOT NULL,
    PRIMARY KEY ({entity}, metric_id, bucket)
) PARTITION BY RANGE (bucket)

-- marks --
-- An append-only log: "this bucket of this tier may differ from the tier below". Never unique: a set that ignores
-- conflicts loses the mark of a second writer while a refresher removes the first one's, and with it rows.
CREATE TABLE marks (
    mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tbl smallint NOT NULL,
    tier smallint NOT NULL,
    bucket timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 2000)

-- marks_bucket --
CREATE INDEX marks_bucket ON marks (tbl, tier, bucket)

-- horizons --
-- Nothing is written below closed_before; nothing is held or computed below dropped_before.
CREATE TABLE horizons (
    tbl smallint NOT NULL,
    tier smallint NOT NULL,
    closed_before timestamptz NOT NULL,
    dropped_before timestamptz NOT NULL,
    PRIMARY KEY (tbl, tier),
    CHECK (dropped_before <= closed_before)
)

-- horizons_rows --
INSERT INTO horizons (tbl, tier, closed_before, dropped_before)
SELECT tbl, tier, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00'
FROM generate_series(1, 3) AS tbl
CROSS JOIN generate_series(0, 3) AS tier
ORDER BY tbl, tier

-- ingest_batches --
-- The ledger: a batch that is in it has been dealt with, for ever.
CREATE TABLE ingest_batches (
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('committed', 'dropped')),
    n_rows bigint NOT NULL,
    reason text NOT NULL DEFAULT '',
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (spool_id, seq)
)

-- ingest_batches_age --
CREATE INDEX ingest_batches_age ON ingest_batches USING brin (committed_at)

-- ingest_batch_days --
-- Rows that a batch put into a table on a UTC day: their sum must equal count(*).
CREATE TABLE ingest_batch_days (
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    tbl smallint NOT NULL,
    utc_day date NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (utc_day, tbl, spool_id, seq)
)

-- ingest_rejections --
-- Rows that were refused, by reason.
CREATE TABLE ingest_rejections (
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    tbl smallint NOT NULL,
    reason text NOT NULL,
    n bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (spool_id, seq, tbl, reason)
)

-- quarantine --
-- Rows that the database refused, in the collector's words, for a person to look at.
CREATE TABLE quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    tbl smallint NOT NULL,
    payload jsonb NOT NULL,
    sqlstate text NOT NULL,
    message text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
)

-- latency_bin --
-- The logarithmic bin of a latency: bin k > 0 holds (0.1 * 1.02^(k-1), 0.1 * 1.02^k] ms, 0 what is faster, 708 what
-- is slower than 120 s. The bounds are a constant of the format.
CREATE FUNCTION latency_bin(ms float8) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN ms <= 0.1 THEN 0 WHEN ms > 120000 THEN 708
            ELSE greatest(1, least(707, ceil(ln(ms / 0.1) / ln(1.02::float8))))::int END

-- latency_bins_pack --
-- The same counts with one pair per bin, ascending.
CREATE FUNCTION latency_bins_pack(bins int[]) RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT array_agg(ARRAY[packed.bin, packed.n] ORDER BY packed.bin)
    FROM (
        SELECT bins[i][1] AS bin, sum(bins[i][2])::int AS n
        FROM generate_subscripts(bins, 1) AS i
        GROUP BY bins[i][1]
    ) AS packed
)

-- latency_bins_add --
-- State transition of latency_bins_merge: appends, and packs before the state grows costly to copy. The name of what it
-- calls is qualified: a restore, and a refresh of TimescaleDB, run with an empty search_path.
CREATE OR REPLACE FUNCTION latency_bins_add(state int[], bins int[]) RETURNS int[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF bins IS NULL THEN
        RETURN state;
    END IF;
    IF array_length(state, 1) > 4096 THEN
        state := {pack}(state);
    END IF;
    RETURN state || bins;
END
$$

-- latency_bins_merge --
-- Adds up bins over rows, agents or tiers.
CREATE AGGREGATE latency_bins_merge(int[]) (
    sfunc = latency_bins_add, stype = int[], finalfunc = latency_bins_pack,
    combinefunc = latency_bins_add, parallel = safe
)

-- latency_quantile --
-- The q-th quantile in ms, within 1 % of percentile_disc; max_ms answers for what the last bin holds.
CREATE FUNCTION latency_quantile(bins int[], q float8, max_ms float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT CASE WHEN placed.bin = 0 THEN least(0.1, max_ms) WHEN placed.bin = 708 THEN max_ms
                ELSE least(0.1 * 1.02 ^ placed.bin * 2 / 2.02, max_ms) END
    FROM (
        SELECT bins[i][1] AS bin,
               sum(bins[i][2]) OVER (ORDER BY bins[i][1], i) AS upto,
               sum(bins[i][2]) OVER () AS total
        FROM generate_subscripts(bins, 1) AS i
    ) AS placed
    WHERE placed.upto >= greatest(1, ceil(q * placed.total))
    ORDER BY placed.bin
    LIMIT 1
)
