//! `./dev bench`: one subcommand per question, progress on standard output, the figures as JSON in the last line.
//!
//! Figures that are compared come from one run, their variants interleaved, and are given as ratios too: absolute
//! times of one machine say little on another.

mod account;
mod capture;
mod latency;
mod median;
mod memory;
mod shapes;
mod ship;
mod snapshot;

use std::process::ExitCode;
use std::time::Instant;

use pg_cdc_tests::TestBed;
use pg_cdc_tests::bed::Ports;

const HELP: &str = "\
Usage: pg_cdc_bench COMMAND

  capture   what capture costs a writer: 500 000-row INSERT and UPDATE, WAL, one-row transactions per second, beside no
            trigger, one that does nothing, and an audit trigger in PL/pgSQL
  shapes    microseconds per row for rows of many columns, of toasted and of masked values, beside no trigger and one that
            does nothing
  memory    of a backend in a transaction of 20 times as many rows
  snapshot  rows per second of a snapshot of 2 000 000 rows while pgbench writes the table, and what it costs pgbench
  ship      events per second into Kafka, commit-to-consumer latency, memory of the sender and of companion-sink

  PG_CDC_BENCH_ROWS   rows of the large statements, 500000 if not set: fewer only to try the command";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let figures = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["capture"] => capture::run(),
        ["shapes"] => shapes::run(),
        ["memory"] => shapes::run_memory(),
        ["snapshot"] => snapshot::run(),
        ["ship"] => ship::run(),
        ["-h" | "--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    println!("{figures}");
    ExitCode::SUCCESS
}

/// A bed with a server that is large enough not to measure checkpoints.
fn start_bed() -> TestBed {
    let bed = TestBed::prepare(
        Ports::free(),
        &[
            ("shared_buffers", "1GB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
            ("autovacuum", "off"),
        ],
        &[],
    );
    step("Kafka", || drop(bed.kafka().brokers()));
    step("PostgreSQL", || drop(bed.source().url("")));
    bed
}

/// Does one step, and says how long it took.
fn step<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!(" ✓ {name:<60} {:>7.2} s", start.elapsed().as_secs_f64());
    result
}
