//! Events that a replica refuses: they are parked with the later ones of their keys, or stop it, until somebody decides.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::{topic, wait_until};
use postgres::Client;
use serde_json::Value;

use crate::sink_bad_input::{COLUMNS, PARK, row};

#[test]
fn a_refused_value_parks_its_key_in_order() {
    for mut source in Source::of_each_consistency("refused") {
        source.more_toml = PARK;
        source.track("t", &COLUMNS, &["id"]);
        two_of_many_rows_are_refused(&mut source);
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "t");
        later_events_are_sent(&mut source);
        source.wait_until_applied(&sink, "t");
        let mut replica = source.replica();
        later_events_of_their_keys_wait(&source, &mut replica);
        // The parked keys are known after a restart.
        sink.stop();
        sink.start();
        let event = source.create("t", Some(&id_key(120)), &row(120, "new", 9));
        source.send(&event);
        source.wait_until_applied(&sink, "t");
        assert_eq!(
            one_text(&mut replica, "SELECT city FROM t WHERE id = 120"),
            "city"
        );
        assert_dead_letters_hold_no_value(&source);
        // A key that is free frees the one that its row got later.
        let alter = "ALTER TABLE t ALTER COLUMN city TYPE text, ALTER COLUMN n TYPE bigint";
        replica
            .batch_execute(alter)
            .expect("make the columns wider");
        sink.run_command(&["dlq", "retry", "--all"]);
        wait_until("nothing to be parked", TIMEOUT, || {
            match one_text(&mut replica, "SELECT count(*) FROM companion.parked").as_str() {
                "0" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        let rows =
            "SELECT string_agg(id || city || n, ',' ORDER BY id) FROM t WHERE id IN (50, 120, 500)";
        assert_eq!(one_text(&mut replica, rows), "120new9,500ok2");
    }
}

fn two_of_many_rows_are_refused(source: &mut Source) {
    let mut events: Vec<_> = (1..=200)
        .map(|id| source.create("t", Some(&id_key(id)), &row(id, "city", 0)))
        .collect();
    // Six characters for a varchar(5); a number that no integer holds; a null in the key's column.
    events.push(source.update(
        "t",
        Some(&id_key(50)),
        &row(50, "city", 0),
        &row(50, "toolong", 1),
    ));
    events.push(source.update(
        "t",
        Some(&id_key(120)),
        &row(120, "city", 0),
        &row(120, "city", 3_000_000_000),
    ));
    for event in &events {
        source.send(event);
    }
}

/// Of these keys and of others.
fn later_events_are_sent(source: &mut Source) {
    let later = [
        source.update(
            "t",
            Some(&id_key(50)),
            &row(50, "toolong", 1),
            &row(50, "ok", 2),
        ),
        source.update(
            "t",
            Some(&id_key(51)),
            &row(51, "city", 0),
            &row(51, "ok", 2),
        ),
        source.delete("t", Some(&id_key(120)), &row(120, "city", 0)),
        // The key 50 becomes 500: the new key waits as well.
        source
            .delete("t", Some(&id_key(50)), &row(50, "ok", 2))
            .with_header("__debezium.newkey", &id_key(500)),
        source
            .create("t", Some(&id_key(500)), &row(500, "ok", 2))
            .with_header("__debezium.oldkey", &id_key(50)),
    ];
    for event in &later {
        source.send(event);
    }
}

/// Whatever they hold; all others went on.
fn later_events_of_their_keys_wait(source: &Source, replica: &mut Client) {
    assert_eq!(one_text(replica, "SELECT count(*) FROM t"), "200");
    assert_eq!(
        one_text(
            replica,
            "SELECT string_agg(city || n, ',' ORDER BY id) FROM t WHERE id IN (50, 51, 120)"
        ),
        "city0,ok2,city0"
    );
    let parked = "SELECT string_agg(convert_from(key, 'UTF8') || coalesce(code, '-'), ' ' ORDER BY version) FROM companion.parked";
    assert_eq!(
        one_text(replica, parked),
        r#"{"id":50}CDC1007 {"id":120}CDC1007 {"id":50}- {"id":120}- {"id":50}- {"id":500}-"#
    );
    assert_eq!(
        source.history("t").count(),
        207,
        "the history holds them all"
    );
}

fn assert_dead_letters_hold_no_value(source: &Source) {
    let dead = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("t")));
    assert_eq!(dead.len(), 2, "only the refused events, once");
    assert!(
        dead.iter()
            .all(|r| r.header("cdc.dlq.code") == Some("CDC1007")
                && r.header("__connect.errors.stage") == Some("TASK_PUT"))
    );
    assert!(
        dead.iter().all(|r| !r
            .header("__connect.errors.exception.message")
            .expect("a message")
            .contains("toolong")),
        "no message holds a value"
    );
}

#[test]
fn an_event_that_is_refused_stops_a_consistent_replica_before_its_transaction() {
    let mut source = Source::consistent("stopped");
    source.track("t", &COLUMNS, &["id"]);
    source.track("u", &COLUMNS, &["id"]);
    let refused = one_of_a_transaction_is_refused(&mut source);
    let sink = source.start_sink();
    let state = wait_until("the replica to halt", TIMEOUT, || {
        let answer = sink.get("/v1/status");
        match answer.contains("CDC1010") {
            true => Ok(answer),
            false => Err(answer),
        }
    });
    assert!(state.contains(&refused.id()), "the event is named: {state}");
    assert!(state.contains("dlq"), "the remedy is told: {state}");
    assert!(!state.contains("toolong"), "no message holds a value");
    let mut replica = source.replica();
    let there = "SELECT count(*) || ' ' || sum(n) FROM t";
    assert_eq!(
        one_text(&mut replica, there),
        "100 0",
        "all before, and nothing of it"
    );
    let dead = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("u")));
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("cdc.id"), Some(refused.id().as_str()));
    // It halts again, without another dead letter, and goes on when the target takes the value.
    assert!(sink.stop().expect("it ran").success());
    sink.start();
    wait_until("the second attempt", TIMEOUT, || {
        match one_text(
            &mut replica,
            "SELECT max(attempts) FROM companion.parked WHERE halts",
        )
        .as_str()
        {
            "2" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    assert!(sink.stop().expect("it ran").success());
    replica
        .batch_execute("ALTER TABLE u ALTER COLUMN city TYPE text")
        .expect("make the column wider");
    sink.start();
    source.wait_until_applied(&sink, "t");
    source.wait_until_applied(&sink, "u");
    assert_eq!(one_text(&mut replica, there), "100 2");
    assert_eq!(one_text(&mut replica, "SELECT city FROM u"), "toolong");
    assert_eq!(
        one_text(&mut replica, "SELECT count(*) FROM companion.parked"),
        "0"
    );
    let state = "SELECT concat(state, parked_keys) FROM companion.replica";
    assert_eq!(one_text(&mut replica, state), "consistent0");
    let dead = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("u")));
    assert_eq!(dead.len(), 1);
}

/// A hundred rows, a transaction over two tables of which the second event is refused, and another one. Returns that event.
fn one_of_a_transaction_is_refused(source: &mut Source) -> Event {
    for id in 1..=100 {
        let event = source.create("t", Some(&id_key(id)), &row(id, "city", 0));
        source.send(&event);
    }
    let fine = source.update(
        "t",
        Some(&id_key(7)),
        &row(7, "city", 0),
        &row(7, "city", 1),
    );
    let refused = source.in_transaction_of(&fine, |source| {
        source.create("u", Some(&id_key(7)), &row(7, "toolong", 1))
    });
    let after = source.update(
        "t",
        Some(&id_key(8)),
        &row(8, "city", 0),
        &row(8, "city", 1),
    );
    for event in [&fine, &refused, &after] {
        source.send(event);
    }
    source.flush();
    refused
}

/// The objects that a command prints.
fn objects(sink: &CompanionSink, arguments: &[&str]) -> Vec<Value> {
    let text = sink.run_command(arguments);
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"));
    lines.collect()
}

#[test]
fn people_decide_about_events_that_stop_a_consistent_replica() {
    let mut source = Source::consistent("decided");
    source.track("t", &COLUMNS, &["id"]);
    let refused = three_of_six_rows_are_refused(&mut source);
    let sink = source.start_sink();
    let mut replica = source.replica();
    wait_for_halt(&sink, &refused[0]);
    sink.run_command(&[
        "dlq",
        "edit",
        &refused[0],
        "--set",
        "after.city=ok",
        "--reason",
        "shorter",
        "--by",
        "ann",
    ]);
    wait_for_halt(&sink, &refused[1]);
    sink.run_command(&[
        "dlq",
        "skip",
        &refused[1][..20],
        "--reason",
        "a test row",
        "--by",
        "bob",
    ]);
    wait_for_halt(&sink, &refused[2]);
    // Too early: it is refused once more.
    sink.run_command(&["dlq", "retry", &refused[2]]);
    wait_until("another attempt", TIMEOUT, || {
        let shown = objects(&sink, &["dlq", "show", &refused[2]]);
        match shown[0]["attempts"].as_i64() {
            Some(2) => Ok(()),
            _ => Err(format!("{shown:?}")),
        }
    });
    wait_for_halt(&sink, &refused[2]);
    replica
        .batch_execute("ALTER TABLE t ALTER COLUMN city TYPE text")
        .expect("make the column wider");
    sink.run_command(&["dlq", "retry", "--all"]);
    source.wait_until_applied(&sink, "t");
    let rows = "SELECT string_agg(id || city, ' ' ORDER BY id) FROM t";
    assert_eq!(
        one_text(&mut replica, rows),
        "1ok 3toolong 10city 20city 30city"
    );
    assert!(objects(&sink, &["dlq", "list"]).is_empty());
    let actions = "SELECT string_agg(action || ' ' || decided_by || coalesce(' ' || reason, ''), ', ' ORDER BY at)
        FROM companion.actions WHERE decided_by IN ('ann', 'bob')";
    assert_eq!(
        one_text(&mut replica, actions),
        "edit ann shorter, skip bob a test row"
    );
    let was = one_text(
        &mut replica,
        "SELECT convert_from(body, 'UTF8') FROM companion.actions WHERE action = 'edit'",
    );
    assert!(was.contains("toolong"), "the original is kept");
}

/// Returns the ids of the refused events.
fn three_of_six_rows_are_refused(source: &mut Source) -> Vec<String> {
    let mut refused = Vec::new();
    for id in 1..=3 {
        let event = source.create("t", Some(&id_key(id)), &row(id, "toolong", 1));
        source.send(&event);
        refused.push(event.id());
        let event = source.create("t", Some(&id_key(10 * id)), &row(10 * id, "city", 1));
        source.send(&event);
    }
    source.flush();
    refused
}

/// Waits until this event is the one that stops the replica.
fn wait_for_halt(sink: &CompanionSink, id: &str) {
    wait_until("the event to stop it", TIMEOUT, || {
        let listed = objects(sink, &["dlq", "list", "--reason", "refused"]);
        let halts = |event: &Value| event["event"] == *id && event["state"] == "halts the sink";
        match listed.len() == 1 && halts(&listed[0]) {
            true => Ok(()),
            false => Err(format!("{listed:?}")),
        }
    });
}

#[test]
fn parked_events_are_tried_again_in_the_order_of_their_keys() {
    for mut source in Source::of_each_consistency("retried") {
        source.more_toml = PARK;
        source.track("t", &COLUMNS, &["id"]);
        let refused = four_rows_are_refused(&mut source);
        let sink = source.start_sink();
        // A batch of its own: in one with the later events their last state would count, which is fine.
        source.wait_until_applied(&sink, "t");
        let refused_later = three_events_wait_behind_each(&mut source);
        source.wait_until_applied(&sink, "t");
        let mut replica = source.replica();
        let listed = objects(&sink, &["dlq", "list", "--sink", "replica"]);
        let behind: Vec<&Value> = listed.iter().map(|event| &event["behind"]).collect();
        assert_eq!(
            (
                listed.len(),
                behind.iter().filter(|behind| **behind == 3).count()
            ),
            (4, 3)
        );

        three_are_decided_about_while_new_events_come(&mut source, &sink, &refused);
        let rows = "SELECT coalesce(string_agg(id || city || n, ' ' ORDER BY id), '') FROM t";
        wait_until(
            "the decisions to be carried out",
            TIMEOUT,
            || match one_text(&mut replica, rows).as_str() {
                "1new5 2new5 3ok3" => Ok(()),
                other => Err(other.to_owned()),
            },
        );
        let listed = objects(&sink, &["dlq", "list"]);
        let ids: Vec<&str> = listed
            .iter()
            .filter_map(|event| event["event"].as_str())
            .collect();
        assert_eq!(ids.len(), 2, "{ids:?}");
        assert!(ids.contains(&refused_later.as_str()) && ids.contains(&refused[3].as_str()));
        // What was decided while nobody ran is done at the start.
        assert!(sink.stop().expect("it ran").success());
        replica
            .batch_execute("ALTER TABLE t ALTER COLUMN city TYPE text")
            .expect("make the column wider");
        sink.run_command(&["dlq", "retry", "--all"]);
        sink.start();
        wait_until("the rest", TIMEOUT, || {
            match one_text(&mut replica, rows).as_str() {
                "1new5 2new5 3also too long4 4ok3" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        assert_eq!(
            one_text(&mut replica, "SELECT count(*) FROM companion.parked"),
            "0"
        );
    }
}

/// Returns their events' ids.
fn four_rows_are_refused(source: &mut Source) -> Vec<String> {
    let mut refused = Vec::new();
    for id in 1..=4 {
        let event = source.create("t", Some(&id_key(id)), &row(id, "toolong", 0));
        source.send(&event);
        refused.push(event.id());
    }
    refused
}

/// And behind those of the third row another one that is refused, whose id is returned.
fn three_events_wait_behind_each(source: &mut Source) -> String {
    for id in 1..=4 {
        for n in 1..=3 {
            let before = row(id, "toolong", n - 1);
            let event = source.update("t", Some(&id_key(id)), &before, &row(id, "ok", n));
            source.send(&event);
        }
    }
    let before = row(3, "ok", 3);
    let event = source.update("t", Some(&id_key(3)), &before, &row(3, "also too long", 4));
    source.send(&event);
    event.id()
}

/// Not about the fourth: it waits on.
fn three_are_decided_about_while_new_events_come(
    source: &mut Source,
    sink: &CompanionSink,
    refused: &[String],
) {
    sink.run_command(&[
        "dlq",
        "edit",
        &refused[0],
        "--set",
        "after.city=short",
        "--reason",
        "shorter",
    ]);
    sink.run_command(&["dlq", "skip", &refused[1], &refused[2], "--reason", "wrong"]);
    for id in 1..=2 {
        let event = source.update(
            "t",
            Some(&id_key(id)),
            &row(id, "ok", 3),
            &row(id, "new", 5),
        );
        source.send(&event);
    }
    source.wait_until_applied(sink, "t");
}
