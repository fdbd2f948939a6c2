//! Commands of a companion-sink that has nothing but `[kafka]` in its configuration.

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::hand_made_events::{Event, bed};
use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::port;
use serde_json::Value;

/// A companion-sink with brokers, and nothing else that works.
pub(super) fn looker(brokers: &str) -> CompanionSink {
    let sink = bed().companion_sink(Plan {
        name: "looker".to_owned(),
        brokers: brokers.to_owned(),
        source: "pg".to_owned(),
        topics: Vec::new(),
        mongo_url: String::new(),
        mongo_database: String::new(),
        replica_url: String::new(),
        http_port: port::free(),
        kafka_config_file: None,
        http_token_file: None,
        consistency: "row",
        more_toml: String::new(),
    });
    let toml = format!("[kafka]\nbrokers = \"{brokers}\"\n");
    std::fs::write(sink.config_file(), toml).expect("write the configuration");
    sink
}

pub(super) fn kafka() -> &'static Kafka {
    bed().kafka()
}

/// The command's exit code, and what it says to people.
pub(super) fn ended(sink: &CompanionSink, arguments: &[&str]) -> (Option<i32>, String) {
    let output = sink.try_command(arguments);
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    (output.status.code(), errors)
}

pub(super) fn tail(sink: &CompanionSink, topic: &str, more: &[&str]) -> Vec<Value> {
    sink.objects(&[&["topic", "tail", topic], more].concat())
}

/// A field of each object, as JSON.
pub(super) fn each(objects: &[Value], field: &str) -> Vec<String> {
    objects
        .iter()
        .map(|object| object[field].to_string())
        .collect()
}

pub(super) fn record(topic: &str, key: Option<&str>, value: Option<&[u8]>) -> Event {
    Event {
        topic: topic.to_owned(),
        partition: Some(0),
        key: key.map(str::to_owned),
        value: value.map(<[u8]>::to_vec),
        headers: Vec::new(),
    }
}
