-- What the server's own jobs would do to the time series.

-- policies --
-- The jobs on our relations: table or continuous aggregate, procedure, offsets, and whether it waits for a worker: late by
-- ten of its intervals, and by ten minutes. The server sets the next start of a job that has just begun to -infinity,
-- before its worker is seen to run.
SELECT coalesce(c.view_name, h.table_name)::text AS relation,
       j.proc_name::text,
       (j.config ->> 'start_offset')::interval AS start_offset,
       (j.config ->> 'end_offset')::interval AS end_offset,
       (j.config ->> 'compress_after')::interval AS compress_after,
       j.scheduled,
       coalesce(
           j.scheduled AND s.job_status <> 'Running'
               AND isfinite(s.next_start)
               AND s.next_start < now() - greatest(10 * j.schedule_interval, INTERVAL '10 minutes'),
           false
       ) AS overdue
FROM timescaledb_information.jobs AS j
JOIN _timescaledb_catalog.hypertable AS h
    ON h.id = coalesce((j.config ->> 'mat_hypertable_id')::int, (j.config ->> 'hypertable_id')::int)
LEFT JOIN timescaledb_information.continuous_aggregates AS c
    ON c.materialization_hypertable_schema = h.schema_name AND c.materialization_hypertable_name = h.table_name
LEFT JOIN timescaledb_information.job_stats AS s ON s.job_id = j.job_id
WHERE coalesce(c.view_name, h.table_name) = ANY (%(relations)s)
  AND coalesce(c.view_schema, h.schema_name) = current_schema()
ORDER BY 1, 2

-- watermarks --
-- Continuous aggregates that are computed up to a moment that is yet to come: rows before it do not show at once.
SELECT c.view_name::text AS relation,
       _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(h.id)) AS watermark
FROM timescaledb_information.continuous_aggregates AS c
JOIN _timescaledb_catalog.hypertable AS h
    ON h.schema_name = c.materialization_hypertable_schema AND h.table_name = c.materialization_hypertable_name
WHERE c.view_name = ANY (%(relations)s)
  AND c.view_schema = current_schema()
  AND _timescaledb_functions.cagg_watermark(h.id) > _timescaledb_functions.to_unix_microseconds(now())
ORDER BY 1

-- chunks --
-- The chunks of a table or continuous aggregate with their sizes, ascending.
SELECT k.chunk_name,
       k.range_start,
       k.range_end,
       d.total_bytes
FROM timescaledb_information.chunks AS k
JOIN chunks_detailed_size({relation}) AS d ON d.chunk_schema = k.chunk_schema AND d.chunk_name = k.chunk_name
WHERE (k.hypertable_schema, k.hypertable_name) = (
    SELECT coalesce(c.materialization_hypertable_schema, current_schema()),
           coalesce(c.materialization_hypertable_name, {relation})
    FROM (SELECT 1) AS one
    LEFT JOIN timescaledb_information.continuous_aggregates AS c
        ON c.view_schema = current_schema() AND c.view_name = {relation}
)
ORDER BY k.range_start
