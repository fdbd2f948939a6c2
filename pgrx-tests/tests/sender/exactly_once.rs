//! `cdc.delivery = exactly_once` (G5): whoever reads what is committed sees each change once, copies included in nothing,
//! whatever is killed; also a change that is one of very many in its transaction.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::statements::{insert_ids, run};
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, TestBed, prefix_rule, wait_until};
use postgres::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

const EXACTLY_ONCE: (&str, &str) = ("cdc.delivery", "exactly_once");
const TIMEOUT: Duration = Duration::from_secs(120);
/// Rows of a transaction that takes several of Kafka's.
const MANY: i64 = 300_000;

fn sender_pid(client: &mut Client) -> i32 {
    wait_until("a sender", TIMEOUT, || {
        let row = client.query_one("SELECT pid FROM cdc_status()", &[]);
        let row = row.map_err(|error| error.to_string())?;
        row.get::<_, Option<i32>>(0).ok_or("none".to_owned())
    })
}

/// The row changes that a reader of what is committed gets, all of them, in an order that keeps the prefix rule.
fn changes(database: &Database<'_>) -> Vec<Record> {
    let records = database.records("t");
    prefix_rule::assert_holds(&records);
    let changes = records.into_iter().filter(Record::is_row_change);
    changes.collect()
}

/// Each of these ids was inserted once.
fn assert_once(database: &Database<'_>, wanted: std::ops::Range<i64>) {
    let changes = changes(database);
    let ids: BTreeSet<i64> = changes
        .iter()
        .map(|change| change.json()["after"]["id"].as_i64().expect("id"))
        .collect();
    assert_eq!(ids, wanted.clone().collect(), "every change");
    assert_eq!(
        changes.len() as i64,
        wanted.end - wanted.start,
        "and no copy"
    );
}

/// The ends of a topic's partitions added up, as a reader of what is committed has them, or as they are.
fn end(kafka: &Kafka, topic: &str, isolation: &str) -> i64 {
    let client: BaseConsumer = kafka
        .client_config()
        .set("isolation.level", isolation)
        .create()
        .expect("a consumer");
    (0..3)
        .map(|partition| {
            client
                .fetch_watermarks(topic, partition, TIMEOUT)
                .map_or(0, |(_, end)| end)
        })
        .sum()
}

fn positions(bed: &TestBed) -> Vec<Value> {
    topic::read(bed.kafka(), "pg.cdc_positions")
        .iter()
        .map(Record::json)
        .collect()
}

/// A transaction is begun to be shipped, and has not come to its end.
fn start_a_large_transaction(bed: &TestBed, database: &Database<'_>, client: &mut Client) {
    let topic = database.topic("t");
    let before = end(bed.kafka(), &topic, "read_committed");
    run(
        client,
        &[&format!(
            "INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(0, {MANY} - 1) i"
        )],
    );
    wait_until("a part of it to be there for good", TIMEOUT, || {
        let now = end(bed.kafka(), &topic, "read_committed");
        (now > before).then_some(()).ok_or("nothing yet")
    });
}

#[test]
fn each_change_is_there_once_whatever_is_killed() {
    let bed = TestBed::start_with(&[EXACTLY_ONCE]);
    let (database, mut client) =
        bed.tracked_table("shop", "id int PRIMARY KEY, note text DEFAULT 'one'");
    insert_ids(&mut client, 0..200);
    database.wait_until_in_kafka();
    for round in 1..=3 {
        let pid = sender_pid(&mut client);
        insert_ids(&mut client, round * 200..round * 200 + 100);
        bed.source().signal_backend(pid, libc::SIGTERM);
        insert_ids(&mut client, round * 200 + 100..(round + 1) * 200);
        wait_until("another sender", TIMEOUT, || {
            let other = sender_pid(&mut client);
            (other != pid).then_some(()).ok_or("the old one")
        });
    }
    bed.kafka().kill();
    insert_ids(&mut client, 800..1000);
    bed.kafka().start();
    insert_ids(&mut client, 1000..1200);
    bed.source().kill();
    bed.source().start();
    bed.wait_until_streaming("shop");
    client = database.source();
    insert_ids(&mut client, 1200..1400);
    database.wait_until_in_kafka();
    assert_once(&database, 0..1400);
}

#[test]
fn a_large_transaction_goes_on_where_a_killed_sender_was() {
    let bed = TestBed::start_with(&[EXACTLY_ONCE, ("cdc.sender_memory", "8MB")]);
    let (database, mut client) =
        bed.tracked_table("large", "id int PRIMARY KEY, note text DEFAULT 'one'");
    start_a_large_transaction(&bed, &database, &mut client);
    // The sender has no time to end anything.
    bed.source().kill();
    bed.source().start();
    bed.wait_until_streaming("large");
    client = database.source();
    // Deletes and their tombstones are one event.
    run(&mut client, &["DELETE FROM t WHERE id < 1000"]);
    database.wait_until_in_kafka();

    let changes = changes(&database);
    let (created, deleted): (Vec<_>, Vec<_>) =
        changes.iter().partition(|change| change.op() == "c");
    let ids: BTreeSet<i64> = created
        .iter()
        .map(|change| change.json()["after"]["id"].as_i64().expect("id"))
        .collect();
    assert_eq!(ids, (0..MANY).collect(), "every row");
    assert_eq!((created.len() as i64, deleted.len()), (MANY, 1000));
    let in_part = positions(&bed).into_iter().filter(|position| {
        let events = &position["events"];
        events["of"] == MANY && events["done"].as_i64() < events["of"].as_i64()
    });
    assert!(
        in_part.count() > 0,
        "the transaction took several of Kafka's"
    );
}

#[test]
fn a_transaction_that_the_broker_ended_is_sent_again() {
    let bed = TestBed::start_with(&[EXACTLY_ONCE, ("cdc.sender_memory", "8MB")]);
    let path =
        bed.source()
            .write_file("kafka.properties", b"transaction.timeout.ms=10000\n", 0o600);
    bed.source().set("cdc.kafka_config_file", &path);
    bed.source().reload();
    let (database, mut client) =
        bed.tracked_table("stopped", "id int PRIMARY KEY, note text DEFAULT 'one'");
    start_a_large_transaction(&bed, &database, &mut client);
    let pid = sender_pid(&mut client);
    let topic = database.topic("t");
    let is_open = || {
        let committed = end(bed.kafka(), &topic, "read_committed");
        committed < end(bed.kafka(), &topic, "read_uncommitted")
    };
    wait_until("a sender that stops in a transaction", TIMEOUT, || {
        bed.source().signal_backend(pid, libc::SIGSTOP);
        if is_open() {
            return Ok(());
        }
        bed.source().signal_backend(pid, libc::SIGCONT);
        Err("nothing is open")
    });
    wait_until("the broker to end it", TIMEOUT, || match is_open() {
        true => Err("it is open"),
        false => Ok(()),
    });
    bed.source().signal_backend(pid, libc::SIGCONT);
    database.wait_until_in_kafka();
    assert_once(&database, 0..MANY);
    let log = bed.source().log();
    assert!(log.contains("[CDC0310]"), "{log}");
}

#[test]
fn the_setting_is_changed_without_a_gap() {
    let bed = TestBed::start();
    let (database, mut client) =
        bed.tracked_table("changed", "id int PRIMARY KEY, note text DEFAULT 'one'");
    let mut next = 0;
    for delivery in ["exactly_once", "at_least_once", "exactly_once"] {
        insert_ids(&mut client, next..next + 100);
        bed.source().set("cdc.delivery", delivery);
        bed.source().reload();
        insert_ids(&mut client, next + 100..next + 200);
        database.wait_until_in_kafka();
        next += 200;
    }
    let records = database.records("t");
    let events = prefix_rule::assert_holds(&records);
    let ids: Vec<i64> = events
        .iter()
        .filter(|event| event.op() == "c")
        .map(|event| event.json()["after"]["id"].as_i64().expect("id"))
        .collect();
    assert_eq!(ids.len(), next as usize);
    let unique: BTreeSet<i64> = ids.into_iter().collect();
    assert_eq!(unique, (0..i64::from(next)).collect());
}
