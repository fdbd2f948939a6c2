//! What the settings say of Kafka.

use std::time::Duration;

use change::trouble::Trouble;
use shipper::kafka::properties::read_properties;
use shipper::kafka::settings::{KafkaSettings, MAX_RECORD_BYTES};

use crate::settings;

/// The settings as they are now, with the properties file read again.
pub(super) fn read_settings() -> Result<KafkaSettings, Trouble> {
    let retention_min = i64::from(settings::TOPIC_RETENTION.get());
    Ok(KafkaSettings {
        brokers: settings::text(&settings::BROKERS),
        source_name: settings::text(&settings::SOURCE_NAME),
        properties: read_properties(&settings::text(&settings::KAFKA_CONFIG_FILE))?,
        create_topics: settings::CREATE_TOPICS.get(),
        topic_timeout: u64::try_from(settings::TOPIC_TIMEOUT.get())
            .ok()
            .map(Duration::from_millis),
        partitions: settings::TOPIC_PARTITIONS.get(),
        replication_factor: settings::TOPIC_REPLICATION_FACTOR.get(),
        retention_ms: if retention_min < 0 {
            -1
        } else {
            retention_min * 60_000
        },
        tombstones: settings::TOMBSTONES.get(),
        truncates: settings::SKIPPED_OPERATIONS.get() == settings::SkippedOperations::Nothing,
        exactly_once: settings::DELIVERY.get() == settings::Delivery::ExactlyOnce,
        compression: match settings::COMPRESSION.get() {
            settings::RecordCompression::None => "none",
            settings::RecordCompression::Gzip => "gzip",
            settings::RecordCompression::Snappy => "snappy",
            settings::RecordCompression::Lz4 => "lz4",
            settings::RecordCompression::Zstd => "zstd",
        },
        max_event_bytes: (settings::TOPIC_MAX_EVENT_SIZE.get() as usize * 1024)
            .min(MAX_RECORD_BYTES),
        stubs: settings::OVERSIZE.get() == settings::Oversize::Stub,
        memory_bytes: settings::SENDER_MEMORY.get() as usize * 1024,
        heartbeat_ms: settings::HEARTBEAT_INTERVAL.get() as u64,
    })
}
