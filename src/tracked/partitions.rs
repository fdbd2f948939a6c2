//! The partitions of a table, and the table that a partition belongs to.

use pgrx::pg_sys;

use super::definition::Catalogs;
use super::own_trigger::IS_ROW_TRIGGER;
use super::statement;
use super::table::Table;

/// The table that a partition's changes are changes of: the topmost one above it that is tracked, which may be the
/// partition itself, else the root. A table that is no partition is its own. Nothing is locked.
///
/// # Safety
/// Inside a transaction.
pub(crate) unsafe fn root_of(oid: pg_sys::Oid) -> pg_sys::Oid {
    Catalogs::today(|catalogs| {
        let mut line = vec![oid];
        line.extend(catalogs.ancestors(oid));
        let root = line[line.len() - 1];
        let tracked = |table: &pg_sys::Oid| catalogs.is_tracked_itself(*table);
        line.into_iter().rev().find(tracked).unwrap_or(root)
    })
}

/// The partitions of a table, at every level; none of an ordinary one. Nothing is locked.
pub(crate) fn below(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    Catalogs::today(|catalogs| catalogs.parts_below(table))
}

/// Locks the partitions of a locked table.
pub(crate) fn lock_below(table: pg_sys::Oid, mode: u32) {
    for partition in below(table) {
        // SAFETY: in a transaction; released with it. Who attaches or detaches a partition waits for the table's lock.
        unsafe { pg_sys::LockRelationOid(partition, mode as pg_sys::LOCKMODE) };
    }
}

/// Whether a table, or a partition of it, has a trigger of ours. No lock is needed.
pub(crate) fn any_triggers(table: pg_sys::Oid) -> bool {
    Catalogs::today(|catalogs| {
        let mut tables = catalogs.parts_below(table);
        tables.push(table);
        tables
            .into_iter()
            .any(|table| !catalogs.triggers(table).is_empty())
    })
}

/// The tables that are tracked by themselves, of a table and its partitions.
pub(crate) fn tracked_themselves(table: pg_sys::Oid) -> Vec<Table> {
    let query = format!(
        "SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE {IS_ROW_TRIGGER} AND t.tgparentid = 0
             AND t.tgrelid = ANY ($1) ORDER BY 1"
    );
    let mut tables = below(table);
    tables.push(table);
    let found = statement::oids("the triggers of a table", &query, &[tables.into()]);
    found.into_iter().map(Table::at).collect()
}
