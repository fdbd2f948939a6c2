//! Where memory is out, a session ends and not the server: the standard library would abort the process, and after that
//! PostgreSQL restarts all of them. What depends on data is reserved by calls that may fail (`change::memory`), and is an
//! ERROR; this is the net below everything else.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use change::code::Code;
use change::memory::failure_is_looked_at;
use change::trouble::Trouble;

use crate::backtrace::is_main_thread;
use crate::report::Raise;

/// The C library's allocator, which never tells a main thread that there is no memory, unless it looks at that.
struct OfServer;

#[global_allocator]
static ALLOCATOR: OfServer = OfServer;

// SAFETY: every call is the system allocator's; where that has no memory, the call may also not return.
unsafe impl GlobalAlloc for OfServer {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_end(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_end(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_end(
            unsafe { System.realloc(pointer, layout, new_bytes) },
            new_bytes,
        )
    }
}

#[inline]
fn or_end(allocated: *mut u8, bytes: usize) -> *mut u8 {
    if allocated.is_null() && !failure_is_looked_at() && is_main_thread() {
        end_session(bytes);
    }
    allocated
}

/// CDC0316. Returns only if it cannot end the session: then the standard library aborts, as it does for the sender's other
/// threads, whose process `sender::abort` ends.
#[cold]
fn end_session(bytes: usize) {
    static ENDS: AtomicBool = AtomicBool::new(false);
    // What is said and done about it needs a little memory as well.
    if ENDS.swap(true, Ordering::Relaxed) {
        return;
    }
    Trouble::new(
        Code::OutOfMemory,
        "out of memory",
        "Give the server more memory, or change fewer or smaller rows in one statement.",
    )
    .detail(format!("{bytes} more bytes could not be had."))
    .end_session();
}
