//! A constraint that fails at the end of a transaction stops, or sets aside, the event that broke it.

use pg_cdc_tests::hand_made_events::{Event, Source, bed, id_key};
use pg_cdc_tests::statements::{one_text, wait_for_text};
use serde_json::json;

use super::sink_tables::{ordinary_role, start_as, wait_for_halt};

/// Constraints that are looked at when a transaction ends. The trigger acts for every session.
const DEFERRED: &str = "CREATE TABLE parent (id bigint PRIMARY KEY);
    CREATE TABLE child (id bigint PRIMARY KEY, p bigint CONSTRAINT child_of REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE once (id bigint PRIMARY KEY, v bigint CONSTRAINT once_only UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE small (id bigint PRIMARY KEY, v bigint);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT v > 100 FROM small WHERE id = NEW.id) THEN RAISE 'secret %', NEW.v; END IF; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON small DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
    ALTER TABLE small ENABLE ALWAYS TRIGGER refuse;
    GRANT ALL ON parent, child, once, small TO ROLE; GRANT USAGE ON SCHEMA public TO ROLE";

/// One transaction of the source: rows that others of it need come last, and of three tables one row is wrong for the target.
fn transaction(source: &mut Source) -> (Vec<Event>, [String; 4]) {
    let pair = |id: u64, name: &str, v: u64| json!({"id": id, name: v});
    let mut wrong = Vec::new();
    let mut events = Vec::new();
    let small = source.create("small", Some(&id_key(1)), &pair(1, "v", 5));
    events.push(small);
    for id in 2..6 {
        // For a moment too much.
        let event = source.create("small", Some(&id_key(id)), &pair(id, "v", 500));
        if id == 4 {
            wrong.push(event.id());
        }
        events.push(event);
        let end = if id == 4 { 700 } else { 7 };
        let event = source.update(
            "small",
            Some(&id_key(id)),
            &pair(id, "v", 500),
            &pair(id, "v", end),
        );
        if id == 4 {
            wrong.push(event.id());
        }
        events.push(event);
    }
    for id in 1..8 {
        let event = source.create(
            "child",
            Some(&id_key(id)),
            &pair(id, "p", if id == 3 { 99 } else { 1 }),
        );
        if id == 3 {
            wrong.push(event.id());
        }
        events.push(event);
    }
    for (id, v) in [(1, 1), (2, 2), (3, 2)] {
        let event = source.create("once", Some(&id_key(id)), &pair(id, "v", v));
        if id == 3 {
            wrong.push(event.id());
        }
        events.push(event);
    }
    let event = source.create("parent", Some(&id_key(1)), &json!({"id": 1}));
    events.push(event);
    let place = events[0].header("cdc.version").expect("cdc.version")[..31].to_owned();
    for (number, event) in events.iter_mut().enumerate() {
        for (name, value) in &mut event.headers {
            if name == "cdc.version" {
                *value = format!("{place}{:010}-00", number + 1);
            }
        }
    }
    (events, wrong.try_into().expect("four are wrong"))
}

const APPLIED: &str = "SELECT concat_ws(' / ', (SELECT string_agg(id::text, ' ' ORDER BY id) FROM child),
    (SELECT string_agg(id::text, ' ' ORDER BY id) FROM once), (SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM small))";
const TOLD_AT_END: [(&str, &[&str]); 3] = [
    ("small", &["P0001", "refuse()"]),
    ("child", &["23503", "child_of", "table child"]),
    ("once", &["23505", "once_only", "table once"]),
];

fn tracked(source: &mut Source, role: &str) {
    source
        .replica()
        .batch_execute(&DEFERRED.replace("ROLE", role))
        .expect("the target");
    let bigint = "bigint";
    source.track("parent", &[("id", bigint)], &["id"]);
    source.track("child", &[("id", bigint), ("p", bigint)], &["id"]);
    source.track("once", &[("id", bigint), ("v", bigint)], &["id"]);
    source.track("small", &[("id", bigint), ("v", bigint)], &["id"]);
}

#[test]
fn a_constraint_that_fails_at_the_end_sets_the_event_aside_that_broke_it() {
    let mut source = Source::consistent("deferred_park");
    // The transaction goes to the target in parts.
    source.more_toml = "on_error = \"park\"\nbatch = { rows = 4 }\n";
    let role = ordinary_role(&source);
    tracked(&mut source, &role);
    let (events, _) = transaction(&mut source);
    for event in &events {
        source.send(event);
    }
    let sink = start_as(&source, &role);
    let tables = ["parent", "child", "once", "small"];
    tables
        .iter()
        .for_each(|table| source.wait_until_replica_applied(&sink, table));
    let mut target = source.replica();
    assert_eq!(
        one_text(&mut target, APPLIED),
        "1 2 4 5 6 7 / 1 2 / 1:5 2:7 3:7 5:7"
    );
    for (table, parts) in TOLD_AT_END {
        let query = format!(
            "SELECT string_agg(message, ' / ') FROM companion.parked WHERE topic = '{}' AND code = 'CDC1007'",
            source.topic(table)
        );
        let told = one_text(&mut target, &query);
        for part in parts {
            assert!(told.contains(part), "{table}: {part} in {told}");
        }
        assert!(!told.contains("secret"), "{told}");
    }
    assert_eq!(
        sink.state_of("replica")["retries"],
        0,
        "nothing is taken for an outage"
    );
    let letters =
        pg_cdc_tests::topic::read(bed().kafka(), &format!("{}.dlq", source.topic("child")));
    assert_eq!(letters.len(), 1, "each letter is sent once");

    target
        .batch_execute("INSERT INTO parent VALUES (99); UPDATE once SET v = 9 WHERE id = 2; DROP TRIGGER refuse ON small")
        .expect("mend the target");
    sink.run_command(&["dlq", "retry", "--all"]);
    wait_for_text(
        &mut target,
        APPLIED,
        "1 2 3 4 5 6 7 / 1 2 3 / 1:5 2:7 3:7 4:700 5:7",
    );
    assert_eq!(
        one_text(&mut target, "SELECT count(*) FROM companion.parked"),
        "0"
    );
}

#[test]
fn a_constraint_that_fails_at_the_end_halts_with_the_event_that_broke_it() {
    let mut source = Source::consistent("deferred_halt");
    let role = ordinary_role(&source);
    tracked(&mut source, &role);
    let (events, wrong) = transaction(&mut source);
    for event in &events {
        source.send(event);
    }
    let sink = start_as(&source, &role);
    source.flush();
    // The one that was in doubt first, then the next; of the row that is made and changed both are.
    let told = TOLD_AT_END;
    for (id, (table, parts)) in wrong.iter().zip([told[0], told[0], told[1], told[2]]) {
        let mut parts = parts.to_vec();
        let name = source.topic(table);
        parts.extend(["CDC1010", id, &name]);
        wait_for_halt(&sink, &parts);
        let output = sink.run_command(&["dlq", "skip", id, "--reason", "wrong here"]);
        assert!(!output.contains("refused again"), "{output}");
    }
    for table in ["parent", "child", "once", "small"] {
        source.wait_until_replica_applied(&sink, table);
    }
    assert_eq!(
        one_text(&mut source.replica(), APPLIED),
        "1 2 4 5 6 7 / 1 2 / 1:5 2:7 3:7 5:7"
    );
}

#[test]
fn rows_that_a_trigger_refuses_at_the_end_of_a_batch_are_set_aside() {
    let mut source = Source::new("deferred_rows");
    let role = ordinary_role(&source);
    // One that may put triggers out of its way, but for those that are for everybody.
    source
        .replica()
        .batch_execute(&format!(
            "GRANT SET ON PARAMETER session_replication_role TO {role}"
        ))
        .expect("the right");
    tracked(&mut source, &role);
    for (id, v) in [(1, 5), (2, 500), (3, 6)] {
        let event = source.create("small", Some(&id_key(id)), &json!({"id": id, "v": v}));
        source.send(&event);
    }
    let sink = start_as(&source, &role);
    source.wait_until_replica_applied(&sink, "small");
    let mut target = source.replica();
    let rows = "SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM small";
    assert_eq!(one_text(&mut target, rows), "1:5 3:6");
    let told = one_text(&mut target, "SELECT message FROM companion.parked");
    assert!(
        told.contains("refuse()") && !told.contains("secret"),
        "{told}"
    );
    target
        .batch_execute("DROP TRIGGER refuse ON small")
        .expect("mend the target");
    sink.run_command(&["dlq", "retry", "--all"]);
    wait_for_text(&mut target, rows, "1:5 2:500 3:6");
}
