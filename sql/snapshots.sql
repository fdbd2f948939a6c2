-- Snapshots: what was asked for, and how far it is. Texts are JSON in UTF-8, for the library reads and writes them.
CREATE TABLE @extschema@.cdc_snapshot_jobs (
    snapshot_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    request bytea NOT NULL,
    state text NOT NULL DEFAULT 'waiting_for_writers',
    chunk bigint NOT NULL DEFAULT 0,
    place bytea,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_estimated bigint,
    started timestamptz,
    served timestamptz,
    busy_ms bigint NOT NULL DEFAULT 0,
    problem bytea);
COMMENT ON TABLE @extschema@.cdc_snapshot_jobs IS 'pg_cdc''s own: look into cdc_snapshots';
REVOKE ALL ON @extschema@.cdc_snapshot_jobs FROM PUBLIC;

-- Everything that is more than a column is made by the library: a view has the operators of whoever made it.
CREATE VIEW @extschema@.cdc_snapshots WITH (security_barrier) AS
SELECT j.snapshot_id, j.relation::pg_catalog.regclass AS relation, r.filter, r.sinks, j.state, j.rows_done, j.rows_estimated,
       r.percent, r.rows_per_second, j.started, r.time_left, CASE WHEN o.sees_all THEN r.last_key END AS last_key, r.error_code,
       CASE WHEN o.sees_all THEN r.error_message END AS error_message
FROM @extschema@.cdc_snapshot_jobs j
CROSS JOIN LATERAL pg_catalog.jsonb_to_record(pg_catalog.convert_from(
        @extschema@._cdc_snapshot_shown(j.request, j.place, j.problem, j.state, j.rows_done, j.rows_estimated, j.busy_ms), 'UTF8'::name)
    ::pg_catalog.jsonb) AS r(
        filter text, sinks text[], percent numeric(5,2), rows_per_second integer, time_left interval, last_key text,
        error_code text, error_message text)
-- A key, and a message of PostgreSQL's, may show a row that a policy hides from who may SELECT from the table.
CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role('pg_monitor'::name, 'USAGE'::text)
    OR pg_catalog.pg_has_role('cdc_admin'::name, 'USAGE'::text)
    OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) j.relation
               AND pg_catalog.pg_has_role(c.relowner, 'USAGE'::text))) AS o(sees_all)
WHERE o.sees_all OR pg_catalog.has_table_privilege(j.relation, 'SELECT'::text);
COMMENT ON VIEW @extschema@.cdc_snapshots IS 'snapshots of tracked tables: how far they are, and what stopped them';
GRANT SELECT ON @extschema@.cdc_snapshots TO PUBLIC;

CREATE FUNCTION cdc_snapshot(relation regclass, filter text = NULL, rows_per_second integer = NULL, sinks text[] = NULL)
RETURNS bigint LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT @extschema@._cdc_snapshot(relation, pg_catalog.convert_to(pg_catalog.jsonb_build_object(
        'filter'::text, filter, 'rows_per_second'::text, rows_per_second, 'sinks'::text, sinks)::text, 'UTF8'::name));
END;
COMMENT ON FUNCTION cdc_snapshot(regclass, text, integer, text[]) IS 'sends the rows that are in a tracked table; returns the snapshot''s id';

CREATE FUNCTION cdc_snapshot_pause(snapshot_id bigint) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_snapshot_set(snapshot_id, 'pause'::text); END;
COMMENT ON FUNCTION cdc_snapshot_pause(bigint) IS 'stops a snapshot after the chunk at hand';

CREATE FUNCTION cdc_snapshot_resume(snapshot_id bigint) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_snapshot_set(snapshot_id, 'resume'::text); END;
COMMENT ON FUNCTION cdc_snapshot_resume(bigint) IS 'goes on with a snapshot that was paused or failed';

CREATE FUNCTION cdc_snapshot_cancel(snapshot_id bigint) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_snapshot_set(snapshot_id, 'cancel'::text); END;
COMMENT ON FUNCTION cdc_snapshot_cancel(bigint) IS 'gives a snapshot up';
