//! Whether a replica that follows everything equals its source at the suite's end.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use change::event::headers::HeaderName;
use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::replica::{self, Content};
use pg_cdc_tests::{Database, TestBed, process, topic, wait_until};
use postgres::Client;

use crate::suite;

/// How long the replica may take for everything that the suite has written.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Objects that no topic brings, and that tables are made of, as `pg_restore --list` names them.
const DEFINITIONS: [&str; 8] = [
    "SCHEMA",
    "TYPE",
    "SHELL TYPE",
    "DOMAIN",
    "COLLATION",
    "FUNCTION",
    "OPERATOR",
    "CAST",
];
/// The tables that are tracked: how SQL names their rows, and their topics. Rows of partitions are in the topic of the root.
const TRACKED: &str = "
    SELECT c.relname::text, CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || c.oid::regclass::text, t.topic
    FROM cdc.cdc_tables t JOIN pg_class c ON c.oid = t.relation
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
    ORDER BY 1";

/// What was compared.
pub(crate) struct Equality {
    /// How many tables.
    pub(crate) compared: usize,
    /// The tables whose rows are not those of the source, with what differs.
    pub(crate) differing: BTreeMap<String, String>,
}

/// Compares every tracked table with what a companion-sink makes of its topic.
pub(crate) fn look_at(bed: &TestBed) -> Equality {
    let folder = bed.path("replica");
    std::fs::create_dir_all(&folder).expect("a folder for the dump");
    let database = Database::of(bed, suite::DATABASE);
    let plan = Plan {
        consistency: "row",
        // Names that the suite gives to table after table.
        more_toml: "several_topics = [\"*\"]\n".to_owned(),
        ..database.plan_companion_sink()
    };
    make_types(&database, &folder);
    let sink = bed.companion_sink(plan);
    sink.start_only(&["replica"]);
    let (mut source, mut copy) = (database.source(), database.replica());
    let tables = source.query(TRACKED, &[]).expect("the tracked tables");
    let topics: Vec<String> = tables.iter().map(|table| table.get(2)).collect();
    let stopped = wait_until_applied(bed, &sink, &mut copy, &topics);
    let mut differing = BTreeMap::new();
    for table in &tables {
        let (name, rows, topic): (String, &str, &str) = (table.get(0), table.get(1), table.get(2));
        let why = stopped.get(topic).cloned();
        let why = why.or_else(|| difference(&mut source, &mut copy, rows));
        if let Some(why) = why {
            differing.insert(name, why);
        }
    }
    assert!(sink.stop().expect("the sink ran").success());
    Equality {
        compared: tables.len(),
        differing,
    }
}

fn difference(source: &mut Client, copy: &mut Client, rows: &str) -> Option<String> {
    let columns = replica::columns(source, rows.trim_start_matches("ONLY "));
    let here = Content::read(source, rows, &columns);
    let there = match Content::try_read(copy, rows, &columns) {
        Ok(there) => there,
        Err(error) => return Some(error),
    };
    let (missing, too_many) = (here.except_all(&there), there.except_all(&here));
    (!missing.is_empty() || !too_many.is_empty()).then(|| {
        let cut = |row: Option<&&str>| row.map(|row| row.chars().take(60).collect::<String>());
        format!(
            "{} rows only in the source, as {:?}; {} only in the replica, as {:?}",
            missing.len(),
            cut(missing.first()),
            too_many.len(),
            cut(too_many.first())
        )
    })
}

/// Waits until each topic is applied, or stopped; returns those with the reasons.
fn wait_until_applied(
    bed: &TestBed,
    sink: &CompanionSink,
    copy: &mut Client,
    topics: &[String],
) -> HashMap<String, String> {
    let end_of = |topic: &String| {
        let partitions = topic::offsets(bed.kafka(), topic).expect("the topic of a tracked table");
        let end = partitions.values().map(|offsets| offsets.end).max();
        (topic.clone(), end.unwrap_or_default())
    };
    let ends: Vec<(String, i64)> = topics.iter().map(end_of).collect();
    let newest = newest_control_events(bed);
    let applied = "SELECT topic, max(next_offset), max(version COLLATE \"C\") FROM companion.offsets GROUP BY topic";
    wait_until("the replica to be at the end", TIMEOUT, || {
        let state = sink.state_of("replica");
        assert_ne!(state["state"], "halted", "{state}");
        let stopped = state["stopped_topics"].as_object().into_iter().flatten();
        let stopped = stopped.map(|(topic, why)| (topic.clone(), why["message"].to_string()));
        let stopped: HashMap<String, String> = stopped.collect();
        let rows = copy
            .query(applied, &[])
            .map_err(|error| error.to_string())?;
        let done: HashMap<&str, (i64, &str)> = rows
            .iter()
            .map(|row| (row.get(0), (row.get(1), row.get(2))))
            .collect();
        let is_there = |(topic, end): &&(String, i64)| {
            let control = newest.get(topic).map_or("", String::as_str);
            stopped.contains_key(topic)
                || done
                    .get(topic.as_str())
                    .is_some_and(|(next, version)| next >= end && *version >= control)
        };
        match ends.iter().find(|topic| !is_there(topic)) {
            None => Ok(stopped),
            Some((topic, end)) => Err(format!(
                "{topic} is not at {end}, or has not done {:?}: {state}",
                newest.get(topic)
            )),
        }
    })
}

/// The version of the newest control event about each topic: definitions that come behind all rows count as well.
fn newest_control_events(bed: &TestBed) -> HashMap<String, String> {
    let mut newest = HashMap::new();
    for record in topic::read(bed.kafka(), &change::topic_name::control(suite::DATABASE)) {
        let about = record.header(HeaderName::TOPIC.as_str());
        let about = about.expect("a control event names its topic").to_owned();
        let version: &mut String = newest.entry(about).or_default();
        *version = record.version().to_owned().max(std::mem::take(version));
    }
    newest
}

/// A replica has to have them before its tables come.
fn make_types(database: &Database<'_>, folder: &Path) {
    let source = database.bed().source();
    let dump = folder.join("definitions.dump");
    let dump = dump.to_str().expect("a path in UTF-8");
    source.program(
        "pg_dump",
        &[
            "--format=custom",
            "--schema-only",
            "--file",
            dump,
            suite::DATABASE,
        ],
    );
    let listed = source.program("pg_restore", &["--list", dump]);
    let is_wanted = |line: &&str| {
        let mut kinds = DEFINITIONS.iter();
        kinds.any(|kind| line.contains(&format!(" {kind} ")))
    };
    let wanted: Vec<&str> = listed.lines().filter(is_wanted).collect();
    let list = folder.join("wanted.list");
    std::fs::write(&list, wanted.join("\n")).expect("the list");
    let target = database.bed().target();
    let mut restore = target.command("pg_restore", &["--no-owner", "--no-privileges"]);
    restore
        .arg("--use-list")
        .arg(&list)
        .args(["--dbname", &database.replica_name(), dump]);
    // Some need tables, which are not there yet.
    process::output(restore, None);
}
