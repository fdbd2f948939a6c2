//! Commit-to-consumer latency: a consumer compares its clock with the commit time in the event, on one machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::topic;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

/// Reads a topic from its present ends until `stop`; returns for each event the microseconds since the epoch of its
/// commit, and how many milliseconds later it was here.
///
/// # Panics
/// When the topic is missing, or an event has no commit time.
pub fn measure(
    kafka: &Kafka,
    topic: &str,
    started: &AtomicBool,
    stop: &AtomicBool,
) -> Vec<(i64, f64)> {
    let consumer: BaseConsumer = kafka
        .client_config()
        .set("group.id", "pg_cdc_bench")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let offsets =
        topic::offsets(kafka, topic).unwrap_or_else(|| panic!("there is no topic {topic}"));
    let mut assignment = TopicPartitionList::new();
    for (partition, offsets) in offsets {
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(offsets.end))
            .expect("an offset");
    }
    consumer.assign(&assignment).expect("assign");

    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let message = consumer.poll(Duration::from_millis(100));
        // The first poll has connected and asked for the partitions.
        started.store(true, Ordering::Relaxed);
        let Some(Ok(message)) = message else { continue };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock after 1970");
        let event: Value =
            serde_json::from_slice(message.payload().unwrap_or_default()).expect("an event");
        let commit_us = event["source"]["ts_us"].as_i64().expect("source.ts_us");
        let now_us = i64::try_from(now.as_micros()).expect("a time");
        latencies.push((commit_us, (now_us - commit_us) as f64 / 1e3));
    }
    latencies
}
