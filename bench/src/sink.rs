//! The companion-sinks that are measured.

use std::thread;
use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::{Database, port, process};

/// How often companion-sink is asked: what a measured time may be off by.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(1800);

/// A plan of this name for topics of a database. Its history and its replica are nowhere: who runs one says where.
pub(crate) fn plan(database: &Database<'_>, name: &str, topics: &[String]) -> Plan {
    Plan {
        name: name.to_owned(),
        brokers: database.bed().kafka().brokers(),
        source: "pg".to_owned(),
        topics: topics.to_vec(),
        mongo_url: "mongodb://127.0.0.1:1".to_owned(),
        mongo_database: "none".to_owned(),
        replica_url: "postgres://127.0.0.1:1/none".to_owned(),
        http_port: port::free(),
        kafka_config_file: None,
        http_token_file: None,
        consistency: "transaction",
        more_toml: String::new(),
    }
}

/// Waits until a companion-sink says so: its figure of a sink, at a path such as `/effects/sent`, is at least this. It is asked
/// itself: each question to its target would take time from what is measured. Returns when the figure was last seen to be less.
///
/// # Panics
/// When it ends, or does not come to that.
pub(crate) fn wait_for_figure(
    sink: &CompanionSink,
    name: &str,
    path: &str,
    wanted: i64,
) -> Instant {
    let start = Instant::now();
    let mut less = start;
    loop {
        let looked = Instant::now();
        let state = sink.state_of(name);
        let figure = state.pointer(path).and_then(serde_json::Value::as_i64);
        if figure.is_some_and(|figure| figure >= wanted) {
            return less;
        }
        less = looked;
        assert!(
            process::exists(sink.pid()) && start.elapsed() < TIMEOUT,
            "{state}. companion-sink's log ends:\n{}",
            process::log_tail(&sink.log_file(), 20)
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until a sink says that it has applied so many events.
///
/// # Panics
/// As [`wait_for_figure`] does.
pub(crate) fn wait_until_applied(sink: &CompanionSink, name: &str, events: i64) {
    wait_for_figure(sink, name, "/applied_total", events);
}
