//! The sender's position in Kafka: records of others beside it, and one that is several records.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cdc_tests::sender_status::SenderStatus;
use pg_cdc_tests::statements::insert_ids;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, prefix_rule, wait_until};
use postgres::Client;
use serde_json::Value;

use super::sender::inserted;

/// What anybody may write into the topic of the positions who has the right in Kafka.
#[test]
fn records_of_others_move_no_position_and_a_stranger_is_told() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    database.wait_until_in_kafka();
    let early = pg_cdc_tests::topic::read(bed.kafka(), "pg.cdc_positions");
    insert_ids(&mut client, 10..20);
    assert_eq!(inserted(&database), (0..20).collect());
    let own = pg_cdc_tests::topic::read(bed.kafka(), "pg.cdc_positions");
    let newest = own.last().expect("a position");
    let text = |record: &Record| record.value_text().to_owned();
    let lsn = newest.json()["commit_lsn"]
        .as_str()
        .expect("an LSN")
        .to_owned();
    let forged = [
        text(newest).replace(&lsn, "0/1"),
        text(newest).replace(&lsn, "FF/FFFFFFFF"),
        text(newest).replace("\"epoch\":", "\"epoch\":9"),
        "no JSON".to_owned(),
        "{}".to_owned(),
        "\u{0}".repeat(500_000),
    ];
    let key = newest.key_text().to_owned();
    bed.source().stop();
    for value in &forged {
        produce(&bed, &key, Some(value));
    }
    // Genuine, and from before; the end is its own again.
    for record in &early {
        produce(
            &bed,
            record.key_text(),
            record.value.as_ref().map(|_| text(record)).as_deref(),
        );
    }
    bed.source().start();
    bed.wait_until_streaming("shop");
    let mut client = database.source();
    insert_ids(&mut client, 20..30);
    assert_eq!(inserted(&database), (0..30).collect());
    let records = pg_cdc_tests::topic::read(bed.kafka(), &database.topic("t"));
    let changes = records.iter().filter(|record| record.is_row_change());
    assert_eq!(changes.count(), 30, "nothing was sent again");
    let ignored = bed
        .source()
        .log()
        .matches("is not a position of this source")
        .count();
    assert!(ignored >= forged.len(), "{ignored}");

    a_stranger_halts_the_sender_until_it_is_taken_away(&database, newest);
    bed.source().assert_never_crashed();
}

/// A source that is not this one: nobody can know that it is none. `newest` is the source's own record.
fn a_stranger_halts_the_sender_until_it_is_taken_away(database: &Database<'_>, newest: &Record) {
    let bed = database.bed();
    let source = newest.json()["source"].as_str().expect("an id").to_owned();
    let other = "00000000-0000-4000-8000-000000000000";
    let value = newest.value_text().replace(&source, other);
    let key = newest.key_text().replace(&source, other);
    produce(bed, &key, Some(&value));
    bed.source().restart();
    let mut client = database.source();
    wait_until("the sender to halt", Duration::from_secs(60), || {
        let row = client.query_one("SELECT state, error_code FROM cdc_status()", &[]);
        let row = row.map_err(|e| format!("{e:?}"))?;
        match (row.get("state"), row.get("error_code")) {
            ("halted", Some("CDC0406")) => Ok(()),
            (state, code) => Err(format!("{state} {code:?}")),
        }
    });
    // Somebody takes it away.
    produce(bed, &key, None);
    client
        .batch_execute("SELECT pg_reload_conf()")
        .expect("reload");
    bed.wait_until_streaming("shop");
    insert_ids(&mut client, 30..40);
    assert_eq!(inserted(database), (0..40).collect());
}

fn produce(bed: &TestBed, key: &str, value: Option<&str>) {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let producer: BaseProducer = bed.kafka().client_config().create().expect("a producer");
    let mut record = BaseRecord::to("pg.cdc_positions").partition(0).key(key);
    if let Some(value) = value {
        record = record.payload(value);
    }
    producer
        .send(record)
        .map_err(|(error, _)| error)
        .expect("a record");
    producer.flush(Duration::from_secs(30)).expect("flush");
}

/// So many topics that a position is several records.
const TOPICS: usize = 1_050;

/// The server restarts, and is killed while the records of a position are being written.
#[test]
fn a_position_of_several_parts_outlives_restarts_and_kills() {
    let bed = TestBed::start_with(&[
        ("cdc.topic_partitions", "1"),
        ("cdc.max_topics", "2000"),
        ("cdc.heartbeat_interval", "1s"),
    ]);
    let database = bed.database("parts");
    let mut client = database.source();
    let name = |number: usize| format!("parts.{number:0>235}");
    let emit = |client: &mut Client, round: u32| {
        let query = format!(
            "SELECT count(cdc_emit('parts.' || lpad(i::text, 235, '0'), NULL, '{round}')) FROM generate_series(1, {TOPICS}) AS i"
        );
        client.batch_execute(&query).expect("events");
    };
    let wait = |client: &mut Client| {
        let wait = client.batch_execute("SELECT cdc_wait('5 min')");
        wait.expect("all is in Kafka");
    };
    emit(&mut client, 1);
    wait(&mut client);
    wait_for_a_full_position_of_all_topics(&bed);
    bed.source().restart();
    let mut client = database.source();
    emit(&mut client, 2);
    wait(&mut client);
    for round in 3..6 {
        emit(&mut client, round);
        kill_the_sender_in_the_middle(&bed, &mut client);
        client = database.source();
    }
    wait(&mut client);
    for number in (1..=TOPICS).step_by(50) {
        let records = pg_cdc_tests::topic::read(bed.kafka(), &name(number));
        let rounds: BTreeSet<String> = records
            .iter()
            .map(|record| record.value_text().to_owned())
            .collect();
        let expected = (1..6).map(|round: u32| round.to_string()).collect();
        assert_eq!(rounds, expected, "topic {number}");
        // What was sent again follows what it is a copy of.
        prefix_rule::assert_holds(&records);
    }
}

/// The records of the newest position that names every topic.
fn newest_parts(bed: &TestBed) -> Vec<Value> {
    let records = pg_cdc_tests::topic::read(bed.kafka(), "pg.cdc_positions");
    let full: Vec<_> = records
        .iter()
        .map(Record::json)
        .filter(|record| record["record"] == "full")
        .collect();
    let sent = full.last().expect("a full position")["sent_ts_us"].clone();
    let newest = full.into_iter().filter(|part| part["sent_ts_us"] == sent);
    newest.collect()
}

fn wait_for_a_full_position_of_all_topics(bed: &TestBed) {
    wait_until(
        "a full position of all topics",
        Duration::from_secs(60),
        || {
            let parts = newest_parts(bed);
            let named = parts
                .iter()
                .map(|part| part["ends"].as_object().map_or(0, serde_json::Map::len));
            let named: usize = named.sum();
            let of = parts[0]["part"]["of"].as_u64();
            match (named, of) {
                (TOPICS, Some(of)) if of > 1 && of == parts.len() as u64 => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        },
    );
}

/// Some of the events are on their way, and positions are written every second. Returns when the server has recovered.
fn kill_the_sender_in_the_middle(bed: &TestBed, client: &mut Client) {
    let begun = "SELECT events > 0 FROM cdc_status()";
    wait_until(
        "events on their way",
        Duration::from_secs(120),
        || match client.query_one(begun, &[]).expect("cdc_status").get(0) {
            true => Ok(()),
            false => Err("none"),
        },
    );
    let pid = SenderStatus::of(client).pid.expect("a sender");
    bed.source().signal_backend(pid, libc::SIGKILL);
    wait_until("the server to recover", Duration::from_secs(60), || {
        if client.simple_query("SELECT 1").is_ok() {
            return Err("an old connection still lives".to_owned());
        }
        bed.source().try_connect("parts").map(drop)
    });
}
