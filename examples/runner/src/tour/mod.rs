//! The tour: a scenario on a shop's customers, and what became of it.

mod shop;
mod tail;

use std::panic::resume_unwind;
use std::process::Command;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::history::History;
use pg_cdc_tests::{TestBed, parts, port, replica};

use crate::bed;
use crate::screen::{Screen, Started};
use shop::Shop;

/// Plays the tour; whether all that was counted is right. Without `once` it stays up until Ctrl-C.
pub(crate) fn show(screen: &Screen, once: bool) -> bool {
    let (figures, companion_sink) = run(screen);
    if once {
        // Stopped first: the line of JSON is the last one.
        bed::stop();
        println!("{}", figures.json());
        return figures.is_right();
    }
    show_where_to_look(screen, companion_sink);
    bed::wait_for_ctrl_c(screen)
}

/// What was counted at the end.
struct Figures {
    events: usize,
    history: usize,
    replica_rows: usize,
    replica_equal: bool,
    rolled_back_seen: usize,
}

impl Figures {
    fn json(&self) -> String {
        // By hand, to keep the order.
        format!(
            "{{\"events\":{},\"history\":{},\"replica_rows\":{},\"replica_equal\":{},\"rolled_back_seen\":{}}}",
            self.events, self.history, self.replica_rows, self.replica_equal, self.rolled_back_seen
        )
    }

    fn is_right(&self) -> bool {
        self.events == self.history && self.replica_equal && self.rolled_back_seen == 0
    }
}

fn run(screen: &Screen) -> (Figures, &'static CompanionSink) {
    let servers = start_servers(screen);
    let bed = servers.bed;
    let mut shop = Shop::new(
        bed.database_without_extension("shop"),
        History::of(&bed.ferretdb().client(), "history", "customer"),
    );
    shop.create();
    let companion_sink = start_companion_sink(screen, &shop, servers);
    shop.track(screen);
    shop.play(screen);
    show_history(screen, companion_sink);
    (compare(screen, &shop, companion_sink), companion_sink)
}

/// What runs, and how long the starts took that are not shown yet.
struct Servers {
    bed: &'static TestBed,
    http_port: u16,
    ferretdb: Duration,
    replica: Duration,
}

/// PostgreSQL, Kafka and the replica's server at the same time, then FerretDB.
fn start_servers(screen: &Screen) -> Servers {
    let ports = bed::demo_ports();
    let http_port = port::chosen("PG_CDC_HTTP_PORT", 18480);
    let bed = bed::prepare(ports);
    let (postgres, kafka, replica) = screen.wait("PostgreSQL 15 with pg_cdc, Kafka", || {
        std::thread::scope(|scope| {
            let kafka = scope.spawn(|| timed(|| bed.kafka()));
            let postgres = scope.spawn(|| timed(|| bed.source()));
            let replica = scope.spawn(|| timed(|| bed.target()));
            // A server that does not start has said why.
            let join = |start: ScopedJoinHandle<'_, Duration>| {
                start.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            (join(postgres), join(kafka), join(replica))
        })
    });
    screen.services(&[
        Started::new(
            "PostgreSQL 15 with pg_cdc",
            postgres,
            format!("psql -h localhost -p {} shop", ports.source),
        ),
        Started::new("Kafka", kafka, format!("localhost:{}", ports.kafka)),
    ]);
    let ferretdb = screen.wait("FerretDB 1.24", || timed(|| bed.ferretdb()));
    Servers {
        bed,
        http_port,
        ferretdb,
        replica,
    }
}

fn start_companion_sink(screen: &Screen, shop: &Shop, servers: Servers) -> &'static CompanionSink {
    let bed = servers.bed;
    let mut plan = shop.database().plan_companion_sink();
    plan.name = "companion".to_owned();
    plan.mongo_database = "history".to_owned();
    plan.http_port = servers.http_port;
    let sink: &'static CompanionSink = Box::leak(Box::new(bed.companion_sink(plan)));
    bed::keep(Box::new(StopAtEnd(sink)));
    let companion_sink = screen.wait("companion-sink", || timed(|| sink.start()));
    screen.services(&[
        Started::new(
            "FerretDB 1.24",
            servers.ferretdb,
            format!("{}/history", bed.ferretdb().url()),
        ),
        Started::new(
            "replica",
            servers.replica,
            format!("psql -h localhost -p {} shop_replica", bed.target().port()),
        ),
        Started::new("companion-sink", companion_sink, sink.http_url()),
    ]);
    sink
}

/// companion-sink is stopped before the servers.
struct StopAtEnd(&'static CompanionSink);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Commands to copy, for a second terminal.
fn show_where_to_look(screen: &Screen, companion_sink: &CompanionSink) {
    let binary = relative(&parts::companion_sink());
    screen.line(
        " Look further, in another terminal, with the psql commands above, ./dev demo --help, or:",
    );
    screen.line(format!(
        "   export COMPANION_SINK_CONFIG={}",
        companion_sink.config_file().display()
    ));
    screen.line(format!("   {binary} history customer 42 --format json"));
    screen.line(format!("   {binary} check"));
    screen.line(format!(
        "   {binary} page                      # a link for a browser"
    ));
}

/// Runs the real command, on the terminal as it is.
fn show_history(screen: &Screen, companion_sink: &CompanionSink) {
    screen.line(screen.paint("1", "$ companion-sink history customer 42"));
    let status = Command::new(parts::companion_sink())
        .arg("--config")
        .arg(companion_sink.config_file())
        .args(["history", "customer", "42", "--format", "table"])
        .status()
        .expect("companion-sink starts");
    assert!(
        status.success(),
        "companion-sink history customer 42 failed: {status}"
    );
}

fn compare(screen: &Screen, shop: &Shop, companion_sink: &CompanionSink) -> Figures {
    let database = shop.database();
    database.wait_until_in_kafka();
    companion_sink.wait_until_applied(database.bed().kafka(), &[database.topic("customer")]);
    let (source, copy) = replica::both_sides(
        &mut database.source(),
        &mut database.replica(),
        "public.customer",
    );
    let equal = source == copy;
    if equal {
        screen.line(format!(
            " {} {} rows, sha256 {}… on both sides.",
            screen.paint("32", "Replica equals source:"),
            copy.row_count(),
            &copy.sha256()[..16]
        ));
    } else {
        screen.line(format!(
            " {} {} rows, sha256 {}; source: {} rows, {}",
            screen.paint("31", "Replica differs:"),
            copy.row_count(),
            copy.sha256(),
            source.row_count(),
            source.sha256()
        ));
    }
    let (records, documents) = (shop.records(), shop.documents());
    Figures {
        events: records
            .iter()
            .filter(|record| record.is_row_change())
            .count(),
        history: documents.len(),
        replica_rows: copy.row_count(),
        replica_equal: equal,
        rolled_back_seen: shop.rolled_back_records(&records)
            + shop.rolled_back_documents(&documents),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The path as seen from here, when it is below.
fn relative(path: &std::path::Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .unwrap_or(path)
        .display()
        .to_string()
}
