//! Mails: once for each event, with the event's id, whatever the server does.

use pg_cdc_tests::hand_made_events::{Event, Source, bed, id_key};
use pg_cdc_tests::mail_server::MailServer;
use pg_cdc_tests::wait_until;
use serde_json::json;

use super::{
    SINK, TIMEOUT, companion_sink, insert, source, wait_for_dead_letters, wait_until_nothing_waits,
    wait_until_waiting,
};

fn mail(source: &Source, server: &MailServer) -> String {
    format!(
        "[sink.{SINK}]\nkind = \"mail\"\ntopics = [\"{}.public.*\"]\nsmtp = \"smtp://{}\"\nbegin = \"beginning\"\n\
         retry = {{ initial = \"100ms\", max = \"400ms\" }}\ntimeout = \"2s\"\nfrom = \"Shop <shop@example.org>\"\n\
         to = \"{{{{ after.email }}}}\"\nsubject = \"Welcome, {{{{ after.name }}}}\"\nbody = \"Hello {{{{ after.name }}}}\"\n\
         html = \"<p>Hello {{{{ after.name }}}}</p>\"\n",
        source.name,
        server.address()
    )
}

fn message_id(event: &Event) -> String {
    format!("Message-ID: <{}@example.org>", event.id())
}

/// Waits until there is a mail of each event; how often there is one.
fn wait_for_mails(server: &MailServer, events: &[Event]) -> Vec<usize> {
    wait_until("the mails", TIMEOUT, || {
        let mails = server.mails();
        let count = |event: &Event| {
            let id = message_id(event);
            let has_id = |mail: &&String| mail.lines().any(|line| line.trim_end() == id);
            mails.iter().filter(has_id).count()
        };
        let counts: Vec<usize> = events.iter().map(count).collect();
        match counts.iter().all(|count| *count > 0) {
            true => Ok(counts),
            false => Err(format!("{counts:?}")),
        }
    })
}

/// The headers of a mail.
fn head(mail: &str) -> &str {
    let mut parts = mail.split("\r\n\r\n");
    parts.next().unwrap_or_default()
}

fn to(source: &mut Source, id: u64, name: &str, email: &str) -> Event {
    let after = json!({"id": id, "name": name, "email": email});
    let event = source.create("t", Some(&id_key(id)), &after);
    source.send(&event);
    event
}

#[test]
fn each_insert_is_one_mail_with_the_events_id() {
    let mut source = source("effects_mail");
    let server = MailServer::start(&bed().path("effects_mail"));
    let sink = companion_sink(&source, &mail(&source, &server));
    let mut events = insert(&mut source, 1..=10);
    events.push(to(
        &mut source,
        11,
        "Eva\r\nBcc: all@example.org",
        "eva@example.org",
    ));
    let refused = [
        to(&mut source, 12, "Ann", "refused@example.org"),
        to(&mut source, 13, "Ann", "a@example.org, b@example.org"),
        to(&mut source, 14, "Ann", ""),
    ];
    // Behind one that is refused.
    events.push(to(&mut source, 12, "Ann", "ann@example.org"));
    source.flush();
    sink.start_only(&[SINK]);

    let counts = wait_for_mails(&server, &events);
    assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
    let letters = wait_for_dead_letters(&source, 3);
    for (event, reason) in refused.iter().zip(["refused", "recipient", "recipient"]) {
        let letter = letters.iter().find(|letter| letter.id() == event.id());
        let letter = letter.expect("its dead letter");
        assert_eq!(letter.header("cdc.dlq.reason"), Some(reason));
        let message = letter.header("__connect.errors.exception.message");
        assert!(
            message.is_some_and(|message| !message.contains("example.org")),
            "{message:?}"
        );
    }
    wait_until_nothing_waits(&sink);
    let mails = server.mails();
    assert_eq!(mails.len(), events.len());
    assert!(
        mails.iter().all(|mail| !head(mail).contains("\nBcc:")),
        "{mails:?}"
    );
    assert!(
        mails
            .iter()
            .any(|mail| mail.contains("Subject: Welcome, n1")),
        "{mails:?}"
    );
    assert!(
        mails.iter().all(|mail| mail.contains("<p>Hello")),
        "{mails:?}"
    );
}

#[test]
fn a_mail_server_that_misbehaves_gets_the_mail_again_with_the_same_id() {
    let mut source = source("effects_mail_again");
    let server = MailServer::start(&bed().path("effects_mail_again"));
    let names = ["busy", "hang", "close"];
    names.iter().for_each(|name| server.misbehave_with(name));
    let sink = companion_sink(&source, &mail(&source, &server));
    let stuck: Vec<Event> = (1..)
        .zip(names)
        .map(|(id, name)| to(&mut source, id, name, &format!("{name}@example.org")))
        .collect();
    let others = insert(&mut source, 10..=20);
    sink.start_only(&[SINK]);
    wait_for_mails(&server, &others);
    let waiting = wait_until_waiting(&sink, 3);
    assert!(
        waiting
            .iter()
            .all(|effect| effect["attempts"].as_u64() >= Some(1)),
        "{waiting:?}"
    );
    names.iter().for_each(|name| server.behave_with(name));
    wait_for_mails(&server, &stuck);
    wait_until_nothing_waits(&sink);
}
