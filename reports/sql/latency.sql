-- latency --
-- How long the polls of each agent took in [start, end) until they were answered, from bins that grow by 2 %.
-- Agents without an answer are left out.
WITH answered AS (
    SELECT c.agent_id,
           c.latency_n,
           c.latency_sum,
           c.latency_max,
           c.latency_bins
    FROM health_1m AS c
    WHERE c.bucket >= :start
      AND c.bucket < :hours_start
    UNION ALL
    SELECT c.agent_id,
           c.latency_n,
           c.latency_sum,
           c.latency_max,
           c.latency_bins
    FROM health_1h AS c
    WHERE c.bucket >= :hours_start
      AND c.bucket < :days_start
    UNION ALL
    SELECT c.agent_id,
           c.latency_n,
           c.latency_sum,
           c.latency_max,
           c.latency_bins
    FROM health_1d AS c
    WHERE c.bucket >= :days_start
      AND c.bucket < :days_end
    UNION ALL
    SELECT c.agent_id,
           c.latency_n,
           c.latency_sum,
           c.latency_max,
           c.latency_bins
    FROM health_1h AS c
    WHERE c.bucket >= :days_end
      AND c.bucket < :hours_end
    UNION ALL
    SELECT c.agent_id,
           c.latency_n,
           c.latency_sum,
           c.latency_max,
           c.latency_bins
    FROM health_1m AS c
    WHERE c.bucket >= :hours_end
      AND c.bucket < :end
), totals AS (
    SELECT c.agent_id,
           CAST(SUM(c.latency_n) AS bigint) AS n,
           SUM(c.latency_sum) AS sum_ms,
           MAX(c.latency_max) AS max_ms,
           latency_bins_merge(c.latency_bins) AS bins
    FROM answered AS c
    WHERE c.latency_n > 0
    GROUP BY c.agent_id
)
SELECT a.name AS agent,
       a.type,
       t.n,
       latency_quantile(t.bins, 0.5, t.max_ms) AS p50_ms,
       latency_quantile(t.bins, 0.9, t.max_ms) AS p90_ms,
       latency_quantile(t.bins, 0.95, t.max_ms) AS p95_ms,
       latency_quantile(t.bins, 0.99, t.max_ms) AS p99_ms,
       t.max_ms,
       t.sum_ms / t.n AS mean_ms
FROM totals AS t
JOIN agents AS a ON a.id = t.agent_id
WHERE (CAST(:agent AS text) IS NULL OR a.name = :agent)
  AND (CAST(:type AS text) IS NULL OR a.type = :type)
ORDER BY p95_ms DESC,
         a.name
