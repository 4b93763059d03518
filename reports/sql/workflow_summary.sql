-- workflow_summary --
-- The workflows that were there in [start, end): made before its end, and not finished before its start, or not until
-- now; the latest first. workflow_id is for the report, which adds the critical path.
WITH chosen AS (
    SELECT w.workflow_id,
           w.workflow,
           w.workflow_type,
           w.state,
           w.tasks,
           w.pending,
           w.running,
           w.completed,
           w.failed,
           w.cancelled,
           w.progress,
           w.created_at,
           w.started_at,
           w.finished_at,
           w.elapsed_s
    FROM workflow_progress AS w
    WHERE w.created_at < :end
      AND (w.finished_at >= :start OR w.finished_at IS NULL AND :start <= :now)
      AND (CAST(:workflow AS text) IS NULL OR w.workflow = :workflow)
      AND (CAST(:workflow_type AS text) IS NULL OR w.workflow_type = :workflow_type)
    ORDER BY w.created_at DESC,
             w.workflow_id DESC
    LIMIT :limit
), worked AS (
    SELECT r.workflow_id,
           COUNT(*) AS runs,
           SUM(CASE WHEN r.attempt > 1 THEN 1 ELSE 0 END) AS retries,
           SUM(r.so_far_s) AS work_s
    FROM task_runs AS r
    WHERE r.workflow_id IN (SELECT c.workflow_id FROM chosen AS c)
    GROUP BY r.workflow_id
)
SELECT c.workflow_id,
       c.workflow,
       c.workflow_type,
       c.state,
       c.tasks,
       c.pending,
       c.running,
       c.completed,
       c.failed,
       c.cancelled,
       c.progress,
       c.started_at,
       c.finished_at,
       c.elapsed_s,
       COALESCE(r.work_s, 0.0) AS work_s,
       COALESCE(r.runs, 0) AS runs,
       COALESCE(r.retries, 0) AS retries,
       COALESCE(r.work_s, 0.0) / NULLIF(c.elapsed_s, 0) AS parallelism
FROM chosen AS c
LEFT JOIN worked AS r ON r.workflow_id = c.workflow_id
ORDER BY c.created_at DESC,
         c.workflow_id DESC

-- workflow_summary_graph --
-- What the critical paths of those workflows are made from: one row per task that had a run, with how long was worked on
-- it, all of its runs together; and one per task and task that it waits for. One of another workflow has no work here.
WITH chosen AS (
    SELECT w.id
    FROM workflows AS w
    WHERE w.created_at < :end
      AND (w.finished_at >= :start OR w.finished_at IS NULL AND :start <= :now)
      AND (CAST(:workflow AS text) IS NULL OR w.name = :workflow)
      AND (CAST(:workflow_type AS text) IS NULL OR w.type = :workflow_type)
    ORDER BY w.created_at DESC,
             w.id DESC
    LIMIT :limit
)
SELECT r.workflow_id,
       r.task_id,
       r.task,
       SUM(r.so_far_s) AS work_s,
       CAST(NULL AS bigint) AS depends_on
FROM task_runs AS r
WHERE r.workflow_id IN (SELECT c.id FROM chosen AS c)
GROUP BY r.workflow_id,
         r.task_id,
         r.task
UNION ALL
SELECT t.workflow_id,
       d.task_id,
       NULL,
       NULL,
       d.depends_on
FROM task_dependencies AS d
JOIN tasks AS t ON t.id = d.task_id
WHERE t.workflow_id IN (SELECT c.id FROM chosen AS c)
