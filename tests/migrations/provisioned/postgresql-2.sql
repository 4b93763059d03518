-- A database of version 2 of the engine postgresql with a few rows, as pg_dump of PostgreSQL 15 wrote it (--inserts, no owners).
SELECT pg_catalog.set_config('search_path', '', false);
CREATE FUNCTION public.latency_bin(ms double precision) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (ms <= (0.1)::double precision) THEN 0 WHEN (ms > (120000)::double precision) THEN 708 ELSE (GREATEST((1)::double precision, LEAST((707)::double precision, ceil((ln((ms / (0.1)::double precision)) / ln((1.02)::double precision))))))::integer END;
CREATE FUNCTION public.latency_bins_add(state integer[], bins integer[]) RETURNS integer[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
BEGIN
    IF bins IS NULL THEN
        RETURN state;
    END IF;
    IF array_length(state, 1) > 4096 THEN
        state := "public"."latency_bins_pack"(state);
    END IF;
    RETURN state || bins;
END
$$;
CREATE FUNCTION public.latency_bins_pack(bins integer[]) RETURNS integer[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT array_agg(ARRAY[packed.bin, packed.n] ORDER BY packed.bin) AS array_agg FROM (SELECT (latency_bins_pack.bins)[i.i][1] AS bin, (sum((latency_bins_pack.bins)[i.i][2]))::integer AS n FROM generate_subscripts(latency_bins_pack.bins, 1) i(i) GROUP BY (latency_bins_pack.bins)[i.i][1]) packed);
CREATE FUNCTION public.latency_quantile(bins integer[], q double precision, max_ms double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT CASE WHEN (placed.bin = 0) THEN LEAST((0.1)::double precision, latency_quantile.max_ms) WHEN (placed.bin = 708) THEN latency_quantile.max_ms ELSE LEAST(((((0.1 * (1.02 ^ (placed.bin)::numeric)) * (2)::numeric) / 2.02))::double precision, latency_quantile.max_ms) END AS "least" FROM (SELECT (latency_quantile.bins)[i.i][1] AS bin, sum((latency_quantile.bins)[i.i][2]) OVER (ORDER BY (latency_quantile.bins)[i.i][1], i.i) AS upto, sum((latency_quantile.bins)[i.i][2]) OVER () AS total FROM generate_subscripts(latency_quantile.bins, 1) i(i)) placed WHERE ((placed.upto)::double precision >= GREATEST((1)::double precision, ceil((latency_quantile.q * (placed.total)::double precision)))) ORDER BY placed.bin LIMIT 1);
CREATE FUNCTION public.lost_between(window_start timestamp with time zone, window_end timestamp with time zone, from_due timestamp with time zone, to_due timestamp with time zone, n bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (CASE WHEN ((n < 2) OR (from_due = to_due)) THEN (CASE WHEN ((from_due >= window_start) AND (from_due < window_end)) THEN n ELSE (0)::bigint END)::numeric ELSE (LEAST((n)::numeric, GREATEST((0)::numeric, ceil(((((EXTRACT(epoch FROM window_end) - 0.0000005) - EXTRACT(epoch FROM from_due)) * ((n - 1))::numeric) / (EXTRACT(epoch FROM to_due) - EXTRACT(epoch FROM from_due)))))) - LEAST((n)::numeric, GREATEST((0)::numeric, ceil(((((EXTRACT(epoch FROM window_start) - 0.0000005) - EXTRACT(epoch FROM from_due)) * ((n - 1))::numeric) / (EXTRACT(epoch FROM to_due) - EXTRACT(epoch FROM from_due))))))) END)::bigint;
CREATE FUNCTION public.make_partition(tbl smallint, tier smallint, moment timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET "DateStyle" TO 'ISO, YMD'
    AS $_$
DECLARE
    place CONSTANT text := 'public';
    step CONSTANT text := (ARRAY['day', 'day', 'month', 'year'])[tier + 1];
    parent CONSTANT text := CASE
        WHEN tier = 0 THEN (ARRAY['health_checks', 'agent_metrics', 'system_metrics'])[tbl]
        ELSE (ARRAY['health', 'agent_metrics', 'system_metrics'])[tbl] || (ARRAY['_1m_mat', '_1h_mat', '_1d_mat'])[tier]
    END;
    low CONSTANT timestamptz := date_trunc(step, moment);
    high CONSTANT timestamptz := low + ('1 ' || step)::interval;
    leaf CONSTANT text := parent || '_' || to_char(low, (ARRAY['YYYYMMDD', 'YYYYMMDD', 'YYYYMM', 'YYYY'])[tier + 1]);
    closed timestamptz;
    granted record;
BEGIN
    IF leaf IS NULL OR NOT isfinite(moment) THEN
        RAISE EXCEPTION 'there is no partition of table %, tier % at %', tbl, tier, moment
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(1718382595, 0);
    EXECUTE format('SELECT h.closed_before FROM %I.horizons AS h WHERE h.tbl = $1 AND h.tier = $2', place)
        INTO STRICT closed USING tbl, tier;
    IF high <= closed OR EXISTS (
        SELECT 1
        FROM pg_inherits AS i
        JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = to_regclass(format('%I.%I', place, parent))
          AND c.relname = leaf
    ) THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'CREATE TABLE %1$I.%2$I (LIKE %1$I.%3$I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)',
        place, leaf, parent
    );
    EXECUTE format(
        'ALTER TABLE %1$I.%2$I ATTACH PARTITION %1$I.%3$I FOR VALUES FROM (%4$L) TO (%5$L)',
        place, parent, leaf, low, high
    );
    FOR granted IN
        SELECT a.privilege_type, coalesce(quote_ident(r.rolname), 'PUBLIC') AS grantee
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        LEFT JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE c.oid = to_regclass(format('%I.%I', place, parent))
          AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON %I.%I TO %s', granted.privilege_type, place, leaf, granted.grantee);
    END LOOP;
    RETURN true;
END
$_$;
CREATE FUNCTION public.slots_between(window_start timestamp with time zone, window_end timestamp with time zone, from_ts timestamp with time zone, to_ts timestamp with time zone, interval_s double precision, offset_s double precision) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN GREATEST((0)::bigint, ((((((round((date_part('epoch'::text, LEAST(window_end, to_ts)) * ('1000000'::numeric)::double precision)))::bigint - (round((offset_s * ('1000000'::numeric)::double precision)))::bigint) + (round((interval_s * ('1000000'::numeric)::double precision)))::bigint) - 1) / (round((interval_s * ('1000000'::numeric)::double precision)))::bigint) - (((((round((date_part('epoch'::text, GREATEST(window_start, from_ts)) * ('1000000'::numeric)::double precision)))::bigint - (round((offset_s * ('1000000'::numeric)::double precision)))::bigint) + (round((interval_s * ('1000000'::numeric)::double precision)))::bigint) - 1) / (round((interval_s * ('1000000'::numeric)::double precision)))::bigint)));
CREATE AGGREGATE public.latency_bins_merge(integer[]) (
    SFUNC = public.latency_bins_add,
    STYPE = integer[],
    FINALFUNC = public.latency_bins_pack,
    COMBINEFUNC = public.latency_bins_add,
    PARALLEL = safe
);
CREATE TABLE public.agent_metrics (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
)
PARTITION BY RANGE (ts);
CREATE TABLE public.agent_metrics_1d_mat (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
)
PARTITION BY RANGE (bucket);
CREATE TABLE public.agent_metrics_1h_mat (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
)
PARTITION BY RANGE (bucket);
CREATE TABLE public.agent_metrics_1m_mat (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
)
PARTITION BY RANGE (bucket);
CREATE TABLE public.marks (
    mark_id bigint NOT NULL,
    tbl smallint NOT NULL,
    tier smallint NOT NULL,
    bucket timestamp with time zone NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='2000');
CREATE VIEW public.agent_metrics_1d AS
 SELECT u.bucket,
    u.agent_id,
    u.metric_id,
    u.n,
    u.sum,
    u.min,
    u.max,
    u.last,
    (u.sum / (NULLIF(u.n, 0))::double precision) AS avg
   FROM ( SELECT m.bucket,
            m.agent_id,
            m.metric_id,
            m.n,
            m.sum,
            m.min,
            m.max,
            m.last
           FROM public.agent_metrics_1d_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1,2,3}'::smallint[])) AND (date_bin('24:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1d.bucket,
            x.agent_id,
            x.metric_id,
            x.n,
            x.sum,
            x.min,
            x.max,
            x.last
           FROM (( SELECT DISTINCT date_bin('24:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1,2,3}'::smallint[])) AND true)) d_1d
             CROSS JOIN LATERAL ( SELECT date_bin('24:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.agent_id,
                    r.metric_id,
                    (sum(r.n))::bigint AS n,
                    sum(r.sum) AS sum,
                    min(r.min) AS min,
                    max(r.max) AS max,
                    (max(ARRAY[date_part('epoch'::text, r.bucket), r.last]))[2] AS last
                   FROM ( SELECT m.bucket,
                            m.agent_id,
                            m.metric_id,
                            m.n,
                            m.sum,
                            m.min,
                            m.max,
                            m.last
                           FROM public.agent_metrics_1h_mat m
                          WHERE ((m.bucket >= d_1d.bucket) AND (m.bucket < (d_1d.bucket + '24:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
                                   FROM public.marks k
                                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
                        UNION ALL
                         SELECT d_1h.bucket,
                            x_1.agent_id,
                            x_1.metric_id,
                            x_1.n,
                            x_1.sum,
                            x_1.min,
                            x_1.max,
                            x_1.last
                           FROM (( SELECT DISTINCT date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                                   FROM public.marks k
                                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (k.bucket >= d_1d.bucket) AND (k.bucket < (d_1d.bucket + '24:00:00'::interval)))) d_1h
                             CROSS JOIN LATERAL ( SELECT date_bin('01:00:00'::interval, r_1.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                                    r_1.agent_id,
                                    r_1.metric_id,
                                    (sum(r_1.n))::bigint AS n,
                                    sum(r_1.sum) AS sum,
                                    min(r_1.min) AS min,
                                    max(r_1.max) AS max,
                                    (max(ARRAY[date_part('epoch'::text, r_1.bucket), r_1.last]))[2] AS last
                                   FROM ( SELECT m.bucket,
    m.agent_id,
    m.metric_id,
    m.n,
    m.sum,
    m.min,
    m.max,
    m.last
   FROM public.agent_metrics_1m_mat m
  WHERE ((m.bucket >= d_1h.bucket) AND (m.bucket < (d_1h.bucket + '01:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
     FROM public.marks k
    WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
UNION ALL
 SELECT d_1m.bucket,
    x_2.agent_id,
    x_2.metric_id,
    x_2.n,
    x_2.sum,
    x_2.min,
    x_2.max,
    x_2.last
   FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
     FROM public.marks k
    WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1}'::smallint[])) AND (k.bucket >= d_1h.bucket) AND (k.bucket < (d_1h.bucket + '01:00:00'::interval)))) d_1m
     CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r_2.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
      r_2.agent_id,
      r_2.metric_id,
      count(*) AS n,
      sum(r_2.value) AS sum,
      min(r_2.value) AS min,
      max(r_2.value) AS max,
      (max(ARRAY[date_part('epoch'::text, r_2.ts), r_2.value]))[2] AS last
     FROM public.agent_metrics r_2
    WHERE ((r_2.ts >= d_1m.bucket) AND (r_2.ts < (d_1m.bucket + '00:01:00'::interval)))
    GROUP BY (date_bin('00:01:00'::interval, r_2.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_2.agent_id, r_2.metric_id) x_2)) r_1
                                  WHERE ((r_1.bucket >= d_1h.bucket) AND (r_1.bucket < (d_1h.bucket + '01:00:00'::interval)))
                                  GROUP BY (date_bin('01:00:00'::interval, r_1.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_1.agent_id, r_1.metric_id) x_1)) r
                  WHERE ((r.bucket >= d_1d.bucket) AND (r.bucket < (d_1d.bucket + '24:00:00'::interval)))
                  GROUP BY (date_bin('24:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.agent_id, r.metric_id) x)) u;
CREATE TABLE public.agent_metrics_1d_mat_2026 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE VIEW public.agent_metrics_1h AS
 SELECT u.bucket,
    u.agent_id,
    u.metric_id,
    u.n,
    u.sum,
    u.min,
    u.max,
    u.last,
    (u.sum / (NULLIF(u.n, 0))::double precision) AS avg
   FROM ( SELECT m.bucket,
            m.agent_id,
            m.metric_id,
            m.n,
            m.sum,
            m.min,
            m.max,
            m.last
           FROM public.agent_metrics_1h_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1h.bucket,
            x.agent_id,
            x.metric_id,
            x.n,
            x.sum,
            x.min,
            x.max,
            x.last
           FROM (( SELECT DISTINCT date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1,2}'::smallint[])) AND true)) d_1h
             CROSS JOIN LATERAL ( SELECT date_bin('01:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.agent_id,
                    r.metric_id,
                    (sum(r.n))::bigint AS n,
                    sum(r.sum) AS sum,
                    min(r.min) AS min,
                    max(r.max) AS max,
                    (max(ARRAY[date_part('epoch'::text, r.bucket), r.last]))[2] AS last
                   FROM ( SELECT m.bucket,
                            m.agent_id,
                            m.metric_id,
                            m.n,
                            m.sum,
                            m.min,
                            m.max,
                            m.last
                           FROM public.agent_metrics_1m_mat m
                          WHERE ((m.bucket >= d_1h.bucket) AND (m.bucket < (d_1h.bucket + '01:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
                                   FROM public.marks k
                                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
                        UNION ALL
                         SELECT d_1m.bucket,
                            x_1.agent_id,
                            x_1.metric_id,
                            x_1.n,
                            x_1.sum,
                            x_1.min,
                            x_1.max,
                            x_1.last
                           FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                                   FROM public.marks k
                                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1}'::smallint[])) AND (k.bucket >= d_1h.bucket) AND (k.bucket < (d_1h.bucket + '01:00:00'::interval)))) d_1m
                             CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r_1.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                                    r_1.agent_id,
                                    r_1.metric_id,
                                    count(*) AS n,
                                    sum(r_1.value) AS sum,
                                    min(r_1.value) AS min,
                                    max(r_1.value) AS max,
                                    (max(ARRAY[date_part('epoch'::text, r_1.ts), r_1.value]))[2] AS last
                                   FROM public.agent_metrics r_1
                                  WHERE ((r_1.ts >= d_1m.bucket) AND (r_1.ts < (d_1m.bucket + '00:01:00'::interval)))
                                  GROUP BY (date_bin('00:01:00'::interval, r_1.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_1.agent_id, r_1.metric_id) x_1)) r
                  WHERE ((r.bucket >= d_1h.bucket) AND (r.bucket < (d_1h.bucket + '01:00:00'::interval)))
                  GROUP BY (date_bin('01:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.agent_id, r.metric_id) x)) u;
CREATE TABLE public.agent_metrics_1h_mat_202603 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.agent_metrics_1h_mat_202611 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE VIEW public.agent_metrics_1m AS
 SELECT u.bucket,
    u.agent_id,
    u.metric_id,
    u.n,
    u.sum,
    u.min,
    u.max,
    u.last,
    (u.sum / (NULLIF(u.n, 0))::double precision) AS avg
   FROM ( SELECT m.bucket,
            m.agent_id,
            m.metric_id,
            m.n,
            m.sum,
            m.min,
            m.max,
            m.last
           FROM public.agent_metrics_1m_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1m.bucket,
            x.agent_id,
            x.metric_id,
            x.n,
            x.sum,
            x.min,
            x.max,
            x.last
           FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 2) AND (k.tier = ANY ('{1}'::smallint[])) AND true)) d_1m
             CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.agent_id,
                    r.metric_id,
                    count(*) AS n,
                    sum(r.value) AS sum,
                    min(r.value) AS min,
                    max(r.value) AS max,
                    (max(ARRAY[date_part('epoch'::text, r.ts), r.value]))[2] AS last
                   FROM public.agent_metrics r
                  WHERE ((r.ts >= d_1m.bucket) AND (r.ts < (d_1m.bucket + '00:01:00'::interval)))
                  GROUP BY (date_bin('00:01:00'::interval, r.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.agent_id, r.metric_id) x)) u;
CREATE TABLE public.agent_metrics_1m_mat_20260310 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.agent_metrics_1m_mat_20261123 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.agent_metrics_1m_mat_20261124 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.agent_metrics_1m_mat_20261125 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.agent_metrics_20260310 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.agent_metrics_20261123 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.agent_metrics_20261124 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.agent_metrics_20261125 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.agent_schedules (
    id integer NOT NULL,
    agent_id integer NOT NULL,
    from_ts timestamp with time zone NOT NULL,
    to_ts timestamp with time zone,
    interval_s double precision NOT NULL,
    offset_s double precision NOT NULL,
    state text NOT NULL,
    CONSTRAINT agent_schedules_grid_check CHECK (((interval_s > (0)::double precision) AND (offset_s >= (0)::double precision) AND (offset_s < interval_s))),
    CONSTRAINT agent_schedules_order_check CHECK ((to_ts >= from_ts)),
    CONSTRAINT agent_schedules_state_check CHECK ((state = ANY (ARRAY['active'::text, 'paused'::text])))
);
ALTER TABLE public.agent_schedules ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.agent_schedules_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.agents (
    id integer NOT NULL,
    name text NOT NULL,
    type text NOT NULL,
    probe text NOT NULL,
    endpoint text NOT NULL,
    labels jsonb NOT NULL,
    interval_s double precision NOT NULL,
    timeout_s double precision NOT NULL,
    rise integer NOT NULL,
    fall integer NOT NULL,
    credential text NOT NULL,
    options jsonb NOT NULL,
    source text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    source_paused boolean DEFAULT false NOT NULL,
    status text DEFAULT 'unknown'::text NOT NULL,
    status_due timestamp with time zone,
    status_spool uuid,
    status_seq bigint,
    status_reason text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT agents_retired_at_check CHECK (((state = 'retired'::text) = (retired_at IS NOT NULL))),
    CONSTRAINT agents_source_check CHECK ((source = ANY (ARRAY['file'::text, 'api'::text]))),
    CONSTRAINT agents_state_check CHECK ((state = ANY (ARRAY['active'::text, 'paused'::text, 'retired'::text]))),
    CONSTRAINT agents_status_check CHECK ((status = ANY (ARRAY['unknown'::text, 'healthy'::text, 'degraded'::text, 'unhealthy'::text, 'stalled'::text, 'timeout'::text, 'refused'::text, 'error'::text, 'paused'::text])))
);
ALTER TABLE public.agents ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.agents_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.collector_sessions (
    id integer NOT NULL,
    uuid uuid NOT NULL,
    name text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    observed_to timestamp with time zone
);
CREATE TABLE public.health_1h_mat (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
)
PARTITION BY RANGE (bucket);
CREATE TABLE public.health_1m_mat (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
)
PARTITION BY RANGE (bucket);
CREATE TABLE public.health_checks (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    outcome smallint NOT NULL,
    late_ms real,
    latency_ms real,
    http_status smallint NOT NULL,
    reason_id integer,
    session_id integer NOT NULL
)
PARTITION BY RANGE (ts);
CREATE VIEW public.health_1h AS
 SELECT u.bucket,
    u.agent_id,
    u.n,
    u.healthy,
    u.degraded,
    u.unhealthy,
    u.stalled,
    u.timeout,
    u.refused,
    u.error,
    u.skipped,
    u.paused,
    u.latency_n,
    u.latency_sum,
    u.latency_min,
    u.latency_max,
    u.latency_last,
    u.late_max,
    u.last_outcome,
    u.latency_bins,
    (u.latency_sum / (NULLIF(u.latency_n, 0))::double precision) AS latency_avg
   FROM ( SELECT m.bucket,
            m.agent_id,
            m.n,
            m.healthy,
            m.degraded,
            m.unhealthy,
            m.stalled,
            m.timeout,
            m.refused,
            m.error,
            m.skipped,
            m.paused,
            m.latency_n,
            m.latency_sum,
            m.latency_min,
            m.latency_max,
            m.latency_last,
            m.late_max,
            m.last_outcome,
            m.latency_bins
           FROM public.health_1h_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1h.bucket,
            x.agent_id,
            x.n,
            x.healthy,
            x.degraded,
            x.unhealthy,
            x.stalled,
            x.timeout,
            x.refused,
            x.error,
            x.skipped,
            x.paused,
            x.latency_n,
            x.latency_sum,
            x.latency_min,
            x.latency_max,
            x.latency_last,
            x.late_max,
            x.last_outcome,
            x.latency_bins
           FROM (( SELECT DISTINCT date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1,2}'::smallint[])) AND true)) d_1h
             CROSS JOIN LATERAL ( SELECT date_bin('01:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.agent_id,
                    (sum(r.n))::bigint AS n,
                    (sum(r.healthy))::bigint AS healthy,
                    (sum(r.degraded))::bigint AS degraded,
                    (sum(r.unhealthy))::bigint AS unhealthy,
                    (sum(r.stalled))::bigint AS stalled,
                    (sum(r.timeout))::bigint AS timeout,
                    (sum(r.refused))::bigint AS refused,
                    (sum(r.error))::bigint AS error,
                    (sum(r.skipped))::bigint AS skipped,
                    (sum(r.paused))::bigint AS paused,
                    (sum(r.latency_n))::bigint AS latency_n,
                    sum(r.latency_sum) AS latency_sum,
                    min(r.latency_min) AS latency_min,
                    max(r.latency_max) AS latency_max,
                    (max(ARRAY[date_part('epoch'::text, r.bucket), r.latency_last]) FILTER (WHERE (r.latency_last IS NOT NULL)))[2] AS latency_last,
                    max(r.late_max) AS late_max,
                    ((max(ARRAY[date_part('epoch'::text, r.bucket), (r.last_outcome)::double precision]))[2])::smallint AS last_outcome,
                    public.latency_bins_merge(r.latency_bins) AS latency_bins
                   FROM ( SELECT m.bucket,
                            m.agent_id,
                            m.n,
                            m.healthy,
                            m.degraded,
                            m.unhealthy,
                            m.stalled,
                            m.timeout,
                            m.refused,
                            m.error,
                            m.skipped,
                            m.paused,
                            m.latency_n,
                            m.latency_sum,
                            m.latency_min,
                            m.latency_max,
                            m.latency_last,
                            m.late_max,
                            m.last_outcome,
                            m.latency_bins
                           FROM public.health_1m_mat m
                          WHERE ((m.bucket >= d_1h.bucket) AND (m.bucket < (d_1h.bucket + '01:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
                                   FROM public.marks k
                                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
                        UNION ALL
                         SELECT d_1m.bucket,
                            x_1.agent_id,
                            x_1.n,
                            x_1.healthy,
                            x_1.degraded,
                            x_1.unhealthy,
                            x_1.stalled,
                            x_1.timeout,
                            x_1.refused,
                            x_1.error,
                            x_1.skipped,
                            x_1.paused,
                            x_1.latency_n,
                            x_1.latency_sum,
                            x_1.latency_min,
                            x_1.latency_max,
                            x_1.latency_last,
                            x_1.late_max,
                            x_1.last_outcome,
                            x_1.latency_bins
                           FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                                   FROM public.marks k
                                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1}'::smallint[])) AND (k.bucket >= d_1h.bucket) AND (k.bucket < (d_1h.bucket + '01:00:00'::interval)))) d_1m
                             CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r_1.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                                    r_1.agent_id,
                                    count(*) AS n,
                                    count(*) FILTER (WHERE (r_1.outcome = 0)) AS healthy,
                                    count(*) FILTER (WHERE (r_1.outcome = 1)) AS degraded,
                                    count(*) FILTER (WHERE (r_1.outcome = 2)) AS unhealthy,
                                    count(*) FILTER (WHERE (r_1.outcome = 3)) AS stalled,
                                    count(*) FILTER (WHERE (r_1.outcome = 4)) AS timeout,
                                    count(*) FILTER (WHERE (r_1.outcome = 5)) AS refused,
                                    count(*) FILTER (WHERE (r_1.outcome = 6)) AS error,
                                    count(*) FILTER (WHERE (r_1.outcome = 7)) AS skipped,
                                    count(*) FILTER (WHERE (r_1.outcome = 8)) AS paused,
                                    count(r_1.latency_ms) AS latency_n,
                                    sum((r_1.latency_ms)::double precision) AS latency_sum,
                                    min((r_1.latency_ms)::double precision) AS latency_min,
                                    max((r_1.latency_ms)::double precision) AS latency_max,
                                    (max(ARRAY[date_part('epoch'::text, r_1.ts), (r_1.latency_ms)::double precision]) FILTER (WHERE (r_1.latency_ms IS NOT NULL)))[2] AS latency_last,
                                    max((r_1.late_ms)::double precision) AS late_max,
                                    ((max(ARRAY[date_part('epoch'::text, r_1.ts), (r_1.outcome)::double precision]))[2])::smallint AS last_outcome,
                                    array_agg(ARRAY[public.latency_bin((r_1.latency_ms)::double precision), 1]) FILTER (WHERE (r_1.latency_ms IS NOT NULL)) AS latency_bins
                                   FROM public.health_checks r_1
                                  WHERE ((r_1.ts >= d_1m.bucket) AND (r_1.ts < (d_1m.bucket + '00:01:00'::interval)))
                                  GROUP BY (date_bin('00:01:00'::interval, r_1.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_1.agent_id) x_1)) r
                  WHERE ((r.bucket >= d_1h.bucket) AND (r.bucket < (d_1h.bucket + '01:00:00'::interval)))
                  GROUP BY (date_bin('01:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.agent_id) x)) u;
CREATE TABLE public.horizons (
    tbl smallint NOT NULL,
    tier smallint NOT NULL,
    closed_before timestamp with time zone NOT NULL,
    dropped_before timestamp with time zone NOT NULL,
    CONSTRAINT horizons_check CHECK ((dropped_before <= closed_before))
);
CREATE TABLE public.losses (
    id bigint NOT NULL,
    agent_id integer NOT NULL,
    from_due timestamp with time zone NOT NULL,
    to_due timestamp with time zone NOT NULL,
    n bigint NOT NULL,
    reason text NOT NULL,
    spool_id uuid,
    seq bigint,
    recorded_at timestamp with time zone NOT NULL,
    CONSTRAINT losses_n_check CHECK ((n >= 0)),
    CONSTRAINT losses_order_check CHECK ((to_due >= from_due))
);
CREATE VIEW public.observation AS
 SELECT (count(s.id) > 0) AS live,
    COALESCE(LEAST(max(COALESCE(s.observed_to, s.started_at)), now()), now()) AS observed_to
   FROM public.collector_sessions s
  WHERE ((s.ended_at IS NULL) AND (s.last_seen_at > (now() - '00:01:00'::interval)) AND (s.id = ( SELECT n.id
           FROM public.collector_sessions n
          ORDER BY n.last_seen_at DESC, n.id DESC
         LIMIT 1)));
CREATE VIEW public.availability AS
 SELECT t.bucket,
    t.agent_id,
    t.agent,
    t.type,
    GREATEST((t.slots - t.paused), (0)::bigint) AS expected,
    t.up,
    t.down,
    GREATEST((((t.slots - t.paused) - t.up) - t.down), (0)::bigint) AS unobserved,
    t.skipped,
    t.lost,
    t.paused,
    ((t.up)::double precision / (NULLIF((t.up + t.down), 0))::double precision) AS availability,
        CASE
            WHEN (t.slots > t.paused) THEN LEAST((((t.up + t.down))::double precision / ((t.slots - t.paused))::double precision), (1)::double precision)
            ELSE NULL::double precision
        END AS coverage
   FROM ( SELECT p.bucket,
            p.agent_id,
            p.agent,
            p.type,
            (sum(p.slots))::bigint AS slots,
            (sum(p.up))::bigint AS up,
            (sum(p.down))::bigint AS down,
            (sum(p.skipped))::bigint AS skipped,
            (sum(p.lost))::bigint AS lost,
            (GREATEST(sum(p.paused_slots), sum(p.paused_checks)))::bigint AS paused
           FROM ( SELECT h.bucket,
                    a.id AS agent_id,
                    a.name AS agent,
                    a.type,
                    n.slots,
                        CASE
                            WHEN (s.state = 'paused'::text) THEN n.slots
                            ELSE (0)::bigint
                        END AS paused_slots,
                    (0)::bigint AS up,
                    (0)::bigint AS down,
                    (0)::bigint AS skipped,
                    (0)::bigint AS paused_checks,
                    (0)::bigint AS lost
                   FROM ((((public.observation o
                     CROSS JOIN LATERAL generate_series(( SELECT GREATEST(date_trunc('hour'::text, min(f.from_ts), 'UTC'::text), max(z.dropped_before)) AS "greatest"
                           FROM (public.agent_schedules f
                             CROSS JOIN public.horizons z)
                          WHERE ((z.tbl = 1) AND (z.tier = 2))), o.observed_to, '01:00:00'::interval) h(bucket))
                     JOIN public.agent_schedules s ON (((s.from_ts < (h.bucket + '01:00:00'::interval)) AND ((s.to_ts IS NULL) OR (s.to_ts > h.bucket)))))
                     JOIN public.agents a ON ((a.id = s.agent_id)))
                     CROSS JOIN LATERAL ( SELECT public.slots_between(h.bucket, LEAST((h.bucket + '01:00:00'::interval), o.observed_to), s.from_ts, s.to_ts, s.interval_s, s.offset_s) AS slots) n)
                UNION ALL
                 SELECT c.bucket,
                    a.id,
                    a.name,
                    a.type,
                    0,
                    0,
                    (c.healthy + c.degraded),
                    ((((c.unhealthy + c.stalled) + c.timeout) + c.refused) + c.error),
                    c.skipped,
                    c.paused,
                    0
                   FROM (public.health_1h c
                     JOIN public.agents a ON ((a.id = c.agent_id)))
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
                    public.lost_between(h.bucket, (h.bucket + '01:00:00'::interval), l.from_due, l.to_due, l.n) AS lost_between
                   FROM ((public.losses l
                     JOIN public.agents a ON ((a.id = l.agent_id)))
                     CROSS JOIN LATERAL generate_series(date_trunc('hour'::text, l.from_due, 'UTC'::text), l.to_due, '01:00:00'::interval) h(bucket))) p
          GROUP BY p.bucket, p.agent_id, p.agent, p.type) t;
CREATE TABLE public.health_1d_mat (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
)
PARTITION BY RANGE (bucket);
CREATE VIEW public.health_1d AS
 SELECT u.bucket,
    u.agent_id,
    u.n,
    u.healthy,
    u.degraded,
    u.unhealthy,
    u.stalled,
    u.timeout,
    u.refused,
    u.error,
    u.skipped,
    u.paused,
    u.latency_n,
    u.latency_sum,
    u.latency_min,
    u.latency_max,
    u.latency_last,
    u.late_max,
    u.last_outcome,
    u.latency_bins,
    (u.latency_sum / (NULLIF(u.latency_n, 0))::double precision) AS latency_avg
   FROM ( SELECT m.bucket,
            m.agent_id,
            m.n,
            m.healthy,
            m.degraded,
            m.unhealthy,
            m.stalled,
            m.timeout,
            m.refused,
            m.error,
            m.skipped,
            m.paused,
            m.latency_n,
            m.latency_sum,
            m.latency_min,
            m.latency_max,
            m.latency_last,
            m.late_max,
            m.last_outcome,
            m.latency_bins
           FROM public.health_1d_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1,2,3}'::smallint[])) AND (date_bin('24:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1d.bucket,
            x.agent_id,
            x.n,
            x.healthy,
            x.degraded,
            x.unhealthy,
            x.stalled,
            x.timeout,
            x.refused,
            x.error,
            x.skipped,
            x.paused,
            x.latency_n,
            x.latency_sum,
            x.latency_min,
            x.latency_max,
            x.latency_last,
            x.late_max,
            x.last_outcome,
            x.latency_bins
           FROM (( SELECT DISTINCT date_bin('24:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1,2,3}'::smallint[])) AND true)) d_1d
             CROSS JOIN LATERAL ( SELECT date_bin('24:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.agent_id,
                    (sum(r.n))::bigint AS n,
                    (sum(r.healthy))::bigint AS healthy,
                    (sum(r.degraded))::bigint AS degraded,
                    (sum(r.unhealthy))::bigint AS unhealthy,
                    (sum(r.stalled))::bigint AS stalled,
                    (sum(r.timeout))::bigint AS timeout,
                    (sum(r.refused))::bigint AS refused,
                    (sum(r.error))::bigint AS error,
                    (sum(r.skipped))::bigint AS skipped,
                    (sum(r.paused))::bigint AS paused,
                    (sum(r.latency_n))::bigint AS latency_n,
                    sum(r.latency_sum) AS latency_sum,
                    min(r.latency_min) AS latency_min,
                    max(r.latency_max) AS latency_max,
                    (max(ARRAY[date_part('epoch'::text, r.bucket), r.latency_last]) FILTER (WHERE (r.latency_last IS NOT NULL)))[2] AS latency_last,
                    max(r.late_max) AS late_max,
                    ((max(ARRAY[date_part('epoch'::text, r.bucket), (r.last_outcome)::double precision]))[2])::smallint AS last_outcome,
                    public.latency_bins_merge(r.latency_bins) AS latency_bins
                   FROM ( SELECT m.bucket,
                            m.agent_id,
                            m.n,
                            m.healthy,
                            m.degraded,
                            m.unhealthy,
                            m.stalled,
                            m.timeout,
                            m.refused,
                            m.error,
                            m.skipped,
                            m.paused,
                            m.latency_n,
                            m.latency_sum,
                            m.latency_min,
                            m.latency_max,
                            m.latency_last,
                            m.late_max,
                            m.last_outcome,
                            m.latency_bins
                           FROM public.health_1h_mat m
                          WHERE ((m.bucket >= d_1d.bucket) AND (m.bucket < (d_1d.bucket + '24:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
                                   FROM public.marks k
                                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
                        UNION ALL
                         SELECT d_1h.bucket,
                            x_1.agent_id,
                            x_1.n,
                            x_1.healthy,
                            x_1.degraded,
                            x_1.unhealthy,
                            x_1.stalled,
                            x_1.timeout,
                            x_1.refused,
                            x_1.error,
                            x_1.skipped,
                            x_1.paused,
                            x_1.latency_n,
                            x_1.latency_sum,
                            x_1.latency_min,
                            x_1.latency_max,
                            x_1.latency_last,
                            x_1.late_max,
                            x_1.last_outcome,
                            x_1.latency_bins
                           FROM (( SELECT DISTINCT date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                                   FROM public.marks k
                                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (k.bucket >= d_1d.bucket) AND (k.bucket < (d_1d.bucket + '24:00:00'::interval)))) d_1h
                             CROSS JOIN LATERAL ( SELECT date_bin('01:00:00'::interval, r_1.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                                    r_1.agent_id,
                                    (sum(r_1.n))::bigint AS n,
                                    (sum(r_1.healthy))::bigint AS healthy,
                                    (sum(r_1.degraded))::bigint AS degraded,
                                    (sum(r_1.unhealthy))::bigint AS unhealthy,
                                    (sum(r_1.stalled))::bigint AS stalled,
                                    (sum(r_1.timeout))::bigint AS timeout,
                                    (sum(r_1.refused))::bigint AS refused,
                                    (sum(r_1.error))::bigint AS error,
                                    (sum(r_1.skipped))::bigint AS skipped,
                                    (sum(r_1.paused))::bigint AS paused,
                                    (sum(r_1.latency_n))::bigint AS latency_n,
                                    sum(r_1.latency_sum) AS latency_sum,
                                    min(r_1.latency_min) AS latency_min,
                                    max(r_1.latency_max) AS latency_max,
                                    (max(ARRAY[date_part('epoch'::text, r_1.bucket), r_1.latency_last]) FILTER (WHERE (r_1.latency_last IS NOT NULL)))[2] AS latency_last,
                                    max(r_1.late_max) AS late_max,
                                    ((max(ARRAY[date_part('epoch'::text, r_1.bucket), (r_1.last_outcome)::double precision]))[2])::smallint AS last_outcome,
                                    public.latency_bins_merge(r_1.latency_bins) AS latency_bins
                                   FROM ( SELECT m.bucket,
    m.agent_id,
    m.n,
    m.healthy,
    m.degraded,
    m.unhealthy,
    m.stalled,
    m.timeout,
    m.refused,
    m.error,
    m.skipped,
    m.paused,
    m.latency_n,
    m.latency_sum,
    m.latency_min,
    m.latency_max,
    m.latency_last,
    m.late_max,
    m.last_outcome,
    m.latency_bins
   FROM public.health_1m_mat m
  WHERE ((m.bucket >= d_1h.bucket) AND (m.bucket < (d_1h.bucket + '01:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
     FROM public.marks k
    WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
UNION ALL
 SELECT d_1m.bucket,
    x_2.agent_id,
    x_2.n,
    x_2.healthy,
    x_2.degraded,
    x_2.unhealthy,
    x_2.stalled,
    x_2.timeout,
    x_2.refused,
    x_2.error,
    x_2.skipped,
    x_2.paused,
    x_2.latency_n,
    x_2.latency_sum,
    x_2.latency_min,
    x_2.latency_max,
    x_2.latency_last,
    x_2.late_max,
    x_2.last_outcome,
    x_2.latency_bins
   FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
     FROM public.marks k
    WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1}'::smallint[])) AND (k.bucket >= d_1h.bucket) AND (k.bucket < (d_1h.bucket + '01:00:00'::interval)))) d_1m
     CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r_2.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
      r_2.agent_id,
      count(*) AS n,
      count(*) FILTER (WHERE (r_2.outcome = 0)) AS healthy,
      count(*) FILTER (WHERE (r_2.outcome = 1)) AS degraded,
      count(*) FILTER (WHERE (r_2.outcome = 2)) AS unhealthy,
      count(*) FILTER (WHERE (r_2.outcome = 3)) AS stalled,
      count(*) FILTER (WHERE (r_2.outcome = 4)) AS timeout,
      count(*) FILTER (WHERE (r_2.outcome = 5)) AS refused,
      count(*) FILTER (WHERE (r_2.outcome = 6)) AS error,
      count(*) FILTER (WHERE (r_2.outcome = 7)) AS skipped,
      count(*) FILTER (WHERE (r_2.outcome = 8)) AS paused,
      count(r_2.latency_ms) AS latency_n,
      sum((r_2.latency_ms)::double precision) AS latency_sum,
      min((r_2.latency_ms)::double precision) AS latency_min,
      max((r_2.latency_ms)::double precision) AS latency_max,
      (max(ARRAY[date_part('epoch'::text, r_2.ts), (r_2.latency_ms)::double precision]) FILTER (WHERE (r_2.latency_ms IS NOT NULL)))[2] AS latency_last,
      max((r_2.late_ms)::double precision) AS late_max,
      ((max(ARRAY[date_part('epoch'::text, r_2.ts), (r_2.outcome)::double precision]))[2])::smallint AS last_outcome,
      array_agg(ARRAY[public.latency_bin((r_2.latency_ms)::double precision), 1]) FILTER (WHERE (r_2.latency_ms IS NOT NULL)) AS latency_bins
     FROM public.health_checks r_2
    WHERE ((r_2.ts >= d_1m.bucket) AND (r_2.ts < (d_1m.bucket + '00:01:00'::interval)))
    GROUP BY (date_bin('00:01:00'::interval, r_2.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_2.agent_id) x_2)) r_1
                                  WHERE ((r_1.bucket >= d_1h.bucket) AND (r_1.bucket < (d_1h.bucket + '01:00:00'::interval)))
                                  GROUP BY (date_bin('01:00:00'::interval, r_1.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_1.agent_id) x_1)) r
                  WHERE ((r.bucket >= d_1d.bucket) AND (r.bucket < (d_1d.bucket + '24:00:00'::interval)))
                  GROUP BY (date_bin('24:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.agent_id) x)) u;
CREATE VIEW public.availability_1d AS
 SELECT t.bucket,
    t.agent_id,
    t.agent,
    t.type,
    GREATEST((t.slots - t.paused), (0)::bigint) AS expected,
    t.up,
    t.down,
    GREATEST((((t.slots - t.paused) - t.up) - t.down), (0)::bigint) AS unobserved,
    t.skipped,
    t.lost,
    t.paused,
    ((t.up)::double precision / (NULLIF((t.up + t.down), 0))::double precision) AS availability,
        CASE
            WHEN (t.slots > t.paused) THEN LEAST((((t.up + t.down))::double precision / ((t.slots - t.paused))::double precision), (1)::double precision)
            ELSE NULL::double precision
        END AS coverage
   FROM ( SELECT p.bucket,
            p.agent_id,
            p.agent,
            p.type,
            (sum(p.slots))::bigint AS slots,
            (sum(p.up))::bigint AS up,
            (sum(p.down))::bigint AS down,
            (sum(p.skipped))::bigint AS skipped,
            (sum(p.lost))::bigint AS lost,
            (GREATEST(sum(p.paused_slots), sum(p.paused_checks)))::bigint AS paused
           FROM ( SELECT h.bucket,
                    a.id AS agent_id,
                    a.name AS agent,
                    a.type,
                    n.slots,
                        CASE
                            WHEN (s.state = 'paused'::text) THEN n.slots
                            ELSE (0)::bigint
                        END AS paused_slots,
                    (0)::bigint AS up,
                    (0)::bigint AS down,
                    (0)::bigint AS skipped,
                    (0)::bigint AS paused_checks,
                    (0)::bigint AS lost
                   FROM ((((public.observation o
                     CROSS JOIN LATERAL generate_series(( SELECT GREATEST(date_trunc('day'::text, min(f.from_ts), 'UTC'::text), max(z.dropped_before)) AS "greatest"
                           FROM (public.agent_schedules f
                             CROSS JOIN public.horizons z)
                          WHERE ((z.tbl = 1) AND (z.tier = 3))), o.observed_to, '24:00:00'::interval) h(bucket))
                     JOIN public.agent_schedules s ON (((s.from_ts < (h.bucket + '24:00:00'::interval)) AND ((s.to_ts IS NULL) OR (s.to_ts > h.bucket)))))
                     JOIN public.agents a ON ((a.id = s.agent_id)))
                     CROSS JOIN LATERAL ( SELECT public.slots_between(h.bucket, LEAST((h.bucket + '24:00:00'::interval), o.observed_to), s.from_ts, s.to_ts, s.interval_s, s.offset_s) AS slots) n)
                UNION ALL
                 SELECT c.bucket,
                    a.id,
                    a.name,
                    a.type,
                    0,
                    0,
                    (c.healthy + c.degraded),
                    ((((c.unhealthy + c.stalled) + c.timeout) + c.refused) + c.error),
                    c.skipped,
                    c.paused,
                    0
                   FROM (public.health_1d c
                     JOIN public.agents a ON ((a.id = c.agent_id)))
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
                    public.lost_between(h.bucket, (h.bucket + '24:00:00'::interval), l.from_due, l.to_due, l.n) AS lost_between
                   FROM ((public.losses l
                     JOIN public.agents a ON ((a.id = l.agent_id)))
                     CROSS JOIN LATERAL generate_series(date_trunc('day'::text, l.from_due, 'UTC'::text), l.to_due, '24:00:00'::interval) h(bucket))) p
          GROUP BY p.bucket, p.agent_id, p.agent, p.type) t;
ALTER TABLE public.collector_sessions ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.collector_sessions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW public.fleet_health AS
 WITH recent AS (
         SELECT c.agent_id,
            c.ts,
            c.outcome,
            c.latency_ms
           FROM (public.agents a_1
             JOIN public.health_checks c ON ((c.agent_id = a_1.id)))
          WHERE ((a_1.state <> 'retired'::text) AND (a_1.interval_s <= (90)::double precision) AND (c.ts >= (now() - '00:05:00'::interval)) AND (c.outcome <> 7))
        UNION ALL
         SELECT c.agent_id,
            c.ts,
            c.outcome,
            c.latency_ms
           FROM (public.agents a_1
             JOIN public.health_checks c ON ((c.agent_id = a_1.id)))
          WHERE ((a_1.state <> 'retired'::text) AND (a_1.interval_s > (90)::double precision) AND (c.ts >= (now() - ((((3)::double precision * a_1.interval_s) + (10)::double precision) * '00:00:01'::interval))) AND (c.outcome <> 7))
        ), latest AS (
         SELECT DISTINCT ON (r.agent_id) r.agent_id,
            r.ts,
            r.outcome,
            r.latency_ms
           FROM recent r
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
            WHEN 0 THEN 'healthy'::text
            WHEN 1 THEN 'degraded'::text
            WHEN 2 THEN 'unhealthy'::text
            WHEN 3 THEN 'stalled'::text
            WHEN 4 THEN 'timeout'::text
            WHEN 5 THEN 'refused'::text
            WHEN 6 THEN 'error'::text
            WHEN 8 THEN 'paused'::text
            ELSE NULL::text
        END AS last_outcome,
    (l.latency_ms)::double precision AS last_latency_ms,
    a.interval_s,
    (s.from_ts IS NOT NULL) AS scheduled,
    ((a.state = 'active'::text) AND (s.from_ts IS NOT NULL) AND (GREATEST(l.ts, s.from_ts) < (now() - ((((3)::double precision * a.interval_s) + (10)::double precision) * '00:00:01'::interval)))) AS stale
   FROM ((public.agents a
     LEFT JOIN public.agent_schedules s ON (((s.agent_id = a.id) AND (s.to_ts IS NULL) AND (s.state = 'active'::text))))
     LEFT JOIN latest l ON ((l.agent_id = a.id)))
  WHERE (a.state <> 'retired'::text);
CREATE TABLE public.health_1d_mat_2026 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
);
CREATE TABLE public.health_1h_mat_202603 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
);
CREATE TABLE public.health_1h_mat_202611 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
);
CREATE VIEW public.health_1m AS
 SELECT u.bucket,
    u.agent_id,
    u.n,
    u.healthy,
    u.degraded,
    u.unhealthy,
    u.stalled,
    u.timeout,
    u.refused,
    u.error,
    u.skipped,
    u.paused,
    u.latency_n,
    u.latency_sum,
    u.latency_min,
    u.latency_max,
    u.latency_last,
    u.late_max,
    u.last_outcome,
    u.latency_bins,
    (u.latency_sum / (NULLIF(u.latency_n, 0))::double precision) AS latency_avg
   FROM ( SELECT m.bucket,
            m.agent_id,
            m.n,
            m.healthy,
            m.degraded,
            m.unhealthy,
            m.stalled,
            m.timeout,
            m.refused,
            m.error,
            m.skipped,
            m.paused,
            m.latency_n,
            m.latency_sum,
            m.latency_min,
            m.latency_max,
            m.latency_last,
            m.late_max,
            m.last_outcome,
            m.latency_bins
           FROM public.health_1m_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1m.bucket,
            x.agent_id,
            x.n,
            x.healthy,
            x.degraded,
            x.unhealthy,
            x.stalled,
            x.timeout,
            x.refused,
            x.error,
            x.skipped,
            x.paused,
            x.latency_n,
            x.latency_sum,
            x.latency_min,
            x.latency_max,
            x.latency_last,
            x.late_max,
            x.last_outcome,
            x.latency_bins
           FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 1) AND (k.tier = ANY ('{1}'::smallint[])) AND true)) d_1m
             CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.agent_id,
                    count(*) AS n,
                    count(*) FILTER (WHERE (r.outcome = 0)) AS healthy,
                    count(*) FILTER (WHERE (r.outcome = 1)) AS degraded,
                    count(*) FILTER (WHERE (r.outcome = 2)) AS unhealthy,
                    count(*) FILTER (WHERE (r.outcome = 3)) AS stalled,
                    count(*) FILTER (WHERE (r.outcome = 4)) AS timeout,
                    count(*) FILTER (WHERE (r.outcome = 5)) AS refused,
                    count(*) FILTER (WHERE (r.outcome = 6)) AS error,
                    count(*) FILTER (WHERE (r.outcome = 7)) AS skipped,
                    count(*) FILTER (WHERE (r.outcome = 8)) AS paused,
                    count(r.latency_ms) AS latency_n,
                    sum((r.latency_ms)::double precision) AS latency_sum,
                    min((r.latency_ms)::double precision) AS latency_min,
                    max((r.latency_ms)::double precision) AS latency_max,
                    (max(ARRAY[date_part('epoch'::text, r.ts), (r.latency_ms)::double precision]) FILTER (WHERE (r.latency_ms IS NOT NULL)))[2] AS latency_last,
                    max((r.late_ms)::double precision) AS late_max,
                    ((max(ARRAY[date_part('epoch'::text, r.ts), (r.outcome)::double precision]))[2])::smallint AS last_outcome,
                    array_agg(ARRAY[public.latency_bin((r.latency_ms)::double precision), 1]) FILTER (WHERE (r.latency_ms IS NOT NULL)) AS latency_bins
                   FROM public.health_checks r
                  WHERE ((r.ts >= d_1m.bucket) AND (r.ts < (d_1m.bucket + '00:01:00'::interval)))
                  GROUP BY (date_bin('00:01:00'::interval, r.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.agent_id) x)) u;
CREATE TABLE public.health_1m_mat_20260310 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
);
CREATE TABLE public.health_1m_mat_20261123 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
);
CREATE TABLE public.health_1m_mat_20261124 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
);
CREATE TABLE public.health_1m_mat_20261125 (
    bucket timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    n bigint NOT NULL,
    healthy bigint NOT NULL,
    degraded bigint NOT NULL,
    unhealthy bigint NOT NULL,
    stalled bigint NOT NULL,
    timeout bigint NOT NULL,
    refused bigint NOT NULL,
    error bigint NOT NULL,
    skipped bigint NOT NULL,
    paused bigint NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision,
    latency_min double precision,
    latency_max double precision,
    latency_last double precision,
    late_max double precision,
    last_outcome smallint NOT NULL,
    latency_bins integer[]
);
CREATE TABLE public.health_checks_20260310 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    outcome smallint NOT NULL,
    late_ms real,
    latency_ms real,
    http_status smallint NOT NULL,
    reason_id integer,
    session_id integer NOT NULL
);
CREATE TABLE public.health_checks_20261123 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    outcome smallint NOT NULL,
    late_ms real,
    latency_ms real,
    http_status smallint NOT NULL,
    reason_id integer,
    session_id integer NOT NULL
);
CREATE TABLE public.health_checks_20261124 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    outcome smallint NOT NULL,
    late_ms real,
    latency_ms real,
    http_status smallint NOT NULL,
    reason_id integer,
    session_id integer NOT NULL
);
CREATE TABLE public.health_checks_20261125 (
    ts timestamp with time zone NOT NULL,
    agent_id integer NOT NULL,
    outcome smallint NOT NULL,
    late_ms real,
    latency_ms real,
    http_status smallint NOT NULL,
    reason_id integer,
    session_id integer NOT NULL
);
CREATE TABLE public.hosts (
    id integer NOT NULL,
    name text NOT NULL,
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);
ALTER TABLE public.hosts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.hosts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.status_events (
    id bigint NOT NULL,
    agent_id integer NOT NULL,
    ts timestamp with time zone NOT NULL,
    from_status text NOT NULL,
    to_status text NOT NULL,
    reason text NOT NULL,
    spool_id uuid NOT NULL,
    seq bigint NOT NULL
);
CREATE VIEW public.incidents AS
 SELECT a.id AS agent_id,
    a.name AS agent,
    a.type,
    i.started_at,
    i.ended_at,
    (EXTRACT(epoch FROM (COALESCE(i.ended_at, now()) - i.started_at)))::double precision AS duration_s,
    i.statuses[1] AS first_status,
    i.statuses[array_upper(i.statuses, 1)] AS last_status,
    i.reason,
    (i.ended_at IS NULL) AS open
   FROM (( SELECT n.agent_id,
            min(n.ts) FILTER (WHERE n.down) AS started_at,
            COALESCE(min(n.ts) FILTER (WHERE (NOT n.down)),
                CASE
                    WHEN (min(r.retired_at) IS NOT NULL) THEN GREATEST(min(r.retired_at), max(n.ts))
                    ELSE NULL::timestamp with time zone
                END) AS ended_at,
            array_agg(n.to_status ORDER BY n.ts, n.id) FILTER (WHERE n.down) AS statuses,
            (array_agg(n.reason ORDER BY n.ts, n.id) FILTER (WHERE (n.down AND (n.reason <> ''::text))))[1] AS reason
           FROM (( SELECT e.agent_id,
                    e.id,
                    e.ts,
                    e.to_status,
                    e.reason,
                    e.down,
                    count(*) FILTER (WHERE (e.down AND (NOT e.was_down))) OVER (PARTITION BY e.agent_id ORDER BY e.ts, e.id) AS incident
                   FROM ( SELECT d.agent_id,
                            d.id,
                            d.ts,
                            d.to_status,
                            d.reason,
                            d.down,
                            lag(d.down, 1, false) OVER (PARTITION BY d.agent_id ORDER BY d.ts, d.id) AS was_down
                           FROM ( SELECT s.agent_id,
                                    s.id,
                                    s.ts,
                                    s.to_status,
                                    s.reason,
                                    (s.to_status = ANY (ARRAY['unhealthy'::text, 'stalled'::text, 'timeout'::text, 'refused'::text, 'error'::text])) AS down
                                   FROM public.status_events s) d) e) n
             JOIN public.agents r ON ((r.id = n.agent_id)))
          WHERE (n.incident > 0)
          GROUP BY n.agent_id, n.incident) i
     JOIN public.agents a ON ((a.id = i.agent_id)));
CREATE TABLE public.ingest_batch_days (
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    tbl smallint NOT NULL,
    utc_day date NOT NULL,
    n bigint NOT NULL
);
CREATE TABLE public.ingest_batches (
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    status text NOT NULL,
    n_rows bigint NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ingest_batches_status_check CHECK ((status = ANY (ARRAY['committed'::text, 'dropped'::text])))
);
CREATE TABLE public.ingest_rejections (
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    tbl smallint NOT NULL,
    reason text NOT NULL,
    n bigint NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE public.losses ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.losses_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE public.marks ALTER COLUMN mark_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.marks_mark_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.metrics (
    id integer NOT NULL,
    name text NOT NULL,
    labels jsonb NOT NULL,
    kind text NOT NULL,
    unit text DEFAULT ''::text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    labels_digest bytea NOT NULL,
    CONSTRAINT metrics_kind_check CHECK ((kind = ANY (ARRAY['gauge'::text, 'counter'::text])))
);
ALTER TABLE public.metrics ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.metrics_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.provision_version (
    only_row boolean DEFAULT true NOT NULL,
    version integer NOT NULL,
    engine text NOT NULL,
    CONSTRAINT provision_version_only_row_check CHECK (only_row)
);
CREATE TABLE public.quarantine (
    quarantine_id bigint NOT NULL,
    spool_id uuid NOT NULL,
    seq bigint NOT NULL,
    tbl smallint NOT NULL,
    payload jsonb NOT NULL,
    sqlstate text NOT NULL,
    message text NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL
);
ALTER TABLE public.quarantine ALTER COLUMN quarantine_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.quarantine_quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.reasons (
    id integer NOT NULL,
    reason text NOT NULL
);
ALTER TABLE public.reasons ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.reasons_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE public.status_events ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.status_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.system_metrics (
    ts timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
)
PARTITION BY RANGE (ts);
CREATE TABLE public.system_metrics_1m_mat (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
)
PARTITION BY RANGE (bucket);
CREATE VIEW public.system_metrics_1m AS
 SELECT u.bucket,
    u.host_id,
    u.metric_id,
    u.n,
    u.sum,
    u.min,
    u.max,
    u.last,
    (u.sum / (NULLIF(u.n, 0))::double precision) AS avg
   FROM ( SELECT m.bucket,
            m.host_id,
            m.metric_id,
            m.n,
            m.sum,
            m.min,
            m.max,
            m.last
           FROM public.system_metrics_1m_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1m.bucket,
            x.host_id,
            x.metric_id,
            x.n,
            x.sum,
            x.min,
            x.max,
            x.last
           FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1}'::smallint[])) AND true)) d_1m
             CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.host_id,
                    r.metric_id,
                    count(*) AS n,
                    sum(r.value) AS sum,
                    min(r.value) AS min,
                    max(r.value) AS max,
                    (max(ARRAY[date_part('epoch'::text, r.ts), r.value]))[2] AS last
                   FROM public.system_metrics r
                  WHERE ((r.ts >= d_1m.bucket) AND (r.ts < (d_1m.bucket + '00:01:00'::interval)))
                  GROUP BY (date_bin('00:01:00'::interval, r.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.host_id, r.metric_id) x)) u;
CREATE VIEW public.system_load AS
 SELECT s.bucket,
    h.id AS host_id,
    h.name AS host,
    max(s.avg) FILTER (WHERE (m.name = 'cpu_percent'::text)) AS cpu_percent,
    max(s.max) FILTER (WHERE (m.name = 'cpu_percent'::text)) AS cpu_percent_max,
    max(s.avg) FILTER (WHERE (m.name = 'load1'::text)) AS load1,
    max(s.avg) FILTER (WHERE (m.name = 'load5'::text)) AS load5,
    max(s.avg) FILTER (WHERE (m.name = 'load15'::text)) AS load15,
    max(s.avg) FILTER (WHERE (m.name = 'memory_used_percent'::text)) AS memory_used_percent,
    max(s.avg) FILTER (WHERE (m.name = 'swap_used_percent'::text)) AS swap_used_percent,
    max(s.avg) FILTER (WHERE (m.name = 'filesystem_used_percent'::text)) AS filesystem_used_percent
   FROM ((public.system_metrics_1m s
     JOIN public.metrics m ON ((m.id = s.metric_id)))
     JOIN public.hosts h ON ((h.id = s.host_id)))
  WHERE ((m.kind = 'gauge'::text) AND (m.name = ANY (ARRAY['cpu_percent'::text, 'load1'::text, 'load5'::text, 'load15'::text, 'memory_used_percent'::text, 'swap_used_percent'::text, 'filesystem_used_percent'::text])))
  GROUP BY s.bucket, h.id, h.name;
CREATE TABLE public.system_metrics_1h_mat (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
)
PARTITION BY RANGE (bucket);
CREATE VIEW public.system_metrics_1h AS
 SELECT u.bucket,
    u.host_id,
    u.metric_id,
    u.n,
    u.sum,
    u.min,
    u.max,
    u.last,
    (u.sum / (NULLIF(u.n, 0))::double precision) AS avg
   FROM ( SELECT m.bucket,
            m.host_id,
            m.metric_id,
            m.n,
            m.sum,
            m.min,
            m.max,
            m.last
           FROM public.system_metrics_1h_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1h.bucket,
            x.host_id,
            x.metric_id,
            x.n,
            x.sum,
            x.min,
            x.max,
            x.last
           FROM (( SELECT DISTINCT date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1,2}'::smallint[])) AND true)) d_1h
             CROSS JOIN LATERAL ( SELECT date_bin('01:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.host_id,
                    r.metric_id,
                    (sum(r.n))::bigint AS n,
                    sum(r.sum) AS sum,
                    min(r.min) AS min,
                    max(r.max) AS max,
                    (max(ARRAY[date_part('epoch'::text, r.bucket), r.last]))[2] AS last
                   FROM ( SELECT m.bucket,
                            m.host_id,
                            m.metric_id,
                            m.n,
                            m.sum,
                            m.min,
                            m.max,
                            m.last
                           FROM public.system_metrics_1m_mat m
                          WHERE ((m.bucket >= d_1h.bucket) AND (m.bucket < (d_1h.bucket + '01:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
                                   FROM public.marks k
                                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
                        UNION ALL
                         SELECT d_1m.bucket,
                            x_1.host_id,
                            x_1.metric_id,
                            x_1.n,
                            x_1.sum,
                            x_1.min,
                            x_1.max,
                            x_1.last
                           FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                                   FROM public.marks k
                                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1}'::smallint[])) AND (k.bucket >= d_1h.bucket) AND (k.bucket < (d_1h.bucket + '01:00:00'::interval)))) d_1m
                             CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r_1.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                                    r_1.host_id,
                                    r_1.metric_id,
                                    count(*) AS n,
                                    sum(r_1.value) AS sum,
                                    min(r_1.value) AS min,
                                    max(r_1.value) AS max,
                                    (max(ARRAY[date_part('epoch'::text, r_1.ts), r_1.value]))[2] AS last
                                   FROM public.system_metrics r_1
                                  WHERE ((r_1.ts >= d_1m.bucket) AND (r_1.ts < (d_1m.bucket + '00:01:00'::interval)))
                                  GROUP BY (date_bin('00:01:00'::interval, r_1.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_1.host_id, r_1.metric_id) x_1)) r
                  WHERE ((r.bucket >= d_1h.bucket) AND (r.bucket < (d_1h.bucket + '01:00:00'::interval)))
                  GROUP BY (date_bin('01:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.host_id, r.metric_id) x)) u;
CREATE VIEW public.system_load_1h AS
 SELECT s.bucket,
    h.id AS host_id,
    h.name AS host,
    max(s.avg) FILTER (WHERE (m.name = 'cpu_percent'::text)) AS cpu_percent,
    max(s.max) FILTER (WHERE (m.name = 'cpu_percent'::text)) AS cpu_percent_max,
    max(s.avg) FILTER (WHERE (m.name = 'load1'::text)) AS load1,
    max(s.avg) FILTER (WHERE (m.name = 'load5'::text)) AS load5,
    max(s.avg) FILTER (WHERE (m.name = 'load15'::text)) AS load15,
    max(s.avg) FILTER (WHERE (m.name = 'memory_used_percent'::text)) AS memory_used_percent,
    max(s.avg) FILTER (WHERE (m.name = 'swap_used_percent'::text)) AS swap_used_percent,
    max(s.avg) FILTER (WHERE (m.name = 'filesystem_used_percent'::text)) AS filesystem_used_percent
   FROM ((public.system_metrics_1h s
     JOIN public.metrics m ON ((m.id = s.metric_id)))
     JOIN public.hosts h ON ((h.id = s.host_id)))
  WHERE ((m.kind = 'gauge'::text) AND (m.name = ANY (ARRAY['cpu_percent'::text, 'load1'::text, 'load5'::text, 'load15'::text, 'memory_used_percent'::text, 'swap_used_percent'::text, 'filesystem_used_percent'::text])))
  GROUP BY s.bucket, h.id, h.name;
CREATE TABLE public.system_metrics_1d_mat (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
)
PARTITION BY RANGE (bucket);
CREATE VIEW public.system_metrics_1d AS
 SELECT u.bucket,
    u.host_id,
    u.metric_id,
    u.n,
    u.sum,
    u.min,
    u.max,
    u.last,
    (u.sum / (NULLIF(u.n, 0))::double precision) AS avg
   FROM ( SELECT m.bucket,
            m.host_id,
            m.metric_id,
            m.n,
            m.sum,
            m.min,
            m.max,
            m.last
           FROM public.system_metrics_1d_mat m
          WHERE (true AND (NOT (EXISTS ( SELECT 1
                   FROM public.marks k
                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1,2,3}'::smallint[])) AND (date_bin('24:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
        UNION ALL
         SELECT d_1d.bucket,
            x.host_id,
            x.metric_id,
            x.n,
            x.sum,
            x.min,
            x.max,
            x.last
           FROM (( SELECT DISTINCT date_bin('24:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                   FROM public.marks k
                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1,2,3}'::smallint[])) AND true)) d_1d
             CROSS JOIN LATERAL ( SELECT date_bin('24:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                    r.host_id,
                    r.metric_id,
                    (sum(r.n))::bigint AS n,
                    sum(r.sum) AS sum,
                    min(r.min) AS min,
                    max(r.max) AS max,
                    (max(ARRAY[date_part('epoch'::text, r.bucket), r.last]))[2] AS last
                   FROM ( SELECT m.bucket,
                            m.host_id,
                            m.metric_id,
                            m.n,
                            m.sum,
                            m.min,
                            m.max,
                            m.last
                           FROM public.system_metrics_1h_mat m
                          WHERE ((m.bucket >= d_1d.bucket) AND (m.bucket < (d_1d.bucket + '24:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
                                   FROM public.marks k
                                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
                        UNION ALL
                         SELECT d_1h.bucket,
                            x_1.host_id,
                            x_1.metric_id,
                            x_1.n,
                            x_1.sum,
                            x_1.min,
                            x_1.max,
                            x_1.last
                           FROM (( SELECT DISTINCT date_bin('01:00:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
                                   FROM public.marks k
                                  WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1,2}'::smallint[])) AND (k.bucket >= d_1d.bucket) AND (k.bucket < (d_1d.bucket + '24:00:00'::interval)))) d_1h
                             CROSS JOIN LATERAL ( SELECT date_bin('01:00:00'::interval, r_1.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
                                    r_1.host_id,
                                    r_1.metric_id,
                                    (sum(r_1.n))::bigint AS n,
                                    sum(r_1.sum) AS sum,
                                    min(r_1.min) AS min,
                                    max(r_1.max) AS max,
                                    (max(ARRAY[date_part('epoch'::text, r_1.bucket), r_1.last]))[2] AS last
                                   FROM ( SELECT m.bucket,
    m.host_id,
    m.metric_id,
    m.n,
    m.sum,
    m.min,
    m.max,
    m.last
   FROM public.system_metrics_1m_mat m
  WHERE ((m.bucket >= d_1h.bucket) AND (m.bucket < (d_1h.bucket + '01:00:00'::interval)) AND (NOT (EXISTS ( SELECT 1
     FROM public.marks k
    WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1}'::smallint[])) AND (date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) = m.bucket))))))
UNION ALL
 SELECT d_1m.bucket,
    x_2.host_id,
    x_2.metric_id,
    x_2.n,
    x_2.sum,
    x_2.min,
    x_2.max,
    x_2.last
   FROM (( SELECT DISTINCT date_bin('00:01:00'::interval, k.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket
     FROM public.marks k
    WHERE ((k.tbl = 3) AND (k.tier = ANY ('{1}'::smallint[])) AND (k.bucket >= d_1h.bucket) AND (k.bucket < (d_1h.bucket + '01:00:00'::interval)))) d_1m
     CROSS JOIN LATERAL ( SELECT date_bin('00:01:00'::interval, r_2.ts, '1970-01-01 00:00:00+00'::timestamp with time zone) AS bucket,
      r_2.host_id,
      r_2.metric_id,
      count(*) AS n,
      sum(r_2.value) AS sum,
      min(r_2.value) AS min,
      max(r_2.value) AS max,
      (max(ARRAY[date_part('epoch'::text, r_2.ts), r_2.value]))[2] AS last
     FROM public.system_metrics r_2
    WHERE ((r_2.ts >= d_1m.bucket) AND (r_2.ts < (d_1m.bucket + '00:01:00'::interval)))
    GROUP BY (date_bin('00:01:00'::interval, r_2.ts, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_2.host_id, r_2.metric_id) x_2)) r_1
                                  WHERE ((r_1.bucket >= d_1h.bucket) AND (r_1.bucket < (d_1h.bucket + '01:00:00'::interval)))
                                  GROUP BY (date_bin('01:00:00'::interval, r_1.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r_1.host_id, r_1.metric_id) x_1)) r
                  WHERE ((r.bucket >= d_1d.bucket) AND (r.bucket < (d_1d.bucket + '24:00:00'::interval)))
                  GROUP BY (date_bin('24:00:00'::interval, r.bucket, '1970-01-01 00:00:00+00'::timestamp with time zone)), r.host_id, r.metric_id) x)) u;
CREATE TABLE public.system_metrics_1d_mat_2026 (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.system_metrics_1h_mat_202603 (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.system_metrics_1h_mat_202611 (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.system_metrics_1m_mat_20260310 (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.system_metrics_1m_mat_20261123 (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.system_metrics_1m_mat_20261124 (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.system_metrics_1m_mat_20261125 (
    bucket timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    n bigint NOT NULL,
    sum double precision NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    last double precision NOT NULL
);
CREATE TABLE public.system_metrics_20260310 (
    ts timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.system_metrics_20261123 (
    ts timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.system_metrics_20261124 (
    ts timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE public.system_metrics_20261125 (
    ts timestamp with time zone NOT NULL,
    host_id integer NOT NULL,
    metric_id integer NOT NULL,
    value double precision NOT NULL
);
ALTER TABLE ONLY public.agent_metrics_1d_mat ATTACH PARTITION public.agent_metrics_1d_mat_2026 FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics_1h_mat ATTACH PARTITION public.agent_metrics_1h_mat_202603 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics_1h_mat ATTACH PARTITION public.agent_metrics_1h_mat_202611 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics_1m_mat ATTACH PARTITION public.agent_metrics_1m_mat_20260310 FOR VALUES FROM ('2026-03-10 00:00:00+00') TO ('2026-03-11 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics_1m_mat ATTACH PARTITION public.agent_metrics_1m_mat_20261123 FOR VALUES FROM ('2026-11-23 00:00:00+00') TO ('2026-11-24 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics_1m_mat ATTACH PARTITION public.agent_metrics_1m_mat_20261124 FOR VALUES FROM ('2026-11-24 00:00:00+00') TO ('2026-11-25 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics_1m_mat ATTACH PARTITION public.agent_metrics_1m_mat_20261125 FOR VALUES FROM ('2026-11-25 00:00:00+00') TO ('2026-11-26 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics ATTACH PARTITION public.agent_metrics_20260310 FOR VALUES FROM ('2026-03-10 00:00:00+00') TO ('2026-03-11 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics ATTACH PARTITION public.agent_metrics_20261123 FOR VALUES FROM ('2026-11-23 00:00:00+00') TO ('2026-11-24 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics ATTACH PARTITION public.agent_metrics_20261124 FOR VALUES FROM ('2026-11-24 00:00:00+00') TO ('2026-11-25 00:00:00+00');
ALTER TABLE ONLY public.agent_metrics ATTACH PARTITION public.agent_metrics_20261125 FOR VALUES FROM ('2026-11-25 00:00:00+00') TO ('2026-11-26 00:00:00+00');
ALTER TABLE ONLY public.health_1d_mat ATTACH PARTITION public.health_1d_mat_2026 FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');
ALTER TABLE ONLY public.health_1h_mat ATTACH PARTITION public.health_1h_mat_202603 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.health_1h_mat ATTACH PARTITION public.health_1h_mat_202611 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');
ALTER TABLE ONLY public.health_1m_mat ATTACH PARTITION public.health_1m_mat_20260310 FOR VALUES FROM ('2026-03-10 00:00:00+00') TO ('2026-03-11 00:00:00+00');
ALTER TABLE ONLY public.health_1m_mat ATTACH PARTITION public.health_1m_mat_20261123 FOR VALUES FROM ('2026-11-23 00:00:00+00') TO ('2026-11-24 00:00:00+00');
ALTER TABLE ONLY public.health_1m_mat ATTACH PARTITION public.health_1m_mat_20261124 FOR VALUES FROM ('2026-11-24 00:00:00+00') TO ('2026-11-25 00:00:00+00');
ALTER TABLE ONLY public.health_1m_mat ATTACH PARTITION public.health_1m_mat_20261125 FOR VALUES FROM ('2026-11-25 00:00:00+00') TO ('2026-11-26 00:00:00+00');
ALTER TABLE ONLY public.health_checks ATTACH PARTITION public.health_checks_20260310 FOR VALUES FROM ('2026-03-10 00:00:00+00') TO ('2026-03-11 00:00:00+00');
ALTER TABLE ONLY public.health_checks ATTACH PARTITION public.health_checks_20261123 FOR VALUES FROM ('2026-11-23 00:00:00+00') TO ('2026-11-24 00:00:00+00');
ALTER TABLE ONLY public.health_checks ATTACH PARTITION public.health_checks_20261124 FOR VALUES FROM ('2026-11-24 00:00:00+00') TO ('2026-11-25 00:00:00+00');
ALTER TABLE ONLY public.health_checks ATTACH PARTITION public.health_checks_20261125 FOR VALUES FROM ('2026-11-25 00:00:00+00') TO ('2026-11-26 00:00:00+00');
ALTER TABLE ONLY public.system_metrics_1d_mat ATTACH PARTITION public.system_metrics_1d_mat_2026 FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2027-01-01 00:00:00+00');
ALTER TABLE ONLY public.system_metrics_1h_mat ATTACH PARTITION public.system_metrics_1h_mat_202603 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.system_metrics_1h_mat ATTACH PARTITION public.system_metrics_1h_mat_202611 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00');
ALTER TABLE ONLY public.system_metrics_1m_mat ATTACH PARTITION public.system_metrics_1m_mat_20260310 FOR VALUES FROM ('2026-03-10 00:00:00+00') TO ('2026-03-11 00:00:00+00');
ALTER TABLE ONLY public.system_metrics_1m_mat ATTACH PARTITION public.system_metrics_1m_mat_20261123 FOR VALUES FROM ('2026-11-23 00:00:00+00') TO ('2026-11-24 00:00:00+00');
ALTER TABLE ONLY public.system_metrics_1m_mat ATTACH PARTITION public.system_metrics_1m_mat_20261124 FOR VALUES FROM ('2026-11-24 00:00:00+00') TO ('2026-11-25 00:00:00+00');
ALTER TABLE ONLY public.system_metrics_1m_mat ATTACH PARTITION public.system_metrics_1m_mat_20261125 FOR VALUES FROM ('2026-11-25 00:00:00+00') TO ('2026-11-26 00:00:00+00');
ALTER TABLE ONLY public.system_metrics ATTACH PARTITION public.system_metrics_20260310 FOR VALUES FROM ('2026-03-10 00:00:00+00') TO ('2026-03-11 00:00:00+00');
ALTER TABLE ONLY public.system_metrics ATTACH PARTITION public.system_metrics_20261123 FOR VALUES FROM ('2026-11-23 00:00:00+00') TO ('2026-11-24 00:00:00+00');
ALTER TABLE ONLY public.system_metrics ATTACH PARTITION public.system_metrics_20261124 FOR VALUES FROM ('2026-11-24 00:00:00+00') TO ('2026-11-25 00:00:00+00');
ALTER TABLE ONLY public.system_metrics ATTACH PARTITION public.system_metrics_20261125 FOR VALUES FROM ('2026-11-25 00:00:00+00') TO ('2026-11-26 00:00:00+00');
INSERT INTO public.agent_metrics_1h_mat_202603 VALUES ('2026-03-10 12:00:00+00', 1, 2, 3, 0.30000000000000004, 0, 0.2, 0.2);
INSERT INTO public.agent_metrics_1m_mat_20260310 VALUES ('2026-03-10 12:00:00+00', 1, 2, 2, 0.1, 0, 0.1, 0.1);
INSERT INTO public.agent_metrics_1m_mat_20260310 VALUES ('2026-03-10 12:01:00+00', 1, 2, 1, 0.2, 0.2, 0.2, 0.2);
INSERT INTO public.agent_metrics_20260310 VALUES ('2026-03-10 12:00:00+00', 1, 2, 0);
INSERT INTO public.agent_metrics_20260310 VALUES ('2026-03-10 12:00:30+00', 1, 2, 0.1);
INSERT INTO public.agent_metrics_20260310 VALUES ('2026-03-10 12:01:00+00', 1, 2, 0.2);
INSERT INTO public.agent_metrics_20260310 VALUES ('2026-03-10 12:00:01+00', 1, 2, 9);
INSERT INTO public.agents VALUES (1, 'a', 'unknown', 'http', '', '{}', 15, 10, 1, 2, '', '{}', 'api', 'retired', false, 'unknown', NULL, NULL, NULL, '', '2026-11-23 16:48:40.874061+00', '2026-11-23 16:48:40.874061+00');
INSERT INTO public.alembic_version VALUES ('0001');
INSERT INTO public.collector_sessions VALUES (1, '6a0f6f8e-0000-4000-8000-000000000001', 'test', 'testhost', 1, '0', '2026-01-01 00:00:00+00', '2026-11-23 16:48:40.95853+00', NULL, NULL);
INSERT INTO public.health_1h_mat_202603 VALUES ('2026-03-10 12:00:00+00', 1, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0, 3, 18, 5, 7, 7, 1, 2, '{{198,1},{207,1},{215,1}}');
INSERT INTO public.health_1m_mat_20260310 VALUES ('2026-03-10 12:00:00+00', 1, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 11, 5, 6, 6, 1, 1, '{{198,1},{207,1}}');
INSERT INTO public.health_1m_mat_20260310 VALUES ('2026-03-10 12:01:00+00', 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 7, 7, 7, 7, 1, 2, '{{215,1}}');
INSERT INTO public.health_checks_20260310 VALUES ('2026-03-10 12:00:00+00', 1, 0, 1, 5, 200, NULL, 1);
INSERT INTO public.health_checks_20260310 VALUES ('2026-03-10 12:00:30+00', 1, 1, 1, 6, 200, NULL, 1);
INSERT INTO public.health_checks_20260310 VALUES ('2026-03-10 12:01:00+00', 1, 2, 1, 7, 200, NULL, 1);
INSERT INTO public.horizons VALUES (1, 0, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (1, 1, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (1, 2, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (1, 3, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (2, 0, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (2, 1, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (2, 2, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (2, 3, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (3, 0, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (3, 1, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (3, 2, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.horizons VALUES (3, 3, '1970-01-01 00:00:00+00', '1970-01-01 00:00:00+00');
INSERT INTO public.hosts VALUES (1, 'h', '{}', '2026-11-23 16:48:40.875509+00');
INSERT INTO public.ingest_batch_days VALUES ('0585c324-1097-4222-9649-b2677f9bae76', 1, 1, '2026-03-10', 3);
INSERT INTO public.ingest_batch_days VALUES ('0585c324-1097-4222-9649-b2677f9bae76', 1, 2, '2026-03-10', 3);
INSERT INTO public.ingest_batch_days VALUES ('0585c324-1097-4222-9649-b2677f9bae76', 1, 3, '2026-03-10', 3);
INSERT INTO public.ingest_batch_days VALUES ('0585c324-1097-4222-9649-b2677f9bae76', 2, 2, '2026-03-10', 1);
INSERT INTO public.ingest_batches VALUES ('0585c324-1097-4222-9649-b2677f9bae76', 1, 'committed', 9, '', '2026-11-23 16:48:40.890289+00');
INSERT INTO public.ingest_batches VALUES ('0585c324-1097-4222-9649-b2677f9bae76', 2, 'committed', 1, '', '2026-11-23 16:48:40.95853+00');
INSERT INTO public.marks OVERRIDING SYSTEM VALUE VALUES (8, 1, 3, '2026-03-10 00:00:00+00');
INSERT INTO public.marks OVERRIDING SYSTEM VALUE VALUES (10, 2, 3, '2026-03-10 00:00:00+00');
INSERT INTO public.marks OVERRIDING SYSTEM VALUE VALUES (12, 3, 3, '2026-03-10 00:00:00+00');
INSERT INTO public.marks OVERRIDING SYSTEM VALUE VALUES (13, 2, 1, '2026-03-10 12:00:00+00');
INSERT INTO public.metrics VALUES (1, 'load', '{}', 'gauge', '', '', '\x44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a');
INSERT INTO public.metrics VALUES (2, 'm', '{}', 'gauge', '', '', '\x44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a');
INSERT INTO public.provision_version VALUES (true, 2, 'postgresql');
INSERT INTO public.system_metrics_1h_mat_202603 VALUES ('2026-03-10 12:00:00+00', 1, 1, 3, 3, 1, 1, 1);
INSERT INTO public.system_metrics_1m_mat_20260310 VALUES ('2026-03-10 12:00:00+00', 1, 1, 2, 2, 1, 1, 1);
INSERT INTO public.system_metrics_1m_mat_20260310 VALUES ('2026-03-10 12:01:00+00', 1, 1, 1, 1, 1, 1, 1);
INSERT INTO public.system_metrics_20260310 VALUES ('2026-03-10 12:00:00+00', 1, 1, 1);
INSERT INTO public.system_metrics_20260310 VALUES ('2026-03-10 12:00:30+00', 1, 1, 1);
INSERT INTO public.system_metrics_20260310 VALUES ('2026-03-10 12:01:00+00', 1, 1, 1);
SELECT pg_catalog.setval('public.agent_schedules_id_seq', 1, false);
SELECT pg_catalog.setval('public.agents_id_seq', 1, true);
SELECT pg_catalog.setval('public.collector_sessions_id_seq', 1, true);
SELECT pg_catalog.setval('public.hosts_id_seq', 1, true);
SELECT pg_catalog.setval('public.losses_id_seq', 1, false);
SELECT pg_catalog.setval('public.marks_mark_id_seq', 13, true);
SELECT pg_catalog.setval('public.metrics_id_seq', 2, true);
SELECT pg_catalog.setval('public.quarantine_quarantine_id_seq', 1, false);
SELECT pg_catalog.setval('public.reasons_id_seq', 1, false);
SELECT pg_catalog.setval('public.status_events_id_seq', 1, false);
ALTER TABLE ONLY public.agent_metrics_1d_mat
    ADD CONSTRAINT agent_metrics_1d_mat_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1d_mat_2026
    ADD CONSTRAINT agent_metrics_1d_mat_2026_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1h_mat
    ADD CONSTRAINT agent_metrics_1h_mat_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1h_mat_202603
    ADD CONSTRAINT agent_metrics_1h_mat_202603_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1h_mat_202611
    ADD CONSTRAINT agent_metrics_1h_mat_202611_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1m_mat
    ADD CONSTRAINT agent_metrics_1m_mat_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1m_mat_20260310
    ADD CONSTRAINT agent_metrics_1m_mat_20260310_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1m_mat_20261123
    ADD CONSTRAINT agent_metrics_1m_mat_20261123_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1m_mat_20261124
    ADD CONSTRAINT agent_metrics_1m_mat_20261124_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_metrics_1m_mat_20261125
    ADD CONSTRAINT agent_metrics_1m_mat_20261125_pkey PRIMARY KEY (agent_id, metric_id, bucket);
ALTER TABLE ONLY public.agent_schedules
    ADD CONSTRAINT agent_schedules_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_name_key UNIQUE (name);
ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.collector_sessions
    ADD CONSTRAINT collector_sessions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.collector_sessions
    ADD CONSTRAINT collector_sessions_uuid_key UNIQUE (uuid);
ALTER TABLE ONLY public.health_1d_mat
    ADD CONSTRAINT health_1d_mat_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1d_mat_2026
    ADD CONSTRAINT health_1d_mat_2026_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1h_mat
    ADD CONSTRAINT health_1h_mat_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1h_mat_202603
    ADD CONSTRAINT health_1h_mat_202603_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1h_mat_202611
    ADD CONSTRAINT health_1h_mat_202611_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1m_mat
    ADD CONSTRAINT health_1m_mat_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1m_mat_20260310
    ADD CONSTRAINT health_1m_mat_20260310_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1m_mat_20261123
    ADD CONSTRAINT health_1m_mat_20261123_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1m_mat_20261124
    ADD CONSTRAINT health_1m_mat_20261124_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.health_1m_mat_20261125
    ADD CONSTRAINT health_1m_mat_20261125_pkey PRIMARY KEY (agent_id, bucket);
ALTER TABLE ONLY public.horizons
    ADD CONSTRAINT horizons_pkey PRIMARY KEY (tbl, tier);
ALTER TABLE ONLY public.hosts
    ADD CONSTRAINT hosts_name_key UNIQUE (name);
ALTER TABLE ONLY public.hosts
    ADD CONSTRAINT hosts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ingest_batch_days
    ADD CONSTRAINT ingest_batch_days_pkey PRIMARY KEY (utc_day, tbl, spool_id, seq);
ALTER TABLE ONLY public.ingest_batches
    ADD CONSTRAINT ingest_batches_pkey PRIMARY KEY (spool_id, seq);
ALTER TABLE ONLY public.ingest_rejections
    ADD CONSTRAINT ingest_rejections_pkey PRIMARY KEY (spool_id, seq, tbl, reason);
ALTER TABLE ONLY public.losses
    ADD CONSTRAINT losses_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.marks
    ADD CONSTRAINT marks_pkey PRIMARY KEY (mark_id);
ALTER TABLE ONLY public.metrics
    ADD CONSTRAINT metrics_name_kind_labels_digest_key UNIQUE (name, kind, labels_digest);
ALTER TABLE ONLY public.metrics
    ADD CONSTRAINT metrics_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.provision_version
    ADD CONSTRAINT provision_version_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (quarantine_id);
ALTER TABLE ONLY public.reasons
    ADD CONSTRAINT reasons_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.reasons
    ADD CONSTRAINT reasons_reason_key UNIQUE (reason);
ALTER TABLE ONLY public.status_events
    ADD CONSTRAINT status_events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.system_metrics_1d_mat
    ADD CONSTRAINT system_metrics_1d_mat_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1d_mat_2026
    ADD CONSTRAINT system_metrics_1d_mat_2026_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1h_mat
    ADD CONSTRAINT system_metrics_1h_mat_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1h_mat_202603
    ADD CONSTRAINT system_metrics_1h_mat_202603_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1h_mat_202611
    ADD CONSTRAINT system_metrics_1h_mat_202611_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1m_mat
    ADD CONSTRAINT system_metrics_1m_mat_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1m_mat_20260310
    ADD CONSTRAINT system_metrics_1m_mat_20260310_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1m_mat_20261123
    ADD CONSTRAINT system_metrics_1m_mat_20261123_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1m_mat_20261124
    ADD CONSTRAINT system_metrics_1m_mat_20261124_pkey PRIMARY KEY (host_id, metric_id, bucket);
ALTER TABLE ONLY public.system_metrics_1m_mat_20261125
    ADD CONSTRAINT system_metrics_1m_mat_20261125_pkey PRIMARY KEY (host_id, metric_id, bucket);
CREATE INDEX agent_metrics_1d_mat_brin ON ONLY public.agent_metrics_1d_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1d_mat_2026_bucket_idx ON public.agent_metrics_1d_mat_2026 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1h_mat_brin ON ONLY public.agent_metrics_1h_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1h_mat_202603_bucket_idx ON public.agent_metrics_1h_mat_202603 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1h_mat_202611_bucket_idx ON public.agent_metrics_1h_mat_202611 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1m_mat_brin ON ONLY public.agent_metrics_1m_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1m_mat_20260310_bucket_idx ON public.agent_metrics_1m_mat_20260310 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1m_mat_20261123_bucket_idx ON public.agent_metrics_1m_mat_20261123 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1m_mat_20261124_bucket_idx ON public.agent_metrics_1m_mat_20261124 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_1m_mat_20261125_bucket_idx ON public.agent_metrics_1m_mat_20261125 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_entity ON ONLY public.agent_metrics USING btree (agent_id, metric_id, ts);
CREATE INDEX agent_metrics_20260310_agent_id_metric_id_ts_idx ON public.agent_metrics_20260310 USING btree (agent_id, metric_id, ts);
CREATE INDEX agent_metrics_brin ON ONLY public.agent_metrics USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_20260310_ts_idx ON public.agent_metrics_20260310 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_20261123_agent_id_metric_id_ts_idx ON public.agent_metrics_20261123 USING btree (agent_id, metric_id, ts);
CREATE INDEX agent_metrics_20261123_ts_idx ON public.agent_metrics_20261123 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_20261124_agent_id_metric_id_ts_idx ON public.agent_metrics_20261124 USING btree (agent_id, metric_id, ts);
CREATE INDEX agent_metrics_20261124_ts_idx ON public.agent_metrics_20261124 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_metrics_20261125_agent_id_metric_id_ts_idx ON public.agent_metrics_20261125 USING btree (agent_id, metric_id, ts);
CREATE INDEX agent_metrics_20261125_ts_idx ON public.agent_metrics_20261125 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX agent_schedules_agent_id_from_ts_idx ON public.agent_schedules USING btree (agent_id, from_ts);
CREATE UNIQUE INDEX agent_schedules_open_key ON public.agent_schedules USING btree (agent_id) WHERE (to_ts IS NULL);
CREATE INDEX health_1d_mat_brin ON ONLY public.health_1d_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1d_mat_2026_bucket_idx ON public.health_1d_mat_2026 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1h_mat_brin ON ONLY public.health_1h_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1h_mat_202603_bucket_idx ON public.health_1h_mat_202603 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1h_mat_202611_bucket_idx ON public.health_1h_mat_202611 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1m_mat_brin ON ONLY public.health_1m_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1m_mat_20260310_bucket_idx ON public.health_1m_mat_20260310 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1m_mat_20261123_bucket_idx ON public.health_1m_mat_20261123 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1m_mat_20261124_bucket_idx ON public.health_1m_mat_20261124 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_1m_mat_20261125_bucket_idx ON public.health_1m_mat_20261125 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_checks_entity ON ONLY public.health_checks USING btree (agent_id, ts);
CREATE INDEX health_checks_20260310_agent_id_ts_idx ON public.health_checks_20260310 USING btree (agent_id, ts);
CREATE INDEX health_checks_brin ON ONLY public.health_checks USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_checks_20260310_ts_idx ON public.health_checks_20260310 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_checks_20261123_agent_id_ts_idx ON public.health_checks_20261123 USING btree (agent_id, ts);
CREATE INDEX health_checks_20261123_ts_idx ON public.health_checks_20261123 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_checks_20261124_agent_id_ts_idx ON public.health_checks_20261124 USING btree (agent_id, ts);
CREATE INDEX health_checks_20261124_ts_idx ON public.health_checks_20261124 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX health_checks_20261125_agent_id_ts_idx ON public.health_checks_20261125 USING btree (agent_id, ts);
CREATE INDEX health_checks_20261125_ts_idx ON public.health_checks_20261125 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX ingest_batches_age ON public.ingest_batches USING brin (committed_at);
CREATE INDEX losses_agent_id_from_due_idx ON public.losses USING btree (agent_id, from_due);
CREATE INDEX marks_bucket ON public.marks USING btree (tbl, tier, bucket);
CREATE INDEX status_events_agent_id_ts_idx ON public.status_events USING btree (agent_id, ts);
CREATE INDEX system_metrics_1d_mat_brin ON ONLY public.system_metrics_1d_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1d_mat_2026_bucket_idx ON public.system_metrics_1d_mat_2026 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1h_mat_brin ON ONLY public.system_metrics_1h_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1h_mat_202603_bucket_idx ON public.system_metrics_1h_mat_202603 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1h_mat_202611_bucket_idx ON public.system_metrics_1h_mat_202611 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1m_mat_brin ON ONLY public.system_metrics_1m_mat USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1m_mat_20260310_bucket_idx ON public.system_metrics_1m_mat_20260310 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1m_mat_20261123_bucket_idx ON public.system_metrics_1m_mat_20261123 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1m_mat_20261124_bucket_idx ON public.system_metrics_1m_mat_20261124 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_1m_mat_20261125_bucket_idx ON public.system_metrics_1m_mat_20261125 USING brin (bucket) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_entity ON ONLY public.system_metrics USING btree (host_id, metric_id, ts);
CREATE INDEX system_metrics_20260310_host_id_metric_id_ts_idx ON public.system_metrics_20260310 USING btree (host_id, metric_id, ts);
CREATE INDEX system_metrics_brin ON ONLY public.system_metrics USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_20260310_ts_idx ON public.system_metrics_20260310 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_20261123_host_id_metric_id_ts_idx ON public.system_metrics_20261123 USING btree (host_id, metric_id, ts);
CREATE INDEX system_metrics_20261123_ts_idx ON public.system_metrics_20261123 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_20261124_host_id_metric_id_ts_idx ON public.system_metrics_20261124 USING btree (host_id, metric_id, ts);
CREATE INDEX system_metrics_20261124_ts_idx ON public.system_metrics_20261124 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
CREATE INDEX system_metrics_20261125_host_id_metric_id_ts_idx ON public.system_metrics_20261125 USING btree (host_id, metric_id, ts);
CREATE INDEX system_metrics_20261125_ts_idx ON public.system_metrics_20261125 USING brin (ts) WITH (pages_per_range='32', autosummarize='on');
ALTER INDEX public.agent_metrics_1d_mat_brin ATTACH PARTITION public.agent_metrics_1d_mat_2026_bucket_idx;
ALTER INDEX public.agent_metrics_1d_mat_pkey ATTACH PARTITION public.agent_metrics_1d_mat_2026_pkey;
ALTER INDEX public.agent_metrics_1h_mat_brin ATTACH PARTITION public.agent_metrics_1h_mat_202603_bucket_idx;
ALTER INDEX public.agent_metrics_1h_mat_pkey ATTACH PARTITION public.agent_metrics_1h_mat_202603_pkey;
ALTER INDEX public.agent_metrics_1h_mat_brin ATTACH PARTITION public.agent_metrics_1h_mat_202611_bucket_idx;
ALTER INDEX public.agent_metrics_1h_mat_pkey ATTACH PARTITION public.agent_metrics_1h_mat_202611_pkey;
ALTER INDEX public.agent_metrics_1m_mat_brin ATTACH PARTITION public.agent_metrics_1m_mat_20260310_bucket_idx;
ALTER INDEX public.agent_metrics_1m_mat_pkey ATTACH PARTITION public.agent_metrics_1m_mat_20260310_pkey;
ALTER INDEX public.agent_metrics_1m_mat_brin ATTACH PARTITION public.agent_metrics_1m_mat_20261123_bucket_idx;
ALTER INDEX public.agent_metrics_1m_mat_pkey ATTACH PARTITION public.agent_metrics_1m_mat_20261123_pkey;
ALTER INDEX public.agent_metrics_1m_mat_brin ATTACH PARTITION public.agent_metrics_1m_mat_20261124_bucket_idx;
ALTER INDEX public.agent_metrics_1m_mat_pkey ATTACH PARTITION public.agent_metrics_1m_mat_20261124_pkey;
ALTER INDEX public.agent_metrics_1m_mat_brin ATTACH PARTITION public.agent_metrics_1m_mat_20261125_bucket_idx;
ALTER INDEX public.agent_metrics_1m_mat_pkey ATTACH PARTITION public.agent_metrics_1m_mat_20261125_pkey;
ALTER INDEX public.agent_metrics_entity ATTACH PARTITION public.agent_metrics_20260310_agent_id_metric_id_ts_idx;
ALTER INDEX public.agent_metrics_brin ATTACH PARTITION public.agent_metrics_20260310_ts_idx;
ALTER INDEX public.agent_metrics_entity ATTACH PARTITION public.agent_metrics_20261123_agent_id_metric_id_ts_idx;
ALTER INDEX public.agent_metrics_brin ATTACH PARTITION public.agent_metrics_20261123_ts_idx;
ALTER INDEX public.agent_metrics_entity ATTACH PARTITION public.agent_metrics_20261124_agent_id_metric_id_ts_idx;
ALTER INDEX public.agent_metrics_brin ATTACH PARTITION public.agent_metrics_20261124_ts_idx;
ALTER INDEX public.agent_metrics_entity ATTACH PARTITION public.agent_metrics_20261125_agent_id_metric_id_ts_idx;
ALTER INDEX public.agent_metrics_brin ATTACH PARTITION public.agent_metrics_20261125_ts_idx;
ALTER INDEX public.health_1d_mat_brin ATTACH PARTITION public.health_1d_mat_2026_bucket_idx;
ALTER INDEX public.health_1d_mat_pkey ATTACH PARTITION public.health_1d_mat_2026_pkey;
ALTER INDEX public.health_1h_mat_brin ATTACH PARTITION public.health_1h_mat_202603_bucket_idx;
ALTER INDEX public.health_1h_mat_pkey ATTACH PARTITION public.health_1h_mat_202603_pkey;
ALTER INDEX public.health_1h_mat_brin ATTACH PARTITION public.health_1h_mat_202611_bucket_idx;
ALTER INDEX public.health_1h_mat_pkey ATTACH PARTITION public.health_1h_mat_202611_pkey;
ALTER INDEX public.health_1m_mat_brin ATTACH PARTITION public.health_1m_mat_20260310_bucket_idx;
ALTER INDEX public.health_1m_mat_pkey ATTACH PARTITION public.health_1m_mat_20260310_pkey;
ALTER INDEX public.health_1m_mat_brin ATTACH PARTITION public.health_1m_mat_20261123_bucket_idx;
ALTER INDEX public.health_1m_mat_pkey ATTACH PARTITION public.health_1m_mat_20261123_pkey;
ALTER INDEX public.health_1m_mat_brin ATTACH PARTITION public.health_1m_mat_20261124_bucket_idx;
ALTER INDEX public.health_1m_mat_pkey ATTACH PARTITION public.health_1m_mat_20261124_pkey;
ALTER INDEX public.health_1m_mat_brin ATTACH PARTITION public.health_1m_mat_20261125_bucket_idx;
ALTER INDEX public.health_1m_mat_pkey ATTACH PARTITION public.health_1m_mat_20261125_pkey;
ALTER INDEX public.health_checks_entity ATTACH PARTITION public.health_checks_20260310_agent_id_ts_idx;
ALTER INDEX public.health_checks_brin ATTACH PARTITION public.health_checks_20260310_ts_idx;
ALTER INDEX public.health_checks_entity ATTACH PARTITION public.health_checks_20261123_agent_id_ts_idx;
ALTER INDEX public.health_checks_brin ATTACH PARTITION public.health_checks_20261123_ts_idx;
ALTER INDEX public.health_checks_entity ATTACH PARTITION public.health_checks_20261124_agent_id_ts_idx;
ALTER INDEX public.health_checks_brin ATTACH PARTITION public.health_checks_20261124_ts_idx;
ALTER INDEX public.health_checks_entity ATTACH PARTITION public.health_checks_20261125_agent_id_ts_idx;
ALTER INDEX public.health_checks_brin ATTACH PARTITION public.health_checks_20261125_ts_idx;
ALTER INDEX public.system_metrics_1d_mat_brin ATTACH PARTITION public.system_metrics_1d_mat_2026_bucket_idx;
ALTER INDEX public.system_metrics_1d_mat_pkey ATTACH PARTITION public.system_metrics_1d_mat_2026_pkey;
ALTER INDEX public.system_metrics_1h_mat_brin ATTACH PARTITION public.system_metrics_1h_mat_202603_bucket_idx;
ALTER INDEX public.system_metrics_1h_mat_pkey ATTACH PARTITION public.system_metrics_1h_mat_202603_pkey;
ALTER INDEX public.system_metrics_1h_mat_brin ATTACH PARTITION public.system_metrics_1h_mat_202611_bucket_idx;
ALTER INDEX public.system_metrics_1h_mat_pkey ATTACH PARTITION public.system_metrics_1h_mat_202611_pkey;
ALTER INDEX public.system_metrics_1m_mat_brin ATTACH PARTITION public.system_metrics_1m_mat_20260310_bucket_idx;
ALTER INDEX public.system_metrics_1m_mat_pkey ATTACH PARTITION public.system_metrics_1m_mat_20260310_pkey;
ALTER INDEX public.system_metrics_1m_mat_brin ATTACH PARTITION public.system_metrics_1m_mat_20261123_bucket_idx;
ALTER INDEX public.system_metrics_1m_mat_pkey ATTACH PARTITION public.system_metrics_1m_mat_20261123_pkey;
ALTER INDEX public.system_metrics_1m_mat_brin ATTACH PARTITION public.system_metrics_1m_mat_20261124_bucket_idx;
ALTER INDEX public.system_metrics_1m_mat_pkey ATTACH PARTITION public.system_metrics_1m_mat_20261124_pkey;
ALTER INDEX public.system_metrics_1m_mat_brin ATTACH PARTITION public.system_metrics_1m_mat_20261125_bucket_idx;
ALTER INDEX public.system_metrics_1m_mat_pkey ATTACH PARTITION public.system_metrics_1m_mat_20261125_pkey;
ALTER INDEX public.system_metrics_entity ATTACH PARTITION public.system_metrics_20260310_host_id_metric_id_ts_idx;
ALTER INDEX public.system_metrics_brin ATTACH PARTITION public.system_metrics_20260310_ts_idx;
ALTER INDEX public.system_metrics_entity ATTACH PARTITION public.system_metrics_20261123_host_id_metric_id_ts_idx;
ALTER INDEX public.system_metrics_brin ATTACH PARTITION public.system_metrics_20261123_ts_idx;
ALTER INDEX public.system_metrics_entity ATTACH PARTITION public.system_metrics_20261124_host_id_metric_id_ts_idx;
ALTER INDEX public.system_metrics_brin ATTACH PARTITION public.system_metrics_20261124_ts_idx;
ALTER INDEX public.system_metrics_entity ATTACH PARTITION public.system_metrics_20261125_host_id_metric_id_ts_idx;
ALTER INDEX public.system_metrics_brin ATTACH PARTITION public.system_metrics_20261125_ts_idx;
ALTER TABLE ONLY public.agent_schedules
    ADD CONSTRAINT agent_schedules_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id);
REVOKE ALL ON FUNCTION public.make_partition(tbl smallint, tier smallint, moment timestamp with time zone) FROM PUBLIC;
