//! What a snapshot's own table says and nobody can read, as after a downgrade.

use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, wait_until};

#[test]
fn a_snapshot_that_cannot_be_read_fails_and_reads_no_row() {
    let bed = TestBed::shared();
    let database = bed.database("snapshot_jobs");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "INSERT INTO t SELECT generate_series(1, 100)",
            "SELECT cdc_track('t')",
        ],
    );
    // Read as nothing, the first would be of the whole table, and the second would begin at its first row.
    for (column, text) in [
        ("request", r#"{"filter": 7}"#),
        ("place", r#"{"values": 7}"#),
    ] {
        let job = "INSERT INTO cdc_snapshot_jobs (relation, request, place)
                SELECT 't'::regclass, '{}', NULL RETURNING snapshot_id";
        let mut transaction = client.transaction().expect("a transaction");
        let id: i64 = transaction.query_one(job, &[]).expect("a job").get(0);
        let set = format!("UPDATE cdc_snapshot_jobs SET {column} = $1 WHERE snapshot_id = $2");
        transaction
            .execute(&set, &[&text.as_bytes(), &id])
            .expect("a job");
        // One that can be read: it makes the worker look, and is not held up.
        let other: i64 = transaction
            .query_one("SELECT cdc_snapshot('t', filter => 'id = 100')", &[])
            .expect("cdc_snapshot")
            .get(0);
        transaction.commit().expect("commit");
        let mut state = |id: i64| -> (String, Option<String>, Option<String>) {
            let query =
                "SELECT state, error_code, error_message FROM cdc_snapshots WHERE snapshot_id = $1";
            let row = client.query_one(query, &[&id]).expect("cdc_snapshots");
            (row.get(0), row.get(1), row.get(2))
        };
        wait_until(
            "the other snapshot",
            Duration::from_secs(60),
            || match state(other) {
                (done, _, _) if done == "done" => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );
        let (failed, code, error) = state(id);
        assert_eq!(
            (failed.as_str(), code.as_deref()),
            ("failed", Some("CDC0504"))
        );
        let error = error.unwrap_or_default();
        assert!(error.contains(column), "{error}");
    }
    database.wait_until_in_kafka();
    let events = database.events("t");
    let read: Vec<i64> = events
        .iter()
        .filter(|event| event.op() == "r")
        .map(|event| event.json()["after"]["id"].as_i64().expect("an id"))
        .collect();
    assert_eq!(read, [100, 100]);
}
