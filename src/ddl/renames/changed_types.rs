//! Types that a command renamed, moved or gave another meaning: the definition of every tracked table with a column of such
//! a type is another one, though nothing of the table was touched.

use pgrx::pg_sys;

use crate::ddl::schema_change::SchemaChange;
use crate::tracked::own_trigger::IS_ROW_TRIGGER;
use crate::tracked::statement;
use crate::tracked::table::Table;

/// Tracked tables with a column of these types, or of arrays, domains and row types made of them. `$1` are types, and the
/// objects of the command that has just ended may be types, schemas with types, and extensions with types.
const TABLES: &str = "
    WITH RECURSIVE changed AS MATERIALIZED (
        SELECT DISTINCT classid, objid FROM pg_catalog.pg_event_trigger_ddl_commands() WHERE $2),
    types(oid) AS (
        SELECT pg_catalog.unnest($1)
        UNION SELECT objid FROM changed WHERE classid = 'pg_catalog.pg_type'::pg_catalog.regclass
        UNION SELECT t.oid FROM pg_catalog.pg_type t JOIN changed c ON t.typnamespace = c.objid
            WHERE c.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
        UNION SELECT d.objid FROM pg_catalog.pg_depend d JOIN changed c ON d.refclassid = c.classid AND d.refobjid = c.objid
            WHERE c.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
              AND d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass),
    made_of(oid) AS (
        SELECT oid FROM types
        UNION SELECT made.oid FROM made_of m CROSS JOIN LATERAL (
            SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typelem = m.oid OR t.typbasetype = m.oid
            UNION ALL SELECT c.reltype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
                WHERE a.atttypid = m.oid AND NOT a.attisdropped AND c.reltype <> 0) made)
    SELECT DISTINCT a.attrelid FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.tgrelid
    WHERE IS_ROW_TRIGGER AND t.tgparentid = 0 AND a.attnum > 0 AND NOT a.attisdropped
      AND a.atttypid IN (SELECT oid FROM made_of)";

/// Captures an event for every tracked table that has a column of such a type; not for those in `told`. `of_command`: also
/// types that the command that has just ended names.
pub(crate) fn capture(
    types: Vec<pg_sys::Oid>,
    of_command: bool,
    change: &SchemaChange,
    told: &[pg_sys::Oid],
) {
    if types.is_empty() && !of_command {
        return;
    }
    let tables = statement::oids(
        "which tables have columns of a changed type",
        &TABLES.replace("IS_ROW_TRIGGER", IS_ROW_TRIGGER),
        &[types.into(), of_command.into()],
    );
    for table in tables.into_iter().filter(|table| !told.contains(table)) {
        if let Some(table) = Table::if_there(table) {
            change.capture(&table);
        }
    }
}
