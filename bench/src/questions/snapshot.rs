//! How fast a snapshot of a large table is while others write it, and what it costs them.

use std::time::{Duration, Instant};

use pg_cdc_tests::wait::wait_for;
use serde_json::json;

use crate::account::{self, rows};
use crate::bed::{start_bed, step};
use crate::measures::median::{median, rounded, whole};
use crate::outcome::Outcome;
use crate::pgbench;
use crate::table::Table;

/// Rows of the table, for each of those of the other benches.
const TABLE: i64 = 4;
const WARM_UP_S: usize = 3;
const BASELINE: Duration = Duration::from_secs(18);
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Measures: transactions per second are medians over seconds of one run of pgbench, before the snapshot and while it is
/// made.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let mut client = database.source();
    let count = rows() * TABLE;
    step(&format!("{count} rows"), || {
        account::create(&mut client);
        account::run(&mut client, &account::insert(count));
        account::settle(&mut client);
        account::run(&mut client, "SELECT cdc_track('account')");
    });
    let arguments = [&pgbench::ARGUMENTS[..], &["-P", "1", "-T", "1800"]].concat();
    let load = pg_cdc_tests::pgbench::start(&database, &pgbench::script(), &arguments);
    step("pgbench alone", || std::thread::sleep(BASELINE));
    let before = tps_by_second(&load.output()).len();
    let start = Instant::now();
    let id: i64 = client
        .query_one("SELECT cdc_snapshot('account')", &[])
        .expect("cdc_snapshot")
        .get(0);
    step("a snapshot under pgbench", || {
        wait_for(
            "the snapshot",
            TIMEOUT,
            || {
                let query = "SELECT state FROM cdc_snapshots WHERE snapshot_id = $1";
                client
                    .query_one(query, &[&id])
                    .expect("its state")
                    .get::<_, String>(0)
            },
            |state| state == "done",
        );
    });
    let elapsed_s = start.elapsed().as_secs_f64();
    let seconds = tps_by_second(&load.output());
    load.stop();
    let (each_alone, each_meanwhile) = (&seconds[WARM_UP_S..before], &seconds[before..]);
    let (alone, meanwhile) = (median(each_alone), median(each_meanwhile));
    let rows_per_second = whole(count as f64 / elapsed_s);

    let mut table = Table::new(&["", "snapshot rows/s", "transactions/s"]);
    table.row("alone", &[String::new(), format!("{alone:.0}")]);
    table.row(
        "while a snapshot is made",
        &[rows_per_second.to_string(), format!("{meanwhile:.0}")],
    );
    Outcome {
        figures: json!({
            "rows": count,
            "rows_per_second": rows_per_second,
            "tps_alone": whole(alone),
            "tps_meanwhile": whole(meanwhile),
            "tps_ratio": rounded(meanwhile / alone),
        }),
        raw: json!({
            "snapshot_s": rounded(elapsed_s),
            "tps_of_each_second_alone": each_alone,
            "tps_of_each_second_meanwhile": each_meanwhile,
        }),
        settings: json!({
            "table_rows": count,
            "pgbench": pgbench::ARGUMENTS.join(" "),
            "pgbench_rows": pgbench::TABLE_ROWS,
        }),
        table,
    }
}

/// Transactions per second, out of pgbench's progress.
fn tps_by_second(output: &str) -> Vec<f64> {
    let lines = output.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" s, ")?;
        rest.split_once(" tps")?.0.parse().ok()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pgbenchs_progress() {
        let output = "pgbench (15.14)\nprogress: 1.0 s, 2171.9 tps, lat 1.830 ms stddev 0.9, 0 failed\n\
                      progress: 2.0 s, 2300.0 tps, lat 1.7 ms stddev 0.8, 0 failed\nprog";
        assert_eq!(tps_by_second(output), [2171.9, 2300.0]);
    }
}
