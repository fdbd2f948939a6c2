//! How fast companion-sink is: the rows of one statement into both sinks, and the memory that takes.

use std::time::Instant;

use serde_json::json;

use crate::account::{self, rows};
use crate::median::{rounded, whole};
use crate::memory::{Memory, with_peak};
use crate::outcome::Outcome;
use crate::table::Table;
use crate::{start_bed, step};

/// Measures.
pub fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let mut client = database.source();
    account::create(&mut client);
    account::run(&mut client, "SELECT cdc_track('account')");
    let sink = step("companion-sink, FerretDB and the replica's server", || {
        database.start_companion_sink()
    });
    let at_rest = Memory::of(sink.pid());
    let topics = [database.topic("account")];
    let start = Instant::now();
    let name = format!("INSERT of {} rows into the replica", rows());
    let (replica_s, peak) = step(&name, || {
        with_peak(sink.pid(), || {
            account::run(&mut client, &account::insert(rows()));
            account::run(&mut client, "SELECT cdc_wait('5 min')");
            sink.wait_until_sink_applied("replica", bed.kafka(), &topics);
            start.elapsed().as_secs_f64()
        })
    });
    let (history_s, later_peak) = step("the same rows into the history", || {
        with_peak(sink.pid(), || {
            sink.wait_until_sink_applied("history", bed.kafka(), &topics);
            start.elapsed().as_secs_f64()
        })
    });
    let (peak, after) = (peak.max(later_peak), Memory::of(sink.pid()));
    let per_s = |seconds: f64| whole(rows() as f64 / seconds);

    let mut table = Table::new(&["from the statement's start", "rows/s"]);
    table.row("replica", &[per_s(replica_s).to_string()]);
    table.row("history", &[per_s(history_s).to_string()]);
    Outcome {
        figures: json!({
            "rows": rows(),
            "replica_rows_per_s": per_s(replica_s),
            "history_documents_per_s": per_s(history_s),
            "companion_sink_rss_mb": peak.anonymous_mb(),
        }),
        raw: json!({
            "replica_s": rounded(replica_s),
            "history_s": rounded(history_s),
            "memory": {"at_rest": at_rest.json(), "peak": peak.json(), "after": after.json()},
        }),
        settings: json!({"sinks": ["replica", "history"]}),
        table,
    }
}
