-- queue_age --
-- What waits and what runs, by type of task; the type with the oldest ready task first. Percentiles as in
-- task_throughput.
WITH queue AS (
    SELECT q.task_type,
           q.standing,
           q.lease_left_s,
           q.age_s
    FROM task_queue AS q
    WHERE (CAST(:task_type AS text) IS NULL OR q.task_type = :task_type)
), counted AS (
    SELECT q.task_type,
           SUM(CASE WHEN q.standing = 'ready' THEN 1 ELSE 0 END) AS ready,
           SUM(CASE WHEN q.standing = 'blocked' THEN 1 ELSE 0 END) AS blocked,
           SUM(CASE WHEN q.standing = 'scheduled' THEN 1 ELSE 0 END) AS scheduled,
           SUM(CASE WHEN q.standing = 'running' THEN 1 ELSE 0 END) AS running,
           SUM(CASE WHEN q.lease_left_s <= 0 THEN 1 ELSE 0 END) AS stuck,
           MAX(CASE WHEN q.standing = 'ready' THEN q.age_s END) AS oldest_s
    FROM queue AS q
    GROUP BY q.task_type
), placed AS (
    SELECT q.task_type,
           q.age_s,
           ROW_NUMBER() OVER (PARTITION BY q.task_type ORDER BY q.age_s) - 1 AS place,
           COUNT(*) OVER (PARTITION BY q.task_type) - 1 AS last
    FROM queue AS q
    WHERE q.standing = 'ready'
), percents AS (
    SELECT 50 AS percent
    UNION ALL
    SELECT 95
), percentiles AS (
    SELECT v.task_type,
           p.percent,
           MIN(v.age_s)
               + CAST(p.percent * v.last % 100 AS double precision) / 100 * (MAX(v.age_s) - MIN(v.age_s)) AS age_s
    FROM placed AS v
    JOIN percents AS p ON v.place BETWEEN p.percent * v.last / 100 AND (p.percent * v.last + 99) / 100
    GROUP BY v.task_type,
             v.last,
             p.percent
), pivoted AS (
    SELECT p.task_type,
           MAX(CASE WHEN p.percent = 50 THEN p.age_s END) AS p50_s,
           MAX(CASE WHEN p.percent = 95 THEN p.age_s END) AS p95_s
    FROM percentiles AS p
    GROUP BY p.task_type
)
SELECT c.task_type,
       c.ready,
       c.blocked,
       c.scheduled,
       c.running,
       c.stuck,
       c.oldest_s,
       p.p50_s,
       p.p95_s
FROM counted AS c
LEFT JOIN pivoted AS p ON p.task_type = c.task_type
ORDER BY COALESCE(c.oldest_s, -1) DESC,
         c.task_type
