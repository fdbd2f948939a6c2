-- Everybody may call the functions in a trigger: whoever makes a partition must be allowed to clone its root's. Only what
-- cdc_track() has sealed captures anything.
CREATE FUNCTION cdc_capture() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_capture';
COMMENT ON FUNCTION cdc_capture() IS 'row trigger of a tracked table, made by cdc_track(); its arguments are the configuration';

CREATE FUNCTION cdc_capture_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_capture_truncate';
COMMENT ON FUNCTION cdc_capture_truncate() IS 'TRUNCATE trigger of a tracked table, made by cdc_track()';

CREATE FUNCTION _cdc_ddl_start() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_ddl_start';
REVOKE ALL ON FUNCTION _cdc_ddl_start() FROM PUBLIC;
COMMENT ON FUNCTION _cdc_ddl_start() IS 'event trigger: a tracked table that is attached is its root''s from then on';

CREATE EVENT TRIGGER cdc_ddl_start ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE', 'ALTER TRIGGER') EXECUTE FUNCTION @extschema@._cdc_ddl_start();
ALTER EVENT TRIGGER cdc_ddl_start ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cdc_ddl_start IS 'pg_cdc: a tracked table that is attached is its root''s from then on';

CREATE FUNCTION _cdc_ddl_end() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_ddl_end';
REVOKE ALL ON FUNCTION _cdc_ddl_end() FROM PUBLIC;
COMMENT ON FUNCTION _cdc_ddl_end() IS 'event trigger: changes of tracked tables'' definitions become events';

CREATE EVENT TRIGGER cdc_ddl_end ON ddl_command_end EXECUTE FUNCTION @extschema@._cdc_ddl_end();
ALTER EVENT TRIGGER cdc_ddl_end ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cdc_ddl_end IS 'pg_cdc: changes of tracked tables'' definitions become events';
