//! Sinks whose events have effects: requests and mails.

mod mails;
mod mistakes;
mod orders;
mod outages;
mod own_events;
mod requests;
mod restart;

use std::collections::BTreeMap;
use std::time::Duration;

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::hand_made_events::{Event, Source, bed, id_key};
use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::webhook_receiver::WebhookReceiver;
use pg_cdc_tests::{port, topic, wait_until};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);
/// The sink of these tests.
const SINK: &str = "hook";

/// A companion-sink that has nothing but the sinks of `toml` to run.
fn companion_sink(source: &Source, toml: &str) -> CompanionSink {
    bed().companion_sink(plan(source, toml))
}

fn plan(source: &Source, toml: &str) -> Plan {
    Plan {
        name: format!("companion_{}", source.name),
        brokers: bed().kafka().brokers(),
        source: source.name.clone(),
        topics: vec![format!("{}.public.*", source.name)],
        // These are never started.
        mongo_url: "mongodb://127.0.0.1:1".to_owned(),
        mongo_database: "history".to_owned(),
        replica_url: "postgres://127.0.0.1:1/replica".to_owned(),
        http_port: port::free(),
        kafka_config_file: None,
        http_token_file: None,
        consistency: "row",
        more_toml: toml.to_owned(),
    }
}

/// A webhook for all tables of a source, from the beginning of their topics, with short pauses.
fn webhook(source: &Source, receiver: &WebhookReceiver, more: &str) -> String {
    format!(
        "[sink.{SINK}]\nkind = \"webhook\"\ntopics = [\"{}.public.*\"]\nurl = \"{}\"\nbegin = \"beginning\"\n\
         retry = {{ initial = \"100ms\", max = \"400ms\" }}\ntimeout = \"1s\"\n{more}\n",
        source.name,
        receiver.url()
    )
}

/// A source with the tracked table `t`.
fn source(name: &str) -> Source {
    let mut source = Source::new(name);
    let columns = [("id", "int8"), ("name", "text"), ("email", "text")];
    source.track("t", &columns, &["id"]);
    source
}

/// A companion-sink with one sink alone, and no server of pg_cdc; `variables` are in its environment.
fn alone(name: &str, kafka: &Kafka, sink: &str, variables: &[(&str, &str)]) -> CompanionSink {
    let folder = bed().path(&format!("effects-{name}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    let toml = format!(
        "name = \"effects_{name}\"\nkafka.brokers = \"{}\"\n[sink.{SINK}]\n{sink}",
        kafka.brokers()
    );
    std::fs::write(folder.join("companion-sink.toml"), toml).expect("a configuration");
    let run = bed().path(&format!("effects-{name}-run"));
    CompanionSink::copy_of(&run, &folder, variables, port::free())
}

/// Inserts of rows with these ids; sent.
fn insert(source: &mut Source, ids: impl Iterator<Item = u64>) -> Vec<Event> {
    let events: Vec<Event> = ids.map(|id| row(source, id)).collect();
    events.iter().for_each(|event| source.send(event));
    source.flush();
    events
}

/// An insert that is not sent.
fn row(source: &mut Source, id: u64) -> Event {
    let after = json!({"id": id, "name": format!("n{id}"), "email": format!("e{id}@example.org")});
    source.create("t", Some(&id_key(id)), &after)
}

/// The ids of events, sorted.
fn ids(events: &[Event]) -> Vec<String> {
    let mut ids: Vec<String> = events.iter().map(Event::id).collect();
    ids.sort();
    ids
}

/// Waits until each of these events was answered 200; how often each was.
fn wait_until_done(receiver: &WebhookReceiver, events: &[Event]) -> BTreeMap<String, usize> {
    wait_until("all requests", TIMEOUT, || {
        let mut done: BTreeMap<String, usize> = BTreeMap::new();
        for id in receiver.done_ids() {
            *done.entry(id).or_default() += 1;
        }
        let missing = events
            .iter()
            .filter(|event| !done.contains_key(&event.id()));
        match missing.count() {
            0 => Ok(done),
            missing => Err(format!("{missing} are missing")),
        }
    })
}

/// What `effects list` says.
fn waiting(sink: &CompanionSink) -> Vec<Value> {
    let output = sink.run_command(&["effects", "list", "--json"]);
    let lines = output.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect()
}

/// Waits until so many effects wait, and all of them were tried or are behind others.
fn wait_until_waiting(sink: &CompanionSink, count: usize) -> Vec<Value> {
    wait_until("the effects to wait", TIMEOUT, || {
        let waiting = waiting(sink);
        let is_tried = |effect: &Value| effect["state"] != "waiting";
        match waiting.len() == count && waiting.iter().all(is_tried) {
            true => Ok(waiting),
            false => Err(format!("{waiting:?}")),
        }
    })
}

/// Waits until the sink has read all that was sent, and nothing waits.
fn wait_until_nothing_waits(sink: &CompanionSink) {
    wait_until("nothing to wait", TIMEOUT, || {
        let state = sink.state_of(SINK);
        let is_done = state["apply_lag_events"] == 0 && state["effects"]["waiting"] == 0;
        match is_done && state["state"] == "running" {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
}

/// Waits until so many dead letters of table `t` are there.
fn wait_for_dead_letters(source: &Source, count: usize) -> Vec<Record> {
    let name = format!("{}.dlq", source.topic("t"));
    wait_until("the dead letters", TIMEOUT, || {
        let letters = topic::read(bed().kafka(), &name);
        match letters.len() == count {
            true => Ok(letters),
            false => Err(format!("{letters:?}")),
        }
    })
}
