//! Gives the sender orders, and notes for it what is done.

use std::io;
use std::sync::atomic::Ordering;

use shipper::files::orders::Orders;

use crate::shared::Shared;

/// Changes the orders, durably, and calls the sender. Returns the number of the change.
pub(crate) fn change(shared: &Shared, change: impl FnOnce(&mut Orders)) -> io::Result<u64> {
    let written = shared.with_orders(|| {
        let sent_lsn = shared.sent_lsn.load(Ordering::Acquire);
        Orders::change(sent_lsn, change)
    });
    if let Ok(number) = written {
        shared.ordered.fetch_max(number, Ordering::SeqCst);
        shared.call_sender();
    }
    written
}
