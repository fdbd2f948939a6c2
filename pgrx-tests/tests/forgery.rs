//! Only capture makes events (G9): forged messages and genuine ones sent again are ignored, counted and logged.

use std::process::Command;

use pg_cdc_tests::{Database, TestBed, parts, process};
use postgres::Client;

/// The prefix of pg_cdc's messages in the WAL.
const PREFIX: &str = "pg_cdc";

fn rejected_chunks(client: &mut Client) -> i64 {
    client
        .query_one("SELECT rejected_chunks FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0)
}

fn wal_position(client: &mut Client) -> String {
    client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .expect("WAL position")
        .get(0)
}

/// The payloads of the messages with our prefix between two WAL positions.
fn messages(database: &Database<'_>, from: &str, to: &str) -> Vec<Vec<u8>> {
    let mut waldump = Command::new(parts::postgres_bin().join("pg_waldump"));
    waldump
        .args([
            "--rmgr=LogicalMessage",
            "--start",
            from,
            "--end",
            to,
            "--path",
        ])
        .arg(database.bed().source().data_folder().join("pg_wal"));
    let text = process::run(waldump, None);
    let mark = format!("prefix \"{PREFIX}\"; payload (");
    text.lines()
        .filter_map(|line| line.split_once(&mark))
        .map(|(_, rest)| {
            let (_, bytes) = rest.split_once("): ").expect("the payload");
            let bytes = bytes.split_whitespace();
            bytes
                .map(|hex| u8::from_str_radix(hex, 16).expect("a byte in hex"))
                .collect()
        })
        .collect()
}

fn emit(client: &mut Client, transactional: bool, payload: &[u8]) {
    client
        .execute(
            "SELECT pg_logical_emit_message($1, $2, $3::bytea)",
            &[&transactional, &PREFIX, &payload],
        )
        .expect("pg_logical_emit_message");
}

#[test]
fn forged_and_replayed_messages_make_no_events() {
    // A bed of its own: the counter is the server's.
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t')")
        .expect("track");
    let before = wal_position(&mut client);
    client
        .batch_execute("INSERT INTO t VALUES (1)")
        .expect("a genuine change");
    let after = wal_position(&mut client);
    let genuine = messages(&database, &before, &after);
    assert_eq!(genuine.len(), 1, "one chunk for one small transaction");
    assert_eq!(
        database
            .records("t")
            .iter()
            .filter(|r| r.is_row_change())
            .count(),
        1
    );
    assert_eq!(rejected_chunks(&mut client), 0);

    // A replay, a replay with one bit changed, and things that are no chunk at all.
    let mut flipped = genuine[0].clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let forgeries: [&[u8]; 5] = [&genuine[0], &flipped, b"", b"nonsense", &[0xff; 500]];
    for payload in forgeries {
        emit(&mut client, true, payload);
    }
    // As a non-transactional message it would even come before its commit.
    emit(&mut client, false, &genuine[0]);
    // Inside a transaction that changes rows itself, whose own changes must arrive.
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (2)")
        .expect("begin");
    emit(&mut client, true, &genuine[0]);
    client
        .batch_execute("INSERT INTO t VALUES (3); COMMIT")
        .expect("commit");

    let mut keys: Vec<String> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.key_text().to_owned())
        .collect();
    keys.sort();
    assert_eq!(keys, ["{\"id\":1}", "{\"id\":2}", "{\"id\":3}"]);
    assert_eq!(rejected_chunks(&mut client), 7);
    assert!(
        bed.source().log().contains("CDC0205"),
        "the server log tells of it"
    );
    bed.source().assert_never_crashed();
}

#[test]
fn the_capture_function_is_nobodys() {
    let database = TestBed::shared().database("capture_function");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE ROLE a_writer; GRANT CREATE ON SCHEMA public TO a_writer; SET ROLE a_writer;
             CREATE TABLE mine (id int PRIMARY KEY)",
        )
        .expect("a role with a table");
    let error = pg_cdc_tests::refusal::of(
        &mut client,
        "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION cdc_capture('topic=other.public.t')",
    );
    assert_eq!(error.code().code(), "42501", "{error:?}");
}
