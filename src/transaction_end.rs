//! The ends of transactions and subtransactions. Registered once, at server start; every backend inherits them.
//!
//! Pre-commit and pre-prepare write into the WAL and may fail: then the transaction aborts. Everything after that only
//! forgets and sets a latch: no allocation, no call that could raise an error.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use pgrx::pg_sys;
use pgrx::pg_sys::{SubXactEvent, XactEvent};

use crate::capture::buffer;
use crate::capture::state::{try_with_capture, with_capture};
use crate::shared;
use crate::snapshot::repair;
use crate::snapshot::request;

/// Registers the callbacks for this process and its children.
pub(crate) fn register() {
    // SAFETY: both functions live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_event), std::ptr::null_mut());
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn transaction_event(event: XactEvent::Type, _arg: *mut c_void) {
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT | XactEvent::XACT_EVENT_PRE_PREPARE => {
            repair::pre_commit();
            with_capture(|capture| capture.buffer.pre_commit())
        }
        XactEvent::XACT_EVENT_COMMIT => {
            request::ended(true);
            let left = try_with_capture(|capture| {
                if capture.buffer.is_idle() {
                    return None;
                }
                let written = capture.buffer.has_written();
                Some((written, capture.buffer.reset()))
            });
            if let Some(shared) = shared::shared() {
                match left.flatten() {
                    Some((written, left)) => {
                        buffer::count_uncovered(left);
                        if written {
                            // SAFETY: returns what the commit has set, without error.
                            shared.note_unsent(|| unsafe {
                                pg_sys::GetCurrentTransactionStopTimestamp()
                            });
                            // SAFETY: a plain read; set by the commit record that was just written.
                            shared.announce_commit(unsafe { pg_sys::XactLastCommitEnd });
                        }
                    }
                    // Nobody announces a COMMIT PREPARED: this may be one.
                    None if shared.prepared.load(Ordering::Relaxed) > 0 => shared.wake_sender(),
                    // SAFETY: a plain read; of the newest commit record of this backend.
                    None => shared.tell_of_wal(unsafe { pg_sys::XactLastCommitEnd }),
                }
            }
        }
        XactEvent::XACT_EVENT_ABORT | XactEvent::XACT_EVENT_PREPARE => {
            repair::forget();
            // The worker waits for what is prepared to be committed.
            request::ended(event == XactEvent::XACT_EVENT_PREPARE);
            try_with_capture(|capture| {
                if !capture.buffer.is_idle() {
                    capture.buffer.reset();
                }
            });
        }
        _ => {}
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn subtransaction_event(
    event: SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    match event {
        SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            try_with_capture(|capture| {
                capture
                    .buffer
                    .subtransaction_committed(subtransaction, parent)
            });
        }
        SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            try_with_capture(|capture| capture.buffer.subtransaction_aborted(subtransaction));
        }
        _ => {}
    }
}
