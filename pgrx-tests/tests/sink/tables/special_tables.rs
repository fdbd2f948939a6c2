//! Tables whose target computes columns, and has rows and references that the source does not know.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, Source};
use pg_cdc_tests::statements::{one_text, wait_for_text};
use postgres::Client;
use serde_json::{Value, json};

use super::sink_refusals::key_of;

/// Tables with columns that take no value but at an insert, with rows that are older than the topic, and with foreign keys.
const SPECIAL: &str = "CREATE TABLE i (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text);
    CREATE TABLE j (id integer PRIMARY KEY, seq integer GENERATED ALWAYS AS IDENTITY, a text);
    CREATE TABLE alone (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
    CREATE TABLE g (id integer PRIMARY KEY, a integer, double integer GENERATED ALWAYS AS (a * 2) STORED);
    CREATE TABLE keyless (a integer, b text);
    CREATE TABLE parent (id integer PRIMARY KEY);
    CREATE TABLE child (id integer PRIMARY KEY, p integer REFERENCES parent);
    CREATE TABLE own (p integer REFERENCES parent)";

/// All of them.
const TABLES: [&str; 7] = ["i", "j", "alone", "g", "keyless", "parent", "child"];
/// What the replica has of them at last.
const ROWS: [(&str, &str); 6] = [
    (
        "SELECT string_agg(id || a, ' ' ORDER BY id) FROM i",
        "1x 2y",
    ),
    (
        "SELECT string_agg(concat_ws('/', id, seq, a), ' ' ORDER BY id) FROM j",
        "1/11/z 2/77/x",
    ),
    (
        "SELECT string_agg(id::text, ' ' ORDER BY id) FROM alone",
        "1 2",
    ),
    (
        "SELECT string_agg(concat_ws('/', id, a, double), ' ' ORDER BY id) FROM g",
        "1/5/10 2/2/4",
    ),
    (
        "SELECT string_agg(a || b, ' ' ORDER BY a, b) FROM keyless",
        "1once 1twice 7new",
    ),
    ("SELECT count(*) FROM companion.parked", "0"),
];

/// Makes an update, with copies of its keys where the table has one.
fn update(source: &mut Source, table: &str, before: &Value, after: &Value) -> Event {
    let key = key_of(after["id"].as_u64().expect("a number"));
    source.update(table, key.as_deref(), before, after)
}

#[test]
fn what_the_target_computes_or_does_not_have_stops_nothing() {
    for mut source in Source::of_each_consistency("special") {
        source.replica().batch_execute(SPECIAL).expect("the target");
        track_tables(&mut source);
        rows_are_made(&mut source);
        let sink = source.start_sink();
        wait_until_applied(&source, &sink);

        rows_are_changed(&mut source);
        wait_until_applied(&source, &sink);
        let mut target = source.replica();
        assert_rows(&mut target);
        assert_eq!(
            sink.state_of("replica")["unknown_rows"],
            2,
            "they are counted"
        );

        tables_are_emptied(&mut source);
        wait_until_applied(&source, &sink);
        let left = "SELECT (SELECT count(*) FROM parent) + (SELECT count(*) FROM child)";
        wait_for_text(&mut target, left, "0");
        assert_eq!(sink.state_of("replica")["state"], "running");
    }
}

fn track_tables(source: &mut Source) {
    let int = "integer";
    source.track("i", &[("id", int), ("a", "text")], &["id"]);
    source.track("j", &[("id", int), ("seq", int), ("a", "text")], &["id"]);
    source.track("alone", &[("id", int)], &["id"]);
    source.track("g", &[("id", int), ("a", int), ("double", int)], &["id"]);
    source.track("keyless", &[("a", int), ("b", "text")], &[]);
    source.track("parent", &[("id", int)], &["id"]);
    source.track("child", &[("id", int), ("p", int)], &["id"]);
}

fn rows_are_made(source: &mut Source) {
    let mut events = Vec::new();
    for id in [1, 2] {
        let key = key_of(id);
        events.push(source.create("i", key.as_deref(), &json!({"id": id, "a": "x"})));
        events.push(source.create(
            "j",
            key.as_deref(),
            &json!({"id": id, "seq": 10 + id, "a": "x"}),
        ));
        events.push(source.create("alone", key.as_deref(), &json!({"id": id})));
        events.push(source.create(
            "g",
            key.as_deref(),
            &json!({"id": id, "a": id, "double": 2 * id}),
        ));
        events.push(source.create("parent", key.as_deref(), &json!({"id": id})));
        events.push(source.create("child", key.as_deref(), &json!({"id": id, "p": id})));
    }
    // Two equal rows; and rows that were there before the topic.
    for _ in 0..2 {
        events.push(source.create("keyless", None, &json!({"a": 1, "b": "twice"})));
    }
    for event in &events {
        source.send(event);
    }
}

fn rows_are_changed(source: &mut Source) {
    let same = json!({"id": 1, "a": "x"});
    let events = [
        update(source, "i", &same, &same),
        update(
            source,
            "i",
            &json!({"id": 2, "a": "x"}),
            &json!({"id": 2, "a": "y"}),
        ),
        source.read("i", key_of(1).as_deref(), &same),
        update(
            source,
            "j",
            &json!({"id": 1, "seq": 11, "a": "x"}),
            &json!({"id": 1, "seq": 11, "a": "y"}),
        ),
        update(
            source,
            "j",
            &json!({"id": 2, "seq": 12, "a": "x"}),
            &json!({"id": 2, "seq": 77, "a": "x"}),
        ),
        source.read(
            "j",
            key_of(1).as_deref(),
            &json!({"id": 1, "seq": 11, "a": "z"}),
        ),
        update(source, "alone", &json!({"id": 1}), &json!({"id": 1})),
        source.read("alone", key_of(2).as_deref(), &json!({"id": 2})),
        update(
            source,
            "g",
            &json!({"id": 1, "a": 1, "double": 2}),
            &json!({"id": 1, "a": 5, "double": 10}),
        ),
        source.update(
            "keyless",
            None,
            &json!({"a": 7, "b": "old"}),
            &json!({"a": 7, "b": "new"}),
        ),
        source.delete("keyless", None, &json!({"a": 8, "b": "old"})),
        source.update(
            "keyless",
            None,
            &json!({"a": 1, "b": "twice"}),
            &json!({"a": 1, "b": "once"}),
        ),
    ];
    for event in &events {
        source.send(event);
    }
}

fn wait_until_applied(source: &Source, sink: &CompanionSink) {
    TABLES
        .iter()
        .for_each(|table| source.wait_until_applied(sink, table));
}

fn assert_rows(target: &mut Client) {
    for (query, expected) in ROWS {
        assert_eq!(one_text(target, query), expected, "{query}");
    }
}

/// TRUNCATE parent, child at the source; the target has a reference more, of rows that the source knows nothing of.
fn tables_are_emptied(source: &mut Source) {
    let parent = source.truncate("parent");
    let child = source.in_transaction_of(&parent, |source| source.truncate("child"));
    for event in [&parent, &child] {
        source.send_control(event);
    }
}
