//! Requests: once for each event, signed, in the order of their keys, whatever the receiver does.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::base64::{decode_block, encode_block};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use pg_cdc_tests::hand_made_events::{Event, Source, bed, id_key};
use pg_cdc_tests::wait::assert_stays;
use pg_cdc_tests::wait_until;
use pg_cdc_tests::webhook_receiver::{ReceivedRequest, Reply, WebhookReceiver};
use serde_json::json;

use super::{
    SINK, TIMEOUT, companion_sink, ids, insert, row, source, wait_for_dead_letters,
    wait_until_done, wait_until_nothing_waits, waiting, webhook,
};

const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn signature(request: &ReceivedRequest) -> String {
    let key = PKey::hmac(&decode_block(SECRET).expect("base64")).expect("a key");
    let mut signer = Signer::new(MessageDigest::sha256(), &key).expect("a signer");
    let timestamp = &request.headers["webhook-timestamp"];
    let head = format!("{}.{timestamp}.", request.id());
    signer.update(head.as_bytes()).expect("sign");
    signer.update(&request.body).expect("sign");
    format!("v1,{}", encode_block(&signer.sign_to_vec().expect("sign")))
}

#[test]
fn each_insert_is_one_signed_request_and_nothing_else_is() {
    let mut source = source("effects_once");
    let receiver = WebhookReceiver::start();
    let secret = bed().path("effects_once.secret");
    std::fs::write(&secret, format!("whsec_{SECRET}\n")).expect("the secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let signed = format!("secret_file = \"{}\"", secret.display());
    let sink = companion_sink(&source, &webhook(&source, &receiver, &signed));

    let events = insert(&mut source, 1..=20);
    let after = json!({"id": 1, "name": "other", "email": null});
    let update = source.update("t", Some(&id_key(1)), &json!({"id": 1}), &after);
    let delete = source.delete("t", Some(&id_key(2)), &json!({"id": 2}));
    let tombstone = Source::tombstone(&delete);
    let of_snapshot = source.read("t", Some(&id_key(3)), &after);
    for event in [&update, &delete, &tombstone, &of_snapshot] {
        source.send(event);
    }
    // The sender sends some of it once more.
    events.iter().for_each(|event| source.send(event));
    source.flush();
    sink.start_only(&[SINK]);

    let done = wait_until_done(&receiver, &events);
    wait_until_nothing_waits(&sink);
    assert_eq!(done.keys().cloned().collect::<Vec<_>>(), ids(&events));
    assert!(done.values().all(|times| *times == 1), "{done:?}");
    for request in receiver.requests() {
        let event = events.iter().find(|event| event.id() == request.id());
        let value = event.and_then(|event| event.value.as_ref());
        assert_eq!(Some(&request.body), value);
        assert_eq!(request.headers["webhook-signature"], signature(&request));
        assert_eq!(request.headers["content-type"], "application/json");
    }
    let metrics = sink.get("/metrics");
    for line in [
        "companion_sink_effects_total{sink=\"hook\",outcome=\"sent\"} 20",
        "companion_sink_effects_waiting{sink=\"hook\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    // Nor does anything happen after a start.
    sink.stop();
    sink.start_only(&[SINK]);
    let late = insert(&mut source, 100..=100);
    wait_until_done(&receiver, &late);
    assert_eq!(receiver.requests().len(), 21);
}

#[test]
fn only_the_key_waits_whose_receiver_misbehaves_and_its_id_stays() {
    let mut source = source("effects_retry");
    let receiver = WebhookReceiver::start();
    let sink = companion_sink(&source, &webhook(&source, &receiver, ""));
    let attempts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    receiver.answer(move |request| {
        let id = request.json()["after"]["id"].as_u64();
        let mut attempts = attempts.lock().expect("the attempts");
        let attempt = attempts.entry(request.id().to_owned()).or_default();
        *attempt += 1;
        match (id, *attempt) {
            (Some(1), 1) => Reply::Hang,
            (Some(1), 2) => Reply::Break,
            (Some(1), 3) => Reply::Status(500),
            (Some(1), 4) => Reply::With(429, "Retry-After: 1"),
            (Some(1), 5) => Reply::Late(202, Duration::from_secs(3)),
            (Some(1), 6) => Reply::Status(503),
            (Some(1), _) => Reply::Late(200, Duration::from_millis(200)),
            _ => Reply::Status(200),
        }
    });
    let mut events = insert(&mut source, 1..=1);
    let others = insert(&mut source, 2..=9);
    // Behind the first one: its key was deleted and comes again.
    events.push(row(&mut source, 1));
    source.send(&events[1]);
    source.flush();
    sink.start_only(&[SINK]);

    wait_until_done(&receiver, &others);
    let first_is_done = |requests: &[ReceivedRequest]| {
        let of_first = requests
            .iter()
            .filter(|request| request.id() == events[0].id());
        of_first
            .filter(|request| request.reply == Reply::Status(503))
            .count()
            == 1
    };
    assert!(
        !first_is_done(&receiver.requests()),
        "the others did not wait"
    );
    wait_until_done(&receiver, &events);
    let requests = receiver.requests();
    let of = |event: &Event| {
        let places = requests.iter().enumerate();
        let of = places.filter(|(_, request)| request.id() == event.id());
        of.map(|(place, _)| place).collect::<Vec<usize>>()
    };
    let (first, second) = (of(&events[0]), of(&events[1]));
    assert!(first.len() >= 7, "{requests:?}");
    assert!(
        second.iter().all(|place| Some(place) > first.last()),
        "{requests:?}"
    );
    assert!(requests.iter().all(|request| !request.id().is_empty()));
    wait_until_nothing_waits(&sink);
}

#[test]
fn what_is_refused_for_good_is_a_dead_letter_and_its_key_goes_on() {
    let mut source = source("effects_refused");
    let receiver = WebhookReceiver::start();
    let sink = companion_sink(&source, &webhook(&source, &receiver, ""));
    receiver.answer(|request| match request.json()["after"]["name"].as_str() {
        Some("n1") => Reply::Status(400),
        Some("n2") => Reply::With(302, "Location: http://127.0.0.1:1/"),
        _ => Reply::Status(200),
    });
    let refused = insert(&mut source, 1..=2);
    let after = json!({"id": 1, "name": "fine", "email": null});
    let next = source.create("t", Some(&id_key(1)), &after);
    source.send(&next);
    source.flush();
    sink.start_only(&[SINK]);

    wait_until_done(&receiver, std::slice::from_ref(&next));
    let letters = wait_for_dead_letters(&source, 2);
    for event in &refused {
        let letter = letters.iter().find(|letter| letter.id() == event.id());
        let letter = letter.expect("its dead letter");
        assert_eq!(letter.value, event.value);
        assert_eq!(letter.header("cdc.dlq.code"), Some("CDC1015"));
        assert_eq!(letter.header("cdc.dlq.reason"), Some("refused"));
    }
    wait_until_nothing_waits(&sink);
    assert_eq!(receiver.requests().len(), 3, "no redirect is followed");
}

#[test]
fn conditions_rules_and_templates_choose_and_shape() {
    let mut source = source("effects_when");
    let receiver = WebhookReceiver::start();
    let shaped = "when = \"after.name != 'n2' && (after.id != 3 || after.nmae == 'x')\"\n\
        body = '{\"text\":{{ after.name | tojson }},\"by\":{{ audit.actor | tojson }}{% if after.id == 4 %}{{ after.phone }}{% endif %}}'\n\
        on = [\"c\", \"r\"]\n\
        [[rule]]\ntopic = \"*\"\nname = \"five\"\nreject_if = \"after.id == 5\"\n";
    let sink = companion_sink(&source, &webhook(&source, &receiver, shaped));
    let events = insert(&mut source, 1..=5);
    let after = json!({"id": 9, "name": "n9", "email": null});
    let of_snapshot = source.read("t", Some(&id_key(9)), &after);
    source.send(&of_snapshot);
    source.flush();
    sink.start_only(&[SINK]);

    let wanted = [events[0].clone(), of_snapshot];
    wait_until_done(&receiver, &wanted);
    let letters = wait_for_dead_letters(&source, 3);
    let reason = |event: &Event| {
        let letter = letters.iter().find(|letter| letter.id() == event.id());
        let letter = letter.map(|letter| {
            let header = |name| letter.header(name).unwrap_or_default().to_owned();
            (
                header("cdc.dlq.reason"),
                header("__connect.errors.exception.message"),
            )
        });
        letter.expect("its dead letter")
    };
    assert_eq!(reason(&events[2]).0, "condition");
    let template = reason(&events[3]);
    assert_eq!(template.0, "template");
    assert!(template.1.contains("after.phone"), "{template:?}");
    assert_eq!(reason(&events[4]).0, "five");
    wait_until_nothing_waits(&sink);
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    let first = requests
        .iter()
        .find(|request| request.id() == events[0].id());
    let first = first.map(ReceivedRequest::json);
    assert_eq!(first, Some(json!({"text": "n1", "by": "ann"})));
}

#[test]
fn what_was_there_before_the_first_start_has_no_effect_and_a_later_topic_has() {
    let mut source = source("effects_now");
    let receiver = WebhookReceiver::start();
    let toml = webhook(&source, &receiver, "").replace("\"beginning\"", "\"now\"");
    let sink = companion_sink(&source, &toml);
    insert(&mut source, 1..=10);
    sink.start_only(&[SINK]);
    wait_until_nothing_waits(&sink);
    let late = insert(&mut source, 11..=12);
    wait_until_done(&receiver, &late);
    sink.stop();
    // Both while it does not run.
    let mut missed = insert(&mut source, 13..=14);
    source.track("u", &[("id", "int8")], &["id"]);
    missed.push(source.create("u", Some(&id_key(1)), &json!({"id": 1})));
    source.send(&missed[2]);
    source.flush();
    sink.start_only(&[SINK]);
    wait_until_done(&receiver, &missed);
    assert_stays(
        "nothing of before",
        Duration::from_secs(1),
        || match receiver.requests().len() {
            5 => Ok(()),
            count => Err(format!("{count} requests")),
        },
    );
}

#[test]
fn too_many_refused_events_halt_the_sink() {
    let mut source = source("effects_halt");
    let receiver = WebhookReceiver::start();
    receiver.answer(|_| Reply::Status(404));
    let limit = "[dead_letters]\nmax_parked_keys_per_minute = 5\n";
    let sink = companion_sink(&source, &webhook(&source, &receiver, limit));
    insert(&mut source, 1..=20);
    sink.start_only(&[SINK]);
    wait_until("the sink to halt", TIMEOUT, || {
        let state = sink.state_of(SINK);
        let code = &state["last_error"]["code"];
        match state["state"] == "halted" && code == "CDC1004" {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    assert_eq!(waiting(&sink).len(), 15, "the others are kept");
    wait_for_dead_letters(&source, 5);
}
