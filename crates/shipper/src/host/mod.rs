//! What the sender shares with every process of the server: atomics in shared memory, and nothing that takes a lock.

pub mod snapshot_slots;
pub mod topic_counters;

use std::sync::atomic::AtomicU64;

use snapshot_slots::Slots;
use topic_counters::TopicCounters;

/// The part of the server's shared memory that the threads read and write.
#[derive(Clone, Copy)]
pub struct Host {
    pub topic_counters: &'static TopicCounters,
    pub snapshots: &'static Slots,
    /// Events that were given up by order.
    pub skipped_events: &'static AtomicU64,
}
