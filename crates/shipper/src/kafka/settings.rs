//! How the sender's Kafka clients are configured.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// librdkafka writes the length of a batch into four bytes of seven bits (rd_kafka_buf_write_arraycnt_pos): what is longer
/// reaches the broker broken, again and again. A record must stay below, with its key and headers.
pub const MAX_RECORD_BYTES: usize = 268_000_000;
/// How long librdkafka waits for more before it sends a request: its thread would else send the first record of every
/// burst alone, and spin while the others wait for the answer.
const LINGER_MS: &str = "0.5";
/// Asks for unsigned tokens. librdkafka's own ones would never be renewed (see `token`), so it does not get this.
const UNSIGNED_TOKENS: &str = "enable.sasl.oauthbearer.unsecure.jwt";

/// What a session needs to know of the settings. Not to be printed: it has the secrets.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Default))]
pub struct KafkaSettings {
    pub brokers: String,
    pub source_name: String,
    /// Properties from `cdc.kafka_config_file`.
    pub properties: Vec<(String, String)>,
    pub create_topics: bool,
    /// `cdc.topic_timeout`; none for ever.
    pub topic_timeout: Option<Duration>,
    pub partitions: i32,
    pub replication_factor: i32,
    /// Milliseconds, -1 for ever.
    pub retention_ms: i64,
    pub tombstones: bool,
    /// `cdc.skipped_operations = none`
    pub truncates: bool,
    /// `cdc.delivery = exactly_once`
    pub exactly_once: bool,
    /// `cdc.compression`, as librdkafka names it.
    pub compression: &'static str,
    /// `cdc.oversize = stub`
    pub stubs: bool,
    /// `cdc.topic_max_event_size`
    pub max_event_bytes: usize,
    /// `cdc.sender_memory`: half of it for librdkafka, a quarter each for the channel and for open transactions.
    pub memory_bytes: usize,
    pub heartbeat_ms: u64,
}

/// Large enough for few requests, small enough for a broker's default limit.
pub const BATCH_BYTES: usize = 1_000_000;

impl KafkaSettings {
    /// `batch.size`, the file's own if it has one.
    pub fn batch_bytes(&self) -> usize {
        let given = self
            .properties
            .iter()
            .find(|(name, _)| name == "batch.size");
        given
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(BATCH_BYTES)
    }

    /// The configuration that all clients share.
    pub(crate) fn base(&self, purpose: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set(
                "client.id",
                format!("pg_cdc.{}.{purpose}", self.source_name),
            )
            .set("socket.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("ssl.endpoint.identification.algorithm", "https")
            .set("allow.auto.create.topics", "false");
        for (name, value) in &self.properties {
            if name != UNSIGNED_TOKENS {
                config.set(name, value);
            }
        }
        config.set("bootstrap.servers", &self.brokers);
        // At this level it says why a connection was closed; `Reporter` passes on only what matters.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// The configuration of the producer of events.
    pub(crate) fn events(&self, max_batch_bytes: usize) -> ClientConfig {
        let mut config = self.base("events");
        // What the file sets wins over these, but not over what the promises rest on.
        for (name, value) in event_defaults(self.compression) {
            if !self.has_property(name) && !self.has_property(other_name(name)) {
                config.set(name, value);
            }
        }
        for (name, value) in event_promises(max_batch_bytes) {
            config.set(name, value);
        }
        config
    }

    /// Whether the file sets a property.
    pub(crate) fn has_property(&self, name: &str) -> bool {
        self.properties.iter().any(|(given, _)| given == name)
    }

    pub(crate) fn unsigned_tokens(&self) -> bool {
        let mut properties = self.properties.iter();
        properties.any(|(name, value)| name == UNSIGNED_TOKENS && is_true(value))
    }

    /// Whether clients log in with tokens, which end.
    pub(crate) fn uses_tokens(&self) -> bool {
        let mut properties = self.properties.iter();
        properties.any(|(name, value)| name.starts_with("sasl.mechanism") && value == "OAUTHBEARER")
    }
}

/// What the producer of events has where the file sets nothing else.
pub fn event_defaults(compression: &str) -> [(&'static str, String); 6] {
    [
        ("compression.type", compression.to_owned()),
        ("linger.ms", LINGER_MS.to_owned()),
        ("batch.num.messages", "100000".to_owned()),
        ("message.max.bytes", MAX_RECORD_BYTES.to_string()),
        ("queue.buffering.max.messages", "1000000".to_owned()),
        ("statistics.interval.ms", "2000".to_owned()),
    ]
}

/// The second name that librdkafka has for a property; its own where it has one only.
fn other_name(name: &str) -> &str {
    match name {
        "compression.type" => "compression.codec",
        "linger.ms" => "queue.buffering.max.ms",
        _ => name,
    }
}

/// What it always has: idempotent and gapless, any failed delivery ends it.
pub fn event_promises(max_batch_bytes: usize) -> [(&'static str, String); 6] {
    [
        // Records on their way are bounded where they are counted in, which lets one pass that is larger than the bound.
        ("queue.buffering.max.kbytes", "2097151".to_owned()),
        ("enable.idempotence", "true".to_owned()),
        ("enable.gapless.guarantee", "true".to_owned()),
        ("acks", "all".to_owned()),
        ("message.timeout.ms", "0".to_owned()),
        ("batch.size", max_batch_bytes.to_string()),
    ]
}

/// As librdkafka reads it.
fn is_true(value: &str) -> bool {
    ["true", "t", "1"]
        .iter()
        .any(|yes| value.eq_ignore_ascii_case(yes))
}
