//! What capture costs a writer: the same statements on the same table, without a trigger, with one that does nothing, with
//! pg_cdc (sender shipping), and with an audit trigger in PL/pgSQL.

use std::time::{Duration, Instant};

use pg_cdc_tests::{Database, TestBed, pgbench, wait::wait_for};
use postgres::Client;
use serde_json::{Value, json};

use crate::account::{self, rows};
use crate::median::{median, rounded};
use crate::{start_bed, step};

const ROUNDS: usize = 5;
const PGBENCH_ROUNDS: usize = 5;
const PGBENCH_SECONDS: &str = "10";
/// Four clients.
pub const PGBENCH_ARGUMENTS: [&str; 6] = ["-M", "prepared", "-c", "4", "-j", "2"];
const PGBENCH_ROWS: i64 = 100_000;

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

/// Measures, and returns the figures. Progress and all rounds go to standard output before.
pub fn run() -> Value {
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

fn report(figures: &[Figures; VARIANTS.len()], tps_of: &[Vec<f64>; LOADS.len()]) -> Value {
    println!(
        "\n{:<30} {:>9} {:>9} {:>9}   rounds of INSERT | UPDATE, seconds",
        "medians", "INSERT s", "UPDATE s", "WAL MB"
    );
    for (variant, figures) in VARIANTS.iter().zip(figures) {
        println!(
            "{:<30} {:>9.2} {:>9.2} {:>9.1}   {} | {}",
            variant.label(),
            median(&figures.insert_s),
            median(&figures.update_s),
            median(&figures.wal_bytes) / 1e6,
            all(&figures.insert_s, 2),
            all(&figures.update_s, 2),
        );
    }
    for (load, tps) in LOADS.iter().zip(tps_of) {
        println!(
            "one-row UPDATEs, {:<20} {:>9.0} per second   rounds {}",
            load.label(),
            median(tps),
            all(tps, 0)
        );
    }
    let [untracked, empty, tracked, plpgsql] = figures;
    let ratio = |one: &[f64], other: &[f64]| rounded(median(one) / median(other));
    json!({
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
    })
}

fn all(figures: &[f64], digits: usize) -> String {
    let shown: Vec<String> = figures
        .iter()
        .map(|figure| format!("{figure:.digits$}"))
        .collect();
    shown.join(" ")
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
    account::run(client, &account::insert(PGBENCH_ROWS));
    database.wait_until_in_kafka();
    account::settle(client);
    if matches!(load, Load::Captured) {
        set_brokers(bed, client, "", "unconfigured");
    }
    let output = run_pgbench(database, &["-T", PGBENCH_SECONDS]);
    if matches!(load, Load::Captured) {
        set_brokers(bed, client, &bed.kafka().brokers(), "streaming");
    }
    database.wait_until_in_kafka();
    tps(&output)
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

/// One-row UPDATEs by four clients, with further arguments. Returns what pgbench printed.
pub fn run_pgbench(database: &Database<'_>, arguments: &[&str]) -> String {
    pgbench::run(
        database,
        &update_script(),
        &[&PGBENCH_ARGUMENTS, arguments].concat(),
    )
}

/// pgbench's script: one row at random is changed.
pub fn update_script() -> String {
    format!(
        "\\set id random(1, {PGBENCH_ROWS})\nUPDATE account SET balance = balance + 1 WHERE id = :id;\n"
    )
}

/// Rows of the table that [`run_pgbench`] updates.
pub const PGBENCH_TABLE_ROWS: i64 = PGBENCH_ROWS;

/// Transactions per second out of pgbench's output.
///
/// # Panics
/// When they are not there.
pub fn tps(output: &str) -> f64 {
    let found = output.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = found
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("no tps in pgbench's output:\n{output}"))
}

/// Seconds and WAL bytes of a statement.
fn measure(client: &mut Client, statement: &str) -> (f64, f64) {
    let before: String = position(client);
    let start = Instant::now();
    account::run(client, statement);
    let seconds = start.elapsed().as_secs_f64();
    let row = client.query_one(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::float8",
        &[&before],
    );
    (seconds, row.expect("WAL bytes").get(0))
}

fn position(client: &mut Client) -> String {
    client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .expect("WAL position")
        .get(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pgbenchs_output() {
        let output = "number of failed transactions: 0 (0.000%)\ntps = 1523.456 (without initial connection time)\n";
        assert_eq!(tps(output), 1523.456);
    }
}
