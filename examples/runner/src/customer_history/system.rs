//! What runs: the service, companion-sink, the database.

use std::path::PathBuf;

use pg_cdc_tests::Database;
use pg_cdc_tests::companion_sink::CompanionSink;
use serde_json::{Value, json};

use crate::bed;
use crate::place::Place;
use crate::service::{Answer, Service};

const SERVICE: &str = "customer-service";
pub(super) const ANN: (&str, &str) = ("authorization", "Bearer token-of-ann");
pub(super) const BOB: (&str, &str) = ("authorization", "Bearer token-of-bob");
pub(super) const EVE: (&str, &str) = ("authorization", "Bearer token-of-eve");

/// The example, which runs.
pub(super) struct CustomerHistory {
    pub(super) place: Place,
    pub(super) database: Database<'static>,
    pub(super) sink: CompanionSink,
    pub(super) service: Service,
}

impl CustomerHistory {
    /// Starts everything, with one customer to look at.
    pub(super) fn start(place: Place) -> CustomerHistory {
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
        let service = start_service(place, &database, Some(port), 8);
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
        self.wait_for_history();
    }

    /// The versions of a customer, when the history has all that was committed until now.
    pub(super) fn versions(&self, id: i64) -> Vec<Value> {
        self.wait_for_history();
        let answer = self.sink.get_json(&format!("/v1/history/customer/{id}"));
        let versions = answer["versions"].as_array();
        versions.unwrap_or_else(|| panic!("{answer}")).clone()
    }

    /// Until it has all that was committed until now.
    pub(super) fn wait_for_history(&self) {
        self.database
            .wait_until_history_is_complete(&self.sink, "customer");
    }

    /// The token for the history.
    pub(super) fn token_file(&self) -> PathBuf {
        self.sink.config_file().with_extension("token")
    }
}

/// The service, on this port or anywhere, with so many connections.
pub(super) fn start_service(
    place: Place,
    database: &Database<'_>,
    port: Option<u16>,
    connections: u32,
) -> Service {
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
    let folder = place.own("service");
    match port {
        Some(port) => Service::start(SERVICE, port, &variables, &folder),
        None => Service::start_anywhere(SERVICE, &variables, &folder),
    }
}

/// The id of a customer that was made.
pub(super) fn created(answer: &Answer) -> i64 {
    expect(201, answer);
    answer.body["id"].as_i64().expect("an id")
}

/// Asserts that this is the answer's status.
pub(super) fn expect(status: u16, answer: &Answer) {
    assert_eq!(answer.status, status, "{answer:?}");
}

/// A customer in Basel.
pub(super) fn customer(name: &str) -> Value {
    json!({"name": name, "email": format!("{name}@example.org"), "city": "Basel"})
}
