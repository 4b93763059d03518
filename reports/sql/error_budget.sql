-- error_budget --
-- What each agent was allowed to be down in [start, end) to reach its target, and what it has used of that; in slots, as
-- availability counts them. The last part of the window is counted once more: how fast the budget goes now. Slots are
-- whole, what is left of a budget that is used to the last one is a rounding.
WITH slots AS (
    SELECT c.agent_id,
           c.healthy + c.degraded AS up,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error AS down,
           0 AS recent_up,
           0 AS recent_down
    FROM health_1m AS c
    WHERE c.bucket >= :start
      AND c.bucket < :hours_start
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
           0,
           0
    FROM health_1h AS c
    WHERE c.bucket >= :hours_start
      AND c.bucket < :days_start
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
           0,
           0
    FROM health_1d AS c
    WHERE c.bucket >= :days_start
      AND c.bucket < :days_end
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
           0,
           0
    FROM health_1h AS c
    WHERE c.bucket >= :days_end
      AND c.bucket < :hours_end
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
           0,
           0
    FROM health_1m AS c
    WHERE c.bucket >= :hours_end
      AND c.bucket < :end
    UNION ALL
    SELECT c.agent_id,
           0,
           0,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error
    FROM health_1m AS c
    WHERE c.bucket >= :recent_start
      AND c.bucket < :recent_hours_start
    UNION ALL
    SELECT c.agent_id,
           0,
           0,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error
    FROM health_1h AS c
    WHERE c.bucket >= :recent_hours_start
      AND c.bucket < :recent_hours_end
    UNION ALL
    SELECT c.agent_id,
           0,
           0,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error
    FROM health_1m AS c
    WHERE c.bucket >= :recent_hours_end
      AND c.bucket < :recent_end
), totals AS (
    SELECT s.agent_id,
           CAST(SUM(s.up) AS bigint) AS up,
           CAST(SUM(s.down) AS bigint) AS down,
           SUM(s.up + s.down) * (1 - :target) AS allowed_down,
           CAST(SUM(s.recent_down) AS double precision) / NULLIF(SUM(s.recent_up + s.recent_down), 0) AS recent_ratio
    FROM slots AS s
    GROUP BY s.agent_id
)
SELECT a.name AS agent,
       a.type,
       t.up,
       t.down,
       CAST(t.up AS double precision) / (t.up + t.down) AS availability,
       CAST(:target AS double precision) AS target,
       t.allowed_down,
       t.down / t.allowed_down AS used,
       t.allowed_down - t.down AS remaining,
       t.recent_ratio / (1 - :target) AS burn_rate,
       t.allowed_down - t.down < 0.000001 AS exhausted
FROM totals AS t
JOIN agents AS a ON a.id = t.agent_id
WHERE (CAST(:agent AS text) IS NULL OR a.name = :agent)
  AND (CAST(:type AS text) IS NULL OR a.type = :type)
  AND t.up + t.down > 0
ORDER BY used DESC,
         a.name
