-- Making partitions.

-- make_partition --
-- Makes the partition of a tier that holds a moment; tells whether it did. A function with the rights of its owner, so
-- that a collector that may only insert gets the partition that its rows need, and nothing else.
-- The partition is made as a plain table and attached: CREATE TABLE … PARTITION OF takes ACCESS EXCLUSIVE on the
-- parent and deadlocked two writers, ATTACH lets them go on. It gets its parent's privileges: rows are copied straight
-- into it, and PostgreSQL asks for those of the table that is named.
-- Names stand with their schema, and no schema but the server's own is searched: whoever calls cannot slip in a table.
CREATE OR REPLACE FUNCTION {function}(tbl smallint, tier smallint, moment timestamptz) RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $body$
DECLARE
    place CONSTANT text := {schema};
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
    PERFORM pg_advisory_xact_lock({lock}, 0);
    EXECUTE format('SELECT h.closed_before FROM %I.horizons AS h WHERE h.tbl = $1 AND h.tier = $2', place)
        INTO STRICT closed USING tbl, tier;
    -- A dropped partition never comes back empty.
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
$body$
