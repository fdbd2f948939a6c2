//! Commit-to-consumer latency, beside Debezium's: a consumer compares its clock with the commit time in the event, on one
//! machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::wait::wait_for;
use pg_cdc_tests::{Database, TestBed, topic};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::bed::{start_bed, step};
use crate::debezium::{self, OtherSide};
use crate::measures::median::{median, percentile, rounded};
use crate::outcome::Outcome;
use crate::table::Table;
use crate::{account, pgbench};

const ROUNDS: usize = 3;
const COMMITS_PER_SECOND: &str = "2000";
const SECONDS: &str = "20";
/// Not counted at the start of each round.
const WARM_UP_US: i64 = 2_000_000;
const TIMEOUT: Duration = Duration::from_secs(120);

/// Figures of one side, one entry per round.
#[derive(Default)]
struct Rounds {
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    max_ms: Vec<f64>,
    commits_per_s: Vec<f64>,
    events: Vec<usize>,
}

impl Rounds {
    fn json(&self) -> Value {
        json!({
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "max_ms": self.max_ms,
            "commits_per_s": self.commits_per_s,
            "events": self.events,
        })
    }
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let other = step("Debezium and its server", || OtherSide::start(&bed));
    step("the tables", || make_tables(&bed, &database, &other));
    let our_topic = database.topic("account");
    let measure_ours = |rounds: &mut Rounds| {
        measure(&bed, bed.source(), database.name(), &our_topic, rounds);
    };
    let measure_theirs = |rounds: &mut Rounds| {
        let (server, topic) = (other.server(), OtherSide::topic());
        other.awake(|| measure(&bed, server, debezium::DATABASE, &topic, rounds));
    };
    let (mut ours, mut theirs, mut once) =
        (Rounds::default(), Rounds::default(), Rounds::default());
    let load = format!("{COMMITS_PER_SECOND} commits per second");
    // Not counted: Java compiles what it runs often.
    step(&format!("warm-up, pg_cdc: {load}"), || {
        measure_ours(&mut Rounds::default());
    });
    step(&format!("warm-up, Debezium: {load}"), || {
        measure_theirs(&mut Rounds::default());
    });
    for round in 1..=ROUNDS {
        step(&format!("round {round}, pg_cdc: {load}"), || {
            measure_ours(&mut ours);
        });
        step(&format!("round {round}, Debezium: {load}"), || {
            measure_theirs(&mut theirs);
        });
    }
    bed.source().set("cdc.delivery", "exactly_once");
    bed.source().reload();
    step(&format!("warm-up, pg_cdc exactly once: {load}"), || {
        measure_ours(&mut Rounds::default());
    });
    for round in 1..=ROUNDS {
        step(
            &format!("round {round}, pg_cdc exactly once: {load}"),
            || {
                measure_ours(&mut once);
            },
        );
    }

    let table = table([
        ("pg_cdc", &ours),
        ("Debezium", &theirs),
        ("pg_cdc exactly once", &once),
    ]);
    Outcome {
        figures: json!({
            "p50_ms": median(&ours.p50_ms),
            "p99_ms": median(&ours.p99_ms),
            "debezium_p50_ms": median(&theirs.p50_ms),
            "debezium_p99_ms": median(&theirs.p99_ms),
            "exactly_once_p50_ms": median(&once.p50_ms),
            "exactly_once_p99_ms": median(&once.p99_ms),
        }),
        raw: json!({
            "pg_cdc": ours.json(),
            "debezium": theirs.json(),
            "pg_cdc_exactly_once": once.json(),
        }),
        settings: settings(),
        table,
    }
}

fn settings() -> Value {
    json!({
        "rounds": ROUNDS,
        "seconds": SECONDS,
        "commits_per_second_wanted": COMMITS_PER_SECOND,
        "pgbench": pgbench::ARGUMENTS.join(" "),
        "table_rows": pgbench::TABLE_ROWS,
        "debezium": OtherSide::settings(),
    })
}

/// On both sides, with rows that are in Kafka already.
fn make_tables(bed: &TestBed, database: &Database<'_>, other: &OtherSide) {
    let mut client = database.source();
    account::create(&mut client);
    account::run(&mut client, "SELECT cdc_track('account')");
    account::run(&mut client, &account::insert(pgbench::TABLE_ROWS));
    account::run(&mut client, "SELECT cdc_wait('5 min')");
    account::settle(&mut client);
    let mut client = other.server().connect(debezium::DATABASE);
    OtherSide::create_account(&mut client);
    other.awake(|| {
        account::run(&mut client, &account::insert(pgbench::TABLE_ROWS));
        other.wait_for_records(bed.kafka(), pgbench::TABLE_ROWS);
    });
    account::settle(&mut client);
}

fn table(sides: [(&str, &Rounds); 3]) -> Table {
    let mut table = Table::new(&[
        "commit to consumer",
        "p50 ms",
        "p99 ms",
        "max ms",
        "commits/s",
    ]);
    for (label, rounds) in sides {
        let figures = [&rounds.p50_ms, &rounds.p99_ms, &rounds.max_ms];
        let mut row = figures
            .map(|figures| format!("{:.2}", median(figures)))
            .to_vec();
        row.push(format!("{:.0}", median(&rounds.commits_per_s)));
        table.row(label, &row);
    }
    table
}

/// One round: pgbench at a fixed rate, and a consumer that waits for an event of each of its transactions.
fn measure(bed: &TestBed, server: &Postgres, database: &str, topic: &str, rounds: &mut Rounds) {
    let (started, wanted) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
    let (events, transactions) = thread::scope(|scope| {
        let consumer = scope.spawn(|| consume(bed.kafka(), topic, &started, &wanted));
        wait_for(
            "the consumer to start",
            TIMEOUT,
            || started.load(Ordering::Relaxed),
            |started| *started,
        );
        let arguments = ["-T", SECONDS, "-R", COMMITS_PER_SECOND];
        let transactions = pgbench::run(server, database, &arguments);
        wanted.store(transactions.count, Ordering::Relaxed);
        (consumer.join().expect("the consumer"), transactions)
    });
    let first = events.iter().map(|(commit_us, _)| *commit_us).min();
    let first = first.expect("events");
    let mut milliseconds: Vec<f64> = events
        .iter()
        .filter(|(commit_us, _)| *commit_us > first + WARM_UP_US)
        .map(|(_, ms)| *ms)
        .collect();
    let mut at = |percent| rounded(percentile(&mut milliseconds, percent));
    rounds.p50_ms.push(at(50.0));
    rounds.p99_ms.push(at(99.0));
    rounds.max_ms.push(at(100.0));
    rounds.commits_per_s.push(rounded(transactions.per_s));
    rounds.events.push(milliseconds.len());
}

/// Reads a topic from its present ends until `wanted` events are there; returns for each the microseconds since 1970 of
/// its commit, and how many milliseconds later it was here.
///
/// # Panics
/// When the topic is missing, an event has no commit time, or nothing more comes though more is wanted.
fn consume(
    kafka: &Kafka,
    topic: &str,
    started: &AtomicBool,
    wanted: &AtomicU64,
) -> Vec<(i64, f64)> {
    let consumer: BaseConsumer = kafka
        .client_config()
        .set("group.id", "pg_cdc_bench")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let offsets =
        topic::offsets(kafka, topic).unwrap_or_else(|| panic!("there is no topic {topic}"));
    let mut assignment = TopicPartitionList::new();
    for (partition, offsets) in offsets {
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(offsets.end))
            .expect("an offset");
    }
    consumer.assign(&assignment).expect("assign");

    let mut latencies = Vec::new();
    let mut last_heard = Instant::now();
    while (latencies.len() as u64) < wanted.load(Ordering::Relaxed) {
        let message = consumer.poll(Duration::from_millis(100));
        // The first poll has connected and asked for the partitions.
        started.store(true, Ordering::Relaxed);
        let Some(Ok(message)) = message else {
            let silent = last_heard.elapsed();
            assert!(silent < TIMEOUT, "{} events, and no more", latencies.len());
            continue;
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock after 1970");
        last_heard = Instant::now();
        let event: Value =
            serde_json::from_slice(message.payload().unwrap_or_default()).expect("an event");
        let commit_us = event["source"]["ts_us"].as_i64().expect("source.ts_us");
        let now_us = i64::try_from(now.as_micros()).expect("a time");
        latencies.push((commit_us, (now_us - commit_us) as f64 / 1e3));
    }
    latencies
}
