//! Where partitions begin and end, asked of many at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::reader::TopicPartition;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The partitions of a topic.
pub(crate) fn partitions_of(topic: &str, partitions: i32) -> impl Iterator<Item = TopicPartition> {
    let topic: Arc<str> = topic.into();
    (0..partitions).map(move |partition| TopicPartition {
        topic: Arc::clone(&topic),
        partition,
    })
}

/// Kafka's answer for some partitions; `None` if it did not answer for all of those that it has.
pub(crate) fn offsets<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    partitions: impl Iterator<Item = TopicPartition>,
    which: Offset,
) -> Option<HashMap<TopicPartition, i64>> {
    let mut list = TopicPartitionList::new();
    for at in partitions {
        // Kafka takes these in the place of a time, too.
        list.add_partition_offset(&at.topic, at.partition, which)
            .ok()?;
    }
    if list.count() == 0 {
        return Some(HashMap::new());
    }
    let answered = client.offsets_for_times(list, TIMEOUT);
    let answered = answered.inspect_err(|error| tracing::debug!(%error, "where partitions end"));
    Some(known(&answered.ok()?))
}

/// What an answer knows.
pub(crate) fn known(list: &TopicPartitionList) -> HashMap<TopicPartition, i64> {
    let elements = list.elements();
    let known = elements.iter().filter_map(|element| {
        element.error().ok()?;
        let Offset::Offset(offset) = element.offset() else {
            return None;
        };
        let at = TopicPartition {
            topic: element.topic().into(),
            partition: element.partition(),
        };
        Some((at, offset))
    });
    known.collect()
}
