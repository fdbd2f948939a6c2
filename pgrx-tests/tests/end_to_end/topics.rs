//! `companion-sink topic` beside a real source: its rows, control events and dead letters, and following them.

use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::printing_command::PrintingCommand;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, wait_until};
use postgres::Client;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);

/// What the history of `looked_at` refuses.
const RULE: &str =
    "[[rule]]\ntopic = \"*\"\nname = \"nowhere\"\nreject_if = 'after.city == \"Nowhere\"'\n";

fn tail(sink: &CompanionSink, topic: &str, more: &[&str]) -> Vec<Value> {
    sink.objects(&[&["topic", "tail", topic], more].concat())
}

fn each<'o>(objects: &'o [Value], field: &str) -> Vec<&'o str> {
    let text = |object: &'o Value| object[field].as_str().unwrap_or("-");
    objects.iter().map(text).collect()
}

/// The body of an answer over HTTP that has this status.
fn body(answer: &str, status: u16) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    let line = format!("HTTP/1.1 {status} ");
    assert!(head.starts_with(&line), "{answer}");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn what_a_source_sends_can_be_looked_at() {
    let bed = TestBed::shared();
    let database = bed.database("looked_at");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE customer (id int PRIMARY KEY, city text, balance numeric(10,2))",
            "SELECT cdc_track('customer')",
            "INSERT INTO customer SELECT id, 'Basel', 10.5 FROM generate_series(1, 50) id",
            "BEGIN",
            "SELECT cdc_context('ann', 'moved', 'r-17')",
            "UPDATE customer SET city = 'Bern' WHERE id = 42",
            "COMMIT",
            "DELETE FROM customer WHERE id = 7",
            "SELECT cdc_wait()",
        ],
    );
    let mut plan = database.plan_companion_sink();
    plan.more_toml = RULE.to_owned();
    let sink = bed.companion_sink(plan);
    let topic = database.topic("customer");

    let newest = rows_are_shown(&sink, &topic);
    control_events_are_shown(&sink, &topic);
    sink.start_only(&["history"]);
    a_refused_event_is_shown(&sink, &mut client, &topic);
    the_same_is_answered_over_http(&sink, &topic, &newest);
    sink.stop();
    topics_are_listed(&sink, &topic);
}

fn rows_are_shown(sink: &CompanionSink, topic: &str) -> Vec<Value> {
    let newest = tail(sink, topic, &["-n", "3"]);
    assert_eq!(each(&newest, "op"), ["u", "d", "tombstone"]);
    assert_eq!(newest[0]["key"], json!({"id": 42}));
    assert_eq!(
        (&newest[0]["actor"], &newest[0]["reason"]),
        (&json!("ann"), &json!("moved"))
    );
    assert_eq!(newest[0]["after"]["balance"], "10.50");
    assert_eq!(each(&tail(sink, topic, &["--key", "42"]), "op"), ["c", "u"]);
    assert_eq!(
        tail(sink, topic, &["--actor", "ann", "--op", "update"]).len(),
        1
    );
    let at = newest[0]["time"].as_str().expect("a time");
    let since = tail(sink, topic, &["--since", at]);
    assert_eq!(since, newest);
    assert_eq!(tail(sink, topic, &["--until", at, "-n", "1"])[0], newest[0]);
    let table = sink.run_command(&["topic", "tail", topic, "-n", "3", "--format", "table"]);
    for part in [
        "3 events",
        "update",
        "id=42",
        "ann",
        "city \"Basel\" -> \"Bern\"",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    let place = format!("{}:{}", newest[0]["partition"], newest[0]["offset"]);
    let shown = sink.run_command(&["topic", "show", topic, &place, "--format", "table"]);
    for part in [
        "header cdc.version",
        "commit 0/",
        "\"city\": \"Bern\"",
        "column city",
        "moved",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let id = newest[1]["id"].as_str().expect("an id");
    assert_eq!(
        sink.objects(&["topic", "show", topic, "--id", id])[0]["op"],
        "d"
    );
    newest
}

fn control_events_are_shown(sink: &CompanionSink, topic: &str) {
    let control = tail(sink, "looked_at.cdc-control", &["--op", "schema"]);
    assert_eq!(control[0]["about"], json!(topic));
    let text = [
        "topic",
        "tail",
        "looked_at.cdc-control",
        "--format",
        "table",
    ];
    let text = sink.run_command(&text);
    assert!(text.contains("looked_at.public.customer: "), "{text}");
}

fn a_refused_event_is_shown(sink: &CompanionSink, client: &mut Client, topic: &str) {
    run(
        client,
        &[
            "INSERT INTO customer VALUES (99, 'Nowhere')",
            "SELECT cdc_wait()",
        ],
    );
    let letters = format!("{topic}.dlq");
    let letter = wait_until("a dead letter", TIMEOUT, || {
        let output = sink.try_command(&["topic", "tail", &letters]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str::<Value>(&text).map_err(|error| format!("{error}: {text}"))
    });
    assert_eq!(letter["refused"]["sink"], "history");
    assert_eq!(
        (&letter["refused"]["reason"], &letter["refused"]["topic"]),
        (&json!("nowhere"), &json!(topic))
    );
    assert_eq!(letter["after"]["city"], "Nowhere");
}

fn topics_are_listed(sink: &CompanionSink, topic: &str) {
    let letters = format!("{topic}.dlq");
    let listed = sink.objects(&["topic", "list"]);
    let of = |name: &str| {
        let found = listed.iter().find(|one| one["topic"] == name);
        found.unwrap_or_else(|| panic!("{name} {listed:?}"))
    };
    assert_eq!(
        (&of(topic)["kind"], &of(topic)["table"]),
        (&json!("rows"), &json!(topic))
    );
    assert_eq!(of(topic)["events"], 54);
    assert_eq!(of(&letters)["kind"], "dead letters");
    assert_eq!(of("pg.cdc_positions")["kind"], "positions");
    let control = of("looked_at.cdc-control");
    assert_eq!(
        (&control["kind"], &control["cleanup_policy"]),
        (&json!("control"), &json!("compact"))
    );
    let table = sink.run_command(&["topic", "list", "--format", "table"]);
    assert!(
        table.contains("NEWEST (UTC)") && table.contains("7d"),
        "{table}"
    );
}

fn the_same_is_answered_over_http(sink: &CompanionSink, topic: &str, newest: &[Value]) {
    let path = format!("/v1/topics/{topic}/tail");
    let ask = |more: &str, status: u16| body(&sink.get(&format!("{path}{more}")), status);
    let events = &ask("?n=4", 200)["events"];
    let events = events.as_array().expect("events");
    assert_eq!(events[..3], *newest);
    assert_eq!(
        ask("?key=42&op=u&actor=ann&since=2026-01-01", 200)["events"][0],
        newest[0]
    );
    assert_eq!(ask("?key=4711", 200)["events"], json!([]));
    for (more, status) in [("?op=x", 400), ("?key=%7B%7D", 400), ("?limit=3", 400)] {
        assert_eq!(ask(more, status)["code"], "CDC1001", "{more}");
    }
    // Other tests have topics of this broker whose last part is the same.
    let none = body(&sink.get("/v1/topics/looked_at.public.custmer/tail"), 404);
    assert_eq!(
        none["title"],
        format!("no topic looked_at.public.custmer; did you mean {topic}?")
    );
    let listed = body(&sink.get("/v1/topics?pattern=looked_at.public.*"), 200);
    assert_eq!(listed["topics"][0]["topic"], json!(topic));
    for path in [&path, "/v1/topics"] {
        assert!(
            sink.get_as(path, "").starts_with("HTTP/1.1 401"),
            "{path} wants the token"
        );
    }
}

#[test]
fn what_comes_is_followed_until_somebody_interrupts() {
    let bed = TestBed::shared();
    let (database, mut client) = bed.tracked_table("followed_rows", "id int PRIMARY KEY, v int");
    run(
        &mut client,
        &[
            "INSERT INTO t SELECT id, 0 FROM generate_series(1, 20) id",
            "SELECT cdc_wait()",
        ],
    );
    let sink = bed.companion_sink(database.plan_companion_sink());
    let topic = database.topic("t");
    let start = |file: &str, more: &[&str]| {
        let mut command = sink.command();
        command.args(["topic", "tail", &topic, "-f"]).args(more);
        PrintingCommand::start(command, &bed.path(file))
    };
    let all = start("followed_all", &[]);
    let new = start("followed_new", &["-n", "0", "--op", "u"]);
    let table = start(
        "followed_table",
        &["-n", "1", "--format", "table", "--key", "3"],
    );
    assert_eq!(each(&all.wait_for_objects("offset", 10), "op"), ["c"; 10]);
    let head = table.wait_for_lines(3);
    assert!(
        head[0].contains(&topic) && head[1].contains("WHEN (UTC)"),
        "{head:?}"
    );

    // The one without old events says nothing by which its start is seen: its first line does.
    wait_until("the follower of new events", TIMEOUT, || {
        run(
            &mut client,
            &["UPDATE t SET v = v + 1 WHERE id = 20", "SELECT cdc_wait()"],
        );
        (!new.lines().is_empty()).then_some(()).ok_or("nothing")
    });
    run(
        &mut client,
        &[
            "UPDATE t SET v = 100 WHERE id BETWEEN 1 AND 5",
            "SELECT cdc_wait()",
        ],
    );
    wait_until("all five", TIMEOUT, || {
        let objects = all.wait_for_objects("offset", 15);
        let last = objects[objects.len() - 5..].iter();
        let mut ids: Vec<i64> = last.filter_map(|one| one["key"]["id"].as_i64()).collect();
        // Of one transaction, over several partitions, which may come one after the other.
        ids.sort_unstable();
        (ids == [1, 2, 3, 4, 5])
            .then_some(())
            .ok_or(format!("{ids:?}"))
    });
    let updates = new.wait_for_objects("offset", 6);
    assert!(
        each(&updates, "op").iter().all(|op| *op == "u"),
        "{updates:?}"
    );
    let line = table.wait_for_lines(4).pop().expect("a line");
    assert!(
        line.contains("id=3") && line.contains("v 0 -> 100"),
        "{line}"
    );
    assert_eq!(all.interrupt(), Some(130));
    assert_eq!(new.interrupt(), Some(130));
    assert_eq!(table.interrupt(), Some(130));
}
