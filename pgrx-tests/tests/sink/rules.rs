//! Rules of companion-sink: what one rejects goes aside, and people decide about it.

use std::process::Command;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, Source, TIMEOUT, bed};
use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::{parts, topic, wait_until};
use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 4] = [
    ("emp_id", "integer"),
    ("name", "text"),
    ("salary", "numeric(10,2)"),
    ("born", "date"),
];

/// The salary concerns the replica alone: the history keeps it.
const RULES: &str = r#"
[[rule]]
topic = "*.employees"
name = "salary"
reject_if = "after.salary > 10000"
sinks = ["replica"]
[[rule]]
topic = "*.employees"
name = "born_after_2007"
reject_if = 'after.born > "2007-12-31"'
[[rule]]
topic = "*"
name = "emp_id"
reject_if = "after.emp_id < 0"
"#;

fn row(emp_id: i64, name: &str, salary: &str, born: &str) -> Value {
    json!({"emp_id": emp_id, "name": name, "salary": salary, "born": born})
}

/// An employee who is paid `salary`, and nothing else is wrong with.
fn paid(emp_id: i64, salary: &str) -> Value {
    row(emp_id, "Eva", salary, "1990-02-28")
}

fn key(row: &Value) -> String {
    json!({"emp_id": row["emp_id"]}).to_string()
}

fn hire(source: &mut Source, row: &Value) -> Event {
    let event = source.create("employees", Some(&key(row)), row);
    source.send(&event);
    event
}

fn change(source: &mut Source, before: &Value, after: &Value) -> Event {
    let event = source.update("employees", Some(&key(after)), before, after);
    source.send(&event);
    event
}

/// The replica's rows.
fn employees(source: &Source) -> String {
    let rows = "SELECT string_agg(concat_ws(' ', emp_id, name, salary), ', ' ORDER BY emp_id) FROM employees";
    one_text(&mut source.replica(), rows)
}

fn wait_for_employees(source: &Source, expected: &str) {
    wait_until("the replica", TIMEOUT, || match employees(source) {
        rows if rows == expected => Ok(()),
        rows => Err(rows),
    });
}

/// How often an event was refused, and by what.
fn refusals(source: &Source, event: &Event) -> String {
    let refused = format!(
        "SELECT string_agg(code || ' ' || reason || ' ' || attempts, ', ') FROM companion.parked WHERE event_id = '{}' AND code IS NOT NULL",
        event.id()
    );
    one_text(&mut source.replica(), &refused)
}

fn wait_for_refusals(source: &Source, event: &Event, expected: &str) {
    wait_until("the refusal", TIMEOUT, || match refusals(source, event) {
        refused if refused == expected => Ok(()),
        refused => Err(refused),
    });
}

fn decide(sink: &CompanionSink, decision: &str, event: &Event, more: &[&str]) {
    let id = event.id();
    sink.run_command(&[&["dlq", decision, &id], more].concat());
}

/// Writes another text into the configuration.
fn reconfigure(sink: &CompanionSink, old: &str, new: &str) {
    let config = std::fs::read_to_string(sink.config_file()).expect("the configuration");
    assert!(config.contains(old), "{config}");
    std::fs::write(sink.config_file(), config.replace(old, new)).expect("write the configuration");
}

#[test]
fn a_wrong_rule_is_told_without_a_connection() {
    let folder = pg_cdc_tests::bed::temporary_folder();
    let file = folder.path().join("companion-sink.toml");
    let config = "[kafka]\nbrokers = \"localhost:1\"\n[sink.replica]\nkind = \"postgres\"\ntopics = [\"*\"]\nurl = \"postgres://u@h/d\"\n";
    let check = |rule: &str| {
        std::fs::write(&file, format!("{config}{rule}")).expect("write the configuration");
        let mut command = Command::new(parts::companion_sink());
        command.arg("--config").arg(&file);
        let output = command.args(["check", "--offline"]).output();
        let output = output.expect("run companion-sink");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    assert_eq!(check(&RULES.replace("sinks", "# sinks")).0, Some(0));
    let (code, told) = check(&RULES.replace("after.salary >", "after.salary > >"));
    assert_eq!(code, Some(2), "{told}");
    for part in ["rule \"salary\"", "reject_if", "line 1", "CDC1001"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn a_rejected_event_goes_aside_with_its_key_until_it_is_mended() {
    for mut source in Source::of_each_consistency("rules_park") {
        source.more_toml = format!("on_error = \"park\"\n{RULES}").leak();
        reject_and_mend(source);
    }
}

fn reject_and_mend(mut source: Source) {
    source.track("employees", &COLUMNS, &["emp_id"]);
    hire(&mut source, &row(1, "Ann", "10000.00", "2007-12-31"));
    hire(&mut source, &paid(2, "9000.00"));
    let raised = change(&mut source, &paid(2, "9000.00"), &paid(2, "10000.50"));
    let young = hire(&mut source, &row(3, "Bob", "1.00", "2008-01-01"));
    let negative = hire(&mut source, &row(-4, "Cid", "1.00", "1990-02-28"));
    let unpaid = json!({"emp_id": 5, "name": "Dan", "salary": null, "born": null});
    hire(&mut source, &unpaid);
    let gone = hire(&mut source, &paid(6, "1.00"));
    let delete = source.delete("employees", gone.key.as_deref(), &paid(6, "1.00"));
    source.send(&delete);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "employees");
    assert_eq!(employees(&source), "1 Ann 10000.00, 2 Eva 9000.00, 5 Dan");
    // Its key waits, all others go on.
    let last = change(
        &mut source,
        &paid(2, "10000.50"),
        &row(2, "Eve", "9999.99", "1990-02-28"),
    );
    hire(&mut source, &paid(7, "1.00"));
    source.wait_until_applied(&sink, "employees");
    assert_eq!(
        employees(&source),
        "1 Ann 10000.00, 2 Eva 9000.00, 5 Dan, 7 Eva 1.00"
    );
    assert_eq!(refusals(&source, &raised), "CDC1006 salary 1");
    assert_eq!(refusals(&source, &last), "NULL", "it only waits");

    let documents = source.history("employees").all();
    let has = |event: &Event| {
        let is = |document: &mongodb::bson::Document| document.get_str("_id") == Ok(&event.id());
        documents.iter().any(is)
    };
    assert!(
        has(&raised) && has(&last) && has(&delete),
        "not the history's rule"
    );
    assert!(!has(&young) && !has(&negative));
    assert_dead_letters(&source, &raised);
    let metrics = sink.get("/metrics");
    assert!(
        metrics.contains("dead_letters_total{sink=\"replica\",reason=\"salary\"} 1"),
        "{metrics}"
    );

    what_a_person_puts_in_place_is_looked_at_as_well(&source, &sink, &raised);
    wait_for_employees(&source, "1 Ann 10000.00, 2 Eve 9999.99, 5 Dan, 7 Eva 1.00");
    the_history_takes_an_edited_event(&source, &sink, &young);
    let log = std::fs::read_to_string(sink.log_file()).expect("the log");
    assert!(!log.contains("10000.5"), "no line holds a value");
}

/// Of each sink that rejected an event, with the reason and the whole event.
fn assert_dead_letters(source: &Source, raised: &Event) {
    let dead = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("employees")));
    let reasons = |sink: &str| {
        let of_sink = dead
            .iter()
            .filter(|r| r.header("cdc.dlq.sink") == Some(sink));
        let mut reasons: Vec<_> = of_sink.filter_map(|r| r.header("cdc.dlq.reason")).collect();
        reasons.sort_unstable();
        reasons
    };
    assert_eq!(reasons("replica"), ["born_after_2007", "emp_id", "salary"]);
    assert_eq!(reasons("history"), ["born_after_2007", "emp_id"]);
    let of_raise = dead
        .iter()
        .find(|r| r.header("cdc.id") == Some(&raised.id()));
    let of_raise = of_raise.expect("the rejected raise");
    for (name, value) in [
        ("cdc.dlq.code", "CDC1006"),
        ("cdc.dlq.attempts", "1"),
        ("__connect.errors.stage", "TRANSFORMATION"),
        (
            "__connect.errors.exception.message",
            "the rule \"salary\" rejects it",
        ),
        ("__connect.errors.topic", &source.topic("employees")),
    ] {
        assert_eq!(of_raise.header(name), Some(value), "{name}");
    }
    assert_eq!(
        of_raise.value_text().as_bytes(),
        raised.value.as_deref().expect("a value")
    );
}

fn what_a_person_puts_in_place_is_looked_at_as_well(
    source: &Source,
    sink: &CompanionSink,
    raised: &Event,
) {
    decide(
        sink,
        "edit",
        raised,
        &["--reason", "x", "--set", "after.salary=10000.01"],
    );
    wait_for_refusals(source, raised, "CDC1006 salary 2");
    decide(
        sink,
        "edit",
        raised,
        &["--reason", "x", "--set", "after.salary=9500"],
    );
}

fn the_history_takes_an_edited_event(source: &Source, sink: &CompanionSink, young: &Event) {
    let mended = [
        "--sink",
        "history",
        "--reason",
        "x",
        "--set",
        "after.born=2007-01-01",
    ];
    decide(sink, "edit", young, &mended);
    wait_until("the history", TIMEOUT, || {
        let documents = source.history("employees").all();
        let born = |document: &mongodb::bson::Document| {
            let after = document.get_document("after").ok()?;
            Some(after.get_str("born").ok()? == "2007-01-01")
        };
        match documents
            .iter()
            .any(|document| born(document) == Some(true))
        {
            true => Ok(()),
            false => Err(format!("{} documents", documents.len())),
        }
    });
}

#[test]
fn a_consistent_replica_halts_and_goes_on_with_an_edit_or_another_rule() {
    let mut source = Source::consistent("rules_halt");
    source.more_toml = RULES;
    source.track("employees", &COLUMNS, &["emp_id"]);
    hire(&mut source, &paid(1, "1000.00"));
    let first = hire(&mut source, &paid(2, "20000.00"));
    hire(&mut source, &paid(3, "3000.00"));
    source.flush();
    let sink = bed().companion_sink(source.plan());
    sink.start_only(&["replica"]);
    let wait_for_halt = |event: &Event| {
        wait_until("the event to stop it", TIMEOUT, || {
            let status = sink.get("/v1/status");
            let told = [
                "CDC1010",
                "CDC1006",
                &event.id(),
                "the rule \\\"salary\\\"",
                "dlq edit",
            ];
            match told.iter().all(|part| status.contains(part)) && status.contains("\"halted\"") {
                true => Ok(()),
                false => Err(status),
            }
        });
    };
    wait_for_halt(&first);
    assert_eq!(
        employees(&source),
        "1 Eva 1000.00",
        "all before, nothing later"
    );
    decide(
        &sink,
        "edit",
        &first,
        &["--reason", "x", "--set", "after.salary=2000"],
    );
    wait_for_employees(&source, "1 Eva 1000.00, 2 Eva 2000.00, 3 Eva 3000.00");

    let second = hire(&mut source, &paid(4, "40000.00"));
    source.flush();
    wait_for_halt(&second);
    // A file that is wrong changes nothing.
    reconfigure(&sink, "after.salary > 10000", "after.salary >");
    sink.reload();
    sink.wait_for_log("the configuration stays as it was");
    reconfigure(&sink, "\"after.salary >\"", "\"after.salary > 50000\"");
    decide(&sink, "retry", &second, &[]);
    wait_for_refusals(&source, &second, "CDC1006 salary 2");
    wait_for_halt(&second);
    sink.reload();
    sink.wait_for_log("configuration read again");
    // The sink may have come to the event again before this is asked; then nothing is refused any more.
    let retried = sink.try_command(&["dlq", "retry", &second.id()]);
    assert!(matches!(retried.status.code(), Some(0 | 4)), "{retried:?}");
    wait_for_employees(
        &source,
        "1 Eva 1000.00, 2 Eva 2000.00, 3 Eva 3000.00, 4 Eva 40000.00",
    );
    let third = hire(&mut source, &paid(5, "60000.00"));
    source.flush();
    wait_for_halt(&third);
    let log = std::fs::read_to_string(sink.log_file()).expect("the log");
    assert!(
        !log.contains("were changed, too"),
        "only rules differ: {log}"
    );
}
