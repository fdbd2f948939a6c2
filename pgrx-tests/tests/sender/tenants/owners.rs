//! Roles that own a schema each, and what of their rows is in Kafka.

use std::time::Duration;

use pg_cdc_tests::statements::{run, text};
use pg_cdc_tests::{Database, topic, wait_until};
use postgres::{Client, NoTls};
use serde_json::Value;

pub(super) const TIMEOUT: Duration = Duration::from_secs(90);

pub(super) fn wait_for(client: &mut Client, query: &str, wanted: &str) {
    wait_until(&format!("{query}: {wanted}"), TIMEOUT, || {
        match text(client, query) {
            Some(seen) if seen == wanted => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
}

/// A connection as a role that has a schema of its own and nothing else; it owns what it makes there.
pub(super) fn owner(database: &Database<'_>, name: &str) -> Client {
    run(
        &mut database.source(),
        &[
            &format!("CREATE ROLE {name} LOGIN"),
            &format!("CREATE SCHEMA {name} AUTHORIZATION {name}"),
        ],
    );
    let port = database.bed().source().port();
    let url = format!("postgres://{name}@127.0.0.1:{port}/{}", database.name());
    Client::connect(&url, NoTls).expect("the owner connects")
}

pub(super) fn rows(database: &Database<'_>, topic: &str) -> Vec<Value> {
    let events = database.events_of_topic(topic);
    let rows = events.iter().filter(|event| event.is_row_change());
    rows.map(topic::Record::json).collect()
}
