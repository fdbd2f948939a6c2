//! Reads each partition from a queue of its own, so that one that is far ahead waits in librdkafka, within its share of the
//! memory, while another is read on.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::Notify;

use crate::consumer::{Context, Ends, TopicPartition, is_out_of_range, report};
use crate::discovery::configuration_error;
use crate::error::{Error, Result};
use crate::record::Record;

/// The queues of the assigned partitions.
pub struct PartitionQueues {
    // Before the consumer, which must outlive them.
    queues: Vec<Queue>,
    consumer: Arc<BaseConsumer<Context>>,
    ends: Arc<Ends>,
    arrived: Arc<Notify>,
}

struct Queue {
    at: TopicPartition,
    queue: PartitionQueue<Context>,
}

/// What a queue had.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// So many records.
    Records(usize),
    /// The offset is no longer, or not yet, in the log.
    OutOfRange,
}

impl PartitionQueues {
    /// A consumer without partitions.
    pub fn start(client: &ClientConfig) -> Result<Self> {
        let ends = Arc::new(Ends::default());
        let consumer: BaseConsumer<Context> = client
            .create_with_context(Context(Arc::clone(&ends)))
            .map_err(|error| configuration_error(&error))?;
        Ok(PartitionQueues {
            queues: Vec::new(),
            consumer: Arc::new(consumer),
            ends,
            arrived: Arc::new(Notify::new()),
        })
    }

    /// Reads one more partition, from `offset` on. Its place is the number of those before.
    pub fn assign(&mut self, at: TopicPartition, offset: i64) -> Result<()> {
        let failed = |error: KafkaError| Error::kafka("assigning a partition", &error);
        // First the queue, or the first records would go to the common one.
        let queue = self.consumer.split_partition_queue(&at.topic, at.partition);
        let mut queue = queue.ok_or_else(|| failed(KafkaError::Canceled))?;
        let arrived = Arc::clone(&self.arrived);
        queue.set_nonempty_callback(move || arrived.notify_one());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .map_err(failed)?;
        self.queues.push(Queue { at, queue });
        Ok(())
    }

    /// Takes what the queue at `place` has, up to about `bytes`.
    pub fn poll(&self, place: usize, bytes: usize, mut take: impl FnMut(Record)) -> Polled {
        let Queue { at, queue } = &self.queues[place];
        let (mut taken, mut count) = (0, 0);
        while taken < bytes {
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let record = Record::of(&message, Arc::clone(&at.topic));
                    taken += record.size_bytes();
                    count += 1;
                    take(record);
                }
                Some(Err(error)) if is_out_of_range(&error) => return Polled::OutOfRange,
                Some(Err(error)) => report(&error),
            }
        }
        Polled::Records(count)
    }

    /// Waits until a queue that was empty has something.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Lets librdkafka tell errors and statistics; to be called every second.
    pub fn serve(&self) {
        while let Some(told) = self.consumer.poll(Duration::ZERO) {
            if let Err(error) = told {
                report(&error);
            }
        }
    }

    /// Whether everything before `offset` came out of the queue at `place`, as of the last second: behind the last record
    /// there may be markers of Kafka's transactions, and records that were aborted or compacted away.
    pub fn is_read_to(&self, place: usize, offset: i64) -> bool {
        self.ends.is_handed_over(&self.queues[place].at, offset)
    }

    /// Events of a partition that are not applied yet, as of the last second, when `next_offset` comes next.
    pub fn lag(&self, at: &TopicPartition, next_offset: i64) -> u64 {
        self.ends.lag(at, next_offset)
    }

    /// Copies applied offsets into the consumer group, for lag tools.
    pub fn commit(&self, offsets: &[(TopicPartition, i64)]) {
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
