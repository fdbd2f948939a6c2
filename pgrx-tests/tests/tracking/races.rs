//! Tracking, definitions and writers at the same time: nobody is caught in a deadlock, and no row goes by.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::wait::wait_for;
use pg_cdc_tests::{Database, TestBed};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A database, and a role there that owns tables and has no other right.
fn database(name: &str) -> Database<'static> {
    let database = TestBed::shared().database(name);
    run(
        &mut database.source(),
        &[&format!(
            "CREATE ROLE {name}_owner LOGIN; GRANT CREATE ON SCHEMA public TO {name}_owner"
        )],
    );
    database
}

fn owner(database: &Database<'_>) -> Client {
    let role = format!("{}_owner", database.name());
    database.bed().source().connect_as(&role, database.name())
}

/// A statement that somebody else runs meanwhile, and the process that does.
struct Running {
    pid: i32,
    thread: JoinHandle<Result<(), String>>,
}

fn start(mut client: Client, statement: &'static str) -> Running {
    let pid = client.query_one("SELECT pg_backend_pid()", &[]);
    Running {
        pid: pid.expect("a process id").get(0),
        thread: thread::spawn(move || {
            let done = client.batch_execute(statement);
            done.map_err(|error| format!("{statement}: {error:?}"))
        }),
    }
}

impl Running {
    /// Waits until it waits for a lock on the table.
    fn wait_until_it_waits(&self, client: &mut Client, table: &str) {
        let query = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND relation = to_regclass($2)::oid AND NOT granted";
        let waits = || -> i64 {
            let row = client.query_one(query, &[&self.pid, &table]);
            row.expect("pg_locks").get(0)
        };
        wait_for("a lock to be waited for", TIMEOUT, waits, |waits| {
            *waits > 0
        });
    }

    fn end(self) -> Result<(), String> {
        self.thread.join().expect("the other session's thread")
    }
}

/// Tables of the database on which a process holds a lock.
fn locked_by(client: &mut Client, pid: i32) -> Vec<String> {
    let query =
        "SELECT DISTINCT c.relname::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
        WHERE l.pid = $1 AND l.granted AND c.oid >= 16384 AND c.relkind IN ('r', 'p') ORDER BY 1";
    let rows = client.query(query, &[&pid]).expect("pg_locks");
    rows.iter().map(|row| row.get(0)).collect()
}

const PARTITIONED: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
    CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10);
    CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (20)";

#[test]
fn partitions_are_locked_after_their_table_only() {
    let database = database("in_order");
    let mut client = owner(&database);
    run(&mut client, &[PARTITIONED]);
    for call in [
        "SELECT cdc_track('t')",
        "SELECT cdc_track('t', skip_unchanged => true)",
        "SELECT cdc_untrack('t')",
    ] {
        let mut writer = owner(&database);
        run(
            &mut writer,
            &["BEGIN", "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING"],
        );
        let tracker = start(owner(&database), call);
        tracker.wait_until_it_waits(&mut client, "t");
        assert_eq!(
            locked_by(&mut client, tracker.pid),
            [] as [&str; 0],
            "{call}"
        );
        run(&mut writer, &["COMMIT"]);
        tracker.end().expect("the call");
    }
}

#[test]
fn who_waited_while_somebody_else_tracked_holds_nothing_against_writers() {
    let database = database("second");
    let mut client = owner(&database);
    run(
        &mut client,
        &["CREATE TABLE w (id int PRIMARY KEY); INSERT INTO w VALUES (1)"],
    );
    let mut first = owner(&database);
    run(&mut first, &["BEGIN", "SELECT cdc_track('w')"]);
    let second = start(
        owner(&database),
        "SELECT cdc_track('w', skip_unchanged => true)",
    );
    second.wait_until_it_waits(&mut client, "w");
    // Reads now and writes later, as applications do.
    let mut writer = owner(&database);
    run(&mut writer, &["BEGIN", "SELECT * FROM w"]);
    run(&mut first, &["COMMIT"]);
    // What it needs now, to drop the first one's triggers, the reader is in the way of.
    let strongest = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted AND mode = 'AccessExclusiveLock'";
    let waits = || -> i64 {
        let row = client.query_one(strongest, &[&second.pid]);
        row.expect("pg_locks").get(0)
    };
    wait_for("the lock that is needed", TIMEOUT, waits, |waits| {
        *waits > 0
    });
    run(&mut writer, &["UPDATE w SET id = 2", "COMMIT"]);
    second.end().expect("the second call");
    let ops: Vec<String> = database
        .events("w")
        .iter()
        .map(|event| event.op().to_owned())
        .collect();
    assert!(
        ops.contains(&"d".to_owned()) && ops.contains(&"c".to_owned()),
        "{ops:?}"
    );
}

#[test]
fn who_empties_a_partition_does_not_wait_for_who_waits_for_it() {
    let database = database("direct");
    let mut client = owner(&database);
    run(&mut client, &[PARTITIONED, "SELECT cdc_track('t')"]);
    for statement in [
        "SELECT cdc_track('t', skip_unchanged => true)",
        "SELECT cdc_untrack('t')",
    ] {
        // The snapshot for what the statement before emptied would lock the table as well.
        database.wait_until_snapshots_end();
        // A session that knows nothing of the table yet.
        let mut writer = owner(&database);
        run(&mut writer, &["BEGIN", "TRUNCATE t_1"]);
        let other = start(owner(&database), statement);
        other.wait_until_it_waits(&mut client, "t_1");
        run(&mut writer, &["TRUNCATE t_1", "COMMIT"]);
        other.end().expect("the call");
    }
    let events = database.events("t");
    let emptied = events
        .iter()
        .filter(|event| event.json()["contents_changed"] == true);
    assert_eq!(emptied.count(), 4, "{events:?}");
}

#[test]
fn a_partition_that_is_being_detached_is_captured_until_it_is_gone() {
    let database = database("halfway");
    let mut client = owner(&database);
    run(
        &mut client,
        &[
            PARTITIONED,
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (11, 11), (12, 12)",
        ],
    );
    let mut reader = detached_halfway(
        &database,
        &mut client,
        "t_1",
        "ALTER TABLE t DETACH PARTITION t_1 CONCURRENTLY",
    );
    run(
        &mut client,
        &[
            "UPDATE t_1 SET n = 10 WHERE id = 1",
            "DELETE FROM t_1 WHERE id = 2",
            "INSERT INTO t_1 VALUES (4, 4)",
        ],
    );
    run(&mut reader, &["COMMIT"]);
    run(
        &mut client,
        &[
            "ALTER TABLE t DETACH PARTITION t_1 FINALIZE",
            "INSERT INTO t_1 VALUES (5, 5)",
        ],
    );
    let mut reader = detached_halfway(
        &database,
        &mut client,
        "t_2",
        "ALTER TABLE t DETACH PARTITION t_2 CONCURRENTLY",
    );
    run(&mut reader, &["COMMIT"]);
    run(
        &mut client,
        &[
            "DROP TABLE t_2",
            "SELECT cdc_track('t', skip_unchanged => true)",
        ],
    );
    the_rows_of_both_are_there_until_then(&database);
}

/// Cancels a concurrent DETACH between its halves. Returns the reader that it waited for.
fn detached_halfway(
    database: &Database<'_>,
    client: &mut Client,
    partition: &str,
    detach: &'static str,
) -> Client {
    let mut reader = owner(database);
    run(&mut reader, &["BEGIN", "SELECT count(*) FROM t"]);
    let detaching = start(owner(database), detach);
    let half = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1)::oid";
    let is_half = || -> bool {
        let row = client.query_one(half, &[&partition]);
        row.expect("pg_inherits").get(0)
    };
    wait_for("the first half", TIMEOUT, is_half, |is_half| *is_half);
    let mut admin = database.source();
    admin
        .execute("SELECT pg_cancel_backend($1)", &[&detaching.pid])
        .expect("cancel the DETACH");
    detaching.end().expect_err("it was cancelled");
    reader
}

fn the_rows_of_both_are_there_until_then(database: &Database<'_>) {
    let shown: Vec<String> = database
        .events("t")
        .iter()
        .map(|event| match event.op() {
            "schema" => event.json()["type"].to_string(),
            op => format!("{op} {}", event.key_text()),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "\"CREATE\"",
            r#"c {"id":1}"#,
            r#"c {"id":2}"#,
            r#"c {"id":3}"#,
            r#"c {"id":11}"#,
            r#"c {"id":12}"#,
            r#"u {"id":1}"#,
            r#"d {"id":2}"#,
            r#"c {"id":4}"#,
            "\"DETACH\"",
            r#"d {"id":3}"#,
            r#"d {"id":1}"#,
            r#"d {"id":4}"#,
            r#"d {"id":11}"#,
            r#"d {"id":12}"#,
            "\"DETACH\"",
            "\"CREATE\"",
        ]
    );
}

#[test]
fn a_table_can_be_tracked_while_a_partition_is_being_detached() {
    let database = database("meanwhile");
    let mut client = owner(&database);
    run(&mut client, &[PARTITIONED, "SELECT cdc_track('t')"]);
    let mut reader = owner(&database);
    run(&mut reader, &["BEGIN", "SELECT count(*) FROM t_2"]);
    // Nobody else is let wait for the reader of the other partition.
    let detaching = start(
        owner(&database),
        "ALTER TABLE t DETACH PARTITION t_2 CONCURRENTLY",
    );
    detaching.wait_until_it_waits(&mut client, "t_2");
    let mut admin = database.source();
    admin
        .execute("SELECT pg_cancel_backend($1)", &[&detaching.pid])
        .expect("cancel the DETACH");
    detaching.end().expect_err("it was cancelled");
    run(&mut reader, &["COMMIT"]);
    run(
        &mut client,
        &[
            "SELECT cdc_track('t', skip_unchanged => true)",
            "INSERT INTO t VALUES (1, 1)",
            "SELECT cdc_untrack('t')",
            "ALTER TABLE t DETACH PARTITION t_2 FINALIZE",
        ],
    );
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
    let left: i64 = client.query_one(left, &[]).expect("pg_trigger").get(0);
    assert_eq!(left, 0);
    let events = database.events("t");
    assert_eq!(events.iter().filter(|event| event.op() == "c").count(), 1);
}

#[test]
fn two_who_track_at_once_do_not_get_one_topic() {
    let database = database("at_once");
    let mut client = owner(&database);
    run(
        &mut client,
        &["CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)"],
    );
    let mut first = owner(&database);
    run(
        &mut first,
        &["BEGIN", "SELECT cdc_track('a', topic => 'at_once.x.y')"],
    );
    let second = start(
        owner(&database),
        "SELECT cdc_track('b', topic => 'at_once.x.y')",
    );
    let query =
        "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype = 'object' AND NOT granted";
    let waits = || -> i64 {
        let row = client.query_one(query, &[&second.pid]);
        row.expect("pg_locks").get(0)
    };
    wait_for("the topic to be waited for", TIMEOUT, waits, |waits| {
        *waits > 0
    });
    run(&mut first, &["COMMIT"]);
    let refused = second.end().expect_err("the topic is taken");
    assert!(refused.contains("[CDC0106]"), "{refused}");
}
