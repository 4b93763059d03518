-- How a tier is computed, and how its public view puts clean and marked buckets together. SQLite has no LATERAL, and
-- hands a condition of the reader down only as far as the first subquery that groups: below that there are tables alone.
-- Placeholders in columns and conditions come from storage/lite/layout.py, where a column is defined once for all tiers.

-- computed --
-- The rows of a tier out of {rows}, without those columns that tell what came last. A series that has nothing in a marked
-- bucket has no row.
SELECT {bucket} AS bucket,
       {key},
       {columns}
FROM {rows}
GROUP BY {group}
HAVING {n} > 0

-- health_last_raw --
-- What came last in each bucket of {computed}, out of raw rows: of two at one time the greater. One search in an index
-- for each row of the answer, where an aggregate would be a call for each row below it.
SELECT {before},
       (
           SELECT v.latency_ms
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + {step}
             AND v.latency_ms IS NOT NULL
           ORDER BY v.ts DESC, v.latency_ms DESC
           LIMIT 1
       ) AS latency_last,
       x.late_max,
       (
           SELECT v.outcome
           FROM health_checks AS v
           WHERE v.agent_id = x.agent_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + {step}
           ORDER BY v.ts DESC, v.outcome DESC
           LIMIT 1
       ) AS last_outcome,
       x.latency_bins
FROM (
{computed}
) AS x

-- health_last_tier --
-- The same out of the tier {source}.
SELECT {before},
       (
           SELECT v.latency_last
           FROM {source} AS v
           WHERE v.agent_id = x.agent_id
             AND v.bucket >= x.bucket
             AND v.bucket < x.bucket + {step}
             AND v.latency_last IS NOT NULL
           ORDER BY v.bucket DESC
           LIMIT 1
       ) AS latency_last,
       x.late_max,
       (
           SELECT v.last_outcome
           FROM {source} AS v
           WHERE v.agent_id = x.agent_id
             AND v.bucket >= x.bucket
             AND v.bucket < x.bucket + {step}
           ORDER BY v.bucket DESC
           LIMIT 1
       ) AS last_outcome,
       x.latency_bins
FROM (
{computed}
) AS x

-- samples_last_raw --
-- What came last in each bucket of {computed}, out of raw rows: of two at one time the greater.
SELECT {before},
       (
           SELECT v.value
           FROM {source} AS v
           WHERE v.{entity} = x.{entity}
             AND v.metric_id = x.metric_id
             AND v.ts >= x.bucket
             AND v.ts < x.bucket + {step}
           ORDER BY v.ts DESC, v.value DESC
           LIMIT 1
       ) AS last
FROM (
{computed}
) AS x

-- samples_last_tier --
-- The same out of the tier {source}.
SELECT {before},
       (
           SELECT v.last
           FROM {source} AS v
           WHERE v.{entity} = x.{entity}
             AND v.metric_id = x.metric_id
             AND v.bucket >= x.bucket
             AND v.bucket < x.bucket + {step}
           ORDER BY v.bucket DESC
           LIMIT 1
       ) AS last
FROM (
{computed}
) AS x

-- bucket --
-- The rows of {source} that one bucket is made of, series by series: they come in the order in which they are grouped, so
-- that nothing is sorted.
{raw}_series AS s
CROSS JOIN {source} AS r ON {same} AND r.{time} >= :start AND r.{time} < :end

-- window --
-- The rows of {source} that a proof reads: whether their series are listed is a part of what it proves.
{source} AS r
WHERE r.{time} >= :start
  AND r.{time} < :end

-- window_of_one --
-- The same for a window of one long bucket: in the order of the series, because to sort them would take their size in
-- memory.
{source} AS r INDEXED BY {source}_entity
WHERE r.{time} >= :start
  AND r.{time} < :end

-- marked_1m --
-- The raw rows of marked minutes.
(
    SELECT DISTINCT k.bucket
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier = 1
) AS d
CROSS JOIN {raw} AS r ON r.ts >= d.bucket AND r.ts < d.bucket + 60000000

-- marked_1h --
-- What marked hours are made of: their clean minutes (m), and the raw rows of their marked minutes (r).
-- A piece has bounds for one of the two, and NULL for the other: nothing is looked for there.
(
    SELECT k.bucket - k.bucket % 3600000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 3600000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier IN (1, 2)
) AS p
CROSS JOIN {raw}_series AS s
LEFT JOIN {raw} AS r ON {same_r} AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN {minutes} AS m ON {same_m} AND m.bucket >= p.m_from AND m.bucket < p.m_to AND {clean_m}

-- marked_1d --
-- What marked days are made of: their clean hours (h), the clean minutes of their marked hours (m), and the raw rows of
-- marked minutes (r).
(
    SELECT k.bucket - k.bucket % 86400000000 AS bucket,
           k.bucket AS raw_from, k.bucket + 60000000 AS raw_to,
           NULL AS m_from, NULL AS m_to,
           NULL AS h_from, NULL AS h_to
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier = 1
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           k.bucket - k.bucket % 3600000000, k.bucket - k.bucket % 3600000000 + 3600000000,
           NULL, NULL
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier IN (1, 2)
    UNION
    SELECT k.bucket - k.bucket % 86400000000,
           NULL, NULL,
           NULL, NULL,
           k.bucket - k.bucket % 86400000000, k.bucket - k.bucket % 86400000000 + 86400000000
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier IN (1, 2, 3)
) AS p
CROSS JOIN {raw}_series AS s
LEFT JOIN {raw} AS r ON {same_r} AND r.ts >= p.raw_from AND r.ts < p.raw_to
LEFT JOIN {minutes} AS m ON {same_m} AND m.bucket >= p.m_from AND m.bucket < p.m_to AND {clean_m}
LEFT JOIN {hours} AS h ON {same_h} AND h.bucket >= p.h_from AND h.bucket < p.h_to AND {clean_h}

-- clean --
-- Whether a bucket is as materialised: neither its tier nor a finer one has a mark in it.
NOT EXISTS (
    SELECT 1
    FROM marks AS k
    WHERE k.tbl = {tbl}
      AND k.tier IN ({tiers})
      AND k.bucket >= {alias}.bucket
      AND k.bucket < {alias}.bucket + {step}
)

-- view --
-- The public face of a tier, exact in any snapshot: clean buckets as materialised, marked ones computed. What lies below
-- the horizon is out of sight at once, however long its rows take to go; the plus keeps that condition from being
-- chosen to search by, in place of a reader's narrower one.
CREATE VIEW {view} AS
SELECT {columns}, {averages}
FROM (
SELECT {held}
FROM {mat} AS m
WHERE +m.bucket >= (SELECT z.dropped_before FROM horizons AS z WHERE z.tbl = {tbl} AND z.tier = {tier})
  AND {clean}
UNION ALL
{marked}
) AS u

-- differences --
-- Rows of the public view (f) within a window that are not what they should be (e): missing, too many, or different.
-- Both are grouped by their key instead of joined: without statistics SQLite may join them row by row.
SELECT {answered}
FROM (
    SELECT {key},
           sum(b.side = 0) AS f_rows,
           sum(b.side = 1) AS e_rows,
           {sides}
    FROM (
        SELECT 0 AS side, {columns}
        FROM {view}
        WHERE bucket >= :start
          AND bucket < :end
        UNION ALL
        SELECT 1, {columns}
        FROM (
{expected}
        )
    ) AS b
    GROUP BY {key}
) AS d
WHERE d.f_rows <> 1
   OR d.e_rows <> 1
   OR {differs}
ORDER BY 1, 2
LIMIT {limit}
