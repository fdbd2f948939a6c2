//! Each table has a history, whatever it is called, and whatever its columns and keys are.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed};
use postgres::Client;
use serde_json::{Value, json};

use super::timeline::{is_timeline, ops, start, states};

const TABLES: &[&str] = &[
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
];

#[test]
fn every_table_has_a_history_whatever_it_is_called() {
    let bed = TestBed::start();
    let database = bed.database("called");
    let mut client = database.source();
    run(&mut client, TABLES);
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

    arrays_of_arrays_come_back(&sink, &mut client);
    let dlq = sink.run_command(&["dlq", "list"]);
    assert!(!dlq.contains("CDC"), "{dlq}");

    keys_are_found_as_people_write_them(&database, &sink);
    what_is_no_fact_of_the_row_is_marked(&database, &sink);
}

/// As PostgreSQL prints them.
fn arrays_of_arrays_come_back(sink: &CompanionSink, client: &mut Client) {
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
