//! Rows that another library writes in its own pre-commit callback, before or after ours ran, belong to the transaction.

use std::path::Path;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, bed, c_library};

/// Events of a transaction with one row of its own and one late one, and of a prepared one likewise.
fn check(libraries: impl FnOnce(&str) -> String) {
    let folder = bed::temporary_folder();
    let library = folder.path().join("late_rows.so");
    c_library::compile(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/capture/late_rows.c"),
        &library,
    );
    let bed = TestBed::start_with(&[
        (
            "shared_preload_libraries",
            &libraries(&library.display().to_string()),
        ),
        ("max_prepared_transactions", "5"),
    ]);
    let database = bed.database("late");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY); CREATE SEQUENCE late START 100",
            "SELECT cdc_track('t')",
            "SET late_rows.statement = 'INSERT INTO t VALUES (nextval(''late''))'",
            "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); ROLLBACK TO s; COMMIT",
            // Nothing of its own.
            "BEGIN; SELECT 1; COMMIT",
            "BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'p'",
            "SET late_rows.statement = ''",
            "COMMIT PREPARED 'p'",
        ],
    );
    let events = database.events("t");
    let rows: Vec<(i64, String)> = events
        .iter()
        .filter(|event| event.op() == "c")
        .map(|event| {
            let json = event.json();
            let count = json["transaction"]["event_count"].to_string();
            (json["after"]["id"].as_i64().expect("an id"), count)
        })
        .collect();
    let there = client
        .query("SELECT id::bigint FROM t ORDER BY id", &[])
        .expect("the table");
    let there: Vec<i64> = there.iter().map(|row| row.get(0)).collect();
    let mut ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(ids, there, "every row has its event");
    let first: Vec<(i64, &str)> = rows[..3]
        .iter()
        .map(|(id, count)| (*id, count.as_str()))
        .collect();
    assert_eq!(
        first,
        [(100, "1"), (1, "2"), (101, "2")],
        "the late row of a transaction without others, and two of one transaction"
    );
    assert_eq!(ids.len(), 6);
    let uncovered: i64 = client
        .query_one("SELECT uncovered_rows FROM cdc_status()", &[])
        .expect("status")
        .get(0);
    assert_eq!(uncovered, 0);
    bed.source().assert_never_crashed();
    bed.stop();
}

#[test]
fn rows_written_after_our_callback_ran_are_captured() {
    // The library that was loaded last is called first.
    check(|library| format!("{library},pg_cdc"));
}

#[test]
fn rows_written_before_our_callback_runs_are_captured() {
    check(|library| format!("pg_cdc,{library}"));
}
