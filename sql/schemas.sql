-- Whole schemas at once, and the tables that they get later.
CREATE TABLE @extschema@.cdc_schemas (
    schema name PRIMARY KEY,
    exclude name[] NOT NULL DEFAULT '{}',
    snapshot boolean NOT NULL DEFAULT false);
COMMENT ON TABLE @extschema@.cdc_schemas IS 'schemas whose new tables are tracked; written by cdc_track_schema() only';
SELECT pg_catalog.pg_extension_config_dump('@extschema@.cdc_schemas', '');
-- Names only; and whoever owns the database must be able to dump it.
GRANT SELECT ON @extschema@.cdc_schemas TO PUBLIC;

-- The bodies below run with higher rights: what they call of the extension's schema, they call with the exact types, so that
-- no function that somebody else made there under the same name fits better.

CREATE FUNCTION cdc_track_schema(schema regnamespace, new_tables boolean = false, exclude regclass[] = '{}', snapshot boolean = NULL)
RETURNS TABLE (relation regclass, topic text, result text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problem text;
    reason text;
BEGIN
    IF new_tables THEN
        INSERT INTO @extschema@.cdc_schemas
        SELECT n.nspname, ARRAY(SELECT c.relname FROM pg_class c WHERE c.oid = ANY (exclude)), COALESCE(snapshot, false)
        FROM pg_namespace n WHERE n.oid = cdc_track_schema.schema
        ON CONFLICT ON CONSTRAINT cdc_schemas_pkey DO UPDATE SET exclude = excluded.exclude, snapshot = excluded.snapshot;
    END IF;
    FOR relation, topic IN
        SELECT c.oid::regclass, t.topic
        FROM pg_class c LEFT JOIN @extschema@.cdc_tables t ON t.relation = c.oid AND t.state NOT IN ('copied', 'not_sealed')
        WHERE c.relnamespace = cdc_track_schema.schema AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_cdc'
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY c.relname
    LOOP
        IF relation = ANY (exclude) THEN
            result := 'skipped: excluded';
        ELSIF topic IS NOT NULL THEN
            result := 'already tracked';
        ELSE
            BEGIN
                topic := @extschema@.cdc_track(relation, NULL::text, NULL::text[], NULL::text, NULL::text[], NULL::text[],
                    NULL::jsonb, NULL::text, NULL::boolean, NULL::jsonb, NULL::text, cdc_track_schema.snapshot);
                result := 'tracked';
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT, reason = PG_EXCEPTION_DETAIL;
                problem := concat_ws(': ', problem, NULLIF(rtrim(reason, '.'), ''));
                result := 'skipped: ' || problem;
                -- What cannot be read as a whole can still be captured from now on.
                IF cdc_track_schema.snapshot THEN
                    BEGIN
                        topic := @extschema@.cdc_track(relation, NULL::text, NULL::text[], NULL::text, NULL::text[], NULL::text[],
                            NULL::jsonb, NULL::text, NULL::boolean, NULL::jsonb, NULL::text, NULL::boolean);
                        result := 'tracked without a snapshot: ' || problem;
                    EXCEPTION WHEN OTHERS THEN
                        NULL; -- for the same reason, which the result has
                    END;
                END IF;
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE FUNCTION cdc_untrack_schema(schema regnamespace)
RETURNS TABLE (relation regclass, topic text, result text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM @extschema@.cdc_schemas s USING pg_namespace n
    WHERE n.oid = cdc_untrack_schema.schema AND s.schema = n.nspname;
    FOR relation, topic IN
        SELECT t.relation, t.topic FROM @extschema@.cdc_tables t JOIN pg_class c ON c.oid = t.relation
        WHERE c.relnamespace = cdc_untrack_schema.schema
        ORDER BY c.relname
    LOOP
        PERFORM @extschema@.cdc_untrack(relation);
        result := 'untracked';
        RETURN NEXT;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION cdc_track_schema(regnamespace, boolean, regclass[], boolean), cdc_untrack_schema(regnamespace) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdc_track_schema(regnamespace, boolean, regclass[], boolean), cdc_untrack_schema(regnamespace) TO cdc_admin;
COMMENT ON FUNCTION cdc_track_schema(regnamespace, boolean, regclass[], boolean) IS 'tracks every table of a schema, and those created later if asked';
COMMENT ON FUNCTION cdc_untrack_schema(regnamespace) IS 'stops shipping every table of a schema, and tracking new ones';

-- Fires after cdc_ddl_end, by its name. A table that cannot be tracked is made all the same, with a warning.
CREATE FUNCTION _cdc_new_tables() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made regclass;
    persistence "char";
BEGIN
    -- A table with a foreign key, and others, are told of once for each of their commands.
    FOR made, persistence IN
        SELECT DISTINCT c.oid::regclass, c.relpersistence FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid
        JOIN pg_namespace n ON n.oid = c.relnamespace JOIN @extschema@.cdc_schemas s ON s.schema = n.nspname
        WHERE d.classid = 'pg_class'::regclass AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND c.relname <> ALL (s.exclude)
    LOOP
        IF persistence <> 'p' THEN
            RAISE NOTICE 'table "%" is not tracked: it is unlogged', made;
            CONTINUE;
        END IF;
        BEGIN
            PERFORM @extschema@.cdc_track(made, NULL::text, NULL::text[], NULL::text, NULL::text[], NULL::text[],
                NULL::jsonb, NULL::text, NULL::boolean, NULL::jsonb, NULL::text, NULL::boolean);
            IF tg_tag IN ('CREATE TABLE AS'::text, 'SELECT INTO'::text) THEN
                PERFORM @extschema@._cdc_insert_rows(made);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'changes of "%" are not captured', made
                USING DETAIL = SQLERRM, HINT = format('Call cdc_track(%L) when the cause is gone. [CDC0203]', made), ERRCODE = '01000';
        END;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION _cdc_new_tables(), _cdc_insert_rows(regclass) FROM PUBLIC;
COMMENT ON FUNCTION _cdc_new_tables() IS 'event trigger: new tables of the schemas in cdc_schemas are tracked';

CREATE EVENT TRIGGER cdc_new_tables ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA') EXECUTE FUNCTION @extschema@._cdc_new_tables();
ALTER EVENT TRIGGER cdc_new_tables ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cdc_new_tables IS 'pg_cdc: new tables of tracked schemas are tracked';
