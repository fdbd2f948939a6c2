//! `cdc_tables`: what a DBA sees of the tracked tables; and that a dump keeps it.

use std::process::Output;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, refusal, topic, wait_until};
use postgres::Client;
use serde_json::{Value, json};

/// A column of a table's row, as JSON.
fn shown(client: &mut Client, table: &str, column: &str) -> Value {
    let query = format!(
        "SELECT to_jsonb({column})::text FROM cdc_tables WHERE relation = '{table}'::regclass"
    );
    let row = client
        .query_one(&query, &[])
        .unwrap_or_else(|e| panic!("{query}: {e}"));
    let json: Option<&str> = row.get(0);
    json.map_or(Value::Null, |json| {
        serde_json::from_str(json).expect("JSON")
    })
}

const OPTIONS: &str =
    "SELECT cdc_track('person', key => '{email}', operations => 'insert, update, delete',
    exclude => '{photo}', mask => '{\"email\": \"hash\", \"notes\": \"truncate:20\"}',
    filter => 'country = ''CH''', skip_unchanged => true, origin => 'local',
    topics => '{\"delete\": \"DB.gone\"}')";

/// A masked table with every option, in a new database; its key file is written.
fn with_options<'a>(bed: &'a TestBed, name: &str) -> Database<'a> {
    let key = bed.source().write_file("mask.key", &[7; 32], 0o600);
    run(
        &mut bed.source().connect("postgres"),
        &[
            &format!("ALTER SYSTEM SET cdc.mask_key_file = '{key}'"),
            "SELECT pg_reload_conf()",
        ],
    );
    let database = bed.database(name);
    run(
        &mut database.source(),
        &[
            "CREATE TABLE person (id int PRIMARY KEY, email text NOT NULL, notes text, photo bytea, country text)",
            &OPTIONS.replace("DB", name),
        ],
    );
    database
}

#[test]
fn every_tracked_table_is_shown_with_its_options_its_state_and_what_of_it_is_in_kafka() {
    let bed = TestBed::shared();
    let database = with_options(bed, "tables");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE orders (id int, line int, PRIMARY KEY (line, id)) PARTITION BY RANGE (id)",
            "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (100)",
            "CREATE TABLE log (line text)",
            "SELECT cdc_track('orders'), cdc_track('log')",
        ],
    );
    let names = client.query_one(
        "SELECT string_agg(relation::text, ' ' ORDER BY relation::text) FROM cdc_tables",
        &[],
    );
    assert_eq!(names.expect("names").get::<_, &str>(0), "log orders person");
    every_option_is_shown(&database, &mut client);
    what_is_in_kafka_is_counted(&database, &mut client);
    a_disabled_trigger_is_shown(&mut client);
    nobody_sees_a_table_that_is_not_theirs_to_read(&database, &mut client);
}

fn every_option_is_shown(database: &Database<'_>, client: &mut Client) {
    for (column, expected) in [
        ("topic", json!("tables.public.person")),
        ("topics", json!({"delete": "tables.gone"})),
        ("key", json!(["email"])),
        ("operations", json!("insert,update,delete")),
        ("include", Value::Null),
        ("exclude", json!(["photo"])),
        ("mask", json!({"email": "hash", "notes": "truncate:20"})),
        ("filter", json!("((country = 'CH'::text))")),
        ("skip_unchanged", json!(true)),
        ("origin", json!("local")),
        ("state", json!("capturing")),
        // The definition is in the control topic.
        ("events", json!(0)),
        ("warning", Value::Null),
    ] {
        database.wait_until_in_kafka();
        let found = shown(client, "person", column);
        if column == "filter" {
            assert!(
                found
                    .as_str()
                    .is_some_and(|filter| filter.contains("country = 'CH'")),
                "{found}"
            );
        } else {
            assert_eq!(found, expected, "{column}");
        }
    }
    assert_eq!(shown(client, "orders", "key"), json!(["line", "id"]));
    assert_eq!(shown(client, "log", "key"), Value::Null);
    assert_eq!(shown(client, "log", "origin"), json!("any"));
}

/// Ten rows, and a delete in its own topic; a tombstone does not count, nor what is in the control topic.
fn what_is_in_kafka_is_counted(database: &Database<'_>, client: &mut Client) {
    run(
        client,
        &[
            "INSERT INTO person SELECT n, n::text, NULL, NULL, 'CH' FROM generate_series(1, 10) AS n",
            "DELETE FROM person WHERE id = 3",
            "INSERT INTO orders VALUES (1, 1), (2, 1)",
            "TRUNCATE orders",
        ],
    );
    database.wait_until_in_kafka();
    assert_eq!(shown(client, "person", "events"), json!(11));
    assert_eq!(shown(client, "orders", "events"), json!(2));
    let events = database.events("orders");
    let rows = events.iter().filter(|event| event.is_row_change());
    let bytes: usize = rows.map(|event| event.value_text().len()).sum();
    assert_eq!(shown(client, "orders", "bytes"), json!(bytes));
    let recent = client.query_one(
        "SELECT bool_and(last_event > now() - interval '1 min' AND since < last_event) FROM cdc_tables WHERE relation = 'orders'::regclass",
        &[],
    );
    assert!(recent.expect("times").get::<_, bool>(0));
}

fn a_disabled_trigger_is_shown(client: &mut Client) {
    run(client, &["ALTER TABLE log DISABLE TRIGGER _cdc"]);
    assert_eq!(shown(client, "log", "state"), json!("trigger_disabled"));
    assert!(
        shown(client, "log", "warning")
            .to_string()
            .contains("CDC0203")
    );
    let check = "SELECT code, message FROM cdc_check() WHERE item = 'table public.log'";
    let line = client.query_one(check, &[]).expect("a line of cdc_check()");
    assert_eq!(
        (line.get::<_, &str>(0), line.get::<_, &str>(1)),
        ("CDC0203", "trigger_disabled")
    );
    run(client, &["SELECT cdc_untrack('log')"]);
}

/// And nobody waits for a lock.
fn nobody_sees_a_table_that_is_not_theirs_to_read(database: &Database<'_>, client: &mut Client) {
    run(
        client,
        &["CREATE ROLE reader", "GRANT SELECT ON orders TO reader"],
    );
    let mut other = database.source();
    run(
        &mut other,
        &["BEGIN", "LOCK orders, person IN ACCESS EXCLUSIVE MODE"],
    );
    run(client, &["SET ROLE reader", "SET lock_timeout = '5s'"]);
    let seen = client
        .query("SELECT relation::text FROM cdc_tables", &[])
        .expect("the view");
    let seen: Vec<String> = seen.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, ["orders"]);
    run(&mut other, &["ROLLBACK"]);
    run(
        client,
        &["RESET ROLE", "DROP OWNED BY reader", "DROP ROLE reader"],
    );
}

#[test]
fn a_restored_dump_is_silent_until_it_is_tracked_again_with_the_options_it_had() {
    let bed = TestBed::shared();
    let database = with_options(bed, "dumped");
    run(
        &mut database.source(),
        &[
            "SELECT cdc_track_schema('public', new_tables => true)",
            "INSERT INTO person VALUES (1, 'eva', 'n', NULL, 'CH')",
        ],
    );
    let from = bed.source().url("dumped");
    let dump = bed.source().program("pg_dump", &["--dbname", &from]);
    bed.source().create_database("restored");
    let file = bed.source().write_file("dump.sql", dump.as_bytes(), 0o644);
    let to = bed.source().url("restored");
    bed.source().program(
        "psql",
        &[
            "--dbname",
            &to,
            "--set",
            "ON_ERROR_STOP=1",
            "--quiet",
            "--file",
            &file,
        ],
    );

    let (mut client, notices) = bed.source().connect_with_notices("restored");
    assert_eq!(shown(&mut client, "person", "state"), json!("copied"));
    run(
        &mut client,
        &["INSERT INTO person VALUES (2, 'ann', 'n', NULL, 'CH')"],
    );
    let warnings = std::mem::take(&mut *notices.lock().expect("notices"));
    let warning = warnings
        .iter()
        .find(|notice| notice.message().contains("is a copy"));
    refusal::assert_coded(warning.expect("a warning"), "01000", "CDC0107");

    let schemas = client.query_one("SELECT string_agg(schema, ' ') FROM cdc_schemas", &[]);
    assert_eq!(schemas.expect("cdc_schemas").get::<_, &str>(0), "public");
    let mut original = database.source();
    run(&mut client, &["SELECT cdc_track('person')"]);
    for column in [
        "key",
        "operations",
        "exclude",
        "mask",
        "filter",
        "skip_unchanged",
        "origin",
    ] {
        assert_eq!(
            shown(&mut client, "person", column),
            shown(&mut original, "person", column),
            "{column}"
        );
    }
    assert_eq!(shown(&mut client, "person", "state"), json!("capturing"));
    assert_eq!(
        shown(&mut client, "person", "topic"),
        json!("restored.public.person")
    );
}

#[test]
fn whoever_owns_a_database_can_dump_it() {
    let bed = TestBed::shared();
    let database = bed.database("owned");
    run(
        &mut database.source(),
        &[
            "CREATE ROLE dbo LOGIN",
            "CREATE ROLE looker LOGIN",
            "ALTER DATABASE owned OWNER TO dbo",
            "SELECT cdc_track_schema('public', new_tables => true)",
        ],
    );
    let mut owner = bed.source().connect_as("dbo", "owned");
    run(
        &mut owner,
        &[
            "CREATE TABLE t (id serial PRIMARY KEY, v text)",
            "CREATE TABLE p (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text) PARTITION BY RANGE (id)",
            "CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (1) TO (100)",
            "INSERT INTO t (v) VALUES ('a'), ('b')",
            "INSERT INTO p (v) VALUES ('a')",
            "SELECT cdc_snapshot('t')",
        ],
    );
    let folder = pg_cdc_tests::bed::temporary_folder();
    let file = folder.path().join("owned.dump");
    let file = file.to_str().expect("a path");
    let dumped = run_as(
        bed,
        "dbo",
        "pg_dump",
        &["--format=custom", "--file", file, "owned"],
    );
    assert!(dumped.status.success(), "{dumped:?}");

    // By a superuser without a word; by the owner of another database, who gets all that is his.
    for (target, role) in [("dumped_to", "postgres"), ("dumped_to_own", "dbo")] {
        restore(bed, target, role, file);
        the_copy_is_silent_until_it_is_tracked_again(bed, target);
    }
    wait_until_snapshot_of_t_is_done(&mut owner);
    progress_is_shown_and_rows_to_nobody_below_policies(bed, &mut owner);
}

/// Runs a program of PostgreSQL as a role.
fn run_as(bed: &TestBed, role: &str, program: &str, arguments: &[&str]) -> Output {
    let mut command = bed.source().command(program, arguments);
    command.env("PGUSER", role);
    command.output().expect("a program of PostgreSQL")
}

/// Into a new database; who is no superuser is refused what concerns the extension, and nothing else.
fn restore(bed: &TestBed, target: &str, role: &str, file: &str) {
    let server = bed.source();
    server.create_database(target);
    let mut superuser = server.connect(target);
    run(
        &mut superuser,
        &[&format!("ALTER DATABASE {target} OWNER TO dbo")],
    );
    if role == "dbo" {
        run(&mut superuser, &["CREATE EXTENSION pg_cdc"]);
    }
    let restored = run_as(bed, role, "pg_restore", &["--dbname", target, file]);
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    if role == "postgres" {
        assert!(restored.status.success(), "{said}");
    } else {
        let errors = said
            .lines()
            .filter(|line| line.contains("error: could not execute"));
        for error in errors {
            let about_the_extension =
                error.contains("extension pg_cdc") || error.contains("cdc_schemas");
            assert!(about_the_extension, "{said}");
        }
    }
}

fn the_copy_is_silent_until_it_is_tracked_again(bed: &TestBed, target: &str) {
    let (mut client, heard) = bed.source().connect_with_notices(target);
    run(
        &mut client,
        &[
            "SET SESSION AUTHORIZATION dbo",
            "INSERT INTO t (v) VALUES ('c')",
            "INSERT INTO p (v) VALUES ('b')",
        ],
    );
    let warnings = std::mem::take(&mut *heard.lock().expect("the notices"));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for warning in &warnings {
        refusal::assert_coded(warning, "01000", "CDC0107");
    }
    run(
        &mut client,
        &[
            "SELECT cdc_track(relation) FROM cdc_tables WHERE state IN ('copied', 'not_sealed')",
            "INSERT INTO t (v) VALUES ('d')",
            "CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
            "INSERT INTO p OVERRIDING SYSTEM VALUE VALUES (100, 'c')",
        ],
    );
    bed.wait_until_streaming(target);
    run(&mut client, &["SELECT cdc_wait()"]);
    for (table, id) in [("t", 4), ("p", 100)] {
        let records = topic::read(bed.kafka(), &format!("{target}.public.{table}"));
        let rows = records.iter().filter(|record| record.is_row_change());
        let keys: Vec<&str> = rows.map(topic::Record::key_text).collect();
        assert_eq!(keys, [format!("{{\"id\":{id}}}")]);
    }
}

fn wait_until_snapshot_of_t_is_done(owner: &mut Client) {
    let last_key = "SELECT last_key FROM cdc_snapshots WHERE relation = 't'::regclass";
    wait_until(
        "the snapshot to be done",
        std::time::Duration::from_secs(60),
        || {
            let row = owner
                .query_one(last_key, &[])
                .map_err(|e| format!("{e:?}"))?;
            match row.get::<_, Option<&str>>(0) {
                Some("{\"id\":2}") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    );
}

/// Who may SELECT sees how far snapshots are; what shows a row, only those above policies.
fn progress_is_shown_and_rows_to_nobody_below_policies(bed: &TestBed, owner: &mut Client) {
    run(
        owner,
        &[
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "GRANT SELECT (v) ON t TO looker",
            "GRANT SELECT ON p TO looker",
            "GRANT CREATE ON SCHEMA public TO looker",
            "SELECT cdc_snapshot('p')",
        ],
    );
    let mut looker = bed.source().connect_as("looker", "owned");
    run(
        &mut looker,
        &[
            "SET client_min_messages = warning",
            "CREATE TABLE seen (relation text)",
            "CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
                $$ BEGIN INSERT INTO seen VALUES ($1); RETURN true; END $$",
            "SELECT count(*) FROM cdc_snapshots WHERE leak(relation::text)",
            "SELECT count(*) FROM cdc_tables WHERE leak(relation::text)",
        ],
    );
    let seen = looker.query("SELECT DISTINCT relation FROM seen ORDER BY 1", &[]);
    let seen: Vec<String> = seen.expect("seen").iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, ["p", "seen"], "nothing of others");
    let shown = looker.query("SELECT relation::text, last_key FROM cdc_snapshots", &[]);
    for row in shown.expect("cdc_snapshots") {
        assert_eq!(
            (row.get::<_, &str>(0), row.get::<_, Option<&str>>(1)),
            ("p", None)
        );
    }
}
