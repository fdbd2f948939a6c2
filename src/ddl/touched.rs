//! The relations that the running transaction may have changed: those about which the relation cache was told something.

use std::cell::Cell;

use pgrx::pg_sys;

/// How many are remembered one by one.
const REMEMBERED: usize = 64;

thread_local! {
    /// Those told of, and how many; more than fit means any.
    static TOLD: [Cell<pg_sys::Oid>; REMEMBERED] = const { [const { Cell::new(pg_sys::InvalidOid) }; REMEMBERED] };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Listens; only at server start, for every backend to come.
pub(crate) fn register() {
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(told), pg_sys::Datum::from(0)) };
}

/// Allocates nothing: it also runs while a transaction is aborted.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn told(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    let count = COUNT.get();
    if count > REMEMBERED {
        return;
    }
    if relation == pg_sys::InvalidOid {
        COUNT.set(REMEMBERED + 1);
        return;
    }
    TOLD.with(|told| {
        if told[..count].iter().any(|known| known.get() == relation) {
            return;
        }
        if let Some(free) = told.get(count) {
            free.set(relation);
        }
        COUNT.set(count + 1);
    });
}

/// Takes them, each once; `None` where they were too many to remember.
pub(crate) fn take() -> Option<Vec<pg_sys::Oid>> {
    let count = COUNT.replace(0);
    if count > REMEMBERED {
        return None;
    }
    let mut found: Vec<pg_sys::Oid> =
        TOLD.with(|told| told[..count].iter().map(Cell::get).collect());
    found.sort_unstable_by_key(|oid| oid.to_u32());
    Some(found)
}

/// Forgets what was told before.
pub(crate) fn forget() {
    COUNT.set(0);
}
