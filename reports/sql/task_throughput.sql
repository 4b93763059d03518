-- task_throughput --
-- What became of the tasks of each type in [start, end). created counts by the moment in which a task was made, started
-- by that in which a run began, the rest by that in which a task was finished; types of which nothing happened are left
-- out. Percentiles are interpolated between the two nearest of the values, as percentile_cont does: those in places
-- percent * last / 100, rounded down and up, where the first one has place 0.
WITH moves AS (
    SELECT t.type AS task_type,
           t.agent_id,
           t.workflow_id,
           1 AS created,
           0 AS completed,
           0 AS failed,
           0 AS cancelled
    FROM tasks AS t
    WHERE t.created_at >= :start
      AND t.created_at < :end
    UNION ALL
    SELECT t.type,
           t.agent_id,
           t.workflow_id,
           0,
           CASE WHEN t.state = 'completed' THEN 1 ELSE 0 END,
           CASE WHEN t.state = 'failed' THEN 1 ELSE 0 END,
           CASE WHEN t.state = 'cancelled' THEN 1 ELSE 0 END
    FROM tasks AS t
    WHERE t.state IN ('completed', 'failed', 'cancelled')
      AND t.finished_at >= :start
      AND t.finished_at < :end
), moved AS (
    SELECT m.task_type,
           SUM(m.created) AS created,
           SUM(m.completed) AS completed,
           SUM(m.failed) AS failed,
           SUM(m.cancelled) AS cancelled
    FROM moves AS m
    LEFT JOIN agents AS a ON a.id = m.agent_id
    LEFT JOIN workflows AS w ON w.id = m.workflow_id
    WHERE (CAST(:task_type AS text) IS NULL OR m.task_type = :task_type)
      AND (CAST(:agent AS text) IS NULL OR a.name = :agent)
      AND (CAST(:workflow_type AS text) IS NULL OR w.type = :workflow_type)
    GROUP BY m.task_type
), runs AS (
    SELECT r.task_type,
           CASE WHEN r.started_at >= :start AND r.started_at < :end THEN 1 ELSE 0 END AS started,
           CASE WHEN r.started_at >= :start AND r.started_at < :end THEN r.wait_s END AS wait_s,
           CASE
               WHEN r.outcome = 'completed' AND r.ended_at >= :start AND r.ended_at < :end THEN r.duration_s
           END AS duration_s
    FROM task_runs AS r
    WHERE r.started_at < :end
      AND (r.ended_at IS NULL OR r.ended_at >= :start)
      AND (CAST(:task_type AS text) IS NULL OR r.task_type = :task_type)
      AND (CAST(:agent AS text) IS NULL OR r.agent = :agent)
      AND (CAST(:workflow_type AS text) IS NULL OR r.workflow_type = :workflow_type)
), counted AS (
    SELECT r.task_type,
           SUM(r.started) AS started,
           COUNT(r.duration_s) AS measured,
           AVG(r.duration_s) AS duration_mean_s,
           MAX(r.duration_s) AS duration_max_s
    FROM runs AS r
    GROUP BY r.task_type
), placed AS (
    SELECT r.task_type,
           'duration' AS measure,
           r.duration_s AS value,
           ROW_NUMBER() OVER (PARTITION BY r.task_type ORDER BY r.duration_s) - 1 AS place,
           COUNT(*) OVER (PARTITION BY r.task_type) - 1 AS last
    FROM runs AS r
    WHERE r.duration_s IS NOT NULL
    UNION ALL
    SELECT r.task_type,
           'wait',
           r.wait_s,
           ROW_NUMBER() OVER (PARTITION BY r.task_type ORDER BY r.wait_s) - 1,
           COUNT(*) OVER (PARTITION BY r.task_type) - 1
    FROM runs AS r
    WHERE r.wait_s IS NOT NULL
), percents AS (
    SELECT 50 AS percent
    UNION ALL
    SELECT 95
    UNION ALL
    SELECT 99
), percentiles AS (
    SELECT v.task_type,
           v.measure,
           p.percent,
           MIN(v.value)
               + CAST(p.percent * v.last % 100 AS double precision) / 100 * (MAX(v.value) - MIN(v.value)) AS value
    FROM placed AS v
    JOIN percents AS p ON v.place BETWEEN p.percent * v.last / 100 AND (p.percent * v.last + 99) / 100
    GROUP BY v.task_type,
             v.measure,
             v.last,
             p.percent
), pivoted AS (
    SELECT p.task_type,
           MAX(CASE WHEN p.measure = 'duration' AND p.percent = 50 THEN p.value END) AS duration_p50_s,
           MAX(CASE WHEN p.measure = 'duration' AND p.percent = 95 THEN p.value END) AS duration_p95_s,
           MAX(CASE WHEN p.measure = 'duration' AND p.percent = 99 THEN p.value END) AS duration_p99_s,
           MAX(CASE WHEN p.measure = 'wait' AND p.percent = 50 THEN p.value END) AS wait_p50_s,
           MAX(CASE WHEN p.measure = 'wait' AND p.percent = 95 THEN p.value END) AS wait_p95_s
    FROM percentiles AS p
    GROUP BY p.task_type
), types AS (
    SELECT m.task_type
    FROM moved AS m
    UNION
    SELECT c.task_type
    FROM counted AS c
    WHERE c.started > 0
       OR c.measured > 0
)
SELECT y.task_type,
       CAST(COALESCE(m.created, 0) AS bigint) AS created,
       CAST(COALESCE(c.started, 0) AS bigint) AS started,
       CAST(COALESCE(m.completed, 0) AS bigint) AS completed,
       CAST(COALESCE(m.failed, 0) AS bigint) AS failed,
       CAST(COALESCE(m.cancelled, 0) AS bigint) AS cancelled,
       CAST(COALESCE(m.completed, 0) AS double precision) * 3600
           / NULLIF(CAST(:passed_s AS double precision), 0) AS completed_per_hour,
       p.duration_p50_s,
       p.duration_p95_s,
       p.duration_p99_s,
       c.duration_mean_s,
       c.duration_max_s,
       p.wait_p50_s,
       p.wait_p95_s
FROM types AS y
LEFT JOIN moved AS m ON m.task_type = y.task_type
LEFT JOIN counted AS c ON c.task_type = y.task_type
LEFT JOIN pivoted AS p ON p.task_type = y.task_type
ORDER BY y.task_type
