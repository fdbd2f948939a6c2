//! A consistent replica: whoever reads it sees the source as it was after some commit, over all tables and partitions,
//! whatever is killed (G12).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, pgbench, process, replica, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(120);
const TABLES: [&str; 4] = [
    "pgbench_accounts",
    "pgbench_branches",
    "pgbench_tellers",
    "pgbench_history",
];
/// In the status of the instance that is active.
const RUNNING: &str = "\"state\":\"running\"";
const READS: usize = 1000;
/// Different commits that they see.
const COMMITS: usize = 200;
/// How often the sink ends meanwhile.
const ENDS: usize = 9;
/// What TPC-B leaves equal, read in one snapshot.
const SUMS: &str = "SELECT (SELECT sum(abalance)::bigint FROM pgbench_accounts), (SELECT sum(bbalance)::bigint FROM pgbench_branches),
    (SELECT sum(tbalance)::bigint FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0)::bigint FROM pgbench_history),
    (SELECT state FROM companion.replica), (SELECT version FROM companion.replica)";
/// As pgbench's own, and sometimes all accounts at once: more than a batch of the sink holds.
const TPCB: &str = "\\set aid random(1, 20000)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
\\set all random(1, 1500)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP);
\\if :all = 1
UPDATE pgbench_accounts SET abalance = abalance + 1;
UPDATE pgbench_tellers SET tbalance = tbalance + 2000;
UPDATE pgbench_branches SET bbalance = bbalance + 20000;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, 20000, CURRENT_TIMESTAMP);
\\endif
END;
";

/// What a reader saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The tables are not all there.
    Nothing,
    /// The state says that rows are still being brought.
    Loading,
    /// All sums were equal after this commit.
    Consistent(String),
}

fn read(reader: &mut Client) -> Seen {
    let row = match reader.query_one(SUMS, &[]) {
        Ok(row) => row,
        Err(error) if error.code() == Some(&postgres::error::SqlState::UNDEFINED_TABLE) => {
            return Seen::Nothing;
        }
        Err(error) => panic!("{error:?}"),
    };
    let sums: Vec<Option<i64>> = (0..4).map(|place| row.get(place)).collect();
    let state: Option<String> = row.get(4);
    match state.as_deref() {
        Some("consistent") => {
            let first = sums[0].unwrap_or(0);
            let is_equal = sums.iter().all(|sum| sum.unwrap_or(0) == first);
            assert!(is_equal, "half of a transaction: {row:?} {sums:?}");
            Seen::Consistent(row.get(5))
        }
        Some("loading") => Seen::Loading,
        None => Seen::Nothing,
        other => panic!("{other:?}"),
    }
}

/// Stops a thread when its test ends, also by a panic.
struct Over<'f>(&'f AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the sink and starts it again, sometimes in an orderly way, each time when it has applied something.
fn disturb(sink: &CompanionSink, reader: &mut Client) {
    for round in 0..ENDS {
        let before = wait_for_newer(reader, None);
        wait_for_newer(reader, Some(before));
        if round % 3 == 2 {
            assert!(sink.stop().expect("it ran").success());
        } else {
            sink.kill();
        }
        sink.start_only(&["replica"]);
    }
}

fn topics(database: &Database<'_>) -> Vec<String> {
    TABLES.iter().map(|table| database.topic(table)).collect()
}

fn assert_equal(database: &Database<'_>, sink: &CompanionSink) {
    database.wait_until_in_kafka();
    for topic in topics(database) {
        sink.wait_until_sink_applied("replica", database.bed().kafka(), &[topic]);
    }
    let (mut source, mut copy) = (database.source(), database.replica());
    for table in TABLES {
        replica::assert_equal(&mut source, &mut copy, &format!("public.{table}"));
    }
    let last = read(&mut copy);
    assert!(matches!(last, Seen::Consistent(_)), "{last:?}");
}

fn make_tables(database: &Database<'_>) {
    let server = database.bed().source();
    server.program(
        "pgbench",
        &["-i", "-s", "1", "-q", "-I", "dtp", database.name()],
    );
    // A fifth of pgbench's: read a thousand times.
    run(
        &mut database.source(),
        &[
            "INSERT INTO pgbench_branches (bid, bbalance) VALUES (1, 0)",
            "INSERT INTO pgbench_tellers (tid, bid, tbalance) SELECT n, 1, 0 FROM generate_series(1, 10) AS n",
            "INSERT INTO pgbench_accounts (aid, bid, abalance) SELECT n, 1, 0 FROM generate_series(1, 20000) AS n",
        ],
    );
}

fn track(database: &Database<'_>, options: &str) {
    let mut source = database.source();
    for table in TABLES {
        let options = if table == "pgbench_history" {
            ""
        } else {
            options
        };
        source
            .execute(&format!("SELECT cdc_track('{table}'{options})"), &[])
            .expect("cdc_track");
    }
}

#[test]
fn a_thousand_reads_under_load_see_no_half_of_a_transaction() {
    let bed = TestBed::start();
    let database = bed.database("bank");
    bed.source()
        .program("pgbench", &["-i", "-s", "1", "-q", "-I", "dtp", "bank"]);
    track(&database, "");
    let sink = bed.companion_sink(database.plan_companion_sink());
    sink.start_only(&["replica"]);
    run(
        &mut database.source(),
        &[
            "BEGIN",
            "INSERT INTO pgbench_branches (bid, bbalance) VALUES (1, 0)",
            "INSERT INTO pgbench_tellers (tid, bid, tbalance) SELECT n, 1, 0 FROM generate_series(1, 10) AS n",
            "INSERT INTO pgbench_accounts (aid, bid, abalance) SELECT n, 1, 0 FROM generate_series(1, 20000) AS n",
            "COMMIT",
        ],
    );
    let load = pgbench::start(
        &database,
        TPCB,
        &["-c", "4", "-j", "2", "-R", "300", "-T", "3600"],
    );
    let mut other = database.replica();
    std::thread::scope(|scope| {
        let disturber = scope.spawn(|| disturb(&sink, &mut other));
        let mut reader = database.replica();
        let (mut reads, mut commits) = (0, BTreeSet::new());
        let began = Instant::now();
        while reads < READS || commits.len() < COMMITS || !disturber.is_finished() {
            assert!(
                began.elapsed() < TIMEOUT,
                "{} commits in {reads} reads",
                commits.len()
            );
            if let Seen::Consistent(version) = read(&mut reader) {
                reads += 1;
                commits.insert(version);
            }
        }
        disturber.join().expect("the one who kills");
    });
    load.stop();
    assert_equal(&database, &sink);
    bed.source().assert_never_crashed();
}

#[test]
fn a_table_that_is_met_while_another_one_is_filled_arrives() {
    let bed = TestBed::start();
    let database = bed.database("met");
    let mut source = database.source();
    for table in ["first", "second"] {
        run(
            &mut source,
            &[
                &format!("CREATE TABLE {table} (id int PRIMARY KEY, note text)"),
                &format!("SELECT cdc_track('{table}')"),
            ],
        );
    }
    let sink = bed.companion_sink(database.plan_companion_sink());
    sink.start_only(&["replica"]);
    let insert = |table: &str| {
        format!("INSERT INTO {table} SELECT n, 'n' || n FROM generate_series(1, 1500) AS n")
    };
    run(
        &mut source,
        &["BEGIN", &insert("first"), &insert("second"), "COMMIT"],
    );
    database.wait_until_in_kafka();
    let topics = ["first", "second"].map(|table| database.topic(table));
    sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
    let mut copy = database.replica();
    for table in ["first", "second"] {
        replica::assert_equal(&mut source, &mut copy, table);
    }
    let log = std::fs::read_to_string(sink.log_file()).expect("its log");
    assert!(log.contains("table made"), "{log}");
    assert!(!log.contains("ERROR"), "nothing went wrong: {log}");
}

#[test]
fn rows_that_were_there_arrive_by_a_snapshot_and_until_then_it_says_so() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "500")]);
    let database = bed.database("filled");
    make_tables(&database);
    let sink = bed.companion_sink(database.plan_companion_sink());
    sink.start_only(&["replica"]);
    let over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reader = database.replica();
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let now = read(&mut reader);
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
            }
            seen
        });
        let _over = Over(&over);
        // All together, so that no table is there without the others.
        let mut source = database.source();
        let calls = TABLES.map(|table| {
            let options = if table == "pgbench_history" {
                ""
            } else {
                ", snapshot => true"
            };
            format!("SELECT cdc_track('{table}'{options});")
        });
        source
            .batch_execute(&format!("BEGIN; {} COMMIT", calls.concat()))
            .expect("cdc_track");
        let load = pgbench::start(&database, TPCB, &["-c", "2", "-R", "200", "-T", "3600"]);
        wait_until("the snapshots", TIMEOUT, || {
            let query = "SELECT count(*) FROM cdc_snapshots WHERE state = 'done'";
            match source
                .query_one(query, &[])
                .expect("snapshots")
                .get::<_, i64>(0)
            {
                3 => Ok(()),
                done => Err(format!("{done} are done")),
            }
        });
        load.stop();
        assert_equal(&database, &sink);
        over.store(true, Ordering::Relaxed);
        reader.join().expect("the reader")
    });
    assert!(seen.contains(&Seen::Loading), "{seen:?}");
    let first = seen
        .iter()
        .position(|seen| matches!(seen, Seen::Consistent(_)));
    let loading = seen.iter().rposition(|seen| *seen == Seen::Loading);
    assert!(
        first > loading,
        "it says so once, until everything is there: {seen:?}"
    );
}

#[test]
fn one_of_two_instances_is_active_and_one_that_was_asleep_does_no_harm() {
    let bed = TestBed::start();
    let database = bed.database("twins");
    make_tables(&database);
    run(
        &mut database.source(),
        &["UPDATE pgbench_branches SET bbalance = 0"],
    );
    track(&database, ", snapshot => true");
    let load = pgbench::start(&database, TPCB, &["-c", "2", "-R", "200", "-T", "3600"]);
    let plan = || database.plan_companion_sink();
    let sinks = [bed.companion_sink(plan()), bed.companion_sink(plan())];
    for sink in &sinks {
        sink.start_only(&["replica"]);
    }
    let mut reader = database.replica();
    for _ in 0..4 {
        wait_for_newer(&mut reader, None);
        // Whoever is active sleeps, and loses its connection, and with it its lock.
        let asleep = wait_for_active(&sinks);
        process::send_signal(asleep.pid(), libc::SIGSTOP);
        end_active_session(&mut reader);
        // A commit that was under way is there now: what is newer comes from the other one.
        let before = wait_for_newer(&mut reader, None);
        wait_for_newer(&mut reader, Some(before));
        process::send_signal(asleep.pid(), libc::SIGCONT);
        wait_until("it to see that it is no longer active", TIMEOUT, || {
            let status = asleep.get("/v1/status");
            match status.contains(RUNNING) {
                true => Err(status),
                false => Ok(()),
            }
        });
    }
    load.stop();
    assert_equal(&database, &sinks[0]);
}

/// Ends the session that has the lock of the active instance, and waits until it is gone.
fn end_active_session(client: &mut Client) {
    let ended = client
        .query(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_locks
             WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[],
        )
        .expect("end the session");
    assert_eq!(ended.len(), 1, "one is active");
    let pid: i32 = ended[0].get(0);
    wait_until("the session to end", TIMEOUT, || {
        let query = "SELECT FROM pg_stat_activity WHERE pid = $1";
        match client.query(query, &[&pid]).expect("activity").len() {
            0 => Ok(()),
            _ => Err("it is there".to_owned()),
        }
    });
}

/// Waits until the replica is consistent after a commit later than `before`.
fn wait_for_newer(reader: &mut Client, before: Option<String>) -> String {
    let mut version = String::new();
    wait_until("the replica to go on", TIMEOUT, || match read(reader) {
        Seen::Consistent(now) if Some(&now) > before.as_ref() => {
            version = now;
            Ok(())
        }
        seen => Err(format!("{seen:?}")),
    });
    version
}

fn wait_for_active(sinks: &[CompanionSink; 2]) -> &CompanionSink {
    let mut active = None;
    wait_until("one instance to be active", TIMEOUT, || {
        let status = |sink: &CompanionSink| sink.get("/v1/status");
        active = sinks.iter().find(|sink| status(sink).contains(RUNNING));
        active.map(|_| ()).ok_or_else(|| status(&sinks[0]))
    });
    active.expect("one of the two")
}
