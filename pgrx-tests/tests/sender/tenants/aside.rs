//! Topics that cannot take an event, or cannot be used at all: they are put aside, and the others go on.

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::statements::{run, text};
use pg_cdc_tests::{Database, TestBed, refusal, topic, topic_admin};
use postgres::Client;
use serde_json::Value;

use super::owners::{owner, rows, wait_for};

/// The names of many columns: what an event has that cannot become smaller.
const WIDE: &str = "DO $$ BEGIN EXECUTE 'CREATE TABLE wide (id int PRIMARY KEY, ' || (SELECT string_agg(
    format('a_column_with_a_long_name_%s text', i), ', ') FROM generate_series(1, 200) AS i) || ')'; END $$";

/// How many topics are put aside, and the sender's state.
const TOLD: &str = "SELECT topics_aside::text || ' ' || state FROM cdc_status()";

fn newest_position(bed: &TestBed) -> Value {
    let records = topic::read(bed.kafka(), "pg.cdc_positions");
    let newest = records
        .iter()
        .rfind(|record| record.json()["record"] != "claim");
    newest.expect("a position").json()
}

/// A topic that cannot be made, one that is too small for an event, and a neighbour.
fn put_aside(delivery: &str) {
    let bed = TestBed::start_with(&[("cdc.delivery", delivery)]);
    let database = bed.database("shop");
    let mut client = database.source();
    let mut ann = owner(&database, "ann");
    let mut bob = owner(&database, "bob");
    write_into_two_topics_that_take_nothing(&database, &mut ann, &mut bob);
    assert_everybody_is_told(&database, &mut client, &mut ann);

    // It is durable, and it is said once.
    bed.source().restart();
    bed.wait_until_streaming("shop");
    let mut client = database.source();
    run(
        &mut client,
        &["INSERT INTO ann.wide VALUES (6); INSERT INTO bob.b VALUES (3)"],
    );
    assert_eq!(rows(&database, "shop.bob.b").len(), 3);
    assert_eq!(text(&mut client, TOLD).as_deref(), Some("2 streaming"));
    assert_eq!(rows(&database, "shop.ann.wide").len(), 0);
    assert_eq!(bed.source().log().matches("topic is put aside").count(), 2);

    a_larger_topic_gets_what_was_not_sent(&database, &mut client);
    assert_eq!(
        text(&mut client, TOLD).as_deref(),
        Some("1 streaming"),
        "the other one waits for another name"
    );
    run(
        &mut client,
        &["SELECT cdc_track('ann.a', topic => 'shop.ann.a'); INSERT INTO ann.a VALUES (4)"],
    );
    assert_eq!(rows(&database, "shop.ann.a").len(), 1);
    bed.source().assert_never_crashed();
}

/// A topic that Kafka does not make, and one that is too small; the neighbour's rows arrive.
fn write_into_two_topics_that_take_nothing(
    database: &Database<'_>,
    ann: &mut Client,
    bob: &mut Client,
) {
    let bed = database.bed();
    topic_admin::create(bed.kafka(), "shop_ann.taken", 1);
    topic_admin::create(bed.kafka(), "shop.ann.wide", 3);
    topic_admin::set(bed.kafka(), "shop.ann.wide", "max.message.bytes", "4000");
    run(
        bob,
        &[
            "CREATE TABLE b (id int PRIMARY KEY)",
            "SELECT cdc_track('b')",
            "INSERT INTO b VALUES (1)",
        ],
    );
    run(
        ann,
        &[
            // Nobody but Kafka knows of the other one.
            "CREATE TABLE a (id int PRIMARY KEY)",
            "SELECT cdc_track('a', topic => 'shop.ann_taken')",
            "INSERT INTO a SELECT generate_series(1, 3)",
            WIDE,
            "SELECT cdc_track('wide')",
            "INSERT INTO wide SELECT generate_series(1, 5)",
            "DELETE FROM wide WHERE id = 5",
        ],
    );
    run(bob, &["INSERT INTO b VALUES (2)"]);
    assert_eq!(rows(database, "shop.bob.b").len(), 2);
}

/// The administrator, the owner, and whoever reads the sender's positions.
fn assert_everybody_is_told(database: &Database<'_>, client: &mut Client, ann: &mut Client) {
    let aside = "SELECT string_agg(topic || ' ' || error_code || ' ' || database || ' ' || events, ', ' ORDER BY topic) FROM cdc_aside";
    // The rows, and the delete; and the definition of a table that has no topic.
    let all = "shop.ann.wide CDC0313 shop 6, shop.ann_taken CDC0312 shop 4";
    assert_eq!(text(client, aside).as_deref(), Some(all));
    assert_eq!(text(client, TOLD).as_deref(), Some("2 streaming"));
    let lines = "SELECT string_agg(code, ',' ORDER BY code) FROM cdc_check() WHERE message LIKE 'put aside at%'";
    assert_eq!(text(client, lines).as_deref(), Some("CDC0312,CDC0313"));
    // The owner, who sees nothing of the sender, sees that too.
    let own = "SELECT string_agg(relation || ' ' || state || ' ' || left(warning, 7), ', ' ORDER BY relation::text) FROM cdc_tables";
    let told_owner = "a put_aside CDC0312, wide put_aside CDC0313";
    assert_eq!(text(ann, own).as_deref(), Some(told_owner));
    let position = newest_position(database.bed());
    let named: Vec<&String> = position["aside"]
        .as_object()
        .expect("the topics")
        .keys()
        .collect();
    assert_eq!(named, ["shop.ann.wide", "shop.ann_taken"]);
    assert_eq!(rows(database, "shop.ann.wide").len(), 0);
}

/// The topic takes more: then a snapshot brings what was not sent, rows that are gone by then included.
fn a_larger_topic_gets_what_was_not_sent(database: &Database<'_>, client: &mut Client) {
    let bed = database.bed();
    topic_admin::set(bed.kafka(), "shop.ann.wide", "max.message.bytes", "1000000");
    refusal::coded(
        client,
        "SELECT cdc_resume_topic('shop.bob.b')",
        "55000",
        "CDC0608",
    );
    let resumed = "SELECT string_agg(relation::text || ': ' || repair, ',') FROM cdc_resume_topic('shop.ann.wide', 'larger now')";
    let resumed = text(client, resumed);
    assert!(
        resumed
            .as_deref()
            .is_some_and(|said| said.starts_with("ann.wide: a snapshot")),
        "{resumed:?}"
    );
    run(
        client,
        &["UPDATE ann.wide SET a_column_with_a_long_name_1 = 'x' WHERE id = 6"],
    );
    wait_for(
        client,
        "SELECT state FROM cdc_snapshots WHERE relation = 'ann.wide'::regclass",
        "done",
    );
    let found = database.events_of_topic("shop.ann.wide");
    let read: std::collections::BTreeSet<u64> = found
        .iter()
        .filter(|event| matches!(event.op(), "r" | "u"))
        .filter_map(|event| event.json()["after"]["id"].as_u64())
        .collect();
    assert_eq!(read.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 6]);
}

#[test]
fn a_topic_that_cannot_take_an_event_is_put_aside_and_the_others_go_on() {
    put_aside("at_least_once");
}

#[test]
fn with_exactly_once_a_topic_is_put_aside_likewise() {
    put_aside("exactly_once");
}

/// Kafka takes no record without a key into a compacted topic: who chooses one for a table without a key stops nobody else.
fn refused_records(delivery: &str) {
    let bed = TestBed::start_with(&[("cdc.delivery", delivery)]);
    let database = bed.database("shop");
    let mut client = database.source();
    let mut ann = owner(&database, "ann");
    let mut bob = owner(&database, "bob");
    topic_admin::create(bed.kafka(), "shop.ann.newest", 1);
    topic_admin::set(bed.kafka(), "shop.ann.newest", "cleanup.policy", "compact");
    run(
        &mut bob,
        &[
            "CREATE TABLE b (id int PRIMARY KEY)",
            "SELECT cdc_track('b')",
            "INSERT INTO b VALUES (1)",
        ],
    );
    run(
        &mut ann,
        &[
            "CREATE TABLE a (note text)",
            "SELECT cdc_track('a', topic => 'shop.ann.newest')",
            "INSERT INTO a VALUES ('one'), ('two')",
        ],
    );
    run(&mut bob, &["INSERT INTO b VALUES (2)"]);
    assert_eq!(rows(&database, "shop.bob.b").len(), 2);
    let aside = "SELECT string_agg(topic || ' ' || error_code, ', ') FROM cdc_aside";
    let told = Some("shop.ann.newest CDC0317");
    assert_eq!(text(&mut client, aside).as_deref(), told);
    let own = "SELECT state || ' ' || left(warning, 7) FROM cdc_tables";
    assert_eq!(
        text(&mut ann, own).as_deref(),
        Some("put_aside CDC0317"),
        "its owner is told"
    );
    topic_admin::set(bed.kafka(), "shop.ann.newest", "cleanup.policy", "delete");
    run(
        &mut client,
        &["SELECT * FROM cdc_resume_topic('shop.ann.newest')"],
    );
    run(&mut ann, &["INSERT INTO a VALUES ('three')"]);
    let found = rows(&database, "shop.ann.newest");
    assert_eq!(found.last().expect("a row")["after"]["note"], "three");
    bed.source().assert_never_crashed();
}

#[test]
fn a_topic_that_refuses_records_without_a_key_is_put_aside() {
    refused_records("at_least_once");
}

#[test]
fn with_exactly_once_a_topic_that_refuses_records_is_put_aside_likewise() {
    refused_records("exactly_once");
}

/// A record must fit into a segment as well.
#[test]
fn a_topic_of_small_segments_gets_stubs_and_the_others_go_on() {
    let bed = TestBed::prepare(Ports::free(), &[], &[("message.max.bytes", "20000000")]);
    bed.kafka();
    let database = bed.database("shop");
    let mut ann = owner(&database, "ann");
    let mut bob = owner(&database, "bob");
    topic_admin::create(bed.kafka(), "shop.ann.t", 1);
    topic_admin::set(bed.kafka(), "shop.ann.t", "segment.bytes", "1048576");
    run(
        &mut ann,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, note text)",
            "SELECT cdc_track('t')",
            // Nothing that compression could make small.
            "INSERT INTO t SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 100000) AS i",
            "INSERT INTO t VALUES (2, 'small')",
        ],
    );
    run(
        &mut bob,
        &[
            "CREATE TABLE b (id int PRIMARY KEY)",
            "SELECT cdc_track('b')",
            "INSERT INTO b VALUES (1)",
        ],
    );
    assert_eq!(rows(&database, "shop.bob.b").len(), 1);
    let found = rows(&database, "shop.ann.t");
    assert_eq!(
        found[0]["marks"]["after"]["note"]["stub"]["bytes"],
        3_200_000
    );
    assert_eq!(found[1]["after"]["note"], "small");
    bed.source().assert_never_crashed();
}

/// Whoever tracks a table chooses its topic: one that nobody has made stops the others for a moment only.
#[test]
fn a_new_topic_that_cannot_be_used_is_put_aside() {
    let bed = TestBed::start_with(&[("cdc.create_topics", "off"), ("cdc.topic_timeout", "2s")]);
    topic_admin::create(bed.kafka(), "pg.cdc_positions", 1);
    topic_admin::set(bed.kafka(), "pg.cdc_positions", "cleanup.policy", "compact");
    topic_admin::create(bed.kafka(), "shop.bob.b", 3);
    topic_admin::create(bed.kafka(), "shop.cdc-control", 1);
    let database = bed.database("shop");
    let mut ann = owner(&database, "ann");
    let mut bob = owner(&database, "bob");
    run(
        &mut ann,
        &[
            "CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1)",
        ],
    );
    run(
        &mut bob,
        &[
            "CREATE TABLE b (id int PRIMARY KEY)",
            "SELECT cdc_track('b')",
            "INSERT INTO b VALUES (1)",
        ],
    );
    assert_eq!(rows(&database, "shop.bob.b").len(), 1);
    let mut admin = database.source();
    let aside = "SELECT string_agg(topic || ' ' || error_code, ',') FROM cdc_aside";
    wait_for(&mut admin, aside, "shop.ann.t CDC0318");
    let told = "SELECT error_message || ' ' || error_hint FROM cdc_aside";
    let told = text(&mut admin, told).expect("what is told");
    for part in [
        "is missing",
        "kafka-topics.sh",
        "cdc_resume_topic('shop.ann.t')",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let warning = "SELECT left(warning, 8) FROM cdc_tables WHERE relation = 'ann.t'::regclass";
    assert_eq!(text(&mut admin, warning).as_deref(), Some("CDC0318:"));

    // Who made it lets it go on: the rows come with a snapshot.
    topic_admin::create(bed.kafka(), "shop.ann.t", 3);
    run(
        &mut admin,
        &["SELECT * FROM cdc_resume_topic('shop.ann.t', 'made')"],
    );
    run(&mut ann, &["INSERT INTO t VALUES (2)"]);
    wait_for(&mut admin, "SELECT count(*)::text FROM cdc_aside", "0");
    wait_for(
        &mut admin,
        "SELECT string_agg(DISTINCT state, ',') FROM cdc_snapshots",
        "done",
    );
    let mut ids: Vec<i64> = database
        .events_of_topic("shop.ann.t")
        .iter()
        .filter_map(|event| event.json()["after"]["id"].as_i64())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, [1, 2]);

    // One that had events is waited for.
    topic_admin::delete(bed.kafka(), "shop.bob.b");
    run(&mut bob, &["INSERT INTO b VALUES (2)"]);
    wait_for(&mut admin, "SELECT error_code FROM cdc_status()", "CDC0307");
    bed.source().assert_never_crashed();
}
