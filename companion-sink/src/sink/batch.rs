//! Batches of events, and how they move the positions of partitions.

use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use std::borrow::Cow;

/// Length of a batch in bytes at most, but for a single larger event.
pub(crate) const BATCH_BYTES: usize = 2 << 20;

/// How far a partition is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The offset that comes next.
    pub(crate) next_offset: i64,
    /// The highest version seen; empty for none. An event at or below is a later copy.
    pub(crate) version: String,
}

/// How a batch moves a partition's position. Only who finds `begin` there may write `end`.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    /// The partition.
    pub(crate) at: TopicPartition,
    /// The offset that came next before the batch.
    pub(crate) begin: i64,
    /// The offset that comes next after it.
    pub(crate) end: i64,
    /// The highest version seen after it.
    pub(crate) version: String,
}

/// Events to apply, those of a partition in their order, without later copies and tombstones.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The events.
    pub(crate) records: Vec<Record>,
    /// Where they bring the partitions.
    pub(crate) moves: Vec<Move>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Reasons of the events that went to the dead letters.
    pub(crate) dead_letters: Vec<Cow<'static, str>>,
    /// Keys that are parked now, of all partitions.
    pub(crate) parked_keys: u64,
    /// Changes of rows, of tables without a key, that the target did not have.
    pub(crate) unknown_rows: u64,
}
