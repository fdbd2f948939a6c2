//! What the sinks do with wrong input: in the configuration, in the events, in the values.

use std::process::{Command, Output};

use pg_cdc_tests::hand_made_events::{Event, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::{parts, topic, topic_admin, wait_until};
use serde_json::{Value, json};

pub(crate) const COLUMNS: [(&str, &str); 3] = [
    ("id", "bigint"),
    ("city", "character varying(5)"),
    ("n", "integer"),
];

/// What `consistency = "row"` does anyway.
pub(crate) const PARK: &str = "on_error = \"park\"\n";

fn companion_sink(config: &str, arguments: &[&str]) -> Output {
    let folder = pg_cdc_tests::bed::temporary_folder();
    let file = folder.path().join("companion-sink.toml");
    std::fs::write(&file, config).expect("write the configuration");
    let mut command = Command::new(parts::companion_sink());
    command.arg("--config").arg(&file).args(arguments);
    command.output().expect("run companion-sink")
}

pub(crate) fn row(id: u64, city: &str, n: i64) -> Value {
    json!({"id": id, "city": city, "n": n})
}

#[test]
fn a_misspelt_key_is_told_with_its_place_and_the_nearest_name() {
    let config = "[kafka]\nbrokers = \"localhost:1\"\n\n[sink.replica]\nkind = \"postgres\"\n  topcs = [\"*\"]\n";
    let output = companion_sink(config, &["run"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    for part in [
        "companion-sink.toml:6:3",
        "sink.replica.topcs",
        "did you mean \"topics\"?",
        "CDC1001",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_is_out_of_reach_is_told_by_check() {
    let port = pg_cdc_tests::port::free();
    let config = format!(
        "[kafka]\nbrokers = \"127.0.0.1:{port}\"\n[sink.replica]\nkind = \"postgres\"\ntopics = [\"*\"]\nurl = \"postgres://u:secret@127.0.0.1:{port}/x\"\n"
    );
    let output = companion_sink(&config, &["check"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("CDC1003").count(), 2, "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn check_refuses_what_run_refuses_and_no_value_of_a_property_is_told() {
    let replica = "[sink.replica]\nkind = \"postgres\"\ntopics = [\"*\"]\n";
    let config = format!(
        "kafka.brokers = \"127.0.0.1:1\"\nhttp.listen = \"0.0.0.0:0\"\n{replica}url = \"postgres://u:hunter2@db1/x\"\n"
    );
    for (arguments, code) in [
        (&["check", "--offline"][..], 3),
        (&["check"], 3),
        (&["run"], 2),
    ] {
        let output = companion_sink(&config, arguments);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let found = output.status.code();
        assert!(
            found == Some(code) || (code == 3 && found == Some(5)),
            "{arguments:?} {text}"
        );
        assert!(
            text.contains("not a loopback address"),
            "{arguments:?} {text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        if code == 3 {
            assert!(
                text.contains("plain text") && text.contains("can be read by others"),
                "{text}"
            );
        }
    }
    let folder = pg_cdc_tests::bed::temporary_folder();
    let properties = folder.path().join("kafka.properties");
    for line in [
        "sasl.pasword=hunter2",
        "socket.timeout.ms=hunter2",
        "security.protocol=hunter2",
    ] {
        std::fs::write(&properties, format!("{line}\n")).expect("write");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&properties, mode).expect("chmod");
        let config = format!(
            "kafka.brokers = \"127.0.0.1:1\"\nkafka.config_file = \"{}\"\nhttp.listen = \"\"\n{replica}url = \"postgres://u@localhost/x\"\n",
            properties.display()
        );
        let output = companion_sink(&config, &["check"]);
        let text = format!("{output:?}");
        assert!(text.contains("CDC1001"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn an_unreachable_database_is_tried_again_until_it_is_there() {
    let mut source = Source::new("unreachable");
    source.track("t", &COLUMNS, &["id"]);
    let event = source.create("t", Some(&id_key(1)), &row(1, "Basel", 1));
    source.send(&event);
    let mut plan = source.plan();
    plan.replica_url = bed().target().url("comes_later");
    let sink = bed().companion_sink(plan);
    sink.start();
    // The other sink goes on meanwhile.
    source.flush();
    sink.wait_until_sink_applied("history", bed().kafka(), &[source.topic("t")]);
    wait_until("the log to name the code and the remedy", TIMEOUT, || {
        let log = std::fs::read_to_string(sink.log_file()).expect("the log");
        let line = log.lines().find(|line| line.contains("comes_later"));
        match line {
            Some(line) if line.contains("hint") => Ok(()),
            _ => Err(log),
        }
    });
    assert!(
        sink.stop().expect("it ran").success(),
        "SIGTERM ends it in order"
    );
    bed().target().create_database("comes_later");
    sink.start();
    source.wait_until_applied(&sink, "t");
}

#[test]
fn a_malformed_event_goes_aside_and_the_rest_goes_on() {
    for mut source in Source::of_each_consistency("malformed") {
        source.more_toml = PARK;
        source.track("t", &COLUMNS, &["id"]);
        let bad_json = source.create("t", Some(&id_key(1)), &row(1, "a", 1));
        let good = source.create("t", Some(&id_key(2)), &row(2, "b", 2));
        let no_op = source.create("t", Some(&id_key(3)), &row(3, "c", 3));
        let no_id = source.create("t", Some(&id_key(4)), &row(4, "d", 4));
        let no_image = source.create("t", Some(&id_key(5)), &Value::Null);
        let not_text = source.create("t", Some(&id_key(6)), &row(6, "f", 6));
        let last = source.create("t", Some(&id_key(7)), &row(7, "g", 7));
        source.send(&bad_json.clone().with_value(b"{\"op\":\"c\",\"after\":{"));
        source.send(&good);
        source.send(&no_op.without_header("cdc.op"));
        source.send(&no_id.without_header("cdc.id"));
        source.send(&no_image);
        source.send(&not_text.with_value(&[0xff, 0xfe, 0x00]));
        source.send(&last);
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "t");

        let mut replica = source.replica();
        assert_eq!(
            one_text(
                &mut replica,
                "SELECT string_agg(id::text, ',' ORDER BY id) FROM t"
            ),
            "2,7"
        );
        assert_eq!(source.history("t").count(), 2);
        assert_eq!(
            one_text(
                &mut replica,
                "SELECT count(*) FROM companion.parked WHERE code = 'CDC1005'"
            ),
            "5"
        );

        let dead = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("t")));
        let of_replica: Vec<_> = dead
            .iter()
            .filter(|r| r.header("cdc.dlq.sink") == Some("replica"))
            .collect();
        assert_eq!(
            (dead.len(), of_replica.len()),
            (10, 5),
            "five events, two sinks"
        );
        let broken = of_replica
            .iter()
            .find(|r| r.header("cdc.id") == Some(&bad_json.id()))
            .expect("the broken JSON");
        assert_eq!(broken.header("cdc.dlq.code"), Some("CDC1005"));
        assert_eq!(
            broken.header("__connect.errors.topic"),
            Some(source.topic("t").as_str())
        );
        assert_eq!(
            broken.header("__connect.errors.connector.name"),
            Some("companion-sink")
        );
        assert_eq!(
            broken.header("__connect.errors.stage"),
            Some("VALUE_CONVERTER")
        );
        assert_eq!(broken.header("cdc.version"), bad_json.header("cdc.version"));
        assert_eq!(broken.value_text(), "{\"op\":\"c\",\"after\":{");
        let partitions = topic::offsets(bed().kafka(), &format!("{}.dlq", source.topic("t")))
            .expect("the topic")
            .len();
        assert_eq!(partitions, 3, "the partitions of the topic");
    }
}

#[test]
fn a_missing_column_halts_one_sink_and_not_the_other() {
    let mut source = Source::consistent("drift");
    source.track("t", &COLUMNS, &["id"]);
    let event = source.create("t", Some(&id_key(1)), &row(1, "a", 1));
    source.send(&event);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let event = source.create(
        "t",
        Some(&id_key(2)),
        &json!({"id": 2, "city": "b", "n": 2, "phone": "1"}),
    );
    source.send(&event);
    source.flush();
    sink.wait_until_sink_applied("history", bed().kafka(), &[source.topic("t")]);
    let health = wait_until("the replica to halt", TIMEOUT, || {
        let answer = sink.get("/readyz");
        if answer.contains("503") {
            Ok(answer)
        } else {
            Err(answer)
        }
    });
    assert!(
        health.contains("CDC1011") && health.contains("replica"),
        "{health}"
    );
    assert!(
        sink.get("/v1/status").contains("ADD COLUMN"),
        "the remedy is told"
    );
    assert!(
        sink.get("/healthz").starts_with("HTTP/1.1 200"),
        "the process works: a new one would halt there again"
    );
    let checked = sink.command().arg("check").output().expect("check");
    assert_eq!(checked.status.code(), Some(3), "{checked:?}");
    let checked = String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.contains("halted") && checked.contains("CDC1011"),
        "{checked}"
    );
    source
        .replica()
        .batch_execute("ALTER TABLE t ADD COLUMN phone text")
        .expect("add the column");
    sink.reload();
    source.wait_until_applied(&sink, "t");
    assert_eq!(
        one_text(&mut source.replica(), "SELECT phone FROM t WHERE id = 2"),
        "1"
    );
    let letters = topic::read(bed().kafka(), &format!("{}.dlq", source.topic("t")));
    let ids: Vec<&str> = letters.iter().map(|letter| letter.id()).collect();
    assert_eq!(ids, [event.id()], "it is told once, of one sink");
}

#[test]
fn an_event_too_large_for_the_dead_letters_goes_there_without_its_value() {
    let mut source = Source::new("large_letter");
    source.track("t", &COLUMNS, &["id"]);
    let dead_letters = format!("{}.dlq", source.topic("t"));
    topic_admin::create(bed().kafka(), &dead_letters, 3);
    topic_admin::set(bed().kafka(), &dead_letters, "max.message.bytes", "20000");
    // Each is small; a batch of them is not.
    let small: Vec<Event> = (1..=60)
        .map(|id| source.create("t", Some(&id_key(id)), &row(id, &"small ".repeat(300), 0)))
        .collect();
    let large = source.create(
        "t",
        Some(&id_key(100)),
        &row(100, &"large".repeat(10_000), 0),
    );
    for event in small.iter().chain([&large]) {
        source.send(event);
    }
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let dead = topic::read(bed().kafka(), &dead_letters);
    let of = |event: &Event| -> Vec<_> {
        let is_it = |record: &&topic::Record| record.header("cdc.id") == Some(&event.id());
        dead.iter().filter(is_it).collect()
    };
    for event in &small {
        let [letter] = of(event)[..] else {
            panic!("one letter")
        };
        assert_eq!(letter.header("cdc.dlq.stored"), None);
        assert_eq!(letter.value, event.value);
    }
    let [letter] = of(&large)[..] else {
        panic!("one letter")
    };
    assert_eq!(letter.header("cdc.dlq.stored"), Some("true"));
    assert_eq!(letter.header("cdc.dlq.code"), Some("CDC1007"));
    assert_eq!(letter.value, None);
    // The value is in the store.
    sink.run_command(&[
        "dlq",
        "edit",
        &large.id(),
        "--set",
        "after.city=short",
        "--reason",
        "shorter",
    ]);
    wait_until("the edited row", TIMEOUT, || {
        match one_text(&mut source.replica(), "SELECT string_agg(city, ' ') FROM t").as_str() {
            "short" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}
