//! A partition, as it is merged.

use crate::delivery::endless_copies::EndlessCopies;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use change::version::Version;
use std::collections::VecDeque;

/// What a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneKind {
    /// A partition of a table's topic.
    Rows,
    /// The control events about a table's topic, from wherever they come, counted here instead of their offsets.
    Control,
    /// A partition of a control topic: its records go to the lanes of the topics that they are about.
    Source,
}

/// A partition that is merged.
pub(crate) struct MergeLane {
    pub(super) kind: LaneKind,
    /// How many lanes before it are read from Kafka.
    pub(super) queue: usize,
    pub(super) at: TopicPartition,
    /// Position that the target has.
    pub(super) stored_next: i64,
    /// Everything before this offset was fetched.
    pub(super) read_to: i64,
    /// Where the goal says that the partition ends.
    pub(super) end: i64,
    /// Highest version handed out.
    pub(super) version: Option<Version>,
    /// Fetched, not handed out. Copies are known when it is their turn: what is before them may be none of the source's.
    pub(super) waiting: VecDeque<(Option<Version>, Record)>,
    pub(super) copies: EndlessCopies,
}

impl MergeLane {
    pub(super) fn is_hungry(&self) -> bool {
        self.waiting.is_empty() && self.read_to < self.end
    }

    pub(super) fn next_offset(&self) -> i64 {
        self.waiting
            .front()
            .map_or(self.read_to, |(_, record)| record.offset)
    }
}
