//! A table's topic has rows and nothing else; what is said of the table stands in the control topic, and each row names the
//! newest of that.

use std::collections::BTreeSet;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, TestBed};

/// Tracks, fills, changes, snapshots and empties a table.
const STATEMENTS: &[&str] = &[
    "CREATE TABLE t (id int PRIMARY KEY, n int)",
    "INSERT INTO t SELECT i, i FROM generate_series(1, 20) i",
    "SELECT cdc_track('t')",
    "UPDATE t SET n = n + 1",
    "SELECT cdc_snapshot('t')",
];

fn ops(records: &[Record]) -> BTreeSet<&str> {
    records.iter().map(Record::op).collect()
}

/// Each row names the newest control event about its topic that is older.
fn assert_rows_name_the_newest(database: &Database<'_>, records: &[Record], control: &[Record]) {
    let mut named = BTreeSet::new();
    for record in records {
        let before = control.iter().map(Record::version);
        let newest = before.filter(|version| *version < record.version()).max();
        assert_eq!(record.header("cdc.control"), newest, "{record:?}");
        named.extend(newest);
    }
    assert!(named.len() > 2, "{}: {named:?}", database.topic("t"));
}

#[test]
fn a_tables_topic_has_rows_and_nothing_else() {
    let bed = TestBed::shared();
    let database = bed.database("rows_alone");
    let mut client = database.source();
    run(&mut client, STATEMENTS);
    database.wait_until_snapshots_end();
    run(
        &mut client,
        &[
            "ALTER TABLE t ADD c text",
            "INSERT INTO t VALUES (21, 1, 'x')",
            "DELETE FROM t WHERE id = 1",
            "TRUNCATE t",
            "INSERT INTO t VALUES (1, 1, 'y')",
        ],
    );
    database.wait_until_in_kafka();
    let rows = topic::read(bed.kafka(), &database.topic("t"));
    assert_eq!(
        ops(&rows),
        BTreeSet::from(["c", "d", "r", "tombstone", "u"])
    );
    let control = topic::read_control(bed.kafka(), "rows_alone", &database.topic("t"));
    assert_eq!(ops(&control), BTreeSet::from(["schema", "snapshot", "t"]));
    assert_rows_name_the_newest(&database, &rows, &control);
    // As in Debezium's schema change topic.
    let definition = control.iter().find(|record| record.op() == "schema");
    let definition = definition.expect("a definition").json();
    assert_eq!(definition["databaseName"], "rows_alone");
    assert_eq!(definition["schemaName"], "public");
    assert_eq!(definition["tableChanges"][0]["type"], "CREATE");
}

#[test]
fn a_new_session_knows_the_newest_control_event() {
    let bed = TestBed::start();
    let database = bed.database("known_control");
    let mut client = database.source();
    run(&mut client, STATEMENTS);
    database.wait_until_snapshots_end();
    database.wait_until_in_kafka();
    bed.source().restart();
    let mut client = database.source();
    run(&mut client, &["UPDATE t SET n = n + 1"]);
    database.wait_until_in_kafka();
    let rows = topic::read(bed.kafka(), &database.topic("t"));
    let control = topic::read_control(bed.kafka(), "known_control", &database.topic("t"));
    assert_rows_name_the_newest(&database, &rows, &control);
}

#[test]
fn truncates_go_where_they_are_asked_for() {
    let bed = TestBed::start_with(&[("cdc.skipped_operations", "none")]);
    let database = bed.database("asked_for");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "CREATE TABLE own (id int PRIMARY KEY)",
            "SELECT cdc_track('t'), cdc_track('own', topics => '{\"truncate\": \"asked_for.emptied\"}')",
            "INSERT INTO t VALUES (1)",
            "TRUNCATE t, own",
        ],
    );
    database.wait_until_in_kafka();
    for (of, table) in [
        (database.topic("t"), "t"),
        ("asked_for.emptied".to_owned(), "own"),
    ] {
        let records = topic::read(bed.kafka(), &of);
        let truncates: Vec<&Record> = records.iter().filter(|record| record.op() == "t").collect();
        let [truncate] = truncates[..] else {
            panic!("{of}: {truncates:?}");
        };
        assert_eq!(truncate.key, None, "{of}");
        let control = topic::read_control(bed.kafka(), "asked_for", &database.topic(table));
        let same = control.iter().find(|record| record.op() == "t");
        assert_eq!(same.map(Record::version), Some(truncate.version()), "{of}");
    }
    assert_eq!(topic::read(bed.kafka(), &database.topic("own")), []);
}
