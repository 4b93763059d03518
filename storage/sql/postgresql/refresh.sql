-- What a refresh does before it looks for its buckets.

-- growth --
-- Whether a partition has at least doubled since the planner looked at it: some twenty times in a day of 10 million rows.
SELECT coalesce(s.n_mod_since_analyze, 0) > greatest(c.reltuples, 1000) AS doubled
FROM pg_class AS c
LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
WHERE c.oid = to_regclass(%(name)s)

-- summarise --
-- Summaries for the pages that BRIN indexes do not know yet.
SELECT brin_summarize_new_values(x.indexrelid)
FROM pg_index AS x
JOIN pg_class AS c ON c.oid = x.indexrelid
JOIN pg_am AS a ON a.oid = c.relam
WHERE x.indrelid = to_regclass(%(name)s)
  AND a.amname = 'brin'
