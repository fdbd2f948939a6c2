//! No Rust backtrace and no path of the build machine in DETAIL or in the server log, whatever the environment says: users
//! read them, and they tell nothing that the message does not.

use std::backtrace::Backtrace;
use std::env;

/// What the standard library asks for, once, at the first backtrace of this library.
const VARIABLES: [&str; 2] = ["RUST_LIB_BACKTRACE", "RUST_BACKTRACE"];

/// Settles for the life of the process that no backtrace is taken. When the library is loaded, before any thread of its own
/// exists. The environment is left as it was: programs that the server starts have it too.
pub(crate) fn settle() {
    let before = VARIABLES.map(|name| (name, env::var_os(name)));
    // SAFETY: the only thread of the process; whoever loads libraries later does so on a backend's only thread.
    unsafe {
        for (name, _) in &before {
            env::set_var(name, "0");
        }
        drop(Backtrace::capture());
        for (name, value) in before {
            match value {
                Some(value) => env::set_var(name, value),
                None => env::remove_var(name),
            }
        }
    }
    // pgrx turns panics of the main thread into errors; of the sender's threads the default hook would print path and trace.
    let of_main_thread = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if is_main_thread() {
            of_main_thread(info);
        } else {
            let place = info.location().map_or_else(String::new, |location| {
                let file = location.file().rsplit('/').next().unwrap_or_default();
                format!(" at {file}:{}", location.line())
            });
            eprintln!("pg_cdc: a thread of the sender panicked{place}");
        }
    }));
}

/// Whether this thread is the process's first one, on which alone PostgreSQL may be called.
pub(crate) fn is_main_thread() -> bool {
    // SAFETY: both calls take nothing and cannot fail.
    unsafe { libc::gettid() == libc::getpid() }
}
