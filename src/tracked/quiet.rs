//! DDL of our own.

use std::cell::Cell;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Ends the quiet of [`quiet`].
pub(crate) struct Quiet(());

/// While the value lives, DDL is our own and makes no events.
pub(crate) fn quiet() -> Quiet {
    QUIET.set(true);
    Quiet(())
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

pub(crate) fn is_quiet() -> bool {
    QUIET.get()
}
