//! `./dev demo`: starts everything, plays a scenario on a shop's customers, and shows what became of it.

mod screen;
mod shop;
mod tail;

use std::io::IsTerminal;
use std::panic::resume_unwind;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::history::History;
use pg_cdc_tests::{TestBed, parts, port, replica};

use screen::{Screen, Started};
use shop::Shop;

static BED: OnceLock<TestBed> = OnceLock::new();
static COMPANION_SINK: OnceLock<CompanionSink> = OnceLock::new();
static STOPPING: AtomicBool = AtomicBool::new(false);

const HELP: &str = "\
Usage: demo [--once]

Starts PostgreSQL with pg_cdc, Kafka, FerretDB, a second PostgreSQL and companion-sink, changes customers, and shows
one customer's history and that the replica equals its source. Stays up until Ctrl-C.

  --once   ends then, with one line of JSON as the last one";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--once"] => true,
        ["-h" | "--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    std::panic::set_hook(Box::new(|panic| {
        if !STOPPING.load(Ordering::Relaxed) {
            let text = panic.payload_as_str().unwrap_or("the demo failed");
            eprintln!("{} ✗ {}", clear_line(), text.replace('\n', "\n   "));
        }
    }));
    stop_on_signal();

    let screen = Screen::new();
    let Ok(figures) = std::panic::catch_unwind(|| run(&screen)) else {
        stop();
        return ExitCode::FAILURE;
    };
    if once {
        stop();
        println!("{}", figures.json());
        return if figures.is_right() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    if let Some(companion_sink) = COMPANION_SINK.get() {
        show_where_to_look(&screen, companion_sink);
    }
    screen.line(" Ctrl-C stops everything; nothing of this machine's own services was touched.");
    loop {
        std::thread::park();
    }
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

fn run(screen: &Screen) -> Figures {
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
    compare(screen, &shop, companion_sink)
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
    // Below the range from which the kernel takes the local ports of outgoing connections.
    let ports = Ports {
        source: port::chosen("PG_CDC_POSTGRES_PORT", 15432),
        target: port::chosen("PG_CDC_REPLICA_PORT", 15433),
        kafka: port::chosen("PG_CDC_KAFKA_PORT", 19092),
        ferretdb: port::chosen("PG_CDC_MONGO_PORT", 17017),
    };
    let http_port = port::chosen("PG_CDC_HTTP_PORT", 18480);
    let bed = BED.get_or_init(|| TestBed::prepare(ports, &[], &[]));
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
    let sink = COMPANION_SINK.get_or_init(|| bed.companion_sink(plan));
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

/// Ends everything that was started, and removes its files.
fn stop() {
    if let Some(companion_sink) = COMPANION_SINK.get() {
        companion_sink.stop();
    }
    if let Some(bed) = BED.get() {
        bed.stop();
        bed.discard();
    }
}

/// Ctrl-C and SIGTERM end everything in order. Servers in the middle of their start are ended by the kernel.
fn stop_on_signal() {
    // SAFETY: the set is initialised by sigemptyset before use; no other thread runs yet, so all later ones inherit it.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGINT);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::sigaddset(&mut signals, libc::SIGHUP);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both point to what lives on this stack.
        unsafe { libc::sigwait(&signals, &mut signal) };
        STOPPING.store(true, Ordering::Relaxed);
        eprintln!("{} Stopping …", clear_line());
        stop();
        // As a shell reports a program that was ended by this signal.
        std::process::exit(if signal == libc::SIGINT {
            0
        } else {
            128 + signal
        });
    });
}

/// Removes the spinner's line or the ^C from a terminal.
fn clear_line() -> &'static str {
    if std::io::stderr().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
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
