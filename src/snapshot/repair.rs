//! Tables whose rows changed without row events (a rewriting ALTER TABLE, partitions that came or went): a snapshot follows.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::chunk::has_key;
use crate::snapshot::request::ask_unless_pending;
use crate::tracked::table::Table;

thread_local! {
    static NOTED: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
}

/// Notes a table until the transaction ends: many commands of one make one snapshot. What a savepoint takes back costs a
/// snapshot that changes nothing.
pub(crate) fn note(table: pg_sys::Oid) {
    NOTED.with_borrow_mut(|noted| {
        if !noted.contains(&table) {
            noted.push(table);
        }
    });
}

/// Asks for the snapshots, before the transaction is written: they are a part of it.
pub(crate) fn pre_commit() {
    let noted = NOTED.take();
    if noted.is_empty() {
        return;
    }
    // SAFETY: queries are allowed before the commit; after an ERROR the transaction's end pops the snapshot. Whoever locks
    // a table exclusively has committed once the lock is there. Who has locked a partitioned one so, and waits for the
    // partition that this transaction has changed, is not waited for: he changes nothing before.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        for oid in noted {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            if !pg_sys::ConditionalLockRelationOid(oid, lock)
                && pg_sys::get_rel_relkind(oid) as u8 != b'p'
            {
                pg_sys::LockRelationOid(oid, lock);
            }
            if pg_sys::get_rel_relkind(oid) == 0 {
                continue;
            }
            let table = Table::at(oid);
            // Without a key the event alone says it.
            if table
                .options()
                .is_some_and(|options| has_key(&table, &options))
            {
                ask_unless_pending(&table);
            }
        }
        pg_sys::PopActiveSnapshot();
    }
}

/// The transaction is over.
pub(crate) fn forget() {
    NOTED.with(|noted| {
        if let Ok(mut noted) = noted.try_borrow_mut() {
            noted.clear();
        }
    });
}
