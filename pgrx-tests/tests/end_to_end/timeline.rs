//! A row has one timeline, whatever is renamed around it.

use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, wait_until};
use postgres::Client;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(120);

/// Tables, and their rows before anything is renamed.
const TABLES: &[&str] = &[
    "CREATE TABLE other (id int PRIMARY KEY, n int)",
    // The key's column.
    "CREATE TABLE customer (id int PRIMARY KEY, n int)",
    // Another key, by a column that was there, one that is new, and back.
    "CREATE TABLE cust (id int PRIMARY KEY, no text NOT NULL, n int)",
    "CREATE TABLE wide (id int PRIMARY KEY, n int)",
    // The table.
    "CREATE TABLE ren (id int PRIMARY KEY, n int)",
    // Its schema, and what lies in another one.
    "CREATE SCHEMA app; CREATE TABLE app.a (id int PRIMARY KEY, n int)",
    "CREATE SCHEMA app2; CREATE TABLE app2.b (id int PRIMARY KEY, n int)",
    // Both columns of a key, names that two tables give each other, a new name while nobody looks, a partitioned table.
    "CREATE TABLE pair (a int, b text, n int, PRIMARY KEY (a, b))",
    "CREATE TABLE one (id int PRIMARY KEY, n int); CREATE TABLE two (id int PRIMARY KEY, n int)",
    "CREATE TABLE hidden (id int PRIMARY KEY, n int)",
    "CREATE TABLE root (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)",
    "CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (100)",
    "SELECT cdc_track(t) FROM unnest(ARRAY['pair', 'one', 'two', 'hidden', 'root']::regclass[]) t",
    "INSERT INTO pair VALUES (1, 'x', 1); INSERT INTO one VALUES (1, 1); INSERT INTO two VALUES (1, 2)",
    "INSERT INTO hidden VALUES (1, 1); INSERT INTO root VALUES (1, 1)",
    "SELECT cdc_track(t) FROM unnest(ARRAY['other', 'customer', 'cust', 'wide', 'ren', 'app.a', 'app2.b']::regclass[]) t",
    "INSERT INTO other VALUES (1, 0)",
    "INSERT INTO customer VALUES (42, 1), (43, 1)",
    "INSERT INTO cust VALUES (42, 'k42', 1), (43, 'k43', 1), (44, 'k44', 1)",
    "DELETE FROM cust WHERE id = 44",
    "INSERT INTO wide VALUES (1, 1), (2, 1)",
    "INSERT INTO ren VALUES (1, 1), (2, 1)",
    "INSERT INTO app.a VALUES (1, 1)",
    "INSERT INTO app2.b VALUES (1, 1)",
];

/// Everything around a row gets another name.
const RENAMES: &[&str] = &[
    "ALTER TABLE customer RENAME id TO customer_id",
    "UPDATE customer SET n = 2 WHERE customer_id = 42",
    "ALTER TABLE cust DROP CONSTRAINT cust_pkey",
    "ALTER TABLE cust ADD PRIMARY KEY (no)",
    "UPDATE cust SET n = 2 WHERE no = 'k42'",
    "INSERT INTO cust VALUES (45, 'k45', 1)",
    "ALTER TABLE wide ADD COLUMN u uuid NOT NULL DEFAULT md5(random()::text)::uuid, DROP CONSTRAINT wide_pkey, ADD PRIMARY KEY (u)",
    "UPDATE wide SET n = 2 WHERE id = 1",
    "ALTER TABLE ren RENAME TO ren2",
    "UPDATE ren2 SET n = 2 WHERE id = 1",
    "ALTER SCHEMA app RENAME TO common",
    "UPDATE common.a SET n = 2",
    "ALTER TABLE app2.b SET SCHEMA public",
    "UPDATE b SET n = 2",
    "BEGIN; ALTER TABLE pair RENAME a TO b2; ALTER TABLE pair RENAME b TO a; UPDATE pair SET n = 2; COMMIT",
    "ALTER TABLE one RENAME TO three; ALTER TABLE two RENAME TO one; ALTER TABLE three RENAME TO two",
    "UPDATE one SET n = 20; UPDATE two SET n = 10",
    "SELECT cdc_untrack('hidden')",
    "ALTER TABLE hidden RENAME TO shown",
    "SELECT cdc_track('shown')",
    "UPDATE shown SET n = 2",
    "ALTER TABLE root RENAME id TO root_id; ALTER TABLE root RENAME TO trunk",
    "UPDATE trunk SET n = 2",
    // Another table with a name that is free.
    "CREATE TABLE ren (id int PRIMARY KEY, n int)",
    "SELECT cdc_track('ren', topic => 'named.public.ren-2')",
    "INSERT INTO ren VALUES (1, 100)",
    "INSERT INTO other VALUES (2, 0)",
];

/// The tables as they are called then, but for the one that says how far the history is.
const RENAMED: [&str; 11] = [
    "customer", "cust", "wide", "ren2", "common.a", "b", "pair", "one", "two", "shown", "trunk",
];

pub(super) fn ops(timeline: &[Value]) -> Vec<&str> {
    let ops = timeline.iter().map(|version| version["op"].as_str());
    ops.map(|op| op.expect("op")).collect()
}

/// The timeline of a row: as many versions as it says, of these operations.
pub(super) fn is_timeline(sink: &CompanionSink, row: &[&str], wanted: &[&str]) {
    let timeline = sink.find_in_history(row);
    assert_eq!(ops(&timeline), wanted, "{row:?}");
    let numbers = timeline
        .iter()
        .map(|version| version["sequence_number"].as_u64());
    let numbers: Vec<u64> = numbers.map(|number| number.expect("a number")).collect();
    assert_eq!(
        numbers,
        (1..=wanted.len() as u64).collect::<Vec<_>>(),
        "{row:?}"
    );
}

/// The states of all rows of a table, later than anything.
pub(super) fn states(sink: &CompanionSink, table: &str) -> Vec<Value> {
    let mut states: Vec<Value> = sink
        .find_in_history(&[table, "--at", "2100-01-01"])
        .into_iter()
        .map(|row| row["state"].clone())
        .collect();
    states.sort_by_key(Value::to_string);
    states
}

/// A history of all tables of the database, of whatever schema.
pub(super) fn start(database: &Database<'_>, name: &str) -> CompanionSink {
    let mut plan = database.plan_companion_sink();
    plan.topics = vec![format!("{name}.*")];
    let sink = database.bed().companion_sink(plan);
    sink.start_only(&["history"]);
    sink
}

#[test]
fn a_row_has_one_timeline_whatever_is_renamed() {
    let bed = TestBed::start();
    let database = bed.database("named");
    let mut client = database.source();
    run(&mut client, TABLES);
    let sink = start(&database, "named");
    database.wait_until_history_is_complete(&sink, "other");
    run(&mut client, RENAMES);
    database.wait_until_history_is_complete(&sink, "other");
    rows_are_found_by_every_key(&sink, &mut client);
    rows_are_found_in_renamed_tables(&sink);
    a_snapshot_takes_nothing_for_gone(&database, &sink, &mut client);
    what_is_gone_is_gone_by_every_name(&sink, &mut client);
    the_same_comes_from_the_beginning_again(&database, &sink, &mut client);
}

fn rows_are_found_by_every_key(sink: &CompanionSink, client: &mut Client) {
    for key in ["42", "customer_id=42", "id=42", r#"{"customer_id":42}"#] {
        is_timeline(sink, &["customer", key], &["create", "update"]);
    }
    is_timeline(sink, &["customer", "43"], &["create"]);
    assert_eq!(
        states(sink, "customer"),
        [
            json!({"customer_id": 42, "n": 2}),
            json!({"id": 43, "n": 1})
        ]
    );
    for key in ["k42", "no=k42", "42", "id=42"] {
        is_timeline(sink, &["cust", key], &["create", "update"]);
    }
    is_timeline(sink, &["cust", "k43"], &["create"]);
    is_timeline(sink, &["cust", "k45"], &["create"]);
    is_timeline(sink, &["cust", "44"], &["create", "delete"]);
    assert_eq!(states(sink, "cust").len(), 3);
    let key: String = client
        .query_one("SELECT u::text FROM wide WHERE id = 1", &[])
        .expect("a key")
        .get(0);
    for key in [key.to_uppercase(), "1".to_owned()] {
        let timeline = sink.find_in_history(&["wide", &key]);
        assert!(
            ops(&timeline).starts_with(&["create"]) && ops(&timeline).contains(&"update"),
            "{timeline:?}"
        );
    }
    assert_eq!(states(sink, "wide").len(), 2);
}

fn rows_are_found_in_renamed_tables(sink: &CompanionSink) {
    is_timeline(sink, &["ren2", "1"], &["create", "update"]);
    is_timeline(sink, &["ren2", "2"], &["create"]);
    is_timeline(sink, &["ren", "1"], &["create"]);
    assert_eq!(states(sink, "ren"), [json!({"id": 1, "n": 100})]);
    assert_eq!(states(sink, "ren2").len(), 2);
    for table in ["common.a", "app.a", "a", "b", "public.b", "app2.b"] {
        is_timeline(sink, &[table, "1"], &["create", "update"]);
        assert_eq!(states(sink, table), [json!({"id": 1, "n": 2})], "{table}");
    }

    for key in ["b2=1,a=x", "a=x,b2=1", r#"{"b2":1,"a":"x"}"#] {
        is_timeline(sink, &["pair", key], &["create", "update"]);
    }
    for (table, states_then) in [("one", [2, 20]), ("two", [1, 10])] {
        let timeline = sink.find_in_history(&[table, "1"]);
        let n = timeline
            .iter()
            .map(|version| version["after"]["n"].as_i64());
        assert_eq!(n.collect::<Vec<_>>(), states_then.map(Some), "{table}");
    }
    is_timeline(sink, &["shown", "1"], &["create", "update"]);
    is_timeline(sink, &["trunk", "root_id=1"], &["create", "update"]);
}

/// It finds all that is there.
fn a_snapshot_takes_nothing_for_gone(
    database: &Database<'_>,
    sink: &CompanionSink,
    client: &mut Client,
) {
    for table in RENAMED {
        run(client, &[&format!("SELECT cdc_snapshot('{table}')")]);
    }
    wait_until("the snapshots", TIMEOUT, || {
        let open = "SELECT count(*) FROM cdc_snapshots WHERE state <> 'done'";
        let open: i64 = client.query_one(open, &[]).expect("the snapshots").get(0);
        if open == 0 {
            Ok(())
        } else {
            Err(format!("{open} are not done"))
        }
    });
    database.wait_until_history_is_complete(sink, "other");
    for table in RENAMED {
        let changes = sink.find_in_history(&[table, "--limit", "0"]);
        assert!(
            !ops(&changes).contains(&"inferred_delete"),
            "{table}: {changes:?}"
        );
        let there = format!("SELECT count(*) FROM {table}");
        let there: i64 = client.query_one(&there, &[]).expect("the rows").get(0);
        assert_eq!(states(sink, table).len() as i64, there, "{table}");
    }
    is_timeline(sink, &["cust", "k43"], &["create"]);
}

fn what_is_gone_is_gone_by_every_name(sink: &CompanionSink, client: &mut Client) {
    run(
        client,
        &[
            "ALTER TABLE cust DISABLE TRIGGER _cdc; DELETE FROM cust WHERE no = 'k43'; ALTER TABLE cust ENABLE ALWAYS TRIGGER _cdc",
            "SELECT cdc_snapshot('cust')",
        ],
    );
    wait_until("the inferred delete", TIMEOUT, || {
        let timeline = sink.find_in_history(&["cust", "k43"]);
        match ops(&timeline).as_slice() {
            ["create", "inferred_delete"] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// After a start, and by a replay.
fn the_same_comes_from_the_beginning_again(
    database: &Database<'_>,
    sink: &CompanionSink,
    client: &mut Client,
) {
    let tables = [&RENAMED[..], &["other"]].concat();
    let before: Vec<Vec<Value>> = tables
        .iter()
        .map(|table| sink.find_in_history(&[table, "--limit", "0"]))
        .collect();
    sink.stop();
    (0..3).for_each(|partition| sink.rewind_history(partition));
    sink.start_only(&["history"]);
    run(client, &["UPDATE other SET n = 1 WHERE id = 2"]);
    database.wait_until_history_is_complete(sink, "other");
    for (table, before) in tables
        .iter()
        .zip(&before)
        .filter(|(table, _)| **table != "other")
    {
        assert_eq!(
            &sink.find_in_history(&[table, "--limit", "0"]),
            before,
            "{table}"
        );
    }
    let replay = [
        "replay",
        "--sink",
        "history",
        "--from",
        "beginning",
        "--dry-run",
        "--json",
    ];
    let replayed = sink.try_command(&replay);
    assert_eq!(
        replayed.status.code(),
        Some(0),
        "nothing differs: {replayed:?}"
    );
}
