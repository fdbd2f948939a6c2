//! Keys of which one row has several spellings, which may stand in several partitions.

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::hand_made_events::{Event, Source, bed};
use pg_cdc_tests::statements::{one_text, wait_for_text};
use postgres::Client;
use serde_json::{Value, json};

use super::shared_partitions::start_instance;

/// Types of keys of which one row has several spellings, with two of them as JSON.
const SPELLINGS: [(&str, &str, &str, &str); 6] = [
    ("s_numeric", "numeric", "1.0", "1.00"),
    ("s_citext", "citext", "\"Ab\"", "\"aB\""),
    ("s_float", "double precision", "0.0", "-0.0"),
    ("s_padded", "bpchar", "\"x\"", "\"x  \""),
    (
        "s_collation",
        "text COLLATE either_case",
        "\"Zürich\"",
        "\"ZÜRICH\"",
    ),
    ("s_interval", "interval", "\"P1M\"", "\"P30D\""),
];

/// Makes what is sent of a table and the two spellings, one step after the other.
type Steps<'s> = &'s dyn Fn(&mut Source, &str, &str, &str) -> Vec<Vec<Event>>;

/// An event of a row `{k, v}` whose key is spelled so.
fn spelled(mut event: Event, spelling: &str) -> Event {
    let value = String::from_utf8(event.value.take().expect("a value")).expect("text");
    event.value = Some(value.replace("\"@\"", spelling).into_bytes());
    event.key = Some(format!("{{\"k\":{spelling}}}"));
    event
}

fn spelled_row(v: u64) -> Value {
    json!({"k": "@", "v": v})
}

/// The spellings of one row stand in two partitions.
fn partition(table: &str, spelling: &str) -> i32 {
    i32::from(spelling != SPELLINGS.iter().find(|s| s.0 == table).expect("it").2)
}

fn create(source: &mut Source, table: &str, spelling: &str, v: u64) -> Event {
    let event = source.create(table, Some("@"), &spelled_row(v));
    spelled(event, spelling).in_partition(partition(table, spelling))
}

fn delete(source: &mut Source, table: &str, spelling: &str) -> Event {
    let event = source.delete(table, Some("@"), &spelled_row(0));
    spelled(event, spelling).in_partition(partition(table, spelling))
}

/// Sends what `make` makes of each table, one step after the other, and waits for it.
fn send_in_steps(source: &mut Source, sink: &CompanionSink, make: Steps<'_>) {
    let mut steps: Vec<Vec<Vec<Event>>> = Vec::new();
    for (table, _, one, other) in SPELLINGS {
        steps.push(make(source, table, one, other));
    }
    for place in 0..steps[0].len() {
        steps
            .iter()
            .flat_map(|steps| &steps[place])
            .for_each(|event| source.send(event));
        source.flush_without_position(); // It would say that what is sent later is there.
        let topics = SPELLINGS.map(|(table, ..)| source.topic(table));
        sink.wait_until_sink_applied("replica", bed().kafka(), &topics);
    }
}

/// Each table has this row, with its first spelling for A and the other one for B, and nothing is parked.
fn assert_rows(replica: &mut Client, expected: &str) {
    for (table, type_name, one, other) in SPELLINGS {
        let query = format!("SELECT string_agg(k::text || ' ' || v, ',') FROM {table}");
        let text = |json: &str| {
            let text = json.trim_matches('"').to_owned();
            match type_name {
                "double precision" => text.replace(".0", ""),
                "interval" if text == "P1M" => "1 mon".to_owned(),
                "interval" => "30 days".to_owned(),
                // A cast of it cuts the blanks.
                "bpchar" => text.trim_end().to_owned(),
                _ => text,
            }
        };
        let expected = expected.replace('A', &text(one)).replace('B', &text(other));
        assert_eq!(one_text(replica, &query), expected, "{table}");
    }
    assert_eq!(
        one_text(replica, "SELECT count(*) FROM companion.parked"),
        "0"
    );
}

#[test]
fn a_row_whose_key_has_several_spellings_is_as_its_newest_event() {
    let mut source = Source::new("spellings");
    source.more_toml = "batch = { rows = 100, wait = \"20ms\" }\n";
    let mut replica = source.replica();
    create_tables(&mut source, &mut replica);
    let plan = source.plan();
    let sink = start_instance(&plan);
    the_spelling_changes(&mut source, &sink, &mut replica);
    a_refused_event_of_the_other_spelling_is_older(&mut source, &sink, &mut replica);
    a_backlog_of_several_batches_is_applied(&mut source, &sink, &plan, &mut replica);
    // What is noted for that is forgotten when nothing older can come.
    let noted = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'companion' AND c.relname LIKE 'newest_%' AND c.relkind = 'r'";
    let expected = (SPELLINGS.len() + 1).to_string();
    assert_eq!(one_text(&mut replica, noted), expected);
}

fn create_tables(source: &mut Source, replica: &mut Client) {
    let mut sql = "CREATE EXTENSION citext;
        CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        .to_owned();
    for (table, type_name, ..) in SPELLINGS {
        sql += &format!("; CREATE TABLE {table} (k {type_name} PRIMARY KEY, v integer)");
        source.track(table, &[("k", "text"), ("v", "integer")], &["k"]);
    }
    replica.batch_execute(&sql).expect("the tables");
    source.track("many", &[("k", "numeric"), ("v", "integer")], &["k"]);
}

/// In one partition the row goes, in the other one it comes.
fn the_spelling_changes(source: &mut Source, sink: &CompanionSink, replica: &mut Client) {
    // The new one's partition is ahead.
    send_in_steps(source, sink, &|source, table, one, other| {
        let first = create(source, table, one, 1);
        let gone = delete(source, table, one);
        let came = create(source, table, other, 1);
        vec![vec![first], vec![came], vec![gone]]
    });
    assert_rows(replica, "B 1");
    // To and fro: the partition of what it is in the end is ahead of all that lies between.
    send_in_steps(source, sink, &|source, table, one, other| {
        let gone = delete(source, table, other);
        let between = [create(source, table, one, 2), delete(source, table, one)];
        let came = create(source, table, other, 3);
        vec![vec![gone, came], between.to_vec()]
    });
    assert_rows(replica, "B 3");
    // It changes and is deleted, before its first spelling goes.
    send_in_steps(source, sink, &|source, table, one, other| {
        let gone = delete(source, table, other);
        let last = [create(source, table, one, 4), delete(source, table, one)];
        vec![last.to_vec(), vec![gone]]
    });
    assert_rows(replica, "NULL");
}

/// What came of the other spelling stays when the refused event is tried again.
fn a_refused_event_of_the_other_spelling_is_older(
    source: &mut Source,
    sink: &CompanionSink,
    replica: &mut Client,
) {
    send_in_steps(source, sink, &|source, table, one, other| {
        let refused = create(source, table, one, 3_000_000_000);
        let behind = delete(source, table, one);
        let came = create(source, table, other, 5);
        vec![vec![refused], vec![behind], vec![came]]
    });
    let parked = "SELECT count(*) FROM companion.parked";
    let expected = (2 * SPELLINGS.len()).to_string();
    assert_eq!(one_text(replica, parked), expected);
    for (table, ..) in SPELLINGS {
        let sql = format!("ALTER TABLE {table} ALTER v TYPE bigint");
        replica.batch_execute(&sql).expect("make it wider");
    }
    sink.run_command(&["dlq", "retry", "--all"]);
    wait_for_text(replica, parked, "0");
    assert_rows(replica, "B 5");
}

/// By one instance, and by two.
fn a_backlog_of_several_batches_is_applied(
    source: &mut Source,
    sink: &CompanionSink,
    plan: &Plan,
    replica: &mut Client,
) {
    const ROWS: u64 = 1500;
    let spell = |id: u64, digits: &str| format!("{id}.{digits}");
    for id in 0..ROWS {
        let event = source.create("many", Some("@"), &spelled_row(0));
        source.send(&spelled(event, &spell(id, "0")));
    }
    source.wait_until_replica_applied(sink, "many");
    for digits in [["0", "00"], ["00", "000"]] {
        sink.stop();
        for id in 0..ROWS {
            let gone = source.delete("many", Some("@"), &spelled_row(0));
            source.send(&spelled(gone, &spell(id, digits[0])));
            let came = source.create("many", Some("@"), &spelled_row(1));
            source.send(&spelled(came, &spell(id, digits[1])));
        }
        source.flush();
        sink.start_only(&["replica"]);
        let second = (digits[0] == "00").then(|| start_instance(plan));
        source.wait_until_replica_applied(sink, "many");
        let scale = digits[1].len();
        let rows = "SELECT count(*) || ' ' || min(scale(k)) || ' ' || max(scale(k)) FROM many";
        assert_eq!(one_text(replica, rows), format!("{ROWS} {scale} {scale}"));
        drop(second);
    }
}
