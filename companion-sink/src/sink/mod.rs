//! What a sink is: it applies batches of events and keeps, with its data, how far it is.

pub mod bounds;
pub mod by_partition;
pub mod changes;
pub mod in_commit_order;
mod merge;
pub mod mongo_history;
mod partition_queues;
pub mod postgres;
pub mod refusal_limit;
pub mod runner;

use std::future::Future;

use crate::consumer::TopicPartition;
use crate::dead_letter::DeadLetters;
use crate::error::{Code, Error, Result};
use crate::event::Malformed;
use crate::record::Record;
use crate::watermark::Complete;

/// Length of a batch in bytes at most, but for a single larger event.
pub const BATCH_BYTES: usize = 2 << 20;

/// How far a partition is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The offset that comes next.
    pub next_offset: i64,
    /// The highest version seen; empty for none. An event at or below is a later copy.
    pub version: String,
}

/// How a batch moves a partition's position. Only who finds `begin` there may write `end`.
#[derive(Debug, Clone)]
pub struct Move {
    /// The partition.
    pub at: TopicPartition,
    /// The offset that came next before the batch.
    pub begin: i64,
    /// The offset that comes next after it.
    pub end: i64,
    /// The highest version seen after it.
    pub version: String,
}

/// Events to apply, those of a partition in their order, without later copies and tombstones.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events.
    pub records: Vec<Record>,
    /// Where they bring the partitions.
    pub moves: Vec<Move>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Applied {
    /// Reasons of the events that went to the dead letters.
    pub dead_letters: Vec<&'static str>,
    /// Keys that are parked now, of all partitions.
    pub parked_keys: u64,
}

/// A target. After an error nothing of the sink's connection is trusted: `connect` comes next, then `positions`.
pub trait Sink: Send + Sync {
    /// Connects and makes what the sink keeps there for itself.
    fn connect(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// How far the partitions are, `None` for one that the target does not know.
    fn positions(
        &mut self,
        wanted: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<Option<Position>>>> + Send;

    /// Notes where partitions begin that the target did not know.
    fn begin(
        &mut self,
        starts: &[(TopicPartition, i64)],
    ) -> impl Future<Output = Result<()>> + Send;

    /// Applies a batch and moves the positions, so that no crash loses or doubles an event.
    fn apply(
        &mut self,
        batch: &Batch,
        dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<Applied>> + Send;

    /// Waits until a person has decided about an event that was put aside.
    fn decided(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Carries such decisions out; how many keys are parked then.
    fn carry_out(
        &mut self,
        _dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<u64>> + Send {
        async { Ok(0) }
    }

    /// Notes up to which commit everything is there.
    fn note_complete(&mut self, _complete: &Complete) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Whether an event about the whole table waits until every partition of its topic has reached it.
    fn waits_together(&self, record: &Record) -> bool;

    /// Does what the event `record` about the whole table says, a truncate, or the beginning or end of a snapshot. All
    /// partitions of `moves` have reached it.
    fn apply_together(
        &mut self,
        record: &Record,
        moves: &[Move],
    ) -> impl Future<Output = Result<()>> + Send;
}

/// The beginning or end of a snapshot that cannot be followed.
pub fn unreadable_snapshot(Malformed(why): Malformed) -> Error {
    Error::new(
        Code::SchemaChange,
        format!("a snapshot event: {why}"),
        "Look at the topic; make another snapshot, set the stored offsets behind this one, restart.",
    )
}
