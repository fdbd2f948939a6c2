//! A replica that readers look at while it is damaged and built anew.

use std::sync::atomic::{AtomicBool, Ordering};

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, pgbench, replica, wait_until};
use postgres::Client;

use super::command::{
    TIMEOUT, applied, arguments, changed, changes, dry_run, lines, on_a_terminal, one, start,
};

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

/// Where a replay builds.
const SCHEMA: &str =
    "SELECT count(*) FROM pg_namespace WHERE nspname = 'companion_bank_replay_replica'";

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
    readers_see_no_step_of_a_replay(&database, &sink, &mut copy);
    damage(&mut copy);
    a_replay_that_is_broken_off_leaves_nothing_behind(&database, &sink, &mut copy);
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
    assert_eq!(one::<i64>(&mut copy, SCHEMA), 0, "nothing is left behind");
    let kept = "SELECT has_table_privilege('reader_of_items', 'item', 'SELECT') AND to_regclass('by_name') IS NOT NULL AND EXISTS (SELECT FROM cheap)";
    assert!(one::<bool>(&mut copy, kept));
    // As a check of the replica.
    let printed = sink.run_command(&arguments("replica", "BEGINNING", "--dry-run"));
    assert_eq!(changed(&printed), 0, "{printed}");
    let without_yes = sink.try_command(&["replay", "--sink", "replica", "--from", "BEGINNING"]);
    assert_eq!(without_yes.status.code(), Some(2));
}

fn readers_see_no_step_of_a_replay(
    database: &Database<'_>,
    sink: &CompanionSink,
    copy: &mut Client,
) {
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
        let before: String = one(copy, version);
        wait_until("the sink to go on", TIMEOUT, || {
            match one::<String>(copy, version) {
                now if now > before => Ok(()),
                now => Err(now),
            }
        });
        drop(ended);
        assert!(watcher.join().expect("the reader") > 10);
    });
}

fn a_replay_that_is_broken_off_leaves_nothing_behind(
    database: &Database<'_>,
    sink: &CompanionSink,
    copy: &mut Client,
) {
    let mut begin = || {
        let replay = sink.start_command(&arguments("replica", "BEGINNING", "--yes"));
        wait_until("the replay to begin", TIMEOUT, || {
            match one::<i64>(copy, SCHEMA) {
                1 => Ok(()),
                _ => Err("no schema"),
            }
        });
        replay
    };
    let interrupted = begin().stop(libc::SIGINT, TIMEOUT);
    assert_eq!(interrupted.code(), Some(130));
    assert_eq!(
        one::<i64>(&mut database.replica(), SCHEMA),
        0,
        "an interrupted replay leaves nothing behind"
    );
    // Nor does a killed one leave anything that the next one minds.
    begin().stop(libc::SIGKILL, TIMEOUT);
    applied(database, sink, &BANK);
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = hashtext('companion-sink replay')::bigint & 4294967295";
    wait_until("the killed session to end", TIMEOUT, || {
        match one::<i64>(copy, locks) {
            0 => Ok(()),
            _ => Err("it is there"),
        }
    });
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
