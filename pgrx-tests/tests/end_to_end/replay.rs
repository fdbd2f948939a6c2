//! `companion-sink replay`: what was damaged by hand is as the topics say again, and readers see no step of it.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongodb::bson::{Document, doc};
use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::history::{History, inferred_deletes};
use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, parts, pgbench, replica, topic_admin, wait_until};
use postgres::Client;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);
const LOAD: &str = "\\set id random(1, 200)
\\set delta random(-100, 100)
BEGIN;
UPDATE account SET balance = balance + :delta WHERE id = :id;
INSERT INTO ledger (account, delta) VALUES (:id, :delta);
INSERT INTO log VALUES (:delta);
COMMIT;
";
/// What the load leaves equal, with the newest commit, in one snapshot.
const SUMS: &str = "SELECT (SELECT sum(balance)::bigint FROM account), (SELECT coalesce(sum(delta), 0)::bigint FROM ledger),
    (SELECT coalesce(sum(delta), 0)::bigint FROM log), (SELECT version FROM companion.replica)";

fn start(database: &Database<'_>, consistency: &'static str) -> CompanionSink {
    let plan = Plan {
        consistency,
        ..database.plan_companion_sink()
    };
    let sink = database.bed().companion_sink(plan);
    sink.start_only(&["replica"]);
    sink
}

fn applied(database: &Database<'_>, sink: &CompanionSink, tables: &[&str]) {
    database.wait_until_in_kafka();
    let topics: Vec<String> = tables.iter().map(|table| database.topic(table)).collect();
    sink.wait_until_sink_applied("replica", database.bed().kafka(), &topics);
}

/// What a replay printed, line by line.
fn lines(printed: &str) -> Vec<Value> {
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect()
}

/// Rows inserted, updated and deleted in a table, as a replay printed them.
fn changes(printed: &str, table: &str) -> [u64; 3] {
    let lines = lines(printed);
    let line = lines.iter().find(|line| line["table"] == table);
    let line = line.unwrap_or_else(|| panic!("no {table} in {printed}"));
    ["inserted", "updated", "deleted"].map(|what| line[what].as_u64().expect("a number"))
}

/// How many rows differed.
fn changed(printed: &str) -> u64 {
    let lines = lines(printed);
    let done = lines.last().expect("a line");
    assert_eq!(done["event"], "done", "{printed}");
    done["changed"].as_u64().expect("a number")
}

/// `companion-sink replay` of a sink, with `--yes` or `--dry-run`.
fn arguments<'a>(sink: &'a str, from: &'a str, how: &'a str) -> [&'a str; 6] {
    ["replay", "--sink", sink, "--from", from, how]
}

/// What a replay would change, where it would change something.
fn dry_run(sink: &CompanionSink, name: &str, from: &str) -> String {
    let output = sink.try_command(&arguments(name, from, "--dry-run"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What somebody who runs a command on a terminal sees.
fn on_a_terminal(sink: &CompanionSink, arguments: &[&str]) -> String {
    let mut words = vec![
        parts::companion_sink().display().to_string(),
        format!("--config={}", sink.config_file().display()),
    ];
    words.extend(arguments.iter().map(|word| word.to_string()));
    let mut script = Command::new("script");
    script.args([
        "--quiet",
        "--return",
        "--command",
        &words.join(" "),
        "/dev/null",
    ]);
    let output = script.output().expect("run script");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{seen}");
    seen
}

/// Runs a replay that must fail, and returns what it said.
fn refused(sink: &CompanionSink, from: &str) -> String {
    let output = sink.try_command(&arguments("replica", from, "--yes"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn one<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, query: &str) -> T {
    client.query_one(query, &[]).expect(query).get(0)
}

/// Stops a thread when its test ends, also by a panic.
struct Over<'f>(&'f AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads until it is over: never half of a transaction, and the newest commit never falls. How many commits were seen.
fn watch(reader: &mut Client, over: &AtomicBool) -> usize {
    let (mut newest, mut commits) = (String::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let row = reader.query_one(SUMS, &[]).expect("the sums");
        let sums: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
        assert!(
            sums.iter().all(|sum| *sum == sums[0]),
            "half of a transaction: {sums:?}"
        );
        let version: String = row.get(3);
        assert!(version >= newest, "{newest}, then {version}");
        commits += usize::from(version > newest);
        newest = version;
    }
    commits
}

/// The documents of a history.
fn told(history: &History) -> Vec<Document> {
    told_by(&history.all())
}

/// The same without the place of a truncate, of whose copies any may be the one that was read first.
fn told_by(documents: &[Document]) -> Vec<Document> {
    let mut documents = documents.to_vec();
    for document in &mut documents {
        if document.get_str("op") == Ok("truncate") {
            document.remove("source");
        }
    }
    documents
}

fn make_bank(database: &Database<'_>) {
    run(
        &mut database.source(),
        &[
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, note text)",
            "CREATE TABLE ledger (id bigserial PRIMARY KEY, account int, delta bigint)",
            "CREATE TABLE log (delta bigint)",
            "CREATE TABLE item (id int PRIMARY KEY, name text, code text UNIQUE, price numeric)",
            "SELECT cdc_track('account'), cdc_track('ledger'), cdc_track('log'), cdc_track('item')",
            "INSERT INTO account SELECT n, 0, 'note ' || n FROM generate_series(1, 200) AS n",
            "INSERT INTO item SELECT n, 'item ' || n, 'c' || n, n * 1.10 FROM generate_series(1, 300) AS n",
            "ALTER TABLE item ADD COLUMN more text",
            "UPDATE item SET more = 'more', name = name || '!' WHERE id % 3 = 0",
            "UPDATE item SET id = id + 1000 WHERE id > 290",
            "DELETE FROM item WHERE id BETWEEN 280 AND 290",
        ],
    );
}

const BANK: [&str; 4] = ["account", "ledger", "log", "item"];

/// What the readers' sums do not show.
fn damage(copy: &mut Client) {
    run(
        copy,
        &[
            "DELETE FROM item WHERE id BETWEEN 1 AND 10",
            "UPDATE item SET name = 'wrong', price = price * 10 WHERE id BETWEEN 11 AND 30",
            "INSERT INTO item VALUES (5000, 'extra', 'extra', 1)",
            // Unique values that have moved.
            "UPDATE item SET code = 'x' WHERE id = 41",
            "UPDATE item SET code = 'c41' WHERE id = 42",
            "UPDATE item SET code = 'c42' WHERE id = 41",
            "UPDATE account SET note = 'wrong' WHERE id <= 50",
        ],
    );
}

fn assert_whole(database: &Database<'_>, sink: &CompanionSink) {
    applied(database, sink, &BANK);
    let (mut source, mut copy) = (database.source(), database.replica());
    for table in BANK {
        replica::assert_equal(&mut source, &mut copy, &format!("public.{table}"));
    }
}

#[test]
fn a_damaged_replica_is_built_anew_under_load_and_readers_see_no_step_of_it() {
    let database = TestBed::shared().database("bank");
    make_bank(&database);
    let sink = start(&database, "transaction");
    applied(&database, &sink, &BANK);
    let mut copy = database.replica();
    run(
        &mut copy,
        &[
            "CREATE ROLE reader_of_items",
            "GRANT SELECT ON item TO reader_of_items",
            "CREATE INDEX by_name ON item (name)",
            "CREATE VIEW cheap AS SELECT * FROM item WHERE price < 100",
        ],
    );
    damage(&mut copy);
    let load = pgbench::start(&database, LOAD, &["-c", "2", "-R", "200", "-T", "3600"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&mut database.replica(), &over));
        let ended = Over(&over);
        let printed = sink.run_command(&arguments("replica", "BEGINNING", "--yes"));
        assert_eq!(changes(&printed, "public.item"), [10, 22, 1], "{printed}");
        assert!(changes(&printed, "public.account")[1] >= 50, "{printed}");
        assert!(
            lines(&printed)
                .iter()
                .any(|line| line["event"] == "progress"),
            "{printed}"
        );
        // The sink goes on from there.
        let version = "SELECT version FROM companion.replica";
        let before: String = one(&mut copy, version);
        wait_until("the sink to go on", TIMEOUT, || {
            match one::<String>(&mut copy, version) {
                now if now > before => Ok(()),
                now => Err(now),
            }
        });
        drop(ended);
        assert!(watcher.join().expect("the reader") > 10);
    });
    damage(&mut copy);
    let schema =
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'companion_bank_replay_replica'";
    let mut begin = || {
        let replay = sink.start_command(&arguments("replica", "BEGINNING", "--yes"));
        wait_until("the replay to begin", TIMEOUT, || {
            match one::<i64>(&mut copy, schema) {
                1 => Ok(()),
                _ => Err("no schema"),
            }
        });
        replay
    };
    let interrupted = begin().stop(libc::SIGINT, TIMEOUT);
    assert_eq!(interrupted.code(), Some(130));
    assert_eq!(
        one::<i64>(&mut database.replica(), schema),
        0,
        "an interrupted replay leaves nothing behind"
    );
    // Nor does a killed one leave anything that the next one minds.
    begin().stop(libc::SIGKILL, TIMEOUT);
    applied(&database, &sink, &BANK);
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = hashtext('companion-sink replay')::bigint & 4294967295";
    wait_until("the killed session to end", TIMEOUT, || {
        match one::<i64>(&mut copy, locks) {
            0 => Ok(()),
            _ => Err("it is there"),
        }
    });
    let dry = dry_run(&sink, "replica", "beginning");
    assert_eq!(changes(&dry, "public.item"), [10, 22, 1]);
    assert_eq!(
        one::<i64>(&mut copy, "SELECT count(*) FROM item WHERE id = 5000"),
        1,
        "nothing was changed"
    );
    load.stop();
    let seen = on_a_terminal(&sink, &arguments("replica", "BEGINNING", "--yes"));
    assert!(
        seen.contains("building anew [") && seen.contains(" % ") && seen.contains("public.item"),
        "{seen}"
    );
    assert_whole(&database, &sink);
    assert_eq!(one::<i64>(&mut copy, schema), 0, "nothing is left behind");
    let kept = "SELECT has_table_privilege('reader_of_items', 'item', 'SELECT') AND to_regclass('by_name') IS NOT NULL AND EXISTS (SELECT FROM cheap)";
    assert!(one::<bool>(&mut copy, kept));
    // As a check of the replica.
    let printed = sink.run_command(&arguments("replica", "BEGINNING", "--dry-run"));
    assert_eq!(changed(&printed), 0, "{printed}");
    let without_yes = sink.try_command(&["replay", "--sink", "replica", "--from", "BEGINNING"]);
    assert_eq!(without_yes.status.code(), Some(2));
}

#[test]
fn a_replica_of_rows_is_built_anew_with_what_is_parked_there() {
    let database = TestBed::shared().database("rows");
    make_bank(&database);
    run(
        &mut database.source(),
        &[
            "CREATE TABLE narrow (id int PRIMARY KEY, t text)",
            "SELECT cdc_track('narrow')",
        ],
    );
    let mut copy = {
        database.plan_companion_sink();
        database.replica()
    };
    run(
        &mut copy,
        &["CREATE TABLE narrow (id int PRIMARY KEY, t varchar(3))"],
    );
    let sink = start(&database, "row");
    run(
        &mut database.source(),
        &[
            "INSERT INTO narrow VALUES (1, 'abc'), (2, 'too long')",
            "UPDATE narrow SET t = 'longer' WHERE id = 2",
        ],
    );
    applied(&database, &sink, &BANK);
    applied(&database, &sink, &["narrow"]);
    let parked = "SELECT count(*) FROM companion.parked";
    assert_eq!(one::<i64>(&mut copy, parked), 2);
    damage(&mut copy);
    let load = pgbench::start(&database, LOAD, &["-c", "2", "-R", "100", "-T", "3600"]);
    let replay = arguments("replica", "BEGINNING", "--yes");
    let printed = sink.run_command(&replay);
    assert_eq!(changes(&printed, "public.item"), [10, 22, 1], "{printed}");
    assert_eq!(changes(&printed, "public.narrow"), [0, 0, 0], "{printed}");
    load.stop();
    assert_whole(&database, &sink);
    assert_eq!(one::<i64>(&mut copy, parked), 2, "it is refused again");
    run(&mut copy, &["ALTER TABLE narrow ALTER COLUMN t TYPE text"]);
    let printed = sink.run_command(&replay);
    assert_eq!(changes(&printed, "public.narrow"), [1, 0, 0], "{printed}");
    assert_eq!(one::<i64>(&mut copy, parked), 0);
    run(&mut database.source(), &["UPDATE narrow SET t = t || '!'"]);
    applied(&database, &sink, &["narrow"]);
    replica::assert_equal(&mut database.source(), &mut copy, "public.narrow");
}

#[test]
fn from_the_middle_only_what_changed_since_is_mended() {
    let database = TestBed::shared().database("middle");
    let mut source = database.source();
    run(
        &mut source,
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
    let since = now(&mut source);
    run(
        &mut source,
        &[
            "UPDATE t SET v = 'new' WHERE id <= 10",
            "DELETE FROM t WHERE id = 11",
            "INSERT INTO log VALUES (3)",
            "INSERT INTO t VALUES (200, 'v')",
        ],
    );
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

#[test]
fn a_history_gets_back_what_it_lost_and_no_more() {
    let database = TestBed::shared().database("told");
    let mut source = database.source();
    run(
        &mut source,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "SELECT cdc_track('t')",
            "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 50) AS n",
            "UPDATE t SET v = 'new' WHERE id <= 20",
            "DELETE FROM t WHERE id > 45",
            "SET session_replication_role = replica",
            "ALTER TABLE t DISABLE TRIGGER _cdc",
            "DELETE FROM t WHERE id = 40",
            "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
            "RESET session_replication_role",
        ],
    );
    let sink = database
        .bed()
        .companion_sink(database.plan_companion_sink());
    sink.start_only(&["history"]);
    source
        .execute("SELECT cdc_snapshot('t')", &[])
        .expect("cdc_snapshot");
    let history = database.history("t");
    wait_until("the snapshot's end", TIMEOUT, || {
        match inferred_deletes(&history.all()).len() {
            1 => Ok(()),
            count => Err(format!("{count} inferred deletes")),
        }
    });
    run(
        &mut source,
        &["UPDATE t SET v = 'newer' WHERE id = 7", "TRUNCATE t"],
    );
    database.wait_until_in_kafka();
    let topics = [database.topic("t")];
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    let documents = history.all();
    let client = database.bed().ferretdb().client();
    let collection = client
        .database(&database.history_name())
        .collection::<Document>("t_history");
    // Every third document is gone, and every seventh is another one.
    for (place, document) in documents.iter().enumerate() {
        let id = doc! {"_id": document.get_str("_id").expect("_id")};
        if place % 3 == 0 || document.get_str("op") == Ok("inferred_delete") {
            collection.delete_one(id).run().expect("delete");
        } else if place % 7 == 0 {
            let other = doc! {"$set": {"after": {"id": 1, "v": "forged"}, "who.actor": "nobody"}};
            collection.update_one(id, other).run().expect("change");
        }
    }
    let damaged = history.count();
    dry_run(&sink, "history", "BEGINNING");
    assert_eq!(history.count(), damaged, "nothing was changed");
    let printed = sink.run_command(&arguments("history", "BEGINNING", "--yes"));
    assert_eq!(told(&history), told_by(&documents), "{printed}");
    let [inserted, updated, deleted] = changes(&printed, "t_history");
    assert_eq!(inserted, documents.len() as u64 - damaged, "{printed}");
    assert!(updated > 5 && deleted == 0, "{printed}");
    let printed = sink.run_command(&arguments("history", "BEGINNING", "--yes"));
    assert_eq!(changed(&printed), 0, "{printed}");
    assert_eq!(told(&history), told_by(&documents), "{printed}");
    // It has kept no state of the replay, and goes on.
    run(&mut source, &["INSERT INTO t VALUES (1, 'again')"]);
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    assert_eq!(history.count(), documents.len() as u64 + 1);
    let offsets = client
        .database(&database.history_name())
        .collection::<Document>("companion_offsets");
    let left = offsets.count_documents(
        doc! {"_id.sink": {"$ne": format!("companion_{}.history", database.name())}},
    );
    assert_eq!(left.run().expect("count"), 0);
}

fn wait_for_snapshot(source: &mut Client, id: i64, wanted: &str) {
    let state = format!("SELECT state FROM cdc_snapshots WHERE snapshot_id = {id}");
    wait_until(
        &format!("the snapshot to be {wanted}"),
        TIMEOUT,
        || match one::<String>(source, &state) {
            state if state == wanted => Ok(()),
            state => Err(state),
        },
    );
}

#[test]
fn a_snapshot_under_way_goes_on_across_a_replay() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    for consistency in ["transaction", "row"] {
        let database = bed.database(&format!("under_way_{consistency}"));
        let mut source = database.source();
        run(
            &mut source,
            &[
                "CREATE TABLE t (id int PRIMARY KEY, v text)",
                "INSERT INTO t SELECT n, 'before' FROM generate_series(1, 1000) AS n",
                "SELECT cdc_track('t')",
                "INSERT INTO t SELECT n, 'event' FROM generate_series(1001, 1100) AS n",
                "INSERT INTO t VALUES (-1, 'gone')",
                // Rows come and go without an event, before and behind the place of the snapshot.
                "SET session_replication_role = replica",
                "ALTER TABLE t DISABLE TRIGGER _cdc",
                "INSERT INTO t VALUES (0, 'unseen')",
                "DELETE FROM t WHERE id IN (-1, 1001, 1100)",
                "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
                "RESET session_replication_role",
            ],
        );
        let sink = start(&database, consistency);
        applied(&database, &sink, &["t"]);
        let snapshot = "SELECT cdc_snapshot('t', rows_per_second => 100)";
        let id: i64 = one(&mut source, snapshot);
        let mut copy = database.replica();
        wait_until("the first chunks in the replica", TIMEOUT, || {
            let count = one::<i64>(&mut copy, "SELECT count(*) FROM t WHERE v = 'before'");
            if count >= 200 {
                Ok(())
            } else {
                Err(count.to_string())
            }
        });
        run(&mut source, &[&format!("SELECT cdc_snapshot_pause({id})")]);
        wait_for_snapshot(&mut source, id, "paused");
        applied(&database, &sink, &["t"]);
        run(&mut copy, &["DELETE FROM t WHERE id <= 10"]);
        let printed = sink.run_command(&arguments("replica", "BEGINNING", "--yes"));
        assert_eq!(changes(&printed, "public.t"), [12, 0, 0], "{printed}");

        run(&mut source, &[&format!("SELECT cdc_snapshot_resume({id})")]);
        wait_for_snapshot(&mut source, id, "done");
        applied(&database, &sink, &["t"]);
        replica::assert_equal(&mut source, &mut copy, "public.t");
    }
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
    let wait_for_compaction = |source: &mut Client, first: &str, of_key: &str| {
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
    };
    wait_for_compaction(&mut source, "c", "{\"id\":50}");
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
