-- Public views for people, dashboards and reports. Names, columns and numbers are the same on every engine. A slot is
-- counted once: it is up, down, unobserved or paused.
-- Moments and buckets are microseconds since the Unix epoch: an hour has 3600000000, and now is taken from the day
-- number, which SQLite keeps in whole milliseconds. Booleans are 0 and 1. slots_between and lost_between are functions
-- of storage/lite/functions.py.
-- Aggregates stand OVER a window here, one row of each group is kept, and the groups are the columns that people ask
-- by: SQLite hands a condition on those down into a UNION ALL below, but stops at a GROUP BY. Otherwise each question
-- about an hour would read all hours.

-- observation --
-- One row: whether a collector is live, and the moment up to which every slot should have ended. While a collector
-- is live, slots that it has not handed over yet are on their way; once it is gone, they are unobserved. A database has
-- one collector: a session that was killed ends for all to see with the start of the next one.
-- A live collector writes its vitals several times a minute.
CREATE VIEW observation AS
WITH clock AS (
    SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000 AS now_us
)
SELECT count(s.id) > 0 AS live,
       coalesce(min(max(coalesce(s.observed_to, s.started_at)), max(k.now_us)), max(k.now_us)) AS observed_to
FROM clock AS k
LEFT JOIN collector_sessions AS s ON s.ended_at IS NULL
    AND s.last_seen_at > k.now_us - 60000000
    AND s.id = (
        SELECT n.id FROM collector_sessions AS n WHERE n.is_collector ORDER BY n.last_seen_at DESC, n.id DESC LIMIT 1
    )

-- fleet_health --
-- How each agent is now; retired ones are left out. Stale means that nobody has looked for more than three intervals
-- and ten seconds although somebody should have: the status is what was known then.
-- last_due, last_outcome and last_latency_ms are NULL when the last check lies further back than five minutes or
-- three intervals and ten seconds, whichever is longer: a week of checks is not searched for them.
CREATE VIEW fleet_health AS
WITH clock AS (
    SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000 AS now_us
)
SELECT a.id AS agent_id,
       a.name AS agent,
       a.type,
       a.labels,
       a.state,
       a.status,
       a.status_due AS since,
       a.status_reason AS reason,
       l.ts AS last_due,
       CASE l.outcome
           WHEN 0 THEN 'healthy' WHEN 1 THEN 'degraded' WHEN 2 THEN 'unhealthy' WHEN 3 THEN 'stalled'
           WHEN 4 THEN 'timeout' WHEN 5 THEN 'refused' WHEN 6 THEN 'error' WHEN 8 THEN 'paused'
       END AS last_outcome,
       l.latency_ms AS last_latency_ms,
       a.interval_s,
       s.from_ts IS NOT NULL AS scheduled,
       a.state = 'active'
           AND s.from_ts IS NOT NULL
           AND max(coalesce(l.ts, s.from_ts), s.from_ts)
               < k.now_us - CAST((3 * a.interval_s + 10) * 1000000 AS INTEGER) AS stale
FROM clock AS k
CROSS JOIN agents AS a
LEFT JOIN agent_schedules AS s ON s.agent_id = a.id AND s.to_ts IS NULL AND s.state = 'active'
LEFT JOIN health_checks AS l ON l.rowid = (
    SELECT c.rowid
    FROM health_checks AS c
    WHERE c.agent_id = a.id
      AND c.ts >= k.now_us - CAST(max(300, 3 * a.interval_s + 10) * 1000000 AS INTEGER)
      AND c.outcome <> 7
    ORDER BY c.ts DESC
    LIMIT 1
)
WHERE a.state <> 'retired'

-- availability --
-- What became of the slots of each agent in each bucket (UTC): hours for availability, days for availability_1d. expected is what should have been polled: the slots of
-- its schedule without those in planned maintenance, up to observation.observed_to.
-- paused is the larger of two witnesses, slots in paused schedule time and checks that ended as paused, because the
-- collector learns of a pause a moment later than the schedule. unobserved is what is left of expected: skipped, lost,
-- or the collector was down; it says nothing about the agent.
-- CROSS JOIN fixes the order: the buckets that are asked for, then the schedules that fall into them. place is unique in
-- a group.
CREATE VIEW {view} AS
WITH RECURSIVE buckets AS (
    SELECT max(min(f.from_ts) / {step} * {step}, max(z.dropped_before)) AS bucket,
           max(o.observed_to) AS observed_to
    FROM agent_schedules AS f
    CROSS JOIN horizons AS z
    CROSS JOIN observation AS o
    WHERE z.tbl = 1
      AND z.tier = {tier}
    UNION ALL
    SELECT h.bucket + {step}, h.observed_to
    FROM buckets AS h
    WHERE h.bucket + {step} <= h.observed_to
), lost_buckets AS (
    SELECT l.id, l.from_due / {step} * {step} AS bucket, l.to_due
    FROM losses AS l
    UNION ALL
    SELECT g.id, g.bucket + {step}, g.to_due
    FROM lost_buckets AS g
    WHERE g.bucket + {step} <= g.to_due
)
SELECT t.bucket,
       t.agent_id,
       t.agent,
       t.type,
       max(t.slots - t.paused, 0) AS expected,
       t.up,
       t.down,
       max(t.slots - t.paused - t.up - t.down, 0) AS unobserved,
       t.skipped,
       t.lost,
       t.paused,
       CAST(t.up AS REAL) / nullif(t.up + t.down, 0) AS availability,
       min(CAST(t.up + t.down AS REAL) / nullif(max(t.slots - t.paused, 0), 0), 1.0) AS coverage
FROM (
    SELECT p.bucket,
           p.agent_id,
           p.agent,
           p.type,
           sum(p.slots) OVER w AS slots,
           sum(p.up) OVER w AS up,
           sum(p.down) OVER w AS down,
           sum(p.skipped) OVER w AS skipped,
           sum(p.lost) OVER w AS lost,
           max(sum(p.paused_slots) OVER w, sum(p.paused_checks) OVER w) AS paused,
           p.place = min(p.place) OVER w AS kept
    FROM (
        SELECT n.bucket,
               n.agent_id,
               n.agent,
               n.type,
               n.slots,
               CASE WHEN n.state = 'paused' THEN n.slots ELSE 0 END AS paused_slots,
               0 AS up,
               0 AS down,
               0 AS skipped,
               0 AS paused_checks,
               0 AS lost,
               3 * n.id AS place
        FROM (
            SELECT h.bucket,
                   s.agent_id,
                   a.name AS agent,
                   a.type,
                   s.id,
                   s.state,
                   slots_between(
                       h.bucket, min(h.bucket + {step}, h.observed_to),
                       s.from_ts, s.to_ts, s.interval_s, s.offset_s
                   ) AS slots
            FROM buckets AS h
            CROSS JOIN agent_schedules AS s ON s.from_ts < h.bucket + {step}
                AND (s.to_ts IS NULL OR s.to_ts > h.bucket)
            JOIN agents AS a ON a.id = s.agent_id
        ) AS n
        UNION ALL
        SELECT c.bucket,
               c.agent_id,
               a.name,
               a.type,
               0,
               0,
               c.healthy + c.degraded,
               c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
               c.skipped,
               c.paused,
               0,
               1
        FROM {rollup} AS c
        JOIN agents AS a ON a.id = c.agent_id
        UNION ALL
        SELECT g.bucket,
               l.agent_id,
               a.name,
               a.type,
               0,
               0,
               0,
               0,
               0,
               0,
               lost_between(g.bucket, g.bucket + {step}, l.from_due, l.to_due, l.n),
               3 * l.id + 2
        FROM lost_buckets AS g
        JOIN losses AS l ON l.id = g.id
        JOIN agents AS a ON a.id = l.agent_id
    ) AS p
    WINDOW w AS (PARTITION BY p.bucket, p.agent_id, p.agent, p.type)
) AS t
WHERE t.kept

-- incidents --
-- The times in which an agent was down: from the check that took it down to the one that brought it up again, or to
-- its pause or retirement. Changes from one way of being down to another do not end an incident.
-- place numbers the events of an agent; those of an incident begin with the one that took it down, and once it is up
-- again, no other of them is down.
CREATE VIEW incidents AS
WITH clock AS (
    SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000 AS now_us
)
SELECT a.id AS agent_id,
       a.name AS agent,
       a.type,
       i.started_at,
       coalesce(i.up_at, max(a.retired_at, i.last_ts)) AS ended_at,
       (coalesce(i.up_at, max(a.retired_at, i.last_ts), k.now_us) - i.started_at) / 1000000.0 AS duration_s,
       i.first_status,
       i.last_status,
       i.reason,
       i.up_at IS NULL AND a.retired_at IS NULL AS open
FROM clock AS k
CROSS JOIN (
    SELECT n.agent_id,
           n.ts AS started_at,
           n.up_at,
           n.last_ts,
           n.to_status AS first_status,
           max(CASE WHEN n.place = n.last_down THEN n.to_status END) OVER w AS last_status,
           max(CASE WHEN n.place = n.told THEN n.reason END) OVER w AS reason,
           n.place = n.first_down AS kept
    FROM (
        SELECT e.agent_id,
               e.incident,
               e.place,
               e.ts,
               e.to_status,
               e.reason,
               min(e.ts) FILTER (WHERE NOT e.down) OVER w AS up_at,
               max(e.ts) OVER w AS last_ts,
               min(e.place) OVER w AS first_down,
               max(e.place) FILTER (WHERE e.down) OVER w AS last_down,
               min(e.place) FILTER (WHERE e.down AND e.reason <> '') OVER w AS told
        FROM (
            SELECT d.agent_id,
                   d.place,
                   d.ts,
                   d.to_status,
                   d.reason,
                   d.down,
                   sum(d.down AND NOT d.was_down) OVER (
                       PARTITION BY d.agent_id ORDER BY d.place ROWS UNBOUNDED PRECEDING
                   ) AS incident
            FROM (
                SELECT s.agent_id,
                       s.ts,
                       s.to_status,
                       s.reason,
                       s.down,
                       row_number() OVER w AS place,
                       lag(s.down, 1, 0) OVER w AS was_down
                FROM (
                    SELECT v.agent_id,
                           v.id,
                           v.ts,
                           v.to_status,
                           v.reason,
                           v.to_status IN ('unhealthy', 'stalled', 'timeout', 'refused', 'error') AS down
                    FROM status_events AS v
                ) AS s
                WINDOW w AS (PARTITION BY s.agent_id ORDER BY s.ts, s.id)
            ) AS d
        ) AS e
        WHERE e.incident > 0
        WINDOW w AS (PARTITION BY e.agent_id, e.incident)
    ) AS n
    WINDOW w AS (PARTITION BY n.agent_id, n.incident)
) AS i
JOIN agents AS a ON a.id = i.agent_id
WHERE i.kept

-- system_load --
-- How busy each host was in each minute, or in each hour: means over the bucket, of file systems the fullest one.
CREATE VIEW {view} AS
SELECT t.bucket,
       t.host_id,
       t.host,
       t.cpu_percent,
       t.cpu_percent_max,
       t.load1,
       t.load5,
       t.load15,
       t.memory_used_percent,
       t.swap_used_percent,
       t.filesystem_used_percent
FROM (
    SELECT s.bucket,
           h.id AS host_id,
           h.name AS host,
           max(s.avg) FILTER (WHERE m.name = 'cpu_percent') OVER w AS cpu_percent,
           max(s.max) FILTER (WHERE m.name = 'cpu_percent') OVER w AS cpu_percent_max,
           max(s.avg) FILTER (WHERE m.name = 'load1') OVER w AS load1,
           max(s.avg) FILTER (WHERE m.name = 'load5') OVER w AS load5,
           max(s.avg) FILTER (WHERE m.name = 'load15') OVER w AS load15,
           max(s.avg) FILTER (WHERE m.name = 'memory_used_percent') OVER w AS memory_used_percent,
           max(s.avg) FILTER (WHERE m.name = 'swap_used_percent') OVER w AS swap_used_percent,
           max(s.avg) FILTER (WHERE m.name = 'filesystem_used_percent') OVER w AS filesystem_used_percent,
           m.id = min(m.id) OVER w AS kept
    FROM {rollup} AS s
    JOIN metrics AS m ON m.id = s.metric_id
    JOIN hosts AS h ON h.id = s.host_id
    WHERE m.kind = 'gauge'
      AND m.name IN (
          'cpu_percent', 'load1', 'load5', 'load15', 'memory_used_percent', 'swap_used_percent',
          'filesystem_used_percent'
      )
    WINDOW w AS (PARTITION BY s.bucket, h.id, h.name)
) AS t
WHERE t.kept
