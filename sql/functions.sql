-- Functions whose arguments reach the library as one JSON text in UTF-8. Their bodies are bound when they are made, so
-- nobody's search_path matters; a SET clause would end SET LOCAL with the call.
CREATE FUNCTION cdc_track(
    relation regclass, topic text = NULL, key text[] = NULL, operations text = NULL, include text[] = NULL,
    exclude text[] = NULL, mask jsonb = NULL, filter text = NULL, skip_unchanged boolean = NULL, topics jsonb = NULL,
    origin text = NULL, snapshot boolean = NULL) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT @extschema@._cdc_track(relation, pg_catalog.convert_to(pg_catalog.jsonb_build_object(
        'topic', topic, 'key', key, 'operations', operations, 'include', include, 'exclude', exclude, 'mask', mask,
        'filter', filter, 'skip_unchanged', skip_unchanged, 'topics', topics, 'origin', origin,
        'snapshot', snapshot)::text, 'UTF8'));
END;

CREATE FUNCTION cdc_context(actor text = NULL, reason text = NULL, request_id text = NULL, context jsonb = NULL)
RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT @extschema@._cdc_context(pg_catalog.convert_to(pg_catalog.jsonb_build_object(
        'actor', actor, 'reason', reason, 'request_id', request_id, 'context', context)::text, 'UTF8'));
END;

CREATE FUNCTION cdc_emit(topic text, key text, payload jsonb, headers jsonb = '{}') RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdc_emit';
REVOKE ALL ON FUNCTION cdc_emit(text, text, jsonb, jsonb) FROM PUBLIC;
