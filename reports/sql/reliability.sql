-- reliability --
-- How often each agent failed in [start, end), for how long, and how long it worked in between. Downtime is cut at the
-- ends of the window; the time to repair is told of whole incidents, of those that ended in it. An incident that is open
-- goes on until now, and until is where the part of the window ends that has passed.
-- Uptime is time in which somebody saw the agent work: each slot that was up stands for the mean interval of the agent's
-- schedule in the window. Pauses, and what nobody observed, are none.
WITH scheduled AS (
    SELECT s.agent_id,
           SUM(s.interval_s * s.slots) / SUM(s.slots) AS interval_s
    FROM (
        SELECT v.agent_id,
               v.interval_s,
               slots_between(:start, :until, v.from_ts, v.to_ts, v.interval_s, v.offset_s) AS slots
        FROM agent_schedules AS v
        WHERE v.from_ts < :until
          AND (v.to_ts IS NULL OR v.to_ts > :start)
          AND v.state = 'active'
    ) AS s
    WHERE s.slots > 0
    GROUP BY s.agent_id
), slots AS (
    SELECT c.agent_id,
           c.healthy + c.degraded AS up
    FROM health_1m AS c
    WHERE c.bucket >= :start
      AND c.bucket < :hours_start
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded
    FROM health_1h AS c
    WHERE c.bucket >= :hours_start
      AND c.bucket < :days_start
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded
    FROM health_1d AS c
    WHERE c.bucket >= :days_start
      AND c.bucket < :days_end
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded
    FROM health_1h AS c
    WHERE c.bucket >= :days_end
      AND c.bucket < :hours_end
    UNION ALL
    SELECT c.agent_id,
           c.healthy + c.degraded
    FROM health_1m AS c
    WHERE c.bucket >= :hours_end
      AND c.bucket < :end
), observed AS (
    SELECT s.agent_id,
           SUM(s.up) AS up
    FROM slots AS s
    GROUP BY s.agent_id
), touching AS (
    SELECT i.agent_id,
           i.duration_s,
           i.started_at >= :start AS began,
           i.ended_at < :end AS ended,
           CASE WHEN i.started_at < :start THEN seconds_between(i.started_at, :start) ELSE 0 END AS before_s,
           seconds_between(i.started_at, :end) AS until_end_s
    FROM incidents AS i
    WHERE i.started_at < :end
      AND (i.ended_at >= :start OR i.ended_at IS NULL AND i.duration_s > seconds_between(i.started_at, :start))
), incident AS (
    SELECT t.agent_id,
           CASE WHEN t.began THEN 1 ELSE 0 END AS began,
           CASE WHEN t.ended THEN t.duration_s END AS repaired_s,
           CASE WHEN t.ended THEN 0 ELSE 1 END AS open,
           CASE
               -- One that began by a clock that is ahead of the server's.
               WHEN t.duration_s < 0 THEN 0
               WHEN t.duration_s < t.until_end_s THEN t.duration_s - t.before_s
               ELSE t.until_end_s - t.before_s
           END AS down_s
    FROM touching AS t
), failed AS (
    SELECT i.agent_id,
           CAST(SUM(i.began) AS bigint) AS failures,
           SUM(i.down_s) AS downtime_s,
           AVG(i.repaired_s) AS mttr_s,
           MAX(i.down_s) AS longest_s,
           MAX(i.open) AS open
    FROM incident AS i
    GROUP BY i.agent_id
), totals AS (
    SELECT a.name AS agent,
           a.type,
           COALESCE(f.failures, 0) AS failures,
           COALESCE(o.up * COALESCE(s.interval_s, a.interval_s), 0.0) AS uptime_s,
           COALESCE(f.downtime_s, 0.0) AS downtime_s,
           f.mttr_s,
           f.longest_s,
           COALESCE(f.open, 0) = 1 AS open
    FROM agents AS a
    LEFT JOIN scheduled AS s ON s.agent_id = a.id
    LEFT JOIN observed AS o ON o.agent_id = a.id
    LEFT JOIN failed AS f ON f.agent_id = a.id
    WHERE (s.agent_id IS NOT NULL OR o.up > 0 OR f.agent_id IS NOT NULL)
      AND (CAST(:agent AS text) IS NULL OR a.name = :agent)
      AND (CAST(:type AS text) IS NULL OR a.type = :type)
)
SELECT t.agent,
       t.type,
       t.failures,
       t.uptime_s,
       t.downtime_s,
       t.mttr_s,
       t.uptime_s / NULLIF(t.failures, 0) AS mtbf_s,
       t.longest_s,
       t.open
FROM totals AS t
ORDER BY t.downtime_s DESC,
         t.agent
