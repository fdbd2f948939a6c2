//! Kafka's own consumer with `isolation.level = read_committed`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use pg_cdc_tests::parts::Part;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, process, reader, topic, wait_until};
use serde_json::Value;

use crate::reading::TIMEOUT;

/// Rows of a transaction that takes several of Kafka's.
const ROWS: i64 = 300_000;

/// The ids of the rows that were inserted, as a consumer reads them, one for each record.
fn inserted(database: &Database<'_>, isolation: &str) -> Vec<i64> {
    let brokers = database.bed().kafka().brokers();
    let arguments = [&brokers, &database.topic("t"), isolation];
    let printed = process::run(reader::java(Part::Kafka, "ReadTopic", &arguments), None);
    let ids = printed.lines().map(|line| {
        let value = line.split('\t').nth(3).expect("a value");
        let value: Value = serde_json::from_str(value).expect("JSON");
        assert_eq!(value["op"], "c");
        value["after"]["id"].as_i64().expect("an id")
    });
    ids.collect()
}

/// Inserts rows, and kills the server when a part of them is sent; whether that aborted a transaction of Kafka's: the sender may
/// have been at the end of one.
fn killed_while_sending(database: &Database<'_>, ids: RangeInclusive<i64>) -> bool {
    let bed = database.bed();
    let (first, last) = (ids.start(), ids.end());
    let records = || -> i64 {
        let offsets = topic::offsets(bed.kafka(), &database.topic("t")).unwrap_or_default();
        offsets
            .values()
            .map(|offsets| offsets.end - offsets.start)
            .sum()
    };
    let before = records();
    let insert =
        format!("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series({first}, {last}) i");
    run(&mut database.source(), &[&insert]);
    wait_until("a part of the rows to be in the topic", TIMEOUT, || {
        (records() > before).then_some(()).ok_or("nothing yet")
    });
    // The sender has no time to end its transaction: the next one aborts it.
    bed.source().kill();
    bed.source().start();
    bed.wait_until_streaming("once");
    database.wait_until_in_kafka();
    inserted(database, "read_uncommitted").len() as i64 > *last
}

#[test]
fn each_row_is_read_once_and_nothing_of_an_aborted_transaction() {
    let bed = TestBed::start_with(&[
        ("cdc.delivery", "exactly_once"),
        ("cdc.sender_memory", "8MB"),
    ]);
    let (database, client) = bed.tracked_table("once", "id int PRIMARY KEY, note text");
    drop(client);
    let mut rows = 0;
    let mut is_aborted = false;
    while !is_aborted {
        assert!(rows < 10 * ROWS, "no transaction was ever open");
        is_aborted = killed_while_sending(&database, rows + 1..=rows + ROWS);
        rows += ROWS;
    }

    let committed = inserted(&database, "read_committed");
    assert_eq!(committed.len() as i64, rows, "each once");
    let ids: BTreeSet<i64> = committed.into_iter().collect();
    assert_eq!(ids, (1..=rows).collect(), "every row");
}
