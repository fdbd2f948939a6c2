//! A transaction of which the sender can read only a part is never shipped in part (CDC0206).

use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, topic, topic_admin, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(60);
const MORE: &str = "INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series";

/// Rows go into the WAL while nothing holds it: the sender starts anew behind the first part of the transaction that
/// `first` begins, and meets the rest that `second` writes.
fn starts_between(first: &[&str], second: &[&str]) {
    let bed = TestBed::start_with(&[
        ("cdc.capture_buffer", "64kB"),
        ("max_prepared_transactions", "2"),
    ]);
    let database = bed.database("parts");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, body text)",
            "SELECT cdc_track('t')",
        ],
    );
    database.wait_until_in_kafka();
    let brokers = client
        .query_one("SHOW cdc.brokers", &[])
        .expect("brokers")
        .get::<_, String>(0);
    drop(client);
    // Without brokers a new server holds no slot.
    bed.source().set("cdc.brokers", "");
    bed.source().restart();
    let mut client = database.source();
    run(&mut client, &["SELECT pg_drop_replication_slot('cdc_pg')"]);
    topic_admin::delete(bed.kafka(), "pg.cdc_positions");
    // Nobody remembers where the sender was.
    let remembered = bed.source().data_folder().join("pg_cdc/position.json");
    std::fs::remove_file(remembered).expect("what the server remembers");

    run(&mut client, first);
    let mut other: Client = database.source();
    run(&mut other, &["CHECKPOINT"]);
    bed.source().set("cdc.brokers", &brokers);
    bed.source().reload();
    bed.wait_until_streaming("parts");
    run(&mut other, &["INSERT INTO t VALUES (0, 'whole')"]);
    database.wait_until_in_kafka();
    run(&mut client, second);
    wait_until("the sender to halt", TIMEOUT, || {
        let query = "SELECT state, error_code, error_message FROM cdc_status()";
        let row = other.query_one(query, &[]).expect("cdc_status()");
        match (row.get("state"), row.get("error_code")) {
            ("halted", Some("CDC0206")) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    let records = topic::read(bed.kafka(), &database.topic("t"));
    let rows = records.iter().filter(|record| record.is_row_change());
    let keys: Vec<&str> = rows.map(|record| record.key_text()).collect();
    assert_eq!(keys, ["{\"id\":0}"]);
}

#[test]
fn of_an_open_transaction() {
    starts_between(
        &["BEGIN", &format!("{MORE}(1, 5000) AS n")],
        &[&format!("{MORE}(5001, 5010) AS n"), "COMMIT"],
    );
}

#[test]
fn of_a_transaction_that_is_prepared_later() {
    starts_between(
        &["BEGIN", &format!("{MORE}(1, 5000) AS n")],
        &["PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'"],
    );
}
