//! What one does with accounts and events.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::service::Service;

use super::system::{EventStore, INSTANCES, expect, tag};

/// Each step through another instance.
pub(super) fn life(example: &EventStore) -> String {
    let [one, two, three] = [0, 1, 2].map(|number| example.instance(number));
    let body = json!({"id": "ann", "name": "Ann", "email": "ann@example.org"});
    let created = one.ask_with("POST", "/accounts", &[], &body);
    expect(201, &created);
    assert_eq!(created.headers["location"], "/accounts/ann");
    assert_eq!(created.body["version"], 1);
    expect(409, &two.ask_with("POST", "/accounts", &[], &body));

    let read = three.ask("GET", "/accounts/ann", &[]);
    expect(200, &read);
    assert_eq!(read.body, created.body);
    let first = tag(&read);
    let change = json!({"name": "Ann B."});
    expect(428, &one.ask_with("PUT", "/accounts/ann", &[], &change));
    let changed = one.ask_with("PUT", "/accounts/ann", &[("if-match", &first)], &change);
    expect(200, &changed);
    assert_eq!(changed.body["version"], 2);
    assert_eq!(changed.body["name"], "Ann B.");
    let old = [("if-match", first.as_str())];
    expect(412, &two.ask_with("PUT", "/accounts/ann", &old, &change));
    expect(412, &three.ask("DELETE", "/accounts/ann", &old));

    let event =
        json!({"id": "e1", "type": "deposit", "amount_cents": 500, "time": "2026-11-20T08:00:00Z"});
    let path = "/accounts/ann/events";
    expect(201, &one.ask_with("POST", path, &[], &event));
    example.note("2026-11-20", "deposit", 500);
    // Told once more.
    expect(200, &two.ask_with("POST", path, &[], &event));
    let other = json!({"id": "e1", "type": "deposit", "amount_cents": 7});
    expect(409, &three.ask_with("POST", path, &[], &other));
    expect(
        404,
        &one.ask_with("POST", "/accounts/bob/events", &[], &event),
    );
    let events = two.ask("GET", path, &[]);
    assert_eq!(events.body["events"].as_array().map(Vec::len), Some(1));

    are_refused(three);
    expect(404, &one.ask("GET", "/accounts/bob", &[]));
    expect(422, &one.ask("GET", "/accounts/b%20b", &[]));
    expect(422, &one.ask("GET", "/accounts?limit=0", &[]));
    expect(400, &one.ask("GET", "/accounts?page=2", &[]));

    expect(
        204,
        &two.ask("DELETE", "/accounts/ann", &[("if-match", &tag(&changed))]),
    );
    expect(404, &three.ask("GET", "/accounts/ann", &[]));
    expect(404, &one.ask("GET", path, &[]));
    // A later account of that id is another one.
    expect(201, &one.ask_with("POST", "/accounts", &[], &body));
    expect(412, &two.ask_with("PUT", "/accounts/ann", &old, &change));
    let events = two.ask("GET", path, &[]);
    assert_eq!(events.body["events"].as_array().map(Vec::len), Some(0));
    String::new()
}

/// Bodies that say what cannot be.
fn are_refused(service: &Service) {
    for (status, method, path, body) in [
        (400, "POST", "/accounts", "{"),
        (422, "POST", "/accounts", "{}"),
        (422, "POST", "/accounts", r#"{"name": ""}"#),
        (422, "POST", "/accounts", r#"{"id": "a/b", "name": "x"}"#),
        (422, "POST", "/accounts", r#"{"name": "x", "nam": "y"}"#),
        (
            422,
            "POST",
            "/accounts/ann/events",
            r#"{"type": "deposit", "amount_cents": 1.5}"#,
        ),
        (
            422,
            "POST",
            "/accounts/ann/events",
            r#"{"type": "x", "amount_cents": 1, "time": "soon"}"#,
        ),
    ] {
        let answer = service.send(method, path, &[], Some(body.to_owned()));
        expect(status, &answer);
    }
}

/// Eight at the same time.
pub(super) fn one_wins(example: &EventStore) -> String {
    const ROUNDS: usize = 5;
    const WRITERS: usize = 8;
    let mut read = example.create(0, "contested");
    let instances = example.running();
    for round in 0..ROUNDS {
        let answers = thread::scope(|scope| {
            let writers = (0..WRITERS).map(|writer| {
                let (service, read) = (instances[writer % INSTANCES], &read);
                scope.spawn(move || {
                    let body = json!({"name": format!("{round}-{writer}")});
                    let headers = [("if-match", read.as_str())];
                    service.ask_with("PUT", "/accounts/contested", &headers, &body)
                })
            });
            let writers: Vec<_> = writers.collect();
            let answers = writers.into_iter().map(|writer| writer.join());
            answers
                .map(|answer| answer.expect("an answer"))
                .collect::<Vec<_>>()
        });
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 200);
        assert_eq!(won.len(), 1, "{answers:?}");
        lost.iter().for_each(|answer| expect(412, answer));
        let now = example
            .instance(round % INSTANCES)
            .ask("GET", "/accounts/contested", &[]);
        assert_eq!(now.body["name"], won[0].body["name"]);
        read = tag(&now);
    }
    format!("{WRITERS} writers, {ROUNDS} times")
}

/// Writes through one, reads through the two others.
pub(super) fn reads_own_writes(example: &EventStore) -> String {
    const STEPS: usize = 60;
    let mut read = example.create(0, "mine");
    let (mut writing, mut reading) = (Duration::ZERO, Duration::ZERO);
    for step in 0..STEPS {
        let writer = example.instance(step % INSTANCES);
        let start = Instant::now();
        let body = json!({"name": step.to_string()});
        let answer = writer.ask_with("PUT", "/accounts/mine", &[("if-match", &read)], &body);
        writing += start.elapsed();
        expect(200, &answer);
        read = tag(&answer);
        for other in 1..INSTANCES {
            let start = Instant::now();
            let seen = example.instance((step + other) % INSTANCES);
            let seen = seen.ask("GET", "/accounts/mine", &[]);
            reading += start.elapsed();
            assert_eq!(seen.body, answer.body);
        }
    }
    let ms = |time: Duration, count: usize| time.as_secs_f64() * 1000.0 / count as f64;
    format!(
        "a write {:.1} ms, a read {:.1} ms",
        ms(writing, STEPS),
        ms(reading, STEPS * (INSTANCES - 1))
    )
}

/// In pages of several sizes.
pub(super) fn lists(example: &EventStore) -> String {
    const ACCOUNTS: usize = 60;
    thread::scope(|scope| {
        for (number, service) in example.running().into_iter().enumerate() {
            scope.spawn(move || {
                for account in (number..ACCOUNTS).step_by(INSTANCES) {
                    let id = format!("a{account:03}");
                    let body = json!({"id": id, "name": id});
                    expect(201, &service.ask_with("POST", "/accounts", &[], &body));
                }
            });
        }
    });
    let made: BTreeSet<String> = (0..ACCOUNTS)
        .map(|account| format!("a{account:03}"))
        .collect();
    let first = example.list(0, 1000);
    assert!(first.is_sorted(), "{first:?}");
    let found: BTreeSet<String> = first.iter().cloned().collect();
    assert_eq!(found.len(), first.len(), "one is there twice");
    assert!(made.is_subset(&found), "{first:?}");
    for (through, limit) in [(0, 7), (1, 1), (2, 25)] {
        assert_eq!(example.list(through, limit), first, "through {through}");
    }
    format!("{} accounts", first.len())
}

/// Two events of one account among many of others, in the same partition, too.
pub(super) fn own_events_only(example: &EventStore) -> String {
    const OTHERS: usize = 600;
    example.publish(0, "a001", "2026-11-21", "deposit", 1000);
    let published = thread::scope(|scope| {
        let writers = (0..8).map(|writer| {
            let service = example.instance(writer % INSTANCES);
            scope.spawn(move || {
                let mut amounts = Vec::new();
                for number in (writer..OTHERS).step_by(8) {
                    let account = 2 + number % 58;
                    let amount_cents = i64::try_from(number).expect("small");
                    let body = json!({"type": "purchase", "amount_cents": amount_cents, "time": "2026-11-21T23:59:59.9Z"});
                    let path = format!("/accounts/a{account:03}/events");
                    expect(201, &service.ask_with("POST", &path, &[], &body));
                    amounts.push(amount_cents);
                }
                amounts
            })
        });
        let writers: Vec<_> = writers.collect();
        let amounts = writers.into_iter().map(|writer| writer.join());
        amounts
            .flat_map(|amounts| amounts.expect("a writer"))
            .collect::<Vec<_>>()
    });
    for amount_cents in &published {
        example.note("2026-11-21", "purchase", *amount_cents);
    }
    example.publish(1, "a001", "2026-11-22", "withdrawal", -400);
    let before = example.status();
    let answer = example.instance(2).ask("GET", "/accounts/a001/events", &[]);
    let after = example.status();
    expect(200, &answer);
    let events = answer.body["events"].as_array().expect("events");
    let amounts: Vec<_> = events
        .iter()
        .map(|event| event["amount_cents"].as_i64())
        .collect();
    assert_eq!(amounts, [Some(1000), Some(-400)]);
    assert_eq!(after.events_looked_at - before.events_looked_at, 2);
    assert_eq!(after.bytes_read, before.bytes_read, "the topic was read");
    format!(
        "2 of {} events looked at, 0 bytes of the topic",
        after.events
    )
}
