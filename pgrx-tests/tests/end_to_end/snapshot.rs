//! Snapshots of rows that were there before: a reader who applies events in the order of each partition ends with exactly
//! the rows of the source, whatever happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, history, pgbench, prefix_rule, refusal, wait_until};
use postgres::Client;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(120);

/// What somebody has who applies the records of each partition in their order.
fn fold(records: &[Record]) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for record in records {
        let key = record.key_text().to_owned();
        match record.op() {
            "c" | "u" | "r" => {
                rows.insert(key, record.json()["after"].clone());
            }
            "d" => {
                rows.remove(&key);
            }
            "t" => rows.clear(),
            _ => {}
        }
    }
    rows
}

/// The table itself, in the same form; `id` is its key.
fn table(client: &mut Client, name: &str) -> BTreeMap<String, Value> {
    let query = format!("SELECT id::bigint, to_jsonb(t)::text FROM {name} t");
    let rows = client.query(&query, &[]).expect("the table");
    rows.iter()
        .map(|row| {
            let key = format!("{{\"id\":{}}}", row.get::<_, i64>(0));
            (key, serde_json::from_str(row.get(1)).expect("JSON"))
        })
        .collect()
}

fn assert_reader_has_the_table(database: &Database<'_>, name: &str) -> Vec<Record> {
    let records = database.records(name);
    prefix_rule::assert_holds(&records);
    let (read, there) = (fold(&records), table(&mut database.source(), name));
    let differ: Vec<&String> = there
        .keys()
        .chain(read.keys())
        .filter(|key| there.get(*key) != read.get(*key))
        .collect();
    assert!(
        differ.is_empty(),
        "{} of {} rows differ, {:?}: {:?} at the reader, {:?} in the table",
        differ.len(),
        there.len(),
        differ[0],
        read.get(differ[0]),
        there.get(differ[0])
    );
    records
}

fn state(client: &mut Client, id: i64) -> String {
    let query = "SELECT state || COALESCE(': ' || error_code || ' ' || error_message, '') FROM cdc_snapshots WHERE snapshot_id = $1";
    client
        .query_one(query, &[&id])
        .expect("the snapshot")
        .get(0)
}

fn wait_for_state(client: &mut Client, id: i64, wanted: &str) {
    wait_until(&format!("snapshot {id} to be {wanted}"), TIMEOUT, || {
        let state = state(client, id);
        if state == wanted {
            return Ok(());
        }
        let query = "SELECT s::text || ' ' || cdc_status()::text FROM cdc_snapshots s WHERE snapshot_id = $1";
        let details = client.query_one(query, &[&id]);
        Err(details.map_or(state, |row| row.get(0)))
    });
}

fn wait_for_rows(client: &mut Client, id: i64, at_least: i64) {
    wait_until("rows of the snapshot", TIMEOUT, || {
        let query = "SELECT rows_done FROM cdc_snapshots WHERE snapshot_id = $1";
        let rows: i64 = client
            .query_one(query, &[&id])
            .expect("the snapshot")
            .get(0);
        if rows >= at_least {
            Ok(())
        } else {
            Err(rows.to_string())
        }
    });
}

fn snapshot(client: &mut Client, call: &str) -> i64 {
    client
        .query_one(&format!("SELECT {call}"), &[])
        .expect(call)
        .get(0)
}

fn ops(records: &[Record], op: &str) -> usize {
    records.iter().filter(|record| record.op() == op).count()
}

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

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, note text)";

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
        let old = client
            .query_one("SELECT note FROM t WHERE id = 900", &[])
            .expect("the row");
        assert_eq!(old.get::<_, &str>(0), "old");
        wait_for_state(&mut client, id, "done");
        let old = client
            .query_one("SELECT note FROM t WHERE id = 900", &[])
            .expect("the row");
        assert_eq!(
            old.get::<_, &str>(0),
            "old",
            "still invisible when the last chunk was read"
        );
        bed.source().set("synchronous_standby_names", "");
        bed.source().reload();
    });
    let records = assert_reader_has_the_table(&database, "t");
    let left_out: Vec<i64> = [900, 901, 902, 903]
        .into_iter()
        .filter(|id| {
            !records
                .iter()
                .any(|record| record.op() == "r" && record.json()["after"]["id"] == *id)
        })
        .collect();
    assert_eq!(left_out, [900, 901, 902, 903]);
}

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
    let id = snapshot(&mut client, "cdc_snapshot('t', rows_per_second => 500)");
    wait_for_rows(&mut client, id, 300);
    run(&mut client, &[&format!("SELECT cdc_snapshot_pause({id})")]);
    let progress = "SELECT rows_done, rows_estimated, percent::float8, last_key, started < now()
        FROM cdc_snapshots WHERE snapshot_id = $1";
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
    let row = client.query_one(progress, &[&id]).expect("progress");
    let (done, estimated): (i64, i64) = (row.get(0), row.get(1));
    assert!((300..2000).contains(&done) && estimated == 2000);
    assert!((row.get::<_, f64>(2) - done as f64 / 20.0).abs() < 0.01);
    assert_eq!(row.get::<_, String>(3), format!("{{\"id\":{done}}}"));
    assert!(row.get::<_, bool>(4));
    assert_eq!(state(&mut client, id), "paused");
    run(&mut client, &[&format!("SELECT cdc_snapshot_resume({id})")]);
    wait_for_state(&mut client, id, "done");
    let records = assert_reader_has_the_table(&database, "t");
    assert_eq!(ops(&records, "r"), 2000);

    let id = snapshot(
        &mut client,
        "cdc_snapshot('t', filter => 'n > 1990', sinks => '{replica}')",
    );
    wait_for_state(&mut client, id, "done");
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

    let id = snapshot(&mut client, "cdc_snapshot('t', rows_per_second => 100)");
    wait_for_rows(&mut client, id, 100);
    run(&mut client, &[&format!("SELECT cdc_snapshot_cancel({id})")]);
    assert_eq!(state(&mut client, id), "cancelled");
    refusal::coded(
        &mut client,
        &format!("SELECT cdc_snapshot_resume({id})"),
        "42704",
        "CDC0503",
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_snapshot_pause(4711)",
        "42704",
        "CDC0503",
    );
    run(
        &mut client,
        &[
            "CREATE TABLE untracked (id int PRIMARY KEY)",
            "CREATE TABLE keyless (id int)",
            "SELECT cdc_track('keyless')",
        ],
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_snapshot('untracked')",
        "55000",
        "CDC0505",
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_snapshot('keyless')",
        "55000",
        "CDC0501",
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_snapshot('t', filter => 'pg_sleep(1) IS NULL')",
        "0A000",
        "CDC0111",
    );
    run(
        &mut client,
        &[
            "CREATE ROLE somebody",
            "GRANT SELECT ON keyless TO somebody",
            "SET ROLE somebody",
        ],
    );
    refusal::coded(&mut client, "SELECT cdc_snapshot('t')", "42501", "CDC0102");
    refusal::coded(
        &mut client,
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
fn tracking_with_a_snapshot_and_rewritten_and_attached_rows() {
    let bed = TestBed::start();
    let database = bed.database("repaired");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 3000) AS n",
            "SELECT cdc_track('t', snapshot => true)",
        ],
    );
    wait_for_state(&mut client, 1, "done");
    assert_reader_has_the_table(&database, "t");
    run(
        &mut client,
        &["ALTER TABLE t ALTER n TYPE numeric USING n * 2, ADD added text DEFAULT 'x'"],
    );
    wait_for_state(&mut client, 2, "done");
    let records = database.records("t");
    let newest = fold(&records);
    assert_eq!(
        newest["{\"id\":7}"],
        json!({"id": 7, "n": "14", "note": "old", "added": "x"})
    );
    assert_eq!(newest.len(), 3000);

    run(
        &mut client,
        &[
            "CREATE TABLE p (id int, part text, PRIMARY KEY (part, id)) PARTITION BY LIST (part)",
            "CREATE TABLE p_a PARTITION OF p FOR VALUES IN ('a')",
            "CREATE TABLE p_b (id int, part text, PRIMARY KEY (part, id))",
            "INSERT INTO p SELECT n, 'a' FROM generate_series(1, 500) AS n",
            "INSERT INTO p_b SELECT n, 'b' FROM generate_series(1, 500) AS n",
            "SELECT cdc_track('p', snapshot => true)",
            "ALTER TABLE p ATTACH PARTITION p_b FOR VALUES IN ('b')",
        ],
    );
    // Rows that come with a partition are events; what was there is not read again for them.
    wait_for_state(&mut client, 3, "done");
    let jobs = client
        .query_one("SELECT count(*) FROM cdc_snapshots", &[])
        .expect("the view");
    assert_eq!(jobs.get::<_, i64>(0), 3);
    // Changes that come while a snapshot has not begun need no other one.
    run(
        &mut client,
        &["SELECT cdc_snapshot('p', rows_per_second => 1)"],
    );
    wait_for_state(&mut client, 4, "running");
    run(
        &mut client,
        &[
            "ALTER TABLE t ALTER n TYPE text",
            "ALTER TABLE t ALTER n TYPE bytea USING n::bytea",
            "ALTER TABLE t ADD more int DEFAULT 1",
            "SELECT cdc_snapshot_cancel(4)",
        ],
    );
    wait_for_state(&mut client, 5, "done");
    let jobs = client
        .query_one("SELECT count(*) FROM cdc_snapshots", &[])
        .expect("the view");
    assert_eq!(jobs.get::<_, i64>(0), 5);
    assert_eq!(fold(&database.records("t"))["{\"id\":7}"]["more"], 1);
    let rows = fold(&database.records("p"));
    assert_eq!(rows.len(), 1000);
    assert_eq!(
        rows["{\"part\":\"b\",\"id\":500}"],
        json!({"id": 500, "part": "b"})
    );
}

#[test]
fn keys_of_all_kinds_are_read_in_their_own_order() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    let database = bed.database("keys");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE EXTENSION citext",
            "CREATE EXTENSION ltree",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION isn",
            "CREATE COLLATION lax (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "CREATE COLLATION backwards (provider = icu, locale = 'de-u-co-phonebk')",
            "CREATE DOMAIN mail AS citext CHECK (VALUE LIKE '%n%')",
            "CREATE DOMAIN mails AS mail",
            "CREATE TYPE pair AS (x int, y citext)",
            "CREATE TYPE span AS RANGE (subtype = numeric)",
        ],
    );
    // Not in the order of their names, and more than a chunk.
    let labels: Vec<String> = (1..=300)
        .map(|n: u32| format!("'{}{n}'", if n.is_multiple_of(2) { 'a' } else { 'B' }))
        .collect();
    run(
        &mut client,
        &[&format!("CREATE TYPE mood AS ENUM ({})", labels.join(", "))],
    );
    // Capitals and small letters take turns: byte order and the type's own order differ everywhere.
    let mixed = "CASE WHEN n % 2 = 0 THEN 'an' ELSE 'Bn' END || lpad(n::text, 3, '0')";
    let index = "CREATE UNIQUE INDEX i_{t} ON {t} ({i}); ALTER TABLE {t} REPLICA IDENTITY USING INDEX i_{t}";
    let mut asked = Vec::new();
    for (number, (columns, key, values)) in [
        ("a text, b int", "a, b", "md5((n / 7)::text), n"),
        ("a text COLLATE \"C\", b text", "a, b", "repeat('\u{e4}', n % 5) || n, 'B'"),
        ("a numeric, b float8", "a, b", "CASE WHEN n % 3 = 0 THEN numeric 'NaN' ELSE n / 7.0 END, CASE WHEN n = 5 THEN float8 'NaN' ELSE n END"),
        ("a timestamptz, b bytea", "a, b", "timestamptz '2026-01-01' + n * interval '1 hour', decode(lpad(to_hex(n), 4, '0'), 'hex')"),
        ("a uuid, b date", "a", "md5(n::text)::uuid, date '2026-01-01' + n"),
        ("a char(5), b varchar(9)", "b, a", "n, 'it''s ' || n"),
        ("a citext, b int", "a", &format!("{mixed}, n")),
        ("a int, b citext", "a, b", &format!("n % 3, {mixed}")),
        ("a citext, b int", "a, b", "CASE WHEN n % 2 = 0 THEN 'a' ELSE 'B' END, n"),
        ("a ltree, b int", "a", &format!("({mixed})::ltree, n")),
        ("a hstore, b int", "a", &format!("hstore({mixed}, 'v'), n")),
        ("a isbn, b int", "a", "('978' || lpad(n::text, 9, '0') || '?')::isbn13::isbn, n"),
        ("a mails, b int", "a", &format!("{mixed}, n")),
        ("a mood, b int", "a", "(CASE WHEN n % 2 = 0 THEN 'a' ELSE 'B' END || n)::mood, n"),
        ("a citext[], b int", "a", &format!("ARRAY[{mixed}]::citext[], n")),
        ("a pair, b int", "a", &format!("(n % 3, {mixed})::pair, n")),
        ("a span, b int4range", "a, b", "span(n, n + 1.5), int4range(n, n + 2)"),
        ("a text COLLATE lax, b int", "a", &format!("{mixed}, n")),
        ("a \"char\", b name, c oid", "a, b, c", "chr(65 + n % 50)::\"char\", 'n' || n, n"),
        ("a bit(12), b inet, c interval", "b, a", "n::bit(12), inet '10.0.0.0' + n, n * interval '1 day'"),
        // The identity is another index than the primary key: its directions, classes and collations count.
        ("a citext NOT NULL, b int NOT NULL", "!a DESC, b", &format!("{mixed}, n")),
        ("a citext NOT NULL, b int NOT NULL", "!a DESC, b DESC NULLS LAST", &format!("{mixed}, n % 7")),
        ("a int NOT NULL, b text NOT NULL", "!a, b COLLATE backwards DESC NULLS LAST", &format!("n % 3, {mixed}")),
        ("a text NOT NULL, b varchar(9) NOT NULL", "!a text_pattern_ops, b varchar_pattern_ops DESC", &format!("{mixed}, n")),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{number}");
        let identity = match key.strip_prefix('!') {
            None => format!("ALTER TABLE {table} ADD PRIMARY KEY ({key})"),
            Some(key) => index.replace("{t}", &table).replace("{i}", key),
        };
        run(
            &mut client,
            &[
                &format!("CREATE TABLE {table} ({columns})"),
                &identity,
                &format!("INSERT INTO {table} SELECT {values} FROM generate_series(1, 300) AS n"),
                &format!("SELECT cdc_track('{table}')"),
            ],
        );
        let id = snapshot(&mut client, &format!("cdc_snapshot('{table}')"));
        asked.push((id, table, columns.to_owned()));
    }
    for (id, table, columns) in asked {
        wait_for_state(&mut client, id, "done");
        let records = database.records(&table);
        // A chunk that was on its way when a session of the sender ended is there twice.
        assert!(
            ops(&records, "r") >= 300,
            "{columns}: {} rows",
            ops(&records, "r")
        );
        assert_eq!(fold(&records).len(), 300, "{columns}");
    }
    // The snapshot that a rewrite asks for by itself.
    run(&mut client, &["ALTER TABLE t6 ALTER b TYPE bigint"]);
    let again: i64 = client
        .query_one("SELECT max(snapshot_id) FROM cdc_snapshots", &[])
        .expect("the snapshot")
        .get(0);
    wait_for_state(&mut client, again, "done");
    let rows: i64 = client
        .query_one(
            "SELECT rows_done FROM cdc_snapshots WHERE snapshot_id = $1",
            &[&again],
        )
        .expect("the snapshot")
        .get(0);
    assert_eq!(rows, 300);

    // An order that contradicts itself is found out before a reader takes rows for deleted.
    let compare = |result: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION turned(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {result}btint4cmp($1, $2)'"
        )
    };
    run(
        &mut client,
        &[
            &compare(""),
            "CREATE OPERATOR CLASS turned_ops FOR TYPE int USING btree AS
                 OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 turned(int, int)",
            "CREATE TABLE turning (a int NOT NULL)",
            "INSERT INTO turning SELECT generate_series(0, 9)",
            "CREATE UNIQUE INDEX turning_a ON turning (a turned_ops)",
            "ALTER TABLE turning REPLICA IDENTITY USING INDEX turning_a",
            "SELECT cdc_track('turning')",
            &compare("-"),
        ],
    );
    let id = snapshot(&mut client, "cdc_snapshot('turning')");
    wait_for_state(
        &mut client,
        id,
        "failed: CDC0506 rows of table \"turning\" do not come in the order of their key",
    );
    bed.source().assert_never_crashed();
}

/// What somebody has who applies everything in the order of the versions, and whom the end of a chunk tells which rows of
/// its range are gone.
fn fold_with_ranges(database: &Database<'_>, name: &str) -> BTreeMap<String, Value> {
    let mut rows: BTreeMap<String, Value> = BTreeMap::new();
    let mut chunk = Vec::new();
    for event in database.events(name) {
        let key = event.key_text().to_owned();
        let id = |key: &str| {
            let key: Value = serde_json::from_str(key).expect("a key");
            key["id"].as_i64().expect("an id")
        };
        match event.op() {
            "r" => {
                chunk.push(key.clone());
                rows.insert(key, event.json()["after"].clone());
            }
            "c" | "u" => {
                rows.insert(key, event.json()["after"].clone());
            }
            "d" => {
                rows.remove(&key);
            }
            "snapshot" => {
                let snapshot = event.json()["snapshot"].clone();
                if snapshot["event"] == "chunk_end" {
                    assert_eq!(snapshot["partial"], json!(false));
                    let from = snapshot["from"]["id"].as_i64().unwrap_or(i64::MIN);
                    let to = snapshot["to"]["id"].as_i64().unwrap_or(i64::MAX);
                    let changed = snapshot["changed"].as_array().expect("changed").clone();
                    let changed: Vec<String> = changed.iter().map(Value::to_string).collect();
                    rows.retain(|key, _| {
                        let in_range = id(key) > from && id(key) <= to;
                        !in_range || chunk.contains(key) || changed.contains(key)
                    });
                    chunk.clear();
                }
            }
            _ => {}
        }
    }
    rows
}

/// The history has the rows that it did not know and no other of the snapshot's, and one inferred delete for each row that
/// is gone; whatever is killed and read twice.
fn check_history(database: &Database<'_>, sink: &CompanionSink, unseen: i64) {
    let history = database.history("t");
    wait_until(
        "inferred deletes",
        TIMEOUT,
        || match history::inferred_deletes(&history.all()).len() {
            0 => Err("none"),
            _ => Ok(()),
        },
    );
    sink.kill();
    sink.start();
    let topics = [database.topic("t")];
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    let documents = history.all();
    let read = documents
        .iter()
        .filter(|document| document.get_str("op") == Ok("read"));
    assert_eq!(read.count() as i64, unseen);
    let there = table(&mut database.source(), "t");
    let mut gone: BTreeSet<String> = (1..=1000)
        .map(|id| format!("{{\"id\":{id}}}"))
        .filter(|key| !there.contains_key(key))
        .collect();
    // An event said so.
    gone.remove("{\"id\":8}");
    let mut inferred = history::inferred_deletes(&documents);
    inferred.sort_unstable();
    assert_eq!(inferred, Vec::from_iter(gone));
    let rows: BTreeMap<String, Value> = history::rows(&documents)
        .into_iter()
        .map(|(key, after)| (key, Bson::Document(after).into_relaxed_extjson()))
        .collect();
    assert_eq!(rows, there);

    assert!(sink.stop().expect("it ran").success());
    (0..3).for_each(|partition| sink.rewind_history(partition));
    let client = database.bed().ferretdb().client();
    client
        .database(&database.history_name())
        .collection::<Document>("companion_snapshots")
        .delete_many(doc! {})
        .run()
        .expect("what it knew of the snapshot");
    sink.start();
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    history.assert_is(&documents);
}

#[test]
fn what_was_lost_in_a_gap_is_repaired_deletes_included() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    let database = bed.database("gap");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "SELECT cdc_track('t')",
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 1000) AS n",
            // Nothing of this is captured.
            "ALTER TABLE t DISABLE TRIGGER _cdc",
            "DELETE FROM t WHERE id % 10 = 0 OR id BETWEEN 200 AND 450 OR id > 900",
            "UPDATE t SET note = 'unseen' WHERE id % 7 = 0",
            "INSERT INTO t SELECT n, n, 'unseen' FROM generate_series(2000, 2050) AS n",
            "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
        ],
    );
    assert_ne!(fold_with_ranges(&database, "t"), table(&mut client, "t"));
    // A replica that has all that the events said so far.
    let sink = database.start_companion_sink();
    let mut replica = database.replica();
    run(&mut replica, &[TABLE]);
    let topics = [database.topic("t")];
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    assert_eq!(table(&mut replica, "t").len(), 1000);
    let unseen: i64 = client
        .query_one("SELECT count(*) FROM t WHERE note = 'unseen'", &[])
        .expect("rows that no event told of")
        .get(0);

    let id = snapshot(&mut client, "cdc_snapshot('t')");
    run(
        &mut client,
        &[
            "DELETE FROM t WHERE id = 8",
            "INSERT INTO t VALUES (20, 1, 'back')",
        ],
    );
    wait_for_rows(&mut client, id, 200);
    sink.kill();
    sink.start();
    wait_for_state(&mut client, id, "done");
    assert_eq!(fold_with_ranges(&database, "t"), table(&mut client, "t"));
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    assert_eq!(table(&mut replica, "t"), table(&mut client, "t"));
    check_history(&database, &sink, unseen);

    // For another sink: this one does nothing, and goes on.
    run(
        &mut client,
        &[
            "ALTER TABLE t DISABLE TRIGGER _cdc",
            "DELETE FROM t WHERE id = 1",
            "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
        ],
    );
    let id = snapshot(&mut client, "cdc_snapshot('t', sinks => '{another}')");
    wait_for_state(&mut client, id, "done");
    run(&mut client, &["UPDATE t SET note = 'last' WHERE id = 2"]);
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    let (replica, source) = (table(&mut replica, "t"), table(&mut client, "t"));
    assert_eq!(replica.len(), source.len() + 1);
    assert_eq!(replica["{\"id\":2}"], source["{\"id\":2}"]);
    sink.stop();
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
