//! What rendering needs to know besides the rows.

use super::snapshot_window::TableId;

/// What rendering needs to know besides the rows.
pub struct RenderOptions<'c> {
    /// Now, microseconds since 1970.
    pub sent_us: i64,
    /// Adds a tombstone after each delete of a table that allows it.
    pub tombstones: bool,
    /// Sends truncates into the tables' topics too, as Debezium does without `skipped.operations`.
    pub truncates: bool,
    /// The sender's session: chunks of another one are rejected.
    pub session: u64,
    /// Whether a snapshot of a table is being made.
    pub is_snapshot: &'c dyn Fn(TableId) -> bool,
    /// Whether nothing of this transaction is sent into a topic.
    pub is_withheld: &'c dyn Fn(&str) -> bool,
}
