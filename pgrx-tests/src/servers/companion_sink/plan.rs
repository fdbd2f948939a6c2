//! The configuration of a companion-sink with a history and a replica.

use std::path::PathBuf;

use serde_json::Value;

/// What a companion-sink is to do: one history and one replica of one source database.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Prefix of the consumer groups.
    pub name: String,
    /// Kafka's bootstrap servers.
    pub brokers: String,
    /// The file with librdkafka's properties.
    pub kafka_config_file: Option<PathBuf>,
    /// `cdc.source_name` of the source server.
    pub source: String,
    /// The topics to apply, with `*` patterns.
    pub topics: Vec<String>,
    /// MongoDB connection string.
    pub mongo_url: String,
    /// MongoDB database of the history.
    pub mongo_database: String,
    /// PostgreSQL connection string of the replica.
    pub replica_url: String,
    /// The replica's `consistency`.
    pub consistency: &'static str,
    /// Port of its HTTP interface on 127.0.0.1.
    pub http_port: u16,
    /// The file with the token that it wants.
    pub http_token_file: Option<PathBuf>,
    /// Further TOML: rules at the top level, or whole tables. Goes to the end of the file.
    pub more_toml: String,
}

impl Plan {
    /// Its file.
    pub(super) fn toml(&self) -> String {
        // JSON's strings and lists of strings are TOML's.
        let text = |value: &str| Value::from(value).to_string();
        let topics = Value::from(self.topics.clone());
        let file = |key: &str, file: &Option<PathBuf>| {
            file.as_ref().map_or_else(String::new, |file| {
                format!("{key} = {}\n", text(&file.to_string_lossy()))
            })
        };
        format!(
            "name = {}\n\n[kafka]\nbrokers = {}\nsource_name = {}\n{}\n[http]\nlisten = \"127.0.0.1:{}\"\n{}\n\
             [sink.history]\nkind = \"mongo_history\"\ntopics = {topics}\nurl = {}\ndatabase = {}\n\n\
             [sink.replica]\nkind = \"postgres\"\ntopics = {topics}\nurl = {}\nconsistency = {}\n\n{}",
            text(&self.name),
            text(&self.brokers),
            text(&self.source),
            file("config_file", &self.kafka_config_file),
            self.http_port,
            file("token_file", &self.http_token_file),
            text(&self.mongo_url),
            text(&self.mongo_database),
            text(&self.replica_url),
            text(self.consistency),
            self.more_toml,
        )
    }
}
