//! What the target refuses for one value or one table is told as that and stops no more than it has to; a sink that does not
//! work holds nothing, and says how far it is behind.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::statements::{one_text, wait_for_text};
use pg_cdc_tests::wait_until;
use postgres::Client;
use serde_json::{Value, json};

/// Columns whose values the target may refuse in one way each.
const COLUMNS: [(&str, &str); 10] = [
    ("id", "bigint"),
    ("note", "text"),
    ("m", "mood"),
    ("c", "regclass"),
    ("o", "regrole"),
    ("f", "regproc"),
    ("s", "regnamespace"),
    ("city", "character varying(5)"),
    ("n", "integer"),
    ("how", "text"),
];
/// The target's table: an index that is narrower than some texts, and triggers that act for every session.
const TARGET: &str = "CREATE TYPE mood AS ENUM ('old');
    CREATE TABLE t (id bigint PRIMARY KEY, note text, m mood, c regclass, o regrole, f regproc, s regnamespace,
        city varchar(5), n integer CHECK (n < 100), how text);
    CREATE INDEX t_note_idx ON t (note);
    CREATE TABLE other (id bigint PRIMARY KEY, note text);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.how = 'raise' THEN RAISE 'secret %', NEW.note; END IF;
        IF NEW.how = 'look' THEN PERFORM FROM secret_table; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse();
    ALTER TABLE t ENABLE ALWAYS TRIGGER refuse";

pub(super) fn key_of(id: u64) -> Option<String> {
    Some(id_key(id))
}

fn wait_for_state(sink: &CompanionSink, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, TIMEOUT, || match sink.state_of("replica") {
        state if is_so(&state) => Ok(state),
        state => Err(state.to_string()),
    })
}

/// A row that differs from a plain one in one column.
fn row(id: u64, column: &str, value: &Value) -> Value {
    let mut row = json!({"id": id, "note": "", "m": "old", "c": null, "o": null, "f": null, "s": null, "city": "", "n": 1, "how": ""});
    row[column] = value.clone();
    row
}

/// Nothing is open on the target, and no lock is held on a table of it.
fn assert_nothing_is_held(source: &Source) {
    let mut target = source.replica();
    wait_for_text(
        &mut target,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'companion-sink%'
         AND (state LIKE 'idle in transaction%' OR pid IN (SELECT pid FROM pg_locks WHERE locktype = 'relation'))",
        "0",
    );
}

/// A column, a value that it refuses, and of what is told of it: the names that must be there.
type Refused = (&'static str, Value, Vec<&'static str>);

fn refused_values() -> Vec<Refused> {
    // So long that no page holds it, also when it is packed.
    let long: String = (0..400)
        .map(|n: u64| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7)))
        .collect();
    vec![
        (
            "note",
            json!(long),
            vec!["54000", "t_note_idx", "index row size"],
        ),
        (
            "m",
            json!("secret"),
            vec!["22P02", "column m", "mood", "ALTER TYPE mood ADD VALUE"],
        ),
        (
            "c",
            json!("secret.x"),
            vec!["column c", "regclass", "\"t\""],
        ),
        ("c", json!("secret"), vec!["42P01", "column c", "regclass"]),
        ("o", json!("secret"), vec!["42704", "column o", "regrole"]),
        ("f", json!("secret"), vec!["42883", "column f", "regproc"]),
        (
            "s",
            json!("secret"),
            vec!["3F000", "column s", "regnamespace"],
        ),
        (
            "city",
            json!("secret"),
            vec!["22001", "column city", "character varying"],
        ),
        ("n", json!(1234), vec!["23514", "t_n_check"]),
        ("how", json!("raise"), vec!["P0001", "refuse()"]),
        ("how", json!("look"), vec!["42P01", "refuse()"]),
    ]
}

#[test]
fn a_value_that_the_target_refuses_is_no_outage() {
    for mut source in Source::of_each_consistency("no_outage") {
        source.more_toml = crate::sink_bad_input::PARK;
        source.replica().batch_execute(TARGET).expect("the target");
        source.track("t", &COLUMNS, &["id"]);
        source.track("other", &[("id", "bigint"), ("note", "text")], &["id"]);
        let refused = refused_values();
        send_between_good_rows(&mut source, &refused);
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "t");
        source.wait_until_applied(&sink, "other");

        let mut target = source.replica();
        assert_eq!(
            one_text(
                &mut target,
                "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t"
            ),
            "1 99"
        );
        assert_eq!(one_text(&mut target, "SELECT note FROM other"), "there");
        assert_told_without_values(&mut target, &refused);
        let parked = "SELECT count(*) FROM companion.parked WHERE code = 'CDC1007'";
        assert_eq!(one_text(&mut target, parked), "12");
        assert_eq!(
            sink.state_of("replica")["retries"],
            0,
            "nothing is taken for an outage"
        );

        // What is mended is applied when it is tried again; the rest is skipped.
        target
            .batch_execute("ALTER TYPE mood ADD VALUE 'secret'; CREATE SCHEMA secret; CREATE TABLE secret.x (); CREATE TABLE secret ();
                DROP INDEX t_note_idx; ALTER TABLE t DROP CONSTRAINT t_n_check, ALTER city TYPE text; DROP TRIGGER refuse ON t")
            .expect("mend the target");
        sink.run_command(&["dlq", "retry", "--all"]);
        // The role and the function are still missing, and the row of no columns remains one.
        wait_for_text(
            &mut target,
            "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t",
            "1 10 11 12 13 16 17 18 19 20 99",
        );
        wait_for_text(
            &mut target,
            "SELECT count(*) FROM companion.parked WHERE decision IS NULL",
            "3",
        );
    }
}

/// A row of each refused value, and one of no columns, which is refused as well.
fn send_between_good_rows(source: &mut Source, refused: &[Refused]) {
    let mut events: Vec<Event> =
        vec![source.create("t", key_of(1).as_deref(), &row(1, "n", &json!(1)))];
    for (place, (column, value, _)) in refused.iter().enumerate() {
        let id = 10 + place as u64;
        events.push(source.create("t", key_of(id).as_deref(), &row(id, column, value)));
    }
    // A row of no columns.
    events.push(source.create("t", key_of(80).as_deref(), &json!({})));
    events.push(source.create("t", key_of(99).as_deref(), &row(99, "n", &json!(2))));
    events.push(source.create(
        "other",
        key_of(1).as_deref(),
        &json!({"id": 1, "note": "there"}),
    ));
    for event in &events {
        source.send(event);
    }
}

fn assert_told_without_values(target: &mut Client, refused: &[Refused]) {
    for (place, (column, _, parts)) in refused.iter().enumerate() {
        let query = format!(
            "SELECT message FROM companion.parked WHERE key = '{}'",
            id_key(10 + place as u64)
        );
        let message = one_text(target, &query);
        for part in parts {
            assert!(message.contains(part), "{column}: {part} in {message}");
        }
        assert!(
            !message.contains("secret"),
            "{column}: a value in {message}"
        );
    }
}

#[test]
fn a_halted_sink_holds_nothing_and_says_how_far_it_is_behind() {
    let mut source = Source::consistent("behind");
    source.replica().batch_execute(TARGET).expect("the target");
    source.track("t", &COLUMNS, &["id"]);
    let first = source.create("t", key_of(1).as_deref(), &row(1, "n", &json!(1)));
    source.send(&first);
    source.flush();
    let mut plan = source.plan();
    // The history cannot reach its target at all.
    plan.mongo_url = format!("mongodb://127.0.0.1:{}/", pg_cdc_tests::port::free());
    let sink = bed().companion_sink(plan);
    sink.start();
    source.wait_until_replica_applied(&sink, "t");
    the_lag_is_told_also_of_what_never_reached_its_target(&sink);
    an_event_halts_it_until_it_is_skipped(&mut source, &sink);
    a_table_that_is_missing_halts_it_until_it_is_there(&mut source, &sink);
    a_table_that_somebody_holds_is_waited_for(&mut source, &sink);
}

fn the_lag_is_told_also_of_what_never_reached_its_target(sink: &CompanionSink) {
    wait_for_state(sink, "no lag", |state| {
        state["apply_lag_events"] == 0 && state["apply_lag_seconds"] == 0.0
    });
    // One event in the table's topic: the row.
    wait_until(
        "the lag of a sink that never reached its target",
        TIMEOUT,
        || {
            let state = sink.state_of("history");
            match state["state"] == "retrying"
                && state["apply_lag_events"] == 1
                && state["retrying_since"].is_string()
            {
                true => Ok(()),
                false => Err(state.to_string()),
            }
        },
    );
}

/// A row of no columns; five others wait behind it.
fn an_event_halts_it_until_it_is_skipped(source: &mut Source, sink: &CompanionSink) {
    let empty = source.create("t", key_of(2).as_deref(), &json!({}));
    let later: Vec<Event> = (3..8)
        .map(|id| source.create("t", key_of(id).as_deref(), &row(id, "n", &json!(1))))
        .collect();
    source.send(&empty);
    for event in &later {
        source.send(event);
    }
    source.flush();
    let state = wait_for_state(sink, "the replica to halt with its lag", |state| {
        state["state"] == "halted"
            && state["apply_lag_events"] == 6
            && state["apply_lag_seconds"].as_f64() > Some(1.0)
    });
    assert!(state.to_string().contains(&empty.id()), "{state}");
    assert_nothing_is_held(source);
    source.replica().batch_execute("BEGIN; SET LOCAL statement_timeout = '10s'; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT").expect("nobody is in the way");
    let metrics = sink.get("/metrics");
    assert!(
        metrics.contains("companion_sink_apply_lag_events{sink=\"replica\"} 6"),
        "{metrics}"
    );
    assert_eq!(
        sink.try_command(&["status"]).status.code(),
        Some(3),
        "a sink is halted"
    );
    sink.run_command(&[
        "dlq",
        "skip",
        &empty.id(),
        "--sink",
        "replica",
        "--reason",
        "it has no columns",
    ]);
    source.wait_until_replica_applied(sink, "t");
    let state = wait_for_state(sink, "the replica to have everything", |state| {
        state["apply_lag_events"] == 0
    });
    assert!(state["last_error"]["over_since"].is_string(), "{state}");
    assert_eq!(sink.try_command(&["status"]).status.code(), Some(0));
}

/// What is missing on the target is no event's fault.
fn a_table_that_is_missing_halts_it_until_it_is_there(source: &mut Source, sink: &CompanionSink) {
    source
        .replica()
        .batch_execute("ALTER TABLE t RENAME TO away")
        .expect("rename");
    let event = source.create("t", key_of(9).as_deref(), &row(9, "n", &json!(1)));
    source.send(&event);
    source.flush();
    let state = wait_for_state(sink, "the replica to halt", |state| {
        state["state"] == "halted"
    });
    assert_eq!(state["last_error"]["code"], "CDC1004", "{state}");
    assert_nothing_is_held(source);
    source
        .replica()
        .batch_execute("ALTER TABLE away RENAME TO t")
        .expect("rename");
    sink.reload();
    source.wait_until_replica_applied(sink, "t");
}

/// Meanwhile the sink is behind, and says so.
fn a_table_that_somebody_holds_is_waited_for(source: &mut Source, sink: &CompanionSink) {
    let mut other = source.replica();
    other
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .expect("a lock");
    let event = source.create("t", key_of(10).as_deref(), &row(10, "n", &json!(1)));
    source.send(&event);
    source.flush();
    wait_for_state(sink, "the lag while the target hangs", |state| {
        state["apply_lag_events"] == 1
            && state["apply_lag_seconds"].as_f64() > Some(1.0)
            && state["unmoved_seconds"].as_f64() > Some(1.0)
    });
    other.batch_execute("COMMIT").expect("the lock is free");
    source.wait_until_replica_applied(sink, "t");
}
