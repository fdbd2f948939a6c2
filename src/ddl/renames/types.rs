//! Filters that name types of the table's columns, and their labels: a command that gives those other names takes the
//! filters along, whoever owns the tables. A filter is text, so it is kept as PostgreSQL's own tree while the command runs.

use std::cell::RefCell;
use std::ffi::CString;

use pgrx::pg_sys;

use super::options::refuse_pending;
use crate::capture::filter::names;
use crate::ddl::partitions;
use crate::tracked::own_trigger::IS_ROW_TRIGGER;
use crate::tracked::partitions::lock_below;
use crate::tracked::statement;
use crate::tracked::table::Table;
use crate::tracked::triggers::make_triggers;

/// Tracked tables with a column of a type that somebody made. Filters use enums alone of those.
const TABLES: &str = "
    SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
    WHERE IS_ROW_TRIGGER AND t.tgparentid = 0 AND (y.typtype IN ('d', 'e') OR y.typcategory = 'A') ORDER BY 1";

/// A filter before the command.
struct Kept {
    table: pg_sys::Oid,
    filter: String,
    tree: CString,
    /// What the tree was as text.
    text: String,
}

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// A command begins: keeps the filters that it may touch.
///
/// # Safety
/// Inside a transaction; the statement is one that PostgreSQL is about to run.
pub(crate) unsafe fn before(command: *mut pg_sys::Node) {
    KEPT.take();
    // SAFETY: as the caller promises.
    if !unsafe { gives_names(command) } {
        return;
    }
    let tables = statement::oids(
        "which filters may name a type",
        &TABLES.replace("IS_ROW_TRIGGER", IS_ROW_TRIGGER),
        &[],
    );
    let kept = tables
        .into_iter()
        .filter_map(|table| Table::glance_at(table, kept).flatten());
    let kept = kept.collect();
    KEPT.set(kept);
}

/// Whether a statement gives types, their schemas or their labels other names.
unsafe fn gives_names(command: *mut pg_sys::Node) -> bool {
    use pg_sys::ObjectType::{OBJECT_EXTENSION, OBJECT_SCHEMA, OBJECT_TYPE};
    // SAFETY: the tag says which statement it is.
    unsafe {
        match (*command).type_ {
            pg_sys::NodeTag::T_RenameStmt => {
                let statement = &*command.cast::<pg_sys::RenameStmt>();
                matches!(statement.renameType, OBJECT_SCHEMA | OBJECT_TYPE)
            }
            pg_sys::NodeTag::T_AlterObjectSchemaStmt => {
                let statement = &*command.cast::<pg_sys::AlterObjectSchemaStmt>();
                matches!(statement.objectType, OBJECT_EXTENSION | OBJECT_TYPE)
            }
            pg_sys::NodeTag::T_AlterEnumStmt => {
                !(*command.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null()
            }
            _ => false,
        }
    }
}

fn kept(table: &Table) -> Option<Kept> {
    let filter = table.options()?.filter;
    if filter.is_empty() {
        return None;
    }
    let (tree, text) = names::coded(table, || {
        // SAFETY: the relation is open while it is read.
        table.read(|relation| unsafe {
            names::tree(std::ptr::from_ref(relation).cast_mut(), &filter)
        })
    });
    Some(Kept {
        table: table.oid,
        filter,
        tree,
        text,
    })
}

/// The command has ended: filters in which something has another name now are written anew.
pub(crate) fn follow() {
    for kept in KEPT.take() {
        let changed = |table: &Table| {
            let options = table.options().filter(|it| it.filter == kept.filter)?;
            // SAFETY: the relation is open while it is read; the tree is of a filter of it.
            let text = table.read(|relation| unsafe {
                names::text(std::ptr::from_ref(relation).cast_mut(), &kept.tree)
            });
            (text != kept.text).then_some((options, text))
        };
        if Table::glance_at(kept.table, changed).flatten().is_none() {
            continue;
        }
        let exclusive = pg_sys::AccessExclusiveLock;
        // SAFETY: in a transaction; released with it.
        unsafe { pg_sys::LockRelationOid(kept.table, exclusive as pg_sys::LOCKMODE) };
        let Some(table) = Table::if_there(kept.table) else {
            continue;
        };
        lock_below(table.oid, exclusive);
        if let Some((mut options, text)) = changed(&table) {
            refuse_pending(&table);
            options.filter = text;
            make_triggers(&table, &options);
            partitions::follow(&table);
        }
    }
}
