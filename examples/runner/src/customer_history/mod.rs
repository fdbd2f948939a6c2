//! Customers over HTTP, and the history of each in MongoDB: who, what, when, why.

mod history;
mod requests;
mod rights;

use std::path::PathBuf;

use pg_cdc_tests::Database;
use pg_cdc_tests::companion_sink::CompanionSink;
use serde_json::{Value, json};

use crate::bed;
use crate::example::{Example, Kind, Look};
use crate::outcomes::Outcomes;
use crate::place::Place;
use crate::service::{Answer, Service};

/// The example.
pub(crate) const KIND: Kind = Kind {
    name: "customer-history",
    what: "customers over HTTP, and each one's history in MongoDB: who, what, when, why",
    start: |bed| Box::new(CustomerHistory::start(Place::of(bed, "customer-history"))),
};

const SERVICE: &str = "customer-service";
const ANN: (&str, &str) = ("authorization", "Bearer token-of-ann");
const BOB: (&str, &str) = ("authorization", "Bearer token-of-bob");
const EVE: (&str, &str) = ("authorization", "Bearer token-of-eve");

struct CustomerHistory {
    place: Place,
    database: Database<'static>,
    sink: CompanionSink,
    service: Service,
}

impl CustomerHistory {
    fn start(place: Place) -> CustomerHistory {
        let bed = place.bed();
        let database = place.database("crm");
        place.run_sql(&mut database.source(), "customer.sql");
        let mongo = bed.ferretdb().url();
        let sink = place.companion_sink(
            "companion-sink",
            &[("COMPANION_SINK__SINK__HISTORY__URL", &mongo)],
            bed::port("PG_CDC_HTTP_PORT", 18480),
        );
        sink.start();
        let port = bed::port("PG_CDC_SERVICE_PORT", 18080);
        let service = start_service(place, &database, port, 8);
        let example = CustomerHistory {
            place,
            database,
            sink,
            service,
        };
        example.have_something_to_look_at();
        example
    }

    /// One customer, with two versions.
    fn have_something_to_look_at(&self) {
        let eva = json!({"name": "Eva", "email": "eva@example.org", "city": "Basel"});
        let why = [ANN, ("x-reason", "new customer"), ("x-request-id", "r-16")];
        let id = created(&self.service.ask_with("POST", "/customers", &why, &eva));
        let why = [BOB, ("x-reason", "moved to Bern"), ("x-request-id", "r-17")];
        let bern = json!({"city": "Bern"});
        let path = format!("/customers/{id}");
        expect(200, &self.service.ask_with("PATCH", &path, &why, &bern));
    }

    /// The versions of a customer, when the history has all that was committed until now.
    fn versions(&self, id: i64) -> Vec<Value> {
        self.wait_for_history();
        let answer = self.sink.get_json(&format!("/v1/history/customer/{id}"));
        let versions = answer["versions"].as_array();
        versions.unwrap_or_else(|| panic!("{answer}")).clone()
    }

    fn wait_for_history(&self) {
        self.database
            .wait_until_history_is_complete(&self.sink, "customer");
    }

    fn token_file(&self) -> PathBuf {
        self.sink.config_file().with_extension("token")
    }
}

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

/// The service, on this port, with so many connections.
fn start_service(place: Place, database: &Database<'_>, port: u16, connections: u32) -> Service {
    let server = place.bed().source().port();
    let url = format!(
        "host=127.0.0.1 port={server} user=customer_service dbname={} application_name=customer-service",
        database.name()
    );
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("TOKENS_FILE", &place.file("tokens").display().to_string()),
        ("CONNECTIONS", &connections.to_string()),
    ];
    Service::start(SERVICE, port, &variables, &place.own("service"))
}

/// The id of a customer that was made.
fn created(answer: &Answer) -> i64 {
    expect(201, answer);
    answer.body["id"].as_i64().expect("an id")
}

fn expect(status: u16, answer: &Answer) {
    assert_eq!(answer.status, status, "{answer:?}");
}

/// A customer in Basel.
fn customer(name: &str) -> Value {
    json!({"name": name, "email": format!("{name}@example.org"), "city": "Basel"})
}
