//! Descriptors of composite types.

use pgrx::pg_sys;

/// The descriptor of a composite type, released when dropped.
pub(super) struct RowType(pub pg_sys::TupleDesc);

impl RowType {
    /// # Safety
    /// In a transaction.
    pub(super) unsafe fn look_up(type_id: pg_sys::Oid, typmod: i32) -> RowType {
        // SAFETY: in a transaction; a type that is gone is an ERROR.
        RowType(unsafe { pg_sys::lookup_rowtype_tupdesc(type_id, typmod) })
    }
}

impl Drop for RowType {
    fn drop(&mut self) {
        // After an ERROR the transaction's resource owner has let it go.
        if !std::thread::panicking() {
            // SAFETY: counted by `look_up`, where it is counted at all (ReleaseTupleDesc in access/tupdesc.h).
            unsafe {
                if (*self.0).tdrefcount >= 0 {
                    pg_sys::DecrTupleDescRefCount(self.0);
                }
            }
        }
    }
}
