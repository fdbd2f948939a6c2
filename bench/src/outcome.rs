//! What a bench found, and its record in `bench/results`.

use std::fs;
use std::path::Path;
use std::process::Command;

use pg_cdc_tests::kafka;
use pg_cdc_tests::parts::{self, Part};
use serde_json::{Value, json};

use crate::account::{FULL_ROWS, rows};
use crate::measures::median::rounded;
use crate::table::Table;

/// Figures, what they were made of, and how they are shown.
pub(crate) struct Outcome {
    /// The figures that were asked for: the last line of the output.
    pub figures: Value,
    /// All that was measured, round by round.
    pub raw: Value,
    /// Settings beside those of every bench.
    pub settings: Value,
    /// The figures for people.
    pub table: Table,
}

/// Shows the figures, and writes `bench/results/<name>.json`. `stolen_percent` of the CPU went to others meanwhile.
///
/// # Panics
/// When the file cannot be written.
pub(crate) fn publish(name: &str, outcome: &Outcome, stolen_percent: Option<f64>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let record = json!({
        "bench": name,
        "date": first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "git_commit": git(&["rev-parse", "HEAD"]),
        // The results themselves change with every run.
        "uncommitted_changes":
            git(&["status", "--porcelain", "--untracked-files=no", ":(top)", ":(top,exclude)bench/results"])
                .map(|changes| !changes.is_empty()),
        "full_size": rows() == FULL_ROWS,
        "environment": environment(),
        "stolen_cpu_percent": stolen_percent.map(rounded),
        "settings": {
            "rows": rows(),
            "postgresql": settings(&crate::bed::SERVER_SETTINGS),
            "kafka": settings(&crate::bed::KAFKA_SETTINGS),
            "kafka_java_options": kafka::JAVA_OPTIONS,
            "bench": outcome.settings,
        },
        "figures": outcome.figures,
        "raw": outcome.raw,
    });
    let text = serde_json::to_string_pretty(&record).expect("JSON");
    let file = folder.join(format!("{name}.json"));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, text + "\n"))
        .unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
    println!("\n{}", outcome.table);
    if let Some(percent) = stolen_percent {
        println!("   {percent:.1} % of the CPU was taken by others");
    }
    println!("   environment and all rounds: bench/results/{name}.json");
    println!("{}", outcome.figures);
}

/// Settings as an object.
pub(crate) fn settings<T: AsRef<str>>(settings: &[(&str, T)]) -> Value {
    let entries = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_ref())));
    Value::Object(entries.collect())
}

/// The machine and the versions; nothing that names the machine or a place on it.
fn environment() -> Value {
    let postgres = parts::postgres_bin().join("postgres");
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": line_of("/proc/cpuinfo", "model name"),
        "memory": line_of("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
        "postgresql": first_line(&postgres.to_string_lossy(), &["--version"]),
        "kafka": Part::Kafka.version(),
        "librdkafka": librdkafka,
        "debezium": Part::Debezium.version(),
        "debezium_sink": Part::DebeziumSink.version(),
        "java": first_line("java", &["--version"]),
        "rustc": first_line("rustc", &["--version"]),
    })
}

/// What stands behind a name in one of the kernel's files of `name: value`.
fn line_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(found, _)| found.trim() == name)?;
    Some(value.trim().to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    first_line(
        "git",
        &[&["-C", env!("CARGO_MANIFEST_DIR")], arguments].concat(),
    )
}

/// The first line that a command prints; none if it cannot be run or fails.
fn first_line(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    output.status.success().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let environment = environment();
        for name in ["cores", "memory", "kernel", "java", "rustc"] {
            assert!(!environment[name].is_null(), "{name} in {environment}");
        }
        let version = environment["postgresql"].as_str().unwrap_or_default();
        assert!(version.contains("PostgreSQL"), "{version}");
    }

    #[test]
    fn a_command_that_fails_says_nothing() {
        assert_eq!(first_line("false", &[]), None);
        assert_eq!(first_line("no-such-command", &[]), None);
        assert_eq!(first_line("echo", &["one\ntwo"]).as_deref(), Some("one"));
    }
}
