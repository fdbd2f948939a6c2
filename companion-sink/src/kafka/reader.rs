//! Reads the assigned partitions on a thread of its own and hands the records over, bounded in bytes.
//!
//! Partitions are assigned by us, without a consumer group: where to begin stands in the target.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc as commands};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::error::{Result, misconfigured};
use crate::kafka::closing_consumer::ClosingConsumer;
use crate::kafka::record::Record;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TopicPartition {
    /// The topic's name.
    pub(crate) topic: Arc<str>,
    /// The partition's number.
    pub(crate) partition: i32,
}

impl TopicPartition {
    /// The partition of a record.
    pub(crate) fn of(record: &Record) -> Self {
        TopicPartition {
            topic: Arc::clone(&record.topic),
            partition: record.partition,
        }
    }
}

/// What the reading thread reports.
pub(crate) enum Fetched {
    /// Records, those of a partition in their order.
    Records(Vec<Record>),
    /// An offset is no longer, or not yet, in the log of its partition.
    OutOfRange,
}

enum ReaderCommand {
    Assign {
        at: TopicPartition,
        offset: i64,
        epoch: u32,
    },
    Unassign(TopicPartition),
    Commit(Vec<(TopicPartition, i64)>),
}

/// Bytes in one hand-over at most (a single larger record goes alone), and how many may wait.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_WAITING: usize = 8;
const POLL: Duration = Duration::from_millis(20);

/// The running reader. Dropping it ends the thread.
pub(crate) struct Reader {
    commands: commands::Sender<ReaderCommand>,
    fetched: mpsc::Receiver<Fetched>,
    ends: Arc<Ends>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts a reader for the sink `name`; nothing is assigned yet.
    pub(crate) fn start(client: &ClientConfig, name: &str) -> Result<Reader> {
        let ends = Arc::new(Ends::default());
        let consumer = ClosingConsumer::start(client, ReaderContext(Arc::clone(&ends)))?;
        let (commands, receiver) = commands::channel();
        let (sender, fetched) = mpsc::channel(CHUNKS_WAITING);
        let thread = thread::Builder::new()
            .name(format!("read {name}"))
            .spawn(move || {
                Loop {
                    consumer,
                    commands: receiver,
                    fetched: sender,
                    topics: HashMap::new(),
                    out_of_range: false,
                }
                .run();
            })
            .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))?;
        Ok(Reader {
            commands,
            fetched,
            ends,
            thread: Some(thread),
        })
    }

    /// Reads a partition from `offset` on. Its records carry `epoch`.
    pub(crate) fn assign(&self, at: TopicPartition, offset: i64, epoch: u32) {
        self.send(ReaderCommand::Assign { at, offset, epoch });
    }

    /// Stops reading a partition. What was read already may still arrive.
    pub(crate) fn unassign(&self, at: TopicPartition) {
        self.send(ReaderCommand::Unassign(at));
    }

    /// Copies applied offsets into the consumer group, for lag tools.
    pub(crate) fn commit(&self, offsets: Vec<(TopicPartition, i64)>) {
        self.send(ReaderCommand::Commit(offsets));
    }

    /// The next hand-over; `None` when the thread is gone.
    pub(crate) async fn next(&mut self) -> Option<Fetched> {
        self.fetched.recv().await
    }

    /// The next hand-over if there is one already.
    pub(crate) fn next_now(&mut self) -> Option<Fetched> {
        self.fetched.try_recv().ok()
    }

    /// The offset before which nothing is left of a partition, as of the last second, when `next_offset` comes next.
    pub(crate) fn nothing_before(&self, at: &TopicPartition, next_offset: i64) -> i64 {
        self.ends.nothing_before(at, next_offset)
    }

    /// Whether nothing before `end` is left of a partition, as of the last second, when `next_offset` comes next: behind the
    /// last record there may be markers of Kafka's transactions, and records that were aborted or compacted away.
    pub(crate) fn is_read_to(&self, at: &TopicPartition, end: i64, next_offset: i64) -> bool {
        self.ends.is_handed_over(at, end) && self.ends.is_applied(at, next_offset)
    }

    fn send(&self, command: ReaderCommand) {
        // The thread only ends with this reader, or after it closed `fetched`, which `next` reports.
        let _ = self.commands.send(command);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.fetched.close();
        while self.fetched.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reading thread panicked");
        }
    }
}

struct Loop {
    consumer: ClosingConsumer<ReaderContext>,
    commands: commands::Receiver<ReaderCommand>,
    fetched: mpsc::Sender<Fetched>,
    /// Topic names as shared text, with the epoch of each assigned partition.
    topics: HashMap<Arc<str>, HashMap<i32, u32>>,
    /// An offset out of range was seen behind records that go first.
    out_of_range: bool,
}

impl Loop {
    fn run(mut self) {
        while !self.fetched.is_closed() {
            while let Ok(command) = self.commands.try_recv() {
                if let Err(error) = self.obey(command) {
                    tracing::warn!(%error, "kafka refused a change of the assignment");
                }
            }
            let Some(fetched) = self.poll() else { continue };
            if self.fetched.blocking_send(fetched).is_err() {
                return;
            }
        }
    }

    fn obey(&mut self, command: ReaderCommand) -> std::result::Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        match command {
            ReaderCommand::Assign { at, offset, epoch } => {
                list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset))?;
                self.topics
                    .entry(Arc::clone(&at.topic))
                    .or_default()
                    .insert(at.partition, epoch);
                self.consumer.incremental_assign(&list)
            }
            ReaderCommand::Unassign(at) => {
                list.add_partition(&at.topic, at.partition);
                if let Some(partitions) = self.topics.get_mut(&at.topic) {
                    partitions.remove(&at.partition);
                }
                self.consumer.incremental_unassign(&list)
            }
            ReaderCommand::Commit(offsets) => {
                for (at, offset) in offsets {
                    list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset))?;
                }
                self.consumer.commit(&list, CommitMode::Async)
            }
        }
    }

    /// Waits a moment for a record and takes what else is there, up to the size of a hand-over.
    fn poll(&mut self) -> Option<Fetched> {
        if std::mem::take(&mut self.out_of_range) {
            return Some(Fetched::OutOfRange);
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut timeout = POLL;
        while bytes < CHUNK_BYTES {
            match self.consumer.poll(timeout) {
                None => break,
                Some(Ok(message)) => {
                    if let Some(record) = self.own(&message) {
                        bytes += record.size_bytes();
                        records.push(record);
                    }
                }
                Some(Err(error)) => {
                    if is_out_of_range(&error) {
                        self.out_of_range = true;
                        break;
                    }
                    report(&error);
                }
            }
            timeout = Duration::ZERO;
        }
        (!records.is_empty()).then_some(Fetched::Records(records))
    }

    fn own(&self, message: &BorrowedMessage<'_>) -> Option<Record> {
        let (topic, partitions) = self.topics.get_key_value(message.topic())?;
        let mut record = Record::of(message, Arc::clone(topic));
        record.epoch = *partitions.get(&message.partition())?;
        Some(record)
    }
}

/// Whether an offset is no longer, or not yet, in the log.
pub(crate) fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
        )
    )
}

/// Tells an error of a client: connection troubles are told by discovery, once; the rest is worth a line.
pub(crate) fn report(error: &KafkaError) {
    match error {
        KafkaError::MessageConsumption(
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve,
        ) => tracing::debug!(%error, "kafka"),
        _ => tracing::warn!(%error, "kafka"),
    }
}

/// Takes librdkafka's statistics.
pub(crate) struct ReaderContext(pub(crate) Arc<Ends>);

impl ClientContext for ReaderContext {
    // Comes out of a poll as well, and is reported there.
    fn error(&self, _: KafkaError, _: &str) {}

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => self.0.replace(statistics),
            Err(error) => tracing::debug!(%error, "librdkafka's statistics"),
        }
    }
}

impl ConsumerContext for ReaderContext {
    fn commit_callback(
        &self,
        result: rdkafka::error::KafkaResult<()>,
        _offsets: &TopicPartitionList,
    ) {
        // Only a copy for lag tools: the truth is in the target.
        if let Err(error) = result {
            tracing::debug!(%error, "offsets were not copied into the consumer group");
        }
    }
}

/// Where the partitions end, from librdkafka's statistics of each second.
#[derive(Default)]
pub(crate) struct Ends(Mutex<HashMap<String, HashMap<i32, PartitionStatistics>>>);

impl Ends {
    fn replace(&self, statistics: Statistics) {
        let ends = statistics
            .topics
            .into_iter()
            .map(|(name, topic)| {
                let partitions = topic.partitions.into_values().map(|p| (p.partition, p));
                (name, partitions.collect())
            })
            .collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    /// Whether everything before `offset` was handed over, as of the last second.
    pub(crate) fn is_handed_over(&self, at: &TopicPartition, offset: i64) -> bool {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.get(&*at.topic)
            .and_then(|topic| topic.get(&at.partition))
            .is_some_and(|end| end.next_offset >= offset && end.fetchq_cnt == 0)
    }

    /// Whether all that was handed over is applied, as of the last second, when `next_offset` comes next.
    fn is_applied(&self, at: &TopicPartition, next_offset: i64) -> bool {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.get(&*at.topic)
            .and_then(|topic| topic.get(&at.partition))
            .is_some_and(|end| next_offset >= end.app_offset)
    }

    /// The offset before which nothing is left, as of the last second, when `next_offset` comes next: where everything that was
    /// fetched was handed over and is applied, what lies behind the last event are markers of Kafka's transactions.
    pub(crate) fn nothing_before(&self, at: &TopicPartition, next_offset: i64) -> i64 {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = ends
            .get(&*at.topic)
            .and_then(|topic| topic.get(&at.partition));
        match end {
            Some(end) if end.fetchq_cnt == 0 && next_offset >= end.app_offset => {
                next_offset.max(end.next_offset)
            }
            _ => next_offset,
        }
    }
}

#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    partition: i32,
    next_offset: i64,
    app_offset: i64,
    fetchq_cnt: i64,
}
