//! What cannot be tracked is refused with a code and a remedy; what is asked twice is done once.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, refusal, wait_until};
use postgres::Client;

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

#[test]
fn relations_that_cannot_be_tracked_are_refused() {
    let database = database("refused");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY);
             CREATE VIEW a_view AS SELECT * FROM t;
             CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM t;
             CREATE TEMPORARY TABLE a_temporary (id int PRIMARY KEY);
             CREATE UNLOGGED TABLE an_unlogged (id int PRIMARY KEY);
             CREATE SEQUENCE a_sequence;
             CREATE EXTENSION file_fdw;
             CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE FOREIGN TABLE a_foreign (line text) SERVER files OPTIONS (filename '/dev/null')",
        )
        .expect("relations of all kinds");
    for relation in [
        "a_view",
        "a_matview",
        "a_temporary",
        "an_unlogged",
        "a_sequence",
        "a_foreign",
        "pg_catalog.pg_class",
        "information_schema.sql_features",
    ] {
        let statement = format!("SELECT cdc_track('{relation}')");
        let error = refusal::coded(&mut client, &statement, "22023", "CDC0101");
        let name = relation.rsplit('.').next().expect("a name");
        assert!(
            error
                .message()
                .contains(&format!("cannot track relation \"{name}\"")),
            "{error:?}"
        );
    }
    // PostgreSQL's own error.
    assert_eq!(
        refusal::of(&mut client, "SELECT cdc_track('no_such_table')")
            .code()
            .code(),
        "42P01"
    );
    let triggers = client.query(
        "SELECT tgname FROM pg_trigger WHERE tgname LIKE '\\_cdc%'",
        &[],
    );
    assert!(
        triggers.expect("triggers").is_empty(),
        "what was refused left no trigger"
    );
}

#[test]
fn only_the_owner_tracks() {
    let database = database("owners");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE ROLE not_the_owner; CREATE TABLE t (id int PRIMARY KEY);
             GRANT ALL ON t TO not_the_owner; SET ROLE not_the_owner",
        )
        .expect("a role");
    let error = refusal::coded(&mut client, "SELECT cdc_track('t')", "42501", "CDC0102");
    assert_eq!(error.message(), "must be owner of table t");
    client
        .batch_execute("RESET ROLE; SELECT cdc_track('t'); SET ROLE not_the_owner")
        .expect("tracked");
    refusal::coded(&mut client, "SELECT cdc_untrack('t')", "42501", "CDC0102");
}

#[test]
fn nobody_waits_for_a_lock_without_rights_and_nobody_is_caught_in_a_deadlock() {
    let database = database("locks");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE passer_by LOGIN",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id)",
            "CREATE TABLE p_rest PARTITION OF p DEFAULT",
            "INSERT INTO t VALUES (1)",
            "SELECT cdc_track('t')",
            "SELECT cdc_snapshot('t')",
        ],
    );
    nobody_without_rights_waits(&database, &mut client);

    for (call, table) in [
        ("SELECT cdc_track('t', operations => 'insert')", "t"),
        ("SELECT cdc_track('t', operations => '')", "t"),
        ("SELECT cdc_untrack('t')", "t"),
        ("SELECT cdc_track('p')", "p"),
        ("SELECT cdc_track('p', operations => 'insert')", "p"),
        ("SELECT cdc_untrack('p')", "p"),
    ] {
        a_reader_who_writes_later_is_let_by(&database, &mut client, call, table);
    }
}

/// Whoever may not do it is refused, also while somebody has the table locked.
fn nobody_without_rights_waits(database: &Database<'_>, client: &mut Client) {
    let row = client.query_one(
        "SELECT max(snapshot_id), 't'::regclass::oid::text FROM cdc_snapshots",
        &[],
    );
    let row = row.expect("a snapshot");
    let (snapshot, table): (i64, String) = (row.get(0), row.get(1));
    let mut holder = database.source();
    run(
        &mut holder,
        &[
            "BEGIN",
            "LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
            &format!("SELECT FROM cdc_snapshot_jobs WHERE snapshot_id = {snapshot} FOR UPDATE"),
        ],
    );
    let mut passer_by = database.bed().source().connect_as("passer_by", "locks");
    run(&mut passer_by, &["SET lock_timeout = '1s'"]);
    for call in [
        format!("cdc_track({table})"),
        format!("cdc_untrack({table})"),
        format!("cdc_snapshot({table})"),
        format!("cdc_snapshot_pause({snapshot})"),
        format!("cdc_snapshot_cancel({snapshot})"),
    ] {
        refusal::coded(
            &mut passer_by,
            &format!("SELECT {call}"),
            "42501",
            "CDC0102",
        );
    }
    run(&mut holder, &["ROLLBACK"]);
}

/// Whoever waits for the table holds nothing that the reader needs.
fn a_reader_who_writes_later_is_let_by(
    database: &Database<'_>,
    client: &mut Client,
    call: &str,
    table: &str,
) {
    let mut reader = database.source();
    run(&mut reader, &["BEGIN", &format!("SELECT FROM {table}")]);
    let first = call == "SELECT cdc_track('p')";
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut other = database.source();
            run(&mut other, &["SET deadlock_timeout = '10ms'", call]);
        });
        if first {
            // Readers and a first cdc_track do not know of each other.
            waiting.join().expect("tracked");
        } else {
            let ungranted =
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation::regclass::text = $1";
            wait_until(
                "the lock to be waited for",
                std::time::Duration::from_secs(30),
                || {
                    let row = client
                        .query_one(ungranted, &[&table])
                        .map_err(|e| format!("{e:?}"))?;
                    match row.get::<_, i64>(0) {
                        1.. => Ok(()),
                        none => Err(format!("{none}")),
                    }
                },
            );
        }
        run(
            &mut reader,
            &[
                "SET deadlock_timeout = '10ms'",
                &format!("INSERT INTO {table} SELECT coalesce(max(id), 0) + 1 FROM {table}"),
                "COMMIT",
            ],
        );
    });
    // What changes nothing waits for nobody at all.
    if call.starts_with("SELECT cdc_track") {
        run(&mut reader, &["BEGIN", &format!("SELECT FROM {table}")]);
        run(
            client,
            &["SET lock_timeout = '1s'", call, "RESET lock_timeout"],
        );
        run(&mut reader, &["ROLLBACK"]);
    }
}

#[test]
fn a_key_that_is_not_there_is_refused_with_the_nearest_name() {
    let database = database("keys");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int, customer_number int)")
        .expect("create");
    let error = refusal::coded(
        &mut client,
        "SELECT cdc_track('t', key => '{custmer_number}')",
        "42703",
        "CDC0103",
    );
    assert!(error.message().contains("\"custmer_number\""), "{error:?}");
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("\"customer_number\"")),
        "{error:?}"
    );
}

#[test]
fn a_topic_that_kafka_would_refuse_is_refused() {
    let database = database("topics");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .expect("create");
    for topic in ["with space", "ä", ".", "..", &"x".repeat(250)] {
        let statement = format!("SELECT cdc_track('t', topic => '{topic}')");
        refusal::coded(&mut client, &statement, "42602", "CDC0108");
    }
}

#[test]
fn a_second_track_changes_nothing_and_doubles_nothing() {
    let database = database("twice");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .expect("create");
    let mut track = || -> String {
        client
            .query_one("SELECT cdc_track('t')", &[])
            .expect("cdc_track")
            .get(0)
    };
    assert_eq!(track(), "twice.public.t");
    assert_eq!(track(), "twice.public.t");
    client
        .batch_execute("INSERT INTO t VALUES (1), (2)")
        .expect("insert");
    let events: Vec<String> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.key_text().to_owned())
        .collect();
    assert_eq!(events.len(), 2, "{events:?}");
}

#[test]
fn untrack_ends_capture_and_says_whether_there_was_any() {
    let database = database("untracked");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .expect("create");
    let untrack = |client: &mut Client| -> bool {
        client
            .query_one("SELECT cdc_untrack('t')", &[])
            .expect("cdc_untrack")
            .get(0)
    };
    assert!(!untrack(&mut client), "it was not tracked");
    client
        .batch_execute("SELECT cdc_track('t'); INSERT INTO t VALUES (1)")
        .expect("tracked");
    assert!(untrack(&mut client), "it was tracked");
    client
        .batch_execute("INSERT INTO t VALUES (2)")
        .expect("untracked");
    let keys: Vec<String> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.key_text().to_owned())
        .collect();
    assert_eq!(keys, ["{\"id\":1}"]);
}

#[test]
fn a_misspelt_setting_is_an_error() {
    let database = database("settings");
    let mut client = database.source();
    assert_eq!(
        refusal::of(&mut client, "SET cdc.actr = 'ann'")
            .code()
            .code(),
        "42602"
    );
    client
        .batch_execute("SET cdc.actor = 'ann'")
        .expect("the real name");
}

#[test]
fn a_deferrable_key_is_refused_and_another_key_is_taken() {
    let database = database("deferrable");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE k (id int PRIMARY KEY DEFERRABLE, other int NOT NULL)")
        .expect("a table");
    refusal::coded(&mut client, "SELECT cdc_track('k')", "22023", "CDC0105");
    client
        .batch_execute("SELECT cdc_track('k', key => '{other}'); INSERT INTO k VALUES (1, 7)")
        .expect("another key");
    let records = database.records("k");
    let keys: Vec<&str> = records
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.key_text())
        .collect();
    assert_eq!(keys, ["{\"other\":7}"]);
}

#[test]
fn a_topic_belongs_to_one_table() {
    let database = database("topic_owners");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
             SELECT cdc_track('a', topic => 'topic_owners.x_y')",
        )
        .expect("the first");
    refusal::coded(
        &mut client,
        "SELECT cdc_track('b', topic => 'topic_owners.x_y')",
        "42710",
        "CDC0106",
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_track('b', topic => 'topic_owners.x.y')",
        "42710",
        "CDC0109",
    );
}

#[test]
fn operators_of_others_are_not_called_with_higher_rights() {
    let database = TestBed::shared().database("operators");
    let mut client = database.source();
    let statements = [
        "CREATE ROLE climber LOGIN",
        "CREATE SCHEMA climbers AUTHORIZATION climber",
        "SET ROLE climber",
        "CREATE TABLE climbers.t (id int PRIMARY KEY)",
        "CREATE FUNCTION climbers.climb() RETURNS boolean LANGUAGE plpgsql AS
           $$ BEGIN IF current_user <> 'climber' THEN ALTER ROLE climber SUPERUSER; END IF; RETURN true; END $$",
    ];
    for statement in statements {
        client.batch_execute(statement).expect(statement);
    }
    for (left, right) in [
        ("bigint", "bigint"),
        ("oid", "oid"),
        ("text", "text"),
        ("name", "name"),
        ("name", "text"),
        ("\"char\"", "\"char\""),
        ("text", "unknown"),
    ] {
        let function = format!(
            "CREATE FUNCTION climbers.equal({left}, {right}) RETURNS boolean LANGUAGE sql AS
               'SELECT climbers.climb() AND $1 OPERATOR(pg_catalog.=) $2';
             CREATE OPERATOR climbers.= (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = climbers.equal)"
        );
        // Not every pair of types may have an operator.
        let _ = client.batch_execute(&function);
    }
    let made: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_operator WHERE oprnamespace = 'climbers'::regnamespace",
            &[],
        )
        .expect("operators")
        .get(0);
    assert!(made >= 5, "{made} operators");
    for statement in [
        "SELECT cdc_track('climbers.t')",
        "SELECT cdc_snapshot('climbers.t')",
        "SET search_path = climbers, pg_catalog, public",
    ] {
        client.batch_execute(statement).expect(statement);
    }
    for statement in [
        "SELECT public.cdc_track('t', skip_unchanged => true)",
        "SELECT public.cdc_snapshot('t')",
        "SELECT public.cdc_snapshot_pause(1)",
        "SELECT public.cdc_snapshot_resume(1)",
        "SELECT public.cdc_snapshot_cancel(1)",
        "SELECT * FROM public.cdc_tables",
        "SELECT * FROM public.cdc_snapshots",
        "ALTER TABLE climbers.t ADD note text DEFAULT 'x'",
        "SELECT public.cdc_untrack('t')",
    ] {
        // What the operators make of the statement is the climber's business.
        let _ = client.batch_execute(statement);
    }
    client
        .batch_execute("RESET search_path; RESET ROLE")
        .expect("reset");
    let climbed = client.query_one(
        "SELECT rolsuper FROM pg_roles WHERE rolname = 'climber'",
        &[],
    );
    assert!(!climbed.expect("the role").get::<_, bool>(0));
}
