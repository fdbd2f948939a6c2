//! The way from Kafka into a replica: companion-sink beside Debezium's JDBC sink, each with the topics of its own side. How
//! fast a backlog is applied, and how soon the replica shows a commit.

use std::thread;
use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::debezium::Purpose;
use pg_cdc_tests::debezium_sink::{self, DebeziumSink};
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::{Database, port, process, replica};
use postgres::Client;
use serde_json::{Value, json};

use crate::account::{self, FULL_ROWS, rows};
use crate::bed::{SERVER_SETTINGS, start_bed, step};
use crate::debezium::{self, OtherSide};
use crate::median::{all_rounded, median, percentile, rounded, whole};
use crate::memory::{Memory, megabytes, with_peak};
use crate::outcome::{Outcome, settings};
use crate::table::Table;
use crate::threads::{self, Thread};
use crate::{server_cpu, visibility};

const ROUNDS: usize = 3;
/// The default.
const CONSISTENCY: &str = "transaction";
/// Rows of each of the three statements, for a run of full size.
const FULL_STATEMENT_ROWS: i64 = 200_000;
/// Rows inserted after everything else: enough that every partition ends with some, so that all is applied when they are.
const LAST_ROWS: i64 = 64;
/// How often the replica is asked whether it has the last rows: what a measured time may be off by.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const CHECK_EVERY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Row changes of the backlog.
fn changes() -> i64 {
    3 * statement_rows() + LAST_ROWS
}

fn statement_rows() -> i64 {
    FULL_STATEMENT_ROWS * rows() / FULL_ROWS
}

/// What it takes to apply the backlog, an entry per round.
#[derive(Default)]
struct Backlog {
    seconds: Vec<f64>,
    /// On a core, of the one who applies.
    cpu_s: Vec<f64>,
    /// On a core, of the replica's server.
    server_cpu_s: Vec<f64>,
    peak: Memory,
    /// Of the last round.
    threads: Vec<Thread>,
}

impl Backlog {
    fn rows_per_s(&self) -> Vec<f64> {
        let rounds = self.seconds.iter();
        rounds.map(|seconds| changes() as f64 / seconds).collect()
    }

    fn json(&self) -> Value {
        json!({
            "seconds": all_rounded(&self.seconds),
            "rows_per_s": self.rows_per_s().into_iter().map(whole).collect::<Vec<_>>(),
            "cpu_s": all_rounded(&self.cpu_s),
            "replica_server_cpu_s": all_rounded(&self.server_cpu_s),
            "peak_memory": self.peak.json(),
        })
    }
}

/// From commit to visibility, an entry per round.
#[derive(Default)]
struct Lag {
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    max_ms: Vec<f64>,
    commits_per_s: Vec<f64>,
    commits: Vec<usize>,
}

impl Lag {
    fn add(&mut self, mut round: visibility::Round) {
        let mut at = |percent| rounded(percentile(&mut round.milliseconds, percent));
        self.p50_ms.push(at(50.0));
        self.p99_ms.push(at(99.0));
        self.max_ms.push(at(100.0));
        self.commits_per_s.push(rounded(round.commits_per_s));
        self.commits.push(round.milliseconds.len());
    }

    fn json(&self) -> Value {
        json!({
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "max_ms": self.max_ms,
            "commits_per_s": self.commits_per_s,
            "commits": self.commits,
        })
    }
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let other = step("Debezium as a source, and its server", || {
        OtherSide::start_for(&bed, Purpose::Replica)
    });
    let debezium_sink = step("Debezium's JDBC sink", || {
        let sink = DebeziumSink::start(&bed.path("debezium_sink"), bed.kafka());
        sink.freeze();
        sink
    });
    let server = step("the replicas' server", || {
        let server = Postgres::create(&bed.path("replicas"), port::free(), &SERVER_SETTINGS);
        server.start();
        server
    });
    let mut source = database.source();
    let mut other_source = other.server().connect(debezium::DATABASE);
    let each = statement_rows();
    let load = format!("INSERT, UPDATE and DELETE of {each} rows");
    step(&format!("{load}, pg_cdc, into Kafka"), || {
        account::create(&mut source);
        account::run(&mut source, "SELECT cdc_track('account')");
        fill(&mut source);
        account::run(&mut source, "SELECT cdc_wait('30 min')");
    });
    step(&format!("{load}, Debezium, into Kafka"), || {
        // Its replica needs no rows as they were.
        account::create(&mut other_source);
        other.awake(|| {
            fill(&mut other_source);
            other.wait_for_records(bed.kafka(), changes());
        });
    });

    let (mut ours, mut theirs) = (Backlog::default(), Backlog::default());
    let mut measure_ours = |round: usize, times: &mut Backlog| {
        apply_with_companion_sink(&database, &server, &mut source, round, times)
    };
    let mut measure_theirs = |round: usize, times: &mut Backlog| {
        apply_with_debezium(&debezium_sink, &server, &mut other_source, round, times)
    };
    // Not counted: Java compiles what it runs often.
    let mut sink = step("warm-up, companion-sink: the backlog", || {
        measure_ours(0, &mut Backlog::default())
    });
    step("warm-up, Debezium's JDBC sink: the backlog", || {
        measure_theirs(0, &mut Backlog::default());
    });
    for round in 1..=ROUNDS {
        sink = step(
            &format!("round {round}, companion-sink: the backlog"),
            || measure_ours(round, &mut ours),
        );
        step(
            &format!("round {round}, Debezium's JDBC sink: the backlog"),
            || measure_theirs(round, &mut theirs),
        );
    }

    let mut our_replica = server.connect(&our_database(ROUNDS));
    let mut their_replica = server.connect(&their_database(ROUNDS));
    step("rows to update, in both replicas", || {
        sink.start_only(&["replica"]);
        refill(&mut source, &mut our_replica);
        sink.stop();
        other.awake(|| {
            debezium_sink.thaw();
            refill(&mut other_source, &mut their_replica);
            debezium_sink.freeze();
        });
    });
    let mut at_rest = Memory::default();
    let mut measure_ours = |round: usize| {
        sink.start_only(&["replica"]);
        let result = visibility::measure(&mut source, &mut our_replica, round as i64);
        at_rest = Memory::of(sink.pid());
        sink.stop();
        result
    };
    let mut measure_theirs = |round: usize| {
        other.awake(|| {
            debezium_sink.thaw();
            let result = visibility::measure(&mut other_source, &mut their_replica, round as i64);
            debezium_sink.freeze();
            result
        })
    };
    let (mut our_lag, mut their_lag) = (Lag::default(), Lag::default());
    let load = format!("{} commits per second", visibility::COMMITS_PER_SECOND);
    step(&format!("warm-up, companion-sink: {load}"), || {
        measure_ours(1);
    });
    step(&format!("warm-up, Debezium: {load}"), || {
        measure_theirs(1);
    });
    for round in 1..=ROUNDS {
        step(&format!("round {round}, companion-sink: {load}"), || {
            our_lag.add(measure_ours(round + 1));
        });
        step(&format!("round {round}, Debezium: {load}"), || {
            their_lag.add(measure_theirs(round + 1));
        });
    }
    replica::assert_equal(&mut source, &mut our_replica, "account");
    replica::assert_equal(&mut other_source, &mut their_replica, "account");

    let (our_speed, their_speed) = (median(&ours.rows_per_s()), median(&theirs.rows_per_s()));
    let mut table = Table::new(&[
        "",
        "rows/s",
        "lag p50 ms",
        "lag p99 ms",
        "CPU µs/row",
        "server's CPU µs/row",
        "memory MB",
    ]);
    for (label, backlog, lag) in [
        ("companion-sink", &ours, &our_lag),
        ("Debezium", &theirs, &their_lag),
    ] {
        let us_per_row = |cpu_s: &[f64]| format!("{:.1}", median(cpu_s) * 1e6 / changes() as f64);
        table.row(
            label,
            &[
                whole(median(&backlog.rows_per_s())).to_string(),
                format!("{:.2}", median(&lag.p50_ms)),
                format!("{:.2}", median(&lag.p99_ms)),
                us_per_row(&backlog.cpu_s),
                us_per_row(&backlog.server_cpu_s),
                megabytes(backlog.peak.highest_resident).to_string(),
            ],
        );
    }
    Outcome {
        figures: json!({
            "rows_per_s": whole(our_speed),
            "debezium_jdbc_rows_per_s": whole(their_speed),
            "speedup": rounded(our_speed / their_speed),
            "lag_p50_ms": median(&our_lag.p50_ms),
            "lag_p99_ms": median(&our_lag.p99_ms),
            "debezium_lag_p50_ms": median(&their_lag.p50_ms),
            "debezium_lag_p99_ms": median(&their_lag.p99_ms),
            "rss_mb": megabytes(ours.peak.highest_resident),
        }),
        raw: json!({
            "companion_sink": {
                "backlog": ours.json(),
                "threads": threads::json(&ours.threads),
                "lag": our_lag.json(),
                "memory_after_lag": at_rest.json(),
            },
            "debezium": {"backlog": theirs.json(), "lag": their_lag.json()},
        }),
        settings: json!({
            "rounds": ROUNDS,
            "row_changes": changes(),
            "lag_s": visibility::SECONDS,
            "commits_per_second_wanted": visibility::COMMITS_PER_SECOND,
            "companion_sink": {"consistency": CONSISTENCY},
            "debezium": OtherSide::settings_for(Purpose::Replica),
            "debezium_sink": {
                "java_options": debezium_sink::JAVA_OPTIONS,
                "worker": settings(&Purpose::Replica.converters()),
                "connector": settings(&debezium_sink::CONNECTOR_SETTINGS),
                "connection_parameters": debezium_sink::CONNECTION_PARAMETERS,
            },
        }),
        table,
    }
}

/// The changes of the backlog, a transaction for each statement.
fn fill(client: &mut Client) {
    let each = statement_rows();
    let last = account::insert(LAST_ROWS).replace(
        &format!("generate_series(1, {LAST_ROWS})"),
        &format!("generate_series({}, {})", each + 1, each + LAST_ROWS),
    );
    for statement in [
        &account::insert(each),
        account::UPDATE,
        "DELETE FROM account",
        &last,
    ] {
        account::run(client, statement);
    }
}

/// Replaces all rows by those that [`visibility::measure`] wants, and waits until the replica has them.
fn refill(source: &mut Client, replica: &mut Client) {
    account::run(source, "DELETE FROM account");
    account::run(source, &account::insert(visibility::UPDATED_ROWS));
    let question = "SELECT count(*), max(id) FROM account";
    let wanted = (visibility::UPDATED_ROWS, Some(visibility::UPDATED_ROWS));
    pg_cdc_tests::wait_until("the replica to have new rows", TIMEOUT, || {
        let row = replica.query_one(question, &[]).expect("the rows");
        let found: (i64, Option<i64>) = (row.get(0), row.get(1));
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

fn our_database(round: usize) -> String {
    format!("pg_cdc_{round}")
}

fn their_database(round: usize) -> String {
    format!("debezium_{round}")
}

/// A new database with the table, empty.
fn create_replica(server: &Postgres, name: &str) -> Client {
    server.create_database(name);
    let mut client = server.connect(name);
    account::create(&mut client);
    account::run(&mut client, "CHECKPOINT");
    client
}

/// Starts a companion-sink on the backlog and a new replica; returns it, stopped, when all is applied. Its start is in the time.
fn apply_with_companion_sink(
    database: &Database<'_>,
    server: &Postgres,
    source: &mut Client,
    round: usize,
    times: &mut Backlog,
) -> CompanionSink {
    let name = our_database(round);
    let mut replica = create_replica(server, &name);
    let sink = database.bed().companion_sink(Plan {
        replica_url: server.url(&name),
        brokers: database.bed().kafka().brokers(),
        source: "pg".to_owned(),
        topics: vec![database.topic("account")],
        // The history does not run.
        mongo_url: "mongodb://127.0.0.1:1".to_owned(),
        mongo_database: "none".to_owned(),
        http_port: port::free(),
        kafka_config_file: None,
        http_token_file: None,
        consistency: CONSISTENCY,
        more_toml: String::new(),
        name,
    });
    let (server_cpu_s, start) = (server_cpu::seconds(server), Instant::now());
    sink.start_only(&["replica"]);
    let pid = sink.pid();
    let (seconds, peak) = with_peak(pid, || {
        wait_until_applied(&mut replica, || match process::exists(pid) {
            true => Ok(()),
            false => Err(process::log_tail(&sink.log_file(), 20)),
        });
        start.elapsed().as_secs_f64()
    });
    times
        .server_cpu_s
        .push(server_cpu::seconds(server) - server_cpu_s);
    times.seconds.push(seconds);
    times.cpu_s.push(threads::process_cpu_s(pid));
    times.threads = threads::of(pid);
    times.peak = times.peak.max(peak);
    replica::assert_equal(source, &mut replica, "account");
    sink.stop();
    sink
}

/// Starts a connector on the backlog and a new replica, in a worker that is warm, and waits until all is applied. The time
/// begins when the first of the connector's tasks runs. The connector stays until the next one comes.
fn apply_with_debezium(
    sink: &DebeziumSink,
    server: &Postgres,
    source: &mut Client,
    round: usize,
    times: &mut Backlog,
) {
    let name = their_database(round);
    let mut replica = create_replica(server, &name);
    sink.thaw();
    if round > 0 {
        sink.remove(&their_database(round - 1));
    }
    sink.add(&name, &OtherSide::topic(), "account", server, &name);
    let (server_cpu_s, start) = (server_cpu::seconds(server), Instant::now());
    let cpu_s = threads::process_cpu_s(sink.pid());
    let (seconds, peak) = with_peak(sink.pid(), || {
        wait_until_applied(&mut replica, || sink.check(&name));
        start.elapsed().as_secs_f64()
    });
    times
        .server_cpu_s
        .push(server_cpu::seconds(server) - server_cpu_s);
    times.seconds.push(seconds);
    times.cpu_s.push(threads::process_cpu_s(sink.pid()) - cpu_s);
    times.peak = times.peak.max(peak);
    replica::assert_equal(source, &mut replica, "account");
    sink.freeze();
}

/// Waits until a replica has the last rows of the backlog and no others. `check` fails when nobody works on it any more.
fn wait_until_applied(replica: &mut Client, check: impl Fn() -> Result<(), String>) {
    let last = format!(
        "SELECT count(*) FROM account WHERE id > {}",
        statement_rows()
    );
    // Without statistics the planner would read the whole table each time, beside what is measured.
    account::run(replica, "SET enable_seqscan = off");
    let start = Instant::now();
    let mut checked = start;
    // The second reads the whole table: only when there is not much left to wait for.
    for question in [last.as_str(), "SELECT count(*) FROM account"] {
        loop {
            let row = replica.query_one(question, &[]).expect("the rows");
            let count: i64 = row.get(0);
            if count == LAST_ROWS {
                break;
            }
            if checked.elapsed() > CHECK_EVERY {
                check().unwrap_or_else(|e| panic!("{e}"));
                checked = Instant::now();
            }
            assert!(start.elapsed() < TIMEOUT, "the replica has {count} rows");
            thread::sleep(LOOK_EVERY);
        }
    }
    account::run(replica, "RESET enable_seqscan");
}
