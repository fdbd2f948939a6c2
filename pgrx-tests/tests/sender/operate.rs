//! What operators tell the sender: pause, resume, drain, give events up; and what it says then.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cdc_tests::sender_status::{assert_state_stays, wait_for_state};
use pg_cdc_tests::statements::{insert_ids, run, text};
use pg_cdc_tests::{Database, TestBed, refusal, topic, topic_admin, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(90);

#[test]
fn a_pause_lasts_over_restarts_and_costs_no_copy() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..50);
    run(&mut client, &["SELECT cdc_pause('Kafka is being moved')"]);
    wait_for_state(&mut client, "paused", None);
    let why = text(&mut client, "SELECT waiting_for FROM cdc_status()").expect("a reason");
    assert!(
        why.starts_with("cdc_resume(); ordered by postgres at ")
            && why.ends_with(": Kafka is being moved"),
        "{why}"
    );
    // Writers go on, and tables can be tracked: the WAL is held.
    insert_ids(&mut client, 50..80);
    run(
        &mut client,
        &[
            "CREATE TABLE later (id int PRIMARY KEY)",
            "SELECT cdc_track('later')",
            "INSERT INTO later VALUES (1)",
        ],
    );
    refusal::coded(&mut client, "SELECT cdc_wait('1 s')", "55000", "CDC0601");
    bed.source().restart();
    let mut client = database.source();
    wait_for_state(&mut client, "paused", None);
    insert_ids(&mut client, 80..100);
    assert_eq!(database.ids_in_topic("t"), (0..50).collect());

    run(&mut client, &["SELECT cdc_resume()"]);
    assert_eq!(database.inserted_ids("t"), (0..100).collect());
    assert_eq!(database.inserted_ids("later"), BTreeSet::from([1]));
    let records = topic::read(bed.kafka(), &database.topic("t"));
    let created = records.iter().filter(|record| record.op() == "c").count();
    assert_eq!(created, 100, "everything was acknowledged before the pause");
    refusal::coded(&mut client, "SELECT cdc_resume()", "55000", "CDC0604");
    bed.source().assert_never_crashed();
}

#[test]
fn a_pause_holds_while_kafka_does_not_answer() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("frozen", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    database.wait_until_in_kafka();
    bed.kafka().freeze();
    insert_ids(&mut client, 10..200);
    run(&mut client, &["SELECT cdc_pause()"]);
    wait_for_state(&mut client, "paused", None);
    bed.kafka().thaw();
    // What was on its way when Kafka froze may still come, what is written now does not.
    insert_ids(&mut client, 200..250);
    // A sender that goes on needs less than half of this time.
    assert_state_stays(&mut client, "paused", Duration::from_secs(6));
    let sent = database.ids_in_topic("t");
    assert!(sent.iter().all(|id| *id < 200), "{sent:?}");
    run(&mut client, &["SELECT cdc_resume()"]);
    assert_eq!(database.inserted_ids("t"), (0..250).collect());
    bed.source().assert_never_crashed();
}

#[test]
fn a_drain_sends_everything_and_stays_stopped() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("drained", "id int PRIMARY KEY");
    run(
        &mut client,
        &[
            "SET synchronous_commit = off",
            "INSERT INTO t SELECT generate_series(0, 9999)",
        ],
    );
    let upto = text(&mut client, "SELECT cdc_drain('1 min')::text").expect("an LSN");
    assert!(upto.contains('/'), "{upto}");
    assert_eq!(
        text(&mut client, "SELECT state FROM cdc_status()").as_deref(),
        Some("drained")
    );
    assert_eq!(database.ids_in_topic("t"), (0..10_000).collect());
    insert_ids(&mut client, 10_000..10_010);
    bed.source().restart();
    let mut client = database.source();
    wait_for_state(&mut client, "drained", None);
    assert_eq!(database.ids_in_topic("t").len(), 10_000);

    // Once more, and without the slot: for a server that goes away, or wal_level = minimal.
    run(
        &mut client,
        &["SELECT cdc_drain('1 min', drop_slot => true)"],
    );
    assert_eq!(database.ids_in_topic("t").len(), 10_010);
    let slots = "SELECT count(*)::text FROM pg_replication_slots";
    assert_eq!(text(&mut client, slots).as_deref(), Some("0"));
    let track = "CREATE TABLE more (id int PRIMARY KEY); SELECT cdc_track('more')";
    refusal::coded(&mut client, track, "55000", "CDC0007");
    run(&mut client, &["SELECT cdc_resume()"]);
    insert_ids(&mut client, 10_010..10_020);
    assert_eq!(database.inserted_ids("t"), (0..10_020).collect());
    assert_eq!(text(&mut client, slots).as_deref(), Some("1"));

    // With Kafka away nothing is drained, and nothing is left stopped.
    bed.kafka().kill();
    insert_ids(&mut client, 10_020..10_030);
    refusal::coded(&mut client, "SELECT cdc_drain('1 s')", "55000", "CDC0601");
    bed.kafka().start();
    assert_eq!(database.inserted_ids("t"), (0..10_030).collect());
    bed.source().assert_never_crashed();
}

#[test]
fn events_of_one_topic_are_given_up_and_the_others_go_on() {
    let bed = TestBed::start_with(&[("cdc.create_topics", "off")]);
    let create = |name: &str, partitions| topic_admin::create(bed.kafka(), name, partitions);
    create("pg.cdc_positions", 1);
    create("skip.public.t", 3);
    create("skip.cdc-control", 1);
    topic_admin::set(bed.kafka(), "pg.cdc_positions", "cleanup.policy", "compact");
    let (database, mut client) = bed.tracked_table("skip", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..3);
    // A table whose topic nobody makes, and that is gone when somebody notices.
    run(
        &mut client,
        &[
            "CREATE TABLE gone (id int PRIMARY KEY); SELECT cdc_track('gone')",
            "INSERT INTO gone SELECT generate_series(1, 20)",
            "DROP TABLE gone",
        ],
    );
    insert_ids(&mut client, 3..6);
    wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0304"));
    let given_up = "SELECT cdc_skip_topic('skip.public.gone', reason => 'dropped')::text";
    // The definition, 20 rows, and the two events of DROP.
    assert_eq!(text(&mut client, given_up).as_deref(), Some("23"));
    assert_eq!(database.inserted_ids("t"), (0..6).collect());
    assert!(
        bed.source()
            .log()
            .contains("postgres gives up the events of topic \"skip.public.gone\""),
        "the log says who"
    );
    wait_for_state(&mut client, "streaming", None);
    let early = "SELECT cdc_skip_topic('skip.public.t', '0/1')";
    refusal::coded(&mut client, early, "55000", "CDC0603");
}

#[test]
fn counters_begin_anew() {
    let database = TestBed::shared().database("counters");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
        ],
    );
    insert_ids(&mut client, 0..5);
    database.wait_until_in_kafka();
    run(&mut client, &["SELECT cdc_stat_reset()"]);
    insert_ids(&mut client, 5..8);
    database.wait_until_in_kafka();
    wait_until("the counters", TIMEOUT, || {
        let query = "SELECT events::text || ' ' || transactions FROM cdc_status()";
        match text(&mut client, query).as_deref() {
            Some("3 3") => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    let of_table = "SELECT events::text FROM cdc_tables";
    assert_eq!(text(&mut client, of_table).as_deref(), Some("3"));
}

#[test]
fn only_administrators_give_orders() {
    let database = TestBed::shared().database("orders");
    let mut client = database.source();
    run(
        &mut client,
        &["CREATE ROLE anybody LOGIN", "SET ROLE anybody"],
    );
    for call in [
        "cdc_pause()",
        "cdc_resume()",
        "cdc_drain()",
        "cdc_accept_gap('0/1', '0/2')",
        "cdc_skip_topic('t')",
        "cdc_unskip_topic('t')",
        "cdc_resume_topic('t')",
        "cdc_adopt('x')",
        "cdc_stat_reset()",
        "_cdc_order('{}')",
    ] {
        let error = refusal::of(&mut client, &format!("SELECT {call}"));
        assert_eq!(error.code().code(), "42501", "{call}: {error:?}");
    }
    run(
        &mut client,
        &[
            "RESET ROLE",
            "GRANT cdc_admin TO anybody",
            "SET ROLE anybody",
        ],
    );
    run(
        &mut client,
        &["SELECT cdc_pause('by role')", "SELECT cdc_resume()"],
    );
    // Who it was and when, the server knows; what the call says of it does not count.
    let mut anybody = database.bed().source().connect_as("anybody", "orders");
    let order = |reason: &str| {
        format!(
            r#"SELECT _cdc_order(convert_to('{{"order": "pause", "role": "somebody else", "at": "1999-01-01T00:00:00Z", "reason": "{reason}"}}', 'UTF8'))"#
        )
    };
    let two_lines = order("first\\nLOG:  second");
    refusal::coded(&mut anybody, &two_lines, "22023", "CDC0606");
    run(&mut anybody, &[&order("first")]);
    let waiting = text(&mut anybody, "SELECT waiting_for FROM cdc_status()").expect("a reason");
    run(&mut anybody, &["SELECT cdc_resume()"]);
    assert!(
        waiting.contains("anybody") && waiting.contains("first"),
        "{waiting}"
    );
    assert!(
        !waiting.contains("somebody else") && !waiting.contains("1999"),
        "{waiting}"
    );
}

#[test]
fn what_makes_a_topic_unsafe_is_told() {
    let bed = TestBed::start();
    let database = bed.database("safe");
    let topic = database.topic("t");
    topic_admin::create(bed.kafka(), &topic, 3);
    topic_admin::set(bed.kafka(), &topic, "cleanup.policy", "compact,delete");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
        ],
    );
    database.wait_until_in_kafka();
    let lines = |client: &mut Client, topic: &str| -> Vec<(String, String)> {
        let query = format!(
            "SELECT level, code FROM cdc_check() WHERE item = 'topic {topic}' ORDER BY code"
        );
        let lines = client.query(&query, &[]).expect("cdc_check()");
        lines
            .iter()
            .map(|line| (line.get(0), line.get(1)))
            .collect()
    };
    // Of one broker the bed accepts that it is one.
    let warning = |code: &str| ("warning".to_owned(), code.to_owned());
    assert_eq!(
        lines(&mut client, &topic),
        [warning("CDC0308"), warning("CDC0311"), warning("CDC0314")]
    );
    // One line for all that have it.
    run(
        &mut client,
        &[
            "CREATE TABLE u (id int PRIMARY KEY)",
            "SELECT cdc_track('u')",
            "INSERT INTO u VALUES (1)",
        ],
    );
    database.wait_until_in_kafka();
    assert_eq!(
        lines(&mut client, &topic),
        [warning("CDC0311"), warning("CDC0314")]
    );
    assert_eq!(
        lines(&mut client, &format!("{topic} and 1 more")),
        [warning("CDC0308")]
    );
}

const ASIDE: &str = "SELECT count(*)::text FROM cdc_aside";
const SNAPSHOTS: &str = "SELECT count(*)::text FROM cdc_snapshots";

/// Orders are no rows: they count whatever becomes of the transaction, and the one that would lose by that is refused in one.
#[test]
fn orders_count_at_once_and_what_a_rollback_would_undo_is_refused() {
    let bed = TestBed::start_with(&[("max_prepared_transactions", "5")]);
    let (database, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
    topic_admin::create(bed.kafka(), "shop.public.small", 3);
    topic_admin::set(
        bed.kafka(),
        "shop.public.small",
        "max.message.bytes",
        "1000",
    );
    run(
        &mut client,
        &[
            "CREATE TABLE small (id int PRIMARY KEY, note text)",
            "SELECT cdc_track('small')",
            "INSERT INTO small SELECT i, repeat('x', 1000) FROM generate_series(1, 3) AS i",
        ],
    );
    database.wait_until_in_kafka();
    assert_eq!(text(&mut client, ASIDE).as_deref(), Some("1"));
    topic_admin::set(
        bed.kafka(),
        "shop.public.small",
        "max.message.bytes",
        "100000",
    );
    going_on_is_refused_in_a_transaction_and_undone_by_an_error(&bed, &mut client);
    what_was_prepared_or_rolled_back_has_ordered(&database, &mut client);

    run(
        &mut client,
        &["SELECT * FROM cdc_resume_topic('shop.public.small')"],
    );
    assert_eq!(text(&mut client, ASIDE).as_deref(), Some("0"));
    assert_eq!(text(&mut client, SNAPSHOTS).as_deref(), Some("1"));
    bed.source().assert_never_crashed();
}

/// The one that would lose: going on with a topic that is put aside.
fn going_on_is_refused_in_a_transaction_and_undone_by_an_error(bed: &TestBed, client: &mut Client) {
    for block in [
        "BEGIN; SELECT * FROM cdc_resume_topic('shop.public.small')",
        "DO $$ BEGIN BEGIN PERFORM cdc_resume_topic('shop.public.small'); EXCEPTION WHEN division_by_zero THEN NULL; END; END $$",
    ] {
        refusal::coded(client, block, "25001", "CDC0610");
        let _ended = client.batch_execute("ROLLBACK");
    }
    // A call that ends with an error has let nothing go on.
    bed.kafka().freeze();
    run(client, &["INSERT INTO t VALUES (1)"]);
    let error = refusal::of(
        client,
        "SET statement_timeout = '2s'; SELECT * FROM cdc_resume_topic('shop.public.small')",
    );
    bed.kafka().thaw();
    run(client, &["SET statement_timeout = 0"]);
    assert!(
        matches!(error.code().code(), "57014" | "25001"),
        "{error:?}"
    );
    assert_eq!(text(client, ASIDE).as_deref(), Some("1"));
    assert_eq!(text(client, SNAPSHOTS).as_deref(), Some("0"));
}

/// The others count, also where the transaction is rolled back or prepared.
fn what_was_prepared_or_rolled_back_has_ordered(database: &Database<'_>, client: &mut Client) {
    run(
        client,
        &["BEGIN", "SELECT cdc_pause('in a transaction')", "ROLLBACK"],
    );
    wait_for_state(client, "paused", None);
    insert_ids(client, 2..4);
    run(
        client,
        &[
            "BEGIN",
            "INSERT INTO t VALUES (100)",
            "SELECT cdc_resume()",
            "PREPARE TRANSACTION 'resumed'",
        ],
    );
    wait_for_state(client, "streaming", None);
    assert_eq!(database.inserted_ids("t"), BTreeSet::from([1, 2, 3]));
    run(client, &["SELECT cdc_pause()"]);
    wait_for_state(client, "paused", None);
    insert_ids(client, 4..6);
    run(client, &["SELECT cdc_resume()"]);
    // What is given up stays so; the prepared transaction is not of it, though its commit record is the very next one.
    run(
        client,
        &[
            "BEGIN",
            "SELECT cdc_skip_topic('shop.public.t', reason => 'given up')",
            "ROLLBACK",
        ],
    );
    run(client, &["COMMIT PREPARED 'resumed'"]);
    insert_ids(client, 6..7);
    let found = database.inserted_ids("t");
    assert!(
        found.is_superset(&BTreeSet::from([1, 2, 3, 100, 6])),
        "{found:?}"
    );
}
