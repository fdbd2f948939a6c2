//! event-store: three instances of account-service on Kafka alone, and companion-sink for the figures.

mod accounts;
mod deletion;
mod figures;
mod kill;
mod stores;
mod system;

use crate::event_store::system::EventStore;
use crate::example::{Example, Kind, Look};
use crate::outcomes::Outcomes;

/// The example.
pub(crate) const KIND: Kind = Kind {
    name: "event-store",
    what: "accounts and their events in Kafka alone: a compacted topic, stores, figures by day",
    start: |bed| Box::new(EventStore::start(bed)),
};

impl Example for EventStore {
    fn look(&self) -> Vec<Look> {
        let of = |number: usize, path: &str| format!("{}{path}", self.instance(number).url());
        vec![
            Look::at("all accounts", of(0, "/accounts")),
            Look::at("the same, by another instance", of(1, "/accounts")),
            Look::at("what an instance has", of(2, "/status")),
            Look::at("figures by day", of(0, "/statistics")),
            Look::at(
                "create an account",
                format!(
                    "curl -i {}/accounts --json '{{\"id\": \"ann\", \"name\": \"Ann\"}}'",
                    self.address()
                ),
            ),
            Look::at(
                "publish an event",
                format!(
                    "curl -i {}/accounts/ann/events --json '{{\"type\": \"deposit\", \"amount_cents\": 500}}'",
                    self.address()
                ),
            ),
            Look::at("what companion-sink does", self.sink.http_url()),
        ]
    }

    fn check(&mut self, outcomes: &mut Outcomes<'_>) {
        outcomes.check(
            "accounts are created, read, changed and deleted, with problems for the rest",
            || accounts::life(self),
        );
        outcomes.check("of several who change one version one succeeds", || {
            accounts::one_wins(self)
        });
        outcomes.check(
            "what one instance answered, every other one reads at once",
            || accounts::reads_own_writes(self),
        );
        outcomes.check("each instance lists all accounts", || accounts::lists(self));
        outcomes.check(
            "a list of an account's events looks at no other event",
            || accounts::own_events_only(self),
        );
        outcomes.check(
            "killed while it writes: nothing answered is lost, nothing is there twice",
            || kill::while_it_writes(self),
        );
        outcomes.check(
            "one that was frozen answers nothing old when it wakes",
            || kill::frozen(self),
        );
        outcomes.check("a fourth instance joins, and takes its share", || {
            stores::joins(self)
        });
        outcomes.check("a restart goes on where its store is", || {
            stores::restart(self)
        });
        outcomes.check("a lost disk is made again from the topics", || {
            stores::lost_disk(self)
        });
        outcomes.check("figures by day are what was published", || {
            figures::as_published(self)
        });
        outcomes.check(
            "figures outlive the events and the disk of companion-sink",
            || figures::outlive(self),
        );
        outcomes.check(
            "of a deleted account and its events nothing is left in the topics",
            || deletion::leaves_nothing(self),
        );
    }
}
