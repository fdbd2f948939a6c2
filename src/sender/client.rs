//! How the sender's Kafka clients are configured, and what they report: log lines, errors, broker counts.

use std::sync::Arc;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use super::board::{Board, Trouble};
use crate::secret_file::{self, Refused};

/// Properties that are pg_cdc's own: its promises rest on them.
const RESERVED: [&str; 7] = [
    "bootstrap.servers",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "message.timeout.ms",
    "partitioner",
    "transactional.id",
];

/// What a session needs to know of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    pub brokers: String,
    pub source_name: String,
    /// Properties from `cdc.kafka_config_file`.
    pub properties: Vec<(String, String)>,
    pub create_topics: bool,
    pub partitions: i32,
    pub replication_factor: i32,
    /// Milliseconds, -1 for ever.
    pub retention_ms: i64,
    pub tombstones: bool,
    /// `cdc.oversize = stub`
    pub stubs: bool,
    /// `cdc.sender_memory`: half of it for librdkafka, a quarter each for the channel and for open transactions.
    pub memory_bytes: usize,
    pub heartbeat_ms: u64,
}

/// Large enough for few requests, small enough for a broker's default limit.
const BATCH_BYTES: usize = 1_000_000;

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
    pub fn base(&self, purpose: &str) -> ClientConfig {
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
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}

/// Reads `cdc.kafka_config_file`: `key=value` lines, `#` for comments.
pub fn read_properties(path: &str) -> Result<Vec<(String, String)>, Trouble> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let unreadable = |error: std::io::Error| {
        Trouble {
        code: "CDC0008",
        message: format!("file \"{path}\" cannot be read: {error}"),
        remedy: "Correct cdc.kafka_config_file, or the file's owner and mode, then SELECT pg_reload_conf().".to_owned(),
    }
    };
    let content = secret_file::read(path).map_err(|refused| match refused {
        Refused::Unreadable(error) => unreadable(error),
        Refused::Exposed => Trouble {
            code: "CDC0008",
            message: format!("file \"{path}\" has group or world access, or another owner"),
            remedy: format!(
                "Run chmod 0600 on \"{path}\" and let the server's user or root own it."
            ),
        },
    })?;
    let content = String::from_utf8(content)
        .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
    let mut properties = Vec::new();
    for line in content.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let (name, value) = (name.trim(), value.trim());
        if RESERVED.contains(&name) {
            return Err(Trouble {
                code: "CDC0009",
                message: format!("property \"{name}\" cannot be set"),
                remedy: format!("Remove the line from \"{path}\": the property is pg_cdc's own."),
            });
        }
        properties.push((name.to_owned(), value.to_owned()));
    }
    Ok(properties)
}

/// CDC0009 for a property that librdkafka does not take.
pub fn refused_configuration(error: &KafkaError) -> Trouble {
    let message = match error {
        // The value may be a secret: only the name is told.
        KafkaError::ClientConfig(_, description, name, _) => {
            format!("property \"{name}\" cannot be set: {description}")
        }
        other => format!("Kafka client cannot be made: {other}"),
    };
    Trouble {
        code: "CDC0009",
        message,
        remedy: "Correct the file that cdc.kafka_config_file names, then SELECT pg_reload_conf()."
            .to_owned(),
    }
}

/// The condition that an error of Kafka means.
pub fn trouble_of(code: RDKafkaErrorCode, brokers: &str, reason: &str) -> Trouble {
    use RDKafkaErrorCode as Code;
    let (code, message, remedy) = match code {
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => (
            "CDC0302",
            format!("authentication with \"{brokers}\" failed: {reason}"),
            "Correct the file that cdc.kafka_config_file names, then SELECT pg_reload_conf().".to_owned(),
        ),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::TransactionalIdAuthorizationFailed => (
            "CDC0303",
            format!("not authorised: {reason}"),
            "Allow Create, Write, Describe on the topics and Write on the transactional id with kafka-acls.sh.".to_owned(),
        ),
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::InvalidReplicationFactor => (
            "CDC0308",
            format!("broker refuses writes: {reason}"),
            "Bring the missing brokers back, or correct cdc.topic_replication_factor or min.insync.replicas.".to_owned(),
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => (
            "CDC0304",
            format!("topic is missing: {reason}"),
            "See whether somebody deleted it; it is looked at again at once.".to_owned(),
        ),
        _ => (
            "CDC0301",
            format!("brokers \"{brokers}\" cannot be reached: {reason}"),
            "Start Kafka, or correct cdc.brokers and SELECT pg_reload_conf(). The WAL is held meanwhile.".to_owned(),
        ),
    };
    Trouble {
        code,
        message,
        remedy,
    }
}

/// What a client tells its surroundings.
#[derive(Clone)]
pub struct Reporter {
    pub board: Arc<Board>,
    pub brokers: String,
}

impl ClientContext for Reporter {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // CONFWARN comes with every start: the gapless guarantee is called experimental there.
        if level as i32 <= RDKafkaLogLevel::Warning as i32 && facility != "CONFWARN" {
            self.board.log(format!("librdkafka {facility}: {message}"));
        }
    }

    fn stats(&self, statistics: Statistics) {
        // Bootstrap entries have a negative id.
        let brokers = || {
            statistics
                .brokers
                .values()
                .filter(|broker| broker.nodeid >= 0)
        };
        let up = brokers().filter(|broker| broker.state == "UP").count() as u32;
        let all = brokers().count() as u32;
        let throttles = brokers().filter_map(|broker| broker.throttle.as_ref());
        let throttle_ms = throttles.map(|window| window.avg).max().unwrap_or(0);
        self.board.read(|facts| {
            facts.brokers_up = up;
            facts.brokers_down = all - up;
            facts.throttle_ms = u32::try_from(throttle_ms).unwrap_or(0);
        });
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        match code {
            // One broker of several: the client goes on with the others.
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve => {}
            // Reported with the message or call that it concerns.
            RDKafkaErrorCode::Fatal | RDKafkaErrorCode::PartitionEOF => {}
            // How many they are differs from one client to the other.
            RDKafkaErrorCode::AllBrokersDown => {
                self.board
                    .set_trouble(Some(trouble_of(code, &self.brokers, "no broker answers")))
            }
            _ => self
                .board
                .set_trouble(Some(trouble_of(code, &self.brokers, reason))),
        }
    }
}
