//! Replays from the middle of a topic, and of topics of which a part is gone.

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, replica, topic_admin, wait_until};
use postgres::Client;

use super::command::{TIMEOUT, applied, arguments, changed, changes, one, refused, start};

/// Rows, and changes of them. Returns the moment between.
fn rows_and_changes(source: &mut Client) -> String {
    run(
        source,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, v text, u text)",
            "CREATE TABLE log (n int)",
            "SELECT cdc_track('t'), cdc_track('log')",
            "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 100) AS n",
            "INSERT INTO log VALUES (1), (1), (2)",
        ],
    );
    let now = |source: &mut Client| -> String {
        one(
            source,
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
    };
    let since = now(source);
    run(
        source,
        &[
            "UPDATE t SET v = 'new' WHERE id <= 10",
            "DELETE FROM t WHERE id = 11",
            "INSERT INTO log VALUES (3)",
            "INSERT INTO t VALUES (200, 'v')",
        ],
    );
    since
}

#[test]
fn from_the_middle_only_what_changed_since_is_mended() {
    let database = TestBed::shared().database("middle");
    let mut source = database.source();
    let since = rows_and_changes(&mut source);
    let sink = start(&database, "transaction");
    applied(&database, &sink, &["t", "log"]);
    let mut copy = database.replica();
    let damage = &[
        "UPDATE t SET v = 'wrong' WHERE id IN (5, 50)",
        "DELETE FROM t WHERE id IN (6, 200)",
        "INSERT INTO t VALUES (11, 'ghost'), (12345, 'ghost')",
        // A column that no change has changed.
        "UPDATE t SET u = 'wrong' WHERE id = 4",
    ];
    run(&mut copy, damage);
    let replay = |from: &str| sink.run_command(&arguments("replica", from, "--yes"));
    let printed = replay(&since);
    assert_eq!(changes(&printed, "public.t"), [2, 2, 1], "{printed}");
    let left = "SELECT string_agg(id || v, ' ' ORDER BY id) FROM t WHERE v IN ('wrong', 'ghost')";
    assert_eq!(
        one::<String>(&mut copy, left),
        "50wrong 12345ghost",
        "what was not touched since"
    );
    // The offset of the first row: everything that has an event is mended.
    let topic = database.topic("t");
    let first = database
        .records("t")
        .into_iter()
        .find(|record| record.op() == "c");
    let first = first.expect("the first row");
    let printed = replay(&format!("{topic}:{}:{}", first.partition, first.offset));
    assert_eq!(changes(&printed, "public.t"), [0, 1, 0], "{printed}");
    assert_eq!(one::<String>(&mut copy, left), "12345ghost");
    run(&mut copy, &["DELETE FROM t WHERE id = 12345"]);
    replica::assert_equal(&mut source, &mut copy, "public.t");
    replica::assert_equal(&mut source, &mut copy, "public.log");
    // The table was another one then.
    run(
        &mut source,
        &[
            "ALTER TABLE t ADD COLUMN w int",
            "UPDATE t SET w = 1 WHERE id = 1",
        ],
    );
    applied(&database, &sink, &["t", "log"]);
    let said = refused(&sink, &since);
    assert!(said.contains("CDC1011") && said.contains(&topic), "{said}");
    let from = said.split("--from ").nth(1).expect("from when on it works");
    let from = from.trim_end().trim_end_matches('.');
    run(&mut copy, &["UPDATE t SET w = 2 WHERE id = 1"]);
    assert_eq!(changes(&replay(from), "public.t"), [0, 1, 0]);
    // What the topics no longer have.
    topic_admin::trim(
        database.bed().kafka(),
        &topic,
        first.partition,
        first.offset + 1,
    );
    let said = refused(&sink, "BEGINNING");
    let cut = format!("{topic}-{}", first.partition);
    assert!(
        said.contains("CDC1008") && said.contains(&cut) && said.contains("cdc_snapshot"),
        "{said}"
    );
    assert_eq!(changed(&replay(from)), 0);
    applied(&database, &sink, &["t", "log"]);
    replica::assert_equal(&mut source, &mut copy, "public.t");
}

fn wait_for_compaction(database: &Database<'_>, source: &mut Client, first: &str, of_key: &str) {
    wait_until("the topic to be compacted", 4 * TIMEOUT, || {
        run(source, &["UPDATE t SET v = v + 1 WHERE id <= 10"]);
        database.wait_until_in_kafka();
        let records = database.records("t");
        let is_there = |record: &Record| record.op() == first && record.key_text() == of_key;
        if records.iter().any(is_there) {
            Err(records.len().to_string())
        } else {
            Ok(())
        }
    });
}

#[test]
fn what_compaction_has_left_is_enough_for_a_replay() {
    let compacting = [
        ("log.cleaner.backoff.ms", "100"),
        ("log.cleaner.min.cleanable.ratio", "0.01"),
        ("log.roll.ms", "500"),
    ];
    let bed = TestBed::prepare(Ports::free(), &[], &compacting);
    bed.kafka();
    let database = bed.database("compacted");
    let mut source = database.source();
    let tables =
        "CREATE TABLE t (id int PRIMARY KEY, v int, w text); CREATE TABLE u (id int PRIMARY KEY)";
    let tracked = "SELECT cdc_track('t'), cdc_track('u')";
    run(&mut source, &[tables, tracked]);
    database.wait_until_in_kafka();
    let set = |topic: &str, name, value| topic_admin::set(bed.kafka(), topic, name, value);
    set(&database.topic("t"), "cleanup.policy", "compact");
    set("compacted.cdc-control", "cleanup.policy", "compact"); // And no lag: what is not named is the default.
    run(
        &mut source,
        &[
            "INSERT INTO t SELECT n, 0, 'w' FROM generate_series(1, 100) AS n",
            "UPDATE t SET v = 1 WHERE id > 10",
            "UPDATE t SET v = 2 WHERE id > 10",
            "DELETE FROM t WHERE id > 90",
        ],
    );
    let sink = start(&database, "transaction");
    applied(&database, &sink, &["t"]);
    // A segment that is written to is not compacted; the next record begins another one. On a busy machine it takes minutes.
    wait_for_compaction(&database, &mut source, "c", "{\"id\":50}");
    applied(&database, &sink, &["t"]);
    let mut copy = database.replica();
    let damage = "DELETE FROM t WHERE id IN (5, 50)";
    run(&mut copy, &[damage, "INSERT INTO t VALUES (95, 1)"]);
    let printed = sink.run_command(&arguments("replica", "BEGINNING", "--yes"));
    assert_eq!(changes(&printed, "public.t"), [2, 0, 1], "{printed}");
    replica::assert_equal(&mut source, &mut copy, "public.t");

    // Of the table's definitions only the newest is there, behind rows that were before it.
    run(
        &mut source,
        &[
            "ALTER TABLE t ADD COLUMN x int",
            "UPDATE t SET x = 1 WHERE id = 1",
        ],
    );
    database.wait_until_in_kafka();
    let definitions = |records: &[Record]| records.iter().filter(|r| r.op() == "schema").count();
    wait_until("the first definition to be gone", 4 * TIMEOUT, || {
        run(&mut source, &["TRUNCATE u"]);
        database.wait_until_in_kafka();
        match definitions(&database.records("t")) {
            1 => Ok(()),
            count => Err(count.to_string()),
        }
    });
    applied(&database, &sink, &["t"]);
    run(&mut copy, &[damage]);
    let printed = sink.run_command(&arguments("replica", "BEGINNING", "--yes"));
    assert_eq!(changes(&printed, "public.t"), [2, 0, 0], "{printed}");
    replica::assert_equal(&mut source, &mut copy, "public.t");
}
