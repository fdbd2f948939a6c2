//! Reads pieces of partitions, to find places in them. Blocks: for threads that may wait.

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
                    return Err(Trouble::new(
                        Code::Unreachable,
                        format!("kafka: {}-{} does not answer", at.topic, at.partition),
                        "Look at the brokers, then replay again.",
                    ));
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
