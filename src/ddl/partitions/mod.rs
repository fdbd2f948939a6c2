//! Partitions: each has a TRUNCATE trigger of its own (PostgreSQL clones row triggers only), kept up as partitions come
//! and go, and what changes rows of the table without row events is said in an event about the table.

pub(crate) mod dropped;
pub(crate) mod rows;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;
use pgrx::spi::{quote_identifier, quote_literal};
use rows::Moved;

use super::schema_change::SchemaChange;
use crate::report::{Raise, notice};
use crate::settings::{self, PartitionRows};
use crate::tracked::definition::Catalogs;
use crate::tracked::own_trigger::{Own, TRUNCATE_TRIGGER};
use crate::tracked::partitions::below;
use crate::tracked::partitions::root_of;
use crate::tracked::quiet::quiet;
use crate::tracked::rights::as_superuser;
use crate::tracked::table::Table;
use crate::tracked::triggers::refuse_taken_name;
use crate::tracked::unseen;

/// Gives every partition below `table` its TRUNCATE trigger, anew where it is there; takes it away if the table does not
/// ship TRUNCATE, or is not tracked.
pub(crate) fn follow(table: &Table) {
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
    let _ours = quiet();
    for partition in partitions {
        if is_foreign(partition.oid) {
            if definition.is_some() {
                notice(format!(
                    "partition \"{}\" is a foreign table: what is changed on its own server, and TRUNCATE, is not captured",
                    partition.name
                ));
            }
            continue;
        }
        // PostgreSQL alters none that is being detached, and what its trigger does the root's options say.
        let is_being_detached =
            Catalogs::today(|catalogs| catalogs.is_being_detached(partition.oid));
        if definition.is_none() || !is_being_detached {
            replace_trigger(partition, definition);
        }
    }
}

/// Rows on another server are not the table's own: they are passed over.
fn is_foreign(partition: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside the running transaction.
    unsafe { pg_sys::get_rel_relkind(partition) as u8 == b'f' }
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
            refuse_taken_name(partition, TRUNCATE_TRIGGER);
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

/// A partition was made, or attached with the rows that it has: for readers they are inserted now.
pub(crate) fn attached(partition: pg_sys::Oid, ddl: Option<String>, with_rows: bool) {
    let root = root(partition);
    // One that is tracked by itself, in a table that is not, is as it was. The command has locked the table above, which
    // need not be the root.
    let above = (root != partition).then(|| Table::if_there(root)).flatten();
    let Some(table) = above.filter(|table| table.options().is_some()) else {
        return;
    };
    let parts = with_all_below(partition);
    give_triggers(&parts, definition(&table).as_deref());
    for part in &parts {
        // SAFETY: a catalog look-up inside the running transaction.
        let persistence = unsafe { pg_sys::get_rel_persistence(part.oid) } as u8;
        if persistence == b'u' {
            not_durable(part, &table).warn();
        }
    }
    if with_rows {
        SchemaChange {
            ddl,
            ..SchemaChange::new("ATTACH")
        }
        .capture(&table);
        rows::capture(&table, partition, Moved::In);
    }
}

/// CDC0207: a crash empties the partition.
fn not_durable(partition: &Table, table: &Table) -> Trouble {
    Trouble::new(
        Code::PartitionUnlogged,
        format!(
            "partition \"{}\" of tracked table \"{}\" is unlogged",
            partition.name, table.name
        ),
        format!("ALTER TABLE {} SET LOGGED.", partition.sql_name()),
    )
    .detail("A crash empties an unlogged partition without an event.")
}

/// The partition and everything below it.
fn with_all_below(partition: pg_sys::Oid) -> Vec<Table> {
    let mut tables = partitions_of(&Table::at(partition));
    tables.push(Table::at(partition));
    tables
}

/// A partition was detached, with its rows: for readers they are deleted now, or stay, as `cdc.dropped_partitions` says.
pub(crate) fn detached(root: &Table, partition: pg_sys::Oid, ddl: Option<String>) {
    if root.options().is_none() {
        return;
    }
    give_triggers(&with_all_below(partition), None);
    SchemaChange {
        ddl,
        ..SchemaChange::new("DETACH")
    }
    .capture(root);
    if settings::DROPPED_PARTITIONS.get() == PartitionRows::Delete {
        rows::capture(root, partition, Moved::Out);
    }
}

/// A partition is about to be dropped. Its rows are captured already, but where it goes with something else, by CASCADE:
/// then they cannot be read any more, and only a snapshot says which are left.
pub(crate) fn dropped(partition: pg_sys::Oid) {
    let root = root(partition);
    if root == partition || dropped::goes(root) {
        return;
    }
    let keep = settings::DROPPED_PARTITIONS.get() == PartitionRows::Keep || is_foreign(partition);
    let change = if keep || dropped::is_captured(partition) {
        SchemaChange::new("DETACH")
    } else {
        SchemaChange::of_contents("DETACH", None)
    };
    change.capture(&Table::at(root));
}

fn root(partition: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: inside a transaction, with the partition locked by the running command.
    unsafe { root_of(partition) }
}
