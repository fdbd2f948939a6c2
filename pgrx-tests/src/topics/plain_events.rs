//! Events that another producer than pg_cdc writes: a topic of its own, with nothing of ours in it.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::Value;

use crate::kafka::Kafka;
use crate::topic_admin;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A topic, and who writes it.
pub struct PlainEvents {
    /// Its name.
    pub topic: String,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl PlainEvents {
    /// Makes the topic, of so many partitions.
    ///
    /// # Panics
    /// When Kafka does not work.
    pub fn create(kafka: &Kafka, topic: &str, partitions: i32) -> PlainEvents {
        topic_admin::create(kafka, topic, partitions);
        PlainEvents::into(kafka, topic)
    }

    /// Writes a topic that is there.
    ///
    /// # Panics
    /// When Kafka does not work.
    pub fn into(kafka: &Kafka, topic: &str) -> PlainEvents {
        let mut client = kafka.client_config();
        let producer = client.set("partitioner", "murmur2").create();
        PlainEvents {
            topic: topic.to_owned(),
            producer: producer.expect("a producer"),
        }
    }

    /// Sends bytes, or a tombstone, and waits until Kafka has them.
    ///
    /// # Panics
    /// When it does not take them.
    pub fn send_bytes(&self, key: &str, value: Option<&[u8]>) {
        let content = Header {
            key: "content-type",
            value: Some("application/json"),
        };
        let mut record = BaseRecord::<str, [u8]>::to(&self.topic)
            .key(key)
            .headers(OwnedHeaders::new().insert(content));
        record.payload = value;
        let sent = self.producer.send(record);
        sent.map_err(|(error, _)| error).expect("send an event");
        self.producer.flush(TIMEOUT).expect("Kafka takes it");
    }

    /// Sends an event.
    ///
    /// # Panics
    /// As [`PlainEvents::send_bytes`] does.
    pub fn send(&self, key: &str, value: &Value) {
        self.send_bytes(key, Some(value.to_string().as_bytes()));
    }
}
