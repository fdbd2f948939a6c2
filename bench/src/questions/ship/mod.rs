//! The way from the commit into Kafka: events per second beside Debezium's and beside what librdkafka can do at all, and
//! the memory of those who ship.

mod raw_producer;

use std::time::Instant;

use pg_cdc_tests::kafka::Kafka;
use postgres::Client;
use serde_json::{Value, json};

use self::raw_producer::Records;
use crate::account::{self, rows};
use crate::bed::{sender_pid, start_bed, step};
use crate::debezium::{self, OtherSide};
use crate::measures::median::{all_rounded, median, rounded, whole};
use crate::measures::memory::{Memory, with_peak};
use crate::measures::threads::process_cpu_s;
use crate::outcome::{Outcome, settings};
use crate::table::Table;

const ROUNDS: usize = 5;
/// Rows of the one large transaction, for each of those of the other statements.
const LARGE_TRANSACTION: i64 = 10;

/// Who ships, or what is the limit.
#[derive(Clone, Copy)]
enum Party {
    PgCdc,
    Debezium,
    RawProducer,
}

const PARTIES: [Party; 3] = [Party::PgCdc, Party::Debezium, Party::RawProducer];

impl Party {
    fn label(self) -> &'static str {
        match self {
            Party::PgCdc => "pg_cdc",
            Party::Debezium => "Debezium",
            Party::RawProducer => "raw producer",
        }
    }
}

/// What it takes one that ships, an entry per round.
#[derive(Default)]
struct Times {
    /// From COMMIT until everything is in Kafka.
    insert_s: Vec<f64>,
    update_s: Vec<f64>,
    /// On a core, for both statements.
    cpu_s: Vec<f64>,
    peak: Memory,
}

impl Times {
    fn events_per_s(&self) -> Vec<f64> {
        let rounds = self.insert_s.iter().zip(&self.update_s);
        rounds
            .map(|(insert_s, update_s)| 2.0 * rows() as f64 / (insert_s + update_s))
            .collect()
    }

    /// Medians of both statements, in events per second.
    fn by_statement(&self) -> [f64; 2] {
        [&self.insert_s, &self.update_s].map(|seconds| rows() as f64 / median(seconds))
    }

    fn json(&self) -> Value {
        json!({
            "insert_s": all_rounded(&self.insert_s),
            "update_s": all_rounded(&self.update_s),
            "events_per_s": self.events_per_s().into_iter().map(whole).collect::<Vec<_>>(),
            "cpu_s": all_rounded(&self.cpu_s),
            "peak_memory": self.peak.json(),
        })
    }
}

/// What it takes the raw producer, an entry per round.
#[derive(Default)]
struct RawTimes {
    seconds: Vec<f64>,
    cpu_s: Vec<f64>,
}

impl RawTimes {
    fn events_per_s(&self) -> Vec<f64> {
        self.seconds
            .iter()
            .map(|s| 2.0 * rows() as f64 / s)
            .collect()
    }

    fn json(&self, record_bytes: usize) -> Value {
        json!({
            "seconds": all_rounded(&self.seconds),
            "cpu_s": all_rounded(&self.cpu_s),
            "events_per_s": self.events_per_s().into_iter().map(whole).collect::<Vec<_>>(),
            "bytes_per_event": (record_bytes as i64) / (2 * rows()),
        })
    }
}

#[derive(Default)]
struct Figures {
    ours: Times,
    theirs: Times,
    raw: RawTimes,
}

/// Those who ship, and connections to their sources.
struct Sides<'a> {
    // Dropped in this order.
    other_client: Client,
    other: OtherSide,
    client: Client,
    sender: u32,
    kafka: &'a Kafka,
}

impl Sides<'_> {
    /// Not counted: Java compiles what it runs often.
    fn warm_up(&mut self, load: &str) {
        step(&format!("warm-up, pg_cdc: {load}"), || {
            measure_pg_cdc(&mut self.client, self.sender, &mut Times::default());
        });
        step(&format!("warm-up, Debezium: {load}"), || {
            measure_debezium(
                self.kafka,
                &self.other,
                &mut self.other_client,
                &mut Times::default(),
            );
        });
    }

    fn measure_rounds(&mut self, records: &Records, load: &str) -> Figures {
        let mut figures = Figures::default();
        for round in 0..ROUNDS {
            for place in 0..PARTIES.len() {
                // Who goes first changes from round to round.
                let party = PARTIES[(round + place) % PARTIES.len()];
                step(
                    &format!("round {}, {}: {load}", round + 1, party.label()),
                    || self.measure(party, round, records, &mut figures),
                );
            }
        }
        figures
    }

    fn measure(&mut self, party: Party, round: usize, records: &Records, figures: &mut Figures) {
        match party {
            Party::PgCdc => measure_pg_cdc(&mut self.client, self.sender, &mut figures.ours),
            Party::Debezium => {
                measure_debezium(
                    self.kafka,
                    &self.other,
                    &mut self.other_client,
                    &mut figures.theirs,
                );
            }
            Party::RawProducer => {
                let topic = format!("raw_{}", round + 1);
                let ours = std::process::id();
                let (seconds, cpu_s) = with_cpu_s(ours, || records.send(self.kafka, &topic));
                figures.raw.seconds.push(seconds);
                figures.raw.cpu_s.push(cpu_s);
            }
        }
    }
}

/// Seconds on a core that a process needs for a piece of work.
fn with_cpu_s<T>(pid: u32, work: impl FnOnce() -> T) -> (T, f64) {
    let before = process_cpu_s(pid);
    let result = work();
    (result, process_cpu_s(pid) - before)
}

fn cpu_us_per_event(cpu_s: &[f64]) -> String {
    format!("{:.1}", median(cpu_s) * 1e6 / (2.0 * rows() as f64))
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let kafka = bed.kafka();
    let database = bed.database("bench");
    let mut client = database.source();
    let other = step("Debezium and its server", || OtherSide::start(&bed));
    let other_client = other.server().connect(debezium::DATABASE);
    let sender = sender_pid(&mut client);
    let mut sides = Sides {
        other_client,
        other,
        client,
        sender,
        kafka,
    };

    let load = format!("INSERT and UPDATE of {} rows", rows());
    sides.warm_up(&load);
    let records = step("the records of pg_cdc, read back into memory", || {
        Records::read(kafka, &database.topic("account"))
    });
    assert_eq!(records.count() as i64, 2 * rows(), "row changes in Kafka");
    step("warm-up, raw producer: the same records", || {
        records.send(kafka, "raw_warm_up");
    });
    let figures = sides.measure_rounds(&records, &load);
    let record_bytes = records.bytes();
    drop(records);
    let large_rows = rows() * LARGE_TRANSACTION;
    let name = format!("one transaction of {large_rows} rows");
    let large = step(&name, || {
        measure_large_transaction(&mut sides.client, sender, large_rows)
    });

    let table = table(&figures, large);
    let Figures { ours, theirs, raw } = figures;
    let (our_speed, their_speed) = (median(&ours.events_per_s()), median(&theirs.events_per_s()));
    let raw_speed = median(&raw.events_per_s());
    Outcome {
        figures: json!({
            "events_per_s": whole(our_speed),
            "debezium_events_per_s": whole(their_speed),
            "raw_producer_events_per_s": whole(raw_speed),
            "speedup": rounded(our_speed / their_speed),
            "of_limit": rounded(our_speed / raw_speed),
            "sender_rss_mb": ours.peak.anonymous_mb(),
            "sender_rss_5m_mb": large.anonymous_mb(),
            "debezium_rss_mb": theirs.peak.anonymous_mb(),
        }),
        raw: json!({
            "pg_cdc": ours.json(),
            "debezium": theirs.json(),
            "raw_producer": raw.json(record_bytes),
            "large_transaction": {"rows": large_rows, "sender_peak_memory": large.json()},
        }),
        settings: json!({
            "columns": 9,
            "rounds": ROUNDS,
            "debezium": OtherSide::settings(),
            "raw_producer": settings(&raw_producer::settings()),
        }),
        table,
    }
}

fn table(Figures { ours, theirs, raw }: &Figures, large: Memory) -> Table {
    let mut table = Table::new(&[
        "",
        "events/s",
        "of INSERT",
        "of UPDATE",
        "CPU µs/event",
        "memory MB",
        "one large transaction MB",
    ]);
    let megabytes = |memory: Memory| format!("{:.1}", memory.anonymous_mb());
    for (party, speed, times, large) in [
        (
            Party::PgCdc,
            median(&ours.events_per_s()),
            ours,
            megabytes(large),
        ),
        (
            Party::Debezium,
            median(&theirs.events_per_s()),
            theirs,
            String::new(),
        ),
    ] {
        let [insert, update] = times.by_statement().map(|speed| whole(speed).to_string());
        let speed = whole(speed).to_string();
        table.row(
            party.label(),
            &[
                speed,
                insert,
                update,
                cpu_us_per_event(&times.cpu_s),
                megabytes(times.peak),
                large,
            ],
        );
    }
    let speed = whole(median(&raw.events_per_s())).to_string();
    table.row(
        Party::RawProducer.label(),
        &[
            speed,
            String::new(),
            String::new(),
            cpu_us_per_event(&raw.cpu_s),
        ],
    );
    table
}

fn measure_pg_cdc(client: &mut Client, sender: u32, times: &mut Times) {
    account::create(client);
    account::run(client, "SELECT cdc_track('account')");
    measure_statements(client, sender, times, |client| {
        account::run(client, "SELECT cdc_wait('30 min')");
    });
}

fn measure_debezium(kafka: &Kafka, other: &OtherSide, client: &mut Client, times: &mut Times) {
    OtherSide::create_account(client);
    let mut wanted = other.records(kafka);
    other.awake(|| {
        measure_statements(client, other.pid(), times, |_| {
            wanted += rows();
            other.wait_for_records(kafka, wanted);
        });
    });
}

/// Each statement in a transaction of its own, and the seconds from sending COMMIT until `wait` returns; CPU and memory of
/// the process `pid` meanwhile.
fn measure_statements(
    client: &mut Client,
    pid: u32,
    times: &mut Times,
    mut wait: impl FnMut(&mut Client),
) {
    account::run(client, "CHECKPOINT");
    let insert = account::insert(rows());
    let statements = [insert.as_str(), account::UPDATE];
    let work = || {
        statements.map(|statement| {
            account::run(client, &format!("BEGIN; {statement}"));
            let start = Instant::now();
            account::run(client, "COMMIT");
            wait(client);
            start.elapsed().as_secs_f64()
        })
    };
    let (([insert_s, update_s], cpu_s), peak) = with_peak(pid, || with_cpu_s(pid, work));
    times.insert_s.push(insert_s);
    times.update_s.push(update_s);
    times.cpu_s.push(cpu_s);
    times.peak = times.peak.max(peak);
}

/// The highest memory of the sender.
fn measure_large_transaction(client: &mut Client, sender: u32, rows: i64) -> Memory {
    account::create(client);
    account::run(client, "SELECT cdc_track('account')");
    account::run(client, "CHECKPOINT");
    let ((), peak) = with_peak(sender, || {
        account::run(client, &account::insert(rows));
        account::run(client, "SELECT cdc_wait('2 h')");
    });
    peak
}
