//! DDL of our own.

use std::cell::Cell;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Ends the quiet of [`quiet`].
pub struct Quiet(());

/// While the value lives, DDL is our own and makes no events.
pub fn quiet() -> Quiet {
    QUIET.set(true);
    Quiet(())
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

pub fn is_quiet() -> bool {
    QUIET.get()
}
