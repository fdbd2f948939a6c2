//! What stands in the file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::rule::RuleSettings;
use crate::config::shown_url::Url;
use crate::config::sink::SinkSettings;
use crate::config::units::{count, duration, size};

/// The file with every key, as `config --defaults` prints it.
pub(crate) const DEFAULT_FILE: &str = include_str!("companion-sink.default.toml");

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Consumer groups are `<name>.<sink>`.
    pub(crate) name: String,
    /// What is logged, and how.
    pub(crate) log: Log,
    /// Where the events come from.
    pub(crate) kafka: Kafka,
    /// The server that the events come from.
    pub(crate) source: SourceSettings,
    /// Health, state and metrics.
    pub(crate) http: Http,
    /// What becomes of events that cannot be applied.
    pub(crate) dead_letters: DeadLetterSettings,
    /// What is rejected.
    #[serde(rename = "rule")]
    pub(crate) rules: Vec<RuleSettings>,
    /// The sinks by their names.
    #[serde(rename = "sink")]
    pub(crate) sinks: BTreeMap<String, SinkSettings>,
}

/// `log`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Log {
    /// From which level on.
    pub(crate) level: Level,
    /// As what.
    pub(crate) format: LogFormat,
}

/// `[kafka]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kafka {
    /// Bootstrap servers.
    pub(crate) brokers: String,
    /// The source's name, as the history names it.
    pub(crate) source_name: String,
    /// librdkafka properties, mode 0600; empty for none.
    pub(crate) config_file: String,
    /// Bytes that all sinks together fetch ahead.
    #[serde(with = "size")]
    pub(crate) fetch_memory: u64,
}

/// `[source]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SourceSettings {
    /// Connection string for a role in `pg_monitor`; empty for none.
    pub(crate) url: Url,
    /// A file that holds the URL instead.
    pub(crate) url_file: String,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Http {
    /// Address and port; empty for no HTTP.
    pub(crate) listen: String,
    /// A file that holds the token, mode 0600; empty for none.
    pub(crate) token_file: String,
    /// Addresses of other instances, for `status`.
    pub(crate) peers: Vec<String>,
}

/// `[dead_letters]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeadLetterSettings {
    /// How long the topics `<topic>.dlq` keep their records.
    #[serde(with = "duration")]
    pub(crate) retention: Duration,
    /// More keys than this, parked within a minute: the target is at fault and the sink halts.
    #[serde(deserialize_with = "count")]
    pub(crate) max_parked_keys_per_minute: u32,
}

/// `log.level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Its name in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "companion".into(),
            log: Log::default(),
            kafka: Kafka::default(),
            source: SourceSettings::default(),
            http: Http::default(),
            dead_letters: DeadLetterSettings::default(),
            rules: Vec::new(),
            sinks: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: Level::Info,
            format: LogFormat::Auto,
        }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Kafka {
            brokers: String::new(),
            source_name: "pg".into(),
            config_file: String::new(),
            fetch_memory: 32 << 20,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: "127.0.0.1:8480".into(),
            token_file: String::new(),
            peers: Vec::new(),
        }
    }
}

impl Default for DeadLetterSettings {
    fn default() -> Self {
        DeadLetterSettings {
            retention: Duration::from_secs(90 * 86_400),
            max_parked_keys_per_minute: 100,
        }
    }
}
