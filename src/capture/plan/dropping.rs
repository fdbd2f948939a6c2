//! Whether a tracked table is being dropped.

use std::cell::Cell;

thread_local! {
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a table is just told to be untracked because its trigger goes: columns that its options name may be gone
/// already.
pub(crate) fn is_dropping() -> bool {
    DROPPING.get()
}

/// Ends [`is_dropping`], also by an error.
pub(crate) struct Dropping(());

impl Dropping {
    pub(crate) fn begin() -> Dropping {
        DROPPING.set(true);
        Dropping(())
    }
}

impl Drop for Dropping {
    fn drop(&mut self) {
        DROPPING.set(false);
    }
}
