//! What stops a snapshot: people, kills, and a copy of its database. What asks for one that cannot be is refused.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, refusal, wait_until};
use postgres::Client;
use serde_json::{Value, json};

use super::progress::{TIMEOUT, snapshot, state, wait_for_rows, wait_for_state};
use super::reader::{TABLE, assert_reader_has_the_table, ops};

#[test]
fn a_snapshot_goes_on_after_whatever_is_killed() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "200")]);
    let database = bed.database("killed");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 10000) AS n",
            "SELECT cdc_track('t')",
        ],
    );
    let id = snapshot(&mut client, "cdc_snapshot('t', rows_per_second => 1000)");
    wait_for_rows(&mut client, id, 1000);
    // The worker, then the server, then the broker.
    let worker: i32 = client
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cdc snapshot'",
            &[],
        )
        .expect("the worker")
        .get(0);
    run(
        &mut client,
        &[&format!("SELECT pg_terminate_backend({worker})")],
    );
    wait_for_rows(&mut client, id, 2000);
    run(
        &mut client,
        &["UPDATE t SET note = 'meanwhile' WHERE id % 7 = 0"],
    );
    drop(client);
    bed.source().kill();
    bed.source().start();
    let mut client = database.source();
    wait_for_rows(&mut client, id, 4000);
    bed.kafka().kill();
    run(
        &mut client,
        &[
            "UPDATE t SET n = -n WHERE id % 5 = 0",
            "DELETE FROM t WHERE id % 11 = 0",
        ],
    );
    bed.kafka().start();
    wait_for_state(&mut client, id, "done");
    let records = assert_reader_has_the_table(&database, "t");
    assert!(
        ops(&records, "r") < 12_000,
        "{} rows read: not from the beginning each time",
        ops(&records, "r")
    );
}

fn wait_for_the_worker_to_leave(client: &mut Client) {
    wait_until("the worker to leave", TIMEOUT, || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cdc snapshot'";
        match client
            .query_one(query, &[])
            .expect("activity")
            .get::<_, i64>(0)
        {
            0 => Ok(()),
            count => Err(count.to_string()),
        }
    });
}

#[test]
fn a_snapshot_is_paused_resumed_cancelled_and_filtered() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    let database = bed.database("operated");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 2000) AS n",
            "ANALYZE t",
            "SELECT cdc_track('t')",
        ],
    );
    a_snapshot_is_paused_and_resumed(&database, &mut client);
    a_snapshot_is_filtered(&database, &mut client);
    let id = a_snapshot_is_cancelled(&mut client);
    what_cannot_be_read_is_refused(&mut client);
    nobody_else_sees_or_cancels(&mut client, id);
}

fn a_snapshot_is_paused_and_resumed(database: &Database<'_>, client: &mut Client) {
    let id = snapshot(client, "cdc_snapshot('t', rows_per_second => 500)");
    wait_for_rows(client, id, 300);
    run(client, &[&format!("SELECT cdc_snapshot_pause({id})")]);
    let progress = "SELECT rows_done, rows_estimated, percent::float8, last_key, started < now()
        FROM cdc_snapshots WHERE snapshot_id = $1";
    wait_for_the_worker_to_leave(client);
    let row = client.query_one(progress, &[&id]).expect("progress");
    let (done, estimated): (i64, i64) = (row.get(0), row.get(1));
    assert!((300..2000).contains(&done) && estimated == 2000);
    assert!((row.get::<_, f64>(2) - done as f64 / 20.0).abs() < 0.01);
    assert_eq!(row.get::<_, String>(3), format!("{{\"id\":{done}}}"));
    assert!(row.get::<_, bool>(4));
    assert_eq!(state(client, id), "paused");
    run(client, &[&format!("SELECT cdc_snapshot_resume({id})")]);
    wait_for_state(client, id, "done");
    let records = assert_reader_has_the_table(database, "t");
    assert_eq!(ops(&records, "r"), 2000);
}

fn a_snapshot_is_filtered(database: &Database<'_>, client: &mut Client) {
    let id = snapshot(
        client,
        "cdc_snapshot('t', filter => 'n > 1990', sinks => '{replica}')",
    );
    wait_for_state(client, id, "done");
    let records = database.records("t");
    let rows: Vec<Value> = records
        .iter()
        .map(Record::json)
        .filter(|row| row["snapshot"]["id"] == id)
        .collect();
    let found = rows.iter().filter(|row| row["op"] == "r").count();
    assert_eq!(found, 10);
    assert!(
        rows.iter()
            .all(|row| row["snapshot"]["sinks"] == json!(["replica"]))
    );
    assert!(
        rows.iter()
            .any(|row| row["snapshot"]["partial"] == json!(true)),
        "the range tells nothing"
    );
}

/// And is not resumed. Returns which one it is.
fn a_snapshot_is_cancelled(client: &mut Client) -> i64 {
    let id = snapshot(client, "cdc_snapshot('t', rows_per_second => 100)");
    wait_for_rows(client, id, 100);
    run(client, &[&format!("SELECT cdc_snapshot_cancel({id})")]);
    assert_eq!(state(client, id), "cancelled");
    refusal::coded(
        client,
        &format!("SELECT cdc_snapshot_resume({id})"),
        "42704",
        "CDC0503",
    );
    refusal::coded(
        client,
        "SELECT cdc_snapshot_pause(4711)",
        "42704",
        "CDC0503",
    );
    id
}

fn what_cannot_be_read_is_refused(client: &mut Client) {
    run(
        client,
        &[
            "CREATE TABLE untracked (id int PRIMARY KEY)",
            "CREATE TABLE keyless (id int)",
            "SELECT cdc_track('keyless')",
        ],
    );
    refusal::coded(
        client,
        "SELECT cdc_snapshot('untracked')",
        "55000",
        "CDC0505",
    );
    refusal::coded(client, "SELECT cdc_snapshot('keyless')", "55000", "CDC0501");
    refusal::coded(
        client,
        "SELECT cdc_snapshot('t', filter => 'pg_sleep(1) IS NULL')",
        "0A000",
        "CDC0111",
    );
}

fn nobody_else_sees_or_cancels(client: &mut Client, id: i64) {
    run(
        client,
        &[
            "CREATE ROLE somebody",
            "GRANT SELECT ON keyless TO somebody",
            "SET ROLE somebody",
        ],
    );
    refusal::coded(client, "SELECT cdc_snapshot('t')", "42501", "CDC0102");
    refusal::coded(
        client,
        &format!("SELECT cdc_snapshot_cancel({id})"),
        "42501",
        "CDC0102",
    );
    let seen = client
        .query_one("SELECT count(*) FROM cdc_snapshots", &[])
        .expect("the view");
    assert_eq!(seen.get::<_, i64>(0), 0);
}

#[test]
fn a_copied_database_sends_nothing_of_a_snapshot_into_the_originals_topic() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    let database = bed.database("original");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 1000) AS n",
            "SELECT cdc_track('t')",
        ],
    );
    let id = snapshot(&mut client, "cdc_snapshot('t', rows_per_second => 100)");
    wait_for_rows(&mut client, id, 100);
    run(&mut client, &[&format!("SELECT cdc_snapshot_pause({id})")]);
    wait_for_the_worker_to_leave(&mut client);
    let before = database.records("t").len();
    drop(client);
    run(
        &mut bed.source().connect("postgres"),
        &["CREATE DATABASE copy TEMPLATE original"],
    );
    let mut copy = bed.source().connect("copy");
    refusal::coded(&mut copy, "SELECT cdc_snapshot('t')", "55000", "CDC0107");
    // The original's unfinished work was copied too.
    run(&mut copy, &[&format!("SELECT cdc_snapshot_resume({id})")]);
    wait_until("the copied snapshot to fail", TIMEOUT, || {
        let state = state(&mut copy, id);
        if state.starts_with("failed: CDC0107") {
            Ok(())
        } else {
            Err(state)
        }
    });
    assert_eq!(database.records("t").len(), before);
}
