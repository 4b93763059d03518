-- system_load --
-- How busy each host was in [start, end), per minute or per hour.
SELECT l.bucket,
       l.host,
       l.cpu_percent,
       l.cpu_percent_max,
       l.load1,
       l.memory_used_percent,
       l.swap_used_percent,
       l.filesystem_used_percent
FROM (
    SELECT m.bucket,
           m.host,
           m.cpu_percent,
           m.cpu_percent_max,
           m.load1,
           m.memory_used_percent,
           m.swap_used_percent,
           m.filesystem_used_percent
    FROM system_load AS m
    WHERE :by_hour = 0
      AND m.bucket >= :start
      AND m.bucket < :end
    UNION ALL
    SELECT h.bucket,
           h.host,
           h.cpu_percent,
           h.cpu_percent_max,
           h.load1,
           h.memory_used_percent,
           h.swap_used_percent,
           h.filesystem_used_percent
    FROM system_load_1h AS h
    WHERE :by_hour = 1
      AND h.bucket >= :start
      AND h.bucket < :end
) AS l
WHERE (CAST(:host AS text) IS NULL OR l.host = :host)
ORDER BY l.host,
         l.bucket
