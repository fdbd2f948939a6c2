//! What runs: the database, the mail server, companion-sink and those beside it; and what is done with them.

use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::mail_server::MailServer;
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, topic_admin, wait_until};
use postgres::Client;
use serde_json::Value;

use super::mails::{Mails, Received};
use super::subscribers::Subscribers;
use crate::bed;
use crate::place::Place;

/// The database.
pub(super) const DATABASE: &str = "welcome";
/// The topic of its customers.
pub(super) const TOPIC: &str = "welcome.public.customer";

/// The example, which runs.
pub(super) struct WelcomeMail {
    pub(super) place: Place,
    pub(super) database: Database<'static>,
    mail_server: Option<MailServer>,
    pub(super) mails: Mails,
    mail_port: u16,
    pub(super) sink: CompanionSink,
    pub(super) subscribers: Option<Subscribers>,
}

impl WelcomeMail {
    /// Starts everything; the subscribers only where people look.
    pub(super) fn start(place: Place) -> WelcomeMail {
        let bed = place.bed();
        let database = place.database(DATABASE);
        // For kafkajs: the broker packs the records of this topic anew.
        topic_admin::create(bed.kafka(), TOPIC, 3);
        topic_admin::set(bed.kafka(), TOPIC, "compression.type", "gzip");
        place.run_sql(&mut database.source(), "sign-up.sql");
        let mail_port = bed::port("PG_CDC_SMTP_PORT", 18025);
        let smtp = format!("smtp://127.0.0.1:{mail_port}");
        let sink = place.companion_sink(
            "companion-sink",
            &[("COMPANION_SINK__SINK__WELCOME__SMTP", &smtp)],
            bed::port("PG_CDC_HTTP_PORT", 18480),
        );
        let mut example = WelcomeMail {
            place,
            database,
            mail_server: None,
            mails: Mails::of(&place.own("mail-server")),
            mail_port,
            sink,
            subscribers: None,
        };
        example.start_mail_server();
        example.sink.start();
        if bed::is_demo() {
            example.subscribers = Some(Subscribers::start(place));
        }
        example
    }

    /// On its port, with the mails that it had.
    pub(super) fn start_mail_server(&mut self) {
        let folder = self.place.own("mail-server");
        self.mail_server = Some(MailServer::start_at(&folder, self.mail_port));
    }

    /// Its connections end, and nobody listens any more.
    pub(super) fn stop_mail_server(&mut self) {
        self.mail_server = None;
    }

    /// The server.
    pub(super) fn mail_server(&self) -> &MailServer {
        self.mail_server.as_ref().expect("a mail server that runs")
    }

    /// A connection of those who sign up, who may do nothing else.
    pub(super) fn door(&self) -> Client {
        self.place.bed().source().connect_as("sign_up", DATABASE)
    }

    /// What `companion-sink effects list` says.
    pub(super) fn effects(&self) -> Vec<Value> {
        self.sink.objects(&["effects", "list", "--json"])
    }
}

const TIMEOUT: Duration = Duration::from_secs(60);

/// Each in a transaction of its own.
pub(super) fn sign_up(example: &WelcomeMail, names: &[&str], emails: &[&str]) -> Vec<Duration> {
    let mut door = example.door();
    let statement = "INSERT INTO customer (name, email, city) VALUES ($1, $2, 'Bern')";
    let statement = door.prepare(statement).expect("prepare");
    let mut times: Vec<Duration> = names
        .iter()
        .zip(emails)
        .map(|(name, email)| {
            let start = Instant::now();
            door.execute(&statement, &[name, email]).expect("sign up");
            start.elapsed()
        })
        .collect();
    times.sort();
    times
}

/// As [`sign_up`], so many.
pub(super) fn sign_up_many(example: &WelcomeMail, who: &str, count: u32) -> Vec<Duration> {
    let emails = addresses(who, count);
    let emails: Vec<&str> = emails.iter().map(String::as_str).collect();
    sign_up(example, &emails, &emails)
}

/// Addresses that begin so.
pub(super) fn addresses(who: &str, count: u32) -> Vec<String> {
    (1..=count)
        .map(|i| format!("{who}{i}@example.org"))
        .collect()
}

/// Waits until each of these addresses has a mail.
pub(super) fn wait_for_mails(example: &WelcomeMail, addresses: &[String]) -> Vec<Received> {
    wait_until("the mails", TIMEOUT, || {
        let mails = example.mails.by_address();
        let came: Vec<Received> = addresses
            .iter()
            .filter_map(|to| mails.get(to).cloned())
            .collect();
        match came.len() == addresses.len() {
            true => Ok(came),
            false => Err(format!("{} of {}", came.len(), addresses.len())),
        }
    })
}

/// Waits until the sink has read everything, and no mail waits.
pub(super) fn wait_until_idle(example: &WelcomeMail) {
    example.database.wait_until_in_kafka();
    wait_until("no mail to wait", TIMEOUT, || {
        let state = example.sink.state_of("welcome");
        let is_done = state["apply_lag_events"] == 0 && state["effects"]["waiting"] == 0;
        (is_done && state["state"] == "running")
            .then_some(())
            .ok_or(state.to_string())
    });
}

/// Waits for the one that has this address.
pub(super) fn wait_for_dead_letter(example: &WelcomeMail, email: &str) -> Record {
    wait_until("the dead letter", TIMEOUT, || {
        let letters = topic::read(example.place.bed().kafka(), &format!("{TOPIC}.dlq"));
        let found = letters
            .iter()
            .find(|letter| letter.value_text().contains(email));
        found.cloned().ok_or(letters.len())
    })
}
