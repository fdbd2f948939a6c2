-- What operators tell the sender. An order counts at once, and outlives restarts; a rolled back transaction does not take it back.
-- The library adds who gives it and when.
CREATE FUNCTION _cdc_request(what text, reason text, arguments jsonb) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT pg_catalog.convert_to((arguments OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(
        'order'::text, what, 'reason'::text, reason))::text, 'UTF8'::name);
END;

CREATE FUNCTION cdc_pause(reason text = NULL) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_order(@extschema@._cdc_request('pause'::text, reason, '{}'::jsonb)); END;
COMMENT ON FUNCTION cdc_pause(text) IS 'stops sending until cdc_resume(); changes are captured all the same, the WAL is held';

CREATE FUNCTION cdc_resume() RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC SELECT @extschema@._cdc_order(@extschema@._cdc_request('resume'::text, NULL::text, '{}'::jsonb)); END;
COMMENT ON FUNCTION cdc_resume() IS 'goes on after cdc_pause() or cdc_drain()';

CREATE FUNCTION cdc_drain(timeout interval = '5 min', drop_slot boolean = false) RETURNS pg_lsn LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
BEGIN ATOMIC
    SELECT (pg_catalog.convert_from(@extschema@._cdc_order(@extschema@._cdc_request('drain'::text, NULL::text,
        pg_catalog.jsonb_build_object('timeout_ms'::text,
            (pg_catalog.date_part('epoch'::text, timeout) OPERATOR(pg_catalog.*) 1000::double precision)::bigint,
            'drop_slot'::text, drop_slot))), 'UTF8'::name)::jsonb OPERATOR(pg_catalog.#>>) '{}'::text[])::pg_lsn;
END;
COMMENT ON FUNCTION cdc_drain(interval, boolean) IS 'sends all that is committed, then stays stopped until cdc_resume(); before an upgrade';

CREATE FUNCTION cdc_accept_gap(from_lsn pg_lsn, to_lsn pg_lsn, reason text = NULL) RETURNS TABLE (relation regclass, repair text)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT o.relation::regclass, CASE WHEN o.has_key THEN pg_catalog.format('SELECT cdc_snapshot(%L);'::text, o.relation::regclass)
            ELSE 'it has no key: write its rows once more, or copy it to the targets'::text END
    FROM pg_catalog.jsonb_to_recordset(pg_catalog.convert_from(@extschema@._cdc_order(@extschema@._cdc_request('accept_gap'::text,
        reason, pg_catalog.jsonb_build_object('from'::text, from_lsn::text, 'to'::text, to_lsn::text))), 'UTF8'::name)::jsonb) AS o(relation oid, has_key boolean);
END;
COMMENT ON FUNCTION cdc_accept_gap(pg_lsn, pg_lsn, text) IS 'goes on behind WAL that is gone; lists what repairs each table';

CREATE FUNCTION cdc_skip_topic(topic text, up_to pg_lsn = NULL, reason text = NULL) RETURNS bigint LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT (pg_catalog.convert_from(@extschema@._cdc_order(@extschema@._cdc_request('skip_topic'::text, reason,
        pg_catalog.jsonb_build_object('topic'::text, topic, 'up_to'::text, up_to::text))), 'UTF8'::name)::jsonb
        OPERATOR(pg_catalog.#>>) '{}'::text[])::bigint;
END;
COMMENT ON FUNCTION cdc_skip_topic(text, pg_lsn, text) IS 'gives up the events of a topic that are not sent yet, up to an LSN; returns how many';

CREATE FUNCTION cdc_unskip_topic(topic text) RETURNS bigint LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
BEGIN ATOMIC
    SELECT (pg_catalog.convert_from(@extschema@._cdc_order(@extschema@._cdc_request('unskip_topic'::text, NULL::text, pg_catalog.jsonb_build_object(
        'topic'::text, topic))), 'UTF8'::name)::jsonb OPERATOR(pg_catalog.#>>) '{}'::text[])::bigint;
END;
COMMENT ON FUNCTION cdc_unskip_topic(text) IS 'takes back what cdc_skip_topic() gives up, as far as it is not given up yet; returns how many orders';

CREATE FUNCTION cdc_resume_topic(topic text, reason text = NULL) RETURNS TABLE (relation regclass, repair text)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT o.relation::regclass, CASE WHEN o.has_key THEN 'a snapshot of it was asked for; see cdc_snapshots'::text
            ELSE 'it has no key: write its rows once more, or copy it to the targets'::text END
    FROM pg_catalog.jsonb_to_recordset(pg_catalog.convert_from(@extschema@._cdc_order(@extschema@._cdc_request('resume_topic'::text, reason,
        pg_catalog.jsonb_build_object('topic'::text, topic))), 'UTF8'::name)::jsonb) AS o(relation oid, has_key boolean);
END;
COMMENT ON FUNCTION cdc_resume_topic(text, text) IS 'lets a topic go on that was put aside, and asks for snapshots of its tables';

CREATE FUNCTION cdc_adopt(source_id text) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE STRICT
BEGIN ATOMIC
    SELECT @extschema@._cdc_order(@extschema@._cdc_request('adopt'::text, NULL::text,
        pg_catalog.jsonb_build_object('source_id'::text, source_id)));
END;
COMMENT ON FUNCTION cdc_adopt(text) IS 'says that this server is the source it seems to be, though its position in Kafka is lost or does not fit';
COMMENT ON FUNCTION cdc_stat_reset() IS 'sets the counters of cdc_status() and cdc_tables to zero';

REVOKE ALL ON FUNCTION _cdc_request(text, text, jsonb), _cdc_order(bytea), cdc_pause(text), cdc_resume(), cdc_drain(interval, boolean),
    cdc_accept_gap(pg_lsn, pg_lsn, text), cdc_skip_topic(text, pg_lsn, text), cdc_adopt(text), cdc_stat_reset(),
    cdc_unskip_topic(text), cdc_resume_topic(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _cdc_request(text, text, jsonb), _cdc_order(bytea), cdc_pause(text), cdc_resume(), cdc_drain(interval, boolean),
    cdc_accept_gap(pg_lsn, pg_lsn, text), cdc_skip_topic(text, pg_lsn, text), cdc_adopt(text), cdc_stat_reset(),
    cdc_unskip_topic(text), cdc_resume_topic(text, text) TO cdc_admin;

-- A procedure: what untracking sends must be committed before everything is drained.
CREATE PROCEDURE cdc_uninstall(timeout interval = '5 min') LANGUAGE plpgsql
AS $$
DECLARE
    tracked pg_catalog.regclass;
BEGIN
    FOR tracked IN
        SELECT t.tgrelid::pg_catalog.regclass FROM pg_catalog.pg_trigger t
        WHERE t.tgfoid OPERATOR(pg_catalog.=) '@extschema@.cdc_capture()'::pg_catalog.regprocedure
            AND t.tgname OPERATOR(pg_catalog.=) '_cdc'::pg_catalog.name AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
    LOOP
        PERFORM @extschema@.cdc_untrack(tracked);
    END LOOP;
    COMMIT;
    PERFORM @extschema@.cdc_drain(timeout, true);
END $$;
COMMENT ON PROCEDURE cdc_uninstall(interval) IS 'untracks the tables of this database, sends what is left, and drops the slot; the last thing before DROP EXTENSION';
REVOKE ALL ON PROCEDURE cdc_uninstall(interval) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE cdc_uninstall(interval) TO cdc_admin;
