//! Partitions: each has a TRUNCATE trigger of its own (PostgreSQL clones row triggers only), kept up as partitions come
//! and go, and what changes rows of the table without row events is said in an event about the table.

use pgrx::pg_sys;
use pgrx::spi::{quote_identifier, quote_literal};

use super::event_trigger;
use super::schema_change::SchemaChange;
use crate::api::table::{Table, as_superuser};
use crate::api::{statement, track, unseen};
use crate::capture::own_trigger::{IS_ROW_TRIGGER, IS_TRUNCATE_TRIGGER, Own, TRUNCATE_TRIGGER};
use crate::capture::relation_plan::root_of;

/// Gives every partition below `table` its TRUNCATE trigger, anew where it is there; takes it away if the table does not
/// ship TRUNCATE, or is not tracked.
pub fn follow(table: &Table) {
    give_triggers(&partitions_of(table), definition(table).as_deref());
}

/// What the root's TRUNCATE trigger does: `FOR EACH STATEMENT EXECUTE FUNCTION …`.
fn definition(root: &Table) -> Option<String> {
    let (function, arguments) = root.truncate_trigger_definition()?;
    let arguments: Vec<String> = arguments.iter().map(quote_literal).collect();
    let arguments = arguments.join(", ");
    Some(format!(
        "FOR EACH STATEMENT EXECUTE FUNCTION {function}({arguments})"
    ))
}

fn give_triggers(partitions: &[Table], definition: Option<&str>) {
    let _ours = event_trigger::quiet();
    for partition in partitions {
        replace_trigger(partition, definition);
    }
}

fn replace_trigger(partition: &Table, definition: Option<&str>) {
    let trigger = quote_identifier(TRUNCATE_TRIGGER);
    let name = partition.sql_name();
    // SAFETY: the relation is open while it is read.
    let before = partition
        .read(|relation| unsafe { Own::Truncate.of(relation).map(|trigger| (*trigger).tgoid) });
    as_superuser(|| {
        if let Some(before) = before {
            unseen::drop_trigger(before);
        }
        if let Some(definition) = definition {
            track::refuse_taken_name(partition, TRUNCATE_TRIGGER);
            unseen::run(&format!(
                "CREATE TRIGGER {trigger} AFTER TRUNCATE ON {name} {definition}"
            ));
            unseen::run(&format!(
                "ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}"
            ));
        }
    });
}

/// Everything below a partitioned table.
fn partitions_of(table: &Table) -> Vec<Table> {
    below(table.oid).into_iter().map(Table::at).collect()
}

/// The partitions of a table, at every level; none of an ordinary one.
pub fn below(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    statement::oids(
        "the partitions of a table",
        "SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1) WHERE relid <> $1 ORDER BY relid",
        &[table.into()],
    )
}

/// Locks the partitions of a locked table.
pub fn lock_below(table: pg_sys::Oid, mode: u32) {
    for partition in below(table) {
        // SAFETY: in a transaction; released with it. Who attaches or detaches a partition waits for the table's lock.
        unsafe { pg_sys::LockRelationOid(partition, mode as pg_sys::LOCKMODE) };
    }
}

/// Whether a table, or a partition of it, has a trigger of ours. No lock is needed.
pub fn any_triggers(table: pg_sys::Oid) -> bool {
    let query = format!(
        "SELECT t.oid FROM pg_catalog.pg_trigger t WHERE ({IS_ROW_TRIGGER} OR {IS_TRUNCATE_TRIGGER})
             AND (t.tgrelid = $1 OR t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1))) LIMIT 1"
    );
    !statement::oids("the triggers of a table", &query, &[table.into()]).is_empty()
}

/// The tables that are tracked by themselves, of a table and its partitions.
pub fn tracked_themselves(table: pg_sys::Oid) -> Vec<Table> {
    let query = format!(
        "SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE {IS_ROW_TRIGGER} AND t.tgparentid = 0
             AND (t.tgrelid = $1 OR t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1))) ORDER BY 1"
    );
    let found = statement::oids("the triggers of a table", &query, &[table.into()]);
    found.into_iter().map(Table::at).collect()
}

/// A partition was made, or attached with the rows that it has.
pub fn came(partition: pg_sys::Oid, ddl: Option<String>, with_rows: bool) {
    let table = Table::at(root(partition));
    // One that is tracked by itself, in a table that is not, is as it was.
    if table.oid == partition || table.options().is_none() {
        return;
    }
    give_triggers(&with_all_below(partition), definition(&table).as_deref());
    if with_rows {
        contents_changed("ATTACH", ddl).capture(&table);
    }
}

/// The partition and everything below it.
fn with_all_below(partition: pg_sys::Oid) -> Vec<Table> {
    let mut tables = partitions_of(&Table::at(partition));
    tables.push(Table::at(partition));
    tables
}

/// A partition was detached, with its rows.
pub fn went(root: &Table, partition: pg_sys::Oid, ddl: Option<String>) {
    if root.options().is_some() {
        give_triggers(&with_all_below(partition), None);
        contents_changed("DETACH", ddl).capture(root);
    }
}

/// A partition is about to be dropped, with its rows.
pub fn dropped(partition: pg_sys::Oid) {
    let root = root(partition);
    if root != partition {
        contents_changed("DETACH", None).capture(&Table::at(root));
    }
}

/// A partition was emptied, and the rest of the table was not.
pub fn truncated(root: pg_sys::Oid, partition: pg_sys::Oid) {
    let statement = format!("TRUNCATE {}", Table::at(partition).sql_name());
    contents_changed("ALTER", Some(statement)).capture(&Table::at(root));
}

fn contents_changed(kind: &'static str, ddl: Option<String>) -> SchemaChange {
    SchemaChange {
        ddl,
        contents_changed: true,
        ..SchemaChange::new(kind)
    }
}

fn root(partition: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: inside a transaction, with the partition locked by the running command.
    unsafe { root_of(partition) }
}
