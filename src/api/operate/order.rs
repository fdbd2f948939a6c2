//! Orders: how they are written, and how the sender is waited for.

use std::sync::atomic::Ordering;

use change::code::Code;
use change::trouble::Trouble;
use shipper::files::orders::Orders;

use crate::report::{Raise, notice};
use crate::sender::orders;
use crate::shared::Shared;

/// How long an order may take until the sender has taken it up; it counts later just as well.
const TAKEN_UP_MS: i64 = 15_000;

/// Writes the change of the orders down; returns its number.
pub(super) fn change(shared: &Shared, change: impl FnOnce(&mut Orders)) -> u64 {
    match orders::change(shared, change) {
        Ok(number) => number,
        Err(error) => Trouble::new(
            Code::PositionNotTrusted,
            "the order cannot be written",
            "See that the server can write the folder pg_cdc in its data directory.",
        )
        .detail(error.to_string())
        .raise(),
    }
}

/// Whether the sender has acted on the order.
pub(super) fn is_obeyed(shared: &Shared, number: u64) -> bool {
    shared.obeyed.load(Ordering::SeqCst) >= number
}

/// Waits a moment for the sender; says so where it does not come.
pub(super) fn wait_until_obeyed(shared: &Shared, number: u64) {
    if !shared.wait_until(TAKEN_UP_MS, || is_obeyed(shared, number)) {
        notice(format!(
            "the order is noted; the sender, in state {}, has not picked it up yet",
            shared.state().name()
        ));
    }
}

/// CDC0604.
pub(super) fn refuse_state(shared: &Shared, detail: &str) -> Trouble {
    let described = shared.described();
    let remedy = described
        .trouble
        .map_or_else(|| "See cdc_status().".to_owned(), |trouble| trouble.remedy);
    Trouble::new(
        Code::WrongState,
        format!("not possible in state \"{}\"", shared.state().name()),
        remedy,
    )
    .detail(detail)
}
