//! A sink of figures: they are those of the rows as they are now, whatever is killed, lost, read twice or taken over.

mod figures;
mod kills;
mod plain;
mod questions;

use std::path::{Path, PathBuf};

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::hand_made_events::{Event, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::{topic, wait_until};
use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 4] = [
    ("id", "bigint"),
    ("at", "timestamp with time zone"),
    ("account", "text"),
    ("amount", "numeric(10,2)"),
];

const BY_DAY: &str = "time = \"after.at\"\ntime_zone = \"Europe/Zurich\"\ngroup_by = [\"after.account\"]\n\
    measures = [\"count()\", \"sum(after.amount) as total\", \"min(after.amount)\", \"max(after.amount)\", \"distinct(after.amount)\"]\n";

/// An order: its day of November 2026, account, and amount.
fn order(id: u64, day: u64, account: &str, amount: &str) -> Value {
    json!({"id": id, "at": format!("2026-11-{day:02}T10:00:00.000000Z"), "account": account, "amount": amount})
}

fn create(source: &mut Source, row: &Value) -> Event {
    let key = id_key(row["id"].as_u64().expect("an id"));
    source.create("orders", Some(&key), row)
}

fn update(source: &mut Source, before: &Value, after: &Value) -> Event {
    let key = id_key(before["id"].as_u64().expect("an id"));
    source.update("orders", Some(&key), before, after)
}

fn delete(source: &mut Source, before: &Value) -> Event {
    let key = id_key(before["id"].as_u64().expect("an id"));
    source.delete("orders", Some(&key), before)
}

/// A folder of a store.
fn folder(name: &str) -> PathBuf {
    bed().path(&format!("figures-{name}"))
}

/// A companion-sink with a sink of figures besides the others, which do not run.
fn companion_sink(source: &Source, folder: &Path, counted: &str) -> CompanionSink {
    let plan = source.plan();
    let more_toml = format!(
        "[sink.figures]\nkind = \"statistics\"\ntopics = [\"{}.public.*\"]\nstore = {}\n{counted}",
        source.name,
        Value::from(folder.to_string_lossy().into_owned())
    );
    bed().companion_sink(Plan { more_toml, ..plan })
}

fn start(sink: &CompanionSink) {
    sink.start_only(&["figures"]);
}

/// What the command answers: an object for each period and group.
fn answer(sink: &CompanionSink, arguments: &[&str]) -> Result<Vec<Value>, String> {
    let output = sink.try_command(&[&["statistics", "figures", "--json"], arguments].concat());
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text.lines();
    Ok(lines
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect())
}

/// Waits until all figures are these: period, account, count and total.
fn wait_for_figures(sink: &CompanionSink, expected: &[(&str, &str, u64, &str)]) {
    let short = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        let count = row["count"].as_u64().unwrap_or_default();
        (text("period"), text("account"), count, text("total"))
    };
    wait_until("the figures", TIMEOUT, || {
        let rows = answer(sink, &[])?;
        let seen: Vec<_> = rows.iter().map(short).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(period, account, count, total)| {
                let text = |text: &str| text.to_owned();
                (text(period), text(account), *count, text(total))
            })
            .collect();
        if seen == expected {
            return Ok(());
        }
        let log = std::fs::read_to_string(sink.log_file()).unwrap_or_default();
        let log: Vec<&str> = log.lines().rev().take(10).collect();
        Err(format!("{seen:?}\n{log:?}"))
    });
}

/// How many rows are counted in all, and their total in hundredths.
fn totals(sink: &CompanionSink) -> Result<(u64, u64), String> {
    let rows = answer(sink, &[])?;
    let count = rows.iter().filter_map(|row| row["count"].as_u64()).sum();
    let cents = |row: &Value| {
        let total = row["total"].as_str()?.replace('.', "");
        total.parse::<u64>().ok()
    };
    Ok((count, rows.iter().filter_map(cents).sum()))
}

fn wait_for_totals(sink: &CompanionSink, expected: (u64, u64)) {
    wait_until("the totals", 4 * TIMEOUT, || {
        let seen = totals(sink)?;
        if seen == expected {
            return Ok(());
        }
        let log = std::fs::read_to_string(sink.log_file()).unwrap_or_default();
        let log: Vec<&str> = log.lines().rev().take(10).collect();
        Err(format!("{seen:?} and not {expected:?}\n{log:?}"))
    });
}

/// Sends `count` orders, the `n`th of n % 100 hundredths, over thirty days and `accounts` accounts; their totals.
fn load(source: &mut Source, first: u64, count: u64, accounts: u64) -> (u64, u64) {
    let mut cents = 0;
    for id in first..first + count {
        cents += id % 100;
        let amount = format!("0.{:02}", id % 100);
        let row = order(id, 1 + id % 30, &format!("a{}", id % accounts), &amount);
        let event = create(source, &row);
        source.send(&event);
    }
    source.flush();
    (count, cents)
}

/// The records of a sink's dead letters.
fn dead_letters(source: &Source) -> Vec<topic::Record> {
    let dlq = format!("{}.dlq", source.topic("orders"));
    match topic::offsets(bed().kafka(), &dlq) {
        Some(_) => topic::read(bed().kafka(), &dlq),
        None => Vec::new(),
    }
}
