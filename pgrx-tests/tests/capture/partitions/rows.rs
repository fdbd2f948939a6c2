//! Rows of every partition, and who reads them.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{refusal, replica};
use postgres::Client;
use serde_json::json;

use super::{TABLE, database, shown};

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
            "CREATE TABLE t_at (note text, region text NOT NULL, id int NOT NULL); INSERT INTO t_at SELECT n, 'AT', n FROM generate_series(1, 50) AS n",
            "ALTER TABLE t ATTACH PARTITION t_at FOR VALUES IN ('AT')",
            "CREATE TABLE t_it PARTITION OF t FOR VALUES IN ('IT')",
            "INSERT INTO t SELECT n, 'IT', 'x' FROM generate_series(1, 50) AS n",
            "DROP TABLE t_it",
        ],
    );
    let equal = |client: &mut Client| {
        database.wait_until_in_kafka();
        sink.wait_until_sink_applied("replica", database.bed().kafka(), &[database.topic("t")]);
        replica::assert_equal(client, &mut database.replica(), "public.t")
    };
    assert_eq!(equal(&mut client), 135);
    run(
        &mut client,
        &[
            "ALTER TABLE t DETACH PARTITION t_at",
            "ALTER TABLE t ALTER note TYPE varchar",
        ],
    );
    assert_eq!(equal(&mut client), 85);
}

#[test]
fn partitions_on_other_servers_are_passed_over() {
    let database = database("foreign_parts");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER s FOREIGN DATA WRAPPER nothing",
            "CREATE TABLE q (id int, n int) PARTITION BY RANGE (id)",
            "CREATE FOREIGN TABLE q_1 PARTITION OF q FOR VALUES FROM (0) TO (9) SERVER s",
            "CREATE TABLE q_2 PARTITION OF q FOR VALUES FROM (10) TO (20)",
            "SELECT cdc_track('q', key => '{id}')",
            "CREATE FOREIGN TABLE q_3 PARTITION OF q FOR VALUES FROM (30) TO (40) SERVER s",
            "CREATE FOREIGN TABLE q_4 (id int, n int) SERVER s",
            "ALTER TABLE q ATTACH PARTITION q_4 FOR VALUES FROM (40) TO (50)",
            "INSERT INTO q VALUES (10, 1)",
            "SELECT cdc_track('q', key => '{id}')",
            "ALTER TABLE q DETACH PARTITION q_4",
            "DROP FOREIGN TABLE q_1, q_3",
            "DELETE FROM q",
            "SELECT cdc_untrack('q')",
        ],
    );
    assert_eq!(
        shown(&database.events("q")),
        [
            "CREATE",
            "ATTACH",
            r#"c {"id":10}"#,
            "DETACH",
            "DETACH",
            "DETACH",
            r#"d {"id":10}"#,
            "UNTRACK"
        ]
    );
}
