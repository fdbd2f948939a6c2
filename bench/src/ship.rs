//! The way from the commit into Kafka: events per second, latency, and the memory of those who carry them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pg_cdc_tests::{Database, TestBed, wait::wait_for};
use postgres::Client;
use serde_json::{Value, json};

use crate::account::{self, rows};
use crate::capture::{PGBENCH_TABLE_ROWS, run_pgbench, tps};
use crate::latency;
use crate::median::{median, percentile, rounded};
use crate::memory::Memory;
use crate::{start_bed, step};

const ROUNDS: usize = 5;
const COMMITS_PER_SECOND: &str = "1000";
const LATENCY_SECONDS: &str = "20";
/// Not counted at the start of the latency measurement.
const WARM_UP_US: i64 = 2_000_000;

/// Measures, and returns the figures.
pub fn run() -> Value {
    let bed = start_bed();
    let database = bed.database("bench");
    let mut client = database.source();
    let sender = sender_pid(&mut client);
    let sender_at_rest = Memory::of(sender);

    let mut sender_peak = sender_at_rest;
    let (mut inserts, mut updates) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        account::create(&mut client);
        account::run(&mut client, "SELECT cdc_track('account'); CHECKPOINT");
        let name = format!(
            "round {round}: INSERT and UPDATE of {} rows into Kafka",
            rows()
        );
        step(&name, || {
            let insert = account::insert(rows());
            for (statement, figures) in [
                (insert.as_str(), &mut inserts),
                (account::UPDATE, &mut updates),
            ] {
                let (seconds, peak) = with_peak(sender, || commit_to_kafka(&mut client, statement));
                figures.push(rows() as f64 / seconds);
                sender_peak = sender_peak.max(peak);
            }
        });
    }
    let mut latencies = step("1 000 commits per second", || {
        measure_latency(&bed, &database, &mut client)
    });
    let sink = step("companion-sink, both sinks, the same load", || {
        measure_sink(&database, &mut client)
    });

    json!({
        "bench": "ship",
        "rows": rows(),
        "columns": 9,
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "events_per_second_from_commit": {
            "insert": rounded(median(&inserts)), "update": rounded(median(&updates)),
            "rounds": {
                "insert": inserts.iter().copied().map(rounded).collect::<Vec<_>>(),
                "update": updates.iter().copied().map(rounded).collect::<Vec<_>>(),
            },
        },
        "latency_ms": {
            "commits_per_second": rounded(latencies.commits_per_second),
            "events": latencies.milliseconds.len(),
            "p50": rounded(percentile(&mut latencies.milliseconds, 50.0)),
            "p99": rounded(percentile(&mut latencies.milliseconds, 99.0)),
            "max": rounded(percentile(&mut latencies.milliseconds, 100.0)),
        },
        "sender_memory": {"at_rest": sender_at_rest.json(), "peak": sender_peak.json(), "after": Memory::of(sender).json()},
        "companion_sink": sink,
    })
}

/// Seconds from sending COMMIT until everything is in Kafka.
fn commit_to_kafka(client: &mut Client, statement: &str) -> f64 {
    account::run(client, &format!("BEGIN; {statement}"));
    let start = Instant::now();
    account::run(client, "COMMIT");
    account::run(client, "SELECT cdc_wait('5 min')");
    start.elapsed().as_secs_f64()
}

struct Latencies {
    milliseconds: Vec<f64>,
    commits_per_second: f64,
}

fn measure_latency(bed: &TestBed, database: &Database<'_>, client: &mut Client) -> Latencies {
    account::create(client);
    account::run(client, "SELECT cdc_track('account')");
    account::run(client, &account::insert(PGBENCH_TABLE_ROWS));
    account::run(client, "SELECT cdc_wait('5 min')");
    account::settle(client);
    let (started, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let topic = database.topic("account");
    thread::scope(|scope| {
        let consumer = scope.spawn(|| latency::measure(bed.kafka(), &topic, &started, &stop));
        let polled = || started.load(Ordering::Relaxed);
        wait_for(
            "the consumer to start",
            Duration::from_secs(30),
            polled,
            |started| *started,
        );
        let output = run_pgbench(database, &["-T", LATENCY_SECONDS, "-R", COMMITS_PER_SECOND]);
        account::run(client, "SELECT cdc_wait('1 min')");
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        let events = consumer.join().expect("the consumer");
        let first = events
            .iter()
            .map(|(commit_us, _)| *commit_us)
            .min()
            .expect("events");
        let milliseconds = events
            .iter()
            .filter(|(commit, _)| *commit > first + WARM_UP_US)
            .map(|(_, ms)| *ms);
        Latencies {
            milliseconds: milliseconds.collect(),
            commits_per_second: tps(&output),
        }
    })
}

fn measure_sink(database: &Database<'_>, client: &mut Client) -> Value {
    account::create(client);
    account::run(client, "SELECT cdc_track('account')");
    let mut plan = database.plan_companion_sink();
    // What the rounds before left in the topic of `account` is not to be measured.
    plan.topics = vec![format!("{}.public.sink_account", database.name())];
    account::run(
        client,
        "DROP TABLE IF EXISTS sink_account; CREATE TABLE sink_account (LIKE account INCLUDING ALL);
         SELECT cdc_track('sink_account')",
    );
    let sink = database.bed().companion_sink(plan);
    sink.start();
    let at_rest = Memory::of(sink.pid());
    let topics = [database.topic("sink_account")];
    let insert = account::insert(rows()).replace("INTO account", "INTO sink_account");
    let start = Instant::now();
    let (replica_seconds, peak) = with_peak(sink.pid(), || {
        account::run(client, &insert);
        account::run(client, "SELECT cdc_wait('5 min')");
        sink.wait_until_sink_applied("replica", database.bed().kafka(), &topics);
        start.elapsed().as_secs_f64()
    });
    let (history_seconds, later_peak) = with_peak(sink.pid(), || {
        sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
        start.elapsed().as_secs_f64()
    });
    let after = Memory::of(sink.pid());
    json!({
        "rows": rows(),
        "replica_rows_per_second_from_statement_start": rounded(rows() as f64 / replica_seconds),
        "history_documents_per_second_from_statement_start": rounded(rows() as f64 / history_seconds),
        "memory": {"at_rest": at_rest.json(), "peak": peak.max(later_peak).json(), "after": after.json()},
    })
}

/// Does the work, and looks at a process's memory every 50 ms meanwhile.
fn with_peak<T>(pid: u32, work: impl FnOnce() -> T) -> (T, Memory) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = Memory::of(pid);
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
                peak = peak.max(Memory::of(pid));
            }
            peak
        });
        // Also when the work panics: else the scope would wait for the watcher without end.
        let stop = SetAtEnd(&done);
        let result = work();
        drop(stop);
        (result, watcher.join().expect("the watcher of the memory"))
    })
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn sender_pid(client: &mut Client) -> u32 {
    let pid: i32 = client
        .query_one("SELECT pid FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0);
    u32::try_from(pid).expect("a process id")
}
