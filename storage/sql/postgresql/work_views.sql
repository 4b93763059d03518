-- Agents' work for people, dashboards and reports: tasks, workflows and messages with names instead of ids.

-- task_runs --
-- One row per try of an agent at a task; ended_at, duration_s and outcome are NULL while it goes on.
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
       r.outcome
FROM task_assignments AS r
JOIN tasks AS t ON t.id = r.task_id
JOIN agents AS a ON a.id = r.agent_id
LEFT JOIN workflows AS w ON w.id = t.workflow_id
