-- blast_radius --
-- What waits when an agent is down from now on: one row per task and other task in the radius that it waits for, one
-- with neither where it waits for the agent itself. The report makes one row per task out of these.
-- UNION keeps each task once, however many ways lead to it.
WITH RECURSIVE its_types AS (
    SELECT c.name
    FROM agent_capabilities AS c
    JOIN agents AS a ON a.id = c.agent_id
    WHERE a.name = :agent
      AND NOT EXISTS (
              SELECT 1
              FROM agent_capabilities AS o
              JOIN agents AS b ON b.id = o.agent_id
              WHERE o.name = c.name
                AND o.agent_id <> c.agent_id
                AND b.state = 'active'
                AND b.status NOT IN ('unhealthy', 'stalled', 'timeout', 'refused', 'error')
          )
), first_hit AS (
    SELECT q.task_id,
           'runs on it' AS why
    FROM task_queue AS q
    WHERE q.state = 'running'
      AND q.agent = :agent
      AND (q.lease_left_s IS NULL OR q.lease_left_s < :down_for_s)
    UNION ALL
    SELECT q.task_id,
           'nobody else can'
    FROM task_queue AS q
    WHERE q.state = 'pending'
      AND q.task_type IN (SELECT y.name FROM its_types AS y)
      AND (q.due_in_s IS NULL OR q.due_in_s < :down_for_s)
), hit AS (
    SELECT f.task_id
    FROM first_hit AS f
    UNION
    SELECT q.task_id
    FROM hit AS h
    JOIN task_dependencies AS d ON d.depends_on = h.task_id
    JOIN task_queue AS q ON q.task_id = d.task_id
    WHERE q.state = 'pending'
      AND (q.due_in_s IS NULL OR q.due_in_s < :down_for_s)
), reasons AS (
    SELECT f.task_id,
           f.why,
           CAST(NULL AS bigint) AS depends_on
    FROM first_hit AS f
    UNION ALL
    SELECT d.task_id,
           NULL,
           d.depends_on
    FROM task_dependencies AS d
    JOIN hit AS h ON h.task_id = d.task_id
    JOIN hit AS p ON p.task_id = d.depends_on
)
SELECT r.task_id,
       q.task,
       q.task_type,
       q.state,
       q.workflow,
       w.state AS workflow_state,
       r.why,
       r.depends_on
FROM reasons AS r
JOIN task_queue AS q ON q.task_id = r.task_id
LEFT JOIN workflows AS w ON w.id = q.workflow_id
ORDER BY r.task_id,
         r.depends_on
