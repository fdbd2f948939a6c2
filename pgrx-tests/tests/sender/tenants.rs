//! One queue for all who write: what one owner's table brings along stops nobody else, and is told.

use std::time::Duration;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::statements::{run, text};
use pg_cdc_tests::{Database, TestBed, refusal, topic, topic_admin, wait_until};
use postgres::{Client, NoTls};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(90);
/// The names of many columns: what an event has that cannot become smaller.
const WIDE: &str = "DO $$ BEGIN EXECUTE 'CREATE TABLE wide (id int PRIMARY KEY, ' || (SELECT string_agg(
    format('a_column_with_a_long_name_%s text', i), ', ') FROM generate_series(1, 200) AS i) || ')'; END $$";

fn wait_for(client: &mut Client, query: &str, wanted: &str) {
    wait_until(&format!("{query}: {wanted}"), TIMEOUT, || {
        match text(client, query) {
            Some(seen) if seen == wanted => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
}

/// A connection as a role that has a schema of its own and nothing else; it owns what it makes there.
fn owner(database: &Database<'_>, name: &str) -> Client {
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

fn rows(database: &Database<'_>, topic: &str) -> Vec<Value> {
    let events = database.events_of_topic(topic);
    let rows = events.iter().filter(|event| event.is_row_change());
    rows.map(topic::Record::json).collect()
}

fn newest_position(bed: &TestBed) -> Value {
    let records = topic::read(bed.kafka(), "pg.cdc_positions");
    let newest = records
        .iter()
        .rfind(|record| record.json()["record"] != "claim");
    newest.expect("a position").json()
}

#[test]
fn what_an_event_brings_along_is_limited_where_it_is_captured() {
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut ann = owner(&database, "ann");
    run(
        &mut ann,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, body text)",
            "SELECT cdc_track('t')",
            "CREATE TABLE keyed (id int PRIMARY KEY, name text)",
            "SELECT cdc_track('keyed', key => '{name}')",
            // Nothing that compression could make small.
            "INSERT INTO t SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 160000) AS i",
            "UPDATE t SET id = 2",
            "BEGIN; SELECT cdc_context('ann', context => jsonb_build_object('x', repeat('a', 2000000))); INSERT INTO t VALUES (3); COMMIT",
            "INSERT INTO t VALUES (4)",
        ],
    );
    ann.batch_execute(&format!(
        "ALTER TABLE t ALTER body SET DEFAULT '{}'",
        "d".repeat(2_000_000)
    ))
    .expect("a long definition");
    run(
        &mut ann,
        &[
            "ALTER TABLE t ADD d text",
            "INSERT INTO keyed SELECT 1, repeat(E'\\x01', 2000000)",
            "UPDATE keyed SET name = 'short'",
            "INSERT INTO keyed VALUES (2, 'two')",
        ],
    );
    let found = rows(&database, "shop.ann.t");
    let lengths: Vec<usize> = found[..3]
        .iter()
        .map(|row| {
            let image = if row["op"] == "d" { "before" } else { "after" };
            row[image]["body"].as_str().map_or(0, str::len)
        })
        .collect();
    assert_eq!(lengths, [160_000 * 32; 3], "5 MB, whole, by default");
    let of = |id: u64| {
        found
            .iter()
            .find(|row| row["op"] == "c" && row["after"]["id"] == id)
    };
    assert_eq!(
        of(3).expect("row 3")["audit"]["context"],
        json!({"__cdc": {"left_out_bytes": 2_000_008}})
    );
    assert_eq!(of(3).expect("row 3")["audit"]["actor"], "ann");
    assert_eq!(of(4).expect("row 4")["audit"]["context"], json!({}));
    let definitions = database.events_of_topic("shop.ann.t");
    let texts: Vec<Value> = definitions
        .iter()
        .filter(|event| event.op() == "schema")
        .map(|event| event.json()["ddl"].clone())
        .collect();
    assert_eq!(
        texts[texts.len() - 2..],
        [Value::Null, json!("ALTER TABLE t ADD d text")]
    );
    let keyed = rows(&database, "shop.ann.keyed");
    assert_eq!(keyed.len(), 4, "a changed key is two events: {keyed:?}");
    let stub = &keyed[0]["marks"]["after"]["name"]["stub"];
    assert_eq!(stub["bytes"], 2_000_000);
    let keys: Vec<String> = database
        .events_of_topic("shop.ann.keyed")
        .iter()
        .filter(|event| event.is_row_change())
        .map(|event| event.key_text().to_owned())
        .collect();
    let digest = format!("{{\"name\":{}}}", stub["sha256"]);
    assert_eq!(
        keys[..2],
        [digest.clone(), digest],
        "equal values share a partition"
    );

    // Settings that an administrator has recorded are not the writer's to make large.
    bed.source()
        .set("cdc.context_settings", "app.large, app.small");
    bed.source().reload();
    let mut ann = ann;
    wait_for(
        &mut ann,
        "SHOW cdc.context_settings",
        "app.large, app.small",
    );
    run(
        &mut ann,
        &[
            "SELECT set_config('app.large', repeat('l', 100000), false), set_config('app.small', 's', false)",
            "INSERT INTO t VALUES (5)",
        ],
    );
    let found = rows(&database, "shop.ann.t");
    assert_eq!(
        found.last().expect("row 5")["audit"]["context"],
        json!({"app.large": {"left_out_bytes": 100_000}, "app.small": "s"})
    );

    // Messages that are none cost the log one line a second.
    let lines = |bed: &TestBed| bed.source().log().matches("CDC0205").count();
    run(
        &mut ann,
        &[
            "SELECT count(pg_logical_emit_message(false, 'pg_cdc', '')) FROM generate_series(1, 20000)",
        ],
    );
    database.wait_until_in_kafka();
    let mut client = database.source();
    wait_for(
        &mut client,
        "SELECT rejected_messages::text FROM cdc_status()",
        "20000",
    );
    wait_until("the count in the log", TIMEOUT, || {
        let log = bed.source().log();
        let told: u64 = log
            .lines()
            .filter(|line| line.contains("ignored") && line.contains("forged or replayed"))
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let place = words.iter().position(|word| *word == "forged").unwrap_or(1);
                words[place - 1].parse().unwrap_or(1)
            })
            .sum();
        if told == 20_000 { Ok(()) } else { Err(told) }
    });
    assert!(lines(&bed) < 60, "{} lines", lines(&bed));
    bed.source().assert_never_crashed();
}

#[test]
fn topics_are_refused_where_they_are_chosen() {
    let bed = TestBed::start();
    let other = bed.database("other");
    let shop = bed.database("shop");
    run(
        &mut other.source(),
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t', topic => 'shop_ann.other')",
            "INSERT INTO t VALUES (1)",
        ],
    );
    other.wait_until_in_kafka();
    // What the sender knows outlives the server.
    bed.source().restart();
    bed.wait_until_streaming("shop");
    let mut ann = owner(&shop, "ann");
    run(
        &mut ann,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t', topic => 'shop.x.y')",
        ],
    );
    for (choice, code) in [
        (
            "topics => '{\"insert\": \"shop.a.b\", \"update\": \"shop.a_b\"}'",
            "CDC0109",
        ),
        // The table had the other one before, another database has it.
        ("topic => 'shop.x_y'", "CDC0109"),
        ("topic => 'shop.ann_other'", "CDC0109"),
    ] {
        refusal::coded(
            &mut ann,
            &format!("SELECT cdc_track('t', {choice})"),
            "42710",
            code,
        );
    }
    let mut client = shop.source();
    run(&mut client, &["CREATE TABLE mine (id int PRIMARY KEY)"]);
    for name in ["__consumer_offsets", "shop.x.dlq", "pg.cdc_positions"] {
        let track = format!("SELECT cdc_track('mine', topic => '{name}')");
        refusal::coded(&mut client, &track, "42602", "CDC0108");
        let emit = format!("SELECT cdc_emit('{name}', NULL, '1')");
        refusal::coded(&mut client, &emit, "42602", "CDC0108");
    }
    // Emitting is a right that ends at the database's prefix, and at that of a database below it.
    run(
        &mut client,
        &[
            "GRANT EXECUTE ON FUNCTION cdc_emit TO ann",
            "CREATE DATABASE below",
            "ALTER DATABASE below SET cdc.topic_prefix = 'shop.below'",
            "SELECT cdc_emit('elsewhere', NULL, '1')",
        ],
    );
    for name in ["other.public.t", "elsewhere", "shop.below.public.t"] {
        let emit = format!("SELECT cdc_emit('{name}', NULL, '1')");
        refusal::coded(&mut ann, &emit, "42501", "CDC0102");
        let track = format!("SELECT cdc_track('t', topic => '{name}')");
        refusal::coded(&mut ann, &track, "42501", "CDC0102");
    }
    run(&mut ann, &["SELECT cdc_emit('shop.events', NULL, '1')"]);
    for (what, emission) in [
        ("key", "repeat('k', 100000), '1'"),
        ("payload", "NULL, to_jsonb(repeat('p', 70000000))"),
        (
            "headers",
            "NULL, '1', jsonb_build_object('h', repeat('h', 100000))",
        ),
    ] {
        let emit = format!("SELECT cdc_emit('shop.events', {emission})");
        let error = refusal::coded(&mut ann, &emit, "54000", "CDC0127");
        assert!(error.message().contains(what), "{error:?}");
    }
    // Kafka gets no more topics by one owner than were thought of.
    run(
        &mut client,
        &["ALTER DATABASE shop SET cdc.max_topics = 10"],
    );
    let mut ann = {
        drop(ann);
        let url = format!("postgres://ann@127.0.0.1:{}/shop", bed.source().port());
        Client::connect(&url, NoTls).expect("the owner connects")
    };
    let many = "DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM cdc_track('ann.t', topic => 'shop.many' || i); END LOOP; END $$";
    refusal::coded(&mut ann, many, "53400", "CDC0126");
    for place in 1..20 {
        let track = format!("SELECT cdc_track('ann.t', topic => 'shop.many{place}')");
        if ann.batch_execute(&track).is_err() {
            refusal::coded(&mut ann, &track, "53400", "CDC0126");
        }
    }
    shop.wait_until_in_kafka();
    let made = topic::names(bed.kafka());
    let made = made.iter().filter(|name| name.starts_with("shop."));
    assert!(made.count() <= 10);
    run(&mut ann, &["INSERT INTO t VALUES (1)"]);
    run(
        &mut client,
        &["SELECT cdc_track('mine'); INSERT INTO mine VALUES (1)"],
    );
    assert_eq!(rows(&shop, "shop.public.mine").len(), 1);
    bed.source().assert_never_crashed();
}

/// A topic that cannot be made, one that is too small for an event, and a neighbour.
fn put_aside(delivery: &str) {
    let bed = TestBed::start_with(&[("cdc.delivery", delivery)]);
    let database = bed.database("shop");
    let mut client = database.source();
    let mut ann = owner(&database, "ann");
    let mut bob = owner(&database, "bob");
    topic_admin::create(bed.kafka(), "shop_ann.taken", 1);
    topic_admin::create(bed.kafka(), "shop.ann.wide", 3);
    topic_admin::set(bed.kafka(), "shop.ann.wide", "max.message.bytes", "4000");
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
    run(&mut bob, &["INSERT INTO b VALUES (2)"]);
    assert_eq!(rows(&database, "shop.bob.b").len(), 2);
    let aside = "SELECT string_agg(topic || ' ' || error_code || ' ' || database || ' ' || events, ', ' ORDER BY topic) FROM cdc_aside";
    // The rows, and the delete; and the definition of a table that has no topic.
    let all = "shop.ann.wide CDC0313 shop 6, shop.ann_taken CDC0312 shop 4";
    assert_eq!(text(&mut client, aside).as_deref(), Some(all));
    let told = "SELECT topics_aside::text || ' ' || state FROM cdc_status()";
    assert_eq!(text(&mut client, told).as_deref(), Some("2 streaming"));
    let lines = "SELECT string_agg(code, ',' ORDER BY code) FROM cdc_check() WHERE message LIKE 'put aside at%'";
    assert_eq!(text(&mut client, lines).as_deref(), Some("CDC0312,CDC0313"));
    // The owner, who sees nothing of the sender, sees that too.
    let own = "SELECT string_agg(relation || ' ' || state || ' ' || left(warning, 7), ', ' ORDER BY relation::text) FROM cdc_tables";
    let told_owner = "a put_aside CDC0312, wide put_aside CDC0313";
    assert_eq!(text(&mut ann, own).as_deref(), Some(told_owner));
    let position = newest_position(&bed);
    let named: Vec<&String> = position["aside"]
        .as_object()
        .expect("the topics")
        .keys()
        .collect();
    assert_eq!(named, ["shop.ann.wide", "shop.ann_taken"]);
    assert_eq!(rows(&database, "shop.ann.wide").len(), 0);

    // It is durable, and it is said once.
    bed.source().restart();
    bed.wait_until_streaming("shop");
    let mut client = database.source();
    run(
        &mut client,
        &["INSERT INTO ann.wide VALUES (6); INSERT INTO bob.b VALUES (3)"],
    );
    assert_eq!(rows(&database, "shop.bob.b").len(), 3);
    assert_eq!(text(&mut client, told).as_deref(), Some("2 streaming"));
    assert_eq!(rows(&database, "shop.ann.wide").len(), 0);
    assert_eq!(bed.source().log().matches("topic is put aside").count(), 2);

    // The topic takes more: then a snapshot brings what was not sent, rows that are gone by then included.
    topic_admin::set(bed.kafka(), "shop.ann.wide", "max.message.bytes", "1000000");
    refusal::coded(
        &mut client,
        "SELECT cdc_resume_topic('shop.bob.b')",
        "55000",
        "CDC0608",
    );
    let resumed = "SELECT string_agg(relation::text || ': ' || repair, ',') FROM cdc_resume_topic('shop.ann.wide', 'larger now')";
    let resumed = text(&mut client, resumed);
    assert!(
        resumed
            .as_deref()
            .is_some_and(|said| said.starts_with("ann.wide: a snapshot")),
        "{resumed:?}"
    );
    run(
        &mut client,
        &["UPDATE ann.wide SET a_column_with_a_long_name_1 = 'x' WHERE id = 6"],
    );
    wait_for(
        &mut client,
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
    assert_eq!(
        text(&mut client, told).as_deref(),
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

#[test]
fn a_topic_that_cannot_take_an_event_is_put_aside_and_the_others_go_on() {
    put_aside("at_least_once");
}

#[test]
fn with_exactly_once_a_topic_is_put_aside_likewise() {
    put_aside("exactly_once");
}

#[test]
fn orders_end_with_their_call_and_lag_is_told_whoever_stopped_the_sender() {
    let bed = TestBed::start();
    let other = bed.database("other");
    let database = bed.database("shop");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE operator LOGIN; GRANT cdc_admin TO operator",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1)",
        ],
    );
    run(
        &mut other.source(),
        &[
            "CREATE TABLE o (id int PRIMARY KEY)",
            "SELECT cdc_track('o')",
        ],
    );
    database.wait_until_in_kafka();
    let skip = "SELECT cdc_skip_topic('shop.public.t', 'FFFFFFFF/FFFFFFFF')";
    refusal::coded(&mut client, skip, "55000", "CDC0603");
    for order in [
        "cdc_skip_topic(E'shop\\nLOG:  all is well')".to_owned(),
        "cdc_pause(E'a\\nb')".to_owned(),
        format!("cdc_pause('{}')", "r".repeat(2000)),
        format!(
            "cdc_skip_topic('shop.public.t', reason => '{}')",
            "r".repeat(2000)
        ),
    ] {
        refusal::coded(&mut client, &format!("SELECT {order}"), "22023", "CDC0606");
    }
    let url = format!("postgres://operator@127.0.0.1:{}/shop", bed.source().port());
    let mut operator = Client::connect(&url, NoTls).expect("the operator connects");
    refusal::coded(
        &mut operator,
        "SELECT cdc_skip_topic('other.public.o')",
        "42501",
        "CDC0607",
    );

    // A call that ends with an error has ordered nothing, though the sender had taken it up.
    bed.kafka().freeze();
    run(&mut client, &["INSERT INTO t VALUES (2)"]);
    let error = refusal::of(
        &mut client,
        "SET statement_timeout = '3s'; SELECT cdc_skip_topic('shop.public.t')",
    );
    assert_eq!(error.code().code(), "57014", "{error:?}");
    run(&mut client, &["SET statement_timeout = 0"]);
    assert_eq!(
        text(&mut client, "SELECT topics_skipped::text FROM cdc_status()").as_deref(),
        Some("0")
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_unskip_topic('shop.public.t')",
        "55000",
        "CDC0608",
    );
    // While one runs, somebody else sees it and takes it back.
    let pause = "SELECT topics_skipped::text FROM cdc_status()";
    std::thread::scope(|scope| {
        let database = &database;
        let skipping = scope.spawn(move || {
            let skip = "SET statement_timeout = '30s'; SELECT cdc_skip_topic('shop.public.t')";
            database.source().batch_execute(skip).is_err()
        });
        wait_for(&mut client, pause, "1");
        let check = "SELECT count(*)::text FROM cdc_check() WHERE code = 'CDC0609' AND item = 'topic shop.public.t'";
        assert_eq!(text(&mut client, check).as_deref(), Some("1"));
        let taken_back = text(
            &mut client,
            "SELECT cdc_unskip_topic('shop.public.t')::text",
        );
        assert_eq!(taken_back.as_deref(), Some("1"));
        let end = "SELECT count(pg_cancel_backend(pid))::text FROM pg_stat_activity WHERE query LIKE 'SET statement_timeout%' AND pid <> pg_backend_pid()";
        text(&mut client, end);
        assert!(
            skipping.join().expect("the other session"),
            "it was cancelled"
        );
    });
    bed.kafka().thaw();
    let ids = |database: &Database<'_>| -> Vec<u64> {
        let rows = rows(database, "shop.public.t");
        rows.iter()
            .filter_map(|row| row["after"]["id"].as_u64())
            .collect()
    };
    assert_eq!(ids(&database), [1, 2]);

    // Whoever is stopped has lag.
    let lag = "SELECT concat_ws(' ', state, lag_seconds > 0, lag_bytes > 0, lag_bytes = pg_wal_lsn_diff(flush_lsn, sent_lsn),
        lag_events) FROM cdc_status()";
    run(&mut client, &["SELECT cdc_pause('for a while')"]);
    wait_for(&mut client, "SELECT state FROM cdc_status()", "paused");
    run(&mut client, &["INSERT INTO t VALUES (3)"]);
    wait_for(&mut client, lag, "paused t t t");
    bed.source().restart();
    let mut client = database.source();
    wait_for(&mut client, "SELECT state FROM cdc_status()", "paused");
    // How old it is nobody knows any more, but it is not 0.
    assert_eq!(
        text(&mut client, "SELECT lag_seconds::text FROM cdc_status()"),
        None
    );
    assert_eq!(text(&mut client, lag).as_deref(), Some("paused t t"));
    run(&mut client, &["SELECT cdc_resume()"]);
    database.wait_until_in_kafka();
    wait_for(
        &mut client,
        "SELECT concat_ws(' ', state, lag_seconds, lag_bytes, lag_events) FROM cdc_status()",
        "streaming 0 0 0",
    );
    run(
        &mut client,
        &["SELECT cdc_drain()", "INSERT INTO t VALUES (4)"],
    );
    wait_for(&mut client, lag, "drained t t t");
    bed.kafka().kill();
    run(&mut client, &["SELECT cdc_resume()"]);
    wait_for(&mut client, lag, "waiting_for_kafka t t t");
    bed.kafka().start();
    assert_eq!(ids(&database), [1, 2, 3, 4]);
    bed.source().assert_never_crashed();
}

/// Who asks without end, and whose tables are being written without end, keeps nobody else waiting.
#[test]
fn snapshots_of_one_owner_keep_no_other_owner_and_no_other_database_waiting() {
    let bed = TestBed::start();
    let other = bed.database("other");
    let database = bed.database("shop");
    let mut client = database.source();
    let mut ann = owner(&database, "ann");
    let mut bob = owner(&database, "bob");
    let tables = [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t SELECT generate_series(1, 1000)",
        "SELECT cdc_track('t')",
    ];
    run(&mut ann, &tables);
    run(&mut bob, &tables);
    run(&mut other.source(), &tables);
    run(
        &mut ann,
        &[
            "CREATE TABLE busy (id int PRIMARY KEY)",
            "SELECT cdc_track('busy')",
        ],
    );
    // One that is never done, and one that waits for somebody who never ends.
    let mut writer = {
        let url = format!("postgres://ann@127.0.0.1:{}/shop", bed.source().port());
        Client::connect(&url, NoTls).expect("the owner connects")
    };
    run(&mut writer, &["BEGIN", "INSERT INTO busy VALUES (1)"]);
    let waiting = text(&mut ann, "SELECT cdc_snapshot('busy')::text").expect("an id");
    let ask = "SELECT cdc_snapshot('t', rows_per_second => 1)::text";
    let asked: Vec<String> = (0..10).filter_map(|_| text(&mut ann, ask)).collect();
    refusal::coded(&mut ann, ask, "53400", "CDC0508");
    refusal::coded(
        &mut ann,
        "SELECT cdc_track('t', snapshot => true)",
        "53400",
        "CDC0508",
    );
    let state = |id: &str| format!("SELECT state FROM cdc_snapshots WHERE snapshot_id = {id}");
    wait_for(&mut ann, &state(&waiting), "waiting_for_writers");
    let theirs = text(&mut bob, "SELECT cdc_snapshot('t')::text").expect("an id");
    let elsewhere = text(&mut other.source(), "SELECT cdc_snapshot('t')::text").expect("an id");
    wait_for(&mut bob, &state(&theirs), "done");
    wait_for(&mut other.source(), &state(&elsewhere), "done");
    // It has its turns as well, and is stopped though it waits.
    run(
        &mut ann,
        &[&format!("SELECT cdc_snapshot_cancel({waiting})")],
    );
    let moves = format!(
        "SELECT (rows_done > 0)::text FROM cdc_snapshots WHERE snapshot_id = {}",
        asked[0]
    );
    wait_for(&mut ann, &moves, "true");
    run(&mut writer, &["ROLLBACK"]);

    // A definition is never refused for it; an administrator is not bounded.
    run(&mut ann, &["ALTER TABLE t ALTER id TYPE bigint"]);
    run(&mut client, &["SELECT cdc_snapshot('ann.t')"]);
    for id in &asked {
        let still = format!(
            "SELECT count(*)::text FROM cdc_snapshots WHERE snapshot_id = {id} AND state IN ('waiting_for_writers', 'running')"
        );
        if text(&mut ann, &still).as_deref() == Some("1") {
            run(&mut ann, &[&format!("SELECT cdc_snapshot_cancel({id})")]);
        }
    }
    let unfinished = "SELECT count(*)::text FROM cdc_snapshots WHERE relation = 'ann.t'::regclass AND state IN ('waiting_for_writers', 'running')";
    wait_for(&mut ann, unfinished, "0");
    // What is finished does not pile up, nor what is left of tables that are gone.
    for _ in 0..30 {
        run(
            &mut bob,
            &[
                "CREATE TABLE gone (id int PRIMARY KEY)",
                "SELECT cdc_track('gone', snapshot => true)",
                "DROP TABLE gone",
                "DO $$ BEGIN PERFORM cdc_snapshot_cancel(cdc_snapshot('t')); END $$",
            ],
        );
    }
    let kept = "SELECT (count(*) < 20)::text FROM cdc_snapshot_jobs WHERE relation = 'bob.t'::regclass OR relation NOT IN (SELECT oid FROM pg_class)";
    assert_eq!(text(&mut client, kept).as_deref(), Some("true"));
    bed.source().assert_never_crashed();
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
