CREATE FUNCTION cdc_capture() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_capture';
REVOKE ALL ON FUNCTION cdc_capture() FROM PUBLIC;
COMMENT ON FUNCTION cdc_capture() IS 'row trigger of a tracked table, made by cdc_track(); its arguments are the configuration';

CREATE FUNCTION cdc_capture_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'cdc_capture_truncate';
REVOKE ALL ON FUNCTION cdc_capture_truncate() FROM PUBLIC;
COMMENT ON FUNCTION cdc_capture_truncate() IS 'TRUNCATE trigger of a tracked table, made by cdc_track()';
