//! Which changes are shipped, and which columns of them.

use pg_cdc_tests::topic::Record;
use serde_json::{Value, json};

use super::{change, changes, database};

#[test]
fn only_the_operations_asked_for_are_shipped() {
    let database = database("operations");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int);
             SELECT cdc_track('t', operations => 'insert, DELETE');
             INSERT INTO t VALUES (1, 1); UPDATE t SET n = 2; DELETE FROM t; TRUNCATE t;",
        )
        .expect("the changes");
    let ops: Vec<String> = changes(&database.records("t"))
        .into_iter()
        .map(|c| c.0)
        .collect();
    assert_eq!(ops, ["c", "d"]);
    let events: Vec<String> = client
        .query(
            "SELECT DISTINCT event_manipulation::text FROM information_schema.triggers WHERE event_object_table = 't' ORDER BY 1",
            &[],
        )
        .expect("triggers")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        events,
        ["DELETE", "INSERT"],
        "what is not shipped costs nothing"
    );
}

#[test]
fn columns_are_left_out_where_asked() {
    let database = database("left_out");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text, secret text);
             SELECT cdc_track('t', exclude => '{secret}');
             INSERT INTO t VALUES (1, 'a', 's');
             UPDATE t SET secret = 'S', name = 'b';
             SELECT cdc_track('t', include => '{id, secret}');
             UPDATE t SET name = 'c';
             SELECT cdc_track('t', include => '{}');
             DELETE FROM t;",
        )
        .expect("the changes");
    let records = database.records("t");
    assert_eq!(
        changes(&records),
        [
            change("c", Value::Null, json!({"id": 1, "name": "a"})),
            change(
                "u",
                json!({"id": 1, "name": "a"}),
                json!({"id": 1, "name": "b"})
            ),
            change(
                "u",
                json!({"id": 1, "secret": "S"}),
                json!({"id": 1, "secret": "S"})
            ),
            change(
                "d",
                json!({"id": 1, "name": "c", "secret": "S"}),
                Value::Null
            ),
        ]
    );
    // What is left out is not in the event that describes the table either.
    let described = records
        .iter()
        .find(|r| r.op() == "schema")
        .expect("a schema event");
    assert!(!described.value_text().contains("secret"), "{described:?}");
}

#[test]
fn an_update_that_changes_nothing_shipped_can_be_left_out() {
    let database = database("unchanged");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int, big text, ignored int);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             SELECT cdc_track('t', skip_unchanged => true, exclude => '{ignored}');
             INSERT INTO t VALUES (1, 1, repeat('abc', 10000), 1);
             UPDATE t SET ignored = 2;
             UPDATE t SET n = 1, big = big || '';
             BEGIN; UPDATE t SET ignored = 3; UPDATE t SET n = 2; UPDATE t SET ignored = 4; COMMIT;
             SELECT cdc_track('t', skip_unchanged => false);
             UPDATE t SET ignored = 5;",
        )
        .expect("the changes");
    let records = database.records("t");
    let ops: Vec<String> = changes(&records).into_iter().map(|c| c.0).collect();
    assert_eq!(ops, ["c", "u", "u"]);
    let counts_no_others = |r: &Record| r.json()["transaction"]["event_count"] == 3;
    assert!(records.iter().any(counts_no_others));
}

#[test]
fn rows_of_a_subscription_are_left_out_where_asked() {
    let database = database("local_rows");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t', origin => 'local'), pg_replication_origin_create('upstream')",
        )
        .expect("track");
    client
        .batch_execute(
            "SELECT pg_replication_origin_session_setup('upstream'); INSERT INTO t VALUES (1)",
        )
        .expect("a row of the origin");
    client
        .batch_execute("SELECT pg_replication_origin_session_reset(); INSERT INTO t VALUES (2)")
        .expect("a row of our own");
    assert_eq!(
        changes(&database.records("t")),
        [change("c", Value::Null, json!({"id": 2}))]
    );
}

#[test]
fn a_column_named_twice_in_a_key_counts_once() {
    let database = database("twice");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int);
             SELECT cdc_track('t', key => '{n,id,n}');
             INSERT INTO t VALUES (1, 2)",
        )
        .expect("a tracked table");
    let key: Vec<String> = client
        .query_one("SELECT key::text[] FROM cdc_tables", &[])
        .expect("cdc_tables")
        .get(0);
    assert_eq!(key, ["n", "id"]);
    let events = database.events("t");
    let row = events.iter().find(|event| event.op() == "c");
    assert_eq!(row.expect("the row").key_text(), r#"{"n":2,"id":1}"#);
}
