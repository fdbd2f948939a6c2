//! librdkafka's configuration, the same for every client of this process.

use crate::error::misconfigured;
use change::trouble::Trouble;
use rdkafka::types::RDKafkaConfRes;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use crate::config::Loaded;
use crate::error::Result;

/// The properties that every client has: brokers, the operator's file, and never a topic made by accident.
pub(crate) fn base(config: &Loaded) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("ssl.endpoint.identification.algorithm", "https");
    client.set("socket.timeout.ms", "10000");
    for (name, value) in &config.kafka_files.properties {
        client.set(name, value.reveal());
    }
    client.set("bootstrap.servers", &config.kafka.brokers);
    client.set("client.id", &config.name);
    client.set("allow.auto.create.topics", "false");
    // Connection errors are told by us, once and with a remedy; librdkafka repeats them on every attempt.
    client.set_log_level(RDKafkaLogLevel::Critical);
    client
}

/// A client that only asks. Fails where librdkafka refuses a property, or a file that it names; no broker is asked for that.
pub(crate) fn asking(config: &Loaded) -> Result<BaseConsumer> {
    let client: KafkaResult<BaseConsumer> = base(config).create();
    client.map_err(|error| configuration_error(&error))
}

/// Of a consumer whose polls tell everything, the end of a partition among it.
pub(crate) struct Silent;

impl ClientContext for Silent {
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Silent {}

const QUEUE_KILOBYTES: &str = "queued.max.messages.kbytes";
const PARTITION_FETCH_BYTES: &str = "max.partition.fetch.bytes";

/// The same consumer for `partitions` that have a queue each: librdkafka bounds every queue by itself, so that each gets its share.
pub(crate) fn with_queues(client: &ClientConfig, partitions: usize) -> ClientConfig {
    /// So many may be full of what the whole memory allows one.
    const FULL: u64 = 4;
    if partitions as u64 <= FULL {
        return client.clone();
    }
    let share = |name: &str, least: u64| {
        let one: u64 = client.get(name).and_then(|text| text.parse().ok())?;
        let shared = one * FULL / partitions as u64;
        Some((name.to_owned(), shared.max(least).to_string()))
    };
    let shares = [
        share(QUEUE_KILOBYTES, 64),
        share(PARTITION_FETCH_BYTES, 16 << 10),
    ];
    let mut client = client.clone();
    // Small queues are soon empty, and what is fetched next waits for a request that may be under way, for partitions that have
    // nothing new.
    client.set("fetch.wait.max.ms", "20");
    for (name, value) in shares.into_iter().flatten() {
        client.set(name, value);
    }
    client
}

/// A consumer for `group` that fetches at most about `memory_bytes` ahead and hands a single event over at once.
pub(crate) fn consumer(config: &Loaded, group: &str, memory_bytes: u64) -> ClientConfig {
    // What waits is counted per partition, unpacked and without librdkafka's own bookkeeping (about as much again for small
    // events), a fetch comes on top of it, packed (JSON unpacks to ten times its size).
    let queue_kilobytes = (memory_bytes / 16 / 1024).max(256);
    let fetch_bytes = (memory_bytes / 128).clamp(64 << 10, 4 << 20);
    let mut client = base(config);
    client
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("queued.min.messages", "5000")
        .set(QUEUE_KILOBYTES, queue_kilobytes.to_string())
        .set("message.max.bytes", fetch_bytes.to_string())
        .set("fetch.max.bytes", fetch_bytes.to_string())
        .set(PARTITION_FETCH_BYTES, fetch_bytes.to_string())
        .set("receive.message.max.bytes", "1000000000")
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.error.backoff.ms", "100")
        .set("statistics.interval.ms", "1000");
    client
}

/// Whether an error says that a topic is not there: the broker says it of the topic, librdkafka of its partition.
pub(crate) fn is_missing(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition)
    )
}

/// A client cannot be made: the properties are wrong. librdkafka's text may hold a value, and what it does not know as a name may
/// be a piece of one.
pub(crate) fn configuration_error(error: &KafkaError) -> Trouble {
    let what = match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => {
            "[kafka] config_file has a property that librdkafka does not know".to_owned()
        }
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("librdkafka refuses the value of property {name}")
        }
        other => other.to_string(),
    };
    misconfigured(
        format!("kafka: {what}"),
        "Correct [kafka] brokers, or the property in [kafka] config_file.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_property_is_told() {
        for (name, value) in [
            ("sasl.pasword", "hunter2"),
            ("hunter2", "x"),
            ("security.protocol", "hunter2"),
            ("socket.timeout.ms", "hunter2"),
        ] {
            let mut client = rdkafka::ClientConfig::new();
            let made: std::result::Result<BaseConsumer, KafkaError> =
                client.set(name, value).create();
            let error = configuration_error(&made.err().unwrap());
            let told = format!("{error} {} {error:?}", error.remedy);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
