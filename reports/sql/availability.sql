-- availability --
-- What became of the slots of each agent in [start, end): whole days from the view availability_1d, the hours before and
-- after them from availability, the minutes before and after those by the same rules from health_1m. Agents without a slot and without a check are left out.
WITH edges AS (
    SELECT 1 AS piece, :start AS start_ts, :hours_start AS end_ts
    UNION ALL
    SELECT 2, :hours_end, :end
), bounds AS (
    -- Slots count up to the moment until which every one of them should have ended.
    SELECT e.piece,
           e.start_ts,
           e.end_ts,
           CASE WHEN o.observed_to < e.end_ts THEN o.observed_to ELSE e.end_ts END AS slots_end_ts
    FROM edges AS e
    CROSS JOIN observation AS o
    WHERE e.start_ts < e.end_ts
), parts AS (
    SELECT b.piece,
           s.agent_id,
           slots_between(b.start_ts, b.slots_end_ts, s.from_ts, s.to_ts, s.interval_s, s.offset_s) AS slots,
           CASE
               WHEN s.state = 'paused'
               THEN slots_between(b.start_ts, b.slots_end_ts, s.from_ts, s.to_ts, s.interval_s, s.offset_s)
               ELSE 0
           END AS paused_slots,
           0 AS up,
           0 AS down,
           0 AS skipped,
           0 AS paused_checks,
           0 AS lost
    FROM bounds AS b
    JOIN agent_schedules AS s ON s.from_ts < b.end_ts AND (s.to_ts IS NULL OR s.to_ts > b.start_ts)
    UNION ALL
    SELECT 1,
           c.agent_id,
           0,
           0,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
           c.skipped,
           c.paused,
           0
    FROM health_1m AS c
    WHERE c.bucket >= :start
      AND c.bucket < :hours_start
    UNION ALL
    SELECT 2,
           c.agent_id,
           0,
           0,
           c.healthy + c.degraded,
           c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
           c.skipped,
           c.paused,
           0
    FROM health_1m AS c
    WHERE c.bucket >= :hours_end
      AND c.bucket < :end
    UNION ALL
    SELECT b.piece,
           l.agent_id,
           0,
           0,
           0,
           0,
           0,
           0,
           lost_between(b.start_ts, b.end_ts, l.from_due, l.to_due, l.n)
    FROM bounds AS b
    JOIN losses AS l ON l.from_due < b.end_ts AND l.to_due >= b.start_ts
), pieces AS (
    SELECT p.piece,
           p.agent_id,
           SUM(p.slots) AS slots,
           SUM(p.up) AS up,
           SUM(p.down) AS down,
           SUM(p.skipped) AS skipped,
           SUM(p.lost) AS lost,
           CASE WHEN SUM(p.paused_slots) > SUM(p.paused_checks) THEN SUM(p.paused_slots) ELSE SUM(p.paused_checks) END
               AS paused
    FROM parts AS p
    GROUP BY p.piece,
             p.agent_id
), counted AS (
    SELECT p.agent_id,
           CASE WHEN p.slots > p.paused THEN p.slots - p.paused ELSE 0 END AS expected,
           p.up,
           p.down,
           CASE WHEN p.slots > p.paused + p.up + p.down THEN p.slots - p.paused - p.up - p.down ELSE 0 END AS unobserved,
           p.skipped,
           p.lost,
           p.paused
    FROM pieces AS p
    UNION ALL
    SELECT v.agent_id,
           v.expected,
           v.up,
           v.down,
           v.unobserved,
           v.skipped,
           v.lost,
           v.paused
    FROM availability AS v
    WHERE v.bucket >= :hours_start
      AND v.bucket < :days_start
      AND (CAST(:agent AS text) IS NULL OR v.agent = :agent)
      AND (CAST(:type AS text) IS NULL OR v.type = :type)
    UNION ALL
    SELECT v.agent_id,
           v.expected,
           v.up,
           v.down,
           v.unobserved,
           v.skipped,
           v.lost,
           v.paused
    FROM availability_1d AS v
    WHERE v.bucket >= :days_start
      AND v.bucket < :days_end
      AND (CAST(:agent AS text) IS NULL OR v.agent = :agent)
      AND (CAST(:type AS text) IS NULL OR v.type = :type)
    UNION ALL
    SELECT v.agent_id,
           v.expected,
           v.up,
           v.down,
           v.unobserved,
           v.skipped,
           v.lost,
           v.paused
    FROM availability AS v
    WHERE v.bucket >= :days_end
      AND v.bucket < :hours_end
      AND (CAST(:agent AS text) IS NULL OR v.agent = :agent)
      AND (CAST(:type AS text) IS NULL OR v.type = :type)
), totals AS (
    SELECT c.agent_id,
           CAST(SUM(c.expected) AS bigint) AS expected,
           CAST(SUM(c.up) AS bigint) AS up,
           CAST(SUM(c.down) AS bigint) AS down,
           CAST(SUM(c.unobserved) AS bigint) AS unobserved,
           CAST(SUM(c.skipped) AS bigint) AS skipped,
           CAST(SUM(c.lost) AS bigint) AS lost,
           CAST(SUM(c.paused) AS bigint) AS paused
    FROM counted AS c
    GROUP BY c.agent_id
)
SELECT a.name AS agent,
       a.type,
       t.expected,
       t.up,
       t.down,
       t.unobserved,
       t.skipped,
       t.lost,
       t.paused,
       CAST(t.up AS double precision) / NULLIF(t.up + t.down, 0) AS availability,
       CASE
           WHEN t.up + t.down < t.expected THEN CAST(t.up + t.down AS double precision) / t.expected
           WHEN t.expected > 0 THEN 1.0
       END AS coverage
FROM totals AS t
JOIN agents AS a ON a.id = t.agent_id
WHERE (CAST(:agent AS text) IS NULL OR a.name = :agent)
  AND (CAST(:type AS text) IS NULL OR a.type = :type)
  AND t.expected + t.up + t.down + t.skipped + t.lost + t.paused > 0
ORDER BY a.name
