//! DROP TABLE of partitions: their rows are captured as deleted before the command begins, while they can still be read.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::rows::{self, Moved};
use crate::catalog::relation_of_name;
use crate::settings::{self, PartitionRows};
use crate::tracked::definition::Catalogs;
use crate::tracked::partitions::below;
use crate::tracked::partitions::root_of;
use crate::tracked::table::Table;

thread_local! {
    /// Partitions that the running command drops and whose rows are captured already.
    static CAPTURED: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
    /// What the running DROP TABLE names.
    static NAMED: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
}

/// Whether the running command drops a table itself, so that nobody need know of its partitions.
pub(crate) fn goes(table: pg_sys::Oid) -> bool {
    NAMED.with_borrow(|named| named.contains(&table))
}

/// Whether the rows of a partition that is just dropped are captured already.
pub(crate) fn is_captured(partition: pg_sys::Oid) -> bool {
    CAPTURED.with_borrow(|captured| captured.contains(&partition))
}

/// A command begins.
pub(crate) fn forget() {
    CAPTURED.take();
    NAMED.take();
}

/// DROP TABLE is about to begin. Whatever cannot be dropped is left for PostgreSQL to say.
///
/// # Safety
/// Inside a transaction.
pub(crate) unsafe fn before(statement: &pg_sys::DropStmt) {
    if statement.removeType != pg_sys::ObjectType::OBJECT_TABLE {
        return;
    }
    // SAFETY: the names of a DROP TABLE are a list of lists of texts.
    let named: Vec<pg_sys::Oid> = unsafe {
        let objects = statement.objects;
        (0..(*objects).length as usize)
            .filter_map(|place| {
                let names = (*(*objects).elements.add(place)).ptr_value;
                relation_of_name(pg_sys::makeRangeVarFromNameList(names.cast()))
            })
            .collect()
    };
    NAMED.set(named.clone());
    for partition in &named {
        let ancestors = Catalogs::today(|catalogs| catalogs.ancestors(*partition));
        let goes_with_more = ancestors.iter().any(|ancestor| named.contains(ancestor));
        if !ancestors.is_empty() && !goes_with_more && may_drop(*partition) {
            drop_rows(*partition, &ancestors);
        }
    }
}

/// As RangeVarCallbackForDropRelation asks: nobody's lock waits for who may not drop the table.
fn may_drop(relation: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        let user = pg_sys::GetUserId();
        let schema = pg_sys::get_rel_namespace(relation);
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relation, user)
            || pg_sys::pg_namespace_ownercheck(schema, user);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, user)
            || pg_sys::object_ownercheck(pg_sys::NamespaceRelationId, schema, user);
    }
}

fn drop_rows(partition: pg_sys::Oid, ancestors: &[pg_sys::Oid]) {
    // SAFETY: inside a transaction.
    let root = unsafe { root_of(partition) };
    let Some(parent) = ancestors.first().filter(|_| root != partition) else {
        return; // tracked by itself, and dropped so
    };
    let is_tracked = |root: pg_sys::Oid| {
        Catalogs::today(|catalogs| {
            catalogs
                .definition(root, false)
                .is_some_and(|definition| definition.has_row_trigger())
        })
    };
    if !is_tracked(root) {
        return;
    }
    // The locks that DROP TABLE takes, in its order. SAFETY: inside a transaction, released with it.
    let is_the_same = unsafe {
        let exclusive = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::LockRelationOid(root, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        pg_sys::LockRelationOid(*parent, exclusive);
        pg_sys::LockRelationOid(partition, exclusive);
        for part in below(partition) {
            pg_sys::LockRelationOid(part, exclusive);
        }
        Catalogs::today(|catalogs| catalogs.ancestors(partition)) == ancestors
            && root_of(partition) == root
    };
    if !is_the_same || !is_tracked(root) {
        return;
    }
    if settings::DROPPED_PARTITIONS.get() == PartitionRows::Delete {
        rows::capture(&Table::at(root), partition, Moved::Out);
    }
    CAPTURED.with_borrow_mut(|captured| {
        captured.push(partition);
        captured.extend(below(partition));
    });
}
