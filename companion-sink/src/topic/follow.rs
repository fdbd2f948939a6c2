//! What comes into a topic, as it comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Result, kafka_failed, log};
use crate::kafka::discovery;
use crate::kafka::record::Record;
use crate::topic::asked::AskedTopic;
use crate::topic::entry::Entry;
use crate::topic::filter::TopicFilter;
use crate::topic::order::merged;

const POLL: Duration = Duration::from_millis(200);
/// What comes within this after a record is put in order with it.
const TOGETHER: Duration = Duration::from_millis(50);
const TOGETHER_MAX: usize = 1000;
/// How often it is looked whether the topic has further partitions, or is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const REPEAT_WARNING: Duration = Duration::from_secs(30);

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FollowEnd {
    Stopped,
    /// There is no such topic any more.
    Gone,
}

/// Shows what comes and is wanted, from these offsets of its partitions on.
pub(crate) fn follow(
    asked: &AskedTopic,
    from: &BTreeMap<i32, i64>,
    filter: &mut TopicFilter,
    stop: &AtomicBool,
    mut show: impl FnMut(Vec<Entry>) -> Result<()>,
) -> Result<FollowEnd> {
    let mut following = Following {
        asked,
        partitions: 0,
        looked: Instant::now(),
        warned: None,
    };
    following.add_partitions(asked.partitions, |partition| {
        from.get(&partition)
            .map_or(Offset::Beginning, |offset| Offset::Offset(*offset))
    })?;
    while !stop.load(Ordering::Relaxed) {
        let mut lanes: BTreeMap<i32, VecDeque<Entry>> = BTreeMap::new();
        for entry in following.gather() {
            if filter.accepts(&entry) {
                let lane = lanes.entry(entry.record.partition).or_default();
                lane.push_back(entry);
            }
        }
        if !lanes.is_empty() {
            show(merged(lanes.into_values().collect()))?;
        }
        if following.looked.elapsed() >= LOOK_AGAIN && !following.look_again()? {
            return Ok(FollowEnd::Gone);
        }
    }
    Ok(FollowEnd::Stopped)
}

struct Following<'f> {
    asked: &'f AskedTopic,
    /// That are read.
    partitions: i32,
    looked: Instant,
    warned: Option<Instant>,
}

impl Following<'_> {
    fn add_partitions(&mut self, partitions: i32, from: impl Fn(i32) -> Offset) -> Result<()> {
        let topic = &self.asked.topic;
        let failed = |error: KafkaError| kafka_failed(&format!("reading {topic}"), &error);
        let mut assignment = TopicPartitionList::new();
        for partition in self.partitions..partitions {
            let added = assignment.add_partition_offset(topic, partition, from(partition));
            added.map_err(failed)?;
        }
        let consumer = self.asked.scan.consumer();
        self.partitions = partitions;
        consumer.incremental_assign(&assignment).map_err(failed)
    }

    /// What comes together; waits a moment for it. Kafka's failures are told: what follows a topic outlives them.
    fn gather(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut until: Option<Instant> = None;
        while entries.len() < TOGETHER_MAX && until.is_none_or(|until| Instant::now() < until) {
            let wait = match until {
                None => POLL,
                Some(until) => until.saturating_duration_since(Instant::now()),
            };
            match self.asked.scan.consumer().poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    until = until.or(Some(Instant::now() + TOGETHER));
                    entries.push(Entry {
                        sent_ms: message.timestamp().to_millis(),
                        record: Record::of(&message, Arc::clone(&self.asked.topic)),
                    });
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => {
                    // Whether the topic is gone, it is looked then.
                    let unknown = Some(RDKafkaErrorCode::UnknownTopicOrPartition);
                    if error.rdkafka_error_code() != unknown {
                        self.warn(&error);
                    }
                    break;
                }
            }
        }
        entries
    }

    /// Whether the topic is still there; its new partitions are read from their beginnings.
    fn look_again(&mut self) -> Result<bool> {
        self.looked = Instant::now();
        let topics = match discovery::topics(self.asked.scan.consumer()) {
            Ok(topics) => topics,
            Err(error) => {
                self.tell(&error);
                return Ok(true);
            }
        };
        self.warned = None;
        let Some(partitions) = topics.get(&*self.asked.topic) else {
            return Ok(false);
        };
        if *partitions > self.partitions {
            self.add_partitions(*partitions, |_| Offset::Beginning)?;
        }
        Ok(true)
    }

    fn warn(&mut self, error: &KafkaError) {
        let doing = format!("reading {}", self.asked.topic);
        self.tell(&kafka_failed(&doing, error));
    }

    fn tell(&mut self, error: &change::trouble::Trouble) {
        if self.warned.is_none_or(|at| at.elapsed() > REPEAT_WARNING) {
            log(error, "");
            self.warned = Some(Instant::now());
        }
    }
}
