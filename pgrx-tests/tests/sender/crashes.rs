//! Nothing that a role without superuser can say ends a process of the server.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, refusal, wait_until};
use postgres::{Client, NoTls};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);

/// An owner of one schema, and of nothing else.
fn owner(database: &Database<'_>) -> Client {
    run(
        &mut database.source(),
        &[
            "CREATE ROLE owner LOGIN",
            "CREATE SCHEMA own AUTHORIZATION owner",
        ],
    );
    let url = database.bed().source().url(database.name());
    let mut client = Client::connect(&url.replace("postgres@", "owner@"), NoTls).expect("owner");
    run(&mut client, &["SET search_path = own, public"]);
    client
}

fn inserted(database: &Database<'_>, table: &str) -> Vec<Value> {
    database.wait_until_in_kafka();
    let topic = format!("{}.own.{table}", database.name());
    let records = pg_cdc_tests::topic::read(database.bed().kafka(), &topic);
    let rows = records.iter().filter(|record| record.op() == "c");
    rows.map(|record| record.json()["after"].clone()).collect()
}

/// Types in each other, deeper and wider than any stack or memory, very wide tables, very long names, very deep JSON.
#[test]
fn deep_and_wide_values_are_shipped_and_harm_nobody() {
    let bed = TestBed::start();
    let database = bed.database("deep");
    let mut client = owner(&database);
    types_in_each_other_are_shipped(&database, &mut client);
    a_table_as_wide_as_possible_is_shipped(&database, &mut client);
    deep_json_is_shipped_or_refused(&database, &mut client);
    no_error_shows_the_inside(&bed, &mut client);
    bed.source().assert_never_crashed();
}

fn types_in_each_other_are_shipped(database: &Database<'_>, client: &mut Client) {
    run(
        client,
        &[
            "CREATE TYPE n0 AS (a int)",
            "DO $$ BEGIN FOR i IN 1..600 LOOP
                 EXECUTE format('CREATE TYPE n%s AS (a n%s%s)', i, i - 1, CASE WHEN i % 2 = 0 THEN '[]' ELSE '' END);
             END LOOP; END $$",
            // Each holds the one before twice: 2^17 attributes.
            "CREATE TYPE w0 AS (a int)",
            "DO $$ BEGIN FOR i IN 1..16 LOOP EXECUTE format('CREATE TYPE w%1$s AS (a w%2$s, b w%2$s)', i, i - 1); END LOOP; END $$",
            "CREATE TABLE nested (id int PRIMARY KEY, c n600, few n3, wide w16)",
            "SELECT cdc_track('nested')",
            "INSERT INTO nested VALUES (1, NULL, NULL, NULL)",
            "INSERT INTO nested VALUES (2, ROW(NULL), ROW(ROW(ARRAY[ROW(ROW(7)::n0)::n1])::n2)::n3, ROW(ROW(NULL, NULL), NULL))",
        ],
    );
    let rows = inserted(database, "nested");
    assert_eq!(rows.len(), 2);
    assert_eq!(
        rows.iter().find(|row| row["id"] == 2).expect("the row")["few"],
        serde_json::json!({"a": {"a": [{"a": {"a": 7}}]}})
    );
}

fn a_table_as_wide_as_possible_is_shipped(database: &Database<'_>, client: &mut Client) {
    let columns: Vec<String> = (1..1600)
        .map(|number| format!("\"{number:\u{e4}>30}\" int DEFAULT {number}"))
        .collect();
    let columns = columns.join(", ");
    run(
        client,
        &[
            &format!("CREATE TABLE broad (id int PRIMARY KEY, {columns})"),
            "SELECT cdc_track('broad')",
            "INSERT INTO broad VALUES (1)",
            "UPDATE broad SET id = 2",
        ],
    );
    let rows = inserted(database, "broad");
    assert_eq!(rows[0].as_object().expect("a row").len(), 1600);
}

fn deep_json_is_shipped_or_refused(database: &Database<'_>, client: &mut Client) {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    run(
        client,
        &[
            "CREATE TABLE documents (id int PRIMARY KEY, a jsonb, b json, c text[])",
            "SELECT cdc_track('documents')",
            &format!("INSERT INTO documents VALUES (1, '{deep}', '{deep}', ARRAY['{deep}'])"),
        ],
    );
    assert_eq!(inserted(database, "documents")[0]["a"], deep.as_str());
    refusal::coded(
        client,
        &format!("SELECT cdc_track('documents', mask => '{{\"a\": {deep}}}')"),
        "22023",
        "CDC0110",
    );
    let object = format!("{{\"a\": {deep}}}");
    for statement in [
        format!("SELECT cdc_context(context => '{object}')"),
        format!("SET cdc.context = '{object}'"),
    ] {
        assert!(client.batch_execute(&statement).is_err(), "it is too deep");
    }
    let mut admin = database.source();
    run(
        &mut admin,
        &[&format!(
            "SELECT cdc_emit('deep.emitted', NULL, '{object}', '{{}}')"
        )],
    );
    refusal::coded(
        &mut admin,
        &format!("SELECT cdc_emit('deep.emitted', NULL, '1', '{object}')"),
        "22023",
        "CDC0110",
    );
    database.wait_until_in_kafka();
    let emitted = pg_cdc_tests::topic::read(database.bed().kafka(), "deep.emitted");
    assert_eq!(emitted.len(), 1);
}

/// What PostgreSQL itself says has no trace of this library's inside.
fn no_error_shows_the_inside(bed: &TestBed, client: &mut Client) {
    let error = refusal::of(
        client,
        "DO $$ BEGIN PERFORM cdc_snapshot(123456789); END $$",
    );
    let shown = format!("{error:?} {}", bed.source().log());
    for inside in ["backtrace", "std::", "pgrx_", ".cargo", "rustc"] {
        assert!(!shown.contains(inside), "{inside}: {shown}");
    }
}

fn state(client: &mut Client, id: i64) -> (String, Option<String>) {
    let row = client.query_one(
        "SELECT state, error_code FROM cdc_snapshots WHERE snapshot_id = $1",
        &[&id],
    );
    let row = row.expect("the snapshot");
    (row.get(0), row.get(1))
}

fn wait_for_state(client: &mut Client, id: i64, wanted: &str, code: Option<&str>) {
    wait_until(&format!("snapshot {id} to be {wanted}"), TIMEOUT, || {
        let now = state(client, id);
        if now == (wanted.to_owned(), code.map(str::to_owned)) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
}

/// Snapshots by a key that identifies no row are refused, and a worker that crashes is not started for ever.
#[test]
fn a_snapshot_ends_no_server_twice() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    let database = bed.database("crashing");
    let mut client = owner(&database);
    run(
        &mut client,
        &[
            "CREATE TABLE x (id int PRIMARY KEY, email text, n int)",
            "INSERT INTO x VALUES (1, NULL, 1), (2, 'a', 1), (3, 'a', 1)",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "INSERT INTO t SELECT generate_series(1, 250)",
            "SELECT cdc_track('t')",
        ],
    );
    a_key_that_identifies_no_row_is_refused(&mut client);
    let noted = a_snapshot_whose_worker_is_killed_is_begun_again(&database, &mut client);
    a_snapshot_that_crashes_again_and_again_has_failed(&database, &noted);
    a_note_of_a_database_that_is_gone_starts_no_worker_for_ever(&bed);
}

/// Its snapshot is, whoever asks for it.
fn a_key_that_identifies_no_row_is_refused(client: &mut Client) {
    for options in [
        "key => '{email}', exclude => '{id}'",
        "key => '{email}', mask => '{\"id\": \"redact\"}'",
        "key => '{email}', include => '{email}'",
    ] {
        let call = format!("SELECT cdc_track('x', {options}, snapshot => true)");
        refusal::coded(client, &call, "55000", "CDC0501");
        run(client, &[&format!("SELECT cdc_track('x', {options})")]);
        refusal::coded(client, "SELECT cdc_snapshot('x')", "55000", "CDC0501");
        // No snapshot follows, and the statement is not refused for it.
        run(
            client,
            &[
                "ALTER TABLE x ALTER n TYPE bigint",
                "SELECT cdc_untrack('x')",
                "ALTER TABLE x ALTER n TYPE int",
            ],
        );
    }
    // The chosen key is no reason against it where the identity is shipped.
    run(
        client,
        &["SELECT cdc_track('x', key => '{email}', snapshot => true)"],
    );
    let jobs = "SELECT snapshot_id, state FROM cdc_snapshots ORDER BY 1 DESC LIMIT 1";
    let id: i64 = client.query_one(jobs, &[]).expect("the snapshot").get(0);
    wait_for_state(client, id, "done", None);
}

/// The note of the chunk that is under way, which counts the attempts.
fn attempt(bed: &TestBed) -> Option<DirEntry> {
    let folder = bed.source().data_folder().join("pg_cdc/snapshots");
    let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.find(|file| file.file_name().to_string_lossy().ends_with(".attempt"))
}

/// Killed in the middle of a chunk: begun again, and in the end done. Returns the file that notes the chunk.
fn a_snapshot_whose_worker_is_killed_is_begun_again(
    database: &Database<'_>,
    client: &mut Client,
) -> PathBuf {
    let bed = database.bed();
    let mut blocker = database.source();
    let id: i64 = client
        .query_one("SELECT cdc_snapshot('t', rows_per_second => 100)", &[])
        .expect("a snapshot")
        .get(0);
    wait_until("a first chunk", TIMEOUT, || {
        let rows: i64 = client
            .query_one(
                "SELECT rows_done FROM cdc_snapshots WHERE snapshot_id = $1",
                &[&id],
            )
            .expect("the snapshot")
            .get(0);
        if rows > 0 {
            Ok(())
        } else {
            Err(rows.to_string())
        }
    });
    run(&mut blocker, &["BEGIN", "LOCK TABLE own.t"]);
    let waiting = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cdc snapshot' AND wait_event_type = 'Lock'";
    let pid = wait_until("the worker to wait for the lock", TIMEOUT, || {
        let found = database.source().query_opt(waiting, &[]);
        found
            .expect("activity")
            .map(|row| row.get::<_, i32>(0))
            .ok_or("none".to_owned())
    });
    bed.source().signal_backend(pid, libc::SIGKILL);
    wait_until("the server to notice", TIMEOUT, || {
        match blocker.simple_query("SELECT") {
            Err(_) => Ok(()),
            Ok(_) => Err("it goes on".to_owned()),
        }
    });
    wait_until("the server to be back", TIMEOUT, || {
        bed.source().try_connect(database.name()).map(drop)
    });
    let noted = attempt(bed).expect("the chunk is noted").path();
    let text = std::fs::read_to_string(&noted).expect("what is noted");
    assert!(
        text.starts_with(&format!("{id} ")) && text.ends_with(" 1"),
        "{text}"
    );
    let mut admin = database.source();
    wait_for_state(&mut admin, id, "done", None);
    assert!(attempt(bed).is_none(), "nothing is left of it");
    noted
}

/// Crashed as often as is tried at all: the snapshot has failed, and can be cancelled or gone on with.
fn a_snapshot_that_crashes_again_and_again_has_failed(database: &Database<'_>, noted: &Path) {
    let bed = database.bed();
    bed.source().set("cdc.snapshot_workers", "0");
    bed.source().restart();
    let mut admin = database.source();
    let id: i64 = admin
        .query_one("SELECT cdc_snapshot('own.t')", &[])
        .expect("a snapshot")
        .get(0);
    bed.source().stop();
    let name = noted.file_name().expect("a name").to_string_lossy();
    bed.source().write_file(
        &format!("pg_cdc/snapshots/{name}"),
        format!("{id} 1 5").as_bytes(),
        0o600,
    );
    bed.source().set("cdc.snapshot_workers", "2");
    bed.source().start();
    let mut admin = database.source();
    wait_for_state(&mut admin, id, "failed", Some("CDC0507"));
    run(&mut admin, &[&format!("SELECT cdc_snapshot_resume({id})")]);
    wait_for_state(&mut admin, id, "done", None);
}

fn a_note_of_a_database_that_is_gone_starts_no_worker_for_ever(bed: &TestBed) {
    let log = bed.source().log().len();
    let folder = bed.source().data_folder().join("pg_cdc/snapshots");
    let gone = folder.join("4000000000");
    bed.source().stop();
    std::fs::write(&gone, "").expect("a note");
    bed.source().start();
    wait_until("the note to be gone", TIMEOUT, || {
        if gone.exists() {
            Err("still there".to_owned())
        } else {
            Ok(())
        }
    });
    let log = bed.source().log()[log..].to_owned();
    assert!(log.matches("snapshot FATAL").count() <= 1, "{log}");
}
