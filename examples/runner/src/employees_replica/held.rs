//! What the rules hold, and what people do about it: looked at, edited, left out, tried again under another rule.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::{one_text, wait_for_text};
use pg_cdc_tests::{topic, wait_until};
use serde_json::Value;

use super::company::{Company, TIMEOUT};
use crate::outcomes::Outcomes;

/// Nora (20001), Tim, Ada, and Otto under both of his numbers, as play.sql has them.
const PLAYED: &str =
    "SELECT string_agg(concat_ws(' ', emp_id, first_name, dob, city, salary), ', ' ORDER BY emp_id)
    FROM employees WHERE emp_id < 0 OR emp_id > 20000";
const NORA: &str = "20001 Nora 1990-05-17 Bern 7200.00";
const TIM: &str = "20002 Tim 1999-03-02 Chur 3100.00";
const ADA: &str = "20003 Ada 1980-11-09 Sion 12500.00";
const OTTO: &str = "20004 Otto 1975-08-30 Thun 5400.00";

/// Looks at each outcome of play.sql.
pub(super) fn check(company: &Company<'_>, sink: &CompanionSink, outcomes: &mut Outcomes<'_>) {
    outcomes.check(
        "three events against the rules are in the dead-letter topic",
        || {
            company.play();
            company.wait_until_applied();
            dead_letters(company)
        },
    );
    outcomes.check(
        "companion-sink dlq list and show tell which, why, and what waits behind",
        || tell(sink),
    );
    outcomes.check(
        "later events of their keys wait, all others are there",
        || {
            let mut replica = company.replica();
            assert_eq!(one_text(&mut replica, PLAYED), NORA);
            let gone = "SELECT count(*) FROM employees WHERE emp_id = 42";
            assert_eq!(one_text(&mut replica, gone), "0");
            company.assert_equal_but_held()
        },
    );
    decide_about_each(company, sink, outcomes);
}

fn decide_about_each(company: &Company<'_>, sink: &CompanionSink, outcomes: &mut Outcomes<'_>) {
    outcomes.check(
        "dlq retry of an event that is still wrong: refused again",
        || {
            let id = held_event(sink, "born_after_2007");
            let said = decide(sink, &["retry", &id]);
            assert!(said.contains("refused again"), "{said}");
            assert_eq!(shown(sink, &id)["attempts"], 2);
            String::new()
        },
    );
    outcomes.check(
        "dlq edit: the event is applied, and right after it what waited",
        || {
            let id = held_event(sink, "born_after_2007");
            let set = "after.dob=1999-03-02";
            decide(
                sink,
                &[
                    "edit", &id, "--set", set, "--reason", "a slip", "--by", "ann",
                ],
            );
            wait_for_text(&mut company.replica(), PLAYED, &format!("{NORA}, {TIM}"));
            decided_by(company, "edit ann a slip")
        },
    );
    outcomes.check("dlq skip: the event never comes, what waited does", || {
        let id = held_event(sink, "emp_id");
        decide(
            sink,
            &["skip", &id, "--reason", "got another number", "--by", "ann"],
        );
        wait_for_text(
            &mut company.replica(),
            PLAYED,
            &format!("{NORA}, {TIM}, {OTTO}"),
        );
        decided_by(company, "skip ann got another number")
    });
    outcomes.check(
        "another rule, SIGHUP, dlq retry: applied, and both sides are equal",
        || {
            let id = held_event(sink, "salary");
            change_config(sink, |text| {
                text.replace("after.salary > 10000", "after.salary > 15000")
            });
            // The rule counts from a moment later on.
            wait_until("the event to be applied", TIMEOUT, || {
                let said = decide(sink, &["retry", "--all"]);
                match sink.try_command(&["dlq", "show", &id]).status.code() {
                    Some(4) => Ok(()),
                    _ => Err(said),
                }
            });
            wait_for_text(
                &mut company.replica(),
                PLAYED,
                &format!("{NORA}, {TIM}, {ADA}, {OTTO}"),
            );
            let rows = company.assert_equal();
            withdraw(company, sink);
            format!("{rows} rows")
        },
    );
}

/// Brings the rule back, after the source has a salary that it takes.
fn withdraw(company: &Company<'_>, sink: &CompanionSink) {
    change_config(sink, |text| {
        text.replace("after.salary > 15000", "after.salary > 10000")
    });
    let mut source = company.source();
    source
        .batch_execute("UPDATE employees SET salary = 9900 WHERE emp_id = 20003")
        .expect("Ada's salary");
    company.wait_until_applied();
}

/// Changes the configuration of an instance, which reads it again.
pub(super) fn change_config(sink: &CompanionSink, change: impl FnOnce(&str) -> String) {
    let file = sink.config_file();
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let changed = change(&text);
    assert_ne!(changed, text);
    std::fs::write(&file, changed).expect("the changed configuration");
    let count = || {
        let log = std::fs::read_to_string(sink.log_file()).expect("the log");
        log.matches("configuration read again").count()
    };
    let before = count();
    sink.reload();
    wait_until("the rules to be read", TIMEOUT, || match count() {
        now if now > before => Ok(()),
        now => Err(now),
    });
}

/// The reasons that the dead-letter topic has, each once.
fn dead_letters(company: &Company<'_>) -> String {
    let dead = format!("{}.dlq", company.topic());
    let records = topic::read(company.bed().kafka(), &dead);
    let reasons = records.iter().map(|record| {
        let header = |name| record.header(name).unwrap_or_default();
        assert_eq!(header("cdc.dlq.code"), "CDC1006");
        assert_eq!(header("__connect.errors.topic"), company.topic());
        format!("{} {}", header("cdc.dlq.reason"), record.key_text())
    });
    let mut reasons: Vec<String> = reasons.collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            r#"born_after_2007 {"emp_id":20002}"#,
            r#"emp_id {"emp_id":-7}"#,
            r#"salary {"emp_id":20003}"#
        ]
    );
    "born_after_2007, emp_id, salary".to_owned()
}

fn tell(sink: &CompanionSink) -> String {
    for (reason, key, value) in [
        (
            "born_after_2007",
            r#"{"emp_id":20002}"#,
            r#""dob":"2009-03-02""#,
        ),
        ("emp_id", r#"{"emp_id":-7}"#, r#""last_name":"Vogt""#),
        ("salary", r#"{"emp_id":20003}"#, r#""salary":"12500.00""#),
    ] {
        let event = shown(sink, &held_event(sink, reason));
        assert_eq!(
            (&event["key"], &event["sink"]),
            (&key.into(), &"replica".into())
        );
        assert!(event["behind"].as_u64() >= Some(1), "{event}");
        let body = event["body"].as_str().unwrap_or_default();
        assert!(body.contains(value), "{event}");
        let message = event["message"].as_str().unwrap_or_default();
        assert!(message.contains(reason), "{event}");
    }
    String::new()
}

/// The id of the event that the rule of this name holds.
fn held_event(sink: &CompanionSink, reason: &str) -> String {
    let listed = sink.objects(&["dlq", "list", "--reason", reason]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    listed[0]["event"].as_str().expect("an id").to_owned()
}

fn shown(sink: &CompanionSink, id: &str) -> Value {
    sink.objects(&["dlq", "show", id]).remove(0)
}

/// Decides about an event; what the command said.
pub(super) fn decide(sink: &CompanionSink, arguments: &[&str]) -> String {
    let output = sink.try_command(&[&["dlq"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// That the newest decision is this one: what, who, why.
fn decided_by(company: &Company<'_>, expected: &str) -> String {
    let newest = "SELECT concat_ws(' ', action, decided_by, reason) FROM companion.actions ORDER BY at DESC LIMIT 1";
    assert_eq!(one_text(&mut company.replica(), newest), expected);
    expected.to_owned()
}
