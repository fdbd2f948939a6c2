//! Kafka: clients, topics, partitions, and the records that are read from them.

pub mod bounds;
pub mod client;
pub mod closing_consumer;
pub mod discovery;
pub mod partition_queues;
pub mod positions;
pub mod reader;
pub mod record;
