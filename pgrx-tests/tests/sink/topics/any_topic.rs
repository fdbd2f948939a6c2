//! Any topic and any record is shown, and what cannot be shown has its exit code.

use pg_cdc_tests::hand_made_events::{Source, id_key};
use pg_cdc_tests::{port, topic_admin};
use serde_json::{Value, json};

use super::looker::{each, ended, kafka, looker, record, tail};

#[test]
fn any_record_is_shown() {
    let source = Source::new("strangers");
    let topic = "strangers.own";
    topic_admin::create(kafka(), topic, 1);
    let values: [Option<&[u8]>; 6] = [
        Some(b"hello"),
        Some(b"{\n \"n\": 12345678901234567890123\n}"),
        Some(b"\xff\x00"),
        Some(b""),
        None,
        Some(b"\x1b[31mred"),
    ];
    for value in values {
        source.send(&record(topic, Some("k"), value));
    }
    source.send(&record(topic, None, Some(b"no key")).with_header("cdc.op", "u"));
    source.flush_without_position();

    let sink = looker(&kafka().brokers());
    let found = tail(&sink, topic, &[]);
    let places: Vec<String> = (0..7).map(|offset: i64| offset.to_string()).collect();
    assert_eq!(each(&found, "offset"), places);
    let shown = [
        "\"hello\"",
        "{\"n\":12345678901234567890123}",
        "{\"base64\":\"/wA=\"}",
        "\"\"",
        "null",
        "\"\\u001b[31mred\"",
    ];
    let output = sink.run_command(&["topic", "tail", topic]);
    for (line, shown) in output.lines().zip(shown) {
        let has = shown == "null" || line.contains(&format!("\"value\":{shown}"));
        assert!(has, "{shown} {line}");
    }
    assert_eq!(found[4]["op"], "tombstone");
    assert_eq!(
        (&found[0]["key"], &found[6]["key"]),
        (&json!("k"), &Value::Null)
    );
    let why = found[6]["undecodable"].as_str().expect("it says why");
    assert!(why.contains("is missing"), "{why}");

    let table = sink.run_command(&["topic", "tail", topic, "--format", "table", "-n", "2"]);
    assert!(
        table.contains("undecodable, header") && table.contains(": no key"),
        "{table}"
    );
    assert!(table.contains("\u{fffd}[31mred"), "{table}");
    let one = sink.objects(&["topic", "show", topic, "0:6"]);
    assert_eq!(one[0]["value"], "no key");
    assert_eq!(one[0]["headers"][0]["meaning"], "what happened");
    assert_eq!(
        ended(
            &sink,
            &["topic", "tail", topic, "--op", "c,u,d", "--key", "k"]
        )
        .0,
        Some(4)
    );
}

#[test]
fn many_partitions_are_one_order() {
    const MANY: i32 = 60;
    let mut source = Source::new("wide");
    topic_admin::create(kafka(), &source.topic("t"), MANY);
    let mut sent = Vec::new();
    for id in 0..600_u64 {
        let event = source.create("t", Some(&id_key(id)), &json!({"id": id}));
        // Few in most of them, and many in one.
        let partition = if id % 3 == 0 { 5 } else { (id * 7 % 60) as i32 };
        sent.push(event.id());
        source.send(&event.in_partition(partition));
    }
    source.flush_without_position();
    let (sink, topic) = (looker(&kafka().brokers()), source.topic("t"));
    for wanted in [1, 10, 250, 599, 600, 1000] {
        let found = tail(&sink, &topic, &["-n", &wanted.to_string()]);
        let ids: Vec<&str> = found.iter().filter_map(|one| one["id"].as_str()).collect();
        let expected = &sent[sent.len().saturating_sub(wanted)..];
        assert_eq!(ids, expected, "the newest {wanted}");
    }
    let old = tail(&sink, &topic, &["--key", "3"]);
    assert_eq!(old[0]["id"], sent[3]);
}

#[test]
fn what_is_not_there_and_what_cannot_be_asked_has_its_exit_code() {
    topic_admin::create(kafka(), "codes.empty", 3);
    let sink = looker(&kafka().brokers());
    for (arguments, code, text) in [
        (
            &["topic", "tail", "codes.empti"][..],
            4,
            "no topic codes.empti; did you mean codes.empty?",
        ),
        (
            &["topic", "show", "empty", "0:1"],
            4,
            "did you mean codes.empty?",
        ),
        (
            &["topic", "tail", "codes.empty"],
            4,
            "no event in codes.empty",
        ),
        (
            &["topic", "show", "codes.empty", "0:0"],
            4,
            "0 up to before 0",
        ),
        (&["topic", "show", "codes.empty", "3:0"], 4, "has 0 to 2"),
        (
            &["topic", "show", "codes.empty", "--id", "n-1"],
            4,
            "no event n-1",
        ),
        (&["topic", "list", "codes.nothing*"], 4, "no topic matches"),
        (
            &["topic", "tail", "codes.empty", "--op", "x"],
            2,
            "\"x\" is no operation",
        ),
        (
            &["topic", "tail", "codes.empty", "--since", "yesterday"],
            2,
            "is no moment",
        ),
        (
            &["topic", "tail", "codes.empty", "-n", "0"],
            2,
            "shows nothing",
        ),
        (&["topic", "tail", "codes.empty", "-n", "-1"], 2, ""),
        (&["topic", "show", "codes.empty"], 2, "PARTITION:OFFSET"),
        (&["topic", "show", "codes.empty", "1"], 2, "such as 0:133"),
    ] {
        let (found, said) = ended(&sink, arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
    let listed = sink.objects(&["topic", "list", "codes.*"]);
    assert_eq!(
        (&listed[0]["events"], &listed[0]["newest"]),
        (&json!(0), &Value::Null)
    );
    let nobody = looker(&format!("127.0.0.1:{}", port::free()));
    for arguments in [&["topic", "list"][..], &["topic", "tail", "codes.empty"]] {
        assert_eq!(ended(&nobody, arguments).0, Some(5), "{arguments:?}");
    }
}

#[test]
fn nothing_is_written_to_kafka() {
    let source = Source::new("untouched");
    source.send(&record("untouched.cdc-control", Some("k"), Some(b"v")));
    source.flush_without_position();
    let sink = looker(&kafka().brokers());
    let topics = || {
        let listed = sink.objects(&["topic", "list", "*"]);
        let ours = listed.into_iter().filter(|one| {
            let name = one["topic"].as_str().unwrap_or_default();
            name.starts_with("untouched") || name.starts_with("looker")
        });
        ours.map(|one| (one["topic"].clone(), one["events"].clone()))
            .collect::<Vec<_>>()
    };
    let before = topics();
    assert_eq!(before.len(), 2);
    tail(&sink, "untouched.cdc-control", &[]);
    ended(&sink, &["topic", "tail", "untouched.none"]);
    assert_eq!(topics(), before);
    let groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let brokers = kafka().brokers();
    let groups = kafka().command(groups, &["--bootstrap-server", &brokers, "--list"]);
    assert!(!groups.contains("looker"), "no group is left: {groups}");
}
