-- Agents' work for people, dashboards and reports: tasks, workflows and messages with names instead of ids.
-- Names, columns and numbers are the same on every engine.
-- Moments are microseconds since the Unix epoch, and now is taken from the day number, which SQLite keeps in whole
-- milliseconds.

-- task_runs --
-- One row per try of an agent at a task; ended_at, duration_s and outcome are NULL while it goes on. so_far_s is
-- duration_s, or how long it has gone on. wait_s, of a first run alone, begins when the task could have been begun: it was
-- made, it was due, and what it depends on was done.
CREATE VIEW task_runs AS
SELECT r.id AS run_id,
       r.task_id,
       t.name AS task,
       t.type AS task_type,
       t.workflow_id,
       w.name AS workflow,
       w.type AS workflow_type,
       r.agent_id,
       a.name AS agent,
       a.type AS agent_type,
       r.attempt,
       r.started_at,
       r.ended_at,
       (r.ended_at - r.started_at) / 1e6 AS duration_s,
       r.outcome,
       (
           coalesce(
               r.ended_at,
               max(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000, r.started_at)
           ) - r.started_at
       ) / 1e6 AS so_far_s,
       CASE
           WHEN r.attempt = 1 THEN
               (r.started_at - min(r.started_at, max(
                   t.created_at,
                   CASE WHEN t.due_at <= r.started_at THEN t.due_at ELSE 0 END,
                   coalesce((
                       SELECT max(p.finished_at)
                       FROM task_dependencies AS d
                       JOIN tasks AS p ON p.id = d.depends_on
                       WHERE d.task_id = t.id
                         AND p.finished_at <= r.started_at
                   ), 0)
               ))) / 1e6
       END AS wait_s
FROM task_assignments AS r
JOIN tasks AS t ON t.id = r.task_id
JOIN agents AS a ON a.id = r.agent_id
LEFT JOIN workflows AS w ON w.id = t.workflow_id

-- task_queue --
-- One row per task that is not finished. It is ready, scheduled (for later), blocked (by what it depends on) or running,
-- for age_s by now. due_in_s and lease_left_s are negative once their moment is over.
CREATE VIEW task_queue AS
WITH clock AS (
    SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000 AS now_us
)
SELECT q.task_id,
       q.task,
       q.task_type,
       q.workflow_id,
       q.workflow,
       q.workflow_type,
       q.state,
       q.standing,
       q.priority,
       q.attempts,
       q.max_attempts,
       q.blocked_by,
       q.agent_id,
       q.agent,
       q.created_at,
       q.due_at,
       q.due_in_s,
       q.lease_until,
       q.lease_left_s,
       q.since,
       max(q.now_us - q.since, 0) / 1e6 AS age_s
FROM (
    SELECT t.id AS task_id,
           t.name AS task,
           t.type AS task_type,
           t.workflow_id,
           w.name AS workflow,
           w.type AS workflow_type,
           t.state,
           CASE
               WHEN t.state = 'running' THEN 'running'
               WHEN t.blocked_by > 0 THEN 'blocked'
               WHEN t.due_at > k.now_us THEN 'scheduled'
               ELSE 'ready'
           END AS standing,
           t.priority,
           t.attempts,
           t.max_attempts,
           t.blocked_by,
           t.agent_id,
           a.name AS agent,
           t.created_at,
           t.due_at,
           (t.due_at - k.now_us) / 1e6 AS due_in_s,
           t.lease_until,
           (t.lease_until - k.now_us) / 1e6 AS lease_left_s,
           CASE
               WHEN t.state = 'running' THEN t.started_at
               ELSE max(
                   t.created_at,
                   CASE WHEN t.blocked_by = 0 AND t.due_at <= k.now_us THEN t.due_at ELSE 0 END,
                   CASE
                       WHEN t.blocked_by = 0 THEN coalesce((
                           SELECT max(p.finished_at)
                           FROM task_dependencies AS d
                           JOIN tasks AS p ON p.id = d.depends_on
                           WHERE d.task_id = t.id
                       ), 0)
                       ELSE 0
                   END,
                   CASE
                       WHEN t.attempts > 0 THEN coalesce((
                           SELECT max(e.ts)
                           FROM task_events AS e
                           WHERE e.task_id = t.id
                             AND e.to_state = 'pending'
                       ), 0)
                       ELSE 0
                   END
               )
           END AS since,
           k.now_us
    FROM clock AS k
    CROSS JOIN tasks AS t
    LEFT JOIN agents AS a ON a.id = t.agent_id
    LEFT JOIN workflows AS w ON w.id = t.workflow_id
    WHERE t.state IN ('pending', 'running')
) AS q

-- workflow_progress --
-- One row per workflow: its tasks by state, and the share of them that is completed.
CREATE VIEW workflow_progress AS
SELECT w.id AS workflow_id,
       w.name AS workflow,
       w.type AS workflow_type,
       w.state,
       w.reason,
       count(t.id) AS tasks,
       count(*) FILTER (WHERE t.state = 'pending') AS pending,
       count(*) FILTER (WHERE t.state = 'running') AS running,
       count(*) FILTER (WHERE t.state = 'completed') AS completed,
       count(*) FILTER (WHERE t.state = 'failed') AS failed,
       count(*) FILTER (WHERE t.state = 'cancelled') AS cancelled,
       CAST(count(*) FILTER (WHERE t.state = 'completed') AS REAL) / nullif(count(t.id), 0) AS progress,
       w.created_at,
       w.started_at,
       w.finished_at,
       (
           coalesce(
               w.finished_at,
               max(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000, w.started_at)
           ) - w.started_at
       ) / 1e6 AS elapsed_s
FROM workflows AS w
LEFT JOIN tasks AS t ON t.workflow_id = w.id
GROUP BY w.id,
         w.name,
         w.type,
         w.state,
         w.reason,
         w.created_at,
         w.started_at,
         w.finished_at

-- message_log --
-- One row per message; the recipient of one to everybody is *. delivery_s is NULL until it is delivered.
CREATE VIEW message_log AS
SELECT m.id AS message_id,
       m.sender_id,
       s.name AS sender,
       m.recipient_id,
       CASE WHEN m.recipient_id IS NULL THEN '*' ELSE r.name END AS recipient,
       m.workflow_id,
       w.name AS workflow,
       m.task_id,
       m.type,
       m.state,
       m.reason,
       length(CAST(m.payload AS BLOB)) AS payload_bytes,
       m.created_at,
       m.delivered_at,
       m.read_at,
       (m.delivered_at - m.created_at) / 1e6 AS delivery_s
FROM messages AS m
JOIN agents AS s ON s.id = m.sender_id
LEFT JOIN agents AS r ON r.id = m.recipient_id
LEFT JOIN workflows AS w ON w.id = m.workflow_id
