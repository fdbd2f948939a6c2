//! The event trigger at the end of every DDL command: ALTER TABLE and renames of tracked tables become schema events.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::AlterTableType as Alter;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::schema_change::SchemaChange;
use super::{before, partitions};
use crate::api::statement;
use crate::api::table::Table;
use crate::capture::own_trigger::IS_ROW_TRIGGER;
use crate::capture::utf8;
use crate::ffi;
use crate::report::Report;
use crate::shared;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Ends the quiet of [`quiet`].
pub struct Quiet(());

/// While the value lives, DDL is our own and makes no events.
pub fn quiet() -> Quiet {
    QUIET.set(true);
    Quiet(())
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

pub fn is_quiet() -> bool {
    QUIET.get()
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_cdc_ddl_start() -> &'static pg_sys::Pg_finfo_record {
    &ffi::VERSION_1
}

/// The event trigger's function before a command. Bound in `sql/triggers.sql`.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn cdc_ddl_start(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with event trigger data, whose tag says which statement it is.
    unsafe {
        if let Some(command) = command_of(fcinfo, "cdc_ddl_start") {
            match (*command).type_ {
                pg_sys::NodeTag::T_AlterTableStmt => before::altered(&*command.cast()),
                pg_sys::NodeTag::T_RenameStmt => before::renamed(&*command.cast()),
                _ => {}
            }
        }
    }
    pg_sys::Datum::from(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_cdc_ddl_end() -> &'static pg_sys::Pg_finfo_record {
    &ffi::VERSION_1
}

/// The event trigger's function after a command. Bound in `sql/triggers.sql`.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn cdc_ddl_end(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with event trigger data.
    unsafe {
        if let Some(command) = command_of(fcinfo, "cdc_ddl_end") {
            command_ended(command);
        }
    }
    pg_sys::Datum::from(0)
}

/// The command that fires an event trigger; none if it is our own, or nobody captures.
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
        match (*command).type_ {
            pg_sys::NodeTag::T_AlterTableStmt => {
                altered(&*command.cast::<pg_sys::AlterTableStmt>())
            }
            pg_sys::NodeTag::T_CreateStmt
                if !(*command.cast::<pg_sys::CreateStmt>()).partbound.is_null() =>
            {
                new_tables()
                    .into_iter()
                    .for_each(|table| partitions::came(table, None, false));
            }
            pg_sys::NodeTag::T_RenameStmt => renamed(&*command.cast::<pg_sys::RenameStmt>()),
            pg_sys::NodeTag::T_AlterObjectSchemaStmt => capture_each(&SchemaChange {
                ddl: statement_of(pg_sys::NodeTag::T_AlterObjectSchemaStmt),
                ..SchemaChange::new("RENAME")
            }),
            _ => {}
        }
    }
}

/// Captures the event for every tracked table that the command changed.
fn capture_each(change: &SchemaChange) {
    for table in changed_tables() {
        change.capture(&table);
    }
}

/// The tables that the command that has just ended was about; after the renaming of a schema, all that lie in it.
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
    .filter(|table| is_still_there(*table))
    .map(Table::at)
    .collect()
}

/// Locks a table for something that hinders nobody. A renamed schema's tables are not locked by that, and may be dropped
/// meanwhile.
fn is_still_there(table: pg_sys::Oid) -> bool {
    // SAFETY: in a transaction; the lock is released with it. The catalog is looked at once it is held.
    unsafe {
        pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        pg_sys::get_rel_relkind(table) != 0
    }
}

/// The tables that the command that has just ended made.
fn new_tables() -> Vec<pg_sys::Oid> {
    statement::oids(
        "what a command made",
        "SELECT objid FROM pg_catalog.pg_event_trigger_ddl_commands()
             WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND command_tag = 'CREATE TABLE'",
        &[],
    )
}

/// The partition that ATTACH or DETACH names, and has locked. The schema may be renamed meanwhile, and the name mean somebody
/// else's table: the command is taken back then.
unsafe fn partition_of(command: &pg_sys::AlterTableCmd) -> pg_sys::Oid {
    // SAFETY: the definition of these commands is a PartitionCmd; the command that has just ended holds the lock.
    unsafe {
        let definition = command.def.cast::<pg_sys::PartitionCmd>();
        let none = pg_sys::NoLock as pg_sys::LOCKMODE;
        let found = pg_sys::RangeVarGetRelidExtended(
            (*definition).name,
            none,
            0,
            None,
            std::ptr::null_mut(),
        );
        let relation = pg_sys::relation_open(found, none);
        let its_own = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
        let is_locked = pg_sys::CheckRelationLockedByMe(relation, its_own, true);
        pg_sys::relation_close(relation, none);
        if !is_locked {
            pgrx::error!("the partition was renamed while the command ran");
        }
        found
    }
}

/// The commands of an ALTER TABLE.
///
/// # Safety
/// The statement is one that PostgreSQL runs.
pub unsafe fn commands_of(statement: &pg_sys::AlterTableStmt) -> Vec<&pg_sys::AlterTableCmd> {
    // SAFETY: as the caller promises, the commands are a list of AlterTableCmd.
    unsafe {
        let list = statement.cmds;
        let count = if list.is_null() {
            0
        } else {
            (*list).length as usize
        };
        (0..count)
            .map(|index| {
                &*(*(*list).elements.add(index))
                    .ptr_value
                    .cast::<pg_sys::AlterTableCmd>()
            })
            .collect()
    }
}

unsafe fn altered(statement: &pg_sys::AlterTableStmt) {
    // SAFETY: as the caller promises.
    let commands = unsafe { commands_of(statement) };
    let any = |kinds: &[Alter::Type]| {
        commands
            .iter()
            .any(|command| kinds.contains(&command.subtype))
    };
    let unlogged = any(&[Alter::AT_SetUnLogged]);
    let triggers = any(&[
        Alter::AT_EnableTrig,
        Alter::AT_EnableReplicaTrig,
        Alter::AT_DisableTrig,
        Alter::AT_DisableTrigAll,
        Alter::AT_DisableTrigUser,
        Alter::AT_EnableTrigAll,
        Alter::AT_EnableTrigUser,
    ]);
    let defines = any(&[
        Alter::AT_AddColumn,
        Alter::AT_DropColumn,
        Alter::AT_AlterColumnType,
        Alter::AT_ColumnDefault,
        Alter::AT_SetNotNull,
        Alter::AT_DropNotNull,
        Alter::AT_AddIndex,
        Alter::AT_AddConstraint,
        Alter::AT_AddIndexConstraint,
        Alter::AT_DropConstraint,
        Alter::AT_ReplicaIdentity,
        Alter::AT_AddIdentity,
        Alter::AT_DropIdentity,
        Alter::AT_DropExpression,
    ]);
    let ddl = || statement_of(pg_sys::NodeTag::T_AlterTableStmt);
    for command in &commands {
        // SAFETY: as above.
        unsafe {
            match command.subtype {
                Alter::AT_AttachPartition => partitions::came(partition_of(command), ddl(), true),
                Alter::AT_DetachPartition => {
                    for root in changed_tables() {
                        partitions::went(&root, partition_of(command), ddl());
                    }
                }
                _ => {}
            }
        }
    }
    if !unlogged && !triggers && !defines {
        return;
    }
    for table in changed_tables() {
        if unlogged {
            refuse_unlogged(&table);
        }
        if triggers && !table.captures_always() {
            not_captured(&table).warn();
        }
        if defines {
            let change = SchemaChange {
                ddl: ddl(),
                // SAFETY: as above.
                contents_changed: commands
                    .iter()
                    .any(|command| unsafe { changes_contents(&table, command) }),
                ..SchemaChange::new("ALTER")
            };
            change.capture(&table);
        }
    }
}

/// Whether rows have other values after the command, though no row trigger fired.
unsafe fn changes_contents(table: &Table, command: &pg_sys::AlterTableCmd) -> bool {
    match command.subtype {
        Alter::AT_AlterColumnType => true,
        Alter::AT_AddColumn => {
            // SAFETY: the definition of an added column is a ColumnDef.
            let name = unsafe {
                let definition = command.def.cast::<pg_sys::ColumnDef>();
                utf8(CStr::from_ptr((*definition).colname).to_bytes())
            };
            table
                .columns()
                .iter()
                .any(|column| column.name == name && column.fills_itself)
        }
        _ => false,
    }
}

unsafe fn renamed(statement: &pg_sys::RenameStmt) {
    use pg_sys::ObjectType::{OBJECT_COLUMN, OBJECT_SCHEMA, OBJECT_TABLE};
    let text = |pointer: *mut std::ffi::c_char| {
        // SAFETY: names of a statement are zero-ended; null for none.
        unsafe { (!pointer.is_null()).then(|| utf8(CStr::from_ptr(pointer).to_bytes())) }
    };
    let ddl = statement_of(pg_sys::NodeTag::T_RenameStmt);
    match statement.renameType {
        OBJECT_TABLE | OBJECT_SCHEMA => capture_each(&SchemaChange {
            ddl,
            ..SchemaChange::new("RENAME")
        }),
        OBJECT_COLUMN => {
            let names = text(statement.subname).zip(text(statement.newname));
            capture_each(&SchemaChange {
                ddl,
                renames: names.into_iter().collect(),
                ..SchemaChange::new("ALTER")
            });
        }
        _ => {}
    }
}

/// The text of the running statement, if the client sent it alone and it is of this kind: a text of several statements
/// would tell more than the event is about, and one inside a function is not there at all.
fn statement_of(kind: pg_sys::NodeTag) -> Option<String> {
    // SAFETY: the text of the client's query, null or zero-ended, as long as the query runs; parsed once before.
    unsafe {
        let text = pg_sys::debug_query_string;
        if text.is_null() {
            return None;
        }
        let statements = pg_sys::raw_parser(text, pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if statements.is_null() || (*statements).length != 1 {
            return None;
        }
        let raw: *mut pg_sys::RawStmt = (*(*statements).elements).ptr_value.cast();
        ((*(*raw).stmt).type_ == kind).then(|| {
            let text = utf8(CStr::from_ptr(text).to_bytes());
            text.trim().trim_end_matches(';').to_owned()
        })
    }
}

/// CDC0101: a crash empties an unlogged table without an event.
fn refuse_unlogged(table: &Table) {
    Report::new(
        "CDC0101",
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("cannot make tracked table \"{}\" unlogged", table.name),
        format!("Call cdc_untrack('{}') first.", table.name),
    )
    .detail("A crash empties an unlogged table without a trace.")
    .raise()
}

/// CDC0203: our trigger does not fire for everybody any more.
fn not_captured(table: &Table) -> Report {
    Report::new(
        "CDC0203",
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("changes of \"{}\" are not captured", table.name),
        format!(
            "ALTER TABLE {} ENABLE ALWAYS TRIGGER _cdc, and repair what was missed.",
            table.sql_name()
        ),
    )
    .detail("Its trigger _cdc is disabled, or does not fire for rows that a subscription applies.")
}
