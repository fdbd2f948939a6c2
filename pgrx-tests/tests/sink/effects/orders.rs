//! What people decide about effects that are not done, by command and over HTTP.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::webhook_receiver::{Reply, WebhookReceiver};
use serde_json::Value;

use super::{
    SINK, companion_sink, insert, row, source, wait_for_dead_letters, wait_until_done,
    wait_until_nothing_waits, wait_until_waiting, webhook,
};

const LONG_PAUSES: (&str, &str) = (
    "{ initial = \"100ms\", max = \"400ms\" }",
    "{ initial = \"1h\", max = \"2h\" }",
);

fn post(sink: &CompanionSink, path: &str, body: &str) -> String {
    sink.post(path, &["Content-Type: application/json"], body)
}

#[test]
fn effects_are_retried_and_skipped_by_command_and_over_http() {
    let mut source = source("effects_orders");
    let receiver = WebhookReceiver::start();
    receiver.answer(|_| Reply::Status(503));
    let toml = webhook(&source, &receiver, "").replace(LONG_PAUSES.0, LONG_PAUSES.1);
    let sink = companion_sink(&source, &toml);
    let events = insert(&mut source, 1..=4);
    let behind = row(&mut source, 1);
    source.send(&behind);
    source.flush();
    sink.start_only(&[SINK]);
    let waiting = wait_until_waiting(&sink, 5);
    let of_behind = waiting.iter().find(|effect| effect["id"] == behind.id());
    assert_eq!(of_behind.expect("it waits")["state"], "behind");
    assert!(
        waiting.iter().all(|effect| effect["sink"] == SINK),
        "{waiting:?}"
    );
    let listed = sink.run_command(&["effects", "list", "--json", "--state", "retrying"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let listed = sink.get("/v1/effects?state=retrying");
    assert!(
        listed.starts_with("HTTP/1.1 200") && listed.contains("\"total\":4"),
        "{listed}"
    );

    list_comes_in_pages(&sink, &waiting);

    // Again in vain, which is told; then it goes through, and so does the one behind it.
    let output = sink.try_command(&["effects", "retry", &events[0].id()]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && told.contains("failed again"),
        "{told}"
    );
    receiver.answer(|_| Reply::Status(200));
    sink.run_command(&["effects", "retry", &events[0].id()]);
    wait_until_done(&receiver, &[events[0].clone(), behind]);
    let answer = post(
        &sink,
        &format!("/v1/effects/{}/retry", events[1].id()),
        "{}",
    );
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    wait_until_done(&receiver, &events[..2]);

    let skip = [
        "effects",
        "skip",
        &events[2].id(),
        "--reason",
        "too late",
        "--by",
        "ann",
    ];
    sink.run_command(&skip);
    let path = format!("/v1/effects/{}/skip", events[3].id());
    let answer = post(&sink, &path, "{\"reason\":\"too late\",\"by\":\"eva\"}");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let letters = wait_for_dead_letters(&source, 2);
    for (event, by) in [(&events[2], "ann"), (&events[3], "eva")] {
        let letter = letters.iter().find(|letter| letter.id() == event.id());
        let letter = letter.expect("its dead letter");
        assert_eq!(letter.header("cdc.dlq.reason"), Some("skipped"));
        let message = letter.header("__connect.errors.exception.message");
        let told = format!("skipped by {by}: too late");
        assert_eq!(message, Some(told.as_str()));
        sink.wait_for_log(&told);
    }
    wait_until_nothing_waits(&sink);
    assert!(super::waiting(&sink).is_empty());
    assert!(!receiver.done_ids().contains(&events[2].id()));

    nobody_decides_unguarded(&sink);
    let output = sink.try_command(&["effects", "skip", "nothing", "--reason", "x"]);
    assert_eq!(output.status.code(), Some(4));
}

/// Over HTTP and by command.
fn list_comes_in_pages(sink: &CompanionSink, waiting: &[Value]) {
    let ids = |effects: &[Value]| -> Vec<Value> {
        effects.iter().map(|effect| effect["id"].clone()).collect()
    };
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let answer = sink.get(&format!("/v1/effects?limit=2{after}"));
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let page: Value = serde_json::from_str(body).expect("JSON");
        let effects = page["effects"].as_array().expect("effects");
        assert!(
            effects.len() <= 2 && page["total"] == waiting.len(),
            "{page}"
        );
        seen.extend(ids(effects));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids(waiting));
    assert!(sink.get("/v1/effects?after=x").starts_with("HTTP/1.1 400"));
    let first = ["effects", "list", "--json", "--limit", "3"];
    let listed = sink.try_command(&first);
    let told = String::from_utf8_lossy(&listed.stderr).into_owned();
    let (_, next) = told
        .trim_end()
        .split_once("--after ")
        .expect("where to go on");
    let rest = sink.run_command(&["effects", "list", "--json", "--after", next]);
    let both = String::from_utf8_lossy(&listed.stdout).into_owned() + &rest;
    let both = both
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"));
    assert_eq!(ids(&both.collect::<Vec<Value>>()), ids(waiting));
}

/// The guards are those of decisions about refused events.
fn nobody_decides_unguarded(sink: &CompanionSink) {
    let path = "/v1/effects/x/retry";
    assert!(post(sink, path, "{}").starts_with("HTTP/1.1 404"));
    let foreign = [
        "Content-Type: application/json",
        "Origin: https://example.org",
    ];
    assert!(sink.post(path, &foreign, "{}").starts_with("HTTP/1.1 403"));
    assert!(
        sink.get_as("/v1/effects", "guess")
            .starts_with("HTTP/1.1 401")
    );
}

#[test]
fn an_order_waits_for_an_instance_that_carries_it_out() {
    let mut source = source("effects_late_order");
    let receiver = WebhookReceiver::start();
    receiver.answer(|_| Reply::Status(503));
    let toml = webhook(&source, &receiver, "").replace(LONG_PAUSES.0, LONG_PAUSES.1);
    let sink = companion_sink(&source, &toml);
    let events = insert(&mut source, 1..=3);
    sink.start_only(&[SINK]);
    wait_until_waiting(&sink, 3);
    sink.stop();
    let skip = ["effects", "skip", &events[0].id(), "--reason", "too late"];
    let output = sink.try_command(&skip);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("noted"), "{told}");
    sink.run_command(&["effects", "retry", "--all"]);
    receiver.answer(|_| Reply::Status(200));
    sink.start_only(&[SINK]);
    wait_for_dead_letters(&source, 1);
    wait_until_done(&receiver, &events[1..]);
    wait_until_nothing_waits(&sink);
    assert_eq!(receiver.done_ids().len(), 2);
}
