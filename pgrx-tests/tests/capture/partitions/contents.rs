//! What empties a partition, and rows that come and go with one.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use serde_json::json;

use super::{TABLE, database, shown};

#[test]
fn what_empties_or_moves_partitions_is_said() {
    let database = database("emptied");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "CREATE TABLE child (id int PRIMARY KEY, t_id int, t_region text, FOREIGN KEY (t_id, t_region) REFERENCES t)",
            "SELECT cdc_track('t'), cdc_track('child')",
            "INSERT INTO t VALUES (1, 'CH', 'a'), (2, 'DE', 'b')",
            "TRUNCATE t CASCADE",
            "INSERT INTO t VALUES (3, 'CH', 'a'), (4, 'DE', 'b')",
            "BEGIN",
            "ALTER TABLE child DROP CONSTRAINT child_t_id_t_region_fkey",
            "COMMIT",
            "TRUNCATE t_eu",
            "CREATE TABLE t_new PARTITION OF t FOR VALUES IN ('AT')",
            "INSERT INTO t VALUES (5, 'AT', 'x')",
            "TRUNCATE t_new",
            "BEGIN",
            "TRUNCATE t",
            "INSERT INTO t VALUES (6, 'CH', 'x')",
            "TRUNCATE t_ch",
            "COMMIT",
            "ALTER TABLE t DETACH PARTITION t_new",
            "INSERT INTO t_new VALUES (7, 'AT', 'detached')",
            "TRUNCATE t_new",
            "INSERT INTO t_new VALUES (8, 'AT', 'comes back')",
            "ALTER TABLE t ATTACH PARTITION t_new FOR VALUES IN ('AT')",
            "TRUNCATE t_new",
            "DROP TABLE t_new",
            "INSERT INTO t VALUES (9, 'CH', 'x')",
            // What goes with its schema cannot be read any more.
            "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t_new PARTITION OF t FOR VALUES IN ('AT')",
            "INSERT INTO t VALUES (10, 'AT', 'x')",
            "DROP SCHEMA elsewhere CASCADE",
        ],
    );
    // Snapshots follow, whenever their worker gets to them.
    let mut events = database.events("t");
    events.retain(|event| !matches!(event.op(), "r" | "snapshot"));
    assert_eq!(
        shown(&events),
        [
            "CREATE",
            r#"c {"id":1,"region":"CH"}"#,
            r#"c {"id":2,"region":"DE"}"#,
            "t",
            r#"c {"id":3,"region":"CH"}"#,
            r#"c {"id":4,"region":"DE"}"#,
            "ALTER!",
            "ALTER!",
            r#"c {"id":5,"region":"AT"}"#,
            "ALTER!",
            "t",
            r#"c {"id":6,"region":"CH"}"#,
            "ALTER!",
            "DETACH",
            "ATTACH",
            // A row that comes with its partition is inserted for readers.
            r#"c {"id":8,"region":"AT"}"#,
            "ALTER!",
            "DETACH",
            r#"c {"id":9,"region":"CH"}"#,
            r#"c {"id":10,"region":"AT"}"#,
            "DETACH!",
        ]
    );
    assert_eq!(
        shown(&database.events("child"))[..2],
        ["CREATE", "t"],
        "CASCADE"
    );
}

/// The newest state of each row, as somebody has it who applies every event.
fn folded(events: &[Record]) -> Vec<String> {
    let mut rows = std::collections::BTreeSet::new();
    for event in events.iter().filter(|event| event.is_row_change()) {
        match event.op() {
            "d" => rows.remove(event.key_text()),
            "t" => {
                rows.clear();
                true
            }
            _ => rows.insert(event.key_text().to_owned()),
        };
    }
    rows.into_iter().collect()
}

/// Partitions of all kinds that come and go, some of them for nothing.
const COMING_AND_GOING: &[&str] = &[
    "CREATE TABLE t (id int, at int, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)",
    "CREATE TABLE t_2a PARTITION OF t_2 FOR VALUES FROM (0) TO (100)",
    "SELECT cdc_track('t', mask => '{\"note\": \"truncate:5\"}')",
    // Long values that lie outside of the table are read as well.
    "ALTER TABLE t_1 ALTER note SET STORAGE EXTERNAL",
    "INSERT INTO t SELECT n, 5, repeat(md5(n::text), 200) FROM generate_series(1, 3) AS n",
    "INSERT INTO t SELECT n, 15, 'x' FROM generate_series(1, 3) AS n",
    // Another order of columns, a fast default, and rows of before.
    "CREATE TABLE t_3 (gone int, note text, at int NOT NULL); INSERT INTO t_3 VALUES (0, 'y', 25)",
    "ALTER TABLE t_3 DROP gone, ADD id int NOT NULL DEFAULT 7",
    "CREATE TABLE t_4 (LIKE t)",
    "ALTER TABLE t ATTACH PARTITION t_3 FOR VALUES FROM (20) TO (30)",
    "ALTER TABLE t ATTACH PARTITION t_4 FOR VALUES FROM (30) TO (40)",
    "BEGIN; DROP TABLE t_1; ROLLBACK",
    "BEGIN; SAVEPOINT s; ALTER TABLE t DETACH PARTITION t_2; ROLLBACK TO s; COMMIT",
    "UPDATE t SET note = 'z' WHERE at = 25",
    "ALTER TABLE t DETACH PARTITION t_4 CONCURRENTLY",
    "DO $$ BEGIN DROP TABLE IF EXISTS t_4, t_1; END $$",
    "ALTER TABLE t DETACH PARTITION t_2",
    "INSERT INTO t_2 VALUES (9, 15, 'not shipped')",
];

#[test]
fn rows_that_come_and_go_with_a_partition_are_events_and_nothing_else_is_read() {
    let database = database("moving");
    let mut client = database.source();
    run(&mut client, COMING_AND_GOING);
    let events = database.events("t");
    assert_eq!(
        shown(&events)[7..],
        [
            "ATTACH".to_owned(),
            r#"c {"id":7,"at":25}"#.to_owned(),
            "ATTACH".to_owned(),
            r#"u {"id":7,"at":25}"#.to_owned(),
            "DETACH".to_owned(),
            r#"d {"id":1,"at":5}"#.to_owned(),
            r#"d {"id":2,"at":5}"#.to_owned(),
            r#"d {"id":3,"at":5}"#.to_owned(),
            "DETACH".to_owned(),
            "DETACH".to_owned(),
            r#"d {"id":1,"at":15}"#.to_owned(),
            r#"d {"id":2,"at":15}"#.to_owned(),
            r#"d {"id":3,"at":15}"#.to_owned(),
        ]
    );
    assert_eq!(
        events[8].json()["after"],
        json!({"id": 7, "at": 25, "note": "y"})
    );
    let deleted = events[12].json();
    let before = &deleted["before"];
    assert_eq!(before["note"].as_str().map(str::len), Some(5), "{before}");
    run(
        &mut client,
        &[
            "INSERT INTO t VALUES (8, 25, 'kept')",
            "SET cdc.dropped_partitions = keep; DROP TABLE t_3; RESET cdc.dropped_partitions",
            // What goes with all of it is not read.
            "CREATE TABLE t_5 PARTITION OF t FOR VALUES FROM (40) TO (50); INSERT INTO t VALUES (1, 45, '')",
            "DROP TABLE t, t_5",
        ],
    );
    let events = database.events("t");
    assert_eq!(
        shown(&events)[20..],
        [
            r#"c {"id":8,"at":25}"#,
            "DETACH",
            r#"c {"id":1,"at":45}"#,
            "UNTRACK",
            "DROP"
        ]
        .map(str::to_owned)
    );
    assert_eq!(
        folded(&events),
        [
            r#"{"id":1,"at":45}"#,
            r#"{"id":7,"at":25}"#,
            r#"{"id":8,"at":25}"#
        ]
    );
    let snapshots: i64 = client
        .query_one("SELECT count(*) FROM cdc_snapshots", &[])
        .expect("snapshots")
        .get(0);
    assert_eq!(snapshots, 0);
}
