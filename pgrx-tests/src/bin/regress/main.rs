//! `./dev regress`: runs PostgreSQL's own regression suite twice, on a plain server and in a database whose schema
//! `public` is tracked with `new_tables`, and compares what it prints, and a replica with its source.

mod compare;
mod equality;
mod suite;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::{TestBed, wait_until};

use suite::Suite;

const HELP: &str = "\
Usage: regress [--keep FOLDER] SOURCE

Runs the regression suite in SOURCE (PostgreSQL's unpacked source) on a plain server, then on one with pg_cdc where every
table of schema public is tracked. Fails when a file of the second output is neither as the first nor as PostgreSQL
expects it, and is not named, with the reason, in pgrx-tests/src/bin/regress/differs.txt; or when a file that is named
there does not differ. Then a companion-sink makes a replica of all tables, which must equal its source but for the tables
that are named in pgrx-tests/src/bin/regress/unequal.txt.

  --keep FOLDER   write what differs there (target/regress if not given)";

/// The files that may differ, one a line: `name: reason`.
const DIFFERS: &str = include_str!("differs.txt");
/// The tables whose replica may differ, in the same form.
const UNEQUAL: &str = include_str!("unequal.txt");

/// How long the sender may take for everything that the suite has written.
const SENDER_TIMEOUT: Duration = Duration::from_secs(300);

struct Arguments {
    keep: PathBuf,
    source: PathBuf,
}

fn main() -> ExitCode {
    let Some(arguments) = read(std::env::args().skip(1)) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    let plain_bed = TestBed::prepare(Ports::free(), &PLAIN, &[]);
    let plain = Suite::unpack(&arguments.source, &plain_bed.path("suite"));
    plain.make_database(plain_bed.source());
    plain.run(plain_bed.source());
    plain_bed.stop();

    let bed = TestBed::prepare(Ports::free(), &TRACKED, &[]);
    bed.kafka();
    let tracked = Suite::unpack(&arguments.source, &bed.path("suite"));
    tracked.make_database(bed.source());
    track_public(&bed);
    tracked.run(bed.source());
    sender_is_well(&bed);
    let equality = equality::look_at(&bed);
    bed.stop();
    bed.source().assert_never_crashed();

    let differing = compare::all(&tracked, &plain, &arguments.keep);
    let files = differing
        .files
        .iter()
        .map(|(name, lines)| (name.as_str(), format!("{lines} lines")));
    let is_same = report(files.collect(), DIFFERS, "differs.txt");
    println!(
        "{} of {} files differ. What differs is in {}.",
        differing.files.len(),
        differing.compared,
        arguments.keep.display()
    );
    let tables = equality.differing.iter();
    let tables = tables.map(|(name, why)| (name.as_str(), why.clone()));
    let is_equal = report(tables.collect(), UNEQUAL, "unequal.txt");
    println!(
        "{} of {} tables of the replica differ ({:.0} s in all).",
        equality.differing.len(),
        equality.compared,
        start.elapsed().as_secs_f64()
    );
    match is_same && is_equal {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Prints what differs, with the reason that `named`, the content of `file`, has for it; whether that names exactly these.
fn report(differing: BTreeMap<&str, String>, named: &str, file: &str) -> bool {
    let named = reasons(named);
    let mut is_named = true;
    for (name, what) in &differing {
        match named.get(name) {
            Some(reason) => println!("   {name:<24} {what:.100}  {reason}"),
            None => {
                println!(" ✗ {name:<24} {what}");
                is_named = false;
            }
        }
    }
    for name in named.keys().filter(|name| !differing.contains_key(*name)) {
        println!(" ✗ {name} is named in {file}, and is equal: take it out.");
        is_named = false;
    }
    is_named
}

/// What the suite wants of a server, beside what initdb gives it.
const PLAIN: [(&str, &str); 4] = [
    ("max_prepared_transactions", "2"),
    ("fsync", "off"),
    ("shared_preload_libraries", ""),
    ("cdc.brokers", ""),
];

const TRACKED: [(&str, &str); 4] = [
    ("max_prepared_transactions", "2"),
    ("fsync", "off"),
    ("cdc.topic_partitions", "1"),
    // Roles of the suite make more tables than a database may have topics by default.
    ("cdc.max_topics", "10000"),
];

fn read(mut arguments: impl Iterator<Item = String>) -> Option<Arguments> {
    let (mut keep, mut source) = (PathBuf::from("target/regress"), None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--keep" => keep = PathBuf::from(arguments.next()?),
            other if other.starts_with('-') || source.is_some() => return None,
            folder => source = Some(PathBuf::from(folder)),
        }
    }
    Some(Arguments {
        keep,
        source: source?,
    })
}

/// Every table of `public`, and every one that is made there later. The extension has a schema of its own: what the
/// suite prints of the functions in `public` stays as it is.
fn track_public(bed: &TestBed) {
    let mut client = bed.source().connect(suite::DATABASE);
    client
        .batch_execute("CREATE SCHEMA cdc; CREATE EXTENSION pg_cdc SCHEMA cdc")
        .expect("the extension in a schema of its own");
    wait_until("the sender to stream", SENDER_TIMEOUT, || {
        let row = client.query_one("SELECT state FROM cdc.cdc_status()", &[]);
        match row.map_err(|e| e.to_string())?.get::<_, &str>("state") {
            "streaming" => Ok(()),
            state => Err(state.to_owned()),
        }
    });
    client
        .batch_execute("SELECT cdc.cdc_track_schema('public', new_tables => true)")
        .expect("every new table of public is tracked");
}

/// Everything that was captured is in Kafka, and the sender has nothing to complain of.
fn sender_is_well(bed: &TestBed) {
    let mut client = bed.source().connect(suite::DATABASE);
    wait_until("the sender to be through", SENDER_TIMEOUT, || {
        client
            .batch_execute("SELECT cdc.cdc_wait('20 s')")
            .map_err(|e| e.to_string())
    });
    let row = client
        .query_one(
            "SELECT state, error_message, lag_events, uncovered_rows, rejected_messages, events FROM cdc.cdc_status()",
            &[],
        )
        .expect("the sender's state");
    let seen = (
        row.get::<_, String>("state"),
        row.get::<_, Option<String>>("error_message"),
        row.get::<_, Option<i64>>("uncovered_rows"),
        row.get::<_, Option<i64>>("rejected_messages"),
    );
    assert_eq!(
        seen,
        ("streaming".to_owned(), None, Some(0), Some(0)),
        "state, error, uncovered rows and rejected chunks after the suite"
    );
    println!("   {} events are in Kafka.", row.get::<_, i64>("events"));
}

fn reasons(named: &str) -> BTreeMap<&str, &str> {
    named
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(": "))
        .collect()
}
