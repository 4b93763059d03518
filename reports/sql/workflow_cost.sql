-- workflow_cost --
-- What each metric of the agents comes to in [start, end), and whose it was: of each workflow, of tasks without one, of
-- nobody. A bucket is a minute or an hour. In it a metric is spent evenly, and a moment belongs in equal parts to the
-- runs that go on on that agent then, or to nobody.
-- Time is counted in seconds since the start, alike on every engine. A cell is one bucket of one agent; it lasts until
-- cut_s. A run becomes a piece in each cell that it touches. shared_s is what a run that went on from the beginning of
-- its cell would have been given by then: a run has the shared_s of its end less that of its beginning, which is all
-- that has to be added up for the runs of a workflow. Of edges at one moment, only the first has a stretch before it.
WITH RECURSIVE runs AS (
    SELECT r.agent_id * CAST(1000000 AS double precision) AS agent_cells,
           t.workflow_id,
           seconds_between(:start, CASE WHEN r.started_at < :start THEN :start ELSE r.started_at END) AS begins_s,
           seconds_between(:start, CASE WHEN r.ended_at < :until THEN r.ended_at ELSE :until END) AS ends_s
    FROM task_assignments AS r
    JOIN tasks AS t ON t.id = r.task_id
    WHERE r.started_at < :until
      AND (r.ended_at IS NULL OR r.ended_at > :start)
      AND (CAST(:agent AS text) IS NULL OR r.agent_id = (SELECT a.id FROM agents AS a WHERE a.name = :agent))
), pieces AS (
    SELECT r.agent_cells + floor(r.begins_s / :step_s) AS cell,
           r.workflow_id,
           r.begins_s,
           r.ends_s,
           (floor(r.begins_s / :step_s) + 1) * :step_s AS cut_s
    FROM runs AS r
    UNION ALL
    SELECT p.cell + 1,
           p.workflow_id,
           p.cut_s,
           p.ends_s,
           p.cut_s + :step_s
    FROM pieces AS p
    WHERE p.ends_s > p.cut_s
), edges AS (
    SELECT p.cell,
           p.workflow_id,
           p.begins_s AS at_s,
           1 AS change
    FROM pieces AS p
    UNION ALL
    SELECT p.cell,
           p.workflow_id,
           CASE WHEN p.ends_s < p.cut_s THEN p.ends_s ELSE p.cut_s END,
           -1
    FROM pieces AS p
), stretches AS (
    SELECT e.cell,
           e.workflow_id,
           e.at_s,
           e.change,
           (e.at_s - LAG(e.at_s) OVER w) / NULLIF(SUM(e.change) OVER w, 0) AS each_s
    FROM edges AS e
    WINDOW w AS (PARTITION BY e.cell ORDER BY e.at_s ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), marked AS (
    SELECT s.cell,
           s.workflow_id,
           s.change,
           SUM(s.each_s) OVER (PARTITION BY s.cell ORDER BY s.at_s) AS shared_s
    FROM stretches AS s
), shares AS (
    SELECT m.cell,
           m.workflow_id,
           SUM(-m.change * m.shared_s) AS worked_s
    FROM marked AS m
    GROUP BY m.cell,
             m.workflow_id
), buckets AS (
    SELECT h.agent_id,
           h.metric_id,
           h.bucket,
           h.n,
           h.sum
    FROM agent_metrics_1h AS h
    WHERE :by_hour = 1
      AND h.bucket >= :start
      AND h.bucket < :until
    UNION ALL
    SELECT m.agent_id,
           m.metric_id,
           m.bucket,
           m.n,
           m.sum
    FROM agent_metrics_1m AS m
    WHERE :by_hour = 0
      AND m.bucket >= :start
      AND m.bucket < :until
), spent AS (
    SELECT b.agent_id * CAST(1000000 AS double precision) + seconds_between(:start, b.bucket) / :step_s AS cell,
           b.metric_id,
           b.sum / CASE WHEN b.metric_id IN (SELECT g.id FROM metrics AS g WHERE g.kind = 'gauge') THEN b.n ELSE b.length_s END
               AS per_s,
           b.length_s
    FROM (
        SELECT x.agent_id,
               x.metric_id,
               x.bucket,
               x.n,
               x.sum,
               CASE WHEN x.bucket > :last_whole THEN seconds_between(x.bucket, :until) ELSE :step_s END AS length_s
        FROM buckets AS x
        WHERE CASE
                  WHEN CAST(:agent AS text) IS NULL
                  THEN x.agent_id NOT IN (SELECT i.id FROM agents AS i WHERE i.probe = 'internal')
                  ELSE x.agent_id = (SELECT a.id FROM agents AS a WHERE a.name = :agent)
              END
          AND (CAST(:metric AS text) IS NULL OR x.metric_id IN (SELECT w.id FROM metrics AS w WHERE w.name = :metric))
    ) AS b
), series AS (
    SELECT s.metric_id,
           'workflow' AS part,
           h.workflow_id,
           COALESCE(SUM(s.per_s * h.worked_s), 0) AS amount
    FROM spent AS s
    JOIN shares AS h ON h.cell = s.cell
    GROUP BY s.metric_id,
             h.workflow_id
    UNION ALL
    SELECT s.metric_id,
           'total',
           NULL,
           SUM(s.per_s * s.length_s)
    FROM spent AS s
    GROUP BY s.metric_id
), parts AS (
    SELECT m.name AS metric,
           m.kind,
           CASE WHEN s.part = 'workflow' AND s.workflow_id IS NULL THEN 'no workflow' ELSE s.part END AS part,
           s.workflow_id,
           MAX(m.unit) AS unit,
           SUM(s.amount) AS amount
    FROM series AS s
    JOIN metrics AS m ON m.id = s.metric_id
    GROUP BY 1, 2, 3, 4
), totals AS (
    SELECT p.metric,
           p.kind,
           SUM(CASE WHEN p.part = 'total' THEN p.amount END) AS amount,
           SUM(CASE WHEN p.part = 'total' THEN p.amount ELSE -p.amount END) AS unattributed
    FROM parts AS p
    GROUP BY p.metric,
             p.kind
), told AS (
    SELECT p.metric,
           p.kind,
           p.unit,
           CASE WHEN p.part = 'total' THEN 'unattributed' ELSE p.part END AS part,
           p.workflow_id,
           CASE
               WHEN p.part <> 'total' THEN p.amount
               WHEN ABS(t.unattributed) > 1e-12 * ABS(t.amount) THEN t.unattributed
               ELSE 0.0
           END AS amount,
           t.amount AS total
    FROM parts AS p
    JOIN totals AS t ON t.metric = p.metric AND t.kind = p.kind
)
SELECT w.name AS workflow,
       w.type AS workflow_type,
       t.part,
       t.metric,
       CASE WHEN t.kind = 'counter' THEN t.unit WHEN t.unit = '' THEN 's' ELSE t.unit || '·s' END AS unit,
       t.amount,
       t.amount / NULLIF(t.total, 0) AS share,
       t.total
FROM told AS t
LEFT JOIN workflows AS w ON w.id = t.workflow_id
WHERE (CAST(:workflow AS text) IS NULL OR w.name = :workflow)
  AND (CAST(:workflow_type AS text) IS NULL OR w.type = :workflow_type)
ORDER BY t.metric,
         t.kind,
         CASE t.part WHEN 'workflow' THEN 0 WHEN 'no workflow' THEN 1 ELSE 2 END,
         t.amount DESC,
         w.name
