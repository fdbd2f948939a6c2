//! How fast a backlog is applied, and what it takes.

use std::thread;
use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::debezium_sink::DebeziumSink;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::{Database, process, replica};
use postgres::Client;
use serde_json::{Value, json};

use crate::account::{self, FULL_ROWS, rows};
use crate::debezium::OtherSide;
use crate::measures::median::{all_rounded, whole};
use crate::measures::memory::{Memory, with_peak};
use crate::measures::server_cpu;
use crate::measures::threads::{self, Thread};
use crate::sink::plan;

/// The default.
pub(super) const CONSISTENCY: &str = "transaction";
/// Rows of each of the three statements, for a run of full size.
const FULL_STATEMENT_ROWS: i64 = 200_000;
/// Rows inserted after everything else: enough that every partition ends with some, so that all is applied when they are.
const LAST_ROWS: i64 = 64;
/// How often the replica is asked whether it has the last rows: what a measured time may be off by.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const CHECK_EVERY: Duration = Duration::from_secs(1);
pub(super) const TIMEOUT: Duration = Duration::from_secs(1800);

/// Row changes of the backlog.
pub(super) fn changes() -> i64 {
    3 * statement_rows() + LAST_ROWS
}

pub(super) fn statement_rows() -> i64 {
    FULL_STATEMENT_ROWS * rows() / FULL_ROWS
}

/// What it takes to apply the backlog, an entry per round.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) seconds: Vec<f64>,
    /// On a core, of the one who applies.
    pub(super) cpu_s: Vec<f64>,
    /// On a core, of the replica's server.
    pub(super) server_cpu_s: Vec<f64>,
    pub(super) peak: Memory,
    /// Of the last round.
    pub(super) threads: Vec<Thread>,
}

impl Backlog {
    pub(super) fn rows_per_s(&self) -> Vec<f64> {
        let rounds = self.seconds.iter();
        rounds.map(|seconds| changes() as f64 / seconds).collect()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "seconds": all_rounded(&self.seconds),
            "rows_per_s": self.rows_per_s().into_iter().map(whole).collect::<Vec<_>>(),
            "cpu_s": all_rounded(&self.cpu_s),
            "replica_server_cpu_s": all_rounded(&self.server_cpu_s),
            "peak_memory": self.peak.json(),
        })
    }
}

/// The changes of the backlog, a transaction for each statement.
pub(super) fn fill(client: &mut Client) {
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

pub(super) fn our_database(round: usize) -> String {
    format!("pg_cdc_{round}")
}

pub(super) fn their_database(round: usize) -> String {
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
pub(super) fn apply_with_companion_sink(
    database: &Database<'_>,
    server: &Postgres,
    source: &mut Client,
    round: usize,
    times: &mut Backlog,
) -> CompanionSink {
    let name = our_database(round);
    let mut replica = create_replica(server, &name);
    let plan = plan(database, &name, &[database.topic("account")]);
    let sink = database.bed().companion_sink(Plan {
        replica_url: server.url(&name),
        consistency: CONSISTENCY,
        ..plan
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
pub(super) fn apply_with_debezium(
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
