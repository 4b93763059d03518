-- capacity_trend --
-- How full each host becomes in [start, end), whole days of the time zone: a line through its daily means by least
-- squares, and where that line reaches full_at. A mean stands for the middle of its day. Without a metric, those in
-- percent that a host can run out of. One row per series, days as numbers since 1970: the report makes dates of them.
WITH wanted AS (
    SELECT m.id
    FROM metrics AS m
    WHERE m.kind = 'gauge'
      AND (
              m.name = :metric
              OR CAST(:metric AS text) IS NULL
              AND m.name IN ('cpu_percent', 'memory_used_percent', 'swap_used_percent', 'filesystem_used_percent')
          )
), daily AS (
    SELECT b.host_id,
           b.metric_id,
           b.day,
           SUM(b.sum) / SUM(b.n) AS mean
    FROM (
        SELECT d.host_id,
               d.metric_id,
               local_day(d.bucket, :zone) AS day,
               d.n,
               d.sum
        FROM system_metrics_1d AS d
        WHERE :tier = '1d'
          AND d.bucket >= :start
          AND d.bucket < :end
          AND d.metric_id IN (SELECT w.id FROM wanted AS w)
        UNION ALL
        SELECT h.host_id,
               h.metric_id,
               local_day(h.bucket, :zone) AS day,
               h.n,
               h.sum
        FROM system_metrics_1h AS h
        WHERE :tier = '1h'
          AND h.bucket >= :start
          AND h.bucket < :end
          AND h.metric_id IN (SELECT w.id FROM wanted AS w)
        UNION ALL
        SELECT m.host_id,
               m.metric_id,
               local_day(m.bucket, :zone) AS day,
               m.n,
               m.sum
        FROM system_metrics_1m AS m
        WHERE :tier = '1m'
          AND m.bucket >= :start
          AND m.bucket < :end
          AND m.metric_id IN (SELECT w.id FROM wanted AS w)
    ) AS b
    GROUP BY b.host_id,
             b.metric_id,
             b.day
), middle AS (
    SELECT d.host_id,
           d.metric_id,
           CAST(COUNT(*) AS bigint) AS days,
           MIN(d.day) AS first_day,
           MAX(d.day) AS last_day,
           AVG(CAST(d.day AS double precision)) AS day,
           AVG(d.mean) AS mean
    FROM daily AS d
    GROUP BY d.host_id,
             d.metric_id
), spread AS (
    SELECT d.host_id,
           d.metric_id,
           SUM((d.day - m.day) * (d.day - m.day)) AS day_squares,
           SUM((d.day - m.day) * (d.mean - m.mean)) AS products,
           SUM((d.mean - m.mean) * (d.mean - m.mean)) AS mean_squares,
           MAX(CASE WHEN d.day = m.first_day THEN d.mean END) AS first_mean,
           MAX(CASE WHEN d.day = m.last_day THEN d.mean END) AS last_mean
    FROM daily AS d
    JOIN middle AS m ON m.host_id = d.host_id AND m.metric_id = d.metric_id
    GROUP BY d.host_id,
             d.metric_id
), line AS (
    SELECT m.host_id,
           m.metric_id,
           m.days,
           m.first_day,
           m.last_day,
           m.day,
           m.mean,
           s.first_mean,
           s.last_mean,
           s.products / NULLIF(s.day_squares, 0) AS slope_per_day,
           s.products * s.products / NULLIF(s.day_squares * s.mean_squares, 0) AS r2
    FROM middle AS m
    JOIN spread AS s ON s.host_id = m.host_id AND s.metric_id = m.metric_id
), ahead AS (
    SELECT l.host_id,
           l.metric_id,
           CASE
               WHEN l.last_mean >= :full_at THEN 0
               WHEN l.slope_per_day > 0 THEN l.day + (:full_at - l.mean) / l.slope_per_day - l.last_day
           END AS days_left
    FROM line AS l
)
SELECT h.name AS host,
       n.name AS metric,
       CAST(n.labels AS text) AS labels,
       n.unit,
       l.days,
       l.first_mean,
       l.last_mean,
       l.slope_per_day,
       l.r2,
       a.days_left,
       l.last_day
FROM line AS l
JOIN ahead AS a ON a.host_id = l.host_id AND a.metric_id = l.metric_id
JOIN hosts AS h ON h.id = l.host_id
JOIN metrics AS n ON n.id = l.metric_id
WHERE CAST(:host AS text) IS NULL
   OR h.name = :host
ORDER BY h.name,
         n.name
