//! Kafka: clients, topics, partitions, and the records that are read from them.

pub(crate) mod bounds;
pub(crate) mod client;
pub(crate) mod closing_consumer;
pub(crate) mod discovery;
pub(crate) mod offsets;
pub(crate) mod partition_queues;
pub(crate) mod positions;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod scan;
