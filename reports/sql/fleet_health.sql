-- fleet_health --
-- How each agent is now: what is down first, then what is merely odd, then by name.
SELECT f.agent,
       f.type,
       f.state,
       f.status,
       f.stale,
       f.since,
       f.reason,
       f.last_due,
       f.last_outcome,
       f.last_latency_ms,
       f.interval_s
FROM fleet_health AS f
WHERE (CAST(:agent AS text) IS NULL OR f.agent = :agent)
  AND (CAST(:type AS text) IS NULL OR f.type = :type)
ORDER BY CASE
             WHEN f.status IN ('unhealthy', 'stalled', 'timeout', 'refused', 'error') THEN 0
             WHEN f.stale THEN 1
             WHEN f.status = 'degraded' THEN 2
             WHEN f.status = 'unknown' THEN 3
             WHEN f.status = 'paused' THEN 5
             ELSE 4
         END,
         f.agent
