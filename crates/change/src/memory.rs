//! Which allocations may fail.

use std::cell::Cell;

thread_local! {
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// Runs an allocation whose failure the caller looks at.
#[cold]
pub fn may_fail<R>(allocate: impl FnOnce() -> R) -> R {
    let before = MAY_FAIL.replace(true);
    let done = allocate();
    MAY_FAIL.set(before);
    done
}

/// Whether somebody looks at what becomes of the allocation at hand: for allocators, which must not end the process then.
pub fn failure_is_looked_at() -> bool {
    MAY_FAIL.get()
}

/// A copy, if there is memory for it.
pub fn copy_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Vec::new();
    may_fail(|| copy.try_reserve_exact(bytes.len())).ok()?;
    copy.extend_from_slice(bytes);
    Some(copy)
}
