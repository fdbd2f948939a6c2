//! What reads Debezium's topics reads pg_cdc's: programs that other people wrote, each with the settings that
//! docs/debezium.md names.

mod flink;
mod java_consumer;
mod kafkajs;
mod mongo_sink;
mod reading;
