-- Agents' work for people, dashboards and reports: tasks, workflows and messages with names instead of ids.
-- Names, columns and numbers are the same on every engine.

-- task_runs --
-- One row per try of an agent at a task; ended_at, duration_s and outcome are NULL while it goes on. so_far_s is
-- duration_s, or how long it has gone on. wait_s, of a first run alone, begins when the task could have been begun: it was
-- made, it was due, and what it depends on was done.
CREATE OR REPLACE VIEW task_runs AS
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
       extract(epoch FROM r.ended_at - r.started_at)::float8 AS duration_s,
       r.outcome,
       extract(epoch FROM coalesce(r.ended_at, greatest(now(), r.started_at)) - r.started_at)::float8 AS so_far_s,
       CASE
           WHEN r.attempt = 1 THEN
               extract(epoch FROM r.started_at - least(r.started_at, greatest(
                   t.created_at,
                   CASE WHEN t.due_at <= r.started_at THEN t.due_at END,
                   (
                       SELECT max(p.finished_at)
                       FROM task_dependencies AS d
                       JOIN tasks AS p ON p.id = d.depends_on
                       WHERE d.task_id = t.id
                         AND p.finished_at <= r.started_at
                   )
               )))::float8
       END AS wait_s
FROM task_assignments AS r
JOIN tasks AS t ON t.id = r.task_id
JOIN agents AS a ON a.id = r.agent_id
LEFT JOIN workflows AS w ON w.id = t.workflow_id

-- task_queue --
-- One row per task that is not finished. It is ready, scheduled (for later), blocked (by what it depends on) or running,
-- for age_s by now. due_in_s and lease_left_s are negative once their moment is over.
CREATE OR REPLACE VIEW task_queue AS
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
       extract(epoch FROM greatest(now() - q.since, interval '0'))::float8 AS age_s
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
               WHEN t.due_at > now() THEN 'scheduled'
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
           extract(epoch FROM t.due_at - now())::float8 AS due_in_s,
           t.lease_until,
           extract(epoch FROM t.lease_until - now())::float8 AS lease_left_s,
           CASE
               WHEN t.state = 'running' THEN t.started_at
               ELSE greatest(
                   t.created_at,
                   CASE WHEN t.blocked_by = 0 AND t.due_at <= now() THEN t.due_at END,
                   CASE
                       WHEN t.blocked_by = 0 THEN (
                           SELECT max(p.finished_at)
                           FROM task_dependencies AS d
                           JOIN tasks AS p ON p.id = d.depends_on
                           WHERE d.task_id = t.id
                       )
                   END,
                   CASE
                       WHEN t.attempts > 0 THEN (
                           SELECT max(e.ts)
                           FROM task_events AS e
                           WHERE e.task_id = t.id
                             AND e.to_state = 'pending'
                       )
                   END
               )
           END AS since
    FROM tasks AS t
    LEFT JOIN agents AS a ON a.id = t.agent_id
    LEFT JOIN workflows AS w ON w.id = t.workflow_id
    WHERE t.state IN ('pending', 'running')
) AS q

-- workflow_progress --
-- One row per workflow: its tasks by state, and the share of them that is completed.
CREATE OR REPLACE VIEW workflow_progress AS
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
       count(*) FILTER (WHERE t.state = 'completed')::float8 / nullif(count(t.id), 0) AS progress,
       w.created_at,
       w.started_at,
       w.finished_at,
       extract(epoch FROM coalesce(w.finished_at, greatest(now(), w.started_at)) - w.started_at)::float8 AS elapsed_s
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
CREATE OR REPLACE VIEW message_log AS
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
       octet_length(m.payload::text) AS payload_bytes,
       m.created_at,
       m.delivered_at,
       m.read_at,
       extract(epoch FROM m.delivered_at - m.created_at)::float8 AS delivery_s
FROM messages AS m
JOIN agents AS s ON s.id = m.sender_id
LEFT JOIN agents AS r ON r.id = m.recipient_id
LEFT JOIN workflows AS w ON w.id = m.workflow_id
