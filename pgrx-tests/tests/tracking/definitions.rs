//! Changes of a table's definition arrive as events, in order with the rows, and die with what is rolled back.

use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, refusal, wait_until};
use postgres::Client;
use serde_json::{Value, json};

pub(crate) fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// A session of a role that may make tables and nothing else.
pub(crate) fn owner(database: &Database<'_>, role: &str) -> Client {
    let mut client = database.source();
    run(
        &mut client,
        &[
            &format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}"),
            &format!("GRANT CREATE ON DATABASE {} TO {role}", database.name()),
            &format!("SET SESSION AUTHORIZATION {role}"),
        ],
    );
    client
}

/// What happened, shortly: the operation of a row, the type of a definition's change.
pub(crate) fn kinds(events: &[Record]) -> Vec<String> {
    let kind = |event: &Record| match event.op() {
        "schema" => event.json()["type"].as_str().expect("a type").to_owned(),
        op => op.to_owned(),
    };
    events.iter().map(kind).collect()
}

pub(crate) fn change(event: &Record) -> Value {
    event.json()
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

/// Columns that identify a row, in the newest definition.
fn key(event: &Record) -> Value {
    change(event)["tableChanges"][0]["table"]["primaryKeyColumnNames"].clone()
}

/// Every kind of a change, and rows between them.
const CHANGES_AND_ROWS: &[&str] = &[
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
];

#[test]
fn every_change_of_a_definition_is_an_event_between_the_rows() {
    let database = database("altered");
    let mut client = database.source();
    run(&mut client, CHANGES_AND_ROWS);
    let mut events = database.events("t");
    // Those of the snapshots that some of these begin, come when they come.
    events.retain(|event| !matches!(event.op(), "snapshot" | "r"));
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
            Some(events[definition].version()),
            events[row].header("cdc.control"),
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
    let records = database.records_of_topic(&topic);
    assert!(
        records
            .iter()
            .any(|r| r.op() == "schema" && r.json()["type"] == "UNTRACK"),
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

/// Tables whose definitions hang on domains, types, parents and schemas.
const TABLES_OF_MANY_THINGS: &[&str] = &[
    "CREATE SCHEMA things; CREATE SCHEMA elsewhere",
    "CREATE DOMAIN d AS int; CREATE DOMAIN key AS int; CREATE TYPE mood AS ENUM ('low', 'high')",
    "CREATE TYPE things.part AS ENUM ('a'); CREATE TYPE pair AS (one int, two int); CREATE TYPE ty AS (n int, x int)",
    "CREATE DOMAIN filtered AS int",
    "CREATE TABLE a (id int PRIMARY KEY, m d NOT NULL)",
    "CREATE TABLE b (id key PRIMARY KEY, n int)",
    "CREATE TABLE c (id int PRIMARY KEY, p things.part, q things.part[])",
    "CREATE TABLE parent (n int); CREATE TABLE child (PRIMARY KEY (n)) INHERITS (parent)",
    "CREATE TABLE typed OF ty (PRIMARY KEY (n))",
    "CREATE TABLE felt (id int PRIMARY KEY, m mood, p pair)",
    "CREATE TABLE f (id int PRIMARY KEY, c filtered)",
    "CREATE TABLE moved (id int PRIMARY KEY, v varchar(50))",
    "SELECT cdc_track('a'), cdc_track('b'), cdc_track('c'), cdc_track('child'), cdc_track('typed'), cdc_track('felt')",
    "SELECT cdc_track('f', filter => 'c > 0'), cdc_track('moved')",
    "INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); INSERT INTO child VALUES (1); INSERT INTO typed VALUES (1)",
    "INSERT INTO felt VALUES (1, 'low', (1, 2)); INSERT INTO moved VALUES (1, 'x')",
];

/// Changes of them that name the table, and many that do not.
const EVERY_ROAD: &[&str] = &[
    "DROP DOMAIN d CASCADE",
    "INSERT INTO a VALUES (2)",
    "DROP DOMAIN key CASCADE",
    "DROP SCHEMA things CASCADE",
    "ALTER TABLE parent ADD x int",
    "ALTER TABLE parent ALTER x TYPE text",
    "ALTER TABLE parent RENAME x TO y",
    "ALTER TABLE parent ALTER n TYPE bigint",
    "ALTER TABLE parent DROP y",
    "ALTER TABLE child NO INHERIT parent",
    "ALTER TABLE parent ADD z int",
    "ALTER TYPE ty ADD ATTRIBUTE z int CASCADE",
    "ALTER TYPE ty ALTER ATTRIBUTE x TYPE text CASCADE",
    "ALTER TYPE ty DROP ATTRIBUTE x CASCADE",
    "ALTER TYPE mood ADD VALUE 'middle'",
    "ALTER TYPE mood RENAME TO feeling",
    "ALTER TYPE feeling SET SCHEMA elsewhere",
    "ALTER TYPE elsewhere.feeling RENAME VALUE 'low' TO 'down'",
    "ALTER TYPE pair ADD ATTRIBUTE three int",
    "ALTER SCHEMA elsewhere RENAME TO there",
    // Nothing is written anew: nothing is to be read again.
    "ALTER TABLE moved ALTER v TYPE varchar(100)",
    "ALTER TABLE moved ALTER v TYPE text",
    "ALTER TABLE moved ALTER v SET NOT NULL",
    "ALTER TABLE moved ADD w int",
    "ALTER TABLE moved ALTER v TYPE text USING upper(v)",
    "ALTER TABLE moved DROP CONSTRAINT moved_pkey",
    "ALTER TABLE moved ADD PRIMARY KEY (v)",
    "ALTER TABLE moved SET SCHEMA there",
];

#[test]
fn whatever_changes_a_definition_says_so() {
    let database = database("roads");
    let mut client = owner(&database, "builder");
    run(&mut client, TABLES_OF_MANY_THINGS);
    run(&mut client, EVERY_ROAD);
    columns_go_with_their_domain_or_schema(&database);
    parents_and_row_types_change_their_tables(&database);
    labels_and_names_of_types_are_told(&database);
    what_is_written_anew_is_read_again(&database, &mut client);
    a_table_that_is_just_dropped_stands_in_nobodys_way(&database, &mut client);

    // What would make every write fail is refused, and writes go on.
    refusal::coded(
        &mut client,
        "DROP DOMAIN filtered CASCADE",
        "55000",
        "CDC0120",
    );
    run(
        &mut client,
        &["INSERT INTO f VALUES (1, 1)", "DROP TABLE f"],
    );
    assert_eq!(told_of(&database, "f"), ["CREATE", "c", "UNTRACK", "DROP"]);
    database.bed().source().assert_never_crashed();
}

/// What happened to a table, with a `!` where its rows are to be read again.
fn told_of(database: &Database<'_>, table: &str) -> Vec<String> {
    let events = database.events(table);
    let shown = events.iter().map(|event| {
        let again = event.op() == "schema" && change(event)["contents_changed"] == true;
        let again = if again { "!" } else { "" };
        format!("{}{again}", kinds(std::slice::from_ref(event))[0])
    });
    // Snapshots follow, whenever their worker gets to them.
    shown
        .filter(|kind| !matches!(kind.as_str(), "r" | "snapshot"))
        .collect()
}

/// The columns after every change, of which there are so many.
fn altered(database: &Database<'_>, table: &str, count: usize) -> Vec<Vec<String>> {
    let mut events = database.events(table);
    events.retain(|event| event.op() == "schema" && change(event)["type"] != "CREATE");
    assert_eq!(
        events.len(),
        count,
        "{table}: {:?}",
        told_of(database, table)
    );
    events.iter().map(columns).collect()
}

fn columns_go_with_their_domain_or_schema(database: &Database<'_>) {
    assert_eq!(told_of(database, "a"), ["CREATE", "c", "ALTER", "c"]);
    assert_eq!(columns(&database.events("a")[2]), ["id integer"]);
    assert_eq!(told_of(database, "b"), ["CREATE", "c", "ALTER"]);
    assert_eq!(key(&database.events("b")[2]), json!([]));
    assert_eq!(told_of(database, "c"), ["CREATE", "ALTER"]);
    assert_eq!(columns(&database.events("c")[1]), ["id integer"]);
}

fn parents_and_row_types_change_their_tables(database: &Database<'_>) {
    assert_eq!(
        told_of(database, "child"),
        ["CREATE", "c", "ALTER", "ALTER!", "ALTER", "ALTER!", "ALTER"]
    );
    let child = altered(database, "child", 5);
    assert_eq!(child[1], ["n integer", "x text"]);
    assert_eq!(child[4], ["n bigint"]);
    assert_eq!(
        told_of(database, "typed"),
        ["CREATE", "c", "ALTER", "ALTER!", "ALTER"]
    );
    assert_eq!(altered(database, "typed", 3)[2], ["n integer", "z integer"]);
}

fn labels_and_names_of_types_are_told(database: &Database<'_>) {
    assert_eq!(
        told_of(database, "felt"),
        ["CREATE", "c", "ALTER", "ALTER", "ALTER!", "ALTER", "ALTER"]
    );
    let felt: Vec<String> = altered(database, "felt", 5)
        .iter()
        .map(|columns| columns[1].clone())
        .collect();
    assert_eq!(
        felt,
        [
            "m feeling",
            "m elsewhere.feeling",
            "m elsewhere.feeling",
            "m elsewhere.feeling",
            "m there.feeling"
        ]
        .map(|text| text.replace("m feeling", "m public.feeling"))
    );
}

/// And nothing else.
fn what_is_written_anew_is_read_again(database: &Database<'_>, client: &mut Client) {
    assert_eq!(
        told_of(database, "moved"),
        [
            "CREATE", "c", "ALTER", "ALTER", "ALTER", "ALTER", "ALTER!", "ALTER", "ALTER", "RENAME"
        ]
    );
    let mut moved = database.events("moved");
    moved.retain(|event| event.op() == "schema");
    assert_eq!(key(moved.last().expect("the move")), json!(["v"]));
    let snapshots: Vec<String> = client
        .query(
            "SELECT DISTINCT relation::text FROM cdc_snapshots ORDER BY 1",
            &[],
        )
        .expect("snapshots")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(snapshots, ["child", "felt", "there.moved", "typed"]);
}

/// Dropped by another session, which has not committed that yet.
fn a_table_that_is_just_dropped_stands_in_nobodys_way(
    database: &Database<'_>,
    client: &mut Client,
) {
    let mut other = database.source();
    run(&mut other, &["BEGIN", "DROP TABLE there.moved"]);
    std::thread::scope(|scope| {
        let renaming = scope.spawn(|| run(client, &["ALTER SCHEMA there RENAME TO here"]));
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'there.moved'::regclass";
        let mut watcher = database.source();
        wait_until(
            "the lock to be waited for",
            Duration::from_secs(30),
            || match watcher
                .query_one(waiting, &[])
                .expect("locks")
                .get::<_, i64>(0)
            {
                1 => Ok(()),
                others => Err(others),
            },
        );
        run(&mut other, &["COMMIT"]);
        renaming.join().expect("renamed");
    });
}
