-- Public views for people, dashboards and reports, and the functions that they share. Names and columns are the same
-- on every engine. A slot is counted once: it is up, down, unobserved or paused.

-- slots_between --
-- The slots of one schedule row that are due in a window. Due times lie at offset_s + k * interval_s seconds since
-- the Unix epoch, from from_ts (inclusive) to to_ts (exclusive; NULL for an open row).
-- In whole microseconds, as they are stored: no rounding moves a slot across a bound. The double that holds an epoch is
-- exact to a quarter of one, and five times as fast as the numeric.
CREATE OR REPLACE FUNCTION slots_between(
    window_start timestamptz, window_end timestamptz,
    from_ts timestamptz, to_ts timestamptz, interval_s float8, offset_s float8
) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN greatest(
    0,
    (round(date_part('epoch', least(window_end, to_ts)) * 1e6)::bigint
        - round(offset_s * 1e6)::bigint + round(interval_s * 1e6)::bigint - 1) / round(interval_s * 1e6)::bigint
    - (round(date_part('epoch', greatest(window_start, from_ts)) * 1e6)::bigint
        - round(offset_s * 1e6)::bigint + round(interval_s * 1e6)::bigint - 1) / round(interval_s * 1e6)::bigint
)

-- seconds_between --
-- Seconds from one moment to another, exact to the microsecond.
CREATE OR REPLACE FUNCTION seconds_between(from_ts timestamptz, to_ts timestamptz) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN date_part('epoch', to_ts - from_ts)

-- local_day --
-- The day of the calendar, as people of a time zone have it: days since 1 January 1970.
CREATE OR REPLACE FUNCTION local_day(ts timestamptz, zone text) RETURNS int
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (ts AT TIME ZONE zone)::date - DATE '1970-01-01'

-- lost_between --
-- The slots of one loss that were due in a window: n slots, evenly from from_due to to_due, both included.
CREATE OR REPLACE FUNCTION lost_between(
    window_start timestamptz, window_end timestamptz, from_due timestamptz, to_due timestamptz, n bigint
) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN n < 2 OR from_due = to_due THEN CASE WHEN from_due >= window_start AND from_due < window_end THEN n ELSE 0 END
    ELSE least(n, greatest(0, ceil(
             (extract(epoch FROM window_end) - 0.0000005 - extract(epoch FROM from_due))
             * (n - 1) / (extract(epoch FROM to_due) - extract(epoch FROM from_due)))))
         - least(n, greatest(0, ceil(
             (extract(epoch FROM window_start) - 0.0000005 - extract(epoch FROM from_due))
             * (n - 1) / (extract(epoch FROM to_due) - extract(epoch FROM from_due)))))
END::bigint

-- observation --
-- One row: whether a collector is live, and the moment up to which every slot should have ended. While a collector
-- is live, slots that it has not handed over yet are on their way; once it is gone, they are unobserved. A database has
-- one collector: a session that was killed ends for all to see with the start of the next one.
-- A live collector writes its vitals several times a minute.
CREATE OR REPLACE VIEW observation AS
SELECT count(s.id) > 0 AS live,
       coalesce(least(max(coalesce(s.observed_to, s.started_at)), now()), now()) AS observed_to
FROM collector_sessions AS s
WHERE s.ended_at IS NULL
  AND s.last_seen_at > now() - INTERVAL '1 minute'
  AND s.id = (
      SELECT n.id FROM collector_sessions AS n WHERE n.is_collector ORDER BY n.last_seen_at DESC, n.id DESC LIMIT 1
  )

-- fleet_health --
-- How each agent is now; retired ones are left out. Stale means that nobody has looked for more than three intervals
-- and ten seconds although somebody should have: the status is what was known then.
-- last_due, last_outcome and last_latency_ms are NULL when the last check lies further back than five minutes or
-- three intervals and ten seconds, whichever is longer: a week of checks is not searched for them.
CREATE OR REPLACE VIEW fleet_health AS
WITH recent AS (
    -- Up to 90 s of interval, five minutes hold three intervals and ten seconds. A constant bound lets the planner
    -- see how few rows there are; slower agents are looked up one by one.
    SELECT c.agent_id, c.ts, c.outcome, c.latency_ms
    FROM agents AS a
    JOIN health_checks AS c ON c.agent_id = a.id
    WHERE a.state <> 'retired'
      AND a.interval_s <= 90
      AND c.ts >= now() - INTERVAL '5 minutes'
      AND c.outcome <> 7
    UNION ALL
    SELECT c.agent_id, c.ts, c.outcome, c.latency_ms
    FROM agents AS a
    JOIN health_checks AS c ON c.agent_id = a.id
    WHERE a.state <> 'retired'
      AND a.interval_s > 90
      AND c.ts >= now() - (3 * a.interval_s + 10) * INTERVAL '1 second'
      AND c.outcome <> 7
), latest AS (
    SELECT DISTINCT ON (r.agent_id) r.agent_id, r.ts, r.outcome, r.latency_ms
    FROM recent AS r
    ORDER BY r.agent_id, r.ts DESC
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
       l.latency_ms::float8 AS last_latency_ms,
       a.interval_s,
       s.from_ts IS NOT NULL AS scheduled,
       a.state = 'active'
           AND s.from_ts IS NOT NULL
           AND greatest(l.ts, s.from_ts) < now() - (3 * a.interval_s + 10) * INTERVAL '1 second' AS stale
FROM agents AS a
LEFT JOIN agent_schedules AS s ON s.agent_id = a.id AND s.to_ts IS NULL AND s.state = 'active'
LEFT JOIN latest AS l ON l.agent_id = a.id
WHERE a.state <> 'retired'

-- availability --
-- What became of the slots of each agent in each bucket (UTC): hours for availability, days for availability_1d. expected is what should have been polled: the slots of
-- its schedule without those in planned maintenance, up to observation.observed_to.
-- paused is the larger of two witnesses, slots in paused schedule time and checks that ended as paused, because the
-- collector learns of a pause a moment later than the schedule. unobserved is what is left of expected: skipped, lost,
-- or the collector was down; it says nothing about the agent.
CREATE OR REPLACE VIEW {view} AS
SELECT t.bucket,
       t.agent_id,
       t.agent,
       t.type,
       greatest(t.slots - t.paused, 0) AS expected,
       t.up,
       t.down,
       greatest(t.slots - t.paused - t.up - t.down, 0) AS unobserved,
       t.skipped,
       t.lost,
       t.paused,
       t.up::float8 / nullif(t.up + t.down, 0) AS availability,
       CASE WHEN t.slots > t.paused THEN least((t.up + t.down)::float8 / (t.slots - t.paused), 1) END AS coverage
FROM (
    SELECT p.bucket,
           p.agent_id,
           p.agent,
           p.type,
           sum(p.slots)::bigint AS slots,
           sum(p.up)::bigint AS up,
           sum(p.down)::bigint AS down,
           sum(p.skipped)::bigint AS skipped,
           sum(p.lost)::bigint AS lost,
           greatest(sum(p.paused_slots), sum(p.paused_checks))::bigint AS paused
    FROM (
        SELECT h.bucket,
               a.id AS agent_id,
               a.name AS agent,
               a.type,
               n.slots,
               CASE WHEN s.state = 'paused' THEN n.slots ELSE 0 END AS paused_slots,
               0::bigint AS up,
               0::bigint AS down,
               0::bigint AS skipped,
               0::bigint AS paused_checks,
               0::bigint AS lost
        FROM observation AS o
        CROSS JOIN generate_series(
            (
                SELECT greatest(date_trunc({unit}, min(f.from_ts), 'UTC'), max(z.dropped_before))
                FROM agent_schedules AS f
                CROSS JOIN horizons AS z
                WHERE z.tbl = 1 AND z.tier = {tier}
            ),
            o.observed_to,
            {step}
        ) AS h (bucket)
        JOIN agent_schedules AS s ON s.from_ts < h.bucket + {step}
            AND (s.to_ts IS NULL OR s.to_ts > h.bucket)
        JOIN agents AS a ON a.id = s.agent_id
        CROSS JOIN LATERAL (
            SELECT slots_between(
                h.bucket, least(h.bucket + {step}, o.observed_to),
                s.from_ts, s.to_ts, s.interval_s, s.offset_s
            ) AS slots
        ) AS n
        UNION ALL
        SELECT c.bucket,
               a.id,
               a.name,
               a.type,
               0,
               0,
               c.healthy + c.degraded,
               c.unhealthy + c.stalled + c.timeout + c.refused + c.error,
               c.skipped,
               c.paused,
               0
        FROM {rollup} AS c
        JOIN agents AS a ON a.id = c.agent_id
        UNION ALL
        SELECT h.bucket,
               a.id,
               a.name,
               a.type,
               0,
               0,
               0,
               0,
               0,
               0,
               lost_between(h.bucket, h.bucket + {step}, l.from_due, l.to_due, l.n)
        FROM losses AS l
        JOIN agents AS a ON a.id = l.agent_id
        CROSS JOIN LATERAL generate_series(
            date_trunc({unit}, l.from_due, 'UTC'), l.to_due, {step}
        ) AS h (bucket)
    ) AS p
    GROUP BY p.bucket, p.agent_id, p.agent, p.type
) AS t

-- incidents --
-- The times in which an agent was down: from the check that took it down to the one that brought it up again, or to
-- its pause or retirement. Changes from one way of being down to another do not end an incident.
CREATE OR REPLACE VIEW incidents AS
SELECT a.id AS agent_id,
       a.name AS agent,
       a.type,
       i.started_at,
       i.ended_at,
       extract(epoch FROM coalesce(i.ended_at, now()) - i.started_at)::float8 AS duration_s,
       i.statuses[1] AS first_status,
       i.statuses[array_upper(i.statuses, 1)] AS last_status,
       i.reason,
       i.ended_at IS NULL AS open
FROM (
    SELECT n.agent_id,
           min(n.ts) FILTER (WHERE n.down) AS started_at,
           coalesce(
               min(n.ts) FILTER (WHERE NOT n.down),
               CASE WHEN min(r.retired_at) IS NOT NULL THEN greatest(min(r.retired_at), max(n.ts)) END
           ) AS ended_at,
           array_agg(n.to_status ORDER BY n.ts, n.id) FILTER (WHERE n.down) AS statuses,
           (array_agg(n.reason ORDER BY n.ts, n.id) FILTER (WHERE n.down AND n.reason <> ''))[1] AS reason
    FROM (
        SELECT e.agent_id,
               e.id,
               e.ts,
               e.to_status,
               e.reason,
               e.down,
               count(*) FILTER (WHERE e.down AND NOT e.was_down) OVER (
                   PARTITION BY e.agent_id ORDER BY e.ts, e.id
               ) AS incident
        FROM (
            SELECT d.agent_id,
                   d.id,
                   d.ts,
                   d.to_status,
                   d.reason,
                   d.down,
                   lag(d.down, 1, false) OVER (PARTITION BY d.agent_id ORDER BY d.ts, d.id) AS was_down
            FROM (
                SELECT s.agent_id,
                       s.id,
                       s.ts,
                       s.to_status,
                       s.reason,
                       s.to_status IN ('unhealthy', 'stalled', 'timeout', 'refused', 'error') AS down
                FROM status_events AS s
            ) AS d
        ) AS e
    ) AS n
    JOIN agents AS r ON r.id = n.agent_id
    WHERE n.incident > 0
    GROUP BY n.agent_id, n.incident
) AS i
JOIN agents AS a ON a.id = i.agent_id

-- system_load --
-- How busy each host was in each minute, or in each hour: means over the bucket, of file systems the fullest one.
CREATE OR REPLACE VIEW {view} AS
SELECT s.bucket,
       h.id AS host_id,
       h.name AS host,
       max(s.avg) FILTER (WHERE m.name = 'cpu_percent') AS cpu_percent,
       max(s.max) FILTER (WHERE m.name = 'cpu_percent') AS cpu_percent_max,
       max(s.avg) FILTER (WHERE m.name = 'load1') AS load1,
       max(s.avg) FILTER (WHERE m.name = 'load5') AS load5,
       max(s.avg) FILTER (WHERE m.name = 'load15') AS load15,
       max(s.avg) FILTER (WHERE m.name = 'memory_used_percent') AS memory_used_percent,
       max(s.avg) FILTER (WHERE m.name = 'swap_used_percent') AS swap_used_percent,
       max(s.avg) FILTER (WHERE m.name = 'filesystem_used_percent') AS filesystem_used_percent
FROM {rollup} AS s
JOIN metrics AS m ON m.id = s.metric_id
JOIN hosts AS h ON h.id = s.host_id
WHERE m.kind = 'gauge'
  AND m.name IN (
      'cpu_percent', 'load1', 'load5', 'load15', 'memory_used_percent', 'swap_used_percent', 'filesystem_used_percent'
  )
GROUP BY s.bucket, h.id, h.name
