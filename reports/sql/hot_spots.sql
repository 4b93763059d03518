-- hot_spots --
-- How the runs that began in [start, end) went, by type of task and agent; those with the most bad ends first. The
-- event of a run's end is the first that left the state running at that moment or later: a lease ends before it is seen.
WITH counted AS (
    SELECT r.task_type,
           r.agent,
           COUNT(*) AS runs,
           COUNT(r.outcome) AS ended,
           SUM(CASE WHEN r.attempt > 1 THEN 1 ELSE 0 END) AS retries,
           SUM(CASE WHEN r.outcome = 'failed' THEN 1 ELSE 0 END) AS failed,
           SUM(CASE WHEN r.outcome = 'lease_expired' THEN 1 ELSE 0 END) AS lease_expired
    FROM task_runs AS r
    WHERE r.started_at >= :start
      AND r.started_at < :end
      AND (CAST(:task_type AS text) IS NULL OR r.task_type = :task_type)
      AND (CAST(:agent AS text) IS NULL OR r.agent = :agent)
      AND (CAST(:workflow_type AS text) IS NULL OR r.workflow_type = :workflow_type)
    GROUP BY r.task_type,
             r.agent
), told AS (
    SELECT r.task_type,
           r.agent,
           e.reason,
           ROW_NUMBER() OVER (PARTITION BY r.task_type, r.agent ORDER BY COUNT(*) DESC, e.reason) AS place
    FROM task_runs AS r
    JOIN task_events AS e ON e.id = (
        SELECT MIN(v.id)
        FROM task_events AS v
        WHERE v.task_id = r.task_id
          AND v.from_state = 'running'
          AND v.ts >= r.ended_at
    )
    WHERE r.started_at >= :start
      AND r.started_at < :end
      AND r.outcome IN ('failed', 'lease_expired')
      AND e.reason <> ''
      AND (CAST(:task_type AS text) IS NULL OR r.task_type = :task_type)
      AND (CAST(:agent AS text) IS NULL OR r.agent = :agent)
      AND (CAST(:workflow_type AS text) IS NULL OR r.workflow_type = :workflow_type)
    GROUP BY r.task_type,
             r.agent,
             e.reason
)
SELECT c.task_type,
       c.agent,
       c.runs,
       c.retries,
       c.failed,
       c.lease_expired,
       CAST(c.failed + c.lease_expired AS double precision) / NULLIF(c.ended, 0) AS failure_ratio,
       CAST(c.retries AS double precision) / c.runs AS retry_ratio,
       t.reason
FROM counted AS c
LEFT JOIN told AS t ON t.task_type = c.task_type AND t.agent = c.agent AND t.place = 1
ORDER BY c.failed + c.lease_expired DESC,
         c.retries DESC,
         c.task_type,
         c.agent
LIMIT :limit
