-- What the server's catalogue says of the roles and of what they may do in this database.

-- place --
-- Where this session is, as whom, and what it may do there.
SELECT current_database()::text AS database,
       current_schema()::text AS schema,
       (
           SELECT string_agg(quote_ident(s.name), ', ' ORDER BY s.place)
           FROM unnest(current_schemas(false)) WITH ORDINALITY AS s (name, place)
       ) AS search_path,
       current_user::text AS me,
       r.rolsuper,
       current_setting('server_version_num')::int AS version
FROM pg_roles AS r
WHERE r.rolname = current_user

-- attributes --
-- The attributes of roles that say more than what was granted.
SELECT r.rolname::text,
       r.rolcanlogin,
       r.rolsuper,
       r.rolcreatedb,
       r.rolcreaterole,
       r.rolreplication,
       r.rolbypassrls
FROM pg_roles AS r
WHERE r.rolname = ANY (%(names)s)

-- passwords --
-- How passwords are kept; for superusers alone.
SELECT a.rolname::text, a.rolpassword
FROM pg_authid AS a
WHERE a.rolname = ANY (%(names)s)
  AND a.rolpassword IS NOT NULL

-- memberships --
-- Whatever roles are members of: that could be more than what was granted to themselves.
SELECT member.rolname::text AS member, granted.rolname::text AS granted, grantor.rolname::text AS grantor
FROM pg_auth_members AS m
JOIN pg_roles AS member ON member.oid = m.member
JOIN pg_roles AS granted ON granted.oid = m.roleid
JOIN pg_roles AS grantor ON grantor.oid = m.grantor
WHERE member.rolname = ANY (%(names)s)
ORDER BY 1, 2, 3

-- is_member --
-- Whether this session has a role's rights and may become it; NULL where there is no such role.
SELECT pg_has_role(r.oid, 'USAGE') AND pg_has_role(r.oid, %(membership)s)
FROM pg_roles AS r
WHERE r.rolname = %(role)s

-- relations --
-- Tables, views and sequences of the schema, those of extensions apart. A sequence that belongs to a table comes with
-- the name of that table.
SELECT c.relname::text AS name,
       c.relkind::text AS kind,
       pg_get_userbyid(c.relowner)::text AS owner,
       t.relname::text AS belongs_to
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
    AND d.refclassid = 'pg_class'::regclass AND c.relkind = 'S'
LEFT JOIN pg_class AS t ON t.oid = d.refobjid
WHERE n.nspname = current_schema()
  AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  AND NOT EXISTS (
      SELECT 1
      FROM pg_depend AS e
      WHERE e.classid = 'pg_class'::regclass
        AND e.objid = c.oid
        AND e.deptype = 'e'
  )
ORDER BY c.relname

-- routines --
-- Functions and aggregates of the schema, those of extensions apart.
SELECT p.proname::text AS name,
       p.oid::regprocedure::text AS signature,
       pg_get_userbyid(p.proowner)::text AS owner
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = current_schema()
  AND NOT EXISTS (
      SELECT 1
      FROM pg_depend AS e
      WHERE e.classid = 'pg_proc'::regclass
        AND e.objid = p.oid
        AND e.deptype = 'e'
  )
ORDER BY p.oid::regprocedure::text

-- grants --
-- Everything that was granted to the roles, or to everybody ("public"), in this database and its schema.
-- kind is one of database, schema, relation, column, routine; default stands for tables that a role is yet to make.
WITH granted AS (
    SELECT 'database' AS kind, d.datname::text AS name, '' AS part, a.grantee, a.privilege_type
    FROM pg_database AS d
    CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
    WHERE d.datname = current_database()
    UNION ALL
    SELECT 'schema', n.nspname, '', a.grantee, a.privilege_type
    FROM pg_namespace AS n
    CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
    WHERE n.nspname = current_schema()
    UNION ALL
    SELECT 'relation', c.relname, '', a.grantee, a.privilege_type
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL aclexplode(c.relacl) AS a
    WHERE n.nspname = current_schema()
    UNION ALL
    SELECT 'column', c.relname, t.attname, a.grantee, a.privilege_type
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS t ON t.attrelid = c.oid
    CROSS JOIN LATERAL aclexplode(t.attacl) AS a
    WHERE n.nspname = current_schema()
      AND NOT t.attisdropped
    UNION ALL
    SELECT 'routine', p.oid::regprocedure::text, '', a.grantee, a.privilege_type
    FROM pg_proc AS p
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
    WHERE n.nspname = current_schema()
    UNION ALL
    SELECT 'default', pg_get_userbyid(f.defaclrole), '', a.grantee, a.privilege_type
    FROM pg_default_acl AS f
    JOIN pg_namespace AS n ON n.oid = f.defaclnamespace
    CROSS JOIN LATERAL aclexplode(f.defaclacl) AS a
    WHERE n.nspname = current_schema()
      AND f.defaclobjtype = 'r'
)
SELECT g.kind, g.name::text, g.part::text, coalesce(r.rolname::text, 'public') AS grantee, g.privilege_type
FROM granted AS g
LEFT JOIN pg_roles AS r ON r.oid = g.grantee
WHERE g.grantee = 0
   OR r.rolname = ANY (%(names)s)
ORDER BY 1, 2, 3, 4, 5

-- settings --
-- What sessions of the roles start with in this database.
SELECT r.rolname::text, split_part(s.setting, '=', 1) AS name, substr(s.setting, strpos(s.setting, '=') + 1) AS value
FROM pg_db_role_setting AS d
JOIN pg_roles AS r ON r.oid = d.setrole
JOIN pg_database AS b ON b.oid = d.setdatabase
CROSS JOIN LATERAL unnest(d.setconfig) AS s (setting)
WHERE b.datname = current_database()
  AND r.rolname = ANY (%(names)s)
