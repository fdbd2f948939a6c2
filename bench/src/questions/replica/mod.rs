//! The way from Kafka into a replica: companion-sink beside Debezium's JDBC sink, each with the topics of its own side. How
//! fast a backlog is applied, and how soon the replica shows a commit.

mod backlog;
mod visibility;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::debezium::Purpose;
use pg_cdc_tests::debezium_sink::{self, DebeziumSink};
use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::{Database, TestBed, port, replica};
use postgres::Client;
use serde_json::json;

use self::backlog::{
    Backlog, CONSISTENCY, TIMEOUT, apply_with_companion_sink, apply_with_debezium, changes, fill,
    our_database, statement_rows, their_database,
};
use self::visibility::{ALONE, BESIDE_DEBEZIUM, UPDATED_ROWS};
use crate::account;
use crate::bed::{SERVER_SETTINGS, start_bed, step};
use crate::debezium::{self, OtherSide};
use crate::measures::median::{median, rounded, whole};
use crate::measures::memory::{Memory, megabytes};
use crate::measures::threads;
use crate::measures::visibility::{Lag, Load};
use crate::outcome::{Outcome, settings};
use crate::table::Table;

const ROUNDS: usize = 3;

/// What was measured of one who applies.
#[derive(Default)]
struct Figures {
    backlog: Backlog,
    lag: Lag,
    /// Of companion-sink alone.
    many: Lag,
}

/// Both sides: their sources, and one server for the replicas of both.
struct Sides<'a> {
    // Dropped in this order.
    other_source: Client,
    source: Client,
    server: Postgres,
    debezium_sink: DebeziumSink,
    other: OtherSide,
    database: Database<'a>,
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let mut sides = Sides::start(&bed);
    sides.fill_topics(bed.kafka());
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    let sink = sides.measure_backlogs(&mut ours.backlog, &mut theirs.backlog);
    let at_rest = sides.measure_lags(&sink, &mut ours, &mut theirs);

    let (our_speed, their_speed) = (
        median(&ours.backlog.rows_per_s()),
        median(&theirs.backlog.rows_per_s()),
    );
    Outcome {
        figures: json!({
            "rows_per_s": whole(our_speed),
            "debezium_jdbc_rows_per_s": whole(their_speed),
            "speedup": rounded(our_speed / their_speed),
            "lag_p50_ms": median(&ours.lag.p50_ms),
            "lag_p99_ms": median(&ours.lag.p99_ms),
            "debezium_lag_p50_ms": median(&theirs.lag.p50_ms),
            "debezium_lag_p99_ms": median(&theirs.lag.p99_ms),
            "of_10000_p50_ms": median(&ours.many.p50_ms),
            "of_10000_p99_ms": median(&ours.many.p99_ms),
            "of_10000_max_ms": median(&ours.many.max_ms),
            "rss_mb": megabytes(ours.backlog.peak.highest_resident),
        }),
        raw: json!({
            "companion_sink": {
                "backlog": ours.backlog.json(),
                "threads": threads::json(&ours.backlog.threads),
                "lag": ours.lag.json(),
                "lag_of_10000": ours.many.json(),
                "memory_after_lag": at_rest.json(),
            },
            "debezium": {"backlog": theirs.backlog.json(), "lag": theirs.lag.json()},
        }),
        settings: json!({
            "rounds": ROUNDS,
            "row_changes": changes(),
            "lag": BESIDE_DEBEZIUM.json(),
            "lag_of_10000": ALONE.json(),
            "companion_sink": {"consistency": CONSISTENCY},
            "debezium": OtherSide::settings_for(Purpose::Replica),
            "debezium_sink": {
                "java_options": debezium_sink::JAVA_OPTIONS,
                "worker": settings(&Purpose::Replica.converters()),
                "connector": settings(&debezium_sink::CONNECTOR_SETTINGS),
                "connection_parameters": debezium_sink::CONNECTION_PARAMETERS,
            },
        }),
        table: table(&ours, &theirs),
    }
}

fn table(ours: &Figures, theirs: &Figures) -> Table {
    let mut table = Table::new(&[
        "",
        "rows/s",
        "lag p50 ms",
        "lag p99 ms",
        "CPU µs/row",
        "server's CPU µs/row",
        "memory MB",
    ]);
    for (label, Figures { backlog, lag, .. }) in [("companion-sink", ours), ("Debezium", theirs)] {
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
    let at = |lag_ms: &[f64]| format!("{:.2}", median(lag_ms));
    let many = format!("companion-sink, {} changes", ALONE.counted);
    let lag = &ours.many;
    table.row(&many, &[String::new(), at(&lag.p50_ms), at(&lag.p99_ms)]);
    table
}

impl Sides<'_> {
    fn start(bed: &TestBed) -> Sides<'_> {
        let database = bed.database("bench");
        let other = step("Debezium as a source, and its server", || {
            OtherSide::start_for(bed, Purpose::Replica)
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
        let source = database.source();
        let other_source = other.server().connect(debezium::DATABASE);
        Sides {
            other_source,
            source,
            server,
            debezium_sink,
            other,
            database,
        }
    }

    fn fill_topics(&mut self, kafka: &Kafka) {
        let Sides {
            other_source,
            source,
            other,
            ..
        } = self;
        let each = statement_rows();
        let load = format!("INSERT, UPDATE and DELETE of {each} rows");
        step(&format!("{load}, pg_cdc, into Kafka"), || {
            account::create(source);
            account::run(source, "SELECT cdc_track('account')");
            fill(source);
            account::run(source, "SELECT cdc_wait('30 min')");
        });
        step(&format!("{load}, Debezium, into Kafka"), || {
            // Its replica needs no rows as they were.
            account::create(other_source);
            other.awake(|| {
                fill(other_source);
                other.wait_for_records(kafka, changes());
            });
        });
    }

    /// Returns the companion-sink of the last round, stopped.
    fn measure_backlogs(&mut self, ours: &mut Backlog, theirs: &mut Backlog) -> CompanionSink {
        let Sides {
            other_source,
            source,
            server,
            debezium_sink,
            database,
            ..
        } = self;
        let mut measure_ours = |round: usize, times: &mut Backlog| {
            apply_with_companion_sink(database, server, source, round, times)
        };
        let mut measure_theirs = |round: usize, times: &mut Backlog| {
            apply_with_debezium(debezium_sink, server, other_source, round, times)
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
                || measure_ours(round, ours),
            );
            step(
                &format!("round {round}, Debezium's JDBC sink: the backlog"),
                || measure_theirs(round, theirs),
            );
        }
        sink
    }

    /// Returns the memory of companion-sink after its last round.
    fn measure_lags(
        &mut self,
        sink: &CompanionSink,
        ours: &mut Figures,
        theirs: &mut Figures,
    ) -> Memory {
        let Sides {
            other_source,
            source,
            server,
            debezium_sink,
            other,
            ..
        } = self;
        let mut our_replica = server.connect(&our_database(ROUNDS));
        let mut their_replica = server.connect(&their_database(ROUNDS));
        step("rows to update, in both replicas", || {
            sink.start_only(&["replica"]);
            refill(source, &mut our_replica);
            sink.stop();
            other.awake(|| {
                debezium_sink.thaw();
                refill(other_source, &mut their_replica);
                debezium_sink.freeze();
            });
        });
        let mut at_rest = Memory::default();
        let mut measure_ours = |load: Load, round: usize| {
            sink.start_only(&["replica"]);
            let result = visibility::measure(load, source, &mut our_replica, round as i64);
            at_rest = Memory::of(sink.pid());
            sink.stop();
            result
        };
        let mut measure_theirs = |round: usize| {
            other.awake(|| {
                debezium_sink.thaw();
                let result = visibility::measure(
                    BESIDE_DEBEZIUM,
                    other_source,
                    &mut their_replica,
                    round as i64,
                );
                debezium_sink.freeze();
                result
            })
        };
        let load = format!("{} commits per second", BESIDE_DEBEZIUM.commits_per_second);
        step(&format!("warm-up, companion-sink: {load}"), || {
            measure_ours(BESIDE_DEBEZIUM, 1);
        });
        step(&format!("warm-up, Debezium: {load}"), || {
            measure_theirs(1);
        });
        for round in 1..=ROUNDS {
            step(&format!("round {round}, companion-sink: {load}"), || {
                ours.lag.add(measure_ours(BESIDE_DEBEZIUM, round + 1));
            });
            step(&format!("round {round}, Debezium: {load}"), || {
                theirs.lag.add(measure_theirs(round + 1));
            });
        }
        let many = format!("{} changes, companion-sink", ALONE.counted);
        step(&many, || ours.many.add(measure_ours(ALONE, ROUNDS + 2)));
        replica::assert_equal(source, &mut our_replica, "account");
        replica::assert_equal(other_source, &mut their_replica, "account");
        at_rest
    }
}

/// Replaces all rows by those that [`visibility::measure`] wants, and waits until the replica has them.
fn refill(source: &mut Client, replica: &mut Client) {
    account::run(source, "DELETE FROM account");
    account::run(source, &account::insert(UPDATED_ROWS));
    let question = "SELECT count(*), max(id) FROM account";
    let wanted = (UPDATED_ROWS, Some(UPDATED_ROWS));
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
