//! Transactions of unusual shapes: very many subtransactions, very many transactions, conflicts, early parts everywhere.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, prefix_rule};
use postgres::Client;

/// Row changes in the order of their versions, of a topic whose partitions all keep the prefix rule.
fn changes(database: &Database<'_>, table: &str) -> Vec<Record> {
    let records = database.records(table);
    let rows = prefix_rule::assert_holds(&records).into_iter();
    let mut rows: Vec<Record> = rows.filter(|r| r.is_row_change()).cloned().collect();
    rows.sort_by(|one, other| one.version().cmp(other.version()));
    rows
}

fn ids(changes: &[Record]) -> Vec<i64> {
    let id = |change: &Record| {
        let event = change.json();
        let image = if event["after"].is_null() {
            &event["before"]
        } else {
            &event["after"]
        };
        image["id"].as_i64().expect("an id")
    };
    changes.iter().map(id).collect()
}

#[test]
fn a_hundred_thousand_exceptions_in_one_transaction() {
    let database = TestBed::shared().database("exceptions");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, note text)",
            "SELECT cdc_track('t')",
            "SET cdc.capture_buffer = '64kB'",
            "DO $$ BEGIN
               FOR i IN 1..100000 LOOP
                 BEGIN
                   INSERT INTO t VALUES (i, 'note ' || i);
                   IF i % 3 <> 0 THEN RAISE EXCEPTION 'back'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
               END LOOP;
             END $$",
        ],
    );
    let ids = ids(&changes(&database, "t"));
    let expected: Vec<i64> = (1..=100_000).filter(|n| n % 3 == 0).collect();
    assert_eq!(ids.len(), expected.len());
    assert!(ids == expected, "in the order in which they were inserted");
}

#[test]
fn a_hundred_thousand_transactions_in_commit_order() {
    let database = TestBed::shared().database("tiny");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "SET synchronous_commit = off",
            "DO $$ BEGIN FOR i IN 1..100000 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END $$",
        ],
    );
    let changes = changes(&database, "t");
    assert!(
        ids(&changes) == (1..=100_000).collect::<Vec<i64>>(),
        "all of them, in their order"
    );
    let transactions: std::collections::HashSet<String> = changes
        .iter()
        .map(|change| change.json()["transaction"]["id"].to_string())
        .collect();
    assert_eq!(transactions.len(), 100_000);
}

#[test]
fn what_fails_to_serialize_is_never_sent() {
    let database = TestBed::shared().database("serialize");
    let (mut one, mut other) = (database.source(), database.source());
    run(
        &mut one,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0), (2, 0)",
            "SELECT cdc_track('t')",
        ],
    );
    for client in [&mut one, &mut other] {
        run(
            client,
            &[
                "SET cdc.capture_buffer = '64kB'",
                "BEGIN ISOLATION LEVEL SERIALIZABLE",
                "SELECT sum(n) FROM t",
            ],
        );
    }
    // Enough rows that a part of them is in the WAL before the transaction fails.
    run(
        &mut other,
        &[
            "INSERT INTO t SELECT n, n FROM generate_series(1000, 5000) AS n",
            "UPDATE t SET n = 2 WHERE id = 2",
        ],
    );
    run(&mut one, &["UPDATE t SET n = 1 WHERE id = 1", "COMMIT"]);
    let failed = refusal_of(&mut other, "COMMIT");
    assert_eq!(
        failed.as_deref(),
        Some("40001"),
        "PostgreSQL refuses to serialize"
    );
    run(&mut other, &["ROLLBACK", "UPDATE t SET n = 3 WHERE id = 2"]);
    let changes = changes(&database, "t");
    let shown: Vec<String> = changes
        .iter()
        .map(|change| format!("{} {}", change.op(), change.json()["after"]))
        .collect();
    assert_eq!(shown, [r#"u {"id":1,"n":1}"#, r#"u {"id":2,"n":3}"#]);
}

/// The SQLSTATE with which a statement fails; none if it does not.
fn refusal_of(client: &mut Client, statement: &str) -> Option<String> {
    let error = client.batch_execute(statement).err()?;
    let error = error
        .as_db_error()
        .unwrap_or_else(|| panic!("{statement}: {error:?}"));
    Some(error.code().code().to_owned())
}

#[test]
fn early_parts_at_every_level_of_nesting() {
    let database = TestBed::shared().database("nested");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, note text)",
            "SELECT cdc_track('t')",
            "SET cdc.capture_buffer = '64kB'",
            "BEGIN",
        ],
    );
    // Each level writes more than a buffer before and after the level inside it; every third is rolled back.
    let fill = |level: i32, half: i32| {
        let first = level * 1000 + half * 500;
        format!(
            "INSERT INTO t SELECT n, repeat(md5(n::text), 20) FROM generate_series({first}, {}) AS n",
            first + 199
        )
    };
    let levels = 8;
    for level in 0..levels {
        run(
            &mut client,
            &[&format!("SAVEPOINT s{level}"), &fill(level, 0)],
        );
    }
    for level in (0..levels).rev() {
        run(&mut client, &[&fill(level, 1)]);
        let end = if level % 3 == 2 {
            "ROLLBACK TO"
        } else {
            "RELEASE"
        };
        run(&mut client, &[&format!("{end} s{level}")]);
    }
    run(&mut client, &["COMMIT"]);
    let ids = ids(&changes(&database, "t"));
    let rows = client
        .query("SELECT id::bigint FROM t", &[])
        .expect("the table");
    let mut there: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!there.is_empty());
    there.sort_unstable();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert!(
        sorted == there,
        "{} events, {} rows",
        ids.len(),
        there.len()
    );
    // Going in the first halves, coming out the second ones, levels in their order.
    let halves: Vec<(i64, i64)> = ids.iter().map(|id| (id / 1000, id % 1000 / 500)).collect();
    let order = |(level, half): &(i64, i64)| if *half == 0 { *level } else { 1000 - *level };
    assert!(halves.is_sorted_by_key(order), "{halves:?}");
}
