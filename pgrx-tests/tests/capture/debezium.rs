//! What reads Debezium's events reads pg_cdc's: both see the same statements, and key, images, op, source and tombstones are
//! compared field by field. What differs stands in docs/debezium.md, with its reason; anything else fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_cdc_tests::debezium::{Debezium, Purpose, TOPIC_PREFIX};
use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, TestBed, wait_until};
use serde_json::Value;

/// A type, and literals of it.
const VALUES: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false"]),
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "0"]),
    ("bigint", &["9223372036854775807", "-9223372036854775808"]),
    ("oid", &["4294967295"]),
    ("real", &["0.1", "-2.5e-05", "NaN", "Infinity"]),
    (
        "double precision",
        &["0.1", "1e300", "-0", "123456789.125", "NaN", "-Infinity"],
    ),
    (
        "numeric",
        &[
            "10.00",
            "-0.000120",
            "1e-20",
            "100000000",
            "123456789012345678901234567890.1234567890",
            "0",
        ],
    ),
    ("numeric(12,3)", &["1.5", "-999999999.999"]),
    ("numeric (special)", &["NaN", "Infinity"]),
    ("money", &["1234.11"]),
    ("text", &["Zürich \"x\" \\ \n\t\u{1f600}", ""]),
    ("varchar(10)", &["abc", ""]),
    ("char(4)", &["ab"]),
    ("name", &["a_name"]),
    ("\"char\"", &["x"]),
    ("bytea", &["\\x010203ff", "\\x"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", &["{\"a\": 1}", "[1,  2]"]),
    ("jsonb", &["{\"b\":[1,null]}"]),
    ("xml", &["<a>x</a>"]),
    (
        "date",
        &["2026-11-21", "1900-02-28", "0044-03-15 BC", "12026-01-01"],
    ),
    ("date (special)", &["infinity", "-infinity"]),
    ("time", &["04:05:11.789", "04:05:11", "00:00:00"]),
    ("time (special)", &["24:00:00"]),
    ("timetz", &["13:51:30.123789+02", "13:51:30+00"]),
    (
        "timestamp",
        &[
            "2026-11-21 10:40:00.123456",
            "2026-11-21 10:40:00",
            "0044-03-15 00:00:00 BC",
        ],
    ),
    ("timestamp (special)", &["infinity"]),
    (
        "timestamptz",
        &["2026-11-21 10:40:00.123456+02", "2026-11-21 10:40:00+00"],
    ),
    ("timestamptz (special)", &["-infinity"]),
    (
        "interval",
        &["1 year 2 mons 3 days 4:05:06.78", "-1 day", "0"],
    ),
    ("bit(1)", &["1", "0"]),
    ("bit(5)", &["01011"]),
    ("varbit", &["0101"]),
    ("inet", &["10.0.0.7", "10.0.0.7/8"]),
    ("cidr", &["10.0.0.0/8"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("tsvector", &["'cat':1 'fat':2"]),
    ("int4range", &["[1,5)"]),
    ("int8range", &["[1,5)"]),
    ("numrange", &["[1.5,2.5]"]),
    ("daterange", &["[2026-01-01,2026-02-01)"]),
    ("tsrange", &["[2026-01-01 00:00:00,2026-02-01 00:00:00)"]),
    ("tstzrange", &["[2026-01-01 00:00:00+00,)"]),
    ("point", &["(1,2)"]),
    ("box", &["(3,4),(1,2)"]),
    ("line", &["{1,2,3}"]),
    ("pg_lsn", &["16/B374D848"]),
    ("int[]", &["{1,NULL,3}", "{}"]),
    ("text[]", &["{a,\"b c\",NULL}"]),
    ("numeric[]", &["{1.50,2}"]),
    ("int[][]", &["{{1,2},{3,4}}"]),
    ("mood", &["so lala"]),
    ("positive", &["7"]),
    ("address", &["(Gasse,3000)"]),
    ("citext", &["MiXed"]),
    ("hstore", &["k=>v,n=>NULL"]),
    ("ltree", &["top.science"]),
];

/// In front of the names of fields of rows that a snapshot has read, here and in docs/debezium.md.
const OF_SNAPSHOT: &str = "r: ";

/// Where the two differ, by design: type or field, as docs/debezium.md names it.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../../../docs/debezium.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(name, _)| name.to_owned()).collect()
}

fn column(index: usize) -> String {
    format!("c{index}")
}

/// PostgreSQL's type of an entry of [`VALUES`], which may have a remark behind it.
fn type_of(entry: &str) -> &str {
    entry.strip_suffix(" (special)").unwrap_or(entry)
}

fn statements() -> Vec<String> {
    let columns: Vec<String> = VALUES
        .iter()
        .enumerate()
        .map(|(index, (entry, _))| format!("{} {}", column(index), type_of(entry)))
        .collect();
    let mut statements = vec![
        "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree".to_owned(),
        "CREATE TYPE mood AS ENUM ('so lala', 'good'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         CREATE TYPE address AS (street text, zip int)".to_owned(),
        format!("CREATE TABLE kinds (id int PRIMARY KEY, {})", columns.join(", ")),
        "CREATE TABLE ops (a int, b text, n int, note text, PRIMARY KEY (a, b))".to_owned(),
        "ALTER TABLE kinds REPLICA IDENTITY FULL; ALTER TABLE ops REPLICA IDENTITY FULL".to_owned(),
        "SELECT cdc_track('kinds'), cdc_track('ops')".to_owned(),
        "CREATE TABLE seen (id int PRIMARY KEY, note text, amount numeric(8,2), since timestamptz)".to_owned(),
        "INSERT INTO seen SELECT i, 'row ' || i, i * 1.5, '2026-11-21 10:40:00+00' FROM generate_series(1, 50) i".to_owned(),
        "CREATE TABLE debezium_signal (id text PRIMARY KEY, type text, data text)".to_owned(),
    ];
    statements.push("-- Debezium starts here".to_owned());
    statements.push(
        "INSERT INTO debezium_signal VALUES ('1', 'execute-snapshot', '{\"data-collections\": [\"public.seen\"], \"type\": \"incremental\"}')"
            .to_owned(),
    );
    statements.push("SELECT cdc_track('seen', snapshot => true)".to_owned());
    let mut id = 0;
    for (index, (_, literals)) in VALUES.iter().enumerate() {
        for literal in *literals {
            id += 1;
            let literal = literal.replace('\'', "''");
            statements.push(format!(
                "INSERT INTO kinds (id, {}) VALUES ({id}, '{literal}')",
                column(index)
            ));
            statements.push(format!(
                "UPDATE kinds SET {} = NULL WHERE id = {id}",
                column(index)
            ));
        }
    }
    statements.extend(
        [
            "BEGIN",
            "INSERT INTO ops VALUES (1, 'x', 1, 'one'), (2, 'y', NULL, NULL)",
            "UPDATE ops SET n = n + 1, note = 'changed'",
            "COMMIT",
            "UPDATE ops SET note = note WHERE a = 1",
            "UPDATE ops SET b = 'z' WHERE a = 1",
            "DELETE FROM ops WHERE a = 2",
            "BEGIN; INSERT INTO ops VALUES (3, 'gone', 3, ''); ROLLBACK",
            "INSERT INTO ops VALUES (4, 'last', 4, repeat('long ', 20000))",
            "UPDATE ops SET n = 5 WHERE a = 4",
            "TRUNCATE ops",
            "INSERT INTO ops VALUES (5, 'after', 5, '')",
        ]
        .map(str::to_owned),
    );
    statements
}

/// One of both sides' events: key and value.
struct Event {
    key: Value,
    value: Value,
}

fn events(records: &[&Record]) -> Vec<Event> {
    let parse = |bytes: &Option<Vec<u8>>| match bytes {
        None => Value::Null,
        Some(bytes) => serde_json::from_slice(bytes).expect("JSON"),
    };
    records
        .iter()
        .map(|record| Event {
            key: parse(&record.key),
            value: parse(&record.value),
        })
        .collect()
}

/// Every record of the table's topic, in the order of their versions.
fn ours(database: &Database<'_>, table: &str) -> Vec<Event> {
    database.wait_until_in_kafka();
    let mut records = topic::read(database.bed().kafka(), &database.topic(table));
    records.sort_by(|one, other| one.version().cmp(other.version()));
    events(&records.iter().collect::<Vec<_>>())
}

fn debeziums(bed: &TestBed, debezium: &Debezium, table: &str, count: usize) -> Vec<Event> {
    let name = format!("{TOPIC_PREFIX}.public.{table}");
    let records = wait_until("Debezium's events", Duration::from_secs(120), || {
        let records = topic::read(bed.kafka(), &name);
        if records.len() >= count {
            Ok(records)
        } else {
            Err(format!(
                "{} of {count}\n{}",
                records.len(),
                debezium.log_tail()
            ))
        }
    });
    events(&records.iter().collect::<Vec<_>>())
}

/// The entry of [`VALUES`] that a column of `kinds` has; else the column's own name.
fn entry_of(column: &str) -> String {
    let index = column
        .strip_prefix('c')
        .and_then(|index| index.parse::<usize>().ok());
    index
        .and_then(|index| VALUES.get(index))
        .map_or_else(|| column.to_owned(), |(entry, _)| (*entry).to_owned())
}

/// Compares two values; notes what was compared, and differences by type or field.
#[derive(Default)]
struct Comparison {
    /// In front of the names of rows that a snapshot has read.
    of_snapshot: &'static str,
    compared: BTreeMap<String, usize>,
    differences: BTreeMap<String, Vec<String>>,
}

impl Comparison {
    fn note(&mut self, name: &str, one: &Value, other: &Value) {
        let name = &format!("{}{name}", self.of_snapshot);
        *self.compared.entry(name.to_owned()).or_default() += 1;
        if one != other {
            let difference = format!("pg_cdc {one}, Debezium {other}");
            self.differences
                .entry(name.to_owned())
                .or_default()
                .push(difference);
        }
    }

    fn image(&mut self, one: &Value, other: &Value) {
        match (one.as_object(), other.as_object()) {
            (Some(one), Some(other)) => {
                let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
                for name in names {
                    let (one, other) = (one.get(name), other.get(name));
                    // A column that is NULL in most rows says nothing about its type there.
                    if one == Some(&Value::Null) && other == Some(&Value::Null) {
                        continue;
                    }
                    let missing = Value::String("(missing)".into());
                    self.note(
                        &entry_of(name),
                        one.unwrap_or(&missing),
                        other.unwrap_or(&missing),
                    );
                }
            }
            _ => self.note("image", one, other),
        }
    }

    fn event(&mut self, one: &Event, other: &Event) {
        self.note("key", &one.key, &other.key);
        let (one, other) = (&one.value, &other.value);
        self.of_snapshot = if one["op"] == "r" { OF_SNAPSHOT } else { "" };
        if one.is_null() || other.is_null() {
            return self.note("tombstone", one, other);
        }
        self.note("op", &one["op"], &other["op"]);
        self.image(&one["before"], &other["before"]);
        self.image(&one["after"], &other["after"]);
        for field in [
            "connector",
            "db",
            "schema",
            "table",
            "txId",
            "snapshot",
            "xmin",
            "name",
            "lsn",
            "version",
            "sequence",
        ] {
            self.note(
                &format!("source.{field}"),
                &one["source"][field],
                &other["source"][field],
            );
        }
        for field in ["total_order", "data_collection_order", "id"] {
            self.note(
                &format!("transaction.{field}"),
                &one["transaction"][field],
                &other["transaction"][field],
            );
        }
        // Whatever Debezium's readers find there must be here.
        for (name, there) in [
            ("envelope", other),
            ("source", &other["source"]),
            ("transaction", &other["transaction"]),
        ] {
            let here = if name == "envelope" { one } else { &one[name] };
            for field in there.as_object().into_iter().flat_map(|there| there.keys()) {
                self.note(
                    &format!("{name} has {field}"),
                    &Value::Bool(here.get(field).is_some()),
                    &Value::Bool(true),
                );
            }
        }
    }
}

#[test]
fn what_reads_debezium_reads_pg_cdc() {
    let bed = TestBed::start_with(&[("wal_level", "logical"), ("cdc.skipped_operations", "none")]);
    let database = bed.database("conform");
    let mut client = database.source();
    let mut debezium = None;
    for statement in statements() {
        if statement.starts_with("--") {
            debezium = Some(Debezium::start(
                &bed.path("debezium"),
                bed.kafka(),
                bed.source(),
                "conform",
                Purpose::Events,
            ));
        } else {
            run(&mut client, &[&statement]);
        }
    }
    let debezium = debezium.expect("Debezium runs");
    let mut comparison = Comparison::default();
    for table in ["kinds", "ops", "seen"] {
        if table == "seen" {
            database.wait_until_snapshots_end();
        }
        let ours = ours(&database, table);
        let theirs = debeziums(&bed, &debezium, table, ours.len());
        assert_eq!(ours.len(), theirs.len(), "events of {table}");
        for (one, other) in ours.iter().zip(&theirs) {
            comparison.event(one, other);
        }
    }
    let compared: usize = comparison.compared.values().sum();
    println!("{compared} comparisons: {:?}", comparison.compared);
    let documented = documented();
    // What is said of a field holds for rows of snapshots as well.
    let is_said = |name: &str| {
        let field = name.strip_prefix(OF_SNAPSHOT);
        field.is_some_and(|field| documented.contains(field))
    };
    let found = comparison.differences.keys();
    let found: BTreeSet<String> = found.filter(|name| !is_said(name)).cloned().collect();
    for (name, differences) in &comparison.differences {
        println!("{name}: {} times, {}", differences.len(), differences[0]);
    }
    let unknown: Vec<&String> = found.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/debezium.md: {unknown:?}");
    let stale: Vec<&String> = documented.difference(&found).collect();
    assert!(
        stale.is_empty(),
        "in docs/debezium.md, and yet the same: {stale:?}"
    );
}
