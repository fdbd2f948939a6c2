//! The way from Kafka into a read model: what a view makes of a shop's transactions, beside a history of the very same events in
//! the same server; and how soon an order is in the view.

mod shop;

use std::time::Instant;

use mongodb::sync::Client as Store;
use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::ferretdb::FerretDb;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::{Database, TestBed, port};
use postgres::Client;
use serde_json::{Value, json};

use self::shop::{DOCUMENTS, Stream};
use crate::account;
use crate::bed::{SERVER_SETTINGS, start_bed, step};
use crate::measures::median::{all_rounded, median, rounded, whole};
use crate::measures::memory::{Memory, megabytes, with_peak};
use crate::measures::visibility::{Lag, Load};
use crate::measures::{server_cpu, threads};
use crate::outcome::Outcome;
use crate::sink::{plan, wait_until_applied};
use crate::table::Table;

const ROUNDS: usize = 3;
/// Names of sinks.
const PARTIES: [&str; 2] = ["view", "history"];

/// What it takes to write all documents, an entry per round.
#[derive(Default)]
struct Times {
    seconds: Vec<f64>,
    /// On a core, of companion-sink.
    cpu_s: Vec<f64>,
    /// On a core, of the server behind FerretDB.
    server_cpu_s: Vec<f64>,
    peak: Memory,
}

impl Times {
    fn per_s(&self, things: i64) -> Vec<f64> {
        let rounds = self.seconds.iter();
        rounds.map(|seconds| things as f64 / seconds).collect()
    }

    fn json(&self, stream: Stream) -> Value {
        json!({
            "seconds": all_rounded(&self.seconds),
            "changes_per_s": self.per_s(stream.changes).into_iter().map(whole).collect::<Vec<_>>(),
            "cpu_s": all_rounded(&self.cpu_s),
            "postgresql_cpu_s": all_rounded(&self.server_cpu_s),
            "peak_memory": self.peak.json(),
        })
    }
}

/// The store of the documents.
struct Bench<'a> {
    database: Database<'a>,
    server: Postgres,
    ferretdb: FerretDb,
    store: Store,
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let bench = Bench::start(&bed);
    let mut source = bench.database.source();
    let stream = step("the shop's transactions, into Kafka", || {
        shop::fill(&mut source)
    });
    step("warm-up, view", || {
        let source = &mut source;
        bench.measure("view", "warm_up", source, stream, &mut Times::default());
    });
    let mut times = [Times::default(), Times::default()];
    for round in 0..ROUNDS {
        for place in 0..PARTIES.len() {
            // Who goes first changes from round to round.
            let place = (round + place) % PARTIES.len();
            let (party, name) = (PARTIES[place], format!("{}_{round}", PARTIES[place]));
            step(&format!("round {}, {party}", round + 1), || {
                bench.measure(party, &name, &mut source, stream, &mut times[place]);
            });
        }
    }
    let load = shop::load(median(&times[0].per_s(stream.changes)));
    let (lag, at_rest) = bench.measure_lag(load, &mut source, stream);
    outcome(stream, &times, load, &lag, at_rest)
}

fn outcome(
    stream: Stream,
    times: &[Times; PARTIES.len()],
    load: Load,
    lag: &Lag,
    at_rest: Memory,
) -> Outcome {
    let [view, history] = times;
    let changes_per_s = median(&view.per_s(stream.changes));
    let updates_per_s = median(&view.per_s(stream.updates));
    // A history has a document for each change.
    let history_docs_per_s = median(&history.per_s(stream.changes));
    let mut table = Table::new(&[
        "",
        "changes/s",
        "documents/s",
        "CPU µs/change",
        "PostgreSQL's CPU µs/change",
        "memory MB",
    ]);
    for (party, times, documents) in [
        ("view", view, stream.updates),
        ("history", history, stream.changes),
    ] {
        let us_per_change =
            |cpu_s: &[f64]| format!("{:.1}", median(cpu_s) * 1e6 / stream.changes as f64);
        table.row(
            party,
            &[
                whole(median(&times.per_s(stream.changes))).to_string(),
                whole(median(&times.per_s(documents))).to_string(),
                us_per_change(&times.cpu_s),
                us_per_change(&times.server_cpu_s),
                megabytes(times.peak.highest_resident).to_string(),
            ],
        );
    }
    Outcome {
        figures: json!({
            "view_updates_per_s": whole(updates_per_s),
            "view_changes_per_s": whole(changes_per_s),
            "history_docs_per_s": whole(history_docs_per_s),
            "changes_ratio": rounded(changes_per_s / history_docs_per_s),
            "updates_ratio": rounded(updates_per_s / history_docs_per_s),
            "lag_orders_per_s": load.commits_per_second,
            "lag_p50_ms": median(&lag.p50_ms),
            "lag_p99_ms": median(&lag.p99_ms),
            "lag_max_ms": median(&lag.max_ms),
            "rss_mb": megabytes(view.peak.highest_resident),
            "history_rss_mb": megabytes(history.peak.highest_resident),
        }),
        raw: json!({
            "view": view.json(stream),
            "history": history.json(stream),
            "lag": lag.json(),
            "memory_after_lag": at_rest.json(),
        }),
        settings: json!({
            "rounds": ROUNDS,
            "changes": stream.changes,
            "updates_of_documents": stream.updates,
            "lag": load.json(),
            "companion_sink": "defaults",
        }),
        table,
    }
}

impl Bench<'_> {
    fn start(bed: &TestBed) -> Bench<'_> {
        let database = bed.database("bench");
        let (server, ferretdb) = step("FerretDB and its server", || {
            let server = Postgres::create(&bed.path("documents"), port::free(), &SERVER_SETTINGS);
            server.start();
            let folder = bed.path("documents_ferretdb");
            let ferretdb = FerretDb::create(&folder, port::free(), &server, DOCUMENTS);
            ferretdb.start();
            (server, ferretdb)
        });
        Bench {
            store: ferretdb.client(),
            database,
            server,
            ferretdb,
        }
    }

    /// A companion-sink whose sinks write into the database `name`.
    fn companion_sink(&self, name: &str) -> CompanionSink {
        let plan = plan(&self.database, name, &shop::topics(&self.database));
        self.database.bed().companion_sink(Plan {
            mongo_url: self.ferretdb.url(),
            mongo_database: name.to_owned(),
            more_toml: shop::view(&self.database, &self.ferretdb.url(), name),
            ..plan
        })
    }

    /// One sink into a new database, which is gone afterwards, from companion-sink's start until all is written.
    fn measure(
        &self,
        party: &str,
        name: &str,
        source: &mut Client,
        stream: Stream,
        times: &mut Times,
    ) {
        account::run(&mut self.server.connect("postgres"), "CHECKPOINT");
        let sink = self.companion_sink(name);
        let (server_cpu_s, start) = (server_cpu::seconds(&self.server), Instant::now());
        sink.start_only(&[party]);
        let (seconds, peak) = with_peak(sink.pid(), || {
            wait_until_applied(&sink, party, stream.changes);
            start.elapsed().as_secs_f64()
        });
        times.seconds.push(seconds);
        times.cpu_s.push(threads::process_cpu_s(sink.pid()));
        let server_cpu_s = server_cpu::seconds(&self.server) - server_cpu_s;
        times.server_cpu_s.push(server_cpu_s);
        times.peak = times.peak.max(peak);
        if party == "view" {
            shop::wait_until_equal(source, &self.server, name);
        }
        sink.stop();
        let dropped = self.store.database(name).drop().run();
        dropped.expect("drop the documents");
    }

    /// Orders at a steady rate into a view that has all others, and companion-sink's memory afterwards.
    fn measure_lag(&self, load: Load, source: &mut Client, stream: Stream) -> (Lag, Memory) {
        let name = "lag";
        let sink = self.companion_sink(name);
        step("a view to be asked", || {
            sink.start_only(&["view"]);
            wait_until_applied(&sink, "view", stream.changes);
            shop::wait_until_equal(source, &self.server, name);
        });
        let mut lag = Lag::default();
        let orders = format!("{} orders per second", load.commits_per_second);
        step(&orders, || {
            lag.add(shop::measure_lag(load, source, &self.server, name));
            shop::wait_until_equal(source, &self.server, name);
        });
        let at_rest = Memory::of(sink.pid());
        sink.stop();
        (lag, at_rest)
    }
}
