//! Events that a history refuses: they and the later ones of their keys wait in its database until somebody decides, here by
//! the command.
//!
//! FerretDB refuses an object that has a name twice, and nothing mends that: an edit does, or the event.

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};
use mongodb::sync::Collection;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::{topic, topic_admin, wait_until};
use serde_json::{Value, json};

pub(super) const COLUMNS: [(&str, &str); 4] = [
    ("id", "bigint"),
    ("city", "character varying(5)"),
    ("a", "integer[]"),
    ("n", "integer"),
];
/// What stands for a delete in [`of_row`].
const DELETED: i32 = -1;

pub(super) fn row(id: u64, n: i64) -> Value {
    json!({"id": id, "city": "city", "a": [1], "n": n})
}

/// What stands in an event for [`TWICE`], which no JSON value of the test's can be.
const MARK: &str = "[\"twice\"]";
/// A value that the history refuses.
const TWICE: &str = "{\"x\":1,\"x\":2}";

/// One that the history refuses.
pub(super) fn refused_row(id: u64, n: i64) -> Value {
    json!({"id": id, "city": "city", "a": ["twice"], "n": n})
}

pub(super) fn create(source: &mut Source, after: &Value) -> Event {
    let id = after["id"].as_u64().expect("an id");
    let event = source.create("t", Some(&id_key(id)), after);
    let value = String::from_utf8(event.value.clone().expect("a value")).expect("text");
    let event = event.with_value(value.replace(MARK, TWICE).as_bytes());
    source.send(&event);
    event
}

fn update(source: &mut Source, id: u64, n: i64) -> Event {
    let event = source.update("t", Some(&id_key(id)), &row(id, n - 1), &row(id, n));
    source.send(&event);
    event
}

/// What the events of a row set `n` to, in the order of their versions.
pub(super) fn of_row(source: &Source, id: i32) -> Vec<i32> {
    let is_of_row = |document: &Document| {
        let key = document.get_document("key");
        key.is_ok_and(|key| key.get_i32("id") == Ok(id))
    };
    let documents = source.history("t").all().into_iter().filter(is_of_row);
    let n = documents.map(|document| match document.get_document("after") {
        Ok(after) => after.get_i32("n").expect("n"),
        Err(_) => DELETED,
    });
    n.collect()
}

fn wait_for_row(source: &Source, id: i32, n: &[i32]) {
    wait_until(&format!("the history of row {id}"), TIMEOUT, || {
        let found = of_row(source, id);
        if found == n {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

pub(super) fn collection(source: &Source, name: &str) -> Collection<Document> {
    let client = bed().ferretdb().client();
    client.database(&source.history_name()).collection(name)
}

pub(super) fn documents(source: &Source, name: &str) -> Vec<Document> {
    let found = collection(source, name).find(doc! {}).run();
    let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
    found
        .map(|document| document.expect("a document"))
        .collect()
}

pub(super) fn start(source: &Source) -> CompanionSink {
    let sink = bed().companion_sink(source.plan());
    sink.start_only(&["history"]);
    sink
}

pub(super) fn wait_until_applied(source: &Source, sink: &CompanionSink) {
    source.flush();
    sink.wait_until_sink_applied("history", bed().kafka(), &[source.topic("t")]);
}

/// The objects that `dlq` prints.
pub(super) fn dlq(sink: &CompanionSink, arguments: &[&str]) -> Vec<Value> {
    let text = sink.run_command(&[&["dlq"], arguments].concat());
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect()
}

fn wait_for_parked_keys(sink: &CompanionSink, count: u64) {
    let line = format!("companion_sink_parked_keys{{sink=\"history\"}} {count}");
    wait_until("the number of parked keys", TIMEOUT, || {
        let text = sink.get("/metrics");
        let is_there = text.lines().any(|found| found == line);
        if is_there { Ok(()) } else { Err(text) }
    });
}

fn wait_for_attempts(sink: &CompanionSink, id: &str, attempts: i64) {
    wait_until("another attempt", TIMEOUT, || {
        let shown = dlq(sink, &["show", id]).remove(0);
        let is_over = shown["state"] == "parks its key";
        match shown["attempts"].as_i64() {
            Some(found) if found == attempts && is_over => Ok(()),
            _ => Err(shown.to_string()),
        }
    });
}

#[test]
fn people_decide_about_refused_events_of_a_history() {
    let mut source = Source::new("decided_history");
    source.track("t", &COLUMNS, &["id"]);
    let refused = four_rows_are_refused(&mut source);
    let sink = start(&source);
    wait_until_applied(&source, &sink);
    later_events_of_their_keys_wait(&mut source, &sink);
    assert_listed(&source, &sink, &refused);
    they_wait_on_after_a_restart(&mut source, &sink);

    tells(
        &sink,
        &["history", "t", "3"],
        "1 refused event of this row waits",
    );
    let wrong = [
        "dlq",
        "edit",
        &refused[0],
        "--set",
        "after.n=abc",
        "--reason",
        "x",
    ];
    tells(&sink, &wrong, "the value is no integer");

    each_is_decided_about_while_new_events_come(&mut source, &sink, &refused);
    assert_edited(&source, &sink, &refused[0]);
    tells(
        &sink,
        &["history", "t", "2"],
        "1 skipped: event of this row",
    );
    assert_actions(&source, &refused);

    mend(&source, &refused[2]);
    dlq(&sink, &["retry", "--all", "--sink", "history"]);
    wait_for_row(&source, 3, &[0, 1, 2, 3]);
    wait_for_attempts(&sink, &refused[3], 2);
    // What is decided while nobody runs is done at the start.
    assert!(sink.stop().expect("it ran").success());
    let skip = ["dlq", "skip", &refused[3], "--reason", "enough"];
    tells(&sink, &skip, ": skip of history: noted, nothing runs");
    sink.start_only(&["history"]);
    wait_for_row(&source, 4, &[1, 2, 3]);
    wait_for_parked_keys(&sink, 0);
    assert_eq!(documents(&source, "companion_parked"), []);
    assert_eq!(dlq(&sink, &["list"]), [] as [Value; 0]);
    tells(&sink, &["dlq", "retry", "--all"], "nothing was refused");
}

/// The rows 1 to 4, and 11 to 14 of which nothing is refused. Returns the ids of the refused events.
fn four_rows_are_refused(source: &mut Source) -> Vec<String> {
    let mut refused = Vec::new();
    for id in 1..=4 {
        refused.push(create(source, &refused_row(id, 0)).id());
        // In one batch with it.
        update(source, id, 1);
        create(source, &row(10 + id, 0));
    }
    refused
}

fn later_events_of_their_keys_wait(source: &mut Source, sink: &CompanionSink) {
    for id in 1..=4 {
        update(source, id, 2);
        update(source, 10 + id, 1);
    }
    // Row 2 becomes row 20, which waits as well.
    let delete = source
        .delete("t", Some(&id_key(2)), &row(2, 2))
        .with_header("__debezium.newkey", &id_key(20));
    let moved = source
        .create("t", Some(&id_key(20)), &row(20, 2))
        .with_header("__debezium.oldkey", &id_key(2));
    source.send(&delete);
    source.flush();
    wait_until_applied(source, sink);
    source.send(&moved);
    wait_until_applied(source, sink);
    assert_eq!(source.history("t").count(), 8, "what was not refused");
    wait_for_parked_keys(sink, 5);
}

/// The refused events are told, with what waits behind them, and are dead letters.
fn assert_listed(source: &Source, sink: &CompanionSink, refused: &[String]) {
    let listed = dlq(sink, &["list", "--reason", "refused"]);
    let told = |event: &Value| {
        let part = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        (
            part("event"),
            part("sink"),
            part("code"),
            part("key"),
            part("state"),
            event["behind"].clone(),
        )
    };
    let mut told: Vec<_> = listed.iter().map(told).collect();
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let wanted = (1..=4).map(|id| {
        let behind = if id == 2 { 3 } else { 2 };
        let event = refused[id as usize - 1].clone();
        (
            event,
            "history".into(),
            "CDC1007".into(),
            id_key(id),
            "parks its key".into(),
            json!(behind),
        )
    });
    assert_eq!(told, wanted.collect::<Vec<_>>());
    let dead = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("t")));
    assert_eq!(dead.len(), 4, "only the refused events, once");
}

fn they_wait_on_after_a_restart(source: &mut Source, sink: &CompanionSink) {
    assert!(sink.stop().expect("it ran").success());
    sink.start_only(&["history"]);
    for id in [1, 3, 4, 11] {
        update(source, id, 3);
    }
    wait_until_applied(source, sink);
    assert_eq!(
        (of_row(source, 1), of_row(source, 11)),
        (vec![], vec![0, 1, 3])
    );
}

/// The first is edited, the second skipped, the third tried again. About the fourth nobody decides.
fn each_is_decided_about_while_new_events_come(
    source: &mut Source,
    sink: &CompanionSink,
    refused: &[String],
) {
    let edit = ["--set", "after.a=[7]", "--reason", "a typo", "--by", "ann"];
    let edit = [&["dlq", "edit", &refused[0]], &edit[..]].concat();
    tells(sink, &edit, ": edit of history: applied");
    let skip = [
        "dlq",
        "skip",
        &refused[1],
        "--reason",
        "a test row",
        "--by",
        "bob",
    ];
    tells(sink, &skip, ": skip of history: skipped");
    let retry = ["dlq", "retry", &refused[2], "--by", "bob"];
    let again = ": retry of history: refused again: mongodb refused the document: ";
    tells(sink, &retry, again);
    for n in 4..=300 {
        update(source, 1, n);
    }
    update(source, 20, 3);
    source.flush();
    wait_for_row(source, 1, &(0..=300).collect::<Vec<_>>());
    wait_for_row(source, 2, &[1, 2, DELETED]);
    wait_for_row(source, 20, &[2, 3]);
    wait_for_attempts(sink, &refused[2], 2);
    assert_eq!(of_row(source, 3), [] as [i32; 0]);
    wait_for_parked_keys(sink, 2);
}

/// What was edited says so, by whom and why, and has the original.
fn assert_edited(source: &Source, sink: &CompanionSink, event_id: &str) {
    let edited = source.history("t").all().into_iter();
    let mut edited = edited.filter(|document| document.get_str("_id") == Ok(event_id));
    let edited = edited.next().expect("the edited event");
    let after = edited.get_document("after").expect("an image");
    assert_eq!(after.get_array("a").expect("a"), &vec![Bson::Int32(7)]);
    let mark = edited.get_document("edited").expect("a mark");
    let told = ["by", "reason"].map(|name| mark.get_str(name).expect(name));
    assert_eq!(told, ["ann", "a typo"]);
    let original = mark.get_document("original").expect("the original");
    assert!(original.get_str("a").expect("a").starts_with(TWICE));
    let csv = sink.run_command(&["history", "t", "1", "--format", "csv", "--limit", "0"]);
    let edited = csv.lines().nth(1).expect("a line");
    assert!(
        edited.contains("create (edited)") && edited.contains("[edited by ann: a typo; a was "),
        "{edited}"
    );
}

/// A command says something to people.
fn tells(sink: &CompanionSink, arguments: &[&str], text: &str) {
    let output = sink.try_command(arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(text), "{arguments:?}: {told}");
}

/// Who decided what is kept, and of an edit the original.
fn assert_actions(source: &Source, refused: &[String]) {
    let find = |action: &str| {
        let found = documents(source, "companion_actions").into_iter();
        let mut found = found.filter(|document| document.get_str("action") == Ok(action));
        found.next().unwrap_or_else(|| panic!("no {action}"))
    };
    let text = |action: &Document, name: &str| action.get_str(name).unwrap_or("-").to_owned();
    for (action, event, by, reason, outcome) in [
        ("edit", &refused[0], "ann", "a typo", "done"),
        ("skip", &refused[1], "bob", "a test row", "done"),
        ("retry", &refused[2], "bob", "-", "refused"),
    ] {
        let found = find(action);
        let told = ["event", "by", "reason", "outcome"].map(|name| text(&found, name));
        assert_eq!(told, [event, by, reason, outcome], "{found}");
    }
    let original = find("edit").get_binary_generic("value").cloned();
    let original = String::from_utf8(original.expect("the original")).expect("text");
    assert!(original.contains(TWICE), "{original}");
}

/// Makes an event one that is taken.
fn mend(source: &Source, event_id: &str) {
    let parked = collection(source, "companion_parked");
    let found = parked.find_one(doc! {"event": event_id}).run();
    let found = found.expect("an answer").expect("the parked event");
    let value = found.get_binary_generic("value").expect("a value").clone();
    let value = String::from_utf8(value).expect("text");
    let value = Binary {
        subtype: BinarySubtype::Generic,
        bytes: value.replace(TWICE, "[1]").into_bytes(),
    };
    let mended = parked.update_one(doc! {"event": event_id}, doc! {"$set": {"value": value}});
    assert_eq!(mended.run().expect("mend it").modified_count, 1);
}

#[test]
fn an_event_larger_than_a_document_is_kept_whole() {
    let mut source = Source::new("large_history");
    source.track("t", &COLUMNS, &["id"]);
    topic_admin::set(
        bed().kafka(),
        &source.topic("t"),
        "max.message.bytes",
        "50000000",
    );
    let large = |id: u64| json!({"id": id, "city": "x".repeat(17 << 20), "a": [1], "n": 0});
    let edited = create(&mut source, &large(1)).id();
    let skipped = create(&mut source, &large(2)).id();
    update(&mut source, 1, 1);
    let sink = start(&source);
    wait_until_applied(&source, &sink);
    let pieces = || documents(&source, "companion_bodies").len();
    assert_eq!((source.history("t").count(), pieces()), (0, 6));
    let shown = dlq(&sink, &["show", &edited]).remove(0);
    assert_eq!(
        shown["body"].as_str().map(|body| body.len() > 17 << 20),
        Some(true)
    );
    dlq(
        &sink,
        &[
            "edit",
            &edited,
            "--set",
            "after.city=short",
            "--reason",
            "too large",
        ],
    );
    dlq(&sink, &["skip", &skipped, "--reason", "too large"]);
    wait_for_row(&source, 1, &[0, 1]);
    wait_for_parked_keys(&sink, 0);
    // The record of the edit has the original.
    wait_until("the rest to be forgotten", TIMEOUT, || {
        if pieces() == 3 {
            Ok(())
        } else {
            Err(pieces().to_string())
        }
    });
}

#[test]
fn too_many_refused_events_halt_the_history() {
    let mut source = Source::new("flooded_history");
    source.more_toml = "[dead_letters]\nmax_parked_keys_per_minute = 5\n";
    source.track("t", &COLUMNS, &["id"]);
    let refused = [1, 2, 3, 4, 5].map(|id| create(&mut source, &refused_row(id, 0)).id());
    let sink = start(&source);
    wait_until_applied(&source, &sink);
    wait_for_parked_keys(&sink, 5);
    create(&mut source, &refused_row(6, 0));
    source.flush();
    let halted = || match sink.get("/readyz") {
        answer if answer.contains("CDC1004") => Ok(()),
        answer => Err(answer),
    };
    wait_until("the history to halt", TIMEOUT, halted);
    assert_eq!(
        documents(&source, "companion_parked").len(),
        5,
        "the one that was too much is not parked"
    );
    // What people decide counts nevertheless.
    dlq(
        &sink,
        &[
            "edit",
            &refused[0],
            "--set",
            "after.a=[1]",
            "--reason",
            "a test",
        ],
    );
    wait_for_row(&source, 1, &[0]);
    dlq(&sink, &["skip", &refused[1], "--reason", "a test row"]);
    wait_for_parked_keys(&sink, 3);
    wait_until("the history to halt again", TIMEOUT, halted);
}
