COMMENT ON FUNCTION cdc_track(regclass, text, text[], text, text[], text[], jsonb, text, boolean, jsonb, text, boolean) IS 'ships every committed change of a table to its topic; returns the topic';
COMMENT ON FUNCTION cdc_untrack(regclass) IS 'stops shipping a table; false if it was not tracked';
COMMENT ON FUNCTION cdc_context(text, text, text, jsonb) IS 'says who and why for the rest of the transaction';
COMMENT ON FUNCTION cdc_emit(text, text, jsonb, jsonb) IS 'sends an event of the application''s own with this transaction; returns its id';
COMMENT ON FUNCTION cdc_wait(interval) IS 'waits until all that committed before the call is in Kafka';
COMMENT ON FUNCTION cdc_check() IS 'looks at everything pg_cdc needs; one line each, with a hint';

SELECT @extschema@._cdc_warn_unless_loaded();
