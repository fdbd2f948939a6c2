//! Reads the partitions on a thread of its own, each from a queue of its own, so that one that is far ahead waits in librdkafka,
//! within its share of the memory, while another is read on.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::Notify;

use crate::error::{Result, kafka_failed, misconfigured};
use crate::kafka::client::with_queues;
use crate::kafka::closing_consumer::ClosingConsumer;
use crate::kafka::reader::Ends;
use crate::kafka::reader::ReaderContext;
use crate::kafka::reader::TopicPartition;
use crate::kafka::reader::is_out_of_range;
use crate::kafka::reader::report;
use crate::kafka::record::{Gathering, Record};

/// What is read and waits to be polled, over all partitions.
const WAITING_BYTES: usize = 4 << 20;
/// Partitions for which it does not matter how many there are.
const FEW: usize = 4;
/// Records that are handed over together, at most.
const CHUNK_BYTES: usize = 256 << 10;

/// The queues of the assigned partitions. Dropping them ends the thread.
pub(crate) struct PartitionQueues {
    shared: Arc<Queues>,
    consumer: ClosingConsumer<ReaderContext>,
    ends: Arc<Ends>,
    reader: Option<JoinHandle<()>>,
    /// The memory is shared by so many.
    planned: usize,
}

/// What a queue had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    /// So many records.
    Records(usize),
    /// The offset is no longer, or not yet, in the log.
    OutOfRange,
}

/// Between the reading thread, librdkafka and the sink.
#[derive(Default)]
struct Queues {
    reading: Mutex<QueueReading>,
    /// The thread has something to do.
    wanted: Condvar,
    /// Something was read.
    arrived: Notify,
}

#[derive(Default)]
struct QueueReading {
    partitions: Vec<Partition>,
    is_over: bool,
}

struct Partition {
    queue: Arc<Queue>,
    /// What was read, in its order.
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// librdkafka may have more.
    has_more: bool,
    /// The thread has something of it in its hands.
    is_read: bool,
    is_out_of_range: bool,
}

struct Queue {
    at: TopicPartition,
    queue: PartitionQueue<ReaderContext>,
}

/// What came out of a queue at once.
#[derive(Default)]
struct Chunk {
    records: Vec<Record>,
    bytes: usize,
    /// Nothing was left.
    is_all: bool,
    is_out_of_range: bool,
}

impl PartitionQueues {
    /// A consumer for about so many `partitions`, none of which is assigned yet, read for the sink `name`.
    pub(crate) fn start(client: &ClientConfig, name: &str, partitions: usize) -> Result<Self> {
        let ends = Arc::new(Ends::default());
        let client = with_queues(client, partitions);
        let consumer = ClosingConsumer::start(&client, ReaderContext(Arc::clone(&ends)))?;
        let shared = Arc::new(Queues::default());
        let reading = Arc::clone(&shared);
        let reader = thread::Builder::new()
            .name(format!("read {name}"))
            .spawn(move || reading.read())
            .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))?;
        Ok(PartitionQueues {
            shared,
            consumer,
            ends,
            reader: Some(reader),
            planned: partitions,
        })
    }

    /// Whether the memory was shared for fewer than so many `partitions`: those that come later may take twice of it.
    pub(crate) fn are_too_small_for(&self, partitions: usize) -> bool {
        partitions > 2 * self.planned.max(FEW)
    }

    /// Reads one more partition, from `offset` on. Its place is the number of those before.
    pub(crate) fn assign(&mut self, at: TopicPartition, offset: i64) -> Result<()> {
        let failed = |error: KafkaError| kafka_failed("assigning a partition", &error);
        // First the queue, or the first records would go to the common one.
        let queue = self.consumer.split_partition_queue(&at.topic, at.partition);
        let mut queue = queue.ok_or_else(|| failed(KafkaError::Canceled))?;
        let place = self.shared.lock().partitions.len();
        let shared = Arc::clone(&self.shared);
        // librdkafka calls back holding a lock of its own, and takes that here: ours must be free.
        queue.set_nonempty_callback(move || shared.has_more(place));
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset))
            .map_err(failed)?;
        self.shared.lock().partitions.push(Partition {
            queue: Arc::new(Queue { at, queue }),
            chunks: VecDeque::new(),
            bytes: 0,
            has_more: false,
            is_read: false,
            is_out_of_range: false,
        });
        self.consumer.incremental_assign(&list).map_err(failed)
    }

    /// Takes what was read together of the partition at `place`.
    pub(crate) fn poll(&self, place: usize, take: impl FnMut(Record)) -> Polled {
        let mut reading = self.shared.lock();
        let partition = &mut reading.partitions[place];
        let Some(chunk) = partition.chunks.pop_front() else {
            return match std::mem::take(&mut partition.is_out_of_range) {
                true => Polled::OutOfRange,
                false => Polled::Records(0),
            };
        };
        partition.bytes -= chunk.bytes;
        drop(reading);
        self.shared.wanted.notify_one();
        let records = chunk.records.len();
        chunk.records.into_iter().for_each(take);
        Polled::Records(records)
    }

    /// Waits until something was read.
    pub(crate) async fn arrived(&self) {
        self.shared.arrived.notified().await;
    }

    /// Lets librdkafka tell errors and statistics; to be called every second.
    pub(crate) fn serve(&self) {
        while let Some(told) = self.consumer.poll(Duration::ZERO) {
            if let Err(error) = told {
                report(&error);
            }
        }
    }

    /// Whether everything before `offset` of the partition at `place` was polled, as of the last second: behind the last
    /// record there may be markers of Kafka's transactions, and records that were aborted or compacted away.
    pub(crate) fn is_read_to(&self, place: usize, offset: i64) -> bool {
        let at = Arc::clone(&self.shared.lock().partitions[place].queue);
        // In this order: what librdkafka has handed over before is in the thread's hands, in a chunk, or was polled.
        if !self.ends.is_handed_over(&at.at, offset) {
            return false;
        }
        let reading = self.shared.lock();
        let partition = &reading.partitions[place];
        !partition.is_read && partition.chunks.is_empty()
    }

    /// The offset before which nothing is left of a partition, as of the last second, when `next_offset` comes next.
    pub(crate) fn nothing_before(&self, at: &TopicPartition, next_offset: i64) -> i64 {
        self.ends.nothing_before(at, next_offset)
    }

    /// Copies applied offsets into the consumer group, for lag tools.
    pub(crate) fn commit(&self, offsets: &[(TopicPartition, i64)]) {
        let mut list = TopicPartitionList::new();
        let added = offsets.iter().try_for_each(|(at, offset)| {
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(*offset))
        });
        let committed = added.and_then(|()| self.consumer.commit(&list, CommitMode::Async));
        if let Err(error) = committed {
            tracing::debug!(%error, "offsets were not copied into the consumer group");
        }
    }
}

impl Drop for PartitionQueues {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.wanted.notify_one();
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("the reading thread panicked");
        }
        // The consumer must outlive its queues, and their callbacks hold what is shared. A callback may wait for the lock.
        let partitions = std::mem::take(&mut self.shared.lock().partitions);
        drop(partitions);
    }
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, QueueReading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// librdkafka's queue of the partition at `place` is no longer empty.
    fn has_more(&self, place: usize) {
        if let Some(partition) = self.lock().partitions.get_mut(place) {
            partition.has_more = true;
            self.wanted.notify_one();
        }
    }

    /// Reads, of the partition of which least waits, until it is over.
    fn read(&self) {
        let mut reading = self.lock();
        while !reading.is_over {
            let share = WAITING_BYTES / reading.partitions.len().max(1);
            let partitions = reading.partitions.iter_mut();
            let next = partitions
                .filter(|partition| partition.has_more && partition.bytes < share)
                .min_by_key(|partition| partition.bytes);
            let Some(next) = next else {
                let waited = self.wanted.wait(reading);
                reading = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            next.is_read = true;
            next.has_more = false;
            let queue = Arc::clone(&next.queue);
            drop(reading);
            let chunk = queue.read(CHUNK_BYTES.min(share));
            reading = self.lock();
            let partition = reading
                .partitions
                .iter_mut()
                .find(|partition| Arc::ptr_eq(&partition.queue, &queue));
            let Some(partition) = partition else { continue };
            partition.is_read = false;
            partition.has_more |= !chunk.is_all;
            partition.is_out_of_range |= chunk.is_out_of_range;
            partition.bytes += chunk.bytes;
            if !chunk.records.is_empty() {
                partition.chunks.push_back(chunk);
            }
            self.arrived.notify_one();
        }
    }
}

impl Queue {
    /// Takes what there is, up to about `bytes`.
    fn read(&self, bytes: usize) -> Chunk {
        let mut chunk = Chunk::default();
        let mut gathering = Gathering::default();
        while gathering.size_bytes() < bytes {
            match self.queue.poll(Duration::ZERO) {
                None => {
                    chunk.is_all = true;
                    break;
                }
                Some(Ok(message)) => gathering.add(&message, Arc::clone(&self.at.topic)),
                Some(Err(error)) if is_out_of_range(&error) => {
                    chunk.is_out_of_range = true;
                    break;
                }
                Some(Err(error)) => report(&error),
            }
        }
        chunk.bytes = gathering.size_bytes();
        chunk.records = gathering.finish();
        chunk
    }
}
