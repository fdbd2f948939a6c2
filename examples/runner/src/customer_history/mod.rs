//! Customers over HTTP, and the history of each in MongoDB: who, what, when, why.

mod history;
mod requests;
mod rights;
mod system;

use crate::example::{Example, Kind, Look};
use crate::outcomes::Outcomes;
use crate::place::Place;
use system::CustomerHistory;

/// The example.
pub(crate) const KIND: Kind = Kind {
    name: "customer-history",
    what: "customers over HTTP, and each one's history in MongoDB: who, what, when, why",
    start: |bed| Box::new(CustomerHistory::start(Place::of(bed, "customer-history"))),
};

impl Example for CustomerHistory {
    fn look(&self) -> Vec<Look> {
        let (url, sink) = (self.service.url(), self.sink.http_url());
        let script = self.place.script("companion-sink");
        let postgres = self.place.bed().source().port();
        let mongo = self.place.bed().ferretdb().url();
        let token = self.token_file();
        vec![
            Look::at(
                "the customers",
                format!("curl -H 'Authorization: Bearer token-of-ann' {url}/customers"),
            ),
            Look::at(
                "one more",
                format!(
                    "curl -H 'Authorization: Bearer token-of-bob' -H 'X-Reason: at the fair' -d '{{\"name\": \"Max\", \"email\": \"max@example.org\"}}' {url}/customers"
                ),
            ),
            Look::at(
                "a customer's history",
                format!("{script} history customer 1"),
            ),
            Look::at("pages, in a browser", format!("{script} page")),
            Look::at(
                "the same over HTTP",
                format!(
                    "curl -H \"Authorization: Bearer $(cat {})\" {sink}/v1/history/customer/1",
                    token.display()
                ),
            ),
            Look::at(
                "its documents",
                format!("mongosh {mongo}/crm --eval 'db.customer_history.find()'"),
            ),
            Look::at("the events", format!("{script} topic tail customer_events")),
            Look::at(
                "the table",
                format!("psql -h 127.0.0.1 -p {postgres} -U postgres crm"),
            ),
        ]
    }

    fn check(&mut self, outcomes: &mut Outcomes<'_>) {
        outcomes.check(
            "bad input is a 4xx problem and leaves nothing behind",
            || requests::are_refused(self),
        );
        outcomes.check("a list comes in pages", || requests::pages(self));
        outcomes.check(
            "create, update, delete by three people: who, what, when, why",
            || history::of_three_people(self),
        );
        outcomes.check("a customer as it was, and who gave it each value", || {
            history::as_of_and_blame(self)
        });
        outcomes.check("what is rolled back is in no history", || {
            history::without_rolled_back(self)
        });
        outcomes.check("a connection that is used again has nobody's name", || {
            history::of_shared_connections(self)
        });
        outcomes.check("the service's role may do no more than it needs", || {
            rights::of_the_service(self)
        });
        outcomes.check(
            "a topic outside the prefix is for cdc_admin to choose",
            || rights::to_the_topic(self),
        );
        outcomes.check(
            "the service, killed and started again: nothing is missing",
            || history::of_a_killed_service(self),
        );
    }
}
