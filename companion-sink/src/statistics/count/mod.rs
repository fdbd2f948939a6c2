//! What events count for, and how that changes the figures.

pub(crate) mod contribution;
pub(crate) mod counter;
pub(crate) mod counting;
pub(crate) mod design;
pub(crate) mod found;
pub(crate) mod running_snapshot;
pub(crate) mod snapshots;
pub(crate) mod topics;
