//! Whatever is killed, started twice or sent twice: the replica and the history hold each change once.

use pg_cdc_tests::hand_made_events::{Event, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::{topic, wait_until};
use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 2] = [("id", "bigint"), ("n", "integer")];

fn row(id: u64, n: u64) -> Value {
    json!({"id": id, "n": n})
}

/// `rounds` changes of each of `keys` rows; the last round deletes every seventh row.
fn load(source: &mut Source, table: &str, keys: u64, rounds: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for round in 0..rounds {
        for id in 0..keys {
            let key = id_key(id);
            events.push(match round {
                0 => source.create(table, Some(&key), &row(id, 0)),
                _ => source.update(table, Some(&key), &row(id, round - 1), &row(id, round)),
            });
        }
    }
    for id in (0..keys).step_by(7) {
        let delete = source.delete(table, Some(&id_key(id)), &row(id, rounds - 1));
        events.push(delete.clone());
        events.push(Source::tombstone(&delete));
    }
    events
}

fn assert_complete(source: &Source, table: &str, keys: u64, rounds: u64) {
    let mut replica = source.replica();
    let deleted = keys.div_ceil(7);
    let expected = format!("{} {} {}", keys - deleted, rounds - 1, rounds - 1);
    let query = format!("SELECT count(*) || ' ' || min(n) || ' ' || max(n) FROM {table}");
    assert_eq!(one_text(&mut replica, &query), expected);
    assert_eq!(source.history(table).count(), keys * rounds + deleted);
}

#[test]
fn kill_9_during_a_load_loses_and_doubles_nothing() {
    for mut source in Source::of_each_consistency("killed") {
        source.track("t", &COLUMNS, &["id"]);
        // Without a key a doubled or lost insert shows as a row.
        source.track("log", &[("line", "text")], &[]);
        let events = load(&mut source, "t", 2000, 10);
        for event in &events {
            source.send(event);
        }
        for line in 0..5000 {
            let event = source.create("log", None, &json!({"line": format!("line {line}")}));
            source.send(&event);
        }
        source.flush();
        let plan = source.plan();
        let sink = bed().companion_sink(pg_cdc_tests::companion_sink::Plan {
            more_toml: "batch = { rows = 300 }\n".to_owned(),
            ..plan
        });
        let mut kills = 0;
        let mut applied_before = 0;
        while kills < 12 {
            sink.start();
            let applied = progress(&source, applied_before);
            let done = applied >= 2000 * 10 + 5000;
            sink.kill();
            kills += 1;
            applied_before = applied;
            if done {
                break;
            }
        }
        assert!(kills >= 3, "it was killed {kills} times");
        sink.start();
        source.wait_until_applied(&sink, "t");
        source.wait_until_applied(&sink, "log");
        assert_complete(&source, "t", 2000, 10);
        let lines = one_text(
            &mut source.replica(),
            "SELECT count(*) || ' ' || count(DISTINCT line) FROM log",
        );
        assert_eq!(lines, "5000 5000");
        assert_eq!(source.history("log").count(), 5000);
    }
}

/// Waits until the replica is further than `before`, and says how far.
fn progress(source: &Source, before: i64) -> i64 {
    let mut replica = source.replica();
    wait_until("the replica to go on", TIMEOUT, || {
        let there = one_text(
            &mut replica,
            "SELECT to_regclass('companion.offsets') IS NOT NULL",
        );
        if there != "true" {
            return Err("no offsets".to_owned());
        }
        let applied = one_text(
            &mut replica,
            "SELECT coalesce(sum(next_offset), 0) FROM companion.offsets",
        );
        let applied: i64 = applied.parse().expect("a number");
        if applied > before {
            Ok(applied)
        } else {
            Err(format!("{applied}"))
        }
    })
}

#[test]
fn later_copies_are_dropped() {
    for mut source in Source::of_each_consistency("copies") {
        source.track("t", &COLUMNS, &["id"]);
        source.track("log", &[("line", "text")], &[]);
        let events = load(&mut source, "t", 50, 4);
        let lines: Vec<_> = (0..20)
            .map(|line| source.create("log", None, &json!({"line": line.to_string()})))
            .collect();
        // The sender went back twice: to the beginning of what it had sent, and into the middle of it.
        let sent: Vec<&Event> = events.iter().chain(&lines).collect();
        for event in sent.iter().take(150).chain(&sent).chain(&sent[60..]) {
            source.send(event);
        }
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "t");
        source.wait_until_applied(&sink, "log");
        // And once more behind what is applied already.
        for event in &sent[100..] {
            source.send(event);
        }
        source.wait_until_applied(&sink, "t");
        source.wait_until_applied(&sink, "log");
        assert_complete(&source, "t", 50, 4);
        assert_eq!(
            one_text(&mut source.replica(), "SELECT count(*) FROM log"),
            "20"
        );
        assert_eq!(source.history("log").count(), 20);
    }
}

#[test]
fn a_truncate_waits_for_all_partitions() {
    let mut source = Source::new("truncated");
    source.track("t", &COLUMNS, &["id"]);
    let partition = |id: u64| (id % 3) as i32;
    for id in 0..60 {
        let event = source.create("t", Some(&id_key(id)), &row(id, 1));
        source.send(&event.in_partition(partition(id)));
    }
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let last_before = source.update("t", Some(&id_key(2)), &row(2, 1), &row(2, 5));
    let truncate = source.truncate("t");
    let after: Vec<_> = (30..90)
        .map(|id| {
            source
                .create("t", Some(&id_key(id)), &row(id, 2))
                .in_partition(partition(id))
        })
        .collect();
    // Two partitions have more behind it; the third still has something before it, and nobody has said that this is all.
    source.send(&truncate);
    for event in after.iter().filter(|event| event.partition != Some(2)) {
        source.send(event);
    }
    source.flush_without_position();
    source.send(&last_before.in_partition(2));
    source.flush_without_position();
    let mut replica = source.replica();
    let content = "SELECT string_agg(n || ':' || count, ' ' ORDER BY n) FROM (SELECT n, count(*) FROM t GROUP BY n) s";
    let wait_for_third = |replica: &mut postgres::Client| {
        wait_until("the third partition to go on", TIMEOUT, || {
            let found = one_text(replica, content);
            if found == "1:59 5:1" {
                Ok(())
            } else {
                Err(found)
            }
        });
    };
    wait_for_third(&mut replica);
    // A restart in between changes nothing.
    sink.kill();
    sink.start();
    wait_for_third(&mut replica);
    for event in after.iter().filter(|event| event.partition == Some(2)) {
        source.send(event);
    }
    source.wait_until_applied(&sink, "t");
    assert_eq!(one_text(&mut replica, content), "2:60");
    let truncates = source.history("t").all();
    let truncates = truncates
        .iter()
        .filter(|document| document.get_str("op") == Ok("truncate"));
    assert_eq!(truncates.count(), 1, "one document for all partitions");
}

#[test]
fn two_truncates_and_a_kill_between_every_step() {
    for mut source in Source::of_each_consistency("truncated_twice") {
        source.track("t", &COLUMNS, &["id"]);
        for round in 0..2 {
            for id in 0..300 {
                let event = source.create("t", Some(&id_key(id)), &row(id, round));
                source.send(&event);
            }
            let truncate = source.truncate("t");
            source.send_control(&truncate);
        }
        for id in 0..10 {
            let event = source.create("t", Some(&id_key(id)), &row(id, 9));
            source.send(&event);
        }
        source.flush();
        let sink = bed().companion_sink(source.plan());
        for _ in 0..3 {
            sink.start();
            sink.kill();
        }
        sink.start();
        source.wait_until_applied(&sink, "t");
        let mut replica = source.replica();
        assert_eq!(
            one_text(&mut replica, "SELECT count(*) || ' ' || min(n) FROM t"),
            "10 9"
        );
        assert_eq!(source.history("t").count(), 612);
    }
}

#[test]
fn a_second_instance_stands_by_and_takes_over() {
    let mut source = Source::consistent("fenced");
    source.track("t", &COLUMNS, &["id"]);
    let event = source.create("t", Some(&id_key(1)), &row(1, 1));
    source.send(&event);
    let first = source.start_sink();
    source.wait_until_applied(&first, "t");
    let second = source.start_sink();
    second.wait_for_log("CDC1009");
    // A stopped first instance comes back: what it still holds must not be written over what the second did.
    let process = first.pid();
    pg_cdc_tests::process::send_signal(process, libc::SIGSTOP);
    let event = source.update("t", Some(&id_key(1)), &row(1, 1), &row(1, 2));
    source.send(&event);
    source.flush();
    let mut replica = source.replica();
    // Its lock goes with its connection.
    let terminated = one_text(
        &mut replica,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'companion-sink%' AND datname = current_database()",
    );
    assert_ne!(terminated, "0");
    source.wait_until_applied(&second, "t");
    pg_cdc_tests::process::send_signal(process, libc::SIGCONT);
    let event = source.update("t", Some(&id_key(1)), &row(1, 2), &row(1, 3));
    source.send(&event);
    source.wait_until_applied(&second, "t");
    assert_eq!(one_text(&mut replica, "SELECT n FROM t"), "3");
    assert_eq!(source.history("t").count(), 3);
    assert!(second.stop().expect("it ran").success());
    let event = source.update("t", Some(&id_key(1)), &row(1, 3), &row(1, 4));
    source.send(&event);
    source.wait_until_applied(&first, "t");
    assert_eq!(one_text(&mut replica, "SELECT n FROM t"), "4");
}

#[test]
fn rows_without_a_key_are_changed_one_by_one() {
    for mut source in Source::of_each_consistency("keyless") {
        source.track(
            "t",
            &[("line", "text"), ("at", "numeric"), ("j", "json")],
            &[],
        );
        let same = json!({"line": "same", "at": "1.50", "j": "{\"a\": 1}"});
        let other = json!({"line": null, "at": "1.5", "j": null});
        let changed = json!({"line": "changed", "at": "2", "j": "{}"});
        let events = [
            source.create("t", None, &same),
            source.create("t", None, &same),
            source.create("t", None, &same),
            source.create("t", None, &other),
            source.update("t", None, &same, &changed),
            source.delete("t", None, &same),
            source.delete("t", None, &other),
        ];
        for event in &events {
            source.send(event);
        }
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "t");
        let mut replica = source.replica();
        let rows = one_text(
            &mut replica,
            "SELECT string_agg(line || ' ' || at || ' ' || j, ';' ORDER BY line) FROM t",
        );
        assert_eq!(rows, "changed 2 {};same 1.50 {\"a\": 1}");
    }
}

#[test]
fn unique_values_move_between_rows() {
    for mut source in Source::of_each_consistency("swapped") {
        source.track("t", &COLUMNS, &["id"]);
        for id in 0..100 {
            let event = source.create("t", Some(&id_key(id)), &row(id, id));
            source.send(&event);
        }
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "t");
        source
            .replica()
            .batch_execute("CREATE UNIQUE INDEX ON t (n)")
            .expect("a unique index");
        sink.stop();
        for id in 0..100 {
            let event = source.update("t", Some(&id_key(id)), &row(id, id), &row(id, 99 - id));
            source.send(&event);
        }
        source.flush();
        sink.start();
        source.wait_until_applied(&sink, "t");
        let mut replica = source.replica();
        assert_eq!(
            one_text(&mut replica, "SELECT count(*) FROM t WHERE n = 99 - id"),
            "100"
        );
        assert_eq!(
            one_text(&mut replica, "SELECT count(*) FROM companion.parked"),
            "0"
        );
    }
}

#[test]
fn a_unique_value_that_another_partition_gives_up_later_is_waited_for() {
    let mut source = Source::new("given_up");
    source.track("t", &COLUMNS, &["id"]);
    for id in 1..=2 {
        let event = source.create("t", Some(&id_key(id)), &row(id, id));
        source.send(&event.in_partition(0));
    }
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let mut replica = source.replica();
    replica
        .batch_execute("CREATE UNIQUE INDEX ON t (n)")
        .expect("a unique index");
    let given_up = source.update("t", Some(&id_key(1)), &row(1, 1), &row(1, 10));
    let taken = source.create("t", Some(&id_key(3)), &row(3, 1));
    let later = source.update("t", Some(&id_key(3)), &row(3, 1), &row(3, 11));
    for event in [&taken, &later] {
        source.send(&event.clone().in_partition(1));
        source.flush();
    }
    let mut wait_for = |what: &str, query: &str, wanted: &str| {
        wait_until(what, TIMEOUT, || match one_text(&mut replica, query) {
            found if found == wanted => Ok(()),
            found => Err(found),
        });
    };
    let parked = "SELECT count(*) FROM companion.parked";
    wait_for("both events to be parked", parked, "2");
    source.send(&given_up.in_partition(0));
    let rows = "SELECT string_agg(concat(id, ' ', n), ', ' ORDER BY id) FROM t";
    wait_for("all rows", rows, "1 10, 2 2, 3 11");
    wait_for("nothing to be parked", parked, "0");
    let letters = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("t")));
    let reasons = letters.iter().map(|letter| letter.header("cdc.dlq.reason"));
    assert_eq!(reasons.collect::<Vec<_>>(), [Some("unique")]);

    // One that nobody gives up is there for people.
    let kept = source.create("t", Some(&id_key(4)), &row(4, 2));
    source.send(&kept.clone().in_partition(1));
    let tried = "SELECT coalesce(bool_and(attempts > 3), false) FROM companion.parked";
    wait_for("more attempts", tried, "true");
    sink.run_command(&["dlq", "skip", &kept.id(), "--reason", "a test row"]);
    wait_for("nothing to be parked", parked, "0");
    wait_for("the rows", rows, "1 10, 2 2, 3 11");
}
