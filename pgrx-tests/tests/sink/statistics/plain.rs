//! Events that any producer wrote, without a server of pg_cdc anywhere: a plain topic of JSON values.

use std::path::Path;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{TIMEOUT, bed};
use pg_cdc_tests::plain_events::PlainEvents;
use pg_cdc_tests::{port, topic, topic_admin, wait_until};
use serde_json::{Value, json};

use super::wait_for_figures;

fn send(accounts: &PlainEvents, account: &str, day: u32, amount: &str) {
    let at = format!("2026-11-{day:02}T10:00:00Z");
    let value = json!({"account": account, "at": at, "amount": amount, "kind": "paid"});
    accounts.send(account, &value);
}

/// A companion-sink that has figures alone, and names a server that there is not.
fn companion_sink(name: &str, topic: &str, instance: &str) -> CompanionSink {
    let folder = bed().path(&format!("plain-{name}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    let toml = format!(
        "name = \"plain_{name}\"\n[kafka]\nbrokers = \"localhost:1\"\nsource_name = \"nobody_{name}\"\n\
         [sink.figures]\nkind = \"statistics\"\ntopics = [{}]\ntime = \"value.at\"\ngroup_by = [\"value.account\"]\n\
         where = \"value.kind == 'paid'\"\nmeasures = [\"count()\", \"sum(value.amount) as total\"]\nstore = {}\n",
        Value::from(topic),
        Value::from(store(name, instance).to_string_lossy().into_owned()),
    );
    std::fs::write(folder.join("companion-sink.toml"), toml).expect("a configuration");
    let brokers = bed().kafka().brokers();
    let variables = [("COMPANION_SINK__KAFKA__BROKERS", brokers.as_str())];
    let own = bed().path(&format!("plain-{name}-{instance}"));
    CompanionSink::copy_of(&own, &folder, &variables, port::free())
}

fn store(name: &str, instance: &str) -> std::path::PathBuf {
    bed().path(&format!("plain-store-{name}-{instance}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a body").1
}

fn log(sink: &CompanionSink) -> String {
    std::fs::read_to_string(sink.log_file()).expect("the log")
}

#[test]
fn figures_of_a_plain_topic_need_no_server_of_pg_cdc() {
    let accounts = PlainEvents::create(bed().kafka(), "plain_alone.event", 3);
    let sink = companion_sink("alone", &accounts.topic, "one");
    let checked = sink.try_command(&["check"]);
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{told}");
    assert!(!told.contains("warning"), "{told}");
    sink.start();
    send(&accounts, "anna", 20, "10.50");
    send(&accounts, "anna", 20, "0.25");
    send(&accounts, "beat", 21, "7.00");
    let expected = [
        ("2026-11-20", "anna", 2, "10.75"),
        ("2026-11-21", "beat", 1, "7.00"),
    ];
    wait_for_figures(&sink, &expected);
    wait_until("nothing to wait", TIMEOUT, || {
        let state = sink.state_of("figures");
        let is_well = state["state"] == "running" && state["apply_lag_events"] == 0;
        match is_well && state["applied"] == json!({"emit": 3}) {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    assert!(sink.get("/readyz").starts_with("HTTP/1.1 200"));
    let answer = sink.get("/v1/statistics/figures?from=2026-11-21");
    let answer: Value = serde_json::from_str(body(&answer)).expect("JSON");
    assert_eq!(answer["rows"].as_array().map(Vec::len), Some(1), "{answer}");
    let log = log(&sink);
    assert!(!log.contains("position"), "{log}");
    assert!(!log.to_lowercase().contains("warn"), "{log}");
}

#[test]
fn plain_events_count_once_whatever_is_killed_lost_or_gone() {
    let accounts = PlainEvents::create(bed().kafka(), "plain_once.event", 3);
    let sink = companion_sink("once", &accounts.topic, "one");
    sink.start();
    for number in 0..50 {
        send(&accounts, ["anna", "beat", "cleo"][number % 3], 20, "1");
    }
    // What takes an account's events from a compacted topic takes nothing from the figures.
    accounts.send_bytes("anna", None);
    // No JSON, and no number: dead letters.
    accounts.send_bytes("anna", Some(b"{"));
    send(&accounts, "anna", 20, "much");
    let expected = [
        ("2026-11-20", "anna", 17, "17"),
        ("2026-11-20", "beat", 17, "17"),
        ("2026-11-20", "cleo", 16, "16"),
    ];
    wait_for_figures(&sink, &expected);
    let dlq = format!("{}.dlq", accounts.topic);
    wait_until("two dead letters", TIMEOUT, || {
        let letters = match topic::offsets(bed().kafka(), &dlq) {
            Some(_) => topic::read(bed().kafka(), &dlq).len(),
            None => 0,
        };
        if letters == 2 { Ok(()) } else { Err(letters) }
    });
    sink.kill();
    send(&accounts, "beat", 21, "5");
    sink.start();
    let mut expected = expected.to_vec();
    expected.push(("2026-11-21", "beat", 1, "5"));
    wait_for_figures(&sink, &expected);
    // The events are gone, and the store: the figures stay.
    sink.kill();
    for (partition, offsets) in topic::offsets(bed().kafka(), &accounts.topic).expect("the topic") {
        topic_admin::trim(bed().kafka(), &accounts.topic, partition, offsets.end);
    }
    lose(&store("once", "one"));
    sink.start();
    wait_for_figures(&sink, &expected);
    send(&accounts, "cleo", 22, "3");
    expected.push(("2026-11-22", "cleo", 1, "3"));
    wait_for_figures(&sink, &expected);
}

fn lose(folder: &Path) {
    std::fs::remove_dir_all(folder).expect("a folder of figures");
}
