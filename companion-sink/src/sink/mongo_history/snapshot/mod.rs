//! What a snapshot tells the history: what was not found, and what a replay mends.

pub(crate) mod notes;
pub(crate) mod repair;
pub(crate) mod snapshots;
mod vanished_rows;
