//! What capture costs a writer: the same statements on the same table, untracked and tracked (sender shipping).

use std::time::{Duration, Instant};

use pg_cdc_tests::{Database, TestBed, wait::wait_for};
use postgres::Client;
use serde_json::{Value, json};

use crate::account::{self, rows};
use crate::median::side_by_side;
use crate::{start_bed, step};

const ROUNDS: usize = 5;
const PGBENCH_ROUNDS: usize = 3;
const PGBENCH_SECONDS: &str = "10";
const PGBENCH_CLIENTS: &str = "4";
const PGBENCH_ROWS: i64 = 100_000;

/// Figures of one variant, one entry per round.
#[derive(Default)]
struct Figures {
    insert_s: Vec<f64>,
    update_s: Vec<f64>,
    insert_wal_bytes: Vec<f64>,
    update_wal_bytes: Vec<f64>,
}

/// Who is at work while one-row transactions are measured.
#[derive(Clone, Copy)]
enum Variant {
    Untracked,
    /// Tracked, the sender without a broker: what capture itself costs a writer.
    Captured,
    /// Tracked, and sender and broker share the machine with the writers.
    Shipped,
}

impl Variant {
    fn label(self) -> &'static str {
        match self {
            Variant::Untracked => label(false),
            Variant::Captured => "captured only",
            Variant::Shipped => label(true),
        }
    }
}

const VARIANTS: [Variant; 3] = [Variant::Untracked, Variant::Captured, Variant::Shipped];

/// Measures, and returns the figures.
pub fn run() -> Value {
    let bed = start_bed();
    let database = bed.database("bench");
    let mut client = database.source();
    // Index 0: untracked, 1: tracked.
    let mut figures = [Figures::default(), Figures::default()];
    for round in 0..ROUNDS {
        for tracked in order(round) {
            let name = format!(
                "round {}, {}: INSERT and UPDATE of {} rows",
                round + 1,
                label(tracked),
                rows()
            );
            step(&name, || {
                measure_statements(
                    &database,
                    &mut client,
                    tracked,
                    &mut figures[usize::from(tracked)],
                )
            });
        }
    }
    let mut tps_of = [const { Vec::new() }; VARIANTS.len()];
    step(
        "warm-up: the broker's code is compiled while it runs",
        || {
            measure_pgbench(&bed, &database, &mut client, Variant::Shipped);
        },
    );
    for round in 0..PGBENCH_ROUNDS {
        for place in 0..VARIANTS.len() {
            // Which variant goes first changes from round to round.
            let index = (round + place) % VARIANTS.len();
            let variant = VARIANTS[index];
            let name = format!("round {}, {}: one-row UPDATEs", round + 1, variant.label());
            step(&name, || {
                tps_of[index].push(measure_pgbench(&bed, &database, &mut client, variant))
            });
        }
    }
    let [untracked, tracked] = &figures;
    json!({
        "bench": "capture",
        "rows": rows(),
        "columns": 9,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "insert_seconds": side_by_side(&untracked.insert_s, &tracked.insert_s),
        "update_seconds": side_by_side(&untracked.update_s, &tracked.update_s),
        "insert_wal_bytes": side_by_side(&untracked.insert_wal_bytes, &tracked.insert_wal_bytes),
        "update_wal_bytes": side_by_side(&untracked.update_wal_bytes, &tracked.update_wal_bytes),
        "one_row_update_tps_4_clients_captured": side_by_side(&tps_of[0], &tps_of[1]),
        "one_row_update_tps_4_clients_shipped": side_by_side(&tps_of[0], &tps_of[2]),
    })
}

fn measure_statements(
    database: &Database<'_>,
    client: &mut Client,
    tracked: bool,
    figures: &mut Figures,
) {
    prepare(client, tracked);
    let (seconds, bytes) = measure(client, &account::insert(rows()));
    figures.insert_s.push(seconds);
    figures.insert_wal_bytes.push(bytes);
    // What is still to be shipped must not burden the next measurement.
    database.wait_until_in_kafka();
    account::settle(client);
    let (seconds, bytes) = measure(client, account::UPDATE);
    figures.update_s.push(seconds);
    figures.update_wal_bytes.push(bytes);
    database.wait_until_in_kafka();
}

/// Transactions per second.
fn measure_pgbench(
    bed: &TestBed,
    database: &Database<'_>,
    client: &mut Client,
    variant: Variant,
) -> f64 {
    prepare(client, !matches!(variant, Variant::Untracked));
    account::run(client, &account::insert(PGBENCH_ROWS));
    database.wait_until_in_kafka();
    account::settle(client);
    if matches!(variant, Variant::Captured) {
        set_brokers(bed, client, "", "unconfigured");
    }
    let output = run_pgbench(bed, database, &["-T", PGBENCH_SECONDS]);
    if matches!(variant, Variant::Captured) {
        set_brokers(bed, client, &bed.kafka().brokers(), "streaming");
    }
    database.wait_until_in_kafka();
    tps(&output)
}

fn set_brokers(bed: &TestBed, client: &mut Client, brokers: &str, state: &str) {
    bed.source().set("cdc.brokers", brokers);
    bed.source().reload();
    wait_for(
        "the sender to follow",
        Duration::from_secs(60),
        || {
            client
                .query_one("SELECT state FROM cdc_status()", &[])
                .expect("cdc_status")
                .get::<_, String>(0)
        },
        |now| now == state,
    );
}

/// One-row UPDATEs by four clients, with further arguments. Returns what pgbench printed.
pub fn run_pgbench(bed: &TestBed, database: &Database<'_>, arguments: &[&str]) -> String {
    let script = bed.path("one_row_update.sql");
    let text = format!(
        "\\set id random(1, {PGBENCH_ROWS})\nUPDATE account SET balance = balance + 1 WHERE id = :id;\n"
    );
    std::fs::write(&script, text).expect("write pgbench's script");
    let script = script.display().to_string();
    let fixed = [
        "-n",
        "-M",
        "prepared",
        "-c",
        PGBENCH_CLIENTS,
        "-j",
        "2",
        "-f",
        &script,
    ];
    bed.source().program(
        "pgbench",
        &[&fixed[..], arguments, &[database.name()]].concat(),
    )
}

/// Rows of the table that [`run_pgbench`] updates.
pub const PGBENCH_TABLE_ROWS: i64 = PGBENCH_ROWS;

/// Transactions per second out of pgbench's output.
///
/// # Panics
/// When they are not there.
pub fn tps(output: &str) -> f64 {
    let found = output.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = found
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("no tps in pgbench's output:\n{output}"))
}

fn prepare(client: &mut Client, tracked: bool) {
    account::create(client);
    if tracked {
        account::run(client, "SELECT cdc_track('account')");
    }
    account::run(client, "CHECKPOINT");
}

/// Seconds and WAL bytes of a statement.
fn measure(client: &mut Client, statement: &str) -> (f64, f64) {
    let before: String = position(client);
    let start = Instant::now();
    account::run(client, statement);
    let seconds = start.elapsed().as_secs_f64();
    let row = client.query_one(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::float8",
        &[&before],
    );
    (seconds, row.expect("WAL bytes").get(0))
}

fn position(client: &mut Client) -> String {
    client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .expect("WAL position")
        .get(0)
}

/// Which variant goes first changes from round to round.
fn order(round: usize) -> [bool; 2] {
    if round.is_multiple_of(2) {
        [false, true]
    } else {
        [true, false]
    }
}

fn label(tracked: bool) -> &'static str {
    if tracked { "tracked" } else { "untracked" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pgbenchs_output() {
        let output = "number of failed transactions: 0 (0.000%)\ntps = 1523.456 (without initial connection time)\n";
        assert_eq!(tps(output), 1523.456);
    }
}
