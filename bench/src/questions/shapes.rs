//! What capture costs for rows of other shapes than the usual one, and what memory a very large transaction takes.

use std::time::Instant;

use pg_cdc_tests::Database;
use postgres::Client;
use serde_json::{Map, Value, json};

use crate::account::{self, rows};
use crate::bed::{start_bed, step};
use crate::measures::median::{all_rounded, median, rounded};
use crate::measures::memory::{Memory, megabytes};
use crate::outcome::Outcome;
use crate::table::Table;

const ROUNDS: usize = 3;
/// Rows of the large transaction, for each of those of the other statements.
const LARGE_TRANSACTION: i64 = 20;

/// A table and the statements on it.
struct Shape {
    label: &'static str,
    /// Part of the usual number of rows: wide rows are fewer.
    part: i64,
    columns: String,
    /// The values of row `n`.
    values: String,
    update: &'static str,
    mask: &'static str,
}

fn shapes() -> [Shape; 6] {
    let each = |count: u32, text: &str| -> String {
        let list: Vec<String> = (1..=count)
            .map(|i| text.replace('#', &i.to_string()))
            .collect();
        list.join(", ")
    };
    let toasted = |update| {
        Shape {
        label: "",
        part: 50,
        columns: "n int, body text STORAGE EXTERNAL".to_owned(),
        values: "n, (SELECT string_agg(md5((n * 1000 + i)::text), '') FROM generate_series(1, 640) AS i)"
            .to_owned(),
        update,
        mask: "",
    }
    };
    let persons = |label, mask| Shape {
        label,
        part: 1,
        columns: "email text, phone text, iban text, n int".to_owned(),
        values: "'customer' || n || '@example.org', '+41 31 ' || n, 'CH93 0076 2011 6238 ' || n, n"
            .to_owned(),
        update: "n = n + 1",
        mask,
    };
    [
        Shape {
            label: "100 narrow columns (int)",
            part: 10,
            columns: each(100, "c# int"),
            values: each(100, "n + #"),
            update: "c50 = c50 + 1",
            mask: "",
        },
        Shape {
            label: "100 wide columns (64 bytes of text)",
            part: 250,
            columns: each(100, "c# text"),
            values: each(100, "repeat(md5((n + #)::text), 2)"),
            update: "c50 = c51",
            mask: "",
        },
        Shape {
            label: "a toasted text of 20 kB, left as it is",
            ..toasted("n = n + 1")
        },
        Shape {
            label: "a toasted text of 20 kB, changed",
            ..toasted("body = reverse(body)")
        },
        persons("three texts, not masked", ""),
        persons(
            "three texts, masked with hash",
            ", mask => '{\"email\": \"hash\", \"phone\": \"hash\", \"iban\": \"hash\"}'",
        ),
    ]
}

#[derive(Clone, Copy)]
enum Trigger {
    None,
    Empty,
    Capture,
}

const TRIGGERS: [Trigger; 3] = [Trigger::None, Trigger::Empty, Trigger::Capture];

impl Trigger {
    fn label(self) -> &'static str {
        match self {
            Trigger::None => "no trigger",
            Trigger::Empty => "an empty trigger",
            Trigger::Capture => "pg_cdc",
        }
    }
}

/// Measures: microseconds per row of INSERT and UPDATE for no trigger, an empty one, and capture.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let key = bed.source().write_file("mask.key", &[7; 32], 0o600);
    bed.source().set("cdc.mask_key_file", &key);
    bed.source().reload();
    let database = bed.database("bench");
    let mut client = database.source();
    account::make_empty_trigger(&bed, &mut client);
    let (mut figures, mut raw) = (Map::new(), Map::new());
    let mut table = Table::new(&["µs per row (no trigger, empty, pg_cdc)", "INSERT", "UPDATE"]);
    for shape in shapes() {
        let measured = measure_shape(&database, &mut client, &shape);
        let [insert_us, update_us] = [&measured.insert_us, &measured.update_us].map(|rounds| {
            let medians = rounds.iter().map(|rounds| rounded(median(rounds)));
            medians.collect::<Vec<f64>>()
        });
        let shown = [&insert_us, &update_us].map(|figures| {
            let figures: Vec<String> = figures.iter().map(|us| format!("{us:.2}")).collect();
            figures.join(" ")
        });
        table.row(shape.label, &shown);
        let label = shape.label.to_owned();
        figures.insert(
            label.clone(),
            json!({"insert_us": insert_us, "update_us": update_us}),
        );
        let rounds = json!({
            "insert_us": measured.insert_us.map(|rounds| all_rounded(&rounds)),
            "update_us": measured.update_us.map(|rounds| all_rounded(&rounds)),
        });
        raw.insert(label, rounds);
    }
    Outcome {
        figures: Value::Object(figures),
        raw: Value::Object(raw),
        settings: json!({"rounds": ROUNDS, "triggers": TRIGGERS.map(Trigger::label)}),
        table,
    }
}

/// Measures the memory of a backend in a very large transaction.
pub(crate) fn run_memory() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    account::make_empty_trigger(&bed, &mut database.source());
    let count = rows() * LARGE_TRANSACTION;
    let peak_mb = measure_memory(&database, count);
    let mut table = Table::new(&["", "backend's memory MB"]);
    for (trigger, peak_mb) in TRIGGERS.iter().zip(peak_mb) {
        table.row(trigger.label(), &[format!("{peak_mb:.1}")]);
    }
    let by_trigger = TRIGGERS.iter().zip(peak_mb);
    let raw = by_trigger.map(|(trigger, mb)| (trigger.label().to_owned(), Value::from(mb)));
    Outcome {
        figures: json!({"rows": count, "peak_mb": peak_mb}),
        raw: json!({"peak_mb": Value::Object(raw.collect())}),
        settings: json!({"rows_of_the_transaction": count, "triggers": TRIGGERS.map(Trigger::label)}),
        table,
    }
}

/// Microseconds per row, by trigger and round.
#[derive(Default)]
struct Measured {
    insert_us: [Vec<f64>; TRIGGERS.len()],
    update_us: [Vec<f64>; TRIGGERS.len()],
}

fn measure_shape(database: &Database<'_>, client: &mut Client, shape: &Shape) -> Measured {
    let count = (rows() / shape.part).max(1);
    let mut measured = Measured::default();
    step(&format!("{}: {count} rows", shape.label), || {
        for round in 0..ROUNDS {
            for place in 0..TRIGGERS.len() {
                let index = (round + place) % TRIGGERS.len();
                prepare(client, shape, TRIGGERS[index]);
                let mut per_row_us = |statement: &str| {
                    account::run(client, "CHECKPOINT");
                    let start = Instant::now();
                    account::run(client, statement);
                    let per_row = start.elapsed().as_secs_f64() * 1e6 / count as f64;
                    database.wait_until_in_kafka();
                    per_row
                };
                measured.insert_us[index].push(per_row_us(&format!(
                    "INSERT INTO shape SELECT n, {} FROM generate_series(1, {count}) AS n",
                    shape.values
                )));
                measured.update_us[index]
                    .push(per_row_us(&format!("UPDATE shape SET {}", shape.update)));
            }
        }
    });
    measured
}

fn prepare(client: &mut Client, shape: &Shape, trigger: Trigger) {
    account::run(
        client,
        &format!(
            "DROP TABLE IF EXISTS shape; CREATE TABLE shape (id int PRIMARY KEY, {})",
            shape.columns.replace(" STORAGE EXTERNAL", "")
        ),
    );
    if shape.columns.contains("STORAGE EXTERNAL") {
        account::run(client, "ALTER TABLE shape ALTER body SET STORAGE EXTERNAL");
    }
    match trigger {
        Trigger::None => {}
        Trigger::Empty => account::run(
            client,
            "CREATE TRIGGER empty AFTER INSERT OR UPDATE OR DELETE ON shape FOR EACH ROW EXECUTE FUNCTION empty_trigger()",
        ),
        Trigger::Capture => {
            account::run(client, &format!("SELECT cdc_track('shape'{})", shape.mask))
        }
    }
}

/// The most private memory of a backend while it inserts very many rows in one transaction, by trigger.
fn measure_memory(database: &Database<'_>, count: i64) -> [f64; TRIGGERS.len()] {
    TRIGGERS.map(|trigger| {
        // A backend of its own, which has kept nothing.
        let mut client = database.source();
        let shape = Shape {
            label: "",
            part: 1,
            columns: "n int".to_owned(),
            values: String::new(),
            update: "",
            mask: "",
        };
        prepare(&mut client, &shape, trigger);
        let pid: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("pid")
            .get(0);
        let name = format!("{}: one transaction of {count} rows", trigger.label());
        step(&name, || {
            account::run(
                &mut client,
                &format!("INSERT INTO shape SELECT n, n FROM generate_series(1, {count}) AS n"),
            );
        });
        // What is mapped of files and of shared memory is not the transaction's.
        let memory = Memory::of(u32::try_from(pid).expect("a process id"));
        let mapped = memory.resident - memory.anonymous;
        client
            .query("SELECT cdc_wait('30 min')", &[])
            .expect("cdc_wait");
        account::run(&mut client, "DROP TABLE shape");
        megabytes(memory.highest_resident - mapped)
    })
}
