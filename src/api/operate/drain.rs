//! Draining: the sender sends all that there is, and rests.

use change::position::lsn_text;
use serde_json::{Value, json};
use shipper::files::orders::{By, Hold};

use super::order::{change, is_obeyed};
use crate::api::wait::{refuse_own_changes, timed_out};
use crate::report::Raise;
use crate::sender::orders;
use crate::sender::wal::reader::end_of_wal;
use crate::shared::{Shared, State};

/// Lets the sender send what is written until now, and rest.
pub(super) fn drain(shared: &Shared, by: By, timeout_ms: i64, drop_slot: bool) -> Value {
    refuse_own_changes();
    let up_to = end_of_wal();
    let number = change(shared, |orders| {
        orders.hold = Some(Hold::Drain {
            up_to,
            drop_slot,
            done: false,
            by,
        });
    });
    let mut call = DrainCall {
        shared,
        up_to: Some(up_to),
    };
    let is_done = || is_obeyed(shared, number) && shared.state() == State::Drained;
    shared.wait_until(timeout_ms, || {
        is_done() || (is_obeyed(shared, number) && !shared.state().goes_on())
    });
    if is_done() {
        call.up_to = None;
    } else {
        let report = timed_out(shared, up_to);
        if !call.take_back() {
            report.raise();
        }
    }
    json!(lsn_text(up_to))
}

/// A call that drains. Not drained is not stopped: should it fail, be cancelled or take too long, nobody must find the sender at
/// rest later on, when the cause is gone.
struct DrainCall<'a> {
    shared: &'a Shared,
    up_to: Option<u64>,
}

impl DrainCall<'_> {
    /// Takes the order back, unless it is another one by now; whether it was carried out after all.
    fn take_back(&mut self) -> bool {
        let Some(ours) = self.up_to.take() else {
            return true;
        };
        let mut is_done = false;
        let taken_back = orders::change(self.shared, |orders| match &orders.hold {
            Some(Hold::Drain { up_to, done, .. }) if *up_to == ours => match done {
                true => is_done = true,
                false => orders.hold = None,
            },
            _ => {}
        });
        if let Err(error) = taken_back {
            pgrx::log!("pg_cdc: the order to drain cannot be taken back: {error}");
        }
        is_done
    }
}

impl Drop for DrainCall<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}
