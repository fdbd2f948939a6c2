//! WAL that is needed and gone: said loudly, accepted by a person, repaired by a snapshot. And what must not pass for a
//! gap (G1, G7).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pg_cdc_tests::sender_status::{SenderStatus, wait_for_state};
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, refusal, topic, wait_until};
use postgres::Client;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(90);

/// A server that keeps little WAL, with the tracked table `t (id, note)` and `bulk`, which is not tracked.
fn small(settings: &[(&str, &str)]) -> TestBed {
    let mut all = vec![
        ("min_wal_size", "32MB"),
        ("max_wal_size", "32MB"),
        ("autovacuum", "off"),
    ];
    all.extend(settings);
    TestBed::start_with(&all)
}

fn tracked<'a>(bed: &'a TestBed, name: &str) -> (Database<'a>, Client) {
    let (database, mut client) = bed.tracked_table(name, "id int PRIMARY KEY, note text");
    run(
        &mut client,
        &[
            "CREATE TABLE bulk (text text)",
            "SET statement_timeout = '60s'",
        ],
    );
    (database, client)
}

/// About this much WAL of a table that nobody tracks.
fn write_untracked(client: &mut Client, megabytes: i32) {
    for _ in 0..megabytes / 5 {
        run(
            client,
            &[
                "INSERT INTO bulk SELECT repeat(md5(n::text), 32) FROM generate_series(1, 4500) AS n",
                "TRUNCATE bulk",
            ],
        );
    }
}

fn held_bytes(client: &mut Client) -> i64 {
    let query = "SELECT wal_held_bytes FROM cdc_status()";
    client.query_one(query, &[]).expect("cdc_status").get(0)
}

fn checkpoint(client: &mut Client) {
    let start = Instant::now();
    run(client, &["CHECKPOINT"]);
    // The slot's holder is in the way of nobody. The bound is the timeout of a stuck call, not a figure.
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "a checkpoint hangs"
    );
}

fn rows(client: &mut Client) -> Vec<(i32, String)> {
    let rows = client
        .query("SELECT id, note FROM t ORDER BY id", &[])
        .expect("the rows");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn a_gap_is_said_accepted_and_repaired_deletes_included() {
    let bed = small(&[("max_slot_wal_keep_size", "48MB")]);
    let (database, mut client) = tracked(&bed, "lost");
    run(
        &mut client,
        &["INSERT INTO t SELECT n, 'old' FROM generate_series(1, 500) AS n"],
    );
    let sink = database.start_companion_sink();
    let mut replica = database.replica();
    run(
        &mut replica,
        &["CREATE TABLE t (id int PRIMARY KEY, note text)"],
    );
    database.wait_until_in_kafka();
    let topics = [database.topic("t")];
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    assert_eq!(rows(&mut replica), rows(&mut client));

    // A transaction that begins before the gap and ends behind it.
    let mut across = database.source();
    run(
        &mut across,
        &[
            "SET cdc.capture_buffer = '64kB'",
            "BEGIN",
            "INSERT INTO t SELECT n, repeat(md5(n::text), 10) FROM generate_series(5000, 6000) AS n",
        ],
    );
    let gap = more_wal_is_written_than_is_held(&bed, &mut client);
    let repair = the_gap_stays_until_it_is_accepted(&bed, &mut client, gap);
    // What began in the gap is lost with it, and nothing stands still for it.
    run(
        &mut across,
        &["INSERT INTO t VALUES (6001, 'across')", "COMMIT"],
    );
    run(&mut client, &["INSERT INTO t VALUES (1001, 'after')"]);
    let seen = database.inserted_ids("t");
    assert!(seen.contains(&1001) && !seen.contains(&1000), "{seen:?}");
    assert!(!seen.contains(&5000) && !seen.contains(&6001), "{seen:?}");

    run(&mut client, &[repair.as_str()]);
    wait_until("the snapshot", TIMEOUT, || {
        let row = client.query_one("SELECT state FROM cdc_snapshots", &[]);
        match row.expect("the snapshot").get::<_, &str>(0) {
            "done" => Ok(()),
            state => Err(state.to_owned()),
        }
    });
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    assert_eq!(rows(&mut replica), rows(&mut client));

    sink.wait_until_sink_applied("history", bed.kafka(), &topics);
    the_history_tells_of_lost_deletes(&database);

    // The accepted gap is none at the next start either.
    bed.source().restart();
    bed.wait_until_streaming("lost");
    run(
        &mut database.source(),
        &["INSERT INTO t VALUES (1002, 'later')"],
    );
    assert!(database.inserted_ids("t").contains(&1002));
    bed.source().assert_never_crashed();
}

/// Kafka answers nothing, and more WAL is written than may be held. Returns the range that is lost.
fn more_wal_is_written_than_is_held(bed: &TestBed, client: &mut Client) -> (String, String) {
    bed.kafka().freeze();
    run(client, &["INSERT INTO t VALUES (998, 'probe')"]);
    wait_for_state(client, "waiting_for_kafka", Some("CDC0301"));
    run(
        client,
        &[
            "DELETE FROM t WHERE id % 3 = 0",
            "UPDATE t SET note = 'unseen' WHERE id % 5 = 0",
            "INSERT INTO t VALUES (1000, 'unseen')",
        ],
    );
    while held_bytes(client) < 38 * 1024 * 1024 {
        write_untracked(client, 5);
    }
    wait_until("a warning before that", TIMEOUT, || {
        if bed.source().log().contains("[CDC0408]") {
            Ok(())
        } else {
            Err("it is not in the log")
        }
    });
    write_untracked(client, 100);
    checkpoint(client);
    checkpoint(client);
    let gap = wait_for_state(client, "gap", Some("CDC0401")).gap;
    let gap = gap.expect("the lost range");
    refusal::coded(client, "SELECT cdc_wait('1 s')", "55000", "CDC0601");
    assert!(
        bed.source().log().contains("[CDC0401]"),
        "the log says it too"
    );
    gap
}

/// It stays so when Kafka is back: nothing is papered over. Returns the statement that repairs the table.
fn the_gap_stays_until_it_is_accepted(
    bed: &TestBed,
    client: &mut Client,
    (from, to): (String, String),
) -> String {
    bed.kafka().thaw();
    bed.source().reload();
    wait_for_state(client, "gap", Some("CDC0401"));
    let wrong = format!("SELECT * FROM cdc_accept_gap('{from}', '0/1')");
    refusal::coded(client, &wrong, "55000", "CDC0603");
    let accept = "SELECT relation::text, repair FROM cdc_accept_gap($1::text::pg_lsn, $2::text::pg_lsn, 'Kafka was down')";
    let repairs = client.query(accept, &[&from, &to]).expect("accept the gap");
    let repairs: Vec<(String, String)> = repairs.iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(
        repairs,
        [("t".to_owned(), "SELECT cdc_snapshot('t');".to_owned())]
    );
    let after = wait_for_state(client, "streaming", None);
    assert_eq!(after.gap, None);
    repairs[0].1.clone()
}

/// The history tells of what was lost, though not of who did it. (What still lay in the frozen broker's sockets is not lost.)
fn the_history_tells_of_lost_deletes(database: &Database<'_>) {
    let history = database.history("t").all();
    let told = |op: &str| {
        let documents = history.iter();
        documents
            .filter(|document| document.get_str("op") == Ok(op))
            .count()
    };
    assert_eq!(told("delete") + told("inferred_delete"), 500 / 3);
    assert_ne!(told("inferred_delete"), 0);
}

#[test]
fn the_bound_of_the_sender_holds_where_the_server_has_none() {
    let bed = small(&[("cdc.max_wal_behind", "40MB")]);
    let (database, mut client) = tracked(&bed, "bound");
    run(&mut client, &["INSERT INTO t VALUES (1, 'old')"]);
    database.wait_until_in_kafka();
    let limit: Option<i64> = client
        .query_one("SELECT wal_limit_bytes FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0);
    assert_eq!(limit, Some(40 * 1024 * 1024));
    bed.kafka().kill();
    run(&mut client, &["INSERT INTO t VALUES (2, 'lost')"]);
    write_untracked(&mut client, 120);
    wait_for_state(&mut client, "gap", Some("CDC0401"));
    let folder = bed.source().data_folder().join("pg_wal");
    wait_until("the disk to be given back", TIMEOUT, || {
        let files = std::fs::read_dir(&folder).expect("pg_wal");
        let bytes: u64 = files
            .map(|file| file.expect("a file").metadata().expect("its size").len())
            .sum();
        if bytes <= 96 * 1024 * 1024 {
            Ok(())
        } else {
            Err(format!("{bytes} bytes of WAL"))
        }
    });
    bed.kafka().start();
    let accept = "SELECT * FROM cdc_accept_gap($1::text::pg_lsn, $2::text::pg_lsn)";
    // What was written while the gap was there already may have gone beyond the bound once more: then it has grown.
    wait_until("the sender to be past the gap", TIMEOUT, || {
        if let Some((from, to)) = SenderStatus::of(&mut client).gap {
            let accepted = client.query(accept, &[&from, &to]);
            accepted.map_err(|error| error.to_string())?;
        }
        let waited = client.batch_execute("SELECT cdc_wait('5 s')");
        waited.map_err(|error| error.to_string())
    });
    run(&mut client, &["INSERT INTO t VALUES (3, 'after')"]);
    assert_eq!(database.inserted_ids("t"), BTreeSet::from([1, 3]));
    bed.source().assert_never_crashed();
}

#[test]
fn a_crash_that_costs_the_slot_is_no_gap() {
    // The steps of case B1: the sender is up to date, the saved slot is not.
    let bed = small(&[("max_slot_wal_keep_size", "48MB")]);
    let (database, mut client) = tracked(&bed, "crash");
    run(&mut client, &["CHECKPOINT"]);
    for id in 0..8 {
        client
            .execute("INSERT INTO t VALUES ($1, 'old')", &[&id])
            .expect("a row");
        write_untracked(&mut client, 15);
        run(&mut client, &["SELECT cdc_wait()"]);
    }
    bed.source().kill();
    bed.source().start();
    bed.wait_until_streaming("crash");
    let mut client = database.source();
    run(&mut client, &["INSERT INTO t VALUES (8, 'new')"]);
    assert_eq!(database.inserted_ids("t"), (0..9).collect());
    assert!(!bed.source().log().contains("[CDC0401]"));
}

/// Waits until the position in Kafka says what is there, which it does a moment later.
fn wait_for_position(bed: &TestBed, client: &mut Client) {
    let sent = "SELECT sent_lsn::text FROM cdc_status()";
    let sent: String = client.query_one(sent, &[]).expect("the status").get(0);
    wait_until("the position", TIMEOUT, || {
        let records = topic::read(bed.kafka(), "pg.cdc_positions");
        let newest = records.last().and_then(|record| record.value.as_deref());
        let newest: Value = serde_json::from_slice(newest.unwrap_or(b"null")).expect("JSON");
        match newest["commit_lsn"] == *sent {
            true => Ok(()),
            false => Err(newest.to_string()),
        }
    });
}

#[test]
fn wal_without_our_changes_is_not_held_while_kafka_is_down() {
    let bed = small(&[("max_slot_wal_keep_size", "64MB")]);
    let (database, mut client) = tracked(&bed, "untracked");
    run(&mut client, &["INSERT INTO t VALUES (1, 'old')"]);
    database.wait_until_in_kafka();
    wait_for_position(&bed, &mut client);
    bed.kafka().kill();
    wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0301"));
    for _ in 0..5 {
        write_untracked(&mut client, 40);
        wait_until("the slot to follow", TIMEOUT, || {
            let held = held_bytes(&mut client);
            if held < 48 * 1024 * 1024 {
                Ok(())
            } else {
                Err(format!("{held} bytes are held"))
            }
        });
        checkpoint(&mut client);
    }
    bed.source().kill();
    bed.source().start();
    let mut client = database.source();
    run(&mut client, &["INSERT INTO t VALUES (2, 'new')"]);
    bed.kafka().start();
    bed.wait_until_streaming("untracked");
    assert_eq!(database.inserted_ids("t"), BTreeSet::from([1, 2]));
    assert!(!bed.source().log().contains("[CDC0401]"));
}

#[test]
fn damaged_and_missing_segments_halt_until_they_are_restored() {
    let bed = small(&[]);
    let (database, mut client) = tracked(&bed, "damaged");
    run(&mut client, &["INSERT INTO t VALUES (1, 'old')"]);
    database.wait_until_in_kafka();
    // The sender reads nothing meanwhile.
    run(&mut client, &["SELECT cdc_pause('to damage the WAL')"]);
    run(&mut client, &["SELECT pg_switch_wal()"]);
    let name: String = client
        .query_one("SELECT pg_walfile_name(pg_current_wal_insert_lsn())", &[])
        .expect("the segment")
        .get(0);
    for id in 2..400 {
        client
            .execute("INSERT INTO t VALUES ($1, repeat('x', 200))", &[&id])
            .expect("a row");
    }
    run(&mut client, &["SELECT pg_switch_wal()", "CHECKPOINT"]);
    let segment: PathBuf = bed.source().data_folder().join("pg_wal").join(name);
    let whole = std::fs::read(&segment).expect("the segment");
    let mut damaged = whole.clone();
    damaged[5 * 8192..6 * 8192].fill(0x5a);

    std::fs::write(&segment, &damaged).expect("damage it");
    run(&mut client, &["SELECT cdc_resume()"]);
    wait_for_state(&mut client, "halted", Some("CDC0402"));
    std::fs::write(&segment, &whole).expect("restore it");
    let aside = segment.with_extension("aside");
    std::fs::rename(&segment, &aside).expect("take it away");
    bed.source().reload();
    wait_for_state(&mut client, "gap", Some("CDC0401"));
    std::fs::rename(&aside, &segment).expect("bring it back");
    bed.source().reload();
    assert_eq!(database.inserted_ids("t"), (1..400).collect());
    bed.source().assert_never_crashed();
}
