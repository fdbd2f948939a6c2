CREATE FUNCTION cdc_capture() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_capture';
REVOKE ALL ON FUNCTION cdc_capture() FROM PUBLIC;
COMMENT ON FUNCTION cdc_capture() IS 'row trigger of a tracked table, made by cdc_track(); its arguments are the configuration';

CREATE FUNCTION cdc_capture_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_capture_truncate';
REVOKE ALL ON FUNCTION cdc_capture_truncate() FROM PUBLIC;
COMMENT ON FUNCTION cdc_capture_truncate() IS 'TRUNCATE trigger of a tracked table, made by cdc_track()';

CREATE FUNCTION cdc_ddl_end() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_ddl_end';
REVOKE ALL ON FUNCTION cdc_ddl_end() FROM PUBLIC;
COMMENT ON FUNCTION cdc_ddl_end() IS 'event trigger: changes of tracked tables'' definitions become events';

CREATE FUNCTION cdc_ddl_start() RETURNS event_trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_ddl_start';
REVOKE ALL ON FUNCTION cdc_ddl_start() FROM PUBLIC;
COMMENT ON FUNCTION cdc_ddl_start() IS 'event trigger: rows of partitions that are about to be dropped become events';

CREATE EVENT TRIGGER cdc_ddl_start ON ddl_command_start EXECUTE FUNCTION cdc_ddl_start();
ALTER EVENT TRIGGER cdc_ddl_start ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cdc_ddl_start IS 'pg_cdc: rows of partitions that are about to be dropped become events';

CREATE EVENT TRIGGER cdc_ddl_end ON ddl_command_end EXECUTE FUNCTION cdc_ddl_end();
ALTER EVENT TRIGGER cdc_ddl_end ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER cdc_ddl_end IS 'pg_cdc: changes of tracked tables'' definitions become events';
