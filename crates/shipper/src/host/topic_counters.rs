//! The topics that are known: what was acknowledged, how safe it is there, whose they are. In shared memory, written by the
//! sender's Kafka thread and by whoever chooses a topic, read by `cdc_tables`, `cdc_check` and `cdc_track`.
//!
//! A table of fixed size, found by a hash of the topic's name; entries are never taken back. Atomics only, so that the
//! thread that counts needs nothing of PostgreSQL.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use change::topic_name;

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
    /// [`Safety`] in one word, 0 while the topic was not looked at.
    safety: AtomicU32,
    /// Oid of the database that it belongs to, 0 if that is not known.
    database: AtomicU32,
    /// The same hash of the name as Kafka compares it, 0 while the entry is being made.
    metric: AtomicU64,
    /// Events that were not sent, for the topic is put aside.
    aside_events: AtomicU64,
}

/// How safe events are in a topic, as the brokers had it when the sender opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safety {
    /// Of the partition that has the fewest; 255 for more.
    pub replicas: u8,
    /// None if the sender may not read the topic's settings.
    pub settings: Option<SafetySettings>,
}

/// What a topic's settings make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SafetySettings {
    /// `min.insync.replicas`; 255 for more.
    pub min_in_sync: u8,
    /// `cleanup.policy` has `compact`.
    pub is_compacted: bool,
    /// It takes smaller events than topics that the sender makes.
    pub is_small: bool,
}

impl Safety {
    const LOOKED: u32 = 1 << 24;
    const READ: u32 = 1 << 25;
    const COMPACTED: u32 = 1 << 26;
    const SMALL: u32 = 1 << 27;

    fn to_word(self) -> u32 {
        let settings = self.settings.map_or(0, |settings| {
            let flag = |flag: u32, is_set: bool| if is_set { flag } else { 0 };
            Self::READ
                | flag(Self::COMPACTED, settings.is_compacted)
                | flag(Self::SMALL, settings.is_small)
                | u32::from(settings.min_in_sync) << 8
        });
        Self::LOOKED | settings | u32::from(self.replicas)
    }

    fn of_word(word: u32) -> Option<Safety> {
        let settings = (word & Self::READ != 0).then_some(SafetySettings {
            min_in_sync: (word >> 8) as u8,
            is_compacted: word & Self::COMPACTED != 0,
            is_small: word & Self::SMALL != 0,
        });
        (word & Self::LOOKED != 0).then_some(Safety {
            replicas: word as u8,
            settings,
        })
    }
}

impl TopicCounter {
    /// Notes how safe events are here.
    pub fn note(&self, safety: Safety) {
        self.safety.store(safety.to_word(), Ordering::Relaxed);
    }

    /// Notes which database writes to it; 0 for none.
    pub fn belongs_to(&self, database: u32) {
        self.database.store(database, Ordering::Relaxed);
    }

    /// Counts an event that is not sent, for the topic is put aside.
    pub fn count_aside(&self) {
        self.aside_events.fetch_add(1, Ordering::Relaxed);
    }

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
        let entry = self.entries(hash).find(|entry| {
            let claimed =
                entry
                    .topic
                    .compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire);
            claimed.is_ok() || claimed == Err(hash)
        })?;
        let metric = hash_of(&topic_name::metric(topic));
        entry.metric.store(metric, Ordering::Release);
        Some(entry)
    }

    /// The same for a topic that a database has chosen, unless it is another's; whether there was room.
    pub fn claim_for(&self, topic: &str, database: u32) -> bool {
        let entry = self.claim(topic);
        if let Some(entry) = entry {
            // Another database's stays so.
            let _taken =
                entry
                    .database
                    .compare_exchange(0, database, Ordering::Relaxed, Ordering::Relaxed);
        }
        entry.is_some()
    }

    /// Whether another topic is known that Kafka would take for the same.
    pub fn collides(&self, topic: &str) -> bool {
        let (hash, metric) = (hash_of(topic), hash_of(&topic_name::metric(topic)));
        self.0.iter().any(|entry| {
            entry.metric.load(Ordering::Acquire) == metric
                && entry.topic.load(Ordering::Acquire) != hash
        })
    }

    /// The database that a topic belongs to, 0 if that is not known.
    pub fn database_of(&self, topic: &str) -> u32 {
        let entry = self.find(topic);
        entry.map_or(0, |entry| entry.database.load(Ordering::Relaxed))
    }

    /// How many topics belong to a database.
    pub fn of_database(&self, database: u32) -> usize {
        let entries = self.0.iter();
        entries
            .filter(|entry| entry.database.load(Ordering::Relaxed) == database)
            .count()
    }

    /// Events of a topic that were not sent, for it is put aside.
    pub fn aside_events(&self, topic: &str) -> u64 {
        let entry = self.find(topic);
        entry.map_or(0, |entry| entry.aside_events.load(Ordering::Relaxed))
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
        for entry in topics.filter_map(|topic| self.find(topic)) {
            sum.events += entry.events.load(Ordering::Relaxed);
            sum.bytes += entry.bytes.load(Ordering::Relaxed);
            let last_event_us = entry.last_event_us.load(Ordering::Relaxed);
            sum.last_event_us = sum.last_event_us.max(last_event_us);
        }
        sum
    }

    /// How safe events are in a topic; none where the sender has not opened it since the server's start.
    pub fn safety(&self, topic: &str) -> Option<Safety> {
        Safety::of_word(self.find(topic)?.safety.load(Ordering::Relaxed))
    }

    fn find(&self, topic: &str) -> Option<&TopicCounter> {
        let hash = hash_of(topic);
        self.entries(hash)
            .map(|entry| (entry, entry.topic.load(Ordering::Acquire)))
            .take_while(|(_, topic)| *topic != 0)
            .find(|(_, topic)| *topic == hash)
            .map(|(entry, _)| entry)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_safety_comes_back_from_its_word() {
        let settings = |min_in_sync, is_compacted, is_small| SafetySettings {
            min_in_sync,
            is_compacted,
            is_small,
        };
        for replicas in [0, 1, 3, 255] {
            for settings in [
                None,
                Some(settings(1, false, true)),
                Some(settings(255, true, false)),
            ] {
                let safety = Safety { replicas, settings };
                assert_eq!(Safety::of_word(safety.to_word()), Some(safety));
            }
        }
        assert_eq!(Safety::of_word(0), None);
    }

    #[test]
    fn topics_are_counted_apart_and_belong_to_whom_they_were_first() {
        // SAFETY: zero bytes are an empty table.
        let counters: Box<TopicCounters> = unsafe { Box::new_zeroed().assume_init() };
        for number in 0..1000 {
            let topic = format!("shop.public.t{number}");
            assert!(counters.claim_for(&topic, 1 + number % 7));
            assert!(counters.claim_for(&topic, 99));
            counters
                .claim(&topic)
                .unwrap()
                .count(number as usize, i64::from(number));
        }
        for number in 0..1000 {
            let topic = format!("shop.public.t{number}");
            assert_eq!(counters.database_of(&topic), 1 + number % 7);
            let sum = counters.sum([topic.as_str()].into_iter());
            assert_eq!((sum.events, sum.bytes), (1, u64::from(number)));
        }
        assert_eq!(counters.of_database(99), 0);
        // Kafka takes dots and underscores for the same in the names of metrics.
        assert!(counters.collides("shop_public_t5"));
        assert!(!counters.collides("shop.public.t5"));
        counters.reset();
        assert_eq!(counters.sum(["shop.public.t5"].into_iter()).events, 0);
        assert_eq!(counters.database_of("shop.public.t5"), 6);
    }
}
