//! A thread of the sender that aborts ends the sender in order, and not the server: librdkafka aborts where an assertion of
//! its own does not hold or there is no memory, and so does Rust. The postmaster would restart every session; so it starts the
//! sender again, which goes on at its position.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backtrace::is_main_thread;

/// How long the main thread may take to end the process. The thread may have held a lock that it waits for.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// A thread was stopped: it ends with the process.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether a thread was stopped that will never end.
pub(crate) fn has_stopped_a_thread() -> bool {
    STOPPED.load(Ordering::Acquire)
}

/// Takes SIGABRT of other threads than the main one.
pub(crate) fn take() {
    // SAFETY: on the main thread of the sender, before there are others; the handler calls only what is safe in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = stop_thread as *const () as usize;
        libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut());
    }
}

/// Returns only on the main thread, and where the process does not end in time: then `abort` kills it as ever.
extern "C" fn stop_thread(_signal: libc::c_int) {
    const TOLD: &str =
        "pg_cdc: a thread of the sender aborted: the sender ends and is started again\n";
    if is_main_thread() || STOPPED.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: calls that are safe in a handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, TOLD.as_ptr().cast(), TOLD.len());
        libc::kill(libc::getpid(), libc::SIGTERM);
    }
    std::thread::sleep(END_TIMEOUT);
}
