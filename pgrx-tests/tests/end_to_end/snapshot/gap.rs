//! What a gap has lost, deletes included, is in the replica and in the history after a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document, doc};
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, history, wait_until};
use serde_json::{Value, json};

use super::progress::{TIMEOUT, snapshot, wait_for_rows, wait_for_state};
use super::reader::{TABLE, table};

/// What somebody has who applies everything in the order of the versions, and whom the end of a chunk tells which rows of
/// its range are gone.
fn fold_with_ranges(database: &Database<'_>, name: &str) -> BTreeMap<String, Value> {
    let mut rows: BTreeMap<String, Value> = BTreeMap::new();
    let mut chunk = Vec::new();
    for event in database.events(name) {
        let key = event.key_text().to_owned();
        let id = |key: &str| {
            let key: Value = serde_json::from_str(key).expect("a key");
            key["id"].as_i64().expect("an id")
        };
        match event.op() {
            "r" => {
                chunk.push(key.clone());
                rows.insert(key, event.json()["after"].clone());
            }
            "c" | "u" => {
                rows.insert(key, event.json()["after"].clone());
            }
            "d" => {
                rows.remove(&key);
            }
            "snapshot" => {
                let snapshot = event.json()["snapshot"].clone();
                if snapshot["event"] == "chunk_end" {
                    assert_eq!(snapshot["partial"], json!(false));
                    let from = snapshot["from"]["id"].as_i64().unwrap_or(i64::MIN);
                    let to = snapshot["to"]["id"].as_i64().unwrap_or(i64::MAX);
                    let changed = snapshot["changed"].as_array().expect("changed").clone();
                    let changed: Vec<String> = changed.iter().map(Value::to_string).collect();
                    rows.retain(|key, _| {
                        let in_range = id(key) > from && id(key) <= to;
                        !in_range || chunk.contains(key) || changed.contains(key)
                    });
                    chunk.clear();
                }
            }
            _ => {}
        }
    }
    rows
}

/// The history has the rows that it did not know and no other of the snapshot's, and one inferred delete for each row that
/// is gone; whatever is killed and read twice.
fn check_history(database: &Database<'_>, sink: &CompanionSink, unseen: i64) {
    let history = database.history("t");
    wait_until(
        "inferred deletes",
        TIMEOUT,
        || match history::inferred_deletes(&history.all()).len() {
            0 => Err("none"),
            _ => Ok(()),
        },
    );
    sink.kill();
    sink.start();
    let topics = [database.topic("t")];
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    let documents = history.all();
    let read = documents
        .iter()
        .filter(|document| document.get_str("op") == Ok("read"));
    assert_eq!(read.count() as i64, unseen);
    let there = table(&mut database.source(), "t");
    let mut gone: BTreeSet<String> = (1..=1000)
        .map(|id| format!("{{\"id\":{id}}}"))
        .filter(|key| !there.contains_key(key))
        .collect();
    // An event said so.
    gone.remove("{\"id\":8}");
    let mut inferred = history::inferred_deletes(&documents);
    inferred.sort_unstable();
    assert_eq!(inferred, Vec::from_iter(gone));
    let rows: BTreeMap<String, Value> = history::rows(&documents)
        .into_iter()
        .map(|(key, after)| (key, Bson::Document(after).into_relaxed_extjson()))
        .collect();
    assert_eq!(rows, there);

    assert!(sink.stop().expect("it ran").success());
    (0..3).for_each(|partition| sink.rewind_history(partition));
    let client = database.bed().ferretdb().client();
    client
        .database(&database.history_name())
        .collection::<Document>("companion_snapshots")
        .delete_many(doc! {})
        .run()
        .expect("what it knew of the snapshot");
    sink.start();
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    history.assert_is(&documents);
}

#[test]
fn what_was_lost_in_a_gap_is_repaired_deletes_included() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    let database = bed.database("gap");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "SELECT cdc_track('t')",
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 1000) AS n",
            // Nothing of this is captured.
            "ALTER TABLE t DISABLE TRIGGER _cdc",
            "DELETE FROM t WHERE id % 10 = 0 OR id BETWEEN 200 AND 450 OR id > 900",
            "UPDATE t SET note = 'unseen' WHERE id % 7 = 0",
            "INSERT INTO t SELECT n, n, 'unseen' FROM generate_series(2000, 2050) AS n",
            "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
        ],
    );
    assert_ne!(fold_with_ranges(&database, "t"), table(&mut client, "t"));
    // A replica that has all that the events said so far.
    let sink = database.start_companion_sink();
    let mut replica = database.replica();
    run(&mut replica, &[TABLE]);
    let topics = [database.topic("t")];
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    assert_eq!(table(&mut replica, "t").len(), 1000);
    let unseen: i64 = client
        .query_one("SELECT count(*) FROM t WHERE note = 'unseen'", &[])
        .expect("rows that no event told of")
        .get(0);

    let id = snapshot(&mut client, "cdc_snapshot('t')");
    run(
        &mut client,
        &[
            "DELETE FROM t WHERE id = 8",
            "INSERT INTO t VALUES (20, 1, 'back')",
        ],
    );
    wait_for_rows(&mut client, id, 200);
    sink.kill();
    sink.start();
    wait_for_state(&mut client, id, "done");
    assert_eq!(fold_with_ranges(&database, "t"), table(&mut client, "t"));
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    assert_eq!(table(&mut replica, "t"), table(&mut client, "t"));
    check_history(&database, &sink, unseen);

    // For another sink: this one does nothing, and goes on.
    run(
        &mut client,
        &[
            "ALTER TABLE t DISABLE TRIGGER _cdc",
            "DELETE FROM t WHERE id = 1",
            "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
        ],
    );
    let id = snapshot(&mut client, "cdc_snapshot('t', sinks => '{another}')");
    wait_for_state(&mut client, id, "done");
    run(&mut client, &["UPDATE t SET note = 'last' WHERE id = 2"]);
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    let (replica, source) = (table(&mut replica, "t"), table(&mut client, "t"));
    assert_eq!(replica.len(), source.len() + 1);
    assert_eq!(replica["{\"id\":2}"], source["{\"id\":2}"]);
    sink.stop();
}
