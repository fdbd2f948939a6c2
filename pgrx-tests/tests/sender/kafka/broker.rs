//! Kafka is there, and something is wrong with it: writers never notice, the state says what is wrong, work goes on by
//! itself (G1, G4, G6).

use std::time::Duration;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::sender_status::wait_for_state;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, port, topic, topic_admin, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(90);

fn tracked<'a>(bed: &'a TestBed, name: &str) -> (Database<'a>, Client) {
    let (database, client) = bed.tracked_table(name, "id int PRIMARY KEY, body text");
    database.wait_until_in_kafka();
    (database, client)
}

fn insert(client: &mut Client, from: i32, to: i32, bytes: i32) {
    // Digests: nothing that a batch's compression makes small.
    let body = format!(
        "(SELECT string_agg(md5(n::text || k::text), '') FROM generate_series(1, {}) AS k)",
        (bytes / 32).max(1)
    );
    run(
        client,
        &[&format!(
            "INSERT INTO t SELECT n, {body} FROM generate_series({from}, {to}) AS n"
        )],
    );
}

#[test]
fn a_small_limit_of_a_topic_refuses_large_events_and_not_large_batches() {
    let bed = TestBed::start_with(&[("cdc.oversize", "halt")]);
    let (database, mut client) = tracked(&bed, "limit");
    let topic = database.topic("t");
    topic_admin::set(bed.kafka(), &topic, "max.message.bytes", "100000");
    insert(&mut client, 1, 10_000, 1_000);
    assert_eq!(database.inserted_ids("t"), (1..=10_000).collect());

    insert(&mut client, 20_001, 20_005, 1_000);
    insert(&mut client, 20_006, 20_006, 200_000);
    let error = wait_for_state(&mut client, "halted", Some("CDC0305")).error;
    insert(&mut client, 20_007, 20_010, 1_000);
    topic_admin::set(bed.kafka(), &topic, "max.message.bytes", "1000000");
    bed.source().reload();
    let seen = database.inserted_ids("t");
    assert_eq!(seen.range(20_001..).count(), 10);
    let records = topic::read(bed.kafka(), &topic);
    let large = records
        .iter()
        .find(|record| record.key_text() == "{\"id\":20006}");
    let id = large.expect("the large event").id();
    assert!(
        error.contains(&format!("event {id} of ")),
        "{error} names not {id}"
    );
    bed.source().assert_never_crashed();
}

#[test]
fn a_limit_that_shrinks_under_load_leaves_no_gap_and_no_disorder() {
    let bed = TestBed::start_with(&[("cdc.oversize", "halt")]);
    let (database, mut client) = tracked(&bed, "shrinks");
    let topic = database.topic("t");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writer = database.source();
            for batch in 0..60 {
                insert(&mut writer, batch * 500 + 1, batch * 500 + 500, 2_000);
            }
        });
        for limit in ["20000", "1000", "50000"] {
            topic_admin::set(bed.kafka(), &topic, "max.message.bytes", limit);
            let seen = || topic::read(bed.kafka(), &topic).len();
            let before = seen();
            if limit == "1000" {
                // No event fits any more.
                wait_for_state(&mut client, "halted", Some("CDC0305"));
            } else {
                wait_until("more events", TIMEOUT, || match seen() {
                    more if more > before => Ok(()),
                    same => Err(same),
                });
            }
        }
        topic_admin::set(bed.kafka(), &topic, "max.message.bytes", "1048588");
        bed.source().reload();
        writer.join().expect("writers never notice");
    });
    assert_eq!(database.inserted_ids("t"), (1..=30_000).collect());
    bed.source().assert_never_crashed();
}

#[test]
fn a_full_disk_of_the_broker_is_waited_out() {
    let bed = TestBed::start();
    let (database, mut client) = tracked(&bed, "full");
    // No file of the broker may grow any more, as on a full disk.
    bed.kafka().limit_file_size(12 * 1024 * 1024);
    for part in 0..8 {
        insert(&mut client, part * 1_000 + 1, part * 1_000 + 1_000, 10_000);
    }
    wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0301"));
    insert(&mut client, 8_001, 8_010, 100);
    bed.kafka().kill();
    bed.kafka().start();
    assert_eq!(database.inserted_ids("t"), (1..=8_010).collect());
    wait_for_state(&mut client, "streaming", None);
    bed.source().assert_never_crashed();
}

#[test]
fn leaders_change_and_too_few_replicas_are_named() {
    let bed = TestBed::start_with(&[
        ("cdc.topic_replication_factor", "3"),
        ("cdc.topic_partitions", "6"),
    ]);
    let first = bed.kafka();
    let [second, third] = [2, 3].map(|node_id| {
        let folder = bed.path(&format!("kafka-{node_id}"));
        let broker = first.join(&folder, port::free(), node_id);
        broker.start();
        broker
    });
    let (database, mut client) = tracked(&bed, "leaders");
    let topic = database.topic("t");
    insert(&mut client, 1, 100, 100);
    database.wait_until_in_kafka();
    // One broker that has an event is not enough, says the check, unless somebody accepts it.
    let found = |client: &mut Client, topic: &str| -> Option<String> {
        let check = "SELECT string_agg(level || ' ' || code || ' ' || substr(message, 1, 21), ', ')
                     FROM cdc_check() WHERE item = 'topic ' || $1";
        client
            .query_one(check, &[&topic])
            .expect("the check")
            .get(0)
    };
    let [accepted, refused] =
        ["warning", "error"].map(|level| format!("{level} CDC0308 min.insync.replicas=1"));
    assert_eq!(found(&mut client, &topic).as_ref(), Some(&accepted));
    // The topic of definitions is as important; that it is compacted is as it should be.
    let control = found(&mut client, "leaders.cdc-control");
    assert_eq!(control, Some(accepted));
    run(
        &mut client,
        &[
            "ALTER SYSTEM SET cdc.allow_single_replica = off",
            "SELECT pg_reload_conf()",
        ],
    );
    wait_until("the setting to count", TIMEOUT, || {
        match found(&mut client, &topic) {
            seen if seen.as_ref() == Some(&refused) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    topic_admin::set(first, &topic, "min.insync.replicas", "2");
    bed.source().restart();
    let mut client = database.source();
    insert(&mut client, 101, 110, 10);
    database.wait_until_in_kafka();
    let left = found(&mut client, &topic).unwrap_or_default();
    assert!(!left.contains("CDC0308"), "{left}");

    // The leader of some partitions answers no more, then is gone for good.
    second.freeze();
    insert(&mut client, 111, 200, 100);
    assert_eq!(database.inserted_ids("t"), (1..=200).collect());
    second.thaw();
    second.kill();
    insert(&mut client, 201, 300, 100);
    assert_eq!(database.inserted_ids("t"), (1..=300).collect());

    // One is too few.
    third.kill();
    insert(&mut client, 301, 400, 100);
    let error = wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0308")).error;
    assert!(error.contains(&topic), "{error}");
    second.start();
    assert_eq!(database.inserted_ids("t"), (1..=400).collect());
    wait_for_state(&mut client, "streaming", None);
    bed.source().assert_never_crashed();
}

#[test]
fn records_have_the_time_at_which_they_are_sent() {
    // Retention counts by it, and brokers refuse what is an hour off: the commit's time would not do for either.
    let bed = TestBed::start();
    let (database, mut client) = tracked(&bed, "clock");
    run(&mut client, &["SELECT cdc_pause()"]);
    insert(&mut client, 1, 20, 100);
    let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let now_ms: i64 = client.query_one(query, &[]).expect("the time").get(0);
    run(&mut client, &["SELECT cdc_resume()"]);
    assert_eq!(database.inserted_ids("t"), (1..=20).collect());
    let records = topic::read(bed.kafka(), &database.topic("t"));
    for record in records.iter().filter(|record| record.op() == "c") {
        assert!(record.json()["source"]["ts_ms"].as_i64() <= Some(now_ms));
        assert!(record.timestamp_ms >= now_ms, "{record:?}");
    }
}

/// Until the broker has forgotten who wrote a topic, and every transactional id.
fn wait_until_forgotten(bed: &TestBed, topic: &str) {
    const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";
    let told = |arguments: &[&str]| {
        let output = bed.kafka().command(TRANSACTIONS, arguments);
        // The first line names the columns.
        output
            .lines()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let is_forgotten = |what: &str, arguments: &[&str]| {
        wait_until(what, TIMEOUT, || match told(arguments) {
            lines if lines.is_empty() => Ok(()),
            lines => Err(format!("{lines:?}")),
        });
    };
    for partition in ["0", "1", "2"] {
        let arguments = [
            "describe-producers",
            "--topic",
            topic,
            "--partition",
            partition,
        ];
        is_forgotten("the producers to be forgotten", &arguments);
    }
    is_forgotten("the transactional ids to be forgotten", &["list"]);
}

#[test]
fn a_broker_that_forgets_idle_producers_costs_nothing() {
    // After a day and a week, if nobody says otherwise.
    let forgetful = [
        ("producer.id.expiration.ms", "1000"),
        ("producer.id.expiration.check.interval.ms", "200"),
        ("transactional.id.expiration.ms", "1000"),
        (
            "transaction.remove.expired.transaction.cleanup.interval.ms",
            "200",
        ),
    ];
    let bed = TestBed::prepare(Ports::free(), &[], &forgetful);
    bed.kafka();
    let (database, mut client) = tracked(&bed, "idle");
    let mut rows = 0;
    for delivery in ["at_least_once", "exactly_once"] {
        drop(client);
        bed.source().set("cdc.delivery", delivery);
        bed.source().restart();
        client = database.source();
        for _ in 0..2 {
            insert(&mut client, rows + 1, rows + 10, 100);
            rows += 10;
            assert_eq!(
                database.inserted_ids("t"),
                (1..=i64::from(rows)).collect(),
                "{delivery}"
            );
            wait_until_forgotten(&bed, &database.topic("t"));
        }
    }
    insert(&mut client, rows + 1, rows + 10, 100);
    assert_eq!(
        database.inserted_ids("t"),
        (1..=i64::from(rows) + 10).collect()
    );
    wait_for_state(&mut client, "streaming", None);
    bed.source().assert_never_crashed();
}
