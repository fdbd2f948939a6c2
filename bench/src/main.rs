//! `./dev bench`: one subcommand per question, progress on standard output, the figures as JSON in the last line.
//!
//! Figures that are compared come from one run, their variants interleaved, and are given as ratios too: absolute
//! times of one machine say little on another.

mod account;
mod bed;
mod debezium;
mod measures;
mod outcome;
mod pgbench;
mod questions;
mod sink;
mod table;

use std::process::ExitCode;

use crate::measures::stolen::CpuTime;
use crate::outcome::Outcome;
use crate::questions::{
    capture, effects, history, idle, latency, replica, shapes, ship, snapshot, statistics, view,
};

const HELP: &str = "\
Usage: pg_cdc_bench COMMAND

  capture   what capture costs a writer: 500 000-row INSERT and UPDATE, WAL, one-row transactions per second, beside no
            trigger, one that does nothing, and an audit trigger in PL/pgSQL
  shapes    microseconds per row for rows of many columns, of toasted and of masked values, beside no trigger and one that
            does nothing
  memory    of a backend in a transaction of 20 times as many rows
  snapshot  rows per second of a snapshot of 2 000 000 rows while pgbench writes the table, and what it costs pgbench
  ship      events per second into Kafka from the commit of 500 000 INSERTs and 500 000 UPDATEs, beside Debezium and beside
            librdkafka with the same records ready; memory of the sender, of Debezium, and in a transaction of 5 000 000 rows
  latency   from commit to consumer at 2 000 commits per second, beside Debezium
  idle      of the sender: CPU and wake-ups by thread, and WAL, while nothing changes; CPU for 1 GB of WAL of others
  replica   rows per second of companion-sink from Kafka into a replica, for 200 000 INSERTs, UPDATEs and DELETEs, and its
            memory; from commit to visibility there at 300 commits per second; both beside Debezium's JDBC sink; the same
            for 10 000 changes at 500 per second, with the largest, of companion-sink alone
  history   documents per second of companion-sink from Kafka into a history, for 200 000 changes, and its memory; beside a bare
            insert_many of the same documents
  view      changes per second of companion-sink from Kafka into a read model of orders with items and customer, and the documents
            that they change, beside a history of the same topics; from commit to visibility at half that rate; memory
  effects   webhooks per second at 1, 8 and 64 at once, and mails at 8 and 64, beside bare loops to the same receivers; memory
  statistics  rows per second of companion-sink from Kafka into figures, beside reading the topic alone; bytes per key of its
            store; seconds to restore a store of a million keys from its changelog; memory

  PG_CDC_BENCH_ROWS   rows of the large statements, 500000 if not set: fewer only to try the command (those of companion-sink
                      have their share)

Each ends with a small table and the figures as JSON in the last line, and writes bench/results/COMMAND.json: machine,
versions, settings, and all rounds.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run: fn() -> Outcome = match arguments[..] {
        ["capture"] => capture::run,
        ["shapes"] => shapes::run,
        ["memory"] => shapes::run_memory,
        ["snapshot"] => snapshot::run,
        ["ship"] => ship::run,
        ["latency"] => latency::run,
        ["idle"] => idle::run,
        ["replica"] => replica::run,
        ["history"] => history::run,
        ["view"] => view::run,
        ["effects"] => effects::run,
        ["statistics"] => statistics::run,
        ["-h" | "--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    let before = CpuTime::now();
    let outcome = run();
    let stolen = before.zip(CpuTime::now());
    let stolen_percent = stolen.map(|(before, after)| after.stolen_percent(before));
    outcome::publish(arguments[0], &outcome, stolen_percent);
    ExitCode::SUCCESS
}
