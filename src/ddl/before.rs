//! The event trigger before a DDL command: what would not go together with our triggers is put right, or refused.

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;

use crate::catalog::relation_of_name;
use crate::ddl::command::commands_of;
use crate::ddl::untracking::untrack;
use crate::report::{Raise, notice};
use crate::text::utf8;
use crate::tracked::own_trigger::{IS_ROW_TRIGGER, IS_TRUNCATE_TRIGGER, Own, ROW_TRIGGER};
use crate::tracked::partitions::lock_below;
use crate::tracked::partitions::root_of;
use crate::tracked::partitions::tracked_themselves;
use crate::tracked::statement;
use crate::tracked::table::Table;

/// ATTACH PARTITION of a table that is tracked by itself, as all new ones of a schema may be: PostgreSQL gives it a clone
/// of the root's trigger, of the same name, so its own one goes.
pub(crate) unsafe fn altered(statement: &pg_sys::AlterTableStmt) {
    // SAFETY: the statement is one that PostgreSQL is about to run; ATTACH PARTITION has a PartitionCmd.
    unsafe {
        for command in commands_of(statement) {
            if command.subtype == pg_sys::AlterTableType::AT_AttachPartition {
                let partition = command.def.cast::<pg_sys::PartitionCmd>();
                about_to_attach(statement.relation, (*partition).name);
            }
        }
    }
}

unsafe fn about_to_attach(parent_name: *mut pg_sys::RangeVar, name: *mut pg_sys::RangeVar) {
    // SAFETY: names of the command that is about to run; catalog look-ups inside its transaction.
    unsafe {
        let Some((parent, partition)) = relation_of_name(parent_name).zip(relation_of_name(name))
        else {
            return;
        };
        // Who may not run the command is told so by PostgreSQL, and has nobody wait for a lock.
        let may = || Table::is_owned(parent) && Table::is_owned(partition);
        if !may() || tracked_themselves(partition).is_empty() {
            return;
        }
        // In the order and as strongly as the command itself takes them.
        pg_sys::LockRelationOid(parent, pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE);
        pg_sys::LockRelationOid(partition, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE);
        lock_below(partition, pg_sys::AccessExclusiveLock);
        if relation_of_name(parent_name) != Some(parent)
            || relation_of_name(name) != Some(partition)
            || !may()
        {
            return;
        }
        let root = Table::look_at(root_of(parent));
        let is_tracked = root.tracked().is_some();
        for table in tracked_themselves(partition) {
            if is_tracked {
                untrack(&table);
            } else if let Some(options) = table.options() {
                notice(format!(
                    "table \"{}\" stays tracked by itself: its changes go to topic \"{}\"; table \"{}\" is not tracked",
                    table.name, options.topic, root.name
                ));
            }
        }
    }
}

/// CDC0116: our triggers are found by their names.
pub(crate) unsafe fn renamed(statement: &pg_sys::RenameStmt) {
    if statement.renameType != pg_sys::ObjectType::OBJECT_TRIGGER {
        return;
    }
    // SAFETY: a trigger's name and table are given; the name is zero-ended.
    let (name, relation) = unsafe {
        let name = utf8(std::ffi::CStr::from_ptr(statement.subname).to_bytes());
        if !Own::ALL.iter().any(|own| own.name() == name) {
            return;
        }
        let Some(relation) = relation_of_name(statement.relation) else {
            return;
        };
        (name, relation)
    };
    let own = if name == ROW_TRIGGER {
        IS_ROW_TRIGGER
    } else {
        IS_TRUNCATE_TRIGGER
    };
    let query = format!("SELECT t.oid FROM pg_catalog.pg_trigger t WHERE {own} AND t.tgrelid = $1");
    if !statement::oids("the triggers of a table", &query, &[relation.into()]).is_empty() {
        let table = Table::at(relation);
        Trouble::new(
            Code::TriggerRenamed,
            format!(
                "cannot rename trigger \"{name}\" on table \"{}\"",
                table.name
            ),
            format!("Call cdc_untrack({}) to be rid of it.", table.argument()),
        )
        .detail("pg_cdc captures the table's changes by it, and finds it by its name.")
        .raise();
    }
}
