//! Kafka as the sender meets it: brokers that fail or are away, and what its topics get.

mod broker;
mod compression;
mod outage;
