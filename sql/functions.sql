-- Functions whose arguments reach the library as one JSON text in UTF-8. Their bodies are bound when they are made, so
-- nobody's search_path matters; a SET clause would end SET LOCAL with the call.
--
-- While the script of an extension runs, its schema is searched too, and others may be allowed to create there: every
-- literal has a type and every operator its schema, so that no function or operator of theirs fits better than ours.
CREATE FUNCTION cdc_track(
    relation regclass, topic text = NULL, key text[] = NULL, operations text = NULL, include text[] = NULL,
    exclude text[] = NULL, mask jsonb = NULL, filter text = NULL, skip_unchanged boolean = NULL, topics jsonb = NULL,
    origin text = NULL, snapshot boolean = NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT @extschema@._cdc_track(relation, pg_catalog.convert_to(pg_catalog.jsonb_build_object(
        'topic'::text, topic, 'key'::text, key, 'operations'::text, operations, 'include'::text, include,
        'exclude'::text, exclude, 'mask'::text, mask, 'filter'::text, filter, 'skip_unchanged'::text, skip_unchanged,
        'topics'::text, topics, 'origin'::text, origin, 'snapshot'::text, snapshot)::text, 'UTF8'::name));
END;

CREATE FUNCTION cdc_context(actor text = NULL, reason text = NULL, request_id text = NULL, context jsonb = NULL)
RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT @extschema@._cdc_context(pg_catalog.convert_to(pg_catalog.jsonb_build_object(
        'actor'::text, actor, 'reason'::text, reason, 'request_id'::text, request_id, 'context'::text, context)::text,
        'UTF8'::name));
END;

CREATE FUNCTION cdc_emit(topic text, key text, payload jsonb, headers jsonb = '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdc_emit';
REVOKE ALL ON FUNCTION cdc_emit(text, text, jsonb, jsonb) FROM PUBLIC;
