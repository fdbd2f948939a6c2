//! What capture costs a writer: the same statements on the same table, without a trigger, with one that does nothing, with
//! pg_cdc (sender shipping), and with an audit trigger in PL/pgSQL.

use std::time::{Duration, Instant};

use pg_cdc_tests::{Database, TestBed, wait::wait_for};
use postgres::Client;
use serde_json::{Map, Value, json};

use crate::account::{self, rows};
use crate::bed::{start_bed, step};
use crate::measures::median::{all_rounded, median, rounded};
use crate::measures::wal;
use crate::outcome::Outcome;
use crate::pgbench;
use crate::table::Table;

const ROUNDS: usize = 5;
const PGBENCH_ROUNDS: usize = 5;
const PGBENCH_SECONDS: &str = "10";

/// What fires for each row.
#[derive(Clone, Copy)]
enum Variant {
    Untracked,
    Empty,
    Tracked,
    PlPgSql,
}

const VARIANTS: [Variant; 4] = [
    Variant::Untracked,
    Variant::Empty,
    Variant::Tracked,
    Variant::PlPgSql,
];

impl Variant {
    fn label(self) -> &'static str {
        match self {
            Variant::Untracked => "no trigger",
            Variant::Empty => "an empty trigger",
            Variant::Tracked => "pg_cdc",
            Variant::PlPgSql => "an audit trigger in PL/pgSQL",
        }
    }
}

/// Who is at work while one-row transactions are measured.
#[derive(Clone, Copy)]
enum Load {
    Untracked,
    /// With the trigger that does nothing.
    Empty,
    /// Tracked, the sender without a broker: what capture itself costs a writer.
    Captured,
    /// Tracked, and sender and broker share the machine with the writers.
    Shipped,
}

const LOADS: [Load; 4] = [Load::Untracked, Load::Empty, Load::Captured, Load::Shipped];

impl Load {
    fn label(self) -> &'static str {
        match self {
            Load::Untracked => "no trigger",
            Load::Empty => "an empty trigger",
            Load::Captured => "captured only",
            Load::Shipped => "captured and shipped",
        }
    }
}

/// Figures of one variant, one entry per round.
#[derive(Default)]
struct Figures {
    insert_s: Vec<f64>,
    update_s: Vec<f64>,
    wal_bytes: Vec<f64>,
}

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let mut client = database.source();
    step("the other triggers", || make_triggers(&bed, &mut client));
    let mut figures: [Figures; VARIANTS.len()] = Default::default();
    for round in 0..ROUNDS {
        for place in 0..VARIANTS.len() {
            // Which variant goes first changes from round to round.
            let index = (round + place) % VARIANTS.len();
            let name = format!(
                "round {}, {}: INSERT and UPDATE of {} rows",
                round + 1,
                VARIANTS[index].label(),
                rows()
            );
            step(&name, || {
                measure_statements(&database, &mut client, VARIANTS[index], &mut figures[index]);
            });
        }
    }
    let mut tps_of = [const { Vec::new() }; LOADS.len()];
    step(
        "warm-up: the broker's code is compiled while it runs",
        || {
            measure_pgbench(&bed, &database, &mut client, Load::Shipped);
        },
    );
    for round in 0..PGBENCH_ROUNDS {
        for place in 0..LOADS.len() {
            let index = (round + place) % LOADS.len();
            let name = format!(
                "round {}, {}: one-row UPDATEs",
                round + 1,
                LOADS[index].label()
            );
            step(&name, || {
                tps_of[index].push(measure_pgbench(&bed, &database, &mut client, LOADS[index]));
            });
        }
    }
    report(&figures, &tps_of)
}

fn report(figures: &[Figures; VARIANTS.len()], tps_of: &[Vec<f64>; LOADS.len()]) -> Outcome {
    let mut table = Table::new(&[
        "medians",
        "INSERT s",
        "UPDATE s",
        "WAL MB",
        "one-row UPDATEs/s",
    ]);
    let mut raw = Map::new();
    for (variant, figures) in VARIANTS.iter().zip(figures) {
        let (insert_s, update_s) = (median(&figures.insert_s), median(&figures.update_s));
        let wal_mb = median(&figures.wal_bytes) / 1e6;
        let shown = [
            format!("{insert_s:.2}"),
            format!("{update_s:.2}"),
            format!("{wal_mb:.1}"),
        ];
        table.row(variant.label(), &shown);
        let rounds = json!({
            "insert_s": all_rounded(&figures.insert_s),
            "update_s": all_rounded(&figures.update_s),
            "wal_bytes": figures.wal_bytes,
        });
        raw.insert(variant.label().to_owned(), rounds);
    }
    let mut loads = Map::new();
    for (load, tps) in LOADS.iter().zip(tps_of) {
        let tps_shown = format!("{:.0}", median(tps));
        table.row(
            &format!("one-row UPDATEs, {}", load.label()),
            &[String::new(), String::new(), String::new(), tps_shown],
        );
        loads.insert(load.label().to_owned(), Value::from(all_rounded(tps)));
    }
    raw.insert("one_row_updates_per_s".to_owned(), Value::Object(loads));
    let [untracked, empty, tracked, plpgsql] = figures;
    let ratio = |one: &[f64], other: &[f64]| rounded(median(one) / median(other));
    Outcome {
        figures: json!({
            "insert_vs_empty": ratio(&tracked.insert_s, &empty.insert_s),
            "update_vs_empty": ratio(&tracked.update_s, &empty.update_s),
            "insert_ratio": ratio(&tracked.insert_s, &untracked.insert_s),
            "update_ratio": ratio(&tracked.update_s, &untracked.update_s),
            "wal_ratio": ratio(&tracked.wal_bytes, &untracked.wal_bytes),
            "tps_ratio": ratio(&tps_of[2], &tps_of[0]),
            "tps_vs_empty": ratio(&tps_of[2], &tps_of[1]),
            "tps_ratio_while_shipping": ratio(&tps_of[3], &tps_of[0]),
            "plpgsql_insert_ratio": ratio(&plpgsql.insert_s, &untracked.insert_s),
            "plpgsql_update_ratio": ratio(&plpgsql.update_s, &untracked.update_s),
        }),
        raw: Value::Object(raw),
        settings: json!({
            "columns": 9,
            "rounds": ROUNDS,
            "pgbench_rounds": PGBENCH_ROUNDS,
            "pgbench_seconds": PGBENCH_SECONDS,
            "pgbench": pgbench::ARGUMENTS.join(" "),
            "pgbench_table_rows": pgbench::TABLE_ROWS,
        }),
        table,
    }
}

/// Makes the functions of both other triggers.
fn make_triggers(bed: &TestBed, client: &mut Client) {
    account::make_empty_trigger(bed, client);
    account::run(
        client,
        "CREATE TABLE audit (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), who text DEFAULT current_user,
             op text, before jsonb, after jsonb);
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO audit (op, before, after) VALUES (TG_OP, to_jsonb(OLD), to_jsonb(NEW)); RETURN NULL;
         END $$",
    );
}

fn measure_statements(
    database: &Database<'_>,
    client: &mut Client,
    variant: Variant,
    figures: &mut Figures,
) {
    prepare(client, variant);
    let (insert_s, insert_bytes) = measure(client, &account::insert(rows()));
    figures.insert_s.push(insert_s);
    // What is still to be shipped must not burden the next measurement.
    database.wait_until_in_kafka();
    account::settle(client);
    let (update_s, update_bytes) = measure(client, account::UPDATE);
    figures.update_s.push(update_s);
    figures.wal_bytes.push(insert_bytes + update_bytes);
    database.wait_until_in_kafka();
}

/// Transactions per second.
fn measure_pgbench(bed: &TestBed, database: &Database<'_>, client: &mut Client, load: Load) -> f64 {
    prepare(
        client,
        match load {
            Load::Untracked => Variant::Untracked,
            Load::Empty => Variant::Empty,
            Load::Captured | Load::Shipped => Variant::Tracked,
        },
    );
    account::run(client, &account::insert(pgbench::TABLE_ROWS));
    database.wait_until_in_kafka();
    account::settle(client);
    if matches!(load, Load::Captured) {
        set_brokers(bed, client, "", "unconfigured");
    }
    let arguments = ["-T", PGBENCH_SECONDS];
    let transactions = pgbench::run(bed.source(), database.name(), &arguments);
    if matches!(load, Load::Captured) {
        set_brokers(bed, client, &bed.kafka().brokers(), "streaming");
    }
    database.wait_until_in_kafka();
    transactions.per_s
}

fn set_brokers(bed: &TestBed, client: &mut Client, brokers: &str, state: &str) {
    bed.source().set("cdc.brokers", brokers);
    bed.source().reload();
    wait_for(
        "the sender to follow",
        Duration::from_secs(60),
        || {
            client
                .query_one("SELECT state FROM cdc_status()", &[])
                .expect("cdc_status")
                .get::<_, String>(0)
        },
        |now| now == state,
    );
}

fn prepare(client: &mut Client, variant: Variant) {
    account::create(client);
    let after = "AFTER INSERT OR UPDATE OR DELETE ON account FOR EACH ROW EXECUTE FUNCTION";
    match variant {
        Variant::Untracked => {}
        Variant::Empty => account::run(
            client,
            &format!("CREATE TRIGGER empty {after} empty_trigger()"),
        ),
        Variant::Tracked => account::run(client, "SELECT cdc_track('account')"),
        Variant::PlPgSql => account::run(
            client,
            &format!("TRUNCATE audit; CREATE TRIGGER audit {after} audit()"),
        ),
    }
    account::run(client, "CHECKPOINT");
}

/// Seconds and WAL bytes of a statement.
fn measure(client: &mut Client, statement: &str) -> (f64, f64) {
    let (before, start) = (wal::position(client), Instant::now());
    account::run(client, statement);
    let seconds = start.elapsed().as_secs_f64();
    (seconds, wal::bytes_since(client, &before) as f64)
}
