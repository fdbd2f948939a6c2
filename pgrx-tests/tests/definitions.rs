//! Changes of a table's definition arrive as events, in order with the rows, and die with what is rolled back.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, refusal};
use serde_json::{Value, json};

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Runs statements one by one, as a client that sends each alone.
/// What happened, shortly: the operation of a row, the type of a definition's change.
fn kinds(events: &[Record]) -> Vec<String> {
    let kind = |event: &Record| match event.op() {
        "schema" => event.json()["schema_change"]["type"]
            .as_str()
            .expect("a type")
            .to_owned(),
        op => op.to_owned(),
    };
    events.iter().map(kind).collect()
}

fn change(event: &Record) -> Value {
    event.json()["schema_change"].clone()
}

fn columns(event: &Record) -> Vec<String> {
    let columns = change(event)["tableChanges"][0]["table"]["columns"].clone();
    let columns = columns.as_array().expect("columns").clone();
    let shown = columns.iter().map(|column| {
        let text = |name: &str| column[name].as_str().expect("a text").to_owned();
        format!("{} {}", text("name"), text("typeExpression"))
    });
    shown.collect()
}

#[test]
fn every_change_of_a_definition_is_an_event_between_the_rows() {
    let database = database("altered");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE SCHEMA archive",
            "CREATE TABLE t (id int PRIMARY KEY, n int)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1, 1)",
            "ALTER TABLE t ADD note text DEFAULT 'none', ADD plain int",
            "INSERT INTO t VALUES (2, 2, 'two', 2)",
            "ALTER TABLE t RENAME n TO number",
            "ALTER TABLE t ALTER number TYPE numeric(9,2)",
            "ALTER TABLE t DROP plain",
            "ALTER TABLE t ADD later int",
            "UPDATE t SET number = 3 WHERE id = 2",
            // Not about the definition.
            "ALTER TABLE t SET (fillfactor = 50)",
            "ALTER TABLE t ALTER note SET STATISTICS 10",
            "ALTER TABLE t RENAME TO renamed",
            "ALTER TABLE renamed SET SCHEMA archive",
            "DELETE FROM archive.renamed WHERE id = 1",
            "DROP TABLE archive.renamed",
        ],
    );
    let events = database.events("t");
    assert_eq!(
        kinds(&events),
        [
            "CREATE", "c", "ALTER", "c", "ALTER", "ALTER", "ALTER", "ALTER", "u", "RENAME",
            "RENAME", "d", "UNTRACK", "DROP"
        ]
    );
    assert_eq!(columns(&events[0]), ["id integer", "n integer"]);
    assert_eq!(
        change(&events[2])["ddl"],
        "ALTER TABLE t ADD note text DEFAULT 'none', ADD plain int"
    );
    assert_eq!(
        columns(&events[2]),
        ["id integer", "n integer", "note text", "plain integer"]
    );
    assert_eq!(change(&events[4])["renames"], json!({"n": "number"}));
    assert_eq!(
        columns(&events[5]),
        [
            "id integer",
            "number numeric(9,2)",
            "note text",
            "plain integer"
        ]
    );
    let contents_changed: Vec<Value> = [2, 4, 5, 6, 7]
        .map(|place| change(&events[place])["contents_changed"].clone())
        .to_vec();
    assert_eq!(contents_changed, [true, false, true, false, false]);
    // A row has the columns that the definition before it announced.
    for (definition, row) in [(0, 1), (2, 3), (7, 8), (10, 11)] {
        assert_eq!(
            events[definition].header("cdc.schema"),
            events[row].header("cdc.schema"),
            "{:?} and {:?}",
            events[definition],
            events[row]
        );
    }
    assert_eq!(
        events[8].json()["after"],
        json!({"id": 2, "number": "3.00", "note": "two", "later": null})
    );
    let tables: Vec<&str> = [8, 9, 11, 13]
        .map(|place| events[place].header("cdc.table").expect("a table"))
        .to_vec();
    assert_eq!(
        tables,
        [
            "altered.public.t",
            "altered.public.renamed",
            "altered.archive.renamed",
            "altered.archive.renamed"
        ]
    );
}

#[test]
fn definitions_and_rows_of_one_transaction_are_in_their_order() {
    let database = database("mixed");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, n int)",
            "SELECT cdc_track('app.t', topic => 'mixed.public.t')",
            "SET search_path = public, app",
            "BEGIN",
            "INSERT INTO t VALUES (1, 1)",
            "SAVEPOINT s",
            "ALTER TABLE t ADD gone text",
            "INSERT INTO t VALUES (9, 9, 'x')",
            "ROLLBACK TO s",
            "INSERT INTO t VALUES (2, 2)",
            "ALTER TABLE t ADD kept text",
            "INSERT INTO t VALUES (3, 3, 'x')",
            "COMMIT",
            "BEGIN",
            "DROP TABLE t",
            "ROLLBACK",
            "ALTER SCHEMA app RENAME TO common",
            "DELETE FROM common.t WHERE id = 1",
        ],
    );
    let events = database.events("t");
    assert_eq!(
        kinds(&events),
        ["CREATE", "c", "c", "ALTER", "c", "RENAME", "d"]
    );
    assert_eq!(events[2].json()["after"], json!({"id": 2, "n": 2}));
    assert_eq!(
        columns(&events[3]),
        ["id integer", "n integer", "kept text"]
    );
    assert_eq!(
        events[4].json()["after"],
        json!({"id": 3, "n": 3, "kept": "x"})
    );
    assert_eq!(events[6].header("cdc.table"), Some("mixed.common.t"));
    let tx = |event: &Record| event.json()["transaction"]["event_count"].clone();
    assert_eq!(
        tx(&events[3]),
        json!(4),
        "counted among the events of the transaction"
    );
}

#[test]
fn whatever_drops_a_table_or_its_trigger_says_so() {
    let database = database("dropped");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE owner_of_much; CREATE SCHEMA s; GRANT ALL ON SCHEMA s TO owner_of_much",
            "CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)",
            "CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE d (id int PRIMARY KEY)",
            "CREATE TABLE e (id int PRIMARY KEY); ALTER TABLE c OWNER TO owner_of_much",
            "SELECT cdc_track('s.a', topic => 'dropped.public.a'), cdc_track('b'), cdc_track('c'), cdc_track('d'), cdc_track('e')",
            "SELECT cdc_track('e', exclude => '{}')",
            "DROP SCHEMA s CASCADE",
            "DROP TRIGGER _cdc ON b",
            "DROP OWNED BY owner_of_much",
            "SELECT cdc_untrack('d')",
            "DROP TABLE d",
            "INSERT INTO e VALUES (1)",
        ],
    );
    for (table, expected) in [
        ("a", &["CREATE", "UNTRACK", "DROP"][..]),
        ("b", &["CREATE", "UNTRACK"]),
        ("c", &["CREATE", "UNTRACK", "DROP"]),
        ("d", &["CREATE", "UNTRACK"]),
        ("e", &["CREATE", "c"]),
    ] {
        assert_eq!(kinds(&database.events(table)), expected, "{table}");
    }
    // Without the extension there is no cdc_wait: another database of the server has one.
    let other = TestBed::shared().database("dropped_too");
    run(&mut client, &["DROP EXTENSION pg_cdc CASCADE"]);
    other.wait_until_in_kafka();
    let topic = database.topic("e");
    let records = pg_cdc_tests::topic::read(database.bed().kafka(), &topic);
    assert!(
        records
            .iter()
            .any(|r| r.op() == "schema" && r.json()["schema_change"]["type"] == "UNTRACK"),
        "{records:?}"
    );
    database.bed().source().assert_never_crashed();
}

#[test]
fn what_would_lose_changes_is_refused_or_said() {
    let database = database("lossy");
    let (mut client, heard) = database
        .bed()
        .source()
        .connect_with_notices(database.name());
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
        ],
    );
    let notices = || std::mem::take(&mut *heard.lock().expect("the notices"));
    refusal::coded(
        &mut client,
        "ALTER TABLE t SET UNLOGGED",
        "22023",
        "CDC0101",
    );
    for statement in [
        "ALTER TABLE t DISABLE TRIGGER _cdc",
        "ALTER TABLE t ENABLE TRIGGER _cdc",
        "ALTER TABLE t DISABLE TRIGGER ALL",
    ] {
        notices();
        run(&mut client, &[statement]);
        let warnings = notices();
        let [warning] = warnings.as_slice() else {
            panic!("{statement}: {warnings:?}")
        };
        refusal::assert_coded(warning, "01000", "CDC0203");
    }
    notices();
    run(&mut client, &["ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc"]);
    assert!(notices().is_empty());
}
