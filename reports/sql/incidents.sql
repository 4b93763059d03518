-- incidents --
-- The incidents that overlap [start, end), the latest first; each with all of its own time. One that is open goes on
-- until now.
SELECT i.agent,
       i.type,
       i.started_at,
       i.ended_at,
       i.duration_s,
       i.first_status,
       i.last_status,
       i.reason,
       i.open
FROM incidents AS i
WHERE i.started_at < :end
  AND (i.ended_at > :start OR i.ended_at IS NULL AND i.duration_s > seconds_between(i.started_at, :start))
  AND (CAST(:agent AS text) IS NULL OR i.agent = :agent)
  AND (CAST(:type AS text) IS NULL OR i.type = :type)
ORDER BY i.started_at DESC,
         i.agent
