//! Memory: a backend that gets no more of it, transactions that are far larger than it, and a replica that is far behind.

use std::process::Command;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, process, refusal, topic};

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
    // The definition comes once in each of three partitions.
    let offsets = topic::offsets(bed.kafka(), &database.topic("t")).expect("the topic");
    let records: i64 = offsets.values().map(|range| range.end - range.start).sum();
    assert_eq!(records, ROWS + 3);
    let sent = client
        .query_one("SELECT events FROM cdc_tables", &[])
        .expect("cdc_tables");
    assert_eq!(sent.get::<_, i64>(0), ROWS + 1);
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
