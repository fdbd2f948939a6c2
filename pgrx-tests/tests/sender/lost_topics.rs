//! Topics and positions that are deleted, changed or in another cluster: the sender halts until somebody decides.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::sender_status::wait_for_state;
use pg_cdc_tests::statements::{insert_ids, run, text};
use pg_cdc_tests::{TestBed, port, refusal, topic, topic_admin, wait_until};

const TIMEOUT: Duration = Duration::from_secs(90);

#[test]
fn a_topic_that_was_deleted_or_changed_is_not_taken_for_the_old_one() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("anew", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    database.wait_until_in_kafka();
    topic_admin::delete(bed.kafka(), &database.topic("t"));
    insert_ids(&mut client, 10..20);
    wait_for_state(&mut client, "halted", Some("CDC0307"));
    // Not made again in silence; and what somebody makes is not taken either.
    assert_eq!(topic::offsets(bed.kafka(), &database.topic("t")), None);
    topic_admin::create(bed.kafka(), &database.topic("t"), 3);
    bed.source().reload();
    let remedy = wait_until("the new topic to be seen", TIMEOUT, || {
        let query = "SELECT COALESCE(error_message, '') || '; ' || COALESCE(error_hint, '') FROM cdc_status()";
        match text(&mut client, query) {
            Some(seen) if seen.contains("was made anew") => Ok(seen),
            seen => Err(format!("{seen:?}")),
        }
    });
    assert!(
        remedy.contains("cdc_skip_topic('anew.public.t', sent_lsn,"),
        "{remedy}"
    );
    run(
        &mut client,
        &["SELECT cdc_skip_topic('anew.public.t', sent_lsn, 'it was deleted') FROM cdc_status()"],
    );
    assert_eq!(database.inserted_ids("t"), (10..20).collect());
    run(&mut client, &["SELECT cdc_snapshot('t')"]);
    wait_until("the snapshot", TIMEOUT, || {
        match text(&mut client, "SELECT state FROM cdc_snapshots").as_deref() {
            Some("done") => Ok(()),
            state => Err(format!("{state:?}")),
        }
    });

    // More partitions would move keys.
    topic_admin::add_partitions(bed.kafka(), &database.topic("t"), 5);
    bed.source().restart();
    let mut client = database.source();
    insert_ids(&mut client, 20..30);
    wait_for_state(&mut client, "halted", Some("CDC0306"));
    run(
        &mut client,
        &["SELECT cdc_skip_topic('anew.public.t', sent_lsn, 'more partitions') FROM cdc_status()"],
    );
    assert_eq!(database.inserted_ids("t"), (10..30).collect());
    let records = topic::read(bed.kafka(), &database.topic("t"));
    assert!(records.iter().any(|record| record.partition == 4));
    bed.source().assert_never_crashed();
}

#[test]
fn a_topic_that_lost_its_end_halts_until_somebody_gives_it_up() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("cut", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..30);
    run(&mut client, &["SELECT cdc_drain()"]);
    bed.kafka().stop();
    bed.kafka().lose_records(&database.topic("t"));
    bed.kafka().start();
    run(&mut client, &["SELECT cdc_resume()"]);
    insert_ids(&mut client, 30..40);
    wait_for_state(&mut client, "halted", Some("CDC0307"));
    let error = text(&mut client, "SELECT error_message FROM cdc_status()").expect("an error");
    assert!(
        error.contains("ends at 0, events up to") && error.contains("were acknowledged"),
        "{error}"
    );
    assert_eq!(database.ids_in_topic("t"), BTreeSet::new());
    run(
        &mut client,
        &["SELECT cdc_skip_topic('cut.public.t', sent_lsn, 'a disk was lost') FROM cdc_status()"],
    );
    assert_eq!(database.inserted_ids("t"), (30..40).collect());
    bed.source().assert_never_crashed();
}

#[test]
fn a_lost_position_halts_until_somebody_says_that_this_is_the_source() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("adopted", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    database.wait_until_in_kafka();
    let source_id = text(&mut client, "SELECT source_id FROM cdc_status()").expect("an id");
    let adopt = format!("SELECT cdc_adopt('{source_id}')");
    refusal::coded(&mut client, &adopt, "55000", "CDC0604");
    run(&mut client, &["SELECT cdc_drain()"]);
    topic_admin::delete(bed.kafka(), "pg.cdc_positions");
    insert_ids(&mut client, 10..20);
    run(&mut client, &["SELECT cdc_resume()"]);
    wait_for_state(&mut client, "halted", Some("CDC0405"));
    refusal::coded(
        &mut client,
        "SELECT cdc_adopt('another')",
        "22023",
        "CDC0605",
    );
    run(&mut client, &[&adopt]);
    wait_for_state(&mut client, "streaming", None);
    insert_ids(&mut client, 20..30);
    database.wait_until_in_kafka();
    // Copies, of a newer generation; nothing is missing.
    let records = topic::read(bed.kafka(), &database.topic("t"));
    let created = records.iter().filter(|record| record.op() == "c");
    let seen: BTreeSet<(String, i64)> = created
        .map(|record| {
            let generation = record.version()[..4].to_owned();
            (
                generation,
                record.json()["after"]["id"].as_i64().expect("id"),
            )
        })
        .collect();
    assert!(
        (10..30).all(|id| seen.contains(&("0002".to_owned(), id))),
        "{seen:?}"
    );
    assert!(
        (0..10).all(|id| seen.contains(&("0001".to_owned(), id))),
        "{seen:?}"
    );
}

#[test]
fn another_cluster_is_not_taken_for_the_one_with_the_position() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("elsewhere", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    database.wait_until_in_kafka();
    run(&mut client, &["SELECT cdc_drain()"]);
    let other = Kafka::create_cluster(
        "anotherClusterAAAAAAAA",
        &bed.path("other"),
        port::free(),
        port::free(),
        &[],
    );
    other.start();
    let set = format!("ALTER SYSTEM SET cdc.brokers = '{}'", other.brokers());
    run(
        &mut client,
        &[&set, "SELECT pg_reload_conf()", "SELECT cdc_resume()"],
    );
    wait_for_state(&mut client, "halted", Some("CDC0405"));
    let error = text(&mut client, "SELECT error_message FROM cdc_status()").expect("an error");
    assert!(error.contains("anotherClusterAAAAAAAA"), "{error}");
    run(
        &mut client,
        &["ALTER SYSTEM RESET cdc.brokers", "SELECT pg_reload_conf()"],
    );
    insert_ids(&mut client, 10..20);
    assert_eq!(database.inserted_ids("t"), (0..20).collect());
}
