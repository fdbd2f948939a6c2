//! `cdc_wait`: until everything that committed before the call is in Kafka.

use std::sync::atomic::Ordering;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::datum::Interval;
use pgrx::prelude::*;

use crate::capture::state::with_capture;
use crate::report::{Raise, not_loaded};
use crate::sender::wal::reader::end_of_wal;
use crate::shared::{self, Shared, about_sender};
use crate::tracked::rights::is_monitor;

/// Waits for the end of the WAL at the call, and returns it. The target is the insert position, flushed here, so that
/// asynchronous commits count too.
#[pg_extern(
    parallel_unsafe,
    sql = "CREATE FUNCTION cdc_wait(timeout interval = '1 min') RETURNS pg_lsn LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn cdc_wait(timeout: Interval) -> i64 {
    let Some(shared) = shared::shared() else {
        not_loaded().raise()
    };
    refuse_own_changes();
    let target = end_of_wal();
    shared.announce_commit(target);
    let timeout_ms = timeout.as_micros() / 1000;
    let done = || shared.done_lsn.load(Ordering::Acquire) >= target;
    let reached = shared.wait_until(i64::try_from(timeout_ms).unwrap_or(i64::MAX), || {
        done() || !shared.state().goes_on()
    });
    if !reached || !done() {
        timed_out(shared, target).raise();
    }
    target as i64
}

/// CDC0602: what this transaction changed is sent after its commit only.
pub(crate) fn refuse_own_changes() {
    if with_capture(|capture| capture.buffer.holds_rows()) {
        Trouble::new(
            Code::OwnTransaction,
            "cannot wait for this transaction itself",
            "COMMIT first, then call cdc_wait().",
        )
        .detail("The transaction has captured changes, which are sent after its commit only.")
        .raise();
    }
}

/// CDC0601: what keeps `target` from being acknowledged.
pub(crate) fn timed_out(shared: &Shared, target: u64) -> Trouble {
    let held_bytes = target.saturating_sub(shared.done_lsn.load(Ordering::Acquire));
    let timed_out = Trouble::new(
        Code::TimedOut,
        format!(
            "timed out: {held_bytes} bytes of WAL to go, state {}",
            shared.state().name()
        ),
        "See cdc_status().",
    );
    about_sender(timed_out, shared, is_monitor())
}
