-- A role belongs to the whole server: it may be there from another database, and is never dropped by us.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'cdc_admin') THEN
        CREATE ROLE cdc_admin NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- made meanwhile in another database
END
$$;
