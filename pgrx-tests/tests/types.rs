//! Values keep their worth: types with their extremes, as the interface's table of types says (G8).

use pg_cdc_tests::TestBed;
use serde_json::json;

/// Type, literal, JSON in the event.
fn cases() -> Vec<(&'static str, &'static str, serde_json::Value)> {
    vec![
        ("boolean", "true", json!(true)),
        ("bit(1)", "1", json!(true)),
        ("smallint", "-32768", json!(-32768)),
        ("integer", "2147483647", json!(2_147_483_647)),
        ("bigint", "9223372036854775807", json!(i64::MAX)),
        ("bigint", "-9223372036854775808", json!(i64::MIN)),
        ("oid", "4294967295", json!(4_294_967_295_u32)),
        ("real", "0.1", json!(0.1)),
        ("double precision", "0.1", json!(0.1)),
        ("double precision", "1e300", json!(1e300)),
        ("double precision", "NaN", json!("NaN")),
        ("double precision", "-Infinity", json!("-Infinity")),
        ("numeric", "10.00", json!("10.00")),
        ("numeric", "-0.000120", json!("-0.000120")),
        (
            "numeric",
            "123456789012345678901234567890.1234567890",
            json!("123456789012345678901234567890.1234567890"),
        ),
        ("numeric", "1e-20", json!("0.00000000000000000001")),
        ("numeric", "100000000", json!("100000000")),
        ("numeric", "NaN", json!("NaN")),
        ("numeric", "Infinity", json!("Infinity")),
        (
            "text",
            "Zürich \"x\" \\ \n\t\u{1f600}",
            json!("Zürich \"x\" \\ \n\t\u{1f600}"),
        ),
        ("varchar(10)", "", json!("")),
        ("char(4)", "ab", json!("ab  ")),
        ("name", "a_name", json!("a_name")),
        ("bytea", "\\x010203", json!("AQID")),
        ("bytea", "\\x", json!("")),
        (
            "uuid",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
        ("json", "{\"a\": 1}", json!("{\"a\": 1}")),
        ("jsonb", "{\"b\":[1,null]}", json!("{\"b\": [1, null]}")),
        ("date", "2026-11-21", json!("2026-11-21Z")),
        ("date", "0044-03-15 BC", json!("-0043-03-15Z")),
        ("date", "12026-01-01", json!("+12026-01-01Z")),
        ("date", "infinity", json!("infinity")),
        ("time", "04:05:11.789", json!("04:05:11.789Z")),
        ("time", "24:00:00", json!("24:00:00Z")),
        (
            "timetz",
            "13:51:30.123789+02",
            json!("13:51:30.123789+02:00"),
        ),
        (
            "timestamp",
            "2026-11-21 10:40:00.123456",
            json!("2026-11-21T10:40:00.123456Z"),
        ),
        (
            "timestamp",
            "2026-11-21 10:40:00",
            json!("2026-11-21T10:40:00Z"),
        ),
        (
            "timestamp",
            "294276-12-31 23:59:59.999999",
            json!("+294276-12-31T23:59:59.999999Z"),
        ),
        (
            "timestamp",
            "4713-01-01 00:00:00 BC",
            json!("-4712-01-01T00:00:00Z"),
        ),
        (
            "timestamptz",
            "2026-11-21 10:40:00+02",
            json!("2026-11-21T08:40:00.000000Z"),
        ),
        ("timestamptz", "-infinity", json!("-infinity")),
        (
            "interval",
            "1 year 2 mons 3 days 4:05:06.78",
            json!("P1Y2M3DT4H5M6.78S"),
        ),
        (
            "interval",
            "-1 year 2 mons -3 days 4 hours",
            json!("P-10M-3DT4H"),
        ),
        ("varbit", "0101", json!("0101")),
        ("inet", "10.0.0.7/8", json!("10.0.0.7/8")),
        ("pg_lsn", "16/B374D848", json!("16/B374D848")),
        (
            "tstzrange",
            "[2026-01-01 00:00:00+00,)",
            json!("[\"2026-01-01 00:00:00+00\",)"),
        ),
        ("point", "(1,2)", json!("(1,2)")),
        ("tsvector", "'cat':1 'fat':2", json!("'cat':1 'fat':2")),
        ("mood", "so lala", json!("so lala")),
        ("positive", "7", json!(7)),
        ("text", "NULL", json!(null)),
    ]
}

#[test]
fn every_value_is_in_the_event_as_the_table_of_types_says() {
    let cases = cases();
    let database = TestBed::shared().database("types");
    let mut client = database.source();
    // Settings of the writer that change what output functions write must not matter.
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('so lala', 'good');
             CREATE DOMAIN positive AS int CHECK (VALUE > 0);
             SET DateStyle = 'SQL, DMY'; SET IntervalStyle = sql_standard; SET TimeZone = 'Asia/Kathmandu';
             SET extra_float_digits = -15; SET bytea_output = escape;",
        )
        .expect("types and settings");
    let columns: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(n, (kind, ..))| format!("c{n} {kind}"))
        .collect();
    let values: Vec<String> = cases
        .iter()
        .map(|(kind, literal, _)| match *literal {
            "NULL" => "NULL".to_owned(),
            literal => format!("'{}'::{kind}", literal.replace('\'', "''")),
        })
        .collect();
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, {}); SELECT cdc_track('t');
             SET standard_conforming_strings = on; SET DateStyle = 'ISO, DMY';
             INSERT INTO t VALUES (1, {}); SET DateStyle = 'SQL, DMY';
             UPDATE t SET id = id; DELETE FROM t;",
            columns.join(", "),
            values.join(", ")
        ))
        .expect("one row of everything");
    let records = database.records("t");
    let images: Vec<serde_json::Value> = records
        .iter()
        .filter(|r| r.is_row_change())
        .flat_map(|r| [r.json()["before"].clone(), r.json()["after"].clone()])
        .filter(|image| !image.is_null())
        .collect();
    assert_eq!(
        images.len(),
        4,
        "an insert, both sides of an update, a delete"
    );
    for image in images {
        for (n, (kind, literal, expected)) in cases.iter().enumerate() {
            assert_eq!(&image[format!("c{n}")], expected, "{kind} {literal}");
        }
    }
}

#[test]
fn toasted_dropped_and_added_columns_are_as_the_row_has_them() {
    let database = TestBed::shared().database("columns");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, gone text, big text, n int);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             SELECT cdc_track('t');
             INSERT INTO t VALUES (1, 'x', repeat('abc', 100000), 1);
             UPDATE t SET n = 2;
             ALTER TABLE t DROP gone;
             ALTER TABLE t ADD later text DEFAULT 'was not there';
             UPDATE t SET n = 3;
             ALTER TABLE t RENAME n TO number;
             DELETE FROM t;",
        )
        .expect("the changes");
    let records = database.records("t");
    let changes: Vec<_> = records
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.json())
        .collect();
    let big = "abc".repeat(100_000);
    assert_eq!(
        changes[0]["after"],
        json!({"id": 1, "gone": "x", "big": big, "n": 1})
    );
    assert_eq!(
        changes[1]["after"],
        json!({"id": 1, "gone": "x", "big": big, "n": 2})
    );
    assert_eq!(
        changes[2]["before"],
        json!({"id": 1, "big": big, "n": 2, "later": "was not there"})
    );
    assert_eq!(
        changes[2]["after"],
        json!({"id": 1, "big": big, "n": 3, "later": "was not there"})
    );
    assert_eq!(
        changes[3]["before"],
        json!({"id": 1, "big": big, "number": 3, "later": "was not there"})
    );
    let hashes: std::collections::BTreeSet<&str> = records
        .iter()
        .filter(|r| r.is_row_change())
        .filter_map(|r| r.header("cdc.schema"))
        .collect();
    assert_eq!(hashes.len(), 3, "one for each list of columns");
}

#[test]
fn who_and_why_are_in_every_event() {
    let database = TestBed::shared().database("who");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE ROLE app_rw;
             CREATE TABLE t (id int PRIMARY KEY, v int); GRANT ALL ON t TO app_rw;
             SELECT cdc_track('t');
             SET application_name = 'crm';
             SET ROLE app_rw;
             BEGIN; SELECT cdc_context('ann', 'moved', 'r-17', '{\"tenant\": \"t1\"}');
               INSERT INTO t VALUES (1, 1);
               SELECT cdc_context(reason => 'another', context => '{\"ticket\": 7}');
               UPDATE t SET v = 2;
             COMMIT;
             DELETE FROM t;",
        )
        .expect("the changes");
    let audits: Vec<_> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.json()["audit"].clone())
        .collect();
    let shown: Vec<_> = audits
        .iter()
        .map(|a| {
            json!([
                a["actor"],
                a["reason"],
                a["request_id"],
                a["session_user"],
                a["current_user"],
                a["application_name"],
                a["client_addr"],
                a["context"]
            ])
        })
        .collect();
    assert_eq!(
        shown,
        [
            json!(["ann", "moved", "r-17", "postgres", "app_rw", "crm", "127.0.0.1", {"tenant": "t1"}]),
            json!(["ann", "another", "r-17", "postgres", "app_rw", "crm", "127.0.0.1", {"tenant": "t1", "ticket": 7}]),
            json!([
                null,
                null,
                null,
                "postgres",
                "app_rw",
                "crm",
                "127.0.0.1",
                {}
            ]),
        ]
    );
}

#[test]
fn rows_that_a_replication_origin_applies_name_it() {
    let database = TestBed::shared().database("origins");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t'), pg_replication_origin_create('far_away')")
        .expect("track");
    client
        .batch_execute(
            "SELECT pg_replication_origin_session_setup('far_away'); INSERT INTO t VALUES (1)",
        )
        .expect("a row of the origin");
    client
        .batch_execute("SELECT pg_replication_origin_session_reset(); INSERT INTO t VALUES (2)")
        .expect("a row of our own");
    let origins: std::collections::BTreeMap<String, serde_json::Value> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| {
            (
                r.key_text().to_owned(),
                r.json()["source"]["origin"].clone(),
            )
        })
        .collect();
    assert_eq!(origins["{\"id\":1}"], json!("far_away"));
    assert_eq!(origins["{\"id\":2}"], json!(null));
}
