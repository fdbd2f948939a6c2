//! What `topic tail` is asked for by key, operation, person, time and id.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, PARTITIONS, Source, id_key};
use serde_json::json;

use super::looker::{each, ended, kafka, looker, tail};

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

    rows_are_filtered(&sink, &topic, &update);
    one_record_is_shown(&sink, &topic, &update);
    topics_are_listed(&sink, &topic);
}

fn rows_are_filtered(sink: &CompanionSink, topic: &str, update: &Event) {
    let of_row = tail(sink, topic, &["--key", "7"]);
    assert_eq!(each(&of_row, "op"), ["\"c\"", "\"u\""]);
    assert_eq!(of_row[1]["before"]["city"], "Basel");
    assert_eq!(tail(sink, topic, &["--key", "id=8"]).len(), 3);
    assert_eq!(tail(sink, topic, &["--op", "d,tombstone"]).len(), 2);
    assert_eq!(tail(sink, topic, &["--actor", "bob"])[0]["id"], update.id());
    let (at, later) = ("2026-11-21T10:40:00.123456Z", "2026-11-21T10:40:00.123457Z");
    assert_eq!(tail(sink, topic, &["--since", at, "--until", at]).len(), 10);
    for none in [
        ["--since", "2099-01-01", "--key", "7"],
        ["--until", "2026-11-21", "--key", "7"],
        ["--since", later, "--op", "u"],
        ["--actor", "bob", "--op", "d"],
        ["--key", "4711", "--op", "c"],
    ] {
        let arguments = [&["topic", "tail", topic][..], &none].concat();
        let (code, said) = ended(sink, &arguments);
        assert_eq!(code, Some(4), "{none:?} {said}");
        assert!(said.contains("no such event"), "{said}");
    }
    let (code, said) = ended(sink, &["topic", "tail", topic, "--key", "{\"x\":1}"]);
    assert_eq!(
        (code, said.contains("columns are id")),
        (Some(2), true),
        "{said}"
    );
}

fn one_record_is_shown(sink: &CompanionSink, topic: &str, update: &Event) {
    let of_row = tail(sink, topic, &["--key", "7"]);
    let by_id = sink.objects(&["topic", "show", topic, "--id", &update.id()]);
    let place = (&by_id[0]["partition"], &by_id[0]["offset"]);
    assert_eq!(place, (&of_row[1]["partition"], &of_row[1]["offset"]));
    assert_eq!(
        by_id[0]["differences"],
        json!([{"path": "city", "from": "Basel", "to": "Bern"}])
    );
    let control = tail(sink, "filters.cdc-control", &[]);
    assert_eq!(
        (&control[0]["op"], &control[0]["about"]),
        (&json!("schema"), &json!(topic))
    );
}

fn topics_are_listed(sink: &CompanionSink, topic: &str) {
    let listed = sink.objects(&["topic", "list", "filters.*"]);
    let of = |name: &str| {
        listed
            .iter()
            .find(|one| one["topic"] == name)
            .expect(name)
            .clone()
    };
    let rows = of(topic);
    assert_eq!(
        (&rows["kind"], &rows["events"]),
        (&json!("rows"), &json!(303))
    );
    assert_eq!(
        (&rows["table"], &rows["partitions"]),
        (&json!(topic), &json!(PARTITIONS))
    );
    // The tombstone's, of which only Kafka has a time.
    let newest = rows["newest"].as_str().expect("a time");
    assert!(newest > "2026-11-21T10:40:00.123456Z", "{rows}");
    assert!(
        rows["retention_ms"].is_i64() && rows["cleanup_policy"] == "delete",
        "{rows}"
    );
    assert_eq!(of("filters.cdc-control")["kind"], "control");
    assert_eq!(of("filters.cdc_positions")["kind"], "positions");
}
