-- A role belongs to the whole server: it may be there from another database, and is never dropped by us. Or somebody made it
-- who was not to have what it gives: whoever installs the extension is told what there is to it.
DO $$
DECLARE
    existing pg_catalog.pg_roles;
    members pg_catalog.text;
BEGIN
    SELECT * INTO existing FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) 'cdc_admin'::pg_catalog.name;
    IF NOT FOUND THEN
        CREATE ROLE cdc_admin NOLOGIN;
        RETURN;
    END IF;
    IF existing.rolcanlogin OR existing.rolsuper OR existing.rolcreaterole OR existing.rolreplication OR existing.rolbypassrls THEN
        RAISE WARNING 'role cdc_admin was there already and is more than a group' USING
            DETAIL = 'It can log in, or is SUPERUSER, CREATEROLE, REPLICATION or BYPASSRLS.',
            HINT = 'ALTER ROLE cdc_admin NOLOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS. [CDC0117]';
    END IF;
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(m.rolname::pg_catalog.text) OPERATOR(pg_catalog.||)
               CASE WHEN a.admin_option THEN ' (may add others)'::pg_catalog.text ELSE ''::pg_catalog.text END,
               ', '::pg_catalog.text ORDER BY m.rolname)
    INTO members
    FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles m ON m.oid OPERATOR(pg_catalog.=) a.member
    WHERE a.roleid OPERATOR(pg_catalog.=) existing.oid;
    IF members IS NOT NULL THEN
        RAISE WARNING 'role cdc_admin was there already and has members: %', members USING
            DETAIL = 'They may administer pg_cdc in this database too.',
            HINT = 'REVOKE cdc_admin FROM whoever is not to have it. [CDC0117]';
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- made meanwhile in another database
END
$$;
