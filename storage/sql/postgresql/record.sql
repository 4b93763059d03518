-- Batches of clients that speak SQL.

-- record_batch --
-- Writes what a client saw, once, as the collector's batches are written: ledger, gates of the horizons, rows, marks,
-- counts of days, refusals and losses. A function with the rights of its owner, so that whoever calls it needs none of
-- its own. docs/storage.md says what a batch is.
-- Names stand with their schema, and no schema but the server's own is searched: whoever calls cannot slip in a table.
CREATE OR REPLACE FUNCTION {function}(spool_id uuid, seq bigint, batch jsonb) RETURNS jsonb
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET lock_timeout = {lock_timeout}
AS $body$
#variable_conflict use_column
DECLARE
    spool CONSTANT uuid := $1;
    number CONSTANT bigint := $2;
    client CONSTANT text := coalesce($3 ->> 'client', session_user);
    outcomes CONSTANT text[] := {outcomes};
    lists CONSTANT text[] := ARRAY['checks', 'agent_samples', 'system_samples'];
    tables CONSTANT text[] := ARRAY['health_checks', 'agent_metrics', 'system_metrics'];
    entity CONSTANT text[] := ARRAY['agent', 'agent', 'host'];
    numbers CONSTANT text[] := ARRAY['value', 'latency_ms', 'late_ms', 'http_status'];
    offered jsonb[] := ARRAY[]::jsonb[];
    known text[];
    needed text[];
    words text;
    wrong text;
    position bigint;
    session int;
    day timestamptz;
    low timestamptz;
    high timestamptz;
    stamps timestamptz[];
    entities int[];
    metric_ids int[];
    sample_values float8[];
    outcome_codes smallint[];
    lates real[];
    latencies real[];
    statuses smallint[];
    reason_ids int[];
    refusals text[];
    kept bigint;
    accepted bigint := 0;
    rejected jsonb := '{{}}';
BEGIN
    IF spool IS NULL OR number IS NULL OR number < 1 OR jsonb_typeof($3) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'batch %/% is %, expected a uuid, a number from 1 on and an object',
            spool, number, coalesce(jsonb_typeof($3), 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- A snapshot from before the gate does not see where the horizon has gone.
        RAISE EXCEPTION 'transaction is %, expected read committed', current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    SELECT k INTO wrong FROM jsonb_object_keys($3) AS k WHERE k <> ALL (lists || ARRAY['client']) ORDER BY k LIMIT 1;
    IF FOUND
        OR jsonb_typeof($3 -> 'client') NOT IN ('string', 'null')
        OR octet_length(client) NOT BETWEEN 1 AND {key_bytes}
    THEN
        RAISE EXCEPTION 'batch has %, expected client (text of at most {key_bytes} bytes), %',
            coalesce(
                wrong,
                'client of type ' || nullif(jsonb_typeof($3 -> 'client'), 'string'),
                'client of ' || octet_length(client) || ' bytes'
            ),
            array_to_string(lists, ', ')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR code IN 1..3 LOOP
        offered := offered || coalesce(nullif($3 -> lists[code], 'null'), '[]');
        IF jsonb_typeof(offered[code]) <> 'array' THEN
            RAISE EXCEPTION '% is %, expected an array', lists[code], jsonb_typeof(offered[code])
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        needed := ARRAY[entity[code], 'ts'] || CASE code WHEN 1 THEN ARRAY['outcome'] ELSE ARRAY['metric', 'value'] END;
        known := needed || CASE code
            WHEN 1 THEN ARRAY['latency_ms', 'late_ms', 'http_status', 'reason'] ELSE ARRAY['labels', 'kind', 'unit']
        END;
        SELECT c.wrong, c.place - 1 INTO wrong, position
        FROM (
            SELECT e.place,
                   CASE
                       WHEN jsonb_typeof(e.item) <> 'object' THEN 'is ' || jsonb_typeof(e.item) || ', expected an object'
                       WHEN EXISTS (SELECT FROM jsonb_object_keys(e.item) AS k WHERE k <> ALL (known)) THEN (
                           SELECT 'has ' || min(k) || ', expected ' || array_to_string(known, ', ')
                           FROM jsonb_object_keys(e.item) AS k
                           WHERE k <> ALL (known)
                       )
                       WHEN EXISTS (SELECT FROM unnest(needed) AS k WHERE e.item ->> k IS NULL) THEN (
                           SELECT 'has no ' || min(k) FROM unnest(needed) AS k WHERE e.item ->> k IS NULL
                       )
                       WHEN t.said IS NOT NULL THEN t.said
                       WHEN e.item ->> 'ts' !~* {moment} THEN
                           'has ts ' || (e.item ->> 'ts') || ', expected ISO 8601 with a time zone'
                       WHEN NOT (e.item ->> 'ts')::timestamptz >= {start} OR NOT (e.item ->> 'ts')::timestamptz < {end} THEN
                           'has ts ' || (e.item ->> 'ts') || ', expected 1970 to 2199'
                       WHEN code = 1 AND (e.item ->> 'outcome') <> ALL (outcomes) THEN
                           'has outcome ' || (e.item ->> 'outcome') || ', expected ' || array_to_string(outcomes, ', ')
                       WHEN code = 1 AND (e.item ->> 'latency_ms')::numeric < 0 THEN
                           'has latency_ms ' || (e.item ->> 'latency_ms') || ', expected 0 or more'
                       WHEN code = 1 AND (e.item ->> 'http_status')::int NOT BETWEEN 0 AND 999 THEN
                           'has http_status ' || (e.item ->> 'http_status') || ', expected 0 (none) to 999'
                       WHEN (e.item ->> 'kind') NOT IN ('gauge', 'counter') THEN
                           'has kind ' || (e.item ->> 'kind') || ', expected gauge or counter'
                       WHEN e.item ->> 'kind' = 'counter' AND (e.item ->> 'value')::numeric < 0 THEN
                           'has a counter with ' || (e.item ->> 'value') || ', expected the increase, 0 or more'
                       WHEN jsonb_typeof(e.item -> 'labels') NOT IN ('object', 'null')
                           -- Strictly: otherwise the members of an array are looked at, and not the array.
                           OR e.item @? 'strict $.labels.* ? (@.type() <> "string")' THEN
                           'has labels ' || left(e.item ->> 'labels', 100) || ', expected an object of text'
                       WHEN code = 3 AND octet_length(e.item ->> 'host') NOT BETWEEN 1 AND {key_bytes} THEN
                           'has a host of ' || octet_length(e.item ->> 'host') || ' bytes, expected 1 to {key_bytes}'
                   END AS wrong
            FROM jsonb_array_elements(offered[code]) WITH ORDINALITY AS e (item, place)
            LEFT JOIN LATERAL (
                SELECT 'has ' || p.key || ' ' || left(p.value::text, 100) || ', expected '
                           || CASE WHEN p.key = ANY (numbers) THEN 'a number' ELSE 'text' END AS said
                FROM jsonb_each(CASE jsonb_typeof(e.item) WHEN 'object' THEN e.item ELSE '{{}}' END) AS p
                WHERE CASE
                    WHEN p.key = ANY (numbers) THEN jsonb_typeof(p.value) NOT IN ('number', 'null')
                        AND (p.key = 'http_status' OR p.value NOT IN ('"NaN"', '"Infinity"', '"-Infinity"'))
                    ELSE p.key <> 'labels' AND jsonb_typeof(p.value) NOT IN ('string', 'null')
                END
                ORDER BY p.key
                LIMIT 1
            ) AS t ON true
        ) AS c
        WHERE c.wrong IS NOT NULL
        ORDER BY c.place
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION '%[%] %', lists[code], position, wrong USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- Words for people are cut where they do not fit.
        words := CASE code WHEN 1 THEN 'reason' ELSE 'unit' END;
        IF EXISTS (
            SELECT FROM jsonb_array_elements(offered[code]) AS e (item) WHERE octet_length(e.item ->> words) > {key_bytes}
        ) THEN
            offered[code] := (
                SELECT jsonb_agg(e.item || jsonb_build_object(words, f.fit) ORDER BY e.place)
                FROM jsonb_array_elements(offered[code]) WITH ORDINALITY AS e (item, place)
                CROSS JOIN LATERAL (
                    SELECT left(e.item ->> words, max(n)) AS fit
                    FROM generate_series({key_bytes} / 4, {key_bytes}) AS n
                    WHERE octet_length(left(e.item ->> words, n)) <= {key_bytes}
                ) AS f
            );
        END IF;
    END LOOP;

    INSERT INTO {schema}.ingest_batches (spool_id, seq, status, n_rows)
    SELECT spool, number, 'committed', sum(jsonb_array_length(r)) FROM unnest(offered) AS r
    ON CONFLICT (spool_id, seq) DO NOTHING;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('accepted', 0, 'rejected', rejected, 'replayed', true);
    END IF;

    SELECT r.item ->> 'agent' INTO wrong
    FROM jsonb_array_elements(offered[1] || offered[2]) AS r (item)
    WHERE NOT EXISTS (SELECT FROM {schema}.agents AS a WHERE a.name = r.item ->> 'agent')
    ORDER BY 1
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'there is no agent "%"', wrong
            USING ERRCODE = 'foreign_key_violation', HINT = 'register it first';
    END IF;

    -- Who writes is known by the spool: nobody takes the numbers of another one's, or makes a collector look alive.
    IF NOT EXISTS (SELECT FROM {schema}.collector_sessions AS s WHERE s.uuid = spool) THEN
        IF EXISTS (SELECT FROM {schema}.ingest_batches AS b WHERE b.spool_id = spool AND b.seq <> number) THEN
            RAISE EXCEPTION 'spool % is another writer''s, expected one of your own', spool
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        INSERT INTO {schema}.collector_sessions (uuid, name, host, pid, version, started_at, last_seen_at, is_collector)
        VALUES (spool, client, coalesce(host(inet_client_addr()), ''), pg_backend_pid(), '', now(), now(), false)
        ON CONFLICT (uuid) DO NOTHING;
    END IF;
    UPDATE {schema}.collector_sessions AS s
    SET last_seen_at = now()
    WHERE s.uuid = spool AND NOT s.is_collector
    RETURNING s.id INTO session;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'spool % is another writer''s, expected one of your own', spool
            USING ERRCODE = 'insufficient_privilege';
    END IF;

    INSERT INTO {schema}.hosts (name, created_at)
    SELECT DISTINCT r.item ->> 'host', now()
    FROM jsonb_array_elements(offered[3]) AS r (item)
    WHERE NOT EXISTS (SELECT FROM {schema}.hosts AS h WHERE h.name = r.item ->> 'host')
    ORDER BY 1
    ON CONFLICT (name) DO NOTHING;
    INSERT INTO {schema}.metrics (name, kind, labels, labels_digest, unit, description)
    SELECT n.name, n.kind, n.labels, n.digest, n.unit, ''
    FROM (
        SELECT DISTINCT ON (o.name, o.kind, o.labels) o.name,
               o.kind,
               o.labels,
               o.unit,
               sha256(convert_to(d.said, 'UTF8')) AS digest
        FROM (
            SELECT e.place,
                   e.item ->> 'metric' AS name,
                   coalesce(e.item ->> 'kind', 'gauge') AS kind,
                   coalesce(nullif(e.item -> 'labels', 'null'), '{{}}') AS labels,
                   coalesce(e.item ->> 'unit', '') AS unit
            FROM jsonb_array_elements(offered[2] || offered[3]) WITH ORDINALITY AS e (item, place)
        ) AS o
        CROSS JOIN LATERAL (
            -- As every writer says labels: keys in order, no blanks.
            SELECT '{{' || coalesce(
                       string_agg(to_json(p.key)::text || ':' || to_json(p.value)::text, ',' ORDER BY p.key COLLATE "C"), ''
                   ) || '}}' AS said,
                   coalesce(max(greatest(octet_length(p.key), octet_length(p.value))), 0) AS longest
            FROM jsonb_each_text(o.labels) AS p
        ) AS d
        WHERE octet_length(o.name) <= {key_bytes}
          AND d.longest <= {text_bytes}
        ORDER BY o.name, o.kind, o.labels, o.place
    ) AS n
    WHERE NOT EXISTS (
        SELECT FROM {schema}.metrics AS m WHERE m.name = n.name AND m.kind = n.kind AND m.labels_digest = n.digest
    )
    ORDER BY n.name, n.kind, n.digest
    ON CONFLICT (name, kind, labels_digest) DO NOTHING;
    INSERT INTO {schema}.reasons (reason)
    SELECT n.reason
    FROM (
        SELECT DISTINCT r.item ->> 'reason' AS reason
        FROM jsonb_array_elements(offered[1]) AS r (item)
        WHERE r.item ->> 'reason' <> ''
    ) AS n
    WHERE NOT EXISTS (SELECT FROM {schema}.reasons AS k WHERE k.reason = n.reason)
    ORDER BY n.reason
    ON CONFLICT (reason) DO NOTHING;

    IF to_regprocedure(format('%I.make_partition(smallint, smallint, timestamptz)', {place})) IS NOT NULL THEN
        -- Before anything is held that whoever drops partitions might wait for.
        FOR code IN 1..3 LOOP
            FOR day IN
                SELECT DISTINCT date_trunc('day', (r.item ->> 'ts')::timestamptz)
                FROM jsonb_array_elements(offered[code]) AS r (item)
                WHERE (r.item ->> 'ts')::timestamptz < clock_timestamp() + {ahead}
                ORDER BY 1
            LOOP
                IF to_regclass(format('%I.%I', {place}, tables[code] || to_char(day, '_YYYYMMDD'))) IS NULL THEN
                    PERFORM {schema}.make_partition(code::smallint, 0::smallint, day);
                END IF;
            END LOOP;
        END LOOP;
    END IF;
    FOR code IN 1..3 LOOP
        IF offered[code] <> '[]' THEN
            PERFORM pg_advisory_xact_lock_shared({gate}, code);
        END IF;
    END LOOP;

    FOR code IN 1..3 LOOP
        CONTINUE WHEN offered[code] = '[]';
        SELECT h.closed_before, greatest(h.closed_before, clock_timestamp() + {ahead}) INTO STRICT low, high
        FROM {schema}.horizons AS h
        WHERE h.tbl = code
          AND h.tier = 0;
        IF code = 1 THEN
            SELECT array_agg(p.ts), array_agg(p.agent_id), array_agg(p.outcome), array_agg(p.late_ms),
                   array_agg(p.latency_ms), array_agg(p.http_status), array_agg(p.reason_id),
                   array_agg(CASE
                       WHEN p.ts < low THEN 'below_horizon'
                       WHEN p.ts >= high THEN 'too_far_ahead'
                       WHEN abs(p.latency_ms) = 'Infinity' OR abs(p.late_ms) = 'Infinity' THEN 'not_finite'
                   END)
            INTO stamps, entities, outcome_codes, lates, latencies, statuses, reason_ids, refusals
            FROM (
                SELECT (e.item ->> 'ts')::timestamptz AS ts,
                       a.id AS agent_id,
                       (array_position(outcomes, e.item ->> 'outcome') - 1)::smallint AS outcome,
                       {late_ms} AS late_ms,
                       {latency_ms} AS latency_ms,
                       coalesce((e.item ->> 'http_status')::smallint, 0::smallint) AS http_status,
                       k.id AS reason_id
                FROM jsonb_array_elements(offered[code]) WITH ORDINALITY AS e (item, place)
                JOIN {schema}.agents AS a ON a.name = e.item ->> 'agent'
                LEFT JOIN {schema}.reasons AS k ON e.item ->> 'reason' <> '' AND k.reason = e.item ->> 'reason'
                ORDER BY e.place
            ) AS p;
            INSERT INTO {schema}.health_checks (
                ts, agent_id, outcome, late_ms, latency_ms, http_status, reason_id, session_id
            )
            SELECT p.ts, p.agent_id, p.outcome, p.late_ms, p.latency_ms, p.http_status, p.reason_id, session
            FROM unnest(stamps, entities, outcome_codes, lates, latencies, statuses, reason_ids, refusals)
                AS p (ts, agent_id, outcome, late_ms, latency_ms, http_status, reason_id, refusal)
            WHERE p.refusal IS NULL;
            INSERT INTO {schema}.losses (agent_id, from_due, to_due, n, reason, spool_id, seq, recorded_at)
            SELECT p.agent_id, min(p.ts), max(p.ts), count(*), p.refusal, spool, number, now()
            FROM unnest(stamps, entities, refusals) AS p (ts, agent_id, refusal)
            WHERE p.refusal IS NOT NULL
            GROUP BY p.refusal, p.agent_id
            ORDER BY p.refusal, p.agent_id;
        ELSE
            SELECT array_agg(p.ts), array_agg(p.entity_id), array_agg(p.metric_id),
                   array_agg(CASE WHEN abs(p.value) < {least} THEN 0 ELSE p.value END),
                   array_agg(CASE
                       WHEN p.ts < low THEN 'below_horizon'
                       WHEN p.ts >= high THEN 'too_far_ahead'
                       WHEN p.metric_id IS NULL THEN 'bad_text'
                       WHEN p.value = 'NaN' OR abs(p.value) = 'Infinity' THEN 'not_finite'
                       WHEN abs(p.value) > {most} THEN 'out_of_range'
                   END)
            INTO stamps, entities, metric_ids, sample_values, refusals
            FROM (
                SELECT (e.item ->> 'ts')::timestamptz AS ts,
                       coalesce(a.id, h.id) AS entity_id,
                       m.id AS metric_id,
                       {value} AS value
                FROM jsonb_array_elements(offered[code]) WITH ORDINALITY AS e (item, place)
                LEFT JOIN {schema}.agents AS a ON code = 2 AND a.name = e.item ->> 'agent'
                LEFT JOIN {schema}.hosts AS h ON code = 3 AND h.name = e.item ->> 'host'
                LEFT JOIN {schema}.metrics AS m
                    ON m.name = e.item ->> 'metric'
                    AND m.kind = coalesce(e.item ->> 'kind', 'gauge')
                    AND m.labels = coalesce(nullif(e.item -> 'labels', 'null'), '{{}}')
                ORDER BY e.place
            ) AS p;
            EXECUTE format(
                'INSERT INTO %I.%I (ts, %I, metric_id, value) SELECT p.ts, p.entity_id, p.metric_id, p.value'
                ' FROM unnest($1, $2, $3, $4, $5) AS p (ts, entity_id, metric_id, value, refusal)'
                ' WHERE p.refusal IS NULL',
                {place}, tables[code], entity[code] || '_id'
            ) USING stamps, entities, metric_ids, sample_values, refusals;
        END IF;
        INSERT INTO {schema}.marks (tbl, tier, bucket)
        SELECT DISTINCT code, 1, date_trunc('minute', p.ts)
        FROM unnest(stamps, refusals) AS p (ts, refusal)
        WHERE p.refusal IS NULL
        ORDER BY 3;
        INSERT INTO {schema}.ingest_batch_days (spool_id, seq, tbl, utc_day, n)
        SELECT spool, number, code, p.ts::date, count(*)
        FROM unnest(stamps, refusals) AS p (ts, refusal)
        WHERE p.refusal IS NULL
        GROUP BY p.ts::date
        ORDER BY p.ts::date;
        INSERT INTO {schema}.ingest_rejections (spool_id, seq, tbl, reason, n)
        SELECT spool, number, code, p.refusal, count(*)
        FROM unnest(refusals) AS p (refusal)
        WHERE p.refusal IS NOT NULL
        GROUP BY p.refusal
        ORDER BY p.refusal;
        SELECT count(*) FILTER (WHERE p.refusal IS NULL) INTO kept FROM unnest(refusals) AS p (refusal);
        accepted := accepted + kept;
    END LOOP;
    SELECT coalesce(jsonb_object_agg(r.reason, r.n), '{{}}') INTO rejected
    FROM (
        SELECT j.reason, sum(j.n) AS n
        FROM {schema}.ingest_rejections AS j
        WHERE j.spool_id = spool
          AND j.seq = number
        GROUP BY j.reason
    ) AS r;
    RETURN jsonb_build_object('accepted', accepted, 'rejected', rejected, 'replayed', false);
END
$body$

-- real --
-- A number of JSON as a column of four bytes takes it: what is too large for it is infinite, what is too small is zero.
CASE
    WHEN {number} = 'NaN' THEN NULL
    WHEN abs({number}) >= 3.4028235677973366e38 THEN 'Infinity'
    WHEN abs({number}) < 1e-45 THEN 0
    ELSE {number}::float8::real
END

-- double --
-- A number of JSON as a column of eight bytes takes it, near enough to zero or far enough from it to be known as such.
CASE
    WHEN {number} IN ('NaN', 'Infinity', '-Infinity') THEN {number}::float8
    WHEN abs({number}) > 1e300 THEN 1e300
    WHEN abs({number}) < 1e-300 THEN 0
    ELSE {number}::float8
END
