//! `companion-sink topic`: what is in topics, whoever wrote it, with nothing but `[kafka]` in the configuration.

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::hand_made_events::{Event, PARTITIONS, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::{port, topic_admin, wait_until};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

/// A companion-sink with brokers, and nothing else that works.
fn looker(brokers: &str) -> CompanionSink {
    let sink = bed().companion_sink(Plan {
        name: "looker".to_owned(),
        brokers: brokers.to_owned(),
        source: "pg".to_owned(),
        topics: Vec::new(),
        mongo_url: String::new(),
        mongo_database: String::new(),
        replica_url: String::new(),
        http_port: port::free(),
        kafka_config_file: None,
        http_token_file: None,
        consistency: "row",
        more_toml: String::new(),
    });
    let toml = format!("[kafka]\nbrokers = \"{brokers}\"\n");
    std::fs::write(sink.config_file(), toml).expect("write the configuration");
    sink
}

fn kafka() -> &'static Kafka {
    bed().kafka()
}

/// The command's exit code, and what it says to people.
fn ended(sink: &CompanionSink, arguments: &[&str]) -> (Option<i32>, String) {
    let output = sink.try_command(arguments);
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    (output.status.code(), errors)
}

fn tail(sink: &CompanionSink, topic: &str, more: &[&str]) -> Vec<Value> {
    sink.objects(&[&["topic", "tail", topic], more].concat())
}

/// A field of each object, as JSON.
fn each(objects: &[Value], field: &str) -> Vec<String> {
    objects.iter().map(|object| object[field].to_string()).collect()
}

fn record(topic: &str, key: Option<&str>, value: Option<&[u8]>) -> Event {
    Event {
        topic: topic.to_owned(),
        partition: Some(0),
        key: key.map(str::to_owned),
        value: value.map(<[u8]>::to_vec),
        headers: Vec::new(),
    }
}

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
    assert_eq!((&found[0]["key"], &found[6]["key"]), (&json!("k"), &Value::Null));
    let why = found[6]["undecodable"].as_str().expect("it says why");
    assert!(why.contains("is missing"), "{why}");

    let table = sink.run_command(&["topic", "tail", topic, "--format", "table", "-n", "2"]);
    assert!(table.contains("undecodable, header") && table.contains(": no key"), "{table}");
    assert!(table.contains("\u{fffd}[31mred"), "{table}");
    let one = sink.objects(&["topic", "show", topic, "0:6"]);
    assert_eq!(one[0]["value"], "no key");
    assert_eq!(one[0]["headers"][0]["meaning"], "what happened");
    assert_eq!(ended(&sink, &["topic", "tail", topic, "--op", "c,u,d", "--key", "k"]).0, Some(4));
}

#[test]
fn every_filter_finds_what_it_names() {
    let mut source = Source::new("filters");
    source.track("t", &[("id", "integer"), ("city", "text")], &["id"]);
    let row = |id: u64, city: &str| json!({"id": id, "city": city});
    for id in 0..300 {
        let event = source.create("t", Some(&id_key(id)), &row(id, "Basel"));
        source.send(&event);
    }
    let event = source.update("t", Some(&id_key(7)), &row(7, "Basel"), &row(7, "Bern"));
    let value = String::from_utf8(event.value.clone().expect("a value")).expect("text");
    let by_bob = value.replace("\"actor\":\"ann\"", "\"actor\":\"bob\"");
    let update = event.with_value(by_bob.as_bytes());
    source.send(&update);
    let gone = source.delete("t", Some(&id_key(8)), &row(8, "Basel"));
    source.send(&gone);
    source.send(&Source::tombstone(&gone));
    source.flush();

    let (sink, topic) = (looker(&kafka().brokers()), source.topic("t"));
    let newest = tail(&sink, &topic, &["-n", "4"]);
    let ops = ["\"c\"", "\"u\"", "\"d\"", "\"tombstone\""];
    assert_eq!(each(&newest, "op"), ops, "{newest:?}");
    let found = tail(&sink, &topic, &["-n", "1000"]);
    assert_eq!(found.len(), 303);
    let versions = each(&found, "version");
    assert!(versions.is_sorted(), "in the order of commits");

    let of_row = tail(&sink, &topic, &["--key", "7"]);
    assert_eq!(each(&of_row, "op"), ["\"c\"", "\"u\""]);
    assert_eq!(of_row[1]["before"]["city"], "Basel");
    assert_eq!(tail(&sink, &topic, &["--key", "id=8"]).len(), 3);
    assert_eq!(tail(&sink, &topic, &["--op", "d,tombstone"]).len(), 2);
    assert_eq!(tail(&sink, &topic, &["--actor", "bob"])[0]["id"], update.id());
    let (at, later) = ("2026-11-21T10:40:00.123456Z", "2026-11-21T10:40:00.123457Z");
    assert_eq!(tail(&sink, &topic, &["--since", at, "--until", at]).len(), 10);
    for none in [
        ["--since", "2099-01-01", "--key", "7"],
        ["--until", "2026-11-21", "--key", "7"],
        ["--since", later, "--op", "u"],
        ["--actor", "bob", "--op", "d"],
        ["--key", "4711", "--op", "c"],
    ] {
        let arguments = [&["topic", "tail", &topic][..], &none].concat();
        let (code, said) = ended(&sink, &arguments);
        assert_eq!(code, Some(4), "{none:?} {said}");
        assert!(said.contains("no such event"), "{said}");
    }
    let (code, said) = ended(&sink, &["topic", "tail", &topic, "--key", "{\"x\":1}"]);
    assert_eq!((code, said.contains("columns are id")), (Some(2), true), "{said}");

    let by_id = sink.objects(&["topic", "show", &topic, "--id", &update.id()]);
    let place = (&by_id[0]["partition"], &by_id[0]["offset"]);
    assert_eq!(place, (&of_row[1]["partition"], &of_row[1]["offset"]));
    assert_eq!(by_id[0]["differences"], json!([{"path": "city", "from": "Basel", "to": "Bern"}]));
    let control = tail(&sink, "filters.cdc-control", &[]);
    assert_eq!((&control[0]["op"], &control[0]["about"]), (&json!("schema"), &json!(topic)));

    let listed = sink.objects(&["topic", "list", "filters.*"]);
    let of = |name: &str| listed.iter().find(|one| one["topic"] == name).expect(name).clone();
    let rows = of(&topic);
    assert_eq!((&rows["kind"], &rows["events"]), (&json!("rows"), &json!(303)));
    assert_eq!((&rows["table"], &rows["partitions"]), (&json!(topic), &json!(PARTITIONS)));
    assert_eq!(rows["newest"], at);
    assert!(rows["retention_ms"].is_i64() && rows["cleanup_policy"] == "delete", "{rows}");
    assert_eq!(of("filters.cdc-control")["kind"], "control");
    assert_eq!(of("filters.cdc_positions")["kind"], "positions");
}

#[test]
fn what_is_not_there_and_what_cannot_be_asked_has_its_exit_code() {
    topic_admin::create(kafka(), "codes.empty", 3);
    let sink = looker(&kafka().brokers());
    for (arguments, code, text) in [
        (&["topic", "tail", "codes.empti"][..], 4, "no topic codes.empti; did you mean codes.empty?"),
        (&["topic", "show", "empty", "0:1"], 4, "did you mean codes.empty?"),
        (&["topic", "tail", "codes.empty"], 4, "no event in codes.empty"),
        (&["topic", "show", "codes.empty", "0:0"], 4, "0 up to before 0"),
        (&["topic", "show", "codes.empty", "3:0"], 4, "has 0 to 2"),
        (&["topic", "show", "codes.empty", "--id", "n-1"], 4, "no event n-1"),
        (&["topic", "list", "codes.nothing*"], 4, "no topic matches"),
        (&["topic", "tail", "codes.empty", "--op", "x"], 2, "\"x\" is no operation"),
        (&["topic", "tail", "codes.empty", "--since", "yesterday"], 2, "is no moment"),
        (&["topic", "tail", "codes.empty", "-n", "0"], 2, "shows nothing"),
        (&["topic", "tail", "codes.empty", "-n", "-1"], 2, ""),
        (&["topic", "show", "codes.empty"], 2, "PARTITION:OFFSET"),
        (&["topic", "show", "codes.empty", "1"], 2, "such as 0:133"),
    ] {
        let (found, said) = ended(&sink, arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
    let listed = sink.objects(&["topic", "list", "codes.*"]);
    assert_eq!((&listed[0]["events"], &listed[0]["newest"]), (&json!(0), &Value::Null));
    let nobody = looker(&format!("127.0.0.1:{}", port::free()));
    for arguments in [&["topic", "list"][..], &["topic", "tail", "codes.empty"]] {
        assert_eq!(ended(&nobody, arguments).0, Some(5), "{arguments:?}");
    }
}

#[test]
fn trimmed_topics_and_those_of_transactions_have_holes() {
    let topic = "holes.t";
    topic_admin::create(kafka(), topic, 2);
    let producer: BaseProducer = kafka()
        .client_config()
        .set("transactional.id", "holes")
        .create()
        .expect("a producer");
    producer.init_transactions(TIMEOUT).expect("begin");
    let send = |value: &str| {
        let record = BaseRecord::<str, str>::to(topic).payload(value).partition(0);
        producer.send(record).map_err(|(error, _)| error).expect("send");
    };
    let transaction = |values: &[&str], end: &dyn Fn()| {
        producer.begin_transaction().expect("begin");
        values.iter().for_each(|value| send(value));
        producer.flush(TIMEOUT).expect("Kafka takes it");
        end();
    };
    let commit = || producer.commit_transaction(TIMEOUT).expect("commit");
    let abort = || producer.abort_transaction(TIMEOUT).expect("abort");
    transaction(&["one", "two"], &commit);
    for _ in 0..40 {
        transaction(&["never"], &abort);
    }
    let sink = looker(&kafka().brokers());
    let values = |more: &[&str]| each(&tail(&sink, topic, more), "value");
    // Nothing but what was aborted is in the last pieces.
    assert_eq!(values(&[]), ["\"one\"", "\"two\""]);
    assert_eq!(values(&["-n", "1"]), ["\"two\""]);
    transaction(&["three"], &commit);
    transaction(&["open"], &|| {});
    assert_eq!(values(&["-n", "2"]), ["\"two\"", "\"three\""]);
    abort();

    let (code, said) = ended(&sink, &["topic", "show", topic, "0:2"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("a transaction's mark is there; the next one is at 0:"), "{said}");
    topic_admin::trim(kafka(), topic, 0, 1);
    assert_eq!(values(&[]), ["\"two\"", "\"three\""]);
    let (_, said) = ended(&sink, &["topic", "show", topic, "0:0"]);
    assert!(said.contains("the partition has 1 up to"), "{said}");
    let listed = sink.objects(&["topic", "list", topic]);
    assert!(listed[0]["newest"].is_string() && listed[0]["kind"] == "unknown", "{listed:?}");
    // Nothing is left.
    let end = listed[0]["events"].as_i64().expect("a number") + 1;
    topic_admin::trim(kafka(), topic, 0, end);
    wait_until("nothing to be left", TIMEOUT, || {
        let (code, said) = ended(&sink, &["topic", "tail", topic]);
        (code == Some(4)).then_some(()).ok_or(said)
    });
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
