//! How the sender's Kafka clients are configured, and what they report: log lines, errors, broker counts.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaConfRes;

use super::board::{Board, Trouble};
use super::secret_file::{self, Refused};
use super::token;

/// Properties that are pg_cdc's own, under each of their names: its promises rest on them.
const RESERVED: [&str; 10] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "partitioner",
    "transactional.id",
];
/// How librdkafka begins what it says of a connection that the broker closed: it is about to stop, or to speak another
/// protocol.
const CLOSED: &str = "Disconnected";
/// Asks for unsigned tokens. librdkafka's own ones would never be renewed (see `token`), so it does not get this.
const UNSIGNED_TOKENS: &str = "enable.sasl.oauthbearer.unsecure.jwt";

/// What a session needs to know of the settings. Not to be printed: it has the secrets.
#[derive(Clone, PartialEq, Eq)]
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
    /// `cdc.delivery = exactly_once`
    pub exactly_once: bool,
    /// `cdc.oversize = stub`
    pub stubs: bool,
    /// `cdc.topic_max_event_size`
    pub max_event_bytes: usize,
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
            if name != UNSIGNED_TOKENS {
                config.set(name, value);
            }
        }
        config.set("bootstrap.servers", &self.brokers);
        // At this level it says why a connection was closed; `Reporter` passes on only what matters.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    fn unsigned_tokens(&self) -> bool {
        let mut properties = self.properties.iter();
        properties.any(|(name, value)| name == UNSIGNED_TOKENS && is_true(value))
    }

    /// Whether clients log in with tokens, which end.
    pub fn uses_tokens(&self) -> bool {
        let mut properties = self.properties.iter();
        properties.any(|(name, value)| name.starts_with("sasl.mechanism") && value == "OAUTHBEARER")
    }
}

/// As librdkafka reads it.
fn is_true(value: &str) -> bool {
    ["true", "t", "1"]
        .iter()
        .any(|yes| value.eq_ignore_ascii_case(yes))
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
    for (index, line) in content.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("line {} of \"{path}\"", index + 1);
        let property = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()));
        let refused = match property {
            // Whatever stands there may be a piece of a secret.
            None => Some(format!("{place} is not name=value")),
            Some((name, value)) => refusal(name, value, &place),
        };
        if let Some(message) = refused {
            return Err(unusable(message));
        }
        properties.extend(property.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(properties)
}

/// Why a property cannot be set. What librdkafka does not know as a name may be a piece of a secret, and so may a value.
fn refusal(name: &str, value: &str, place: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!(
            "property \"{name}\" in {place} cannot be set: it is pg_cdc's own"
        ));
    }
    let mut config = ClientConfig::new();
    match config.set(name, value).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Some(format!(
            "{place} has a property that librdkafka does not know"
        )),
        Err(KafkaError::ClientConfig(_, description, ..))
            if description.contains("not supported") && !description.contains(value) =>
        {
            Some(format!("{place}: {description}"))
        }
        Err(_) => Some(format!(
            "property \"{name}\" in {place} cannot be set: librdkafka refuses its value"
        )),
    }
}

/// CDC0009 for clients that cannot be made of the properties.
pub fn refused_configuration(error: &KafkaError) -> Trouble {
    unusable(match error {
        // The description may hold the value, and with it a secret.
        KafkaError::ClientConfig(_, _, name, _) => format!("property \"{name}\" cannot be set"),
        other => format!("Kafka client cannot be made: {other}"),
    })
}

/// CDC0009.
fn unusable(message: String) -> Trouble {
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
    let reload = "then SELECT pg_reload_conf().";
    let (code, message, remedy) = match code {
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => (
            "CDC0302",
            format!("authentication with \"{brokers}\" failed: {reason}"),
            if reason.contains("certificate verify failed") {
                format!("Name the authority of the brokers' certificates as ssl.ca.location in the file of cdc.kafka_config_file, and the hosts of these certificates in cdc.brokers, {reload}")
            } else {
                format!("Correct the file that cdc.kafka_config_file names, {reload}")
            },
        ),
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => (
            "CDC0303",
            format!("not authorised: {reason}"),
            "Give the sender's Kafka user the rights that the page of CDC0303 in docs/errors lists.".to_owned(),
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
            if reason.starts_with(CLOSED) {
                format!("Start Kafka, or correct cdc.brokers, or security.protocol in the file that cdc.kafka_config_file names, {reload} The WAL is held meanwhile.")
            } else {
                "Start Kafka, or correct cdc.brokers and SELECT pg_reload_conf(). The WAL is held meanwhile.".to_owned()
            },
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
    board: Arc<Board>,
    brokers: String,
    unsigned_tokens: bool,
}

impl Reporter {
    pub fn new(settings: &KafkaSettings, board: &Arc<Board>) -> Reporter {
        Reporter {
            board: Arc::clone(board),
            brokers: settings.brokers.clone(),
            unsigned_tokens: settings.unsigned_tokens(),
        }
    }
}

impl ClientContext for Reporter {
    /// Those who wrap this one must say the same.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let reason = (facility == "FAIL").then(|| reason_of(message));
        if let Some(reason) = reason.filter(|reason| reason.starts_with(CLOSED)) {
            // librdkafka makes no error of it.
            let code = RDKafkaErrorCode::BrokerTransportFailure;
            self.board
                .connection_failed(trouble_of(code, &self.brokers, reason));
        }
        // CONFWARN comes with every start: the gapless guarantee is called experimental there.
        let matters = level as i32 <= RDKafkaLogLevel::Warning as i32 && facility != "CONFWARN";
        if matters && reason.is_none_or(|reason| self.board.is_news(reason)) {
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
        use RDKafkaErrorCode as Code;
        let reason = reason_of(reason);
        let Some(mut code) = error.rdkafka_error_code() else {
            return;
        };
        // An alert by which the broker ends TLS comes as a connection that broke.
        if code == Code::BrokerTransportFailure && reason.contains("SSL routines") {
            code = Code::SSL;
        }
        let trouble = || trouble_of(code, &self.brokers, reason);
        match code {
            // One broker of several: the client goes on with the others.
            Code::BrokerTransportFailure | Code::Resolve => self.board.connection_failed(trouble()),
            // Reported with the message or call that it concerns.
            Code::Fatal
            | Code::PartitionEOF
            | Code::Fenced
            | Code::ProducerFenced
            | Code::InvalidProducerEpoch => {}
            // Partitions are assigned: the reader's group is a name only.
            Code::GroupAuthorizationFailed => {}
            Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => {
                self.board.connection_failed(trouble());
                self.board.set_trouble(Some(trouble()));
            }
            // How many they are differs from one client to the other.
            Code::AllBrokersDown => {
                let trouble = trouble_of(code, &self.brokers, "no broker answers");
                self.board.set_trouble(Some(trouble));
            }
            _ => self.board.set_trouble(Some(trouble())),
        }
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        token::make(config.unwrap_or_default(), self.unsigned_tokens).map_err(|reason| {
            // Brokers refuse the old token with words that say less.
            let code = RDKafkaErrorCode::Authentication;
            self.board
                .cause_found(trouble_of(code, &self.brokers, &reason));
            reason.into()
        })
    }
}

/// What librdkafka says, without thread, broker and time in front and behind: the same failure has the same text.
fn reason_of(message: &str) -> &str {
    let mut reason = message;
    if let Some((_thread, rest)) = reason
        .strip_prefix("[thrd:")
        .and_then(|rest| rest.split_once("]: "))
    {
        reason = rest;
    }
    if let Some((broker, rest)) = reason.split_once(": ")
        && broker.contains('/')
        && !broker.contains(' ')
    {
        reason = rest;
    }
    reason
        .rsplit_once(" (after ")
        .map_or(reason, |(reason, _)| reason)
}
