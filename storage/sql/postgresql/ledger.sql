-- What the ledger says, and forgetting what nobody can ask about any more.

-- days --
-- Each UTC day above the raw horizon: rows that the ledger claims, rows that the table holds.
SELECT coalesce(l.utc_day, s.utc_day) AS utc_day,
       coalesce(l.n, 0) AS ledger,
       coalesce(s.n, 0) AS stored
FROM (
    SELECT d.utc_day, sum(d.n)::bigint AS n
    FROM ingest_batch_days AS d
    WHERE d.tbl = %(tbl)s
      AND d.utc_day >= (
          SELECT (h.dropped_before AT TIME ZONE 'UTC')::date FROM horizons AS h WHERE h.tbl = %(tbl)s AND h.tier = 0
      )
    GROUP BY d.utc_day
) AS l
FULL JOIN (
    SELECT (r.ts AT TIME ZONE 'UTC')::date AS utc_day, count(*) AS n
    FROM {table} AS r
    WHERE r.ts >= (SELECT h.dropped_before FROM horizons AS h WHERE h.tbl = %(tbl)s AND h.tier = 0)
    GROUP BY (r.ts AT TIME ZONE 'UTC')::date
) AS s ON s.utc_day = l.utc_day
ORDER BY 1

-- purge --
-- The oldest batches, with what hangs on them.
WITH old AS (
    SELECT b.spool_id, b.seq
    FROM ingest_batches AS b
    WHERE b.committed_at < %(before)s
    ORDER BY b.committed_at
    LIMIT %(limit)s
), days AS (
    DELETE FROM ingest_batch_days AS d
    USING old
    WHERE d.spool_id = old.spool_id
      AND d.seq = old.seq
), refused AS (
    DELETE FROM ingest_rejections AS r
    USING old
    WHERE r.spool_id = old.spool_id
      AND r.seq = old.seq
)
DELETE FROM ingest_batches AS b
USING old
WHERE b.spool_id = old.spool_id
  AND b.seq = old.seq
