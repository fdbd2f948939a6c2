//! Reads pieces of partitions, to find places in them. Blocks: for threads that may wait.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::config::Loaded;
use crate::error::{Code, Result, kafka_failed};
use crate::kafka::client;
use crate::kafka::client::Silent;
use crate::kafka::client::configuration_error;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;

const MEMORY_BYTES: u64 = 8 << 20;
const POLL: Duration = Duration::from_millis(200);
const SILENCE_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The records of a partition from an offset on, to before another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) partition: i32,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

impl Piece {
    /// Offsets in it.
    pub(crate) fn len(&self) -> i64 {
        self.until - self.from
    }
}

/// A client that reads pieces of partitions.
pub(crate) struct Scan {
    consumer: BaseConsumer<Silent>,
}

impl Scan {
    /// A client for the consumer group `group`, in which nothing is committed.
    pub(crate) fn new(config: &Loaded, group: &str) -> Result<Scan> {
        let mut client = client::consumer(config, group, MEMORY_BYTES);
        client.set("statistics.interval.ms", "0");
        client.set("enable.partition.eof", "true");
        let consumer = client
            .create_with_context(Silent)
            .map_err(|error| configuration_error(&error))?;
        Ok(Scan { consumer })
    }

    /// A client for people who look into topics, for `partitions` at once: what retention takes away meanwhile is passed over, and
    /// an end is told at once.
    pub(crate) fn of_people(config: &Loaded, partitions: usize) -> Result<Scan> {
        let group = format!("{}.topic", config.name);
        let mut client = client::consumer(config, &group, MEMORY_BYTES);
        client.set("statistics.interval.ms", "0");
        client.set("enable.partition.eof", "true");
        client.set("auto.offset.reset", "earliest");
        client.set("fetch.wait.max.ms", "20");
        let consumer = client::with_queues(&client, partitions)
            .create_with_context(Silent)
            .map_err(|error| configuration_error(&error))?;
        Ok(Scan { consumer })
    }

    /// What asks and reads.
    pub(crate) fn consumer(&self) -> &BaseConsumer<Silent> {
        &self.consumer
    }

    /// The first offset of each partition whose record was sent at `ts_ms` (milliseconds since 1970) or later; `None` where there is
    /// none.
    pub(crate) fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        ts_ms: i64,
    ) -> Result<Vec<Option<i64>>> {
        let failed = |error: KafkaError| kafka_failed("asking for offsets of a time", &error);
        let mut asked = TopicPartitionList::new();
        for at in partitions {
            asked
                .add_partition_offset(&at.topic, at.partition, Offset::Offset(ts_ms))
                .map_err(failed)?;
        }
        let answer = self.consumer.offsets_for_times(asked, ANSWER_MAX);
        let answer = answer.map_err(failed)?;
        let offset = |at: &TopicPartition| {
            let found = answer.find_partition(&at.topic, at.partition)?;
            match found.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            }
        };
        Ok(partitions.iter().map(offset).collect())
    }

    /// Looks at the records of pieces of one topic as they come, in order within each, until all were read or `look` has seen enough.
    /// `look` is told when a record was sent, milliseconds since 1970; once in a while it is called without one.
    pub(crate) fn visit_pieces(
        &self,
        topic: &Arc<str>,
        pieces: &[Piece],
        look: impl FnMut(Option<(Record, Option<i64>)>) -> ControlFlow<()>,
    ) -> Result<()> {
        let failed = |error: KafkaError| kafka_failed(&format!("reading {topic}"), &error);
        let mut open = HashMap::new();
        let mut assignment = TopicPartitionList::new();
        for piece in pieces.iter().filter(|piece| piece.len() > 0) {
            let from = Offset::Offset(piece.from);
            let added = assignment.add_partition_offset(topic, piece.partition, from);
            added.map_err(failed)?;
            open.insert(piece.partition, piece.until);
        }
        let assigned = self.consumer.incremental_assign(&assignment);
        assigned.map_err(failed)?;
        let read = self.read_pieces(topic, &mut open, look);
        let dropped = self.drop_partitions(topic, open.into_keys());
        read.and(dropped.map_err(failed))
    }

    /// The same of pieces that are assigned, as `open` ends them, until it is empty.
    fn read_pieces(
        &self,
        topic: &Arc<str>,
        open: &mut HashMap<i32, i64>,
        mut look: impl FnMut(Option<(Record, Option<i64>)>) -> ControlFlow<()>,
    ) -> Result<()> {
        let failed = |error: KafkaError| kafka_failed(&format!("reading {topic}"), &error);
        let mut heard = Instant::now();
        while !open.is_empty() {
            let ended = match self.consumer.poll(POLL) {
                None if heard.elapsed() > SILENCE_MAX => return Err(silent(topic)),
                None => match look(None) {
                    ControlFlow::Break(()) => break,
                    ControlFlow::Continue(()) => continue,
                },
                Some(Ok(message)) => {
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    let Some(until) = open.get(&partition).copied() else {
                        continue;
                    };
                    let record = || Record::of(&message, Arc::clone(topic));
                    let came = (next <= until).then(|| (record(), message.timestamp().to_millis()));
                    if came.is_some() && look(came).is_break() {
                        break;
                    }
                    (next >= until).then_some(partition)
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                Some(Err(error)) => return Err(failed(error)),
            };
            heard = Instant::now();
            if let Some(partition) = ended.filter(|partition| open.remove(partition).is_some()) {
                self.drop_partitions(topic, [partition]).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// What is fetched of these partitions is of no use any more.
    fn drop_partitions(
        &self,
        topic: &str,
        partitions: impl IntoIterator<Item = i32>,
    ) -> std::result::Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(topic, partition);
        }
        match list.count() {
            0 => Ok(()),
            _ => self.consumer.incremental_unassign(&list),
        }
    }

    /// Looks at the records of a partition from the offset `from` on, up to its end or until `look` has seen enough.
    pub(crate) fn visit(
        &self,
        at: &TopicPartition,
        from: i64,
        mut look: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<()> {
        let failed = |error: KafkaError| {
            kafka_failed(&format!("reading {}-{}", at.topic, at.partition), &error)
        };
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&at.topic, at.partition, Offset::Offset(from))
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(failed)?;
        let mut heard = Instant::now();
        loop {
            match self.consumer.poll(POLL) {
                None if heard.elapsed() > SILENCE_MAX => {
                    return Err(silent(&format!("{}-{}", at.topic, at.partition)));
                }
                None => {}
                // What an assignment before had fetched may still come.
                Some(Ok(message))
                    if message.topic() != &*at.topic || message.partition() != at.partition => {}
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let record = Record::of(&message, Arc::clone(&at.topic));
                    if look(record).is_break() {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == at.partition => {
                    return Ok(());
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(failed(error)),
            }
        }
    }
}

fn silent(place: &str) -> Trouble {
    Trouble::new(
        Code::Unreachable,
        format!("kafka: {place} does not answer"),
        "Look at the brokers, then try again.",
    )
}
