//! What is on its way to Kafka. Pure: a delivery report, or the next record, changes it; nothing here asks anybody.

pub(super) mod deliveries;
pub(super) mod gathering;
pub(super) mod open_topics;
pub(super) mod stall_watch;
pub(super) mod tag;
