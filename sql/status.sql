CREATE TYPE @extschema@.cdc_status_row AS (
    state text, waiting_for text, since timestamptz,
    version text, source_id text, source_name text, generation int, timeline int,
    pid int, slot_name text, sent_lsn pg_lsn, read_lsn pg_lsn, flush_lsn pg_lsn,
    lag_bytes bigint, lag_events bigint, lag_seconds float8,
    wal_held_bytes bigint, wal_limit_bytes bigint,
    events bigint, bytes bigint, transactions bigint, events_per_second float8, bytes_per_second float8,
    open_transactions int, oldest_transaction interval, oldest_gid text,
    topics int, brokers_up int, brokers_down int, throttle_ms float8, resent bigint, rejected_messages bigint, uncovered_rows bigint,
    gap_from pg_lsn, gap_to pg_lsn, error_code text, error_message text, error_hint text, error_at timestamptz, stats_reset timestamptz,
    topics_aside int, topics_skipped int, skipped_events bigint);
COMMENT ON TYPE @extschema@.cdc_status_row IS 'what cdc_status() returns';

CREATE FUNCTION cdc_status() RETURNS @extschema@.cdc_status_row
LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT pg_catalog.jsonb_populate_record(NULL::@extschema@.cdc_status_row, @extschema@._cdc_status());
END;
COMMENT ON FUNCTION cdc_status() IS 'state of the sender: what it does, how far it is, what it waits for, the last error and its hint';

CREATE VIEW pg_stat_cdc AS SELECT * FROM @extschema@.cdc_status();
COMMENT ON VIEW pg_stat_cdc IS 'the row of cdc_status(), as a relation';

REVOKE ALL ON FUNCTION cdc_status(), _cdc_status(), cdc_check() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdc_status(), _cdc_status(), cdc_check() TO pg_monitor, cdc_admin;
REVOKE ALL ON pg_stat_cdc FROM PUBLIC;
GRANT SELECT ON pg_stat_cdc TO pg_monitor, cdc_admin;

CREATE VIEW @extschema@.cdc_aside AS
SELECT o.topic, d.datname AS database, o.since, o.from_lsn, o.events, o.error_code, o.error_message, o.error_hint
FROM pg_catalog.jsonb_to_recordset(pg_catalog.convert_from(@extschema@._cdc_aside(), 'UTF8'::name)::pg_catalog.jsonb) AS o(
    topic text, database oid, since timestamptz, from_lsn pg_lsn, events bigint, error_code text, error_message text, error_hint text)
LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) o.database;
COMMENT ON VIEW @extschema@.cdc_aside IS 'topics that are put aside: nothing more of them is sent until cdc_resume_topic()';
REVOKE ALL ON FUNCTION @extschema@._cdc_aside() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@._cdc_aside() TO pg_monitor, cdc_admin;
REVOKE ALL ON @extschema@.cdc_aside FROM PUBLIC;
GRANT SELECT ON @extschema@.cdc_aside TO pg_monitor, cdc_admin;

CREATE VIEW @extschema@.cdc_tables AS
SELECT o.relation::pg_catalog.regclass AS relation, o.topic, o.topics, o.key, o.operations, o.include, o.exclude, o.mask, o.filter,
       o.skip_unchanged, o.origin, o.state, o.since, o.events, o.bytes, o.last_event, o.warning
FROM pg_catalog.jsonb_to_recordset(pg_catalog.convert_from(@extschema@._cdc_tables(), 'UTF8'::name)::pg_catalog.jsonb) AS o(
    relation oid, topic text, topics jsonb, key text[], operations text, include text[], exclude text[], mask jsonb,
    filter text, skip_unchanged boolean, origin text, state text, since timestamptz, events bigint, bytes bigint,
    last_event timestamptz, warning text);
COMMENT ON VIEW @extschema@.cdc_tables IS 'every tracked table: its options, whether its changes are captured, and what of it is in Kafka';
GRANT SELECT ON @extschema@.cdc_tables TO PUBLIC;
