//! A row has one timeline, whatever is renamed around it; and each table has a history, whatever it is called.

use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, wait_until};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(120);

fn ops(timeline: &[Value]) -> Vec<&str> {
    let ops = timeline.iter().map(|version| version["op"].as_str());
    ops.map(|op| op.expect("op")).collect()
}

/// The timeline of a row: as many versions as it says, of these operations.
fn is_timeline(sink: &CompanionSink, row: &[&str], wanted: &[&str]) {
    let timeline = sink.find_in_history(row);
    assert_eq!(ops(&timeline), wanted, "{row:?}");
    let numbers = timeline
        .iter()
        .map(|version| version["sequence_number"].as_u64());
    let numbers: Vec<u64> = numbers.map(|number| number.expect("a number")).collect();
    assert_eq!(
        numbers,
        (1..=wanted.len() as u64).collect::<Vec<_>>(),
        "{row:?}"
    );
}

/// The states of all rows of a table, later than anything.
fn states(sink: &CompanionSink, table: &str) -> Vec<Value> {
    let mut states: Vec<Value> = sink
        .find_in_history(&[table, "--at", "2100-01-01"])
        .into_iter()
        .map(|row| row["state"].clone())
        .collect();
    states.sort_by_key(Value::to_string);
    states
}

/// A history of all tables of the database, of whatever schema.
fn start(database: &Database<'_>, name: &str) -> CompanionSink {
    let mut plan = database.plan_companion_sink();
    plan.topics = vec![format!("{name}.*")];
    let sink = database.bed().companion_sink(plan);
    sink.start_only(&["history"]);
    sink
}

#[test]
fn a_row_has_one_timeline_whatever_is_renamed() {
    let bed = TestBed::start();
    let database = bed.database("named");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE other (id int PRIMARY KEY, n int)",
            // The key's column.
            "CREATE TABLE customer (id int PRIMARY KEY, n int)",
            // Another key, by a column that was there, one that is new, and back.
            "CREATE TABLE cust (id int PRIMARY KEY, no text NOT NULL, n int)",
            "CREATE TABLE wide (id int PRIMARY KEY, n int)",
            // The table.
            "CREATE TABLE ren (id int PRIMARY KEY, n int)",
            // Its schema, and what lies in another one.
            "CREATE SCHEMA app; CREATE TABLE app.a (id int PRIMARY KEY, n int)",
            "CREATE SCHEMA app2; CREATE TABLE app2.b (id int PRIMARY KEY, n int)",
            // Both columns of a key, names that two tables give each other, a new name while nobody looks, a partitioned table.
            "CREATE TABLE pair (a int, b text, n int, PRIMARY KEY (a, b))",
            "CREATE TABLE one (id int PRIMARY KEY, n int); CREATE TABLE two (id int PRIMARY KEY, n int)",
            "CREATE TABLE hidden (id int PRIMARY KEY, n int)",
            "CREATE TABLE root (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)",
            "CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (100)",
            "SELECT cdc_track(t) FROM unnest(ARRAY['pair', 'one', 'two', 'hidden', 'root']::regclass[]) t",
            "INSERT INTO pair VALUES (1, 'x', 1); INSERT INTO one VALUES (1, 1); INSERT INTO two VALUES (1, 2)",
            "INSERT INTO hidden VALUES (1, 1); INSERT INTO root VALUES (1, 1)",
            "SELECT cdc_track(t) FROM unnest(ARRAY['other', 'customer', 'cust', 'wide', 'ren', 'app.a', 'app2.b']::regclass[]) t",
            "INSERT INTO other VALUES (1, 0)",
            "INSERT INTO customer VALUES (42, 1), (43, 1)",
            "INSERT INTO cust VALUES (42, 'k42', 1), (43, 'k43', 1), (44, 'k44', 1)",
            "DELETE FROM cust WHERE id = 44",
            "INSERT INTO wide VALUES (1, 1), (2, 1)",
            "INSERT INTO ren VALUES (1, 1), (2, 1)",
            "INSERT INTO app.a VALUES (1, 1)",
            "INSERT INTO app2.b VALUES (1, 1)",
        ],
    );
    let sink = start(&database, "named");
    database.wait_until_history_is_complete(&sink, "other");
    run(
        &mut client,
        &[
            "ALTER TABLE customer RENAME id TO customer_id",
            "UPDATE customer SET n = 2 WHERE customer_id = 42",
            "ALTER TABLE cust DROP CONSTRAINT cust_pkey",
            "ALTER TABLE cust ADD PRIMARY KEY (no)",
            "UPDATE cust SET n = 2 WHERE no = 'k42'",
            "INSERT INTO cust VALUES (45, 'k45', 1)",
            "ALTER TABLE wide ADD COLUMN u uuid NOT NULL DEFAULT md5(random()::text)::uuid, DROP CONSTRAINT wide_pkey, ADD PRIMARY KEY (u)",
            "UPDATE wide SET n = 2 WHERE id = 1",
            "ALTER TABLE ren RENAME TO ren2",
            "UPDATE ren2 SET n = 2 WHERE id = 1",
            "ALTER SCHEMA app RENAME TO common",
            "UPDATE common.a SET n = 2",
            "ALTER TABLE app2.b SET SCHEMA public",
            "UPDATE b SET n = 2",
            "BEGIN; ALTER TABLE pair RENAME a TO b2; ALTER TABLE pair RENAME b TO a; UPDATE pair SET n = 2; COMMIT",
            "ALTER TABLE one RENAME TO three; ALTER TABLE two RENAME TO one; ALTER TABLE three RENAME TO two",
            "UPDATE one SET n = 20; UPDATE two SET n = 10",
            "SELECT cdc_untrack('hidden')",
            "ALTER TABLE hidden RENAME TO shown",
            "SELECT cdc_track('shown')",
            "UPDATE shown SET n = 2",
            "ALTER TABLE root RENAME id TO root_id; ALTER TABLE root RENAME TO trunk",
            "UPDATE trunk SET n = 2",
            // Another table with a name that is free.
            "CREATE TABLE ren (id int PRIMARY KEY, n int)",
            "SELECT cdc_track('ren', topic => 'named.public.ren-2')",
            "INSERT INTO ren VALUES (1, 100)",
            "INSERT INTO other VALUES (2, 0)",
        ],
    );
    database.wait_until_history_is_complete(&sink, "other");

    for key in ["42", "customer_id=42", "id=42", r#"{"customer_id":42}"#] {
        is_timeline(&sink, &["customer", key], &["create", "update"]);
    }
    is_timeline(&sink, &["customer", "43"], &["create"]);
    assert_eq!(
        states(&sink, "customer"),
        [
            json!({"customer_id": 42, "n": 2}),
            json!({"id": 43, "n": 1})
        ]
    );
    for key in ["k42", "no=k42", "42", "id=42"] {
        is_timeline(&sink, &["cust", key], &["create", "update"]);
    }
    is_timeline(&sink, &["cust", "k43"], &["create"]);
    is_timeline(&sink, &["cust", "k45"], &["create"]);
    is_timeline(&sink, &["cust", "44"], &["create", "delete"]);
    assert_eq!(states(&sink, "cust").len(), 3);
    let key: String = client
        .query_one("SELECT u::text FROM wide WHERE id = 1", &[])
        .expect("a key")
        .get(0);
    for key in [key.to_uppercase(), "1".to_owned()] {
        let timeline = sink.find_in_history(&["wide", &key]);
        assert!(
            ops(&timeline).starts_with(&["create"]) && ops(&timeline).contains(&"update"),
            "{timeline:?}"
        );
    }
    assert_eq!(states(&sink, "wide").len(), 2);
    is_timeline(&sink, &["ren2", "1"], &["create", "update"]);
    is_timeline(&sink, &["ren2", "2"], &["create"]);
    is_timeline(&sink, &["ren", "1"], &["create"]);
    assert_eq!(states(&sink, "ren"), [json!({"id": 1, "n": 100})]);
    assert_eq!(states(&sink, "ren2").len(), 2);
    for table in ["common.a", "app.a", "a", "b", "public.b", "app2.b"] {
        is_timeline(&sink, &[table, "1"], &["create", "update"]);
        assert_eq!(states(&sink, table), [json!({"id": 1, "n": 2})], "{table}");
    }

    for key in ["b2=1,a=x", "a=x,b2=1", r#"{"b2":1,"a":"x"}"#] {
        is_timeline(&sink, &["pair", key], &["create", "update"]);
    }
    for (table, states_then) in [("one", [2, 20]), ("two", [1, 10])] {
        let timeline = sink.find_in_history(&[table, "1"]);
        let n = timeline
            .iter()
            .map(|version| version["after"]["n"].as_i64());
        assert_eq!(n.collect::<Vec<_>>(), states_then.map(Some), "{table}");
    }
    is_timeline(&sink, &["shown", "1"], &["create", "update"]);
    is_timeline(&sink, &["trunk", "root_id=1"], &["create", "update"]);

    // A snapshot finds all that is there, and takes nothing for gone.
    let mut tables = vec![
        "customer", "cust", "wide", "ren2", "common.a", "b", "pair", "one", "two", "shown", "trunk",
    ];
    for table in &tables {
        run(&mut client, &[&format!("SELECT cdc_snapshot('{table}')")]);
    }
    wait_until("the snapshots", TIMEOUT, || {
        let open = "SELECT count(*) FROM cdc_snapshots WHERE state <> 'done'";
        let open: i64 = client.query_one(open, &[]).expect("the snapshots").get(0);
        if open == 0 {
            Ok(())
        } else {
            Err(format!("{open} are not done"))
        }
    });
    database.wait_until_history_is_complete(&sink, "other");
    for table in &tables {
        let changes = sink.find_in_history(&[table, "--limit", "0"]);
        assert!(
            !ops(&changes).contains(&"inferred_delete"),
            "{table}: {changes:?}"
        );
        let there = format!("SELECT count(*) FROM {table}");
        let there: i64 = client.query_one(&there, &[]).expect("the rows").get(0);
        assert_eq!(states(&sink, table).len() as i64, there, "{table}");
    }
    is_timeline(&sink, &["cust", "k43"], &["create"]);
    // What is gone is gone, by whichever name it was known.
    run(
        &mut client,
        &[
            "ALTER TABLE cust DISABLE TRIGGER _cdc; DELETE FROM cust WHERE no = 'k43'; ALTER TABLE cust ENABLE ALWAYS TRIGGER _cdc",
            "SELECT cdc_snapshot('cust')",
        ],
    );
    wait_until("the inferred delete", TIMEOUT, || {
        let timeline = sink.find_in_history(&["cust", "k43"]);
        match ops(&timeline).as_slice() {
            ["create", "inferred_delete"] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // The same after a start, from the beginning again, by a replay.
    tables.push("other");
    let before: Vec<Vec<Value>> = tables
        .iter()
        .map(|table| sink.find_in_history(&[table, "--limit", "0"]))
        .collect();
    sink.stop();
    (0..3).for_each(|partition| sink.rewind_history(partition));
    sink.start_only(&["history"]);
    run(&mut client, &["UPDATE other SET n = 1 WHERE id = 2"]);
    database.wait_until_history_is_complete(&sink, "other");
    for (table, before) in tables
        .iter()
        .zip(&before)
        .filter(|(table, _)| **table != "other")
    {
        assert_eq!(
            &sink.find_in_history(&[table, "--limit", "0"]),
            before,
            "{table}"
        );
    }
    let replay = [
        "replay",
        "--sink",
        "history",
        "--from",
        "beginning",
        "--dry-run",
        "--json",
    ];
    let replayed = sink.try_command(&replay);
    assert_eq!(
        replayed.status.code(),
        Some(0),
        "nothing differs: {replayed:?}"
    );
}

#[test]
fn every_table_has_a_history_whatever_it_is_called() {
    let bed = TestBed::start();
    let database = bed.database("called");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE other (id int PRIMARY KEY, n int)",
            "CREATE SCHEMA a; CREATE TABLE a.orders (id int PRIMARY KEY, n int)",
            "CREATE SCHEMA b; CREATE TABLE b.orders (id int PRIMARY KEY, n int)",
            "CREATE SCHEMA a_b; CREATE TABLE a_b.c (id int PRIMARY KEY); CREATE TABLE a.b_c (id int PRIMARY KEY)",
            "CREATE TABLE price$hist (id int PRIMARY KEY, n int)",
            "CREATE TABLE \"system.users\" (id int PRIMARY KEY, n int)",
            "CREATE TABLE companion_offsets (id int PRIMARY KEY, n int)",
            "CREATE TABLE \"Order Items\" (id int PRIMARY KEY, n int)",
            "CREATE TABLE grid (id int PRIMARY KEY, a int[][], b bytea[], t text[])",
            "SELECT cdc_track(t) FROM unnest(ARRAY['other', 'a.orders', 'b.orders', 'a_b.c', 'price$hist', '\"system.users\"',
                'companion_offsets', '\"Order Items\"', 'grid']::regclass[]) t",
            "SELECT cdc_track('a.b_c', topic => 'called.a.b-c')",
            "CREATE TABLE cols (id int PRIMARY KEY, a$b int, \"$c\" int, \"d.e\" int, \"_id\" int, \"$\" int)",
            "SELECT cdc_track('cols')",
            "INSERT INTO cols VALUES (1, 2, 3, 4, 5, 6); UPDATE cols SET a$b = 20",
            "INSERT INTO other VALUES (1, 0)",
            "INSERT INTO a.orders VALUES (1, 1)",
            "INSERT INTO b.orders VALUES (1, 2), (2, 2)",
            "INSERT INTO a_b.c VALUES (1)",
            "INSERT INTO a.b_c VALUES (2)",
            "INSERT INTO price$hist VALUES (1, 1)",
            "INSERT INTO \"system.users\" VALUES (1, 1)",
            "INSERT INTO companion_offsets VALUES (1, 1)",
            "INSERT INTO \"Order Items\" VALUES (1, 1)",
            "INSERT INTO grid VALUES (1, '{{1},{2}}', ARRAY[['\\x01'::bytea], [NULL::bytea]], '{{a b},{NULL}}'), (2, '{3}', NULL, NULL)",
            "UPDATE grid SET a = '{{3},{NULL}}' WHERE id = 1",
            "UPDATE grid SET a = '{5}', b = NULL, t = NULL WHERE id = 1",
            "UPDATE other SET n = 1",
        ],
    );
    let sink = start(&database, "called");
    database.wait_until_history_is_complete(&sink, "other");
    for (table, n) in [
        ("a.orders", 1),
        ("b.orders", 2),
        ("price$hist", 1),
        ("system.users", 1),
        ("\"system.users\"", 1),
        ("companion_offsets", 1),
        ("Order Items", 1),
        ("public.\"Order Items\"", 1),
    ] {
        let timeline = sink.find_in_history(&[table, "1"]);
        assert_eq!(timeline.len(), 1, "{table}");
        assert_eq!(timeline[0]["after"]["n"], json!(n), "{table}");
    }
    assert_eq!(states(&sink, "b.orders").len(), 2);
    assert_eq!(sink.find_in_history(&["a_b.c", "1"]).len(), 1);
    assert_eq!(sink.find_in_history(&["a.b_c", "2"]).len(), 1);

    is_timeline(&sink, &["cols", "1"], &["create", "update"]);

    // Arrays of arrays, as PostgreSQL prints them, and back.
    let timeline = sink.find_in_history(&["grid", "1"]);
    assert_eq!(ops(&timeline), ["create", "update", "update"]);
    assert_eq!(timeline[0]["after"]["a"], json!("{{1},{2}}"));
    assert_eq!(timeline[0]["after"]["b"], json!("{{\"\\\\x01\"},{NULL}}"));
    assert_eq!(timeline[0]["after"]["t"], json!("{{\"a b\"},{NULL}}"));
    assert_eq!(timeline[2]["after"]["a"], json!([5]));
    assert_eq!(
        sink.find_in_history(&["grid", "1", "--diff", "1..2"]),
        [json!({"path": "a", "from": "{{1},{2}}", "to": "{{3},{NULL}}"})]
    );
    let restored = sink.ask_history(&["grid", "1", "--restore", "1"]);
    client
        .batch_execute(&String::from_utf8_lossy(&restored.stdout))
        .expect("the row is restored");
    let is_back = "SELECT a = '{{1},{2}}' AND b[1][1] = '\\x01' AND b[2][1] IS NULL AND t = '{{a b},{NULL}}' FROM grid WHERE id = 1";
    assert!(
        client
            .query_one(is_back, &[])
            .expect("the row")
            .get::<_, bool>(0)
    );
    let dlq = sink.run_command(&["dlq", "list"]);
    assert!(!dlq.contains("CDC"), "{dlq}");

    keys_are_found_as_people_write_them(&database, &sink);
    what_is_no_fact_of_the_row_is_marked(&database, &sink);
}

fn csv(sink: &CompanionSink, arguments: &[&str]) -> String {
    let output = sink.ask_history(&[arguments, &["--format", "csv"]].concat());
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn what_is_no_fact_of_the_row_is_marked(database: &Database<'_>, sink: &CompanionSink) {
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE person (id int PRIMARY KEY, land text, iban text, memo text)",
            r#"SELECT cdc_track('person', filter => $$land = 'CH'$$, mask => '{"iban": "redact", "memo": "truncate:2"}')"#,
            "INSERT INTO person VALUES (1, 'CH', 'CH93', 'abcd')",
            "UPDATE person SET land = 'DE'",
            "UPDATE person SET land = 'CH'",
            "DELETE FROM person",
            // Out of it and in again in one transaction that is sorted, and with a savepoint.
            "INSERT INTO person VALUES (2, 'CH', 'CH94', 'abcd')",
            "BEGIN; SAVEPOINT s; UPDATE person SET land = 'DE'; RELEASE s; UPDATE person SET land = 'CH', id = 3; COMMIT",
            "UPDATE other SET n = n + 1",
        ],
    );
    database.wait_until_history_is_complete(sink, "other");
    let timeline = sink.find_in_history(&["person", "1"]);
    assert_eq!(ops(&timeline), ["create", "delete", "create", "delete"]);
    let crossed: Vec<&Value> = timeline
        .iter()
        .map(|version| &version["marks"]["filter"])
        .collect();
    assert_eq!(
        crossed,
        [
            &json!(null),
            &json!("left"),
            &json!("entered"),
            &json!(null)
        ]
    );
    let told = csv(sink, &["person", "1"]);
    for text in [
        "left_filter",
        "entered filter",
        "iban (redacted)",
        "memo \"\"ab\"\" (truncated)",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }
    let at = csv(sink, &["person", "1", "--at", "1"]);
    assert!(
        at.contains("iban,(redacted)") && at.contains("(truncated)"),
        "{at}"
    );
    let at = sink
        .find_in_history(&["person", "1", "--at", "1"])
        .remove(0);
    assert_eq!(at["marks"]["iban"], json!("redacted"));
    let at = csv(sink, &["person", "--at", "2100-01-01"]);
    assert!(at.contains("3,CH,(redacted),ab (truncated)"), "{at}");
    let timeline = sink.find_in_history(&["person", "2"]);
    let crossed = timeline
        .iter()
        .map(|version| version["marks"]["filter"].clone());
    assert_eq!(crossed.collect::<Vec<_>>(), [json!(null), json!("left")]);
    let timeline = sink.find_in_history(&["person", "3"]);
    assert_eq!(timeline[0]["marks"]["filter"], json!("entered"));
}

fn keys_are_found_as_people_write_them(database: &Database<'_>, sink: &CompanionSink) {
    let mut client = database.source();
    let keys = [
        ("d", "date", "2026-01-01", "2026-01-01"),
        ("ts", "timestamp", "2026-01-01 10:00", "2026-01-01T10:00:00"),
        (
            "tz",
            "timestamptz",
            "2026-01-01 10:00+00",
            "2026-01-01T10:00:00+00:00",
        ),
        ("ti", "time", "10:00", "10:00"),
        ("by", "bytea", "\\xdeadbeef", "\\xdeadbeef"),
        ("ch", "char(5)", "ab", "ab"),
        ("vc", "varchar(5)", "007", "007"),
        (
            "uu",
            "uuid",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        ),
        ("nu", "numeric(10,2)", "1.5", "1.5"),
        ("bo", "boolean", "true", "t"),
        ("fl", "double precision", "1e300", "1e300"),
    ];
    for (table, type_name, value, _) in &keys {
        let statement = format!(
            "CREATE TABLE key_{table} (k {type_name} PRIMARY KEY, n int); SELECT cdc_track('key_{table}'); INSERT INTO key_{table} VALUES ('{value}', 1)"
        );
        run(&mut client, &[&statement]);
    }
    run(
        &mut client,
        &[
            "CREATE TABLE key_co (a text, b text, PRIMARY KEY (b, a)); SELECT cdc_track('key_co'); INSERT INTO key_co VALUES ('x,y', 'z')",
            "UPDATE other SET n = n + 1",
        ],
    );
    database.wait_until_history_is_complete(sink, "other");
    for (table, _, value, written) in &keys {
        for key in [*value, *written] {
            let table = format!("key_{table}");
            is_timeline(sink, &[&table, key], &["create"]);
        }
    }
    for key in ["a=x,y,b=z", "b=z,a=\"x,y\"", r#"{"a":"x,y","b":"z"}"#] {
        is_timeline(sink, &["key_co", key], &["create"]);
    }
}
