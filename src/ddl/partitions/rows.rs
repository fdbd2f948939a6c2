//! Rows that come into a tracked table, or go, with the part of it that holds them: no row trigger fires for them, so they
//! are read and captured as what they are to readers, rows inserted or deleted by the running transaction.

use change::options::Operation;
use pgrx::pg_sys;

use crate::capture::buffer::captured::Captured;
use crate::capture::state::with_capture;
use crate::capture::trigger::is_applied;
use crate::ffi;
use crate::tracked::partitions::below;
use crate::tracked::table::Table;

/// What happens to the rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    In,
    Out,
}

/// Captures the rows of `part` and of everything below it as rows of `table`, which may be the part itself. The running
/// command has locked both. Reads the part and nothing else.
pub(crate) fn capture(table: &Table, part: pg_sys::Oid, moved: Moved) {
    let Some(options) = table.options() else {
        return;
    };
    let operation = match moved {
        Moved::In => Operation::Insert,
        Moved::Out => Operation::Delete,
    };
    if !options.operations.contains(operation) {
        return;
    }
    let mut leaves = below(part);
    leaves.push(part);
    table.with_trigger(|trigger| {
        for leaf in leaves {
            // SAFETY: a catalog look-up inside the running transaction.
            let kind = unsafe { pg_sys::get_rel_relkind(leaf) } as u8;
            // What lies on another server is not the table's own.
            if kind == b'r' {
                // SAFETY: the leaf is locked with its root, which is open while the trigger is.
                unsafe { capture_leaf(trigger, leaf, moved) };
            }
        }
    });
}

/// # Safety
/// `trigger` names an open relation and our trigger on it; the leaf is locked and has its columns.
unsafe fn capture_leaf(trigger: &pg_sys::TriggerData, leaf: pg_sys::Oid, moved: Moved) {
    // SAFETY: as the caller promises. Relation, scan, snapshot and slot are released below, after an ERROR by the
    // transaction's end. The command id is marked as used, so that what comes later has a higher one.
    unsafe {
        let command = pg_sys::GetCurrentCommandId(true);
        let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(leaf, lock);
        let descriptor = (*trigger.tg_relation).rd_att;
        // Null where a row of the leaf is one of the table as it is.
        let map = pg_sys::convert_tuples_by_name((*relation).rd_att, descriptor);
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scratch = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"pg_cdc rows of a part".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        ffi::scan_table(relation, snapshot, slot, |slot| {
            pgrx::check_for_interrupts!();
            let before = pg_sys::MemoryContextSwitchTo(scratch);
            let mut is_copy = false;
            let mut tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut is_copy);
            if !map.is_null() {
                tuple = pg_sys::execute_attr_map_tuple(tuple, map);
            }
            capture_row(trigger, tuple, command, moved);
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(scratch);
        });
        pg_sys::MemoryContextDelete(scratch);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_close(relation, lock);
    }
}

/// # Safety
/// As for [`capture_leaf`]; the tuple is a row of the trigger's relation.
unsafe fn capture_row(
    trigger: &pg_sys::TriggerData,
    tuple: pg_sys::HeapTuple,
    command: u32,
    moved: Moved,
) {
    let row = match moved {
        Moved::In => Captured::Inserted(tuple),
        Moved::Out => Captured::Deleted(tuple),
    };
    with_capture(|capture| {
        // SAFETY: as the caller promises.
        unsafe {
            let plan = capture.plans.plan(trigger);
            if plan.silent || (plan.local_only && is_applied()) || !plan.passes(tuple) {
                return;
            }
            let descriptor = (*trigger.tg_relation).rd_att;
            capture.buffer.capture(plan, descriptor, command, &row);
        }
    });
}

/// Whether a table and everything below it has no rows for certain: not a single page.
pub(crate) fn is_empty(table: pg_sys::Oid) -> bool {
    let mut parts = below(table);
    parts.push(table);
    parts.into_iter().all(|part| {
        // SAFETY: a catalog look-up inside the running transaction.
        match unsafe { pg_sys::get_rel_relkind(part) } as u8 {
            b'r' => Table::at(part).read(|relation| {
                let relation = std::ptr::from_ref(relation).cast_mut();
                let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
                // SAFETY: the relation is open while it is read, and has storage.
                unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation, fork) == 0 }
            }),
            b'p' => true,
            _ => false,
        }
    })
}
