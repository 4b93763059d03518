-- What the ledger says, and forgetting what nobody can ask about any more.

-- days --
-- Each UTC day from that of the raw horizon on: rows that the ledger claims.
SELECT d.utc_day, sum(d.n) AS n
FROM ingest_batch_days AS d
WHERE d.tbl = :tbl
  AND d.utc_day >= :since
GROUP BY d.utc_day

-- old --
-- The oldest batches; what hangs on them goes first, so that each of the three statements finds the same ones.
SELECT b.spool_id, b.seq
FROM ingest_batches AS b
WHERE b.committed_at < :before
ORDER BY b.committed_at, b.spool_id, b.seq
LIMIT :limit

-- forget --
DELETE FROM {table}
WHERE (spool_id, seq) IN (
{old}
)
