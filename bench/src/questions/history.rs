//! The way from Kafka into a history: documents per second of companion-sink, beside a bare `insert_many` of the very same
//! documents into the same server, as fast as it can be asked.

use std::time::{Duration, Instant};

use mongodb::IndexModel;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use mongodb::sync::{Client, Collection};
use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::ferretdb::FerretDb;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::{Database, TestBed, port, topic};
use serde_json::{Value, json};

use crate::account::{self, FULL_ROWS, rows};
use crate::bed::{SERVER_SETTINGS, start_bed, step};
use crate::measures::median::{all_rounded, median, rounded, whole};
use crate::measures::memory::{Memory, megabytes, with_peak};
use crate::measures::server_cpu;
use crate::measures::threads::{self, Thread};
use crate::outcome::Outcome;
use crate::sink::{plan, wait_until_applied};
use crate::table::Table;

const ROUNDS: usize = 3;
/// Changes in the backlog, for a run of full size: half of them INSERTs, half UPDATEs.
const FULL_CHANGES: i64 = 200_000;
/// FerretDB's database in PostgreSQL.
const DOCUMENTS: &str = "documents";
/// As companion-sink's default (`batch` of a `mongo_history` sink).
const DOCUMENTS_PER_CALL: usize = 2000;
const COLLECTION: &str = "account_history";
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Who writes the documents.
#[derive(Clone, Copy)]
enum Party {
    CompanionSink,
    InsertMany,
    InsertManyWithoutIndexes,
}

const PARTIES: [Party; 3] = [
    Party::CompanionSink,
    Party::InsertMany,
    Party::InsertManyWithoutIndexes,
];

impl Party {
    fn label(self) -> &'static str {
        match self {
            Party::CompanionSink => "companion-sink",
            Party::InsertMany => "insert_many",
            Party::InsertManyWithoutIndexes => "insert_many, no indexes",
        }
    }
}

fn changes() -> i64 {
    FULL_CHANGES * rows() / FULL_ROWS
}

/// What it takes to write all documents, an entry per round.
#[derive(Default)]
struct Times {
    seconds: Vec<f64>,
    /// On a core, of the one who writes.
    cpu_s: Vec<f64>,
    /// On a core, of the server behind FerretDB.
    server_cpu_s: Vec<f64>,
}

impl Times {
    fn add(&mut self, seconds: f64, cpu_s: f64, server_cpu_s: f64) {
        self.seconds.push(seconds);
        self.cpu_s.push(cpu_s);
        self.server_cpu_s.push(server_cpu_s);
    }

    fn documents_per_s(&self) -> Vec<f64> {
        let rounds = self.seconds.iter();
        rounds.map(|seconds| changes() as f64 / seconds).collect()
    }

    fn json(&self) -> Value {
        json!({
            "seconds": all_rounded(&self.seconds),
            "docs_per_s": self.documents_per_s().into_iter().map(whole).collect::<Vec<_>>(),
            "cpu_s": all_rounded(&self.cpu_s),
            "postgresql_cpu_s": all_rounded(&self.server_cpu_s),
        })
    }
}

/// The store of the documents, and those who write them.
struct Bench<'a> {
    database: Database<'a>,
    server: Postgres,
    ferretdb: FerretDb,
    client: Client,
}

/// companion-sink's memory and threads.
#[derive(Default)]
struct SinkProcess {
    peak: Memory,
    after: Memory,
    /// Of the last round.
    threads: Vec<Thread>,
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let bench = Bench::start(&bed);
    let mut own = SinkProcess::default();
    let warm_up = "warm_up";
    step("warm-up, companion-sink", || {
        bench.run_companion_sink(warm_up, &mut Times::default(), &mut own);
    });
    let written = bench.collection(warm_up);
    let indexes = indexes(&written);
    let documents = step("its documents, read back into memory", || read(&written));
    assert_eq!(documents.len() as i64, changes(), "documents");
    bench.drop_documents(warm_up);

    let times = bench.measure_rounds(&documents, &indexes, &mut own);
    let table = table(&times, &own);
    let [ours, bare, bare_no_index] =
        [0, 1, 2].map(|place: usize| median(&times[place].documents_per_s()));
    let bytes: usize = documents
        .iter()
        .map(|document| document.as_bytes().len())
        .sum();
    let [ours_raw, bare_raw, bare_no_index_raw] = times.map(|times| times.json());
    Outcome {
        figures: json!({
            "docs_per_s": whole(ours),
            "insert_many_docs_per_s": whole(bare),
            "ratio": rounded(ours / bare),
            "insert_many_no_index_docs_per_s": whole(bare_no_index),
            "rss_mb": megabytes(own.peak.highest_resident),
        }),
        raw: json!({
            "companion_sink": ours_raw,
            "insert_many": bare_raw,
            "insert_many_no_index": bare_no_index_raw,
            "threads": threads::json(&own.threads),
            "memory": {"peak": own.peak.json(), "after": own.after.json()},
            "bytes_per_document": bytes / documents.len(),
        }),
        settings: json!({
            "rounds": ROUNDS,
            "changes": changes(),
            "documents_per_call": DOCUMENTS_PER_CALL,
            "ordered": false,
            "write_concern": "majority, journal",
            "indexes": indexes.iter().map(|index| Value::from(index.keys.to_string())).collect::<Vec<_>>(),
            "companion_sink": "defaults",
        }),
        table,
    }
}

fn table(times: &[Times; PARTIES.len()], own: &SinkProcess) -> Table {
    let mut table = Table::new(&[
        "",
        "documents/s",
        "CPU µs/document",
        "PostgreSQL's CPU µs/document",
        "memory MB",
    ]);
    for (party, times) in PARTIES.iter().zip(times) {
        let us_per_document =
            |cpu_s: &[f64]| format!("{:.1}", median(cpu_s) * 1e6 / changes() as f64);
        let mut row = vec![
            whole(median(&times.documents_per_s())).to_string(),
            us_per_document(&times.cpu_s),
            us_per_document(&times.server_cpu_s),
        ];
        if matches!(party, Party::CompanionSink) {
            row.push(megabytes(own.peak.highest_resident).to_string());
        }
        table.row(party.label(), &row);
    }
    table
}

impl Bench<'_> {
    /// Starts the store, and fills the topic.
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
        step(&format!("{} changes into Kafka", changes()), || {
            let mut source = database.source();
            account::create(&mut source);
            account::run(&mut source, "SELECT cdc_track('account')");
            account::run(&mut source, &account::insert(changes() / 2));
            account::run(&mut source, account::UPDATE);
            account::run(&mut source, "SELECT cdc_wait('30 min')");
        });
        Bench {
            client: ferretdb.client(),
            database,
            server,
            ferretdb,
        }
    }

    fn measure_rounds(
        &self,
        documents: &[RawDocumentBuf],
        indexes: &[IndexModel],
        own: &mut SinkProcess,
    ) -> [Times; PARTIES.len()] {
        let mut times = PARTIES.map(|_| Times::default());
        for round in 0..ROUNDS {
            for place in 0..PARTIES.len() {
                // Who goes first changes from round to round.
                let place = (round + place) % PARTIES.len();
                let (party, times) = (PARTIES[place], &mut times[place]);
                let name = format!("round {}, {}", round + 1, party.label());
                step(&name, || match party {
                    Party::CompanionSink => {
                        let name = format!("round_{}", round + 1);
                        self.run_companion_sink(&name, times, own);
                        self.drop_documents(&name);
                    }
                    Party::InsertMany => self.run_insert_many(documents, indexes, times),
                    Party::InsertManyWithoutIndexes => self.run_insert_many(documents, &[], times),
                });
            }
        }
        times
    }

    /// companion-sink into a new database, from its start until all is written.
    fn run_companion_sink(&self, name: &str, times: &mut Times, own: &mut SinkProcess) {
        account::run(&mut self.server.connect("postgres"), "CHECKPOINT");
        let plan = plan(&self.database, name, &[self.database.topic("account")]);
        let sink = self.database.bed().companion_sink(Plan {
            mongo_url: self.ferretdb.url(),
            mongo_database: name.to_owned(),
            ..plan
        });
        let (server_cpu_s, start) = (server_cpu::seconds(&self.server), Instant::now());
        sink.start_only(&["history"]);
        let (seconds, peak) = with_peak(sink.pid(), || {
            self.wait_until_applied(name, &sink);
            start.elapsed().as_secs_f64()
        });
        let server_cpu_s = server_cpu::seconds(&self.server) - server_cpu_s;
        times.add(seconds, threads::process_cpu_s(sink.pid()), server_cpu_s);
        own.threads = threads::of(sink.pid());
        own.peak = own.peak.max(peak);
        own.after = Memory::of(sink.pid());
        sink.stop();
        assert_eq!(self.count(name), changes(), "documents of companion-sink");
    }

    /// Waits until companion-sink says that all is applied, and its offsets are at the ends of the topic.
    fn wait_until_applied(&self, name: &str, sink: &CompanionSink) {
        wait_until_applied(sink, "history", changes());
        let topic = self.database.topic("account");
        let ends = topic::offsets(self.database.bed().kafka(), &topic).expect("the topic");
        let wanted: i64 = ends.values().map(|offsets| offsets.end).sum();
        let database = self.client.database(name);
        let offsets = database.collection::<Document>("companion_offsets");
        pg_cdc_tests::wait_until("the offsets", TIMEOUT, || {
            let found = offsets.find(doc! {}).run().expect("the offsets");
            let next = found.map(|document| document.expect("an offset").get_i64("next_offset"));
            match next.map(|next| next.expect("next_offset")).sum::<i64>() {
                applied if applied == wanted => Ok(()),
                applied => Err(format!("{applied} of {wanted} events")),
            }
        });
    }

    /// The documents into a new collection with these indexes, which is gone afterwards.
    fn run_insert_many(
        &self,
        documents: &[RawDocumentBuf],
        indexes: &[IndexModel],
        times: &mut Times,
    ) {
        let name = "bare";
        let collection = self.collection(name);
        // Made before the time begins.
        let database = self.client.database(name);
        let made = database.create_collection(COLLECTION).run();
        made.expect("the collection");
        if !indexes.is_empty() {
            let made = collection.create_indexes(indexes.to_vec()).run();
            made.expect("the indexes");
        }
        account::run(&mut self.server.connect("postgres"), "CHECKPOINT");
        let ours = std::process::id();
        let (cpu_s, server_cpu_s) = (
            threads::process_cpu_s(ours),
            server_cpu::seconds(&self.server),
        );
        let start = Instant::now();
        for part in documents.chunks(DOCUMENTS_PER_CALL) {
            let done = collection.insert_many(part).ordered(false).run();
            done.expect("insert_many");
        }
        let seconds = start.elapsed().as_secs_f64();
        times.add(
            seconds,
            threads::process_cpu_s(ours) - cpu_s,
            server_cpu::seconds(&self.server) - server_cpu_s,
        );
        assert_eq!(self.count(name), changes(), "documents of insert_many");
        self.drop_documents(name);
    }

    /// The collection of a history, with companion-sink's write concern.
    fn collection(&self, database: &str) -> Collection<RawDocumentBuf> {
        let durable = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build();
        let options = CollectionOptions::builder().write_concern(durable).build();
        let database = self.client.database(database);
        database.collection_with_options(COLLECTION, options)
    }

    /// The documents, counted in PostgreSQL, where FerretDB has a row for each and a schema for each database: it would read
    /// and decode them all itself.
    fn count(&self, database: &str) -> i64 {
        let mut client = self.server.connect(DOCUMENTS);
        let table = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
                     WHERE schemaname = $1 AND starts_with(tablename, $2)";
        let table = client.query_one(table, &[&database, &COLLECTION]);
        let table: String = table.expect("the collection's table").get(0);
        let count = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]);
        count.expect("the number of documents").get(0)
    }

    fn drop_documents(&self, database: &str) {
        let dropped = self.client.database(database).drop().run();
        dropped.expect("drop the documents");
    }
}

/// The indexes of a collection but for the one on `_id`, which every collection has.
fn indexes(collection: &Collection<RawDocumentBuf>) -> Vec<IndexModel> {
    let found = collection.list_indexes().run().expect("the indexes");
    let found = found.map(|index| index.expect("an index"));
    let more = found.filter(|index| !index.keys.contains_key("_id"));
    more.map(|index| IndexModel::builder().keys(index.keys).build())
        .collect()
}

/// All documents of a collection, in the server's order.
fn read(collection: &Collection<RawDocumentBuf>) -> Vec<RawDocumentBuf> {
    let found = collection.find(doc! {}).run().expect("the documents");
    found
        .map(|document| document.expect("a document"))
        .collect()
}
