//! Receivers and Kafka that stop in the middle; and connections that are encrypted.

use std::time::Duration;

use pg_cdc_tests::certificates::Authority;
use pg_cdc_tests::hand_made_events::bed;
use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::mail_server::{MailSecurity, MailServer};
use pg_cdc_tests::plain_events::PlainEvents;
use pg_cdc_tests::request_server::RequestServer;
use pg_cdc_tests::wait::assert_stays;
use pg_cdc_tests::webhook_receiver::{Reply, WebhookReceiver};
use pg_cdc_tests::{port, process, wait_until};
use serde_json::{Value, json};

use super::{SINK, TIMEOUT, alone, wait_until_nothing_waits, waiting};

const SHORT: &str =
    "timeout = \"1s\"\nretry = { initial = \"100ms\", max = \"400ms\" }\nbegin = \"beginning\"\n";
/// How long it is looked whether something happens that must not.
const LOOK: Duration = Duration::from_secs(3);

fn mail(topic: &str, smtp: &str) -> String {
    format!(
        "kind = \"mail\"\ntopics = [\"{topic}\"]\n{SHORT}smtp = \"{smtp}\"\nfrom = \"shop@example.org\"\n\
         to = \"{{{{ value.to }}}}@example.org\"\nsubject = \"Hi\"\nbody = \"Hi\"\n"
    )
}

fn webhook(topic: &str, url: &str) -> String {
    format!("kind = \"webhook\"\ntopics = [\"{topic}\"]\n{SHORT}url = \"{url}\"\n")
}

/// Waits until so many effects wait that were tried, and each was in vain as `why` says.
fn wait_until_in_vain(sink: &pg_cdc_tests::companion_sink::CompanionSink, count: usize, why: &str) {
    wait_until("the attempts to be in vain", TIMEOUT, || {
        let waiting = waiting(sink);
        let is_so = |effect: &Value| {
            let told = effect["last_error"].as_str().unwrap_or_default();
            effect["attempts"].as_u64() >= Some(2) && told.contains(why)
        };
        match waiting.iter().filter(|effect| is_so(effect)).count() == count {
            true => Ok(()),
            false => Err(format!("{waiting:?}")),
        }
    });
}

/// Whether each id is there, and no other one.
fn has_all(seen: &[String], ids: &[String]) -> Result<(), String> {
    let mut distinct = seen.to_vec();
    distinct.sort();
    distinct.dedup();
    match distinct == ids {
        true => Ok(()),
        false => Err(format!("{seen:?}")),
    }
}

#[test]
fn a_mail_server_that_stops_within_a_mail_gets_it_again_with_the_same_id() {
    let events = PlainEvents::create(bed().kafka(), "mails_stopped.welcome", 1);
    let server = MailServer::start(&bed().path("mails_stopped"));
    let smtp = format!("smtp://{}", server.address());
    let sink = alone(
        "mails_stopped",
        bed().kafka(),
        &mail(&events.topic, &smtp),
        &[],
    );
    server.misbehave_with("hang");
    events.send("1", &json!({"to": "hang"}));
    events.send("2", &json!({"to": "eva"}));
    sink.start();
    server.stop_within_a_mail();
    events.send("3", &json!({"to": "ann"}));
    wait_until_in_vain(&sink, 2, "in time");
    assert_eq!(sink.state_of(SINK)["state"], "running");
    server.behave_with("hang");
    server.go_on();
    let ids: Vec<String> = (0..3)
        .map(|offset| format!("Message-ID: <mails_stopped.welcome-0-{offset}@example.org>"))
        .collect();
    wait_until("the mails", TIMEOUT, || {
        let mails = server.mails();
        let lines = mails.iter().flat_map(|mail| mail.lines());
        let seen = lines.filter(|line| line.starts_with("Message-ID"));
        has_all(&seen.map(str::to_owned).collect::<Vec<_>>(), &ids)
    });
    wait_until_nothing_waits(&sink);
}

#[test]
fn a_receiver_that_stops_within_a_request_gets_it_again_with_the_same_id() {
    let events = PlainEvents::create(bed().kafka(), "requests_stopped.order", 1);
    let server = RequestServer::start(&bed().path("requests_stopped"));
    let sink = alone(
        "requests_stopped",
        bed().kafka(),
        &webhook(&events.topic, &server.url()),
        &[],
    );
    server.hang(true);
    for number in 0..5 {
        events.send(&number.to_string(), &json!({"number": number}));
    }
    sink.start();
    server.stop_within_a_request();
    wait_until_in_vain(&sink, 5, "in time");
    server.hang(false);
    server.go_on();
    let ids: Vec<String> = (0..5)
        .map(|offset| format!("requests_stopped.order-0-{offset}"))
        .collect();
    wait_until("the requests", TIMEOUT, || {
        has_all(&server.done_ids(), &ids)
    });
    wait_until_nothing_waits(&sink);
}

/// A Kafka of its own, for who stops it.
fn own_kafka(name: &str) -> Kafka {
    let kafka = Kafka::create(&bed().path(name), port::free(), port::free(), &[]);
    kafka.start();
    kafka
}

#[test]
fn nothing_is_lost_while_kafka_is_away() {
    let kafka = own_kafka("effects_kafka_away");
    let events = PlainEvents::create(&kafka, "kafka_away.order", 1);
    let receiver = WebhookReceiver::start();
    let now = webhook(&events.topic, &receiver.url()).replace("\"beginning\"", "\"now\"");
    let sink = alone("kafka_away", &kafka, &now, &[]);
    events.send("0", &json!({"number": 0}));
    // The sink starts for the first time, and Kafka is away: what comes about meanwhile is later than its start.
    kafka.stop();
    sink.start();
    process::send_signal(sink.pid(), libc::SIGSTOP);
    kafka.start();
    let events = PlainEvents::into(&kafka, &events.topic);
    events.send("1", &json!({"number": 1}));
    process::send_signal(sink.pid(), libc::SIGCONT);
    let ids = |offsets: std::ops::Range<i32>| -> Vec<String> {
        offsets
            .map(|offset| format!("kafka_away.order-0-{offset}"))
            .collect()
    };
    wait_until("the event since the start", TIMEOUT, || {
        let log = || std::fs::read_to_string(sink.log_file()).unwrap_or_default();
        has_all(&receiver.done_ids(), &ids(1..2)).map_err(|seen| format!("{seen}\n{}", log()))
    });

    // Effects wait, and Kafka goes: what is done meanwhile may be done again, with the same id.
    receiver.answer(|_| Reply::Status(503));
    for number in 2..10 {
        events.send(&number.to_string(), &json!({"number": number}));
    }
    wait_until_in_vain(&sink, 8, "503");
    kafka.kill();
    receiver.answer(|_| Reply::Status(200));
    wait_until("the sink to miss Kafka", TIMEOUT, || {
        let state = sink.state_of(SINK);
        match state["state"] == "retrying" {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    kafka.start();
    wait_until("all events", TIMEOUT, || {
        has_all(&receiver.done_ids(), &ids(1..10))
    });
    wait_until_nothing_waits(&sink);
    let events = PlainEvents::into(&kafka, &events.topic);
    events.send("10", &json!({"number": 10}));
    wait_until("the last event", TIMEOUT, || {
        has_all(&receiver.done_ids(), &{
            let mut all = ids(1..11);
            all.sort();
            all
        })
    });
    sink.stop();
    kafka.stop();
}

#[test]
fn mails_go_encrypted_to_who_is_whom_it_says() {
    let authority = Authority::new("the bed's authority");
    let trusted = bed().path("mail_authority.pem");
    std::fs::write(&trusted, authority.pem()).expect("the authority");
    let trusted = trusted.to_string_lossy().into_owned();
    let trusted = [("SSL_CERT_FILE", trusted.as_str())];
    let password = bed().path("mail_password");
    std::fs::write(&password, "a secret\n").expect("the password");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&password, mode).expect("chmod");
    let identity = authority.issue("mail", &["localhost"]);
    for (name, security, scheme) in [
        ("starttls", MailSecurity::StartTls, "starttls"),
        ("smtps", MailSecurity::Tls, "smtps"),
    ] {
        let events = PlainEvents::create(bed().kafka(), &format!("mail_{name}.welcome"), 1);
        let server =
            MailServer::start_encrypted(&bed().path(&format!("mail_{name}")), security, &identity);
        let mut settings = mail(
            &events.topic,
            &format!("{scheme}://localhost:{}", server.port()),
        );
        if security == MailSecurity::StartTls {
            settings += &format!(
                "user = \"shop\"\npassword_file = \"{}\"\n",
                password.display()
            );
        }
        events.send("1", &json!({"to": "eva"}));
        // Nobody has issued the certificate whom this one knows.
        let stranger = alone(&format!("{name}_stranger"), bed().kafka(), &settings, &[]);
        assert!(!stranger.try_command(&["check"]).status.success());
        stranger.start();
        wait_until("an attempt in vain", TIMEOUT, || {
            match waiting(&stranger).as_slice() {
                [effect] if effect["attempts"].as_u64() >= Some(1) => Ok(()),
                waiting => Err(format!("{waiting:?}")),
            }
        });
        assert_stays("no mail", LOOK, || match server.mails().len() {
            0 => Ok(()),
            mails => Err(mails),
        });
        stranger.stop();
        let sink = alone(name, bed().kafka(), &settings, &trusted);
        let checked = sink.try_command(&["check"]);
        assert!(checked.status.success(), "{checked:?}");
        sink.start();
        wait_until("the mail", TIMEOUT, || match server.mails().as_slice() {
            [mail] if mail.contains("To: eva@example.org") => Ok(()),
            mails => Err(format!("{mails:?}")),
        });
        wait_until_nothing_waits(&sink);
        sink.stop();
    }
}
