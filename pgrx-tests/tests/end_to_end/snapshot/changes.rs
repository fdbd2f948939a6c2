//! What is written while a snapshot is made is not overwritten by older rows, and writers are waited for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{TestBed, pgbench, wait_until};
use postgres::Client;
use serde_json::Value;

use super::progress::{TIMEOUT, snapshot, state, wait_for_rows, wait_for_state};
use super::reader::{TABLE, assert_reader_has_the_table, ops};

/// Changes rows at random: inserts, updates, deletes, savepoints, now and then many rows at once, and other keys, before and
/// behind all that are there. Such a key is of one client alone, so no two collide.
const PGBENCH_SCRIPT: &str = r"
\set op random(1, 100)
\set id random(1, 40000)
\set away :id + 100000 * (:client_id + 1)
\if :op <= 30
    UPDATE t SET n = n + 1, note = 'changed' WHERE id = :id;
\elif :op <= 45
    DELETE FROM t WHERE id = :id;
\elif :op <= 65
    INSERT INTO t VALUES (:id, 0, 'new') ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
\elif :op <= 72
    UPDATE t SET id = :away WHERE id = :id AND NOT EXISTS (SELECT 1 FROM t o WHERE o.id = :away);
\elif :op <= 79
    UPDATE t SET id = -:away WHERE id = :id AND NOT EXISTS (SELECT 1 FROM t o WHERE o.id = -:away);
\elif :op <= 84
    DELETE FROM t WHERE id IN (:away, -:away);
\elif :op <= 99
    BEGIN;
    UPDATE t SET n = -1 WHERE id = :id;
    SAVEPOINT s;
    DELETE FROM t WHERE id = :id;
    ROLLBACK TO s;
    COMMIT;
\else
    UPDATE t SET note = 'many' WHERE id BETWEEN :id AND :id + 2000;
\endif
";

#[test]
fn rows_that_were_there_arrive_while_they_are_changed() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "500")]);
    let database = bed.database("moving");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 40000) AS n",
            "SELECT cdc_track('t')",
        ],
    );
    // Two that change many rows at once may lock each other out.
    let arguments = ["-c", "4", "-j", "2", "-T", "600", "--max-tries", "100"];
    let pgbench = pgbench::start(&database, PGBENCH_SCRIPT, &arguments);
    wait_until("pgbench to change rows", TIMEOUT, || {
        let query = "SELECT count(*) FROM t WHERE note = 'changed'";
        match client.query_one(query, &[]).expect("t").get::<_, i64>(0) {
            0 => Err("none"),
            _ => Ok(()),
        }
    });
    let id = snapshot(&mut client, "cdc_snapshot('t')");
    wait_for_state(&mut client, id, "done");
    pgbench.stop();
    let records = assert_reader_has_the_table(&database, "t");
    let count = |op| ops(&records, op);
    assert!(count("r") > 5_000, "{} rows read", count("r"));
    let ranges: Vec<&str> = records
        .iter()
        .filter(|record| record.op() == "snapshot")
        .map(Record::version)
        .collect();
    let (begin, end) = (ranges.iter().min(), ranges.iter().max());
    let mut meanwhile: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &records {
        if Some(&record.version()) > begin && Some(&record.version()) < end {
            *meanwhile.entry(record.op()).or_default() += 1;
            if record.op() == "c" && record.header("__debezium.oldkey").is_some() {
                *meanwhile.entry("changed key").or_default() += 1;
            }
        }
    }
    for what in ["c", "u", "d", "changed key"] {
        let count = meanwhile.get(what).copied().unwrap_or_default();
        assert!(count > 100, "{count} of {what} while the snapshot was made");
    }
    let row = records
        .iter()
        .find(|record| record.op() == "r")
        .expect("a row")
        .json();
    assert_eq!(row["source"]["snapshot"], "incremental");
    assert!(row["source"]["txId"].is_null() && row["source"]["lsn"].is_null());
    assert_eq!(row["snapshot"]["sinks"], Value::Null);
    let ends: Vec<Value> = records
        .iter()
        .filter(|record| record.op() == "snapshot")
        .map(|record| record.json()["snapshot"].clone())
        .filter(|snapshot| snapshot["event"] == "chunk_end")
        .collect();
    assert_eq!(ends.first().map(|end| &end["from"]), Some(&Value::Null));
    assert_eq!(ends.last().map(|end| &end["to"]), Some(&Value::Null));
    for pair in ends.windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"], "no key between two chunks");
    }
    let rows: i64 = ends
        .iter()
        .map(|end| end["rows"].as_i64().expect("rows"))
        .sum();
    assert_eq!(rows, ops(&records, "r") as i64);
}

/// Waits for commits that wait for a standby.
fn wait_for_commits_that_wait(client: &mut Client, wanted: i64) {
    wait_until("commits that wait", TIMEOUT, || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let count = client
            .query_one(query, &[])
            .expect("activity")
            .get::<_, i64>(0);
        if count == wanted {
            Ok(())
        } else {
            Err(count.to_string())
        }
    });
}

fn note(client: &mut Client, id: i32) -> String {
    client
        .query_one(&format!("SELECT note FROM t WHERE id = {id}"), &[])
        .expect("the row")
        .get(0)
}

/// No row of these keys is among those that the snapshot read.
fn assert_left_out(records: &[Record], ids: [i64; 4]) {
    let left_out: Vec<i64> = ids
        .into_iter()
        .filter(|id| {
            !records
                .iter()
                .any(|record| record.op() == "r" && record.json()["after"]["id"] == *id)
        })
        .collect();
    assert_eq!(left_out, ids);
}

#[test]
fn a_commit_that_is_not_visible_yet_is_not_overwritten_by_the_row_before() {
    let bed = TestBed::start_with(&[
        ("cdc.snapshot_chunk_rows", "100"),
        ("max_prepared_transactions", "1"),
        // Else nothing would be sent of what waits for the standby.
        ("cdc.wait_for_standby", "off"),
    ]);
    let database = bed.database("invisible");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "SET synchronous_commit = local",
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 1000) AS n",
            "SELECT cdc_track('t')",
        ],
    );
    let id = snapshot(&mut client, "cdc_snapshot('t', rows_per_second => 100)");
    wait_for_rows(&mut client, id, 100);
    run(
        &mut client,
        &[
            "BEGIN",
            "UPDATE t SET note = 'prepared' WHERE id = 903",
            "PREPARE TRANSACTION 'p'",
        ],
    );
    // A synchronous standby that is not there: commits are in the WAL, and nobody sees them.
    bed.source().set("synchronous_standby_names", "nobody");
    bed.source().reload();
    let counts = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The first commit that waits shows that the reload counts.
        scope.spawn(|| {
            let mut probe = database.source();
            while !counts.load(Ordering::Relaxed) {
                run(
                    &mut probe,
                    &["SELECT pg_logical_emit_message(true, 'probe', '')"],
                );
            }
        });
        wait_for_commits_that_wait(&mut client, 1);
        counts.store(true, Ordering::Relaxed);
        for statement in [
            "UPDATE t SET note = 'new' WHERE id = 900",
            "DELETE FROM t WHERE id = 901",
            "UPDATE t SET id = 2902 WHERE id = 902",
            "INSERT INTO t VALUES (2000, 0, 'inserted')",
            "COMMIT PREPARED 'p'",
        ] {
            let mut writer = database.source();
            scope.spawn(move || writer.batch_execute(statement).expect(statement));
        }
        wait_for_commits_that_wait(&mut client, 6);
        assert_eq!(note(&mut client, 900), "old");
        wait_for_state(&mut client, id, "done");
        assert_eq!(
            note(&mut client, 900),
            "old",
            "still invisible when the last chunk was read"
        );
        bed.source().set("synchronous_standby_names", "");
        bed.source().reload();
    });
    let records = assert_reader_has_the_table(&database, "t");
    assert_left_out(&records, [900, 901, 902, 903]);
}

#[test]
fn a_snapshot_waits_for_whoever_is_writing_and_for_nobody_else() {
    let bed = TestBed::start_with(&[("max_prepared_transactions", "1")]);
    let database = bed.database("waiting");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 100) AS n",
            "SELECT cdc_track('t')",
            "BEGIN",
            "UPDATE t SET note = 'prepared' WHERE id = 1",
            "PREPARE TRANSACTION 'p'",
        ],
    );
    let (mut writer, mut reader) = (database.source(), database.source());
    run(
        &mut writer,
        &["BEGIN", "UPDATE t SET note = 'written' WHERE id = 2"],
    );
    // As VACUUM does, and a reader.
    run(
        &mut reader,
        &[
            "BEGIN",
            "LOCK t IN SHARE UPDATE EXCLUSIVE MODE",
            "SELECT count(*) FROM t",
        ],
    );
    let id = snapshot(&mut client, "cdc_snapshot('t')");
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'pg_cdc snapshot' AND wait_event_type = 'Lock'";
    for end in ["COMMIT PREPARED 'p'", "COMMIT"] {
        wait_until("the worker to wait for a writer", TIMEOUT, || match client
            .query_one(waits, &[])
            .expect("activity")
            .get::<_, i64>(0)
        {
            1 => Ok(()),
            count => Err(count.to_string()),
        });
        assert_eq!(state(&mut client, id), "waiting_for_writers");
        let holds = "SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE backend_type = 'pg_cdc snapshot'";
        let holds_nothing_back = client.query_one(holds, &[]).expect("activity");
        assert!(
            holds_nothing_back.get::<_, bool>(0),
            "VACUUM is not held back"
        );
        let session = if end == "COMMIT" {
            &mut writer
        } else {
            &mut client
        };
        run(session, &[end]);
    }
    wait_for_state(&mut client, id, "done");
    run(&mut reader, &["COMMIT"]);
    assert_reader_has_the_table(&database, "t");
}

#[test]
fn a_snapshot_of_a_table_that_is_dropped_meanwhile_is_cancelled() {
    let database = TestBed::shared().database("dropped_meanwhile");
    let mut client = database.source();
    run(
        &mut client,
        &["CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); SELECT cdc_track('t')"],
    );
    let mut writer = database.source();
    run(&mut writer, &["BEGIN", "INSERT INTO t VALUES (2)"]);
    let id = snapshot(&mut client, "cdc_snapshot('t')");
    wait_for_state(&mut client, id, "waiting_for_writers");
    run(&mut writer, &["DROP TABLE t", "COMMIT"]);
    wait_for_state(&mut client, id, "cancelled");
}
