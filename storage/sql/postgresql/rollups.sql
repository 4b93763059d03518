-- How a tier is computed from the one below. Every fragment answers its columns in the order of the materialised
-- table; {bucket} is the bucket of a row of {source}, {within} bounds the rows that are read, and
-- {epoch} is a row's time in seconds.
-- "last" is the value at the greatest time: the maximum over (time, value) pairs, which needs no sort.

-- health_from_raw --
SELECT {bucket} AS bucket,
       r.agent_id,
       count(*) AS n,
       count(*) FILTER (WHERE r.outcome = 0) AS healthy,
       count(*) FILTER (WHERE r.outcome = 1) AS degraded,
       count(*) FILTER (WHERE r.outcome = 2) AS unhealthy,
       count(*) FILTER (WHERE r.outcome = 3) AS stalled,
       count(*) FILTER (WHERE r.outcome = 4) AS timeout,
       count(*) FILTER (WHERE r.outcome = 5) AS refused,
       count(*) FILTER (WHERE r.outcome = 6) AS error,
       count(*) FILTER (WHERE r.outcome = 7) AS skipped,
       count(*) FILTER (WHERE r.outcome = 8) AS paused,
       count(r.latency_ms) AS latency_n,
       sum(r.latency_ms::float8) AS latency_sum,
       min(r.latency_ms::float8) AS latency_min,
       max(r.latency_ms::float8) AS latency_max,
       (max(ARRAY[{epoch}, r.latency_ms::float8]) FILTER (WHERE r.latency_ms IS NOT NULL))[2]
           AS latency_last,
       max(r.late_ms::float8) AS late_max,
       (max(ARRAY[{epoch}, r.outcome]))[2]::smallint AS last_outcome,
       array_agg(ARRAY[latency_bin(r.latency_ms::float8), 1]) FILTER (WHERE r.latency_ms IS NOT NULL) AS latency_bins
FROM {source} AS r
WHERE {within}
GROUP BY {bucket}, r.agent_id

-- health_from_tier --
SELECT {bucket} AS bucket,
       r.agent_id,
       sum(r.n)::bigint AS n,
       sum(r.healthy)::bigint AS healthy,
       sum(r.degraded)::bigint AS degraded,
       sum(r.unhealthy)::bigint AS unhealthy,
       sum(r.stalled)::bigint AS stalled,
       sum(r.timeout)::bigint AS timeout,
       sum(r.refused)::bigint AS refused,
       sum(r.error)::bigint AS error,
       sum(r.skipped)::bigint AS skipped,
       sum(r.paused)::bigint AS paused,
       sum(r.latency_n)::bigint AS latency_n,
       sum(r.latency_sum) AS latency_sum,
       min(r.latency_min) AS latency_min,
       max(r.latency_max) AS latency_max,
       (max(ARRAY[{epoch}, r.latency_last]) FILTER (WHERE r.latency_last IS NOT NULL))[2]
           AS latency_last,
       max(r.late_max) AS late_max,
       (max(ARRAY[{epoch}, r.last_outcome]))[2]::smallint AS last_outcome,
       latency_bins_merge(r.latency_bins) AS latency_bins
FROM {source} AS r
WHERE {within}
GROUP BY {bucket}, r.agent_id

-- samples_from_raw --
SELECT {bucket} AS bucket,
       r.{entity},
       r.metric_id,
       count(*) AS n,
       sum(r.value) AS sum,
       min(r.value) AS min,
       max(r.value) AS max,
       (max(ARRAY[{epoch}, r.value]))[2] AS last
FROM {source} AS r
WHERE {within}
GROUP BY {bucket}, r.{entity}, r.metric_id

-- samples_from_tier --
SELECT {bucket} AS bucket,
       r.{entity},
       r.metric_id,
       sum(r.n)::bigint AS n,
       sum(r.sum) AS sum,
       min(r.min) AS min,
       max(r.max) AS max,
       (max(ARRAY[{epoch}, r.last]))[2] AS last
FROM {source} AS r
WHERE {within}
GROUP BY {bucket}, r.{entity}, r.metric_id

-- exact --
-- The rows of one tier in [start, end), exact in any snapshot: clean buckets as materialised, dirty ones computed
-- from the tier below. A bucket is dirty where its tier or any finer one has a mark in it. The second branch answers
-- the dirty set's own "bucket", so that a condition on it leaves out dirty buckets before they are computed; conditions
-- on entity and metric reach the rows below.
SELECT {columns}
FROM {mat} AS m
WHERE {within_mat}
  AND NOT EXISTS (
      SELECT 1
      FROM marks AS k
      WHERE k.tbl = {tbl}
        AND k.tier = ANY ({tiers})
        AND date_bin({step}, k.bucket, {origin}) = m.bucket
  )
UNION ALL
SELECT {answered}
FROM (
    SELECT DISTINCT date_bin({step}, k.bucket, {origin}) AS bucket
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier = ANY ({tiers})
      AND {within_marks}
) AS {dirty}
CROSS JOIN LATERAL (
{computed}
) AS x

-- view --
-- The public face of a tier.
CREATE OR REPLACE VIEW {view} AS
SELECT {columns}, {averages}
FROM {rows} AS u
