//! The way from Kafka into figures: rows per second of a sink of figures, beside reading the same topic and nothing else; what its
//! store takes; and how long it takes to restore a lost store of a million keys from its changelog.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::{Database, topic};
use postgres::Client;
use serde_json::{Value, json};

use crate::account::{self, FULL_ROWS, rows};
use crate::bed::{start_bed, step};
use crate::measures::median::{all_rounded, median, rounded, whole};
use crate::measures::memory::{Memory, megabytes, with_peak};
use crate::measures::threads;
use crate::outcome::Outcome;
use crate::sink::{plan, wait_until_applied};
use crate::table::Table;

const ROUNDS: usize = 3;
const SINK: &str = "figures";
/// Changes that are counted in a round, for a run of full size: half of them INSERTs, half UPDATEs.
const FULL_CHANGES: i64 = 100_000;
/// Rows whose store is lost: of each are a row, a highest amount and a customer.
const FULL_RESTORED_ROWS: i64 = 340_000;
const TIMEOUT: Duration = Duration::from_secs(1800);

/// What is counted: four measures by day and country, of which two keep each value.
const COUNTED: &str = "time = \"after.created\"\ntime_zone = \"Europe/Zurich\"\ngroup_by = [\"after.country\"]\n\
    measures = [\"count()\", \"sum(after.amount) as total\", \"max(after.amount)\", \"distinct(after.customer)\"]\n";

fn of_full_size(full: i64) -> i64 {
    full * rows() / FULL_ROWS
}

/// What counting takes, an entry per round.
#[derive(Default)]
struct Figures {
    seconds: Vec<f64>,
    cpu_s: Vec<f64>,
    /// Of reading the topic, and nothing else.
    reading_s: Vec<f64>,
    peak: Memory,
}

/// A store, as companion-sink tells it.
struct StoreSize {
    keys: i64,
    bytes: i64,
}

/// A store that was lost, and came back.
struct Restored {
    before: StoreSize,
    after: StoreSize,
    /// Records of the changelog, which has not been compacted.
    records: i64,
    seconds: f64,
    peak: Memory,
}

impl Figures {
    fn rows_per_s(seconds: &[f64]) -> Vec<f64> {
        let changes = of_full_size(FULL_CHANGES) as f64;
        seconds.iter().map(|seconds| changes / seconds).collect()
    }

    fn json(&self) -> Value {
        json!({
            "seconds": all_rounded(&self.seconds),
            "cpu_s": all_rounded(&self.cpu_s),
            "reading_seconds": all_rounded(&self.reading_s),
            "peak_memory": self.peak.json(),
        })
    }
}

impl StoreSize {
    fn of(sink: &CompanionSink) -> StoreSize {
        let state = sink.state_of(SINK);
        let figure = |name: &str| state[name].as_i64().expect("the store's size");
        StoreSize {
            keys: figure("store_keys"),
            bytes: figure("store_bytes"),
        }
    }

    fn json(&self) -> Value {
        json!({"keys": self.keys, "bytes": self.bytes})
    }
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let mut source = database.source();
    let changes = of_full_size(FULL_CHANGES);
    step(&format!("{changes} changes into Kafka"), || {
        fill(&mut source, "orders", changes / 2);
        account::run(&mut source, "UPDATE orders SET amount = amount + 1");
        account::run(&mut source, "SELECT cdc_wait('30 min')");
    });
    let restored_rows = of_full_size(FULL_RESTORED_ROWS);
    step(&format!("{restored_rows} rows into Kafka"), || {
        fill(&mut source, "many", restored_rows);
        account::run(&mut source, "SELECT cdc_wait('30 min')");
    });
    let mut figures = Figures::default();
    step("warm-up", || {
        count(&database, "warm_up", changes, &mut Figures::default());
    });
    for round in 1..=ROUNDS {
        step(&format!("round {round}, reading alone"), || {
            figures.reading_s.push(read(&database, changes));
        });
        step(&format!("round {round}, counting"), || {
            count(&database, &format!("round_{round}"), changes, &mut figures);
        });
    }
    let restored = restore(&database, restored_rows);
    outcome(&figures, &restored)
}

fn outcome(figures: &Figures, restored: &Restored) -> Outcome {
    let ours = median(&Figures::rows_per_s(&figures.seconds));
    let reading = median(&Figures::rows_per_s(&figures.reading_s));
    let StoreSize { keys, bytes } = restored.before;
    let mut table = Table::new(&["", "figure"]);
    for (label, figure) in [
        ("rows counted/s", whole(ours).to_string()),
        ("rows read/s", whole(reading).to_string()),
        (
            "memory MB",
            megabytes(figures.peak.highest_resident).to_string(),
        ),
        ("keys in the store", keys.to_string()),
        ("bytes/key", (bytes / keys).to_string()),
        ("restored s", rounded(restored.seconds).to_string()),
        (
            "memory MB while restoring",
            megabytes(restored.peak.highest_resident).to_string(),
        ),
    ] {
        table.row(label, &[figure]);
    }
    Outcome {
        figures: json!({
            "rows_per_s": whole(ours),
            "reading_rows_per_s": whole(reading),
            "ratio": rounded(ours / reading),
            "store_keys": keys,
            "store_mb": megabytes(bytes.unsigned_abs()),
            "store_bytes_per_key": bytes / keys,
            "restored_store_mb": megabytes(restored.after.bytes.unsigned_abs()),
            "restore_s": rounded(restored.seconds),
            "restored_keys_per_s": whole(keys as f64 / restored.seconds),
            "rss_mb": megabytes(figures.peak.highest_resident),
            "restore_rss_mb": megabytes(restored.peak.highest_resident),
        }),
        raw: json!({
            "counting": figures.json(),
            "restoring": {
                "store": restored.before.json(),
                "restored_store": restored.after.json(),
                "changelog_records": restored.records,
                "peak_memory": restored.peak.json(),
            },
        }),
        settings: json!({
            "rounds": ROUNDS,
            "changes": of_full_size(FULL_CHANGES),
            "restored_rows": of_full_size(FULL_RESTORED_ROWS),
            "sink": COUNTED,
        }),
        table,
    }
}

/// Makes a tracked table of orders over a year.
fn fill(source: &mut Client, table: &str, rows: i64) {
    let create = format!(
        "CREATE TABLE {table} (id bigint PRIMARY KEY, customer bigint, country text, amount numeric(12, 2), created timestamptz);
         SELECT cdc_track('{table}')"
    );
    account::run(source, &create);
    let insert = format!(
        "INSERT INTO {table} SELECT n, n % 20011, (ARRAY['CH', 'DE', 'AT', 'FR'])[1 + n % 4], n * 37 % 1000003 / 100.0,
             timestamptz '2026-01-01 12:00' + n % 365 * interval '1 day'
         FROM generate_series(1, {rows}) AS n"
    );
    account::run(source, &insert);
}

/// Reads the topic; the seconds from its first record to its last.
fn read(database: &Database<'_>, changes: i64) -> f64 {
    let mut first = None;
    let mut last = Instant::now();
    let mut records = 0;
    topic::visit(database.bed().kafka(), &database.topic("orders"), |_| {
        last = Instant::now();
        first.get_or_insert(last);
        records += 1;
    });
    assert_eq!(records, changes, "records");
    last.duration_since(first.expect("records")).as_secs_f64()
}

fn companion_sink(database: &Database<'_>, name: &str, table: &str, store: &Path) -> CompanionSink {
    let topic = database.topic(table);
    let more_toml = format!(
        "[sink.{SINK}]\nkind = \"statistics\"\ntopics = [\"{topic}\"]\nstore = {}\n{COUNTED}",
        Value::from(store.to_string_lossy().into_owned())
    );
    database.bed().companion_sink(Plan {
        more_toml,
        ..plan(database, name, std::slice::from_ref(&topic))
    })
}

/// Counts all changes, into a new store. The time begins with the first that is counted: before, companion-sink finds out who
/// counts.
fn count(database: &Database<'_>, name: &str, changes: i64, figures: &mut Figures) {
    let store = database.bed().path(name);
    let sink = companion_sink(database, name, "orders", &store);
    sink.start_only(&[SINK]);
    let (seconds, peak) = with_peak(sink.pid(), || {
        let start = wait_until_running(&sink);
        wait_until_applied(&sink, SINK, changes);
        start.elapsed().as_secs_f64()
    });
    figures.seconds.push(seconds);
    figures.cpu_s.push(threads::process_cpu_s(sink.pid()));
    figures.peak = figures.peak.max(peak);
    sink.stop();
    fs::remove_dir_all(store).expect("the store");
}

/// Waits until a sink reads; when that was seen.
fn wait_until_running(sink: &CompanionSink) -> Instant {
    pg_cdc_tests::wait_until("the sink to run", TIMEOUT, || {
        let state = sink.state_of(SINK);
        (state["state"] == "running")
            .then(Instant::now)
            .ok_or(state)
    })
}

/// Counts many rows, loses the store, and brings it back.
fn restore(database: &Database<'_>, restored_rows: i64) -> Restored {
    let name = "restored";
    let store = database.bed().path(name);
    let sink = companion_sink(database, name, "many", &store);
    let before = step("a store that will be lost", || {
        sink.start_only(&[SINK]);
        wait_until_applied(&sink, SINK, restored_rows);
        sink.stop();
        sink.start_only(&[SINK]);
        wait_until_running(&sink);
        StoreSize::of(&sink)
    });
    sink.stop();
    fs::remove_dir_all(&store).expect("the store");
    fs::remove_file(sink.log_file()).expect("the log");
    let changelog = format!("{name}.{SINK}.changelog");
    let offsets = topic::offsets(database.bed().kafka(), &changelog).expect("the changelog");
    let restored = step("the store, from the changelog", || {
        sink.start_only(&[SINK]);
        sink.wait_for_log("restoring the figures");
        let start = Instant::now();
        let (seconds, peak) = with_peak(sink.pid(), || {
            wait_until_running(&sink);
            start.elapsed().as_secs_f64()
        });
        Restored {
            before,
            after: StoreSize::of(&sink),
            records: offsets.values().map(|offsets| offsets.end).sum(),
            seconds,
            peak,
        }
    });
    sink.stop();
    assert_eq!(restored.after.keys, restored.before.keys, "restored keys");
    restored
}
