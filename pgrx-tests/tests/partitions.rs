//! A partitioned table is one table to those who read: the root's name, topic and columns, whatever partition a row is in.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, refusal, replica};
use postgres::Client;
use serde_json::json;

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Operation and key of a row, `t` for a truncate, the type of a definition's change and whether contents changed.
fn shown(events: &[Record]) -> Vec<String> {
    let show = |event: &Record| match event.op() {
        "schema" => {
            let change = event.json()["schema_change"].clone();
            let kind = change["type"].as_str().expect("a type").to_owned();
            if change["contents_changed"] == true {
                format!("{kind}!")
            } else {
                kind
            }
        }
        "t" => "t".to_owned(),
        op => format!("{op} {}", event.key_text()),
    };
    events.iter().map(show).collect()
}

const TABLE: &str = "
    CREATE TABLE t (id int, region text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE t_ch PARTITION OF t FOR VALUES IN ('CH');
    CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('DE', 'FR') PARTITION BY RANGE (id);
    CREATE TABLE t_eu_low PARTITION OF t_eu FOR VALUES FROM (0) TO (100);
    CREATE TABLE t_other (gone int, note text, id int NOT NULL, region text NOT NULL);
    ALTER TABLE t_other DROP gone;
    ALTER TABLE t ATTACH PARTITION t_other DEFAULT;";

#[test]
fn rows_of_every_partition_come_as_rows_of_the_table() {
    let database = database("partitioned");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1, 'CH', 'a'), (2, 'DE', 'b'), (3, 'US', 'c')",
            // Into another partition: a delete and an insert of one transaction.
            "UPDATE t SET region = 'CH', note = 'moved' WHERE id = 2",
            "INSERT INTO t_other VALUES ('direct', 4, 'JP')",
            "CREATE TABLE t_eu_high PARTITION OF t_eu FOR VALUES FROM (100) TO (200)",
            "INSERT INTO t SELECT n, 'FR', 'new' FROM generate_series(100, 102) AS n",
            "SET session_replication_role = replica",
            "UPDATE t SET note = 'applied' WHERE id = 100",
            "RESET session_replication_role",
            "ALTER TABLE t RENAME note TO remark",
            "DELETE FROM t WHERE id = 3",
        ],
    );
    refusal::coded(&mut client, "SELECT cdc_track('t_ch')", "22023", "CDC0112");
    let events = database.events("t");
    assert_eq!(
        shown(&events),
        [
            "CREATE",
            r#"c {"id":1,"region":"CH"}"#,
            r#"c {"id":2,"region":"DE"}"#,
            r#"c {"id":3,"region":"US"}"#,
            r#"d {"id":2,"region":"DE"}"#,
            r#"c {"id":2,"region":"CH"}"#,
            r#"c {"id":4,"region":"JP"}"#,
            r#"c {"id":100,"region":"FR"}"#,
            r#"c {"id":101,"region":"FR"}"#,
            r#"c {"id":102,"region":"FR"}"#,
            r#"u {"id":100,"region":"FR"}"#,
            "ALTER",
            r#"d {"id":3,"region":"US"}"#,
        ]
    );
    for event in &events {
        assert_eq!(event.header("cdc.table"), Some("partitioned.public.t"));
    }
    let moved = [4, 5].map(|place| events[place].json()["transaction"]["id"].clone());
    assert_eq!(moved[0], moved[1], "one transaction");
    assert_eq!(
        events[6].json()["after"],
        json!({"id": 4, "region": "JP", "note": "direct"})
    );
    // The order of the columns is the root's, also in a partition that was made with another one.
    assert!(
        events[6]
            .value_text()
            .contains(r#""after":{"id":4,"region":"JP","note":"direct"}"#)
    );
    let hashes = |places: &[usize]| -> Vec<Option<&str>> {
        places
            .iter()
            .map(|place| events[*place].header("cdc.schema"))
            .collect()
    };
    assert!(
        hashes(&[1, 2, 3, 6, 7])
            .iter()
            .all(|hash| *hash == hashes(&[0])[0]),
        "one list of columns"
    );
    assert_eq!(hashes(&[12]), hashes(&[11]));
}

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
            "DETACH!",
            "ATTACH!",
            "ALTER!",
            "DETACH!",
            r#"c {"id":9,"region":"CH"}"#,
        ]
    );
    assert_eq!(
        shown(&database.events("child"))[..2],
        ["CREATE", "t"],
        "CASCADE"
    );
}

#[test]
fn untracking_leaves_no_trigger_on_any_partition() {
    let database = database("partitions_left");
    let mut client = database.source();
    run(&mut client, &[TABLE, "SELECT cdc_track('t')"]);
    let ours = |client: &mut Client| -> i64 {
        let count = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
        client.query_one(count, &[]).expect("triggers").get(0)
    };
    assert_eq!(
        ours(&mut client),
        10,
        "two for the root and each of four partitions"
    );
    run(
        &mut client,
        &["SELECT cdc_track('t', operations => 'insert')"],
    );
    assert_eq!(ours(&mut client), 5, "no TRUNCATE");
    run(
        &mut client,
        &[
            "SELECT cdc_track('t', operations => '')",
            "SELECT cdc_untrack('t')",
        ],
    );
    assert_eq!(ours(&mut client), 0);
}

#[test]
fn partitions_have_the_options_of_the_root() {
    let database = database("partition_options");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "SELECT cdc_track('t', filter => $$note <> '{}'$$, exclude => '{}')",
            "INSERT INTO t VALUES (1, 'CH', '{}'), (2, 'CH', 'a'), (3, 'DE', '{}'), (4, 'DE', 'b')",
        ],
    );
    let kinds = client
        .query_one(
            "SELECT count(DISTINCT tgargs), count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'",
            &[],
        )
        .expect("triggers");
    let kinds: (i64, i64) = (kinds.get(0), kinds.get(1));
    assert_eq!(kinds, (1, 10), "all triggers have the same arguments");
    assert_eq!(
        shown(&database.events("t"))[1..],
        [r#"c {"id":2,"region":"CH"}"#, r#"c {"id":4,"region":"DE"}"#]
    );
}

#[test]
fn the_replica_of_a_partitioned_table_equals_it() {
    let database = database("partitioned_replica");
    let mut client = database.source();
    run(&mut client, &[TABLE, "SELECT cdc_track('t')"]);
    let sink = database.start_companion_sink();
    run(
        &mut client,
        &[
            "INSERT INTO t SELECT n, (ARRAY['CH', 'DE', 'FR', 'US'])[1 + n % 4], md5(n::text) FROM generate_series(0, 99) AS n",
            "UPDATE t SET region = (ARRAY['US', 'CH', 'DE', 'FR'])[1 + id % 4] WHERE id % 3 = 0",
            "UPDATE t SET note = note || '!' WHERE id % 2 = 0",
            "DELETE FROM t WHERE id % 7 = 0",
        ],
    );
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", database.bed().kafka(), &[database.topic("t")]);
    let rows = replica::assert_equal(&mut client, &mut database.replica(), "public.t");
    assert_eq!(rows, 85);
}
