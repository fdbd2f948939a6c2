//! Kafka cannot be reached: writers go on, the state says why nothing is sent, and nothing is lost (G1, G6).

use std::collections::HashSet;
use std::time::Duration;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::{TestBed, prefix_rule, wait_until};

#[test]
fn what_is_written_before_kafka_is_up_arrives() {
    let bed = TestBed::prepare(Ports::free(), &[], &[]);
    let database = bed.database_without_extension("shop");
    let mut client = database.source();
    client
        .batch_execute("CREATE EXTENSION pg_cdc")
        .expect("extension");
    wait_until("the sender to miss Kafka", Duration::from_secs(60), || {
        let row = client.query_one("SELECT state, error_code FROM cdc_status()", &[]);
        let row = row.map_err(|e| format!("{e:?}"))?;
        match (row.get("state"), row.get("error_code")) {
            ("waiting_for_kafka", Some("CDC0301")) => Ok(()),
            (state, code) => Err(format!("{state} {code:?}")),
        }
    });

    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t')")
        .expect("tracking needs the slot, not Kafka");
    for id in 0..100 {
        client
            .execute("INSERT INTO t VALUES ($1)", &[&id])
            .expect("a writer goes on");
    }
    client
        .batch_execute("INSERT INTO t SELECT generate_series(100, 4999)")
        .expect("a writer goes on");
    bed.source().assert_never_crashed();

    bed.kafka();
    let records = database.records("t");
    let events = prefix_rule::assert_holds(&records);
    let ids: HashSet<i64> = events
        .iter()
        .filter(|e| e.op() == "c")
        .map(|e| e.json()["after"]["id"].as_i64().expect("id"))
        .collect();
    assert_eq!(ids, (0..5000).collect::<HashSet<i64>>());
    assert_eq!(events.iter().filter(|e| e.is_row_change()).count(), 5000);
    // The very first records of new topics, sent while their partitions are being made, are there too.
    assert_eq!(records[0].op(), "schema");
    bed.wait_until_streaming("shop");
}
