//! A new customer gets a mail; billing and analytics subscribe beside it.

mod beside;
mod mails;
mod outage;
mod subscribers;
mod system;

use pg_cdc_tests::parts;

use crate::example::{Example, Kind, Look};
use crate::outcomes::Outcomes;
use crate::place::Place;
use system::{DATABASE, TOPIC, WelcomeMail};

/// The example.
pub(crate) const KIND: Kind = Kind {
    name: "welcome-mail",
    what: "a new customer gets a mail; billing and analytics subscribe beside it",
    start: |bed| Box::new(WelcomeMail::start(Place::of(bed, "welcome-mail"))),
};

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
            Look::at(
                "pages, in a browser",
                format!("{} page", script("companion-sink")),
            ),
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
            || beside::begin(self),
        );
        outcomes.check(
            "companion-sink is killed while it sends: every customer has one mail",
            || outage::killed(self),
        );
        outcomes.check(
            "billing has a signed request for each, with the mail's id",
            || beside::billing(self),
        );
        outcomes.check("analytics has each customer's day and city", || {
            beside::analytics(self)
        });
        outcomes.check("consumer.js prints before, after, source, op", || {
            beside::consumer(self)
        });
        outcomes.check(
            "at the end still: one Message-ID each, and nobody of before",
            || outage::at_the_end(self),
        );
    }
}
