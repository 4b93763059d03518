-- top_talkers --
-- Who said how much to whom in [start, end), the busiest first; recipient 0 stands for everybody. Percentiles as in
-- task_throughput, of messages that were delivered.
WITH said AS (
    SELECT m.sender_id,
           COALESCE(m.recipient_id, 0) AS recipient_id,
           m.payload_bytes,
           m.state,
           m.created_at,
           m.delivery_s
    FROM message_log AS m
    WHERE m.created_at >= :start
      AND m.created_at < :end
      AND (CAST(:agent AS text) IS NULL OR m.sender = :agent OR (m.recipient = :agent AND m.recipient_id IS NOT NULL))
), counted AS (
    SELECT s.sender_id,
           s.recipient_id,
           COUNT(*) AS messages,
           SUM(s.payload_bytes) AS payload_bytes,
           SUM(CASE WHEN s.state = 'failed' THEN 1 ELSE 0 END) AS failed,
           MAX(s.created_at) AS last_at
    FROM said AS s
    GROUP BY s.sender_id,
             s.recipient_id
), placed AS (
    SELECT s.sender_id,
           s.recipient_id,
           s.delivery_s,
           ROW_NUMBER() OVER (PARTITION BY s.sender_id, s.recipient_id ORDER BY s.delivery_s) - 1 AS place,
           COUNT(*) OVER (PARTITION BY s.sender_id, s.recipient_id) - 1 AS last
    FROM said AS s
    WHERE s.delivery_s IS NOT NULL
), percents AS (
    SELECT 50 AS percent
    UNION ALL
    SELECT 95
), percentiles AS (
    SELECT v.sender_id,
           v.recipient_id,
           p.percent,
           MIN(v.delivery_s)
               + CAST(p.percent * v.last % 100 AS double precision) / 100 * (MAX(v.delivery_s) - MIN(v.delivery_s))
               AS delivery_s
    FROM placed AS v
    JOIN percents AS p ON v.place BETWEEN p.percent * v.last / 100 AND (p.percent * v.last + 99) / 100
    GROUP BY v.sender_id,
             v.recipient_id,
             v.last,
             p.percent
), pivoted AS (
    SELECT p.sender_id,
           p.recipient_id,
           MAX(CASE WHEN p.percent = 50 THEN p.delivery_s END) AS delivery_p50_s,
           MAX(CASE WHEN p.percent = 95 THEN p.delivery_s END) AS delivery_p95_s
    FROM percentiles AS p
    GROUP BY p.sender_id,
             p.recipient_id
)
SELECT a.name AS sender,
       COALESCE(b.name, '*') AS recipient,
       c.messages,
       c.payload_bytes,
       c.failed,
       p.delivery_p50_s,
       p.delivery_p95_s,
       c.last_at
FROM counted AS c
JOIN agents AS a ON a.id = c.sender_id
LEFT JOIN agents AS b ON b.id = c.recipient_id
LEFT JOIN pivoted AS p ON p.sender_id = c.sender_id AND p.recipient_id = c.recipient_id
ORDER BY c.messages DESC,
         c.payload_bytes DESC,
         a.name,
         COALESCE(b.name, '*')
LIMIT :limit
