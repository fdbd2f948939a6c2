//! Reading topics whole.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use change::event::headers::HeaderName;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::kafka::Kafka;
use crate::wait_until;

/// Longest silence of the broker while a topic is read.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The partition it is in.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970, as the broker has it.
    pub timestamp_ms: i64,
    /// The headers in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The last header of that name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(n, _)| n == name)?;
        Some(
            std::str::from_utf8(value).unwrap_or_else(|e| panic!("header {name} of {self:?}: {e}")),
        )
    }

    /// The header `cdc.op`: `c u d r t`, `tombstone`, `schema`, ….
    ///
    /// # Panics
    /// When it is missing.
    pub fn op(&self) -> &str {
        self.header("cdc.op")
            .unwrap_or_else(|| panic!("cdc.op is missing in {self:?}"))
    }

    /// The header `cdc.version`, sortable as text.
    ///
    /// # Panics
    /// When it is missing.
    pub fn version(&self) -> &str {
        self.header("cdc.version")
            .unwrap_or_else(|| panic!("cdc.version is missing in {self:?}"))
    }

    /// The header `cdc.id`.
    ///
    /// # Panics
    /// When it is missing.
    pub fn id(&self) -> &str {
        self.header("cdc.id")
            .unwrap_or_else(|| panic!("cdc.id is missing in {self:?}"))
    }

    /// Whether it is a change of one row (insert, update, delete), not its tombstone or anything else.
    pub fn is_row_change(&self) -> bool {
        matches!(self.op(), "c" | "u" | "d")
    }

    /// The key as text; empty without a key.
    pub fn key_text(&self) -> &str {
        std::str::from_utf8(self.key.as_deref().unwrap_or_default()).expect("the key is UTF-8")
    }

    /// The value as text; empty for a tombstone.
    pub fn value_text(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap_or_default()).expect("the value is UTF-8")
    }

    /// The value as JSON; `Null` for a tombstone.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        match &self.value {
            None => Value::Null,
            Some(bytes) => serde_json::from_slice(bytes)
                .unwrap_or_else(|e| panic!("not JSON ({e}): {}", String::from_utf8_lossy(bytes))),
        }
    }
}

/// Reads a topic from its beginning to its present ends, in partition and offset order. Empty if there is no such
/// topic. Open and aborted Kafka transactions are left out.
///
/// # Panics
/// When the broker does not answer.
pub fn read(kafka: &Kafka, topic: &str) -> Vec<Record> {
    let mut records = Vec::new();
    visit(kafka, topic, |message| {
        records.push(Record {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
            headers: message.headers().map_or_else(Vec::new, |headers| {
                headers
                    .iter()
                    .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
                    .collect()
            }),
        });
    });
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// The partition that control events have here, beside those of the topic that they are about.
pub const CONTROL: i32 = -1;

/// The control events about a topic, in their order, with the partition [`CONTROL`]. Its database has the topic prefix `prefix`.
///
/// # Panics
/// When the broker does not answer.
pub fn read_control(kafka: &Kafka, prefix: &str, topic: &str) -> Vec<Record> {
    let mut records = read(kafka, &change::topic_name::control(prefix));
    records.retain(|record| record.header(HeaderName::TOPIC.as_str()) == Some(topic));
    for record in &mut records {
        record.partition = CONTROL;
    }
    records
}

/// Shows every record that [`read`] would return, as they come: in order within a partition.
///
/// # Panics
/// When the broker does not answer.
pub fn visit(kafka: &Kafka, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) {
    let Some(offsets) = offsets(kafka, topic) else {
        return;
    };
    let consumer: BaseConsumer = kafka
        .client_config()
        .set("group.id", "pg_cdc_test_bed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("receive.message.max.bytes", "1000000000")
        .create()
        .expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in offsets.keys() {
        assignment
            .add_partition_offset(topic, *partition, Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&assignment).expect("assign");

    let mut unread: HashSet<i32> = offsets.keys().copied().collect();
    let mut last_heard = Instant::now();
    while !unread.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last_heard = Instant::now();
                each(&message);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => eprintln!("while {topic} is read: {error}"),
            None => {}
        }
        assert!(
            last_heard.elapsed() < TIMEOUT || unread.is_empty(),
            "no answer for {} s while {topic} is read; partitions {unread:?} are not at their end",
            TIMEOUT.as_secs()
        );
    }
}

/// The first and the next offset of each partition; `None` if there is no such topic.
///
/// # Panics
/// When the broker does not answer.
pub fn offsets(kafka: &Kafka, topic: &str) -> Option<BTreeMap<i32, std::ops::Range<i64>>> {
    let client: BaseConsumer = kafka.client_config().create().expect("a consumer");
    let partitions = partitions(&client, topic)?;
    let offsets = partitions.into_iter().map(|partition| {
        // A topic that was just made, or a broker that was just started, may have no leader for a moment.
        let what = format!("the offsets of {topic}, partition {partition}");
        let (first, next) = wait_until(&what, TIMEOUT, || {
            client.fetch_watermarks(topic, partition, TIMEOUT)
        });
        (partition, first..next)
    });
    Some(offsets.collect())
}

/// The names of all topics but Kafka's own.
///
/// # Panics
/// When the broker does not answer.
pub fn names(kafka: &Kafka) -> Vec<String> {
    let client: BaseConsumer = kafka.client_config().create().expect("a consumer");
    let metadata = client
        .fetch_metadata(None, TIMEOUT)
        .expect("Kafka's metadata");
    let names = metadata
        .topics()
        .iter()
        .map(|topic| topic.name().to_owned());
    names.filter(|name| !name.starts_with("__")).collect()
}

/// Asked over all topics, because a request for one by name would create it.
fn partitions(client: &BaseConsumer, topic: &str) -> Option<Vec<i32>> {
    let metadata = client
        .fetch_metadata(None, TIMEOUT)
        .expect("Kafka's metadata");
    let found = metadata.topics().iter().find(|t| t.name() == topic)?;
    let missing = RDKafkaErrorCode::UnknownTopicOrPartition as i32;
    if found.error().is_some_and(|e| e as i32 == missing) {
        return None;
    }
    Some(found.partitions().iter().map(|p| p.id()).collect())
}
