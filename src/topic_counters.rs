//! What was acknowledged, by topic: in shared memory, counted by the sender's Kafka thread, read by `cdc_tables`.
//!
//! A table of fixed size, found by a hash of the topic's name; entries are never taken back. Atomics only, so that the
//! thread that counts needs nothing of PostgreSQL.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Topics that can be counted; of those beyond nothing is known.
const COUNTERS: usize = 16 * 1024;

/// Since the server's start.
#[repr(C)]
pub struct TopicCounter {
    /// First eight bytes of the name's BLAKE3 hash, 0 while the entry is free.
    topic: AtomicU64,
    /// Tombstones, and copies of an event in further partitions, are not counted.
    events: AtomicU64,
    /// Of their values.
    bytes: AtomicU64,
    /// Commit time of the newest, microseconds since 2000-01-01.
    last_event_us: AtomicI64,
}

impl TopicCounter {
    /// Counts one acknowledged event.
    #[inline]
    pub fn count(&self, bytes: usize, commit_us: i64) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_event_us.fetch_max(commit_us, Ordering::Relaxed);
    }
}

/// What a table's topics have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    pub events: u64,
    pub bytes: u64,
    /// 0 for none.
    pub last_event_us: i64,
}

/// All counters. Zero bytes are an empty table.
#[repr(C)]
pub struct TopicCounters([TopicCounter; COUNTERS]);

impl TopicCounters {
    /// The counter of a topic, made if it is new; none when the table is full.
    pub fn claim(&self, topic: &str) -> Option<&TopicCounter> {
        let hash = hash_of(topic);
        self.entries(hash).find(|entry| {
            let claimed =
                entry
                    .topic
                    .compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire);
            claimed.is_ok() || claimed == Err(hash)
        })
    }

    /// All begin at zero; which topics are counted stays.
    pub fn reset(&self) {
        for entry in &self.0 {
            entry.events.store(0, Ordering::Relaxed);
            entry.bytes.store(0, Ordering::Relaxed);
            entry.last_event_us.store(0, Ordering::Relaxed);
        }
    }

    /// The sums of some topics.
    pub fn sum<'a>(&self, topics: impl Iterator<Item = &'a str>) -> Counted {
        let mut sum = Counted::default();
        for topic in topics {
            let hash = hash_of(topic);
            let found = self
                .entries(hash)
                .map(|entry| (entry, entry.topic.load(Ordering::Acquire)))
                .take_while(|(_, topic)| *topic != 0)
                .find(|(_, topic)| *topic == hash);
            if let Some((entry, _)) = found {
                sum.events += entry.events.load(Ordering::Relaxed);
                sum.bytes += entry.bytes.load(Ordering::Relaxed);
                let last_event_us = entry.last_event_us.load(Ordering::Relaxed);
                sum.last_event_us = sum.last_event_us.max(last_event_us);
            }
        }
        sum
    }

    /// Every entry, beginning where a topic of this hash would be.
    fn entries(&self, hash: u64) -> impl Iterator<Item = &TopicCounter> {
        let first = hash as usize % COUNTERS;
        (0..COUNTERS).map(move |step| &self.0[(first + step) % COUNTERS])
    }
}

fn hash_of(topic: &str) -> u64 {
    let digest = blake3::hash(topic.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(bytes).max(1)
}
