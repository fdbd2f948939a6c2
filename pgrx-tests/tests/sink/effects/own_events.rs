//! Effects of applications' own events, and of events that another producer wrote.

use pg_cdc_tests::hand_made_events::{bed, id_key};
use pg_cdc_tests::mail_server::MailServer;
use pg_cdc_tests::plain_events::PlainEvents;
use pg_cdc_tests::wait_until;
use pg_cdc_tests::webhook_receiver::WebhookReceiver;
use serde_json::{Value, json};

use super::{
    SINK, TIMEOUT, alone, companion_sink, insert, source, wait_for_dead_letters, wait_until_done,
    wait_until_nothing_waits, webhook,
};

const ORDERS: &str = "when = \"value.total > 10\"\nbody = '''{\"order\": {{ value.orderId }}, \"by\": \"{{ audit.actor }}\"}'''\n";

#[test]
fn each_own_event_is_one_request() {
    let mut source = source("effects_own");
    source.create_topic("order-created");
    let receiver = WebhookReceiver::start();
    let sink = companion_sink(&source, &webhook(&source, &receiver, ORDERS));
    let mut events = Vec::new();
    for order in 1..=5 {
        let value = json!({"orderId": order, "total": 10 + order});
        let event = source.own("order-created", Some(&order.to_string()), Some(&value));
        events.push(event.with_header("cdc.actor", "ann"));
    }
    let small = source.own(
        "order-created",
        Some("6"),
        Some(&json!({"orderId": 6, "total": 1})),
    );
    let tombstone = source.own("order-created", Some("1"), None);
    for event in events.iter().chain([&small, &tombstone]).chain(&events) {
        source.send(event);
    }
    source.flush();
    sink.start_only(&[SINK]);
    let done = wait_until_done(&receiver, &events);
    wait_until_nothing_waits(&sink);
    assert_eq!((done.len(), receiver.requests().len()), (5, 5));
    for request in receiver.requests() {
        let event = events.iter().find(|event| event.id() == request.id());
        let value: Value = event
            .and_then(|event| serde_json::from_slice(event.value.as_ref()?).ok())
            .expect("its value");
        let expected = json!({"order": value["orderId"], "by": "ann"});
        assert_eq!(request.json(), expected);
    }
}

#[test]
fn what_a_template_misses_in_an_own_event_is_a_dead_letter() {
    let mut source = source("effects_own_missing");
    let receiver = WebhookReceiver::start();
    let body = "body = \"{{ value.orderId }}\"";
    let sink = companion_sink(&source, &webhook(&source, &receiver, body));
    // One without headers, in a table's topic, is nobody's event; an event of a row has no value.
    PlainEvents::into(bed().kafka(), &source.topic("t")).send("1", &json!({"orderId": 1}));
    let of_row = insert(&mut source, 1..=1);
    let own = source.own("t", Some(&id_key(2)), Some(&json!({"order": 1})));
    source.send(&own);
    source.flush();
    sink.start_only(&[SINK]);
    let letters = wait_for_dead_letters(&source, 3);
    let code = |id: &str| {
        let letter = letters
            .iter()
            .find(|letter| letter.header("cdc.id") == Some(id));
        letter
            .and_then(|letter| letter.header("cdc.dlq.code"))
            .unwrap_or_default()
            .to_owned()
    };
    let expected = code(&own.id());
    assert_eq!(
        (code(&of_row[0].id()), !expected.is_empty()),
        (expected, true)
    );
    assert!(receiver.requests().is_empty());
}

#[test]
fn events_of_any_producer_have_effects_by_their_places() {
    let events = PlainEvents::create(bed().kafka(), "plain_effects.order", 1);
    let receiver = WebhookReceiver::start();
    let sink = alone(
        "plain",
        bed().kafka(),
        &format!(
            "begin = \"beginning\"\nkind = \"webhook\"\ntopics = [\"plain_effects.*\"]\nwhen = \"op == 'emit' && value.paid\"\nurl = \"{}\"\n",
            receiver.url()
        ),
        &[],
    );
    let checked = sink.try_command(&["check"]);
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.status.success() && !told.contains("warning"),
        "{told}"
    );
    for order in 0..6 {
        events.send("k", &json!({"order": order, "paid": order % 2 == 0}));
    }
    sink.start();
    wait_until_nothing_waits(&sink);
    let seen = || -> Vec<(String, Value)> {
        let requests = receiver.requests().into_iter();
        requests
            .map(|request| (request.id().to_owned(), request.json()))
            .collect()
    };
    let expected: Vec<_> = [0, 2, 4]
        .map(|order| {
            (
                format!("plain_effects.order-0-{order}"),
                json!({"order": order, "paid": true}),
            )
        })
        .to_vec();
    assert_eq!(seen(), expected);
    let log = std::fs::read_to_string(sink.log_file()).expect("the log");
    assert!(!log.contains("WARN") && !log.contains("position"), "{log}");
    sink.kill();
    sink.start();
    events.send("k", &json!({"order": 6, "paid": true}));
    wait_until("the last one", TIMEOUT, || match seen().len() {
        4 => Ok(()),
        seen => Err(seen),
    });
    assert_eq!(seen()[3].0, "plain_effects.order-0-6");
}

#[test]
fn a_mail_of_any_producers_event() {
    let events = PlainEvents::create(bed().kafka(), "plain_mails.welcome", 1);
    let server = MailServer::start(&bed().path("effects_plain_mail"));
    let sink = alone(
        "mail",
        bed().kafka(),
        &format!(
            "begin = \"beginning\"\nkind = \"mail\"\ntopics = [\"plain_mails.welcome\"]\nsmtp = \"smtp://{}\"\nfrom = \"Shop <shop@example.org>\"\n\
             to = \"{{{{ value.to }}}}\"\nsubject = \"Hi\"\nbody = \"{{{{ value.name }}}}\"\n",
            server.address()
        ),
        &[],
    );
    events.send("1", &json!({"to": "eva@example.org", "name": "Eva"}));
    sink.start();
    wait_until("the mail", TIMEOUT, || {
        let mails = server.mails();
        let id = "Message-ID: <plain_mails.welcome-0-0@example.org>";
        match mails.len() == 1 && mails[0].contains(id) && mails[0].contains("Eva") {
            true => Ok(()),
            false => Err(format!("{mails:?}")),
        }
    });
}
