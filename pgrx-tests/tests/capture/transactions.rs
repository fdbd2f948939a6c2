//! What a transaction is made of arrives as it is at its commit: nothing rolled back (G2), everything else (G1), in the
//! order in which it happened (G4), also where chunks are written early, by an inner subtransaction first.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, TestBed, prefix_rule, wait_until};
use postgres::Client;
use serde_json::Value;

/// The rows of a table, by key `id`.
fn rows(client: &mut Client, table: &str) -> BTreeMap<String, Value> {
    let query = format!("SELECT format('{{\"id\":%s}}', id), to_jsonb(t)::text FROM {table} t");
    let rows = client.query(&query, &[]).expect("the table's rows");
    rows.iter()
        .map(|row| {
            let text: &str = row.get(1);
            (
                row.get(0),
                serde_json::from_str(text).expect("a row as JSON"),
            )
        })
        .collect()
}

/// Checks that order and content of the events lead to the table's rows; returns the events without later copies.
fn assert_fold_is_table(database: &Database<'_>, client: &mut Client, table: &str) -> Vec<Record> {
    let records = database.records(table);
    let events = prefix_rule::assert_holds(&records);
    let folded = prefix_rule::fold(events);
    assert_eq!(folded, rows(client, table), "the events of {table}, folded");
    records
}

/// Runs statements one by one, as a session sends them: in one message they would share an implicit transaction.
fn run(client: &mut Client, statements: &str) {
    for statement in statements.split(";;") {
        client
            .batch_execute(statement)
            .unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
}

fn start(name: &str) -> (Database<'static>, Client) {
    let database = TestBed::shared().database(name);
    let client = database.source();
    (database, client)
}

#[test]
fn nothing_that_was_rolled_back_is_sent() {
    let (database, mut client) = start("rolled_back");
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v text);;
             SELECT cdc_track('t');;
             INSERT INTO t VALUES (1, 'kept'), (2, 'kept');;
             BEGIN;; UPDATE t SET v = 'gone';; INSERT INTO t VALUES (3, 'gone');; ROLLBACK;;
             BEGIN;;
               INSERT INTO t VALUES (4, 'kept');;
               SAVEPOINT a;; UPDATE t SET v = 'gone' WHERE id = 4;;
                 SAVEPOINT b;; INSERT INTO t VALUES (5, 'gone');; RELEASE b;;
               ROLLBACK TO a;;
               INSERT INTO t VALUES (6, 'kept');;
               SAVEPOINT c;; INSERT INTO t VALUES (7, 'kept');; RELEASE c;;
             COMMIT;;
             DO $$ BEGIN
               FOR n IN 1..500 LOOP
                 BEGIN
                   INSERT INTO t VALUES (1000 + n, CASE WHEN n % 2 = 0 THEN 'kept' ELSE 'gone' END);
                   IF n % 2 = 1 THEN RAISE EXCEPTION 'no'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
               END LOOP;
             END $$;",
    );
    assert!(
        client
            .batch_execute("BEGIN; INSERT INTO t VALUES (8, 'gone'); SELECT 1/0; COMMIT")
            .is_err()
    );
    client.batch_execute("ROLLBACK").expect("rollback");

    let records = assert_fold_is_table(&database, &mut client, "t");
    assert!(
        !records
            .iter()
            .any(|r| r.value.is_some() && r.value_text().contains("gone"))
    );
    // 2 at first, 3 of the transaction with savepoints, 250 of the loop.
    assert_eq!(
        records.iter().filter(|r| r.is_row_change()).count(),
        2 + 3 + 250
    );
}

#[test]
fn early_chunks_of_inner_subtransactions_stay_in_order_and_die_with_them() {
    let (database, mut client) = start("early_chunks");
    // Rows of 8 kB that do not compress, and the smallest buffer: every level writes chunks before its end.
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int, filler text);;
             CREATE FUNCTION noise() RETURNS text LANGUAGE sql VOLATILE AS
               $$ SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 250) $$;;
             SELECT cdc_track('t');;
             SET cdc.capture_buffer = '64kB';;
             BEGIN;;
               INSERT INTO t SELECT n, 0, noise() FROM generate_series(1, 30) n;;
               SAVEPOINT a;;
                 UPDATE t SET v = v + 1 WHERE id <= 20;;
                 SAVEPOINT b;; UPDATE t SET v = v + 100;; ROLLBACK TO b;;
                 UPDATE t SET v = v + 2 WHERE id <= 10;;
               RELEASE a;;
               UPDATE t SET v = v + 4 WHERE id <= 5;;
               SAVEPOINT c;; DELETE FROM t WHERE id > 25;; RELEASE c;;
               SAVEPOINT d;; DELETE FROM t;; ROLLBACK TO d;;
               INSERT INTO t SELECT n, 0, noise() FROM generate_series(31, 35) n;;
             COMMIT;",
    );
    let records = assert_fold_is_table(&database, &mut client, "t");
    let events = prefix_rule::assert_holds(&records);
    let changes = 30 + 20 + 10 + 5 + 5 + 5;
    assert_eq!(events.iter().filter(|r| r.is_row_change()).count(), changes);
    // total_order has no holes, though the rolled back changes were captured.
    let orders: Vec<u64> = events
        .iter()
        .filter(|r| r.is_row_change() && r.json()["transaction"]["event_count"] == changes)
        .map(|r| {
            r.json()["transaction"]["total_order"]
                .as_u64()
                .expect("total_order")
        })
        .collect();
    assert_eq!(orders, (1..=changes as u64).collect::<Vec<_>>());
}

#[test]
fn a_trigger_that_changes_the_same_rows_does_not_turn_the_order_around() {
    let (database, mut client) = start("other_triggers");
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int);;
             CREATE FUNCTION fix() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.v < 1000 THEN UPDATE t SET v = v + 100; END IF; RETURN NULL; END $$;;
             CREATE TRIGGER \"A_fix\" AFTER UPDATE ON t FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION fix();;
             SELECT cdc_track('t');;
             INSERT INTO t VALUES (1, 1), (2, 2);;
             UPDATE t SET v = v + 10;;
             BEGIN;; SAVEPOINT s;; UPDATE t SET v = v + 20;; RELEASE s;; UPDATE t SET v = v + 1;; COMMIT;",
    );
    let records = assert_fold_is_table(&database, &mut client, "t");
    // Each event follows from the one before: its old image is the last new one.
    let mut last: BTreeMap<&str, Value> = BTreeMap::new();
    for event in prefix_rule::assert_holds(&records) {
        if event.op() != "u" {
            continue;
        }
        let json = event.json();
        if let Some(before) = last.insert(event.key_text(), json["after"].clone()) {
            assert_eq!(json["before"], before, "{}", event.value_text());
        }
    }
    assert_eq!(last.len(), 2);
}

#[test]
fn a_changed_key_is_a_delete_and_a_create_and_shifted_keys_lose_no_row() {
    let (database, mut client) = start("changed_keys");
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int);;
             SELECT cdc_track('t');;
             INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4);;
             UPDATE t SET id = 10 WHERE id = 1;;
             CREATE TABLE shifted (id int, v int);;
             SELECT cdc_track('shifted', key => '{id}');;
             INSERT INTO shifted VALUES (1, 1), (2, 2), (3, 3);;
             UPDATE shifted SET id = id + 1;",
    );
    let records = assert_fold_is_table(&database, &mut client, "t");
    let of_key = |key: &str| -> Vec<&Record> {
        records
            .iter()
            .filter(|r| r.key.is_some() && r.key_text() == key)
            .collect()
    };
    let old = of_key("{\"id\":1}");
    assert_eq!(
        old.iter().map(|r| r.op()).collect::<Vec<_>>(),
        ["c", "d", "tombstone"]
    );
    assert_eq!(old[1].header("__debezium.newkey"), Some("{\"id\":10}"));
    let new = of_key("{\"id\":10}");
    assert_eq!(new.len(), 1);
    assert_eq!(new[0].op(), "c");
    assert_eq!(new[0].header("__debezium.oldkey"), Some("{\"id\":1}"));
    assert_eq!(
        new[0].json()["after"],
        serde_json::json!({"id": 10, "v": 1})
    );
    assert_fold_is_table(&database, &mut client, "shifted");
}

#[test]
fn prepared_transactions_arrive_when_another_session_commits_them() {
    // A bed of its own, for the server restarts.
    let bed = TestBed::start_with(&[("max_prepared_transactions", "5")]);
    let database = bed.database("prepared");
    run(
        &mut database.source(),
        "CREATE TABLE t (id int PRIMARY KEY);;
             SELECT cdc_track('t');;
             BEGIN;; INSERT INTO t VALUES (1);; PREPARE TRANSACTION 'kept';;
             BEGIN;; INSERT INTO t VALUES (2);; PREPARE TRANSACTION 'gone';;
             INSERT INTO t VALUES (3);",
    );
    let keys = |records: &[Record]| -> Vec<String> {
        let changes = records.iter().filter(|r| r.is_row_change());
        let mut keys: Vec<String> = changes.map(|r| r.key_text().to_owned()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&database.records("t")), ["{\"id\":3}"]);
    bed.source().restart();
    bed.wait_until_streaming("prepared");
    run(
        &mut database.source(),
        "COMMIT PREPARED 'kept';; ROLLBACK PREPARED 'gone'",
    );
    assert_eq!(keys(&database.records("t")), ["{\"id\":1}", "{\"id\":3}"]);
    bed.source().assert_never_crashed();
}

#[test]
fn a_truncate_is_in_its_place_among_the_rows() {
    let (database, mut client) = start("truncated_in_order");
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY);;
             SELECT cdc_track('t');;
             INSERT INTO t SELECT generate_series(1, 20);;
             BEGIN;; INSERT INTO t VALUES (21);; TRUNCATE t;; INSERT INTO t VALUES (22);; COMMIT;",
    );
    let records = assert_fold_is_table(&database, &mut client, "t");
    let truncates: Vec<&Record> = records.iter().filter(|r| r.op() == "t").collect();
    let [truncate] = truncates[..] else {
        panic!("{truncates:?}");
    };
    assert_eq!(truncate.partition, topic::CONTROL);
    let key = serde_json::json!({"topic": database.topic("t"), "event": "truncate"});
    assert_eq!(truncate.key_text(), key.to_string());
}

#[test]
fn asynchronous_commits_do_not_wait_for_the_wal_writer() {
    // Nobody else flushes the WAL for twice as long as the test waits.
    let bed = TestBed::start_with(&[
        ("wal_writer_delay", "10s"),
        ("bgwriter_lru_maxpages", "0"),
        ("autovacuum", "off"),
    ]);
    let database = bed.database("asynchronous");
    let mut client = database.source();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY);;
             SELECT cdc_track('t');;
             INSERT INTO t VALUES (1);",
    );
    assert_fold_is_table(&database, &mut client, "t");
    // The topic alone is asked: a look at the server might flush.
    for id in 2..5 {
        run(
            &mut client,
            &format!("SET synchronous_commit = off;; INSERT INTO t VALUES ({id})"),
        );
        wait_until("the asynchronous commit", Duration::from_secs(5), || {
            let records = topic::read(bed.kafka(), &database.topic("t"));
            let ids = prefix_rule::inserted_ids(&records);
            if ids.contains(&id) {
                Ok(())
            } else {
                Err(format!("{ids:?}"))
            }
        });
    }
}

#[test]
fn a_large_transaction_is_read_again_where_memory_is_short() {
    // More captured rows than the sender keeps in memory for transactions that are open.
    let bed = TestBed::start_with(&[("cdc.sender_memory", "8MB"), ("log_min_messages", "debug1")]);
    let database = bed.database("large");
    let mut client = database.source();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v text);;
             SELECT cdc_track('t');;
             INSERT INTO t SELECT n, 'x' FROM generate_series(1, 100) n;",
    );
    assert_fold_is_table(&database, &mut client, "t");
    let read_again = || {
        bed.source()
            .log()
            .contains("a transaction is read again from")
    };
    assert!(!read_again(), "a small transaction stays in memory");
    run(
        &mut client,
        "TRUNCATE t;;
             SET cdc.message_compression = none;;
             BEGIN;;
             INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 60000) n;;
             SAVEPOINT s;; UPDATE t SET v = 'y' || v;; ROLLBACK TO s;;
             UPDATE t SET v = 'z' || v WHERE id <= 30000;;
             COMMIT;",
    );
    assert_fold_is_table(&database, &mut client, "t");
    assert!(read_again(), "nothing was read again");
    bed.source().assert_never_crashed();
}
