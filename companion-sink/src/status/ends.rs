//! What Kafka says of partitions: where they begin and end, since when, what a consumer group has, what lies at an offset.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::discovery::Topics;
use crate::kafka::offsets::{known, offsets, partitions_of};
use crate::kafka::reader::TopicPartition;
use crate::timestamp::now_us;

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long one event is waited for.
const READ: Duration = Duration::from_secs(3);
/// Times that are remembered of a partition at most; of more every second one is dropped.
const SEEN_MAX: usize = 512;

/// Where partitions begin and end, as of the last time that Kafka was asked, and when each end was seen first.
#[derive(Default)]
pub(crate) struct TopicEnds {
    partitions: HashMap<TopicPartition, PartitionEnd>,
}

struct PartitionEnd {
    beginning: i64,
    end: i64,
    /// The end when it was asked for the first time: of what lies before, it is not known when it came.
    first_end: i64,
    /// Ends that were seen later, with the time in microseconds since 1970.
    seen: VecDeque<(i64, i64)>,
}

impl TopicEnds {
    /// Asks where the partitions of `topics` begin and end; whether Kafka answered.
    pub(crate) fn ask(&mut self, client: &BaseConsumer, topics: &Topics) -> bool {
        let all = || {
            let topics = topics.iter();
            topics.flat_map(|(topic, partitions)| partitions_of(topic, *partitions))
        };
        let Some(ends) = offsets(client, all(), Offset::End) else {
            return false;
        };
        let fresh: Vec<TopicPartition> = all()
            .filter(|at| !self.partitions.contains_key(at))
            .collect();
        let Some(beginnings) = offsets(client, fresh.into_iter(), Offset::Beginning) else {
            return false;
        };
        self.partitions
            .retain(|at, _| topics.contains_key(&*at.topic));
        for (at, beginning) in beginnings {
            if let Some(end) = ends.get(&at) {
                let partition = PartitionEnd {
                    beginning,
                    end: *end,
                    first_end: *end,
                    seen: VecDeque::new(),
                };
                self.partitions.insert(at, partition);
            }
        }
        let now = now_us();
        for (at, end) in ends {
            if let Some(partition) = self.partitions.get_mut(&at) {
                partition.ends_at(end, now);
            }
        }
        true
    }

    /// Where a partition ends.
    pub(crate) fn end(&self, at: &TopicPartition) -> Option<i64> {
        self.partitions.get(at).map(|partition| partition.end)
    }

    /// Where a partition begins.
    pub(crate) fn beginning(&self, at: &TopicPartition) -> Option<i64> {
        self.partitions.get(at).map(|partition| partition.beginning)
    }

    /// When something from `offset` on was seen first, microseconds since 1970; `None` where it was there before.
    pub(crate) fn seen_us(&self, at: &TopicPartition, offset: i64) -> Option<i64> {
        let partition = self.partitions.get(at)?;
        if offset < partition.first_end {
            return None;
        }
        let mut seen = partition.seen.iter();
        seen.find(|(end, _)| *end > offset).map(|(_, us)| *us)
    }
}

impl PartitionEnd {
    fn ends_at(&mut self, end: i64, now: i64) {
        if end <= self.end {
            return;
        }
        self.end = end;
        self.seen.push_back((end, now));
        if self.seen.len() > SEEN_MAX {
            let mut place = 0;
            self.seen.retain(|_| {
                place += 1;
                place % 2 == 0
            });
        }
    }
}

/// The offsets that a consumer group has of some partitions; `None` if that cannot be asked.
pub(crate) fn committed<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    partitions: &[TopicPartition],
) -> Option<HashMap<TopicPartition, i64>> {
    let mut list = TopicPartitionList::new();
    for at in partitions {
        list.add_partition(&at.topic, at.partition);
    }
    let answered = client.committed_offsets(list, TIMEOUT);
    let answered = answered.inspect_err(|error| tracing::debug!(%error, "a consumer group"));
    Some(known(&answered.ok()?))
}

/// When the first event from `offset` on was written, microseconds since 1970; none inside if there is no event. `None` if that
/// could not be read.
pub(crate) fn first_time_us<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    at: &TopicPartition,
    offset: i64,
) -> Option<Option<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset))
        .ok()?;
    client.assign(&list).ok()?;
    let began = Instant::now();
    let mut found = None;
    while began.elapsed() < READ && found.is_none() {
        match client.poll(READ) {
            Some(Ok(message)) if message.topic() == &*at.topic => {
                let time_us = message.timestamp().to_millis().map(|ms| ms * 1000);
                found = Some(time_us.or(Some(now_us())));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => found = Some(None),
            _ => {}
        }
    }
    // What was fetched ahead is of no use.
    let _ = client.unassign();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_event_is_when_it_was_seen_first() {
        let at = TopicPartition {
            topic: "t".into(),
            partition: 0,
        };
        let mut ends = TopicEnds::default();
        ends.partitions.insert(
            at.clone(),
            PartitionEnd {
                beginning: 2,
                end: 10,
                first_end: 10,
                seen: VecDeque::new(),
            },
        );
        for (end, now) in [(10, 1), (12, 2), (12, 3), (20, 4)] {
            ends.partitions.get_mut(&at).unwrap().ends_at(end, now);
        }
        assert_eq!((ends.beginning(&at), ends.end(&at)), (Some(2), Some(20)));
        assert_eq!(ends.seen_us(&at, 9), None, "it was there before");
        assert_eq!(ends.seen_us(&at, 10), Some(2));
        assert_eq!(ends.seen_us(&at, 12), Some(4));
        assert_eq!(ends.seen_us(&at, 20), None, "nothing is there");
        let partition = ends.partitions.get_mut(&at).unwrap();
        for end in 21..3000 {
            partition.ends_at(end, end);
        }
        assert!(partition.seen.len() <= SEEN_MAX);
    }
}
