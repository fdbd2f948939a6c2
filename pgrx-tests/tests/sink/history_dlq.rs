//! Events that a history refuses: they and the later ones of their keys wait in its database until somebody decides, by the
//! command or over HTTP.
//!
//! FerretDB refuses an object that has a name twice, and nothing mends that: an edit does, or the event.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};
use mongodb::sync::Collection;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, PARTITIONS, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::{topic, topic_admin, wait_until};
use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 4] = [
    ("id", "bigint"),
    ("city", "character varying(5)"),
    ("a", "integer[]"),
    ("n", "integer"),
];
/// What stands for a delete in [`of_row`].
const DELETED: i32 = -1;

fn row(id: u64, n: i64) -> Value {
    json!({"id": id, "city": "city", "a": [1], "n": n})
}

/// What stands in an event for [`TWICE`], which no JSON value of the test's can be.
const MARK: &str = "[\"twice\"]";
/// A value that the history refuses.
const TWICE: &str = "{\"x\":1,\"x\":2}";

/// One that the history refuses.
fn refused_row(id: u64, n: i64) -> Value {
    json!({"id": id, "city": "city", "a": ["twice"], "n": n})
}

fn create(source: &mut Source, after: &Value) -> Event {
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
fn of_row(source: &Source, id: i32) -> Vec<i32> {
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

fn collection(source: &Source, name: &str) -> Collection<Document> {
    let client = bed().ferretdb().client();
    client.database(&source.history_name()).collection(name)
}

fn documents(source: &Source, name: &str) -> Vec<Document> {
    let found = collection(source, name).find(doc! {}).run();
    let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
    found
        .map(|document| document.expect("a document"))
        .collect()
}

fn start(source: &Source) -> CompanionSink {
    let sink = bed().companion_sink(source.plan());
    sink.start_only(&["history"]);
    sink
}

fn wait_until_applied(source: &Source, sink: &CompanionSink) {
    source.flush();
    sink.wait_until_sink_applied("history", bed().kafka(), &[source.topic("t")]);
}

/// The objects that `dlq` prints.
fn dlq(sink: &CompanionSink, arguments: &[&str]) -> Vec<Value> {
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
    let mut refused = Vec::new();
    for id in 1..=4 {
        refused.push(create(&mut source, &refused_row(id, 0)).id());
        // In one batch with it.
        update(&mut source, id, 1);
        create(&mut source, &row(10 + id, 0));
    }
    let sink = start(&source);
    wait_until_applied(&source, &sink);
    for id in 1..=4 {
        update(&mut source, id, 2);
        update(&mut source, 10 + id, 1);
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
    wait_until_applied(&source, &sink);
    source.send(&moved);
    wait_until_applied(&source, &sink);
    assert_eq!(source.history("t").count(), 8, "what was not refused");
    wait_for_parked_keys(&sink, 5);
    let listed = dlq(&sink, &["list", "--reason", "refused"]);
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

    // They wait on after a restart.
    assert!(sink.stop().expect("it ran").success());
    sink.start_only(&["history"]);
    for id in [1, 3, 4, 11] {
        update(&mut source, id, 3);
    }
    wait_until_applied(&source, &sink);
    assert_eq!(
        (of_row(&source, 1), of_row(&source, 11)),
        (vec![], vec![0, 1, 3])
    );

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

    // New events come while it is carried out.
    let edit = ["--set", "after.a=[7]", "--reason", "a typo", "--by", "ann"];
    let edit = [&["dlq", "edit", &refused[0]], &edit[..]].concat();
    tells(&sink, &edit, ": edit of history: applied");
    let skip = [
        "dlq",
        "skip",
        &refused[1],
        "--reason",
        "a test row",
        "--by",
        "bob",
    ];
    tells(&sink, &skip, ": skip of history: skipped");
    let retry = ["dlq", "retry", &refused[2], "--by", "bob"];
    let again = ": retry of history: refused again: mongodb refused the document: ";
    tells(&sink, &retry, again);
    for n in 4..=300 {
        update(&mut source, 1, n);
    }
    update(&mut source, 20, 3);
    source.flush();
    wait_for_row(&source, 1, &(0..=300).collect::<Vec<_>>());
    wait_for_row(&source, 2, &[1, 2, DELETED]);
    wait_for_row(&source, 20, &[2, 3]);
    wait_for_attempts(&sink, &refused[2], 2);
    assert_eq!(of_row(&source, 3), [] as [i32; 0]);
    wait_for_parked_keys(&sink, 2);
    let edited = source.history("t").all().into_iter();
    let mut edited = edited.filter(|document| document.get_str("_id") == Ok(&refused[0]));
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

/// Each of the events is in the history or parked, and none is in the history that comes behind a parked one of its row.
fn assert_complete(source: &Source, sent: &BTreeMap<u64, Vec<String>>) {
    let ids = |documents: Vec<Document>, name: &str| -> BTreeSet<String> {
        let id = |document: Document| document.get_str(name).expect(name).to_owned();
        documents.into_iter().map(id).collect()
    };
    let there = ids(source.history("t").all(), "_id");
    let parked = ids(documents(source, "companion_parked"), "event");
    for (id, events) in sent {
        let first_parked = events.iter().position(|event| parked.contains(event));
        for (place, event) in events.iter().enumerate() {
            let waits = first_parked.is_some_and(|first| place >= first);
            let found = (there.contains(event), parked.contains(event));
            assert_eq!(found, (!waits, waits), "event {place} of row {id}");
        }
    }
}

/// Waits until so many events are parked.
fn wait_for_parked(source: &Source, count: usize) {
    wait_until("events to be parked", TIMEOUT, || {
        let found = documents(source, "companion_parked").len();
        if found >= count {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
}

#[test]
fn a_kill_between_any_two_writes_loses_nothing_and_lets_nothing_overtake() {
    let mut source = Source::new("killed_history");
    source.more_toml = "[dead_letters]\nmax_parked_keys_per_minute = 1000\n";
    source.track("t", &COLUMNS, &["id"]);
    let sink = start(&source);
    let mut sent: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for round in 0..4 {
        let before = documents(&source, "companion_parked").len();
        let mut events = Vec::new();
        for step in 0..4 {
            for id in (1..=20).map(|id| round * 100 + id) {
                let after = if step == 1 && id % 2 == 0 {
                    refused_row(id, step)
                } else {
                    row(id, step)
                };
                events.push((id, after));
            }
        }
        for (id, after) in events {
            let event = create(&mut source, &after);
            sent.entry(id).or_default().push(event.id());
        }
        source.flush();
        // Each time at another step: before anything is parked, in the middle, and when all is there.
        wait_for_parked(
            &source,
            [0, before + 1, before + 15, before + 30][round as usize],
        );
        sink.kill();
        sink.start_only(&["history"]);
    }
    wait_until_applied(&source, &sink);
    assert_complete(&source, &sent);
    let parked_ids = || -> BTreeSet<String> {
        let parked = documents(&source, "companion_parked").into_iter();
        parked
            .map(|document| document.get_str("event").expect("event").to_owned())
            .collect()
    };
    let (history, parked) = (source.history("t").all(), parked_ids());
    assert_eq!(parked.len(), 4 * 10 * 3);

    // The states that kills leave behind: before the offset moved; and with nothing, or only what is behind, parked.
    for forgotten in [None, Some(doc! {}), Some(doc! {"parked_behind": false})] {
        assert!(sink.stop().expect("it ran").success());
        if let Some(forgotten) = forgotten {
            let parked = collection(&source, "companion_parked");
            let deleted = parked.delete_many(forgotten);
            assert!(deleted.run().expect("forget").deleted_count > 0);
        }
        (0..PARTITIONS).for_each(|partition| sink.rewind_history(partition));
        sink.start_only(&["history"]);
        wait_until_applied(&source, &sink);
        wait_until("all to be parked again", TIMEOUT, || {
            let found = parked_ids();
            if found == parked {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        source.history("t").assert_is(&history);
        assert_complete(&source, &sent);
    }

    // A decision that was carried out up to its last step, or up to the one before.
    let head = dlq(&sink, &["list"]).remove(0);
    let (event, key) = (head["event"].as_str().expect("an id"), head["key"].clone());
    let is_of_key = |document: &Document| {
        let key_bytes = document.get_binary_generic("key").expect("a key");
        key == String::from_utf8_lossy(key_bytes).as_ref()
    };
    let kept = documents(&source, "companion_parked").into_iter();
    let kept: Vec<Document> = kept.filter(is_of_key).collect();
    dlq(
        &sink,
        &["edit", event, "--set", "after.a=null", "--reason", "a test"],
    );
    let is_settled = || {
        wait_until("the decision to be carried out", TIMEOUT, || {
            let open = documents(&source, "companion_actions").into_iter();
            let open = open
                .filter(|action| action.get_bool("open") == Ok(true))
                .count();
            match (open, parked_ids().len()) {
                (0, 117) => Ok(()),
                found => Err(format!("{found:?}")),
            }
        });
    };
    is_settled();
    let history = source.history("t").all();
    assert_eq!(kept.len(), 3);
    for left in [&kept[..], &kept[..1], &kept[1..], &[]] {
        assert!(sink.stop().expect("it ran").success());
        let reopened = collection(&source, "companion_actions")
            .update_many(doc! {}, doc! {"$set": {"open": true}})
            .run();
        assert_eq!(reopened.expect("open it again").modified_count, 1);
        if !left.is_empty() {
            let parked = collection(&source, "companion_parked");
            parked.insert_many(left).run().expect("park it again");
        }
        sink.start_only(&["history"]);
        is_settled();
        source.history("t").assert_is(&history);
    }
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

fn parse(answer: &str) -> (u16, Value) {
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (
        status.expect("a status"),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

const JSON: &str = "Content-Type: application/json";

#[test]
fn people_decide_over_http() {
    let mut source = Source::new("http_dlq");
    source.more_toml = "[[rule]]\ntopic = \"http_dlq.public.t\"\nname = \"refused\"\nreject_if = \"after.city == 'bad'\"\nsinks = [\"history\"]\n";
    source.track("t", &COLUMNS, &["id"]);
    let long = |id: u64| json!({"id": id, "city": "toolong", "a": [1], "n": 0});
    let of_replica = [1, 2].map(|id| create(&mut source, &long(id)).id());
    let bad = |id: u64| json!({"id": id, "city": "bad", "a": [1], "n": 0});
    let of_history = [3, 4].map(|id| create(&mut source, &bad(id)).id());
    let broken = source.create("t", Some(&id_key(5)), &row(5, 0));
    source.send(&broken.clone().with_value(b"{\"op\":\"c\",\"after\":{"));
    create(&mut source, &row(6, 0));
    let sink = source.start_sink();
    let mut idle = std::net::TcpStream::connect(sink.http_url().trim_start_matches("http://"))
        .expect("a connection");
    source.wait_until_applied(&sink, "t");
    refuses_who_may_not_ask(&sink, &of_replica[0]);

    let get = |path: &str| parse(&sink.get(path));
    let (mut pages, mut path) = (0, "/v1/dlq?limit=4".to_owned());
    let mut listed = 0;
    loop {
        let (status, page) = get(&path);
        assert_eq!(status, 200, "{page}");
        pages += 1;
        listed += page["events"].as_array().map_or(0, Vec::len);
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/dlq?limit=4&after={next}"),
            None => break,
        }
    }
    assert_eq!((pages, listed), (2, 6));
    let count = |path: &str| {
        let (status, body) = get(path);
        assert_eq!(status, 200, "{path}: {body}");
        body["events"].as_array().map(Vec::len)
    };
    assert_eq!(count("/v1/dlq"), Some(6));
    assert_eq!(count("/v1/dlq?sink=replica"), Some(3));
    assert_eq!(count("/v1/dlq?sink=history&reason=refused"), Some(2));
    let (status, shown) = get(&format!("/v1/dlq/{}", of_history[0]));
    assert_eq!(status, 200, "{shown}");
    assert_eq!(
        (&shown["sink"], &shown["code"]),
        (&json!("history"), &json!("CDC1006"))
    );
    assert!(shown["body"].as_str().expect("a body").contains("\"bad\""));
    assert_eq!(shown["headers"]["cdc.op"], "c");

    refuses_what_is_wrong(&sink, &of_replica[0], &broken.id());
    let post = |id: &str, action: &str, body: &str| {
        let (status, answer) = parse(&sink.post(&format!("/v1/dlq/{id}/{action}"), &[JSON], body));
        assert_eq!(status, 202, "{action}: {answer}");
        answer
    };
    assert_eq!(count("/v1/dlq"), Some(6), "nothing was done");
    post(
        &of_replica[0],
        "edit",
        r#"{"set": {"after.city": "ok"}, "reason": "shorter", "by": "ann"}"#,
    );
    let decided = post(
        &of_history[0],
        "edit",
        r#"{"set": {"after.a": [9007199254740993], "after.city": "city"}, "reason": "a typo"}"#,
    );
    assert_eq!(decided["state"], "edit decided");
    post(&of_history[1], "skip", r#"{"reason": "a test row"}"#);
    let broken = |sink: &str, action: &str| format!("{}/{action}?sink={sink}", broken.id());
    for name in ["replica", "history"] {
        let path = format!("/v1/dlq/{}", broken(name, "skip"));
        let (status, answer) = parse(&sink.post(&path, &[JSON], r#"{"reason": "broken"}"#));
        assert_eq!((status, &answer["sink"]), (202, &json!(name)), "{answer}");
    }
    let mut replica = source.replica();
    replica
        .batch_execute("ALTER TABLE t ALTER COLUMN city TYPE text")
        .expect("make the column wider");
    post(&of_replica[1], "retry", "");
    wait_until("all to be settled", TIMEOUT, || match get("/v1/dlq") {
        (200, body) if body == json!({"events": []}) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let rows = "SELECT string_agg(id || city, ' ' ORDER BY id) FROM t";
    assert_eq!(one_text(&mut replica, rows), "1ok 2toolong 3bad 4bad 6city");
    assert_eq!((of_row(&source, 3), of_row(&source, 4)), (vec![0], vec![]));
    let edited = source.history("t").all().into_iter();
    let mut edited = edited.filter(|document| document.get_str("_id") == Ok(&of_history[0]));
    let edited = edited.next().expect("the edited event");
    let after = edited.get_document("after").expect("an image");
    assert_eq!(
        after.get_array("a").expect("a"),
        &vec![Bson::Int64(9_007_199_254_740_993)]
    );
    let who =
        "SELECT string_agg(action || ' ' || decided_by, ', ' ORDER BY at) FROM companion.actions";
    assert_eq!(
        one_text(&mut replica, who),
        "edit ann, skip http 127.0.0.1, retry http 127.0.0.1"
    );
    let actions = documents(&source, "companion_actions");
    assert!(
        actions
            .iter()
            .all(|action| action.get_str("by") == Ok("http 127.0.0.1"))
    );
    // Who asks nothing does not keep a connection.
    idle.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut idle, &mut rest).expect("it is closed");
}

/// Rows and decisions are for those who can read the file with the token, and a page of another site gets nothing at all.
fn refuses_who_may_not_ask(sink: &CompanionSink, id: &str) {
    let file = sink.config_file().with_extension("token");
    let mode = std::fs::metadata(file).expect("the token").permissions();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode);
    assert_eq!(mode & 0o777, 0o600);
    for path in [
        "/v1/dlq",
        &format!("/v1/dlq/{id}"),
        "/v1/history/t",
        "/v1/history/t/1",
        "/v1/transactions/1",
        "/v1/actors/ann",
        "/v1/requests/r-17",
    ] {
        for wrong in ["", "x"] {
            assert_eq!(parse(&sink.get_as(path, wrong)).0, 401, "{path}");
        }
        assert_ne!(parse(&sink.get(path)).0, 401, "{path}");
    }
    let skip = format!(
        "POST /v1/dlq/{id}/skip HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    assert_eq!(parse(&sink.ask(&skip)).0, 401);
    for (host, status) in [
        ("127.0.0.1:8480", 200),
        ("localhost", 200),
        ("[::1]:1", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8480", 403),
    ] {
        for path in ["/v1/status", "/metrics", "/healthz", "/openapi.json"] {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            assert_eq!(parse(&sink.ask(&request)).0, status, "{host} {path}");
        }
    }
}

/// Wrong requests have problems, and change nothing.
fn refuses_what_is_wrong(sink: &CompanionSink, id: &str, of_both: &str) {
    let skip = r#"{"reason": "x"}"#;
    let beginning = &id[..4];
    let origin = "Origin: https://example.org";
    for (path, headers, body, status) in [
        (format!("{id}/skip"), vec![], skip, 415),
        (
            format!("{id}/skip"),
            vec!["Content-Type: text/plain"],
            skip,
            415,
        ),
        (format!("{id}/skip"), vec![JSON, origin], skip, 403),
        (format!("{id}/skip"), vec![JSON], "{}", 400),
        (format!("{id}/skip"), vec![JSON], "{\"reason\"", 400),
        (format!("{id}/retry"), vec![JSON], r#"{"reason": "x"}"#, 400),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {"after.city": "x"}}"#,
            400,
        ),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {}, "reason": "x"}"#,
            400,
        ),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {"city": "x"}, "reason": "x"}"#,
            400,
        ),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {"after.town": "x"}, "reason": "x"}"#,
            400,
        ),
        (
            format!("{of_both}/edit?sink=history"),
            vec![JSON],
            r#"{"set": {"after.n": 1}, "reason": "x"}"#,
            400,
        ),
        (format!("{id}/skip?sink=nobody"), vec![JSON], skip, 400),
        (format!("{beginning}/skip"), vec![JSON], skip, 409),
        (format!("{of_both}/skip"), vec![JSON], skip, 409),
        ("none/skip".to_owned(), vec![JSON], skip, 404),
    ] {
        let (found, problem) = parse(&sink.post(&format!("/v1/dlq/{path}"), &headers, body));
        assert_eq!(found, status, "{path} {headers:?} {body}: {problem}");
        assert_eq!(problem["status"], status, "{path}: {problem}");
        let has_code = matches!(status, 400 | 409);
        assert_eq!(problem["code"] == "CDC1001", has_code, "{path}: {problem}");
        assert!(
            !problem.to_string().contains("toolong"),
            "no values: {problem}"
        );
    }
    let (status, _) = parse(&sink.get("/v1/dlq/none"));
    assert_eq!(status, 404);
    let (status, problem) = parse(&sink.get("/v1/dlq?sinc=history"));
    assert_eq!((status, &problem["code"]), (400, &json!("CDC1001")));
}
