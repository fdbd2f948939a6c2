//! What a snapshot tells the history: what was not found, and what a replay mends.

pub mod notes;
pub mod repair;
pub mod snapshots;
pub mod vanished_rows;
