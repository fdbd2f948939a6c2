//! Who changed what, when and why: every question that the command answers.

use std::collections::BTreeMap;

use pg_cdc_tests::TestBed;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use postgres::Client;
use serde_json::{Value, json};

use super::http::the_same_over_http;

/// Its exit code and the objects that it prints.
pub(super) fn ask(sink: &CompanionSink, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = sink.ask_history(arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"));
    (output.status.code(), lines.collect())
}

/// What an answer has under a path such as `/who/actor`, line by line.
fn at<'a>(lines: &'a [Value], path: &str) -> Vec<&'a Value> {
    let parts = lines
        .iter()
        .map(|line| line.pointer(path).unwrap_or(&Value::Null));
    parts.collect()
}

pub(super) fn now(client: &mut Client) -> String {
    let query =
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    client.query_one(query, &[]).expect("the time").get(0)
}

fn changed(client: &mut Client, context: [&str; 3], statements: &str) {
    let [actor, reason, request] = context;
    let statements = format!(
        "BEGIN; SELECT cdc_context('{actor}', '{reason}', '{request}'); {statements}; COMMIT"
    );
    client.batch_execute(&statements).expect("a change");
}

#[test]
fn who_changed_what_when_and_why() {
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE customer (id int PRIMARY KEY, name text, city text, balance numeric(10,2), note text)",
            "CREATE TABLE account (id int PRIMARY KEY, n int)",
            "SELECT cdc_track('customer'), cdc_track('account')",
        ],
    );
    let before = now(&mut client);
    changed(
        &mut client,
        ["ann", "new customer", "r-16"],
        "INSERT INTO customer VALUES (42, 'Eva', 'Basel', 10.50); INSERT INTO account VALUES (1, 0)",
    );
    let created = now(&mut client);
    changed(
        &mut client,
        ["ann", "moved", "r-17"],
        "UPDATE customer SET city = 'Bern'",
    );
    changed(
        &mut client,
        ["bob", "goodwill", "r-18"],
        "UPDATE customer SET balance = 25, note = 'VIP'; UPDATE account SET n = 1",
    );
    let sink = database.start_companion_sink();
    database.wait_until_history_is_complete(&sink, "customer");

    let timeline = a_row_has_its_timeline(&sink, &created);
    a_row_is_shown_as_it_was(&sink, &timeline, &before, &created);
    it_is_told_whose_doing_it_is(&sink);
    changes_are_found_over_all_tables(&sink, &timeline);
    the_same_over_http(&sink, &timeline, &created);
    rows_go_into_a_spreadsheet(&sink, &created);

    let file = bed.path("customer.json");
    let file = file.to_str().expect("a name");
    assert_eq!(
        sink.find_in_history(&["customer", "42", "-o", file]),
        [] as [Value; 0]
    );
    let written = std::fs::read_to_string(file).expect("the file");
    assert_eq!(written.lines().count(), 3);

    what_cannot_be_asked_is_refused(&sink);
}

fn a_row_has_its_timeline(sink: &CompanionSink, created: &str) -> Vec<Value> {
    let timeline = sink.find_in_history(&["customer", "42"]);
    assert_eq!(
        at(&timeline, "/op"),
        [&json!("create"), &json!("update"), &json!("update")]
    );
    assert_eq!(
        at(&timeline, "/sequence_number"),
        [&json!(1), &json!(2), &json!(3)]
    );
    let later = sink.find_in_history(&["public.customer", "id=42", "--since", created]);
    assert_eq!(at(&later, "/sequence_number"), [&json!(2), &json!(3)]);
    let newest = sink.find_in_history(&["shop.public.customer", "42", "--limit", "1"]);
    assert_eq!(at(&newest, "/sequence_number"), [&json!(3)]);
    timeline
}

fn a_row_is_shown_as_it_was(sink: &CompanionSink, timeline: &[Value], before: &str, created: &str) {
    let city = |at: &str| ask(sink, &["customer", "42", "--at", at]).1[0]["state"]["city"].clone();
    assert_eq!(
        (city("1"), city("2"), city(created)),
        (json!("Basel"), json!("Bern"), json!("Basel"))
    );
    assert_eq!(
        city(timeline[1]["version"].as_str().expect("a version")),
        json!("Bern")
    );
    for nothing in [before, "4", "0"] {
        assert_eq!(
            ask(sink, &["customer", "42", "--at", nothing]),
            (Some(4), vec![]),
            "{nothing}"
        );
    }
    assert_eq!(
        sink.find_in_history(&["customer", "42", "--diff", "1..3"]),
        [
            json!({"path": "city", "from": "Basel", "to": "Bern"}),
            json!({"path": "balance", "from": "10.50", "to": "25.00"}),
            json!({"path": "note", "from": null, "to": "VIP"}),
        ]
    );
}

fn it_is_told_whose_doing_it_is(sink: &CompanionSink) {
    let blamed = sink.find_in_history(&["customer", "42", "--blame"]);
    let blamed: BTreeMap<&str, (&Value, &Value)> = blamed
        .iter()
        .map(|one| {
            (
                one["column"].as_str().expect("a column"),
                (&one["version"], &one["actor"]),
            )
        })
        .collect();
    assert_eq!(blamed["name"], (&json!(1), &json!("ann")));
    assert_eq!(blamed["city"], (&json!(2), &json!("ann")));
    assert_eq!(blamed["note"], (&json!(3), &json!("bob")));
    let one = sink.find_in_history(&["customer", "42", "--blame", "city"]);
    assert_eq!(at(&one, "/reason"), [&json!("moved")]);
}

fn changes_are_found_over_all_tables(sink: &CompanionSink, timeline: &[Value]) {
    let tables = |lines: &[Value]| -> Vec<String> {
        let entities = lines
            .iter()
            .map(|line| line["entity"].as_str().expect("an entity"));
        let tables = entities.map(|entity| entity.split(['.', ':']).nth(2).expect("a table"));
        tables.map(str::to_owned).collect()
    };
    assert_eq!(
        tables(&sink.find_in_history(&["--actor", "ann"])),
        ["customer", "account", "customer"]
    );
    assert_eq!(
        tables(&sink.find_in_history(&["--request-id", "r-18"])),
        ["customer", "account"]
    );
    let transaction = timeline[2]["transaction"]["id"].as_str().expect("an id");
    let (xid, _) = transaction.split_once(':').expect("xid and LSN");
    for id in [transaction, xid] {
        assert_eq!(
            tables(&sink.find_in_history(&["--transaction", id])),
            ["customer", "account"]
        );
    }
    assert_eq!(
        tables(&sink.find_in_history(&["account", "--actor", "ann"])),
        ["account"]
    );
    let moved =
        sink.find_in_history(&["customer", "--where", "city=Basel", "--where", "city=Bern"]);
    assert_eq!(at(&moved, "/why/reason"), [&json!("moved")]);
    assert_eq!(ask(sink, &["--actor", "nobody"]).0, Some(4));
}

fn rows_go_into_a_spreadsheet(sink: &CompanionSink, created: &str) {
    let csv = sink.ask_history(&["customer", "42", "--format", "csv", "--limit", "1"]);
    let csv = String::from_utf8_lossy(&csv.stdout);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "#,when,op,actor,role,reason,request,change");
    assert!(
        lines[1].starts_with("3,")
            && lines[1].ends_with(",\"balance 10.50 -> 25.00; note null -> \"\"VIP\"\"\""),
        "{csv}"
    );
    let csv = sink.ask_history(&["customer", "--at", created, "--format", "csv"]);
    assert_eq!(
        String::from_utf8_lossy(&csv.stdout),
        "id,name,city,balance,note\n42,Eva,Basel,10.50,\n"
    );
}

fn what_cannot_be_asked_is_refused(sink: &CompanionSink) {
    for wrong in [
        ["customer", "42", "--at", "yesterday"],
        ["customer", "42", "--diff", "1"],
        ["customer", "--at", "1", "--json"],
        ["customer", "{\"x\": 1}", "--limit", "1"],
    ] {
        let output = sink.ask_history(&wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("CDC1001"), "{text}");
    }
}
