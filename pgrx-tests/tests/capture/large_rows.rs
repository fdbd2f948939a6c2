//! Rows of hundreds of megabytes: whole as far as they may be shipped, with stubs beyond.

use std::time::Duration;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::companion_sink::Plan;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, topic_admin, wait_until};
use postgres::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn hex_digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ask(client: &mut Client, query: &str) -> String {
    client.query_one(query, &[]).expect(query).get(0)
}

/// What `marks.after` says of a column, for the newest event with this id.
fn mark_of(events: &[Record], id: i64, column: &str) -> (Value, Value) {
    let event = events
        .iter()
        .map(Record::json)
        .rfind(|event| event["after"]["id"] == id);
    let event = event.expect("an event of the row");
    (
        event["after"][column].clone(),
        event["marks"]["after"][column].clone(),
    )
}

/// The stub that a value ought to have, by the server's own account of it.
fn stub_of(client: &mut Client, bytes: &str, from: &str) -> Value {
    let query =
        format!("SELECT length({bytes})::bigint, encode(sha256({bytes}), 'hex') FROM {from}");
    let row = client.query_one(&query, &[]).expect("length and hash");
    json!({"stub": {"bytes": row.get::<_, i64>(0), "sha256": row.get::<_, String>(1)}})
}

#[test]
fn a_row_of_200_mb_arrives_whole_and_what_no_topic_takes_halts_or_becomes_a_stub() {
    let limit = "1000000000";
    let bed = TestBed::prepare(
        Ports::free(),
        &[
            ("max_wal_size", "4GB"),
            ("cdc.oversize", "halt"),
            ("cdc.topic_max_event_size", "256MB"),
        ],
        &[
            ("message.max.bytes", limit),
            ("socket.request.max.bytes", "1100000000"),
        ],
    );
    bed.kafka();
    let database = bed.database("large");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int, body text)",
            // Random, and so nothing that compression could make small.
            "ALTER TABLE t ALTER body SET STORAGE EXTERNAL",
            "SELECT cdc_track('t')",
            "INSERT INTO t SELECT 1, 1, string_agg(md5(i::text), '') FROM generate_series(1, 6553600) AS i",
        ],
    );
    database.wait_until_in_kafka();
    // Both images: 400 MB.
    run(
        &mut client,
        &["UPDATE t SET n = 2", "DELETE FROM t WHERE false"],
    );
    wait_until_halted_for_its_size(&mut client);
    run(
        &mut client,
        &[
            "ALTER SYSTEM SET cdc.oversize = 'stub'",
            "SELECT pg_reload_conf()",
        ],
    );
    let digest = ask(
        &mut client,
        "SELECT encode(sha256(body::bytea), 'hex') FROM t",
    );
    run(&mut client, &["DELETE FROM t"]);
    let bytes = 200 * 1024 * 1024;
    let stub = json!({"body": {"stub": {"bytes": bytes, "sha256": digest}}});
    let events: Vec<Value> = database
        .events("t")
        .iter()
        .filter(|event| event.is_row_change())
        .map(Record::json)
        .collect();
    let [created, updated, deleted] = events.as_slice() else {
        panic!("three events, not {}", events.len());
    };
    for image in [&created["after"], &deleted["before"]] {
        let body = image["body"].as_str().expect("a text");
        assert_eq!(
            (body.len(), hex_digest(body.as_bytes())),
            (bytes, digest.clone())
        );
    }
    assert_eq!(updated["before"], json!({"id": 1, "n": 1, "body": null}));
    assert_eq!(updated["after"], json!({"id": 1, "n": 2, "body": null}));
    assert_eq!(updated["marks"], json!({"before": stub, "after": stub}));
}

fn wait_until_halted_for_its_size(client: &mut Client) {
    wait_until("the sender to halt", Duration::from_secs(60), || {
        let query = "SELECT state, error_code, error_hint FROM cdc_status()";
        let row = client.query_one(query, &[]).expect("cdc_status()");
        match (row.get("state"), row.get("error_code")) {
            ("halted", Some("CDC0305")) => Ok(row.get::<_, String>("error_hint")),
            found => Err(format!("{found:?}")),
        }
    });
}

#[test]
fn a_small_topic_gets_stubs_of_the_largest_values_only() {
    let bed = TestBed::start();
    let database = bed.database("small");
    let mut client = database.source();
    // Made by somebody else, with the broker's default of 1 MB.
    topic_admin::create(bed.kafka(), &database.topic("t"), 3);
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1, repeat('a', 300000), repeat('b', 900000), 'c')",
            "UPDATE t SET c = repeat('\"', 600000)",
            "INSERT INTO t VALUES (2, 'a', 'b', 'c')",
        ],
    );
    let events: Vec<Record> = database.events("t");
    let is_stub = |image: &str, column: &str, event: &Value| {
        let is = event["marks"][image][column]["stub"].is_object();
        assert_eq!(is, event[image][column].is_null(), "{image}.{column}");
        is
    };
    let rows: Vec<Value> = events
        .iter()
        .filter(|event| event.is_row_change())
        .map(Record::json)
        .collect();
    assert!(is_stub("after", "b", &rows[0]) && !is_stub("after", "c", &rows[0]));
    assert!(is_stub("before", "b", &rows[1]) && is_stub("after", "c", &rows[1]));
    assert!(!is_stub("before", "c", &rows[1]));
    assert_eq!(
        rows[2]["after"],
        json!({"id": 2, "a": "a", "b": "b", "c": "c"})
    );
    assert!(rows[2]["marks"].is_null());
    let small = "SELECT level || ' ' || item FROM cdc_check() WHERE code = 'CDC0314'";
    assert_eq!(
        ask(&mut client, small),
        format!("warning topic {}", database.topic("t"))
    );
}

#[test]
fn values_of_300_600_and_900_mb_become_stubs_and_fail_no_statement() {
    let bed = TestBed::start_with(&[("max_wal_size", "4GB")]);
    let database = bed.database("huge");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int, photo bytea, a bytea, b bytea, c bytea)",
            "SELECT cdc_track('t')",
        ],
    );
    let photo = |mb: u32, letter: char| {
        format!("convert_to(repeat('{letter}', {mb} * 1024 * 1024), 'UTF8')")
    };
    for mb in [300, 600, 900] {
        run(
            &mut client,
            &[
                &format!(
                    "INSERT INTO t (id, photo) VALUES ({mb}, {})",
                    photo(mb, 'x')
                ),
                &format!("UPDATE t SET photo = {} WHERE id = {mb}", photo(mb, 'y')),
                &format!("UPDATE t SET n = 1 WHERE id = {mb}"),
            ],
        );
    }
    // Each value is below the limit, the row is not.
    run(
        &mut client,
        &[&format!(
            "INSERT INTO t SELECT 4, NULL, p, p, p, p FROM (SELECT {} AS p) AS one",
            photo(250, 'z')
        )],
    );
    let events = database.events("t");
    assert_eq!(
        events.iter().filter(|event| event.is_row_change()).count(),
        10
    );
    for mb in [300, 600, 900] {
        let expected = stub_of(&mut client, "photo", &format!("t WHERE id = {mb}"));
        let (value, mark) = mark_of(&events, mb, "photo");
        assert_eq!((value, mark), (Value::Null, expected), "{mb} MB");
        assert_eq!(mark_of(&events, mb, "n"), (json!(1), Value::Null));
        // The value before was another one.
        let changed: Vec<Value> = events
            .iter()
            .map(Record::json)
            .filter(|event| event["op"] == "u" && event["after"]["id"] == mb)
            .collect();
        let [first, second] = changed.as_slice() else {
            panic!("two updates of row {mb}");
        };
        assert_ne!(first["marks"]["before"], first["marks"]["after"]);
        assert_eq!(second["marks"]["before"], second["marks"]["after"]);
    }
    let expected = stub_of(&mut client, "photo", "t WHERE id = 4");
    for column in ["photo", "a", "b", "c"] {
        assert_eq!(
            mark_of(&events, 4, column),
            (Value::Null, expected.clone()),
            "{column}"
        );
    }
}

#[test]
fn null_masked_and_oversize_are_told_apart_and_a_replica_waits_for_whole_rows() {
    let bed = TestBed::start();
    let database = bed.database("stubs");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, doc jsonb, words text[], note text, secret text)",
            "SELECT cdc_track('t', mask => '{\"secret\": \"redact\"}')",
            "SET cdc.max_value_size = '1MB'",
            "INSERT INTO t VALUES (1, NULL, '{a}', 'short', 'x')",
            "INSERT INTO t SELECT 2, jsonb_build_object('k', repeat('v', 2000000)),
               array_agg(md5(i::text)), repeat('\u{e4}', 600000), 'x' FROM generate_series(1, 50000) AS i",
            "UPDATE t SET secret = 'y' WHERE id = 2",
            "INSERT INTO t SELECT 3, NULL, NULL, repeat('n', 1024 * 1024), NULL",
        ],
    );
    let events = database.events("t");
    let redacted = json!("redacted");
    assert_eq!(mark_of(&events, 1, "doc"), (Value::Null, Value::Null));
    assert_eq!(mark_of(&events, 1, "secret"), (Value::Null, redacted));
    let stub = stub_of(
        &mut client,
        "convert_to(doc::text, 'UTF8')",
        "t WHERE id = 2",
    );
    assert_eq!(mark_of(&events, 2, "doc"), (Value::Null, stub));
    let stub = stub_of(&mut client, "convert_to(note, 'UTF8')", "t WHERE id = 2");
    assert_eq!(mark_of(&events, 2, "note"), (Value::Null, stub));
    let (value, mark) = mark_of(&events, 2, "words");
    assert!(
        value.is_null() && mark["stub"]["bytes"].as_i64() > Some(1_000_000),
        "{mark}"
    );
    let (value, mark) = mark_of(&events, 3, "note");
    assert_eq!(
        (value.as_str().map(str::len), mark),
        (Some(1024 * 1024), Value::Null)
    );
    the_row_with_stubs_waits_and_the_others_are_in_the_replica(&bed, &database);
}

fn the_row_with_stubs_waits_and_the_others_are_in_the_replica(
    bed: &TestBed,
    database: &Database<'_>,
) {
    let sink = bed.companion_sink(Plan {
        // The row that is not there whole waits, the others go on.
        more_toml: "on_error = \"park\"\n".to_owned(),
        ..database.plan_companion_sink()
    });
    sink.start();
    let mut replica = database.replica();
    run(
        &mut replica,
        &["CREATE TABLE t (id int PRIMARY KEY, doc jsonb, words text[], note text, secret text)"],
    );
    wait_until(
        "rows 1 and 3 in the replica, row 2 parked",
        Duration::from_secs(60),
        || {
            let query = "SELECT (SELECT string_agg(id::text, ',' ORDER BY id) FROM t)
                      || '; ' || (SELECT count(*) FROM companion.parked)";
            match replica
                .query_one(query, &[])
                .map(|row| row.get::<_, Option<String>>(0))
            {
                Ok(Some(found)) if found == "1,3; 2" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    );
    let mut reasons = replica
        .query(
            "SELECT code, message FROM companion.parked WHERE code IS NOT NULL",
            &[],
        )
        .expect("parked");
    assert_eq!(reasons.len(), 1);
    let row = reasons.remove(0);
    assert_eq!(row.get::<_, String>("code"), "CDC1007");
    assert!(
        row.get::<_, String>("message")
            .contains("too large to be shipped")
    );
    sink.stop();
}

/// Nearly as many elements as an array may have, and texts that become many times as long as JSON.
#[test]
fn arrays_of_many_millions_of_elements_fail_no_statement() {
    let bed = TestBed::start_with(&[("max_wal_size", "4GB")]);
    let database = bed.database("arrays");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE owner LOGIN; GRANT CREATE ON SCHEMA public TO owner",
            "SET SESSION AUTHORIZATION owner",
            "CREATE TABLE t (id int PRIMARY KEY, a bool[], b int[], c text)",
            "SELECT cdc_track('t')",
            "INSERT INTO t (id, a) VALUES (1, array_fill(true, ARRAY[130000000]))",
            "INSERT INTO t (id, b) VALUES (2, array_fill(NULL::int, ARRAY[20000000]) || 7)",
            "INSERT INTO t (id, b) SELECT 3, array_agg(i) FROM generate_series(1, 10000000) AS i",
            "INSERT INTO t (id, c) VALUES (4, repeat(E'\\x01', 200000000))",
            "UPDATE t SET id = id + 10",
            "INSERT INTO t (id, b) VALUES (5, '{1,NULL,3}')",
        ],
    );
    let events = database.events("t");
    for (id, column) in [(11, "a"), (12, "b"), (13, "b"), (14, "c")] {
        let (value, mark) = mark_of(&events, id, column);
        let bytes = mark["stub"]["bytes"].as_u64();
        assert!(
            value.is_null() && bytes > Some(2_000_000),
            "{id} {column} {mark}"
        );
    }
    assert_eq!(mark_of(&events, 5, "b"), (json!([1, null, 3]), Value::Null));
    bed.source().assert_never_crashed();
}
