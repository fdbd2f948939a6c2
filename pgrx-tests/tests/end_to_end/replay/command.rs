//! A sink with a replica, and the command that replays it: how it is called, and what it prints.

use std::process::Command;
use std::time::Duration;

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::{Database, parts};
use postgres::Client;
use serde_json::Value;

pub(super) const TIMEOUT: Duration = Duration::from_secs(120);

pub(super) fn start(database: &Database<'_>, consistency: &'static str) -> CompanionSink {
    let plan = Plan {
        consistency,
        ..database.plan_companion_sink()
    };
    let sink = database.bed().companion_sink(plan);
    sink.start_only(&["replica"]);
    sink
}

pub(super) fn applied(database: &Database<'_>, sink: &CompanionSink, tables: &[&str]) {
    database.wait_until_in_kafka();
    let topics: Vec<String> = tables.iter().map(|table| database.topic(table)).collect();
    sink.wait_until_sink_applied("replica", database.bed().kafka(), &topics);
}

/// What a replay printed, line by line.
pub(super) fn lines(printed: &str) -> Vec<Value> {
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect()
}

/// Rows inserted, updated and deleted in a table, as a replay printed them.
pub(super) fn changes(printed: &str, table: &str) -> [u64; 3] {
    let lines = lines(printed);
    let line = lines.iter().find(|line| line["table"] == table);
    let line = line.unwrap_or_else(|| panic!("no {table} in {printed}"));
    ["inserted", "updated", "deleted"].map(|what| line[what].as_u64().expect("a number"))
}

/// How many rows differed.
pub(super) fn changed(printed: &str) -> u64 {
    let lines = lines(printed);
    let done = lines.last().expect("a line");
    assert_eq!(done["event"], "done", "{printed}");
    done["changed"].as_u64().expect("a number")
}

/// `companion-sink replay` of a sink, with `--yes` or `--dry-run`.
pub(super) fn arguments<'a>(sink: &'a str, from: &'a str, how: &'a str) -> [&'a str; 6] {
    ["replay", "--sink", sink, "--from", from, how]
}

/// What a replay would change, where it would change something.
pub(super) fn dry_run(sink: &CompanionSink, name: &str, from: &str) -> String {
    let output = sink.try_command(&arguments(name, from, "--dry-run"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What somebody who runs a command on a terminal sees.
pub(super) fn on_a_terminal(sink: &CompanionSink, arguments: &[&str]) -> String {
    let mut words = vec![
        parts::companion_sink().display().to_string(),
        format!("--config={}", sink.config_file().display()),
    ];
    words.extend(arguments.iter().map(|word| word.to_string()));
    let mut script = Command::new("script");
    script.args([
        "--quiet",
        "--return",
        "--command",
        &words.join(" "),
        "/dev/null",
    ]);
    let output = script.output().expect("run script");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{seen}");
    seen
}

/// Runs a replay that must fail, and returns what it said.
pub(super) fn refused(sink: &CompanionSink, from: &str) -> String {
    let output = sink.try_command(&arguments("replica", from, "--yes"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

pub(super) fn one<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, query: &str) -> T {
    client.query_one(query, &[]).expect(query).get(0)
}
