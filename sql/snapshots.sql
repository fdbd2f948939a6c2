-- Snapshots: what was asked for, and how far it is. Texts are JSON in UTF-8, for the library reads and writes them.
CREATE TABLE @extschema@.cdc_snapshot_jobs (
    snapshot_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    request bytea NOT NULL,
    state text NOT NULL DEFAULT 'waiting for writers',
    chunk bigint NOT NULL DEFAULT 0,
    place bytea,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_estimated bigint,
    started timestamptz,
    busy interval NOT NULL DEFAULT '0',
    problem bytea);
COMMENT ON TABLE @extschema@.cdc_snapshot_jobs IS 'pg_cdc''s own: look into cdc_snapshots';
REVOKE ALL ON @extschema@.cdc_snapshot_jobs FROM PUBLIC;

CREATE VIEW cdc_snapshots AS
SELECT j.snapshot_id, j.relation::pg_catalog.regclass AS relation, r.request ->> 'filter' AS filter,
       ARRAY(SELECT pg_catalog.jsonb_array_elements_text(NULLIF(r.request -> 'sinks', 'null'))) AS sinks,
       j.state, j.rows_done, j.rows_estimated,
       CASE WHEN j.state = 'done' THEN 100
            WHEN j.rows_estimated > 0 THEN LEAST(99.99, 100.0 * j.rows_done / j.rows_estimated) END::numeric(5,2) AS percent,
       (r.request ->> 'rows_per_second')::int AS rows_per_second, j.started,
       CASE WHEN j.state = 'running' AND j.rows_done > 0
            THEN j.busy * (GREATEST(j.rows_estimated - j.rows_done, 0)::float8 / j.rows_done) END AS time_left,
       r.place ->> 'key' AS last_key, r.problem ->> 'code' AS error_code, r.problem ->> 'message' AS error
FROM @extschema@.cdc_snapshot_jobs j
CROSS JOIN LATERAL (SELECT pg_catalog.convert_from(j.request, 'UTF8')::pg_catalog.jsonb AS request,
                           pg_catalog.convert_from(j.place, 'UTF8')::pg_catalog.jsonb AS place,
                           pg_catalog.convert_from(j.problem, 'UTF8')::pg_catalog.jsonb AS problem) r
WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE') OR pg_catalog.pg_has_role('cdc_admin', 'USAGE')
   OR pg_catalog.has_table_privilege(j.relation, 'SELECT');
COMMENT ON VIEW cdc_snapshots IS 'snapshots of tracked tables: how far they are, and what stopped them';
GRANT SELECT ON cdc_snapshots TO PUBLIC;

CREATE FUNCTION cdc_snapshot(relation regclass, filter text = NULL, rows_per_second integer = NULL, sinks text[] = NULL)
RETURNS bigint LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT @extschema@._cdc_snapshot(relation, pg_catalog.convert_to(pg_catalog.jsonb_build_object(
        'filter', filter, 'rows_per_second', rows_per_second, 'sinks', sinks)::text, 'UTF8'));
END;
COMMENT ON FUNCTION cdc_snapshot(regclass, text, integer, text[]) IS 'sends the rows that are in a tracked table; returns the snapshot''s id';

CREATE FUNCTION cdc_snapshot_pause(snapshot_id bigint) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_snapshot_set(snapshot_id, 'pause'); END;
COMMENT ON FUNCTION cdc_snapshot_pause(bigint) IS 'stops a snapshot after the chunk at hand';

CREATE FUNCTION cdc_snapshot_resume(snapshot_id bigint) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_snapshot_set(snapshot_id, 'resume'); END;
COMMENT ON FUNCTION cdc_snapshot_resume(bigint) IS 'goes on with a snapshot that was paused or failed';

CREATE FUNCTION cdc_snapshot_cancel(snapshot_id bigint) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_snapshot_set(snapshot_id, 'cancel'); END;
COMMENT ON FUNCTION cdc_snapshot_cancel(bigint) IS 'gives a snapshot up';
