-- Raw rows with names instead of ids: what the models HealthRecord, AgentMetrics and SystemMetrics read. Moments are microseconds.

-- health_records --
-- One row per check.
CREATE VIEW health_records AS
SELECT c.ts,
       c.agent_id,
       a.name AS agent,
       a.type,
       CASE c.outcome
           WHEN 0 THEN 'healthy' WHEN 1 THEN 'degraded' WHEN 2 THEN 'unhealthy' WHEN 3 THEN 'stalled'
           WHEN 4 THEN 'timeout' WHEN 5 THEN 'refused' WHEN 6 THEN 'error' WHEN 7 THEN 'skipped' WHEN 8 THEN 'paused'
       END AS outcome,
       c.late_ms AS late_ms,
       c.latency_ms AS latency_ms,
       c.http_status,
       coalesce(r.reason, '') AS reason
FROM health_checks AS c
JOIN agents AS a ON a.id = c.agent_id
LEFT JOIN reasons AS r ON r.id = c.reason_id

-- agent_samples --
-- One row per sample of an agent; a counter's value is its increase since the poll before.
CREATE VIEW agent_samples AS
SELECT s.ts,
       s.agent_id,
       a.name AS agent,
       a.type,
       s.metric_id,
       m.name AS metric,
       m.labels,
       m.kind,
       m.unit,
       s.value
FROM agent_metrics AS s
JOIN agents AS a ON a.id = s.agent_id
JOIN metrics AS m ON m.id = s.metric_id

-- system_samples --
-- One row per sample of a host.
CREATE VIEW system_samples AS
SELECT s.ts,
       s.host_id,
       h.name AS host,
       s.metric_id,
       m.name AS metric,
       m.labels,
       m.kind,
       m.unit,
       s.value
FROM system_metrics AS s
JOIN hosts AS h ON h.id = s.host_id
JOIN metrics AS m ON m.id = s.metric_id
