//! The event triggers at the beginning and at the end of every DDL command: what it makes of tracked tables becomes schema
//! events.

use pgrx::pg_sys;
use pgrx::pg_sys::AlterTableType as Alter;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::before;
use super::command::{DEFINES, MOVES};
use super::partitions::dropped;
use super::renames::{changed_types, types};
use super::schema_change::SchemaChange;
use super::table_changes::{self, Command};
use crate::ddl::command::commands_of;
use crate::ddl::command::statement_of;
use crate::ffi;
use crate::shared;
use crate::tracked::own_trigger::IS_ROW_TRIGGER;
use crate::tracked::quiet::is_quiet;
use crate::tracked::statement;
use crate::tracked::table::Table;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn pg_finfo_cdc_ddl_start() -> &'static pg_sys::Pg_finfo_record {
    &ffi::VERSION_1
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn pg_finfo_cdc_ddl_end() -> &'static pg_sys::Pg_finfo_record {
    &ffi::VERSION_1
}

/// The function of the event trigger at the beginning. Bound in `sql/triggers.sql`.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn cdc_ddl_start(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: what calls the function is looked at before anything is read.
    unsafe {
        if let Some(command) = command_of(fcinfo, "cdc_ddl_start") {
            table_changes::command_begins();
            dropped::forget();
            types::before(command);
            match (*command).type_ {
                pg_sys::NodeTag::T_AlterTableStmt => before::altered(&*command.cast()),
                pg_sys::NodeTag::T_RenameStmt => before::renamed(&*command.cast()),
                pg_sys::NodeTag::T_DropStmt => dropped::before(&*command.cast()),
                _ => {}
            }
        }
    }
    pg_sys::Datum::from(0)
}

/// The function of the event trigger at the end. Bound in `sql/triggers.sql`.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn cdc_ddl_end(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: what calls the function is looked at before anything is read.
    unsafe {
        if let Some(command) = command_of(fcinfo, "cdc_ddl_end") {
            command_ended(command);
        }
    }
    pg_sys::Datum::from(0)
}

/// The command that an event trigger is called for; none if it is one of our own, or nobody captures.
unsafe fn command_of(
    fcinfo: pg_sys::FunctionCallInfo,
    function: &str,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: PostgreSQL passes event trigger data to a function that an event trigger calls; anything else is refused.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED,
                format!("{function}() must be called by an event trigger"),
                "pg_cdc",
            )
            .report(PgLogLevel::ERROR);
        }
        let data = &*context.cast::<pg_sys::EventTriggerData>();
        (!is_quiet() && shared::shared().is_some() && !data.parsetree.is_null())
            .then_some(data.parsetree)
    }
}

unsafe fn command_ended(command: *mut pg_sys::Node) {
    // SAFETY: the tag says which statement it is.
    unsafe {
        types::follow();
        let kind = (*command).type_;
        let commands = if kind == pg_sys::NodeTag::T_AlterTableStmt {
            commands_of(&*command.cast())
        } else {
            Vec::new()
        };
        let any = |of_interest: &dyn Fn(Alter::Type) -> bool| {
            commands.iter().any(|command| of_interest(command.subtype))
        };
        let told = table_changes::tell(&Command {
            kind,
            computes: any(&|kind| !MOVES.contains(&kind)),
        });
        // About the definition, though an event has no place for it: a default, a constraint.
        if told.others && any(&|kind| DEFINES.contains(&kind)) {
            for table in changed_tables() {
                if !told.tables.contains(&table.oid) {
                    SchemaChange {
                        ddl: statement_of(kind),
                        ..SchemaChange::new("ALTER")
                    }
                    .capture(&table);
                }
            }
        }
        names_changed(command, &told.tables);
    }
}

/// Types, and schemas: no table was touched, and yet they are called something else.
unsafe fn names_changed(command: *mut pg_sys::Node, told: &[pg_sys::Oid]) {
    use pg_sys::ObjectType::{OBJECT_DOMAIN, OBJECT_EXTENSION, OBJECT_SCHEMA, OBJECT_TYPE};
    // SAFETY: the tag says which statement it is.
    let (kind, labels) = unsafe {
        match (*command).type_ {
            pg_sys::NodeTag::T_RenameStmt => {
                ((*command.cast::<pg_sys::RenameStmt>()).renameType, false)
            }
            pg_sys::NodeTag::T_AlterObjectSchemaStmt => {
                let statement = &*command.cast::<pg_sys::AlterObjectSchemaStmt>();
                (statement.objectType, false)
            }
            pg_sys::NodeTag::T_AlterEnumStmt => {
                let statement = &*command.cast::<pg_sys::AlterEnumStmt>();
                (OBJECT_TYPE, !statement.oldVal.is_null())
            }
            _ => return,
        }
    };
    // SAFETY: as above.
    let tag = unsafe { (*command).type_ };
    let is_new_label = tag == pg_sys::NodeTag::T_AlterEnumStmt && !labels;
    let mut told = told.to_vec();
    if kind == OBJECT_SCHEMA {
        let change = SchemaChange {
            ddl: statement_of(tag),
            ..SchemaChange::new("RENAME")
        };
        for table in changed_tables() {
            change.capture(&table);
            told.push(table.oid);
        }
    }
    let of_types = [OBJECT_TYPE, OBJECT_DOMAIN, OBJECT_SCHEMA, OBJECT_EXTENSION].contains(&kind);
    if of_types && !is_new_label {
        let change = SchemaChange {
            ddl: statement_of(tag),
            // Rows have another text where a label of an enum does.
            contents_changed: labels,
            ..SchemaChange::new("ALTER")
        };
        changed_types::capture(Vec::new(), true, &change, &told);
    }
}

/// The tracked tables that the command that has just ended was about; after the renaming of a schema, all that lie in it.
fn changed_tables() -> Vec<Table> {
    statement::oids(
        "what a command changed",
        &format!(
            "WITH changed AS MATERIALIZED (SELECT DISTINCT classid, objid FROM pg_catalog.pg_event_trigger_ddl_commands())
             SELECT t.tgrelid FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
             WHERE {IS_ROW_TRIGGER} AND t.tgparentid = 0 AND EXISTS (SELECT FROM changed
                 WHERE (classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objid = c.oid)
                    OR (classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND objid = c.relnamespace))
             ORDER BY 1"
        ),
        &[],
    )
    .into_iter()
    // Of a schema's tables the command has locked none: another session may just have dropped one.
    .filter_map(Table::if_there)
    .collect()
}
