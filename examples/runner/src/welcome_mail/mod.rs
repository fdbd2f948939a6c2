//! A new customer gets a mail; billing and analytics subscribe beside it.

mod mails;
mod outage;
mod subscribers;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::mail_server::MailServer;
use pg_cdc_tests::{Database, parts, topic_admin};
use postgres::Client;
use serde_json::Value;

use crate::bed;
use crate::example::{Example, Kind, Look};
use crate::outcomes::Outcomes;
use crate::place::Place;
use mails::Mails;
use subscribers::Subscribers;

/// The example.
pub(crate) const KIND: Kind = Kind {
    name: "welcome-mail",
    what: "a new customer gets a mail; billing and analytics subscribe beside it",
    start: |bed| Box::new(WelcomeMail::start(Place::of(bed, "welcome-mail"))),
};

const DATABASE: &str = "welcome";
const TOPIC: &str = "welcome.public.customer";

struct WelcomeMail {
    place: Place,
    database: Database<'static>,
    mail_server: Option<MailServer>,
    mails: Mails,
    mail_port: u16,
    sink: CompanionSink,
    subscribers: Option<Subscribers>,
}

impl WelcomeMail {
    fn start(place: Place) -> WelcomeMail {
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

    fn start_mail_server(&mut self) {
        let folder = self.place.own("mail-server");
        self.mail_server = Some(MailServer::start_at(&folder, self.mail_port));
    }

    /// Its connections end, and nobody listens any more.
    fn stop_mail_server(&mut self) {
        self.mail_server = None;
    }

    fn mail_server(&self) -> &MailServer {
        self.mail_server.as_ref().expect("a mail server that runs")
    }

    /// A connection of those who sign up, who may do nothing else.
    fn door(&self) -> Client {
        self.place.bed().source().connect_as("sign_up", DATABASE)
    }

    /// What `companion-sink effects list` says.
    fn effects(&self) -> Vec<Value> {
        self.sink.objects(&["effects", "list", "--json"])
    }
}

impl Example for WelcomeMail {
    fn look(&self) -> Vec<Look> {
        let postgres = self.place.bed().source().port();
        let psql = format!("psql -h 127.0.0.1 -p {postgres} -U sign_up {DATABASE}");
        let mails = self.mails.folder();
        let newest = self.place.file("newest-mail");
        let script = |of| self.place.script(of);
        let node = parts::kafkajs_modules();
        let consumer = self.place.file("consumer.js");
        let brokers = self.place.bed().kafka().brokers();
        let mut looks = vec![
            Look::at(
                "sign up",
                format!(
                    "{psql} -c \"INSERT INTO customer (name, email, city) VALUES ('Eva', 'eva@example.org', 'Bern')\""
                ),
            ),
            Look::at(
                "the newest mail",
                format!("{} {}", newest.display(), mails.display()),
            ),
            Look::at(
                "mails that wait",
                format!("{} effects list", script("companion-sink")),
            ),
            Look::at("what companion-sink does", self.sink.http_url()),
        ];
        if let Some(subscribers) = &self.subscribers {
            looks.push(Look::at(
                "requests to billing",
                format!("cat {}", subscribers.log().display()),
            ));
            looks.push(Look::at(
                "sign-ups by day and city",
                format!("{} statistics sign_ups", script("analytics")),
            ));
        }
        looks.push(Look::at(
            "events in JavaScript",
            format!(
                "NODE_PATH={} node {} {brokers} {TOPIC}",
                node.display(),
                consumer.display()
            ),
        ));
        looks
    }

    fn check(&mut self, outcomes: &mut Outcomes<'_>) {
        outcomes.check("who was there before gets no mail", || {
            outage::nobody_of_before(self)
        });
        outcomes.check("a new customer gets one mail, as text and as HTML", || {
            outage::one_mail(self)
        });
        outcomes.check(
            "the server is down: nobody who signs up waits, every mail does",
            || outage::server_is_down(self),
        );
        outcomes.check(
            "effects list, skip and retry; the server is back: everybody has one",
            || outage::server_comes_back(self),
        );
        outcomes.check(
            "an address is refused, another one hangs: nobody behind them waits",
            || outage::refused_and_hanging(self),
        );
        outcomes.check(
            "billing and analytics begin beside the mails, which go on",
            || subscribers::begin(self),
        );
        outcomes.check(
            "companion-sink is killed while it sends: every customer has one mail",
            || outage::killed(self),
        );
        outcomes.check(
            "billing has a signed request for each, with the mail's id",
            || subscribers::billing(self),
        );
        outcomes.check("analytics has each customer's day and city", || {
            subscribers::analytics(self)
        });
        outcomes.check("consumer.js prints before, after, source, op", || {
            subscribers::consumer(self)
        });
        outcomes.check(
            "at the end still: one Message-ID each, and nobody of before",
            || outage::at_the_end(self),
        );
    }
}
