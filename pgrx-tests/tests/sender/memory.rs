//! Memory: a backend that gets no more of it, transactions that are far larger than it, and a replica that is far behind.

use std::process::Command;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, process, refusal, topic};
use postgres::{Client, NoTls};

/// Bounds the address space of a backend (prlimit of util-linux), or lifts the bound: the soft limit, which its own user
/// may change.
fn bound_address_space(pid: i32, limit: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--as={limit}:")]);
    process::run(command, process::User::for_postgres());
}

/// What a process has mapped, in bytes.
fn address_space_bytes(pid: i32) -> u64 {
    process::kilobytes(pid as u32, "VmSize") * 1024
}

#[test]
fn out_of_memory_fails_the_statement_and_not_the_server() {
    let bed = TestBed::start();
    let database = bed.database("memory");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, body text)",
            "ALTER TABLE t ALTER body SET STORAGE EXTERNAL",
            "SELECT cdc_track('t')",
            "SET cdc.capture_buffer = '64MB'",
            // What a backend loads at its first row is loaded.
            "INSERT INTO t VALUES (0, 'first')",
        ],
    );
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("pid")
        .get(0);
    let bound = address_space_bytes(pid) + 40 * 1024 * 1024;
    bound_address_space(pid, &bound.to_string());
    run(
        &mut client,
        &["BEGIN", "INSERT INTO t VALUES (1, 'before')", "SAVEPOINT s"],
    );
    let large = "INSERT INTO t SELECT n, repeat('x', 100000) FROM generate_series(10, 1000) AS n";
    let error = refusal::of(&mut client, large);
    refusal::assert_coded(&error, "53200", "CDC0201");
    // The backend lives, and so does what the transaction did before.
    run(
        &mut client,
        &[
            "ROLLBACK TO s",
            "INSERT INTO t VALUES (2, 'after')",
            "COMMIT",
        ],
    );
    bound_address_space(pid, "unlimited");
    run(&mut client, &[large]);
    let events = database.events("t");
    let ids: Vec<i64> = events
        .iter()
        .filter(|event| event.is_row_change())
        .map(|event| event.json()["after"]["id"].as_i64().expect("an id"))
        .collect();
    let expected: Vec<i64> = [0, 1, 2].into_iter().chain(10..=1000).collect();
    assert_eq!(ids, expected);
    drop(client);
    bed.source().assert_never_crashed();
}

#[test]
fn ten_million_rows_in_one_transaction() {
    const ROWS: i64 = 10_000_000;
    let bed = TestBed::start_with(&[("max_wal_size", "8GB")]);
    let database = bed.database("million");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            &format!("INSERT INTO t SELECT generate_series(1, {ROWS})"),
        ],
    );
    let sender: i32 = client
        .query_one("SELECT pid FROM cdc_status()", &[])
        .expect("pid")
        .get(0);
    run(&mut client, &["SELECT cdc_wait('10 min')"]);
    let offsets = topic::offsets(bed.kafka(), &database.topic("t")).expect("the topic");
    let records: i64 = offsets.values().map(|range| range.end - range.start).sum();
    assert_eq!(records, ROWS);
    let sent = client
        .query_one("SELECT events FROM cdc_tables", &[])
        .expect("cdc_tables");
    assert_eq!(sent.get::<_, i64>(0), ROWS);
    // cdc.sender_memory is 32 MB; what a process and librdkafka need besides is bounded as well.
    let peak_kb = process::kilobytes(sender as u32, "VmHWM");
    assert!(peak_kb < 256 * 1024, "the sender grew to {peak_kb} kB");
}

#[test]
fn a_replica_of_many_partitions_that_are_all_far_behind_does_not_grow_with_them() {
    const TABLES: usize = 20;
    let bed = TestBed::start();
    let database = bed.database("behind");
    let mut source = database.source();
    let tables: Vec<String> = (0..TABLES).map(|n| format!("t{n}")).collect();
    for table in &tables {
        run(
            &mut source,
            &[
                &format!("CREATE TABLE {table} (id int PRIMARY KEY, note text)"),
                &format!("SELECT cdc_track('{table}')"),
                // Twelve megabytes, in three partitions.
                &format!(
                    "INSERT INTO {table} SELECT n, repeat('x', 1000) FROM generate_series(1, 8000) AS n"
                ),
            ],
        );
    }
    database.wait_until_in_kafka();
    let sink = bed.companion_sink(database.plan_companion_sink());
    sink.start_only(&["replica"]);
    let topics: Vec<String> = tables.iter().map(|table| database.topic(table)).collect();
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    let rows: i64 = database
        .replica()
        .query_one("SELECT count(*) FROM t0, t19 WHERE t0.id = t19.id", &[])
        .expect("the replica")
        .get(0);
    assert_eq!(rows, 8000);
    let peak_kb = process::kilobytes(sink.pid(), "VmHWM");
    assert!(peak_kb < 128 * 1024, "the sink grew to {peak_kb} kB");
}

/// What takes memory: values of all kinds, events of one's own, contexts, and options of a table.
const STATEMENTS: [&str; 13] = [
    "INSERT INTO t (id, a) VALUES (1, repeat(E'\\x01', 6000000))",
    "INSERT INTO t (id, b) SELECT 2, jsonb_object_agg(i, repeat('\"', 20)) FROM generate_series(1, 100000) AS i",
    "INSERT INTO t (id, c) SELECT 3, array_agg(i) FROM generate_series(1, 1000000) AS i",
    "INSERT INTO t (id, d) SELECT 4, hstore(array_agg(i::text), array_agg(repeat(E'\\x01', 20))) FROM generate_series(1, 100000) AS i",
    "INSERT INTO t (id, e) VALUES (5, convert_to(repeat('e', 8000000), 'UTF8'))",
    "UPDATE t SET a = a || 'x'",
    "SELECT cdc_emit('little.events', NULL, to_jsonb(repeat(E'\\x02', 8000000)))",
    "SELECT cdc_emit('little.events', NULL, '1', jsonb_object_agg(i, 'x')) FROM generate_series(1, 500000) AS i",
    "SELECT cdc_context(context => jsonb_build_object('x', repeat('x', 8000000)))",
    "SELECT cdc_track('t', filter => 'id <> 0' || repeat(' AND id <> 0', 300))",
    "SELECT cdc_track('t', filter => '')",
    "SELECT cdc_track('t', mask => (SELECT jsonb_object_agg('column_' || i, 'hash') FROM generate_series(1, 200000) AS i))",
    "DELETE FROM t",
];

/// Wherever a backend or the sender runs out of memory: an error, or the end of that session; everybody else goes on.
#[test]
fn memory_that_runs_out_ends_a_session_at_most() {
    let bed = TestBed::start_with(&[("cdc.sender_memory", "8MB")]);
    let database = bed.database("little");
    let mut admin = database.source();
    run(
        &mut admin,
        &[
            "CREATE EXTENSION hstore",
            "CREATE TABLE t (id int PRIMARY KEY, a text, b jsonb, c int[], d hstore, e bytea, f xml)",
            "SELECT cdc_track('t')",
            "CREATE ROLE owner LOGIN; ALTER TABLE t OWNER TO owner; GRANT CREATE ON SCHEMA public TO owner",
            "GRANT EXECUTE ON FUNCTION cdc_emit TO owner",
        ],
    );
    let url = bed.source().url("little").replace("postgres@", "owner@");
    // From hardly any to enough.
    for step in 0..14_u64 {
        let mut client = Client::connect(&url, NoTls).expect("the owner connects");
        run(&mut client, &["SET client_min_messages = error", "BEGIN"]);
        run(&mut client, &["INSERT INTO t (id) VALUES (0)", "ROLLBACK"]);
        let pid: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("pid")
            .get(0);
        let bound = address_space_bytes(pid) + step * step * 1024 * 1024;
        bound_address_space(pid, &bound.to_string());
        for statement in STATEMENTS {
            if let Err(error) = client.batch_execute(statement) {
                // An error of the statement, or the end of this session.
                assert!(error.code().is_some() || client.is_closed(), "{error:?}");
            }
            if client.is_closed() {
                break;
            }
        }
        bed.source().assert_never_crashed();
    }
    database.wait_until_in_kafka();

    for megabytes in [1, 8, 24, 64] {
        the_sender_gets_little_memory(&mut admin, megabytes);
    }
    let events = database.events("t");
    let large: Vec<i64> = events
        .iter()
        .filter(|event| event.op() == "c")
        .map(|event| event.json()["after"]["id"].as_i64().expect("an id"))
        .filter(|id| [1, 8, 24, 64].contains(id))
        .collect();
    for id in [8, 24, 64] {
        assert!(large.contains(&id), "{id} of {large:?}");
    }
    bed.source().assert_never_crashed();
}

/// With what a transaction of others needs, the sender waits, or is started again, and has it all in the end.
fn the_sender_gets_little_memory(admin: &mut Client, megabytes: u64) {
    let sender: i32 = admin
        .query_one("SELECT pid FROM cdc_status()", &[])
        .expect("pid")
        .get(0);
    let bound = address_space_bytes(sender) + megabytes * 1024 * 1024;
    bound_address_space(sender, &bound.to_string());
    run(
        admin,
        &[
            &format!(
                "INSERT INTO t (id, a) SELECT {megabytes}, string_agg(md5(i::text), '') FROM generate_series(1, 1000000) AS i"
            ),
            "INSERT INTO t (id, e) SELECT i, convert_to(repeat('e', 300000), 'UTF8') FROM generate_series(100, 160) AS i",
            "DELETE FROM t WHERE id >= 100",
        ],
    );
    let waited = admin.batch_execute("SELECT cdc_wait('4s')");
    if let Err(error) = waited {
        assert!(error.code().is_some(), "{error:?}");
    }
    let now: Option<i32> = admin
        .query_one("SELECT pid FROM cdc_status()", &[])
        .expect("pid")
        .get(0);
    if now == Some(sender) {
        bound_address_space(sender, "unlimited");
    }
    run(admin, &["SELECT cdc_wait('2 min')"]);
}

/// What takes many times in the library what it took in PostgreSQL: a list of options.
#[test]
fn options_for_which_there_is_no_memory_end_their_session() {
    let bed = TestBed::start();
    let database = bed.database("options");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "CREATE TABLE j AS SELECT jsonb_build_object('a', jsonb_agg(1)) AS j FROM generate_series(1, 1000000)",
        ],
    );
    for megabytes in (40..160_u64).step_by(4) {
        let mut other = database.source();
        run(
            &mut other,
            &["BEGIN", "INSERT INTO t VALUES (0)", "ROLLBACK"],
        );
        let pid: i32 = other
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("pid")
            .get(0);
        let bound = address_space_bytes(pid) + megabytes * 1024 * 1024;
        bound_address_space(pid, &bound.to_string());
        let error = refusal::of(
            &mut other,
            "SELECT cdc_track('t', mask => (SELECT j FROM j))",
        );
        let code = error.code().code();
        assert!(matches!(code, "53200" | "22023"), "{error:?}");
    }
    run(&mut client, &["INSERT INTO t VALUES (1)"]);
    let log = bed.source().log();
    assert!(
        log.contains("CDC0316"),
        "pg_cdc itself ran out of memory once"
    );
    bed.source().assert_never_crashed();
}

/// Every row has another key: within the command all deletes come before all creates.
#[test]
fn a_large_transaction_that_must_be_sorted_takes_no_memory_for_each_row() {
    const ROWS: i64 = 1_500_000;
    let bed = TestBed::start_with(&[
        ("max_wal_size", "8GB"),
        ("cdc.sender_memory", "16MB"),
        ("cdc.tombstones", "off"),
    ]);
    let database = bed.database("sorted");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            &format!("INSERT INTO t SELECT generate_series(1, {ROWS})"),
            "SELECT cdc_track('t')",
            "SELECT cdc_wait()",
            &format!("UPDATE t SET id = id + {ROWS}"),
        ],
    );
    let sender: i32 = client
        .query_one("SELECT pid FROM cdc_status()", &[])
        .expect("pid")
        .get(0);
    run(&mut client, &["SELECT cdc_wait('10 min')"]);
    let sent = client
        .query_one("SELECT events FROM cdc_tables", &[])
        .expect("cdc_tables");
    assert_eq!(sent.get::<_, i64>(0), 2 * ROWS);
    let peak_kb = process::kilobytes(sender as u32, "VmHWM");
    assert!(peak_kb < 160 * 1024, "the sender grew to {peak_kb} kB");
}
