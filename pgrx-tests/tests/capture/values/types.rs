//! Types with their extremes, as the table of types says, whatever the writer has set.

use pg_cdc_tests::TestBed;
use serde_json::json;

/// Types that the tests make for themselves.
pub(super) const OWN_TYPES: &str = "
    CREATE EXTENSION hstore; CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('so lala', 'good');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN numbers AS int[];
    CREATE TYPE address AS (street text, zip int, floors int[]);
    CREATE TYPE person AS (name text, home address, mood mood);";

/// Type, literal, JSON in the event.
type Case = (&'static str, &'static str, serde_json::Value);

fn cases() -> Vec<Case> {
    [
        numbers(),
        texts_and_bytes(),
        times(),
        other_types(),
        arrays_and_rows(),
    ]
    .concat()
}

fn numbers() -> Vec<Case> {
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
    ]
}

fn texts_and_bytes() -> Vec<Case> {
    vec![
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
    ]
}

fn times() -> Vec<Case> {
    vec![
        ("date", "2026-11-21", json!("2026-11-21")),
        ("date", "0044-03-15 BC", json!("-0043-03-15")),
        ("date", "12026-01-01", json!("+12026-01-01")),
        ("date", "infinity", json!("infinity")),
        ("time", "04:05:11.789", json!("04:05:11.789")),
        ("time", "24:00:00", json!("24:00:00")),
        (
            "timetz",
            "13:51:30.123789+02",
            json!("13:51:30.123789+02:00"),
        ),
        (
            "timestamp",
            "2026-11-21 10:40:00.123456",
            json!("2026-11-21T10:40:00.123456"),
        ),
        (
            "timestamp",
            "2026-11-21 10:40:00",
            json!("2026-11-21T10:40:00"),
        ),
        (
            "timestamp",
            "294276-12-31 23:59:59.999999",
            json!("+294276-12-31T23:59:59.999999"),
        ),
        (
            "timestamp",
            "4713-01-01 00:00:00 BC",
            json!("-4712-01-01T00:00:00"),
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
    ]
}

fn other_types() -> Vec<Case> {
    vec![
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
        ("money", "1234.11", json!("1234.11")),
        ("money", "-0.05", json!("-0.05")),
        ("bit(3)", "010", json!("010")),
        ("\"char\"", "x", json!("x")),
        ("xml", "<a b=\"1\">c</a>", json!("<a b=\"1\">c</a>")),
        ("citext", "Aa", json!("Aa")),
        ("cidr", "10.0.0.0/8", json!("10.0.0.0/8")),
        (
            "macaddr8",
            "08:00:2b:01:02:03:04:05",
            json!("08:00:2b:01:02:03:04:05"),
        ),
        ("int4multirange", "{[1,3),[5,7)}", json!("{[1,3),[5,7)}")),
        ("jsonpath", "$.\"a\"", json!("$.\"a\"")),
        (
            "xid8",
            "18446744073709551615",
            json!("18446744073709551615"),
        ),
        ("tid", "(4294967294,1)", json!("(4294967294,1)")),
        ("int2vector", "1 2", json!("1 2")),
        (
            "hstore",
            "k=>\"v \\\" \\\\\", n=>NULL",
            json!("{\"k\":\"v \\\" \\\\\",\"n\":null}"),
        ),
        ("hstore", "", json!("{}")),
    ]
}

fn arrays_and_rows() -> Vec<Case> {
    vec![
        ("integer[]", "{}", json!([])),
        ("integer[]", "{{1,2},{3,NULL}}", json!([[1, 2], [3, null]])),
        ("integer[]", "{{{1},{2}}}", json!([[[1], [2]]])),
        ("integer[]", "[0:1]={1,2}", json!("[0:1]={1,2}")),
        (
            "text[]",
            "{a,\"b, c\",NULL,\"\",\"NULL\"}",
            json!(["a", "b, c", null, "", "NULL"]),
        ),
        ("numeric(9,2)[]", "{1.5,NaN}", json!(["1.50", "NaN"])),
        (
            "date[]",
            "{2026-11-21,-infinity}",
            json!(["2026-11-21", "-infinity"]),
        ),
        ("bytea[]", "{\"\\\\x01\"}", json!(["AQ=="])),
        (
            "box[]",
            "{(2,2),(1,1);(3,3),(1,1)}",
            json!(["(2,2),(1,1)", "(3,3),(1,1)"]),
        ),
        ("money[]", "{1.10}", json!(["1.10"])),
        ("mood[]", "{good,\"so lala\"}", json!(["good", "so lala"])),
        ("positive[]", "{1}", json!([1])),
        ("numbers", "{1,2}", json!([1, 2])),
        (
            "address",
            "(\"a, \"\"b\"\"\",,\"{1,2}\")",
            json!({"street": "a, \"b\"", "zip": null, "floors": [1, 2]}),
        ),
        (
            "address[]",
            "{\"(a,1,)\",NULL}",
            json!([{"street": "a", "zip": 1, "floors": null}, null]),
        ),
        (
            "person",
            "(ann,\"(a,1,)\",good)",
            json!({"name": "ann", "home": {"street": "a", "zip": 1, "floors": null}, "mood": "good"}),
        ),
    ]
}

#[test]
fn every_value_is_in_the_event_as_the_table_of_types_says() {
    let cases = cases();
    let database = TestBed::shared().database("types");
    let mut client = database.source();
    client.batch_execute(OWN_TYPES).expect("types");
    // Settings of the writer that change what output functions write must not matter.
    client
        .batch_execute(
            "SET DateStyle = 'SQL, DMY'; SET IntervalStyle = sql_standard; SET TimeZone = 'Asia/Kathmandu';
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

/// Names of objects are qualified the same way, and money has the same digits, whatever the writer has set.
#[test]
fn text_does_not_depend_on_the_writers_settings() {
    let database = TestBed::shared().database("same_text");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE SCHEMA s; CREATE TABLE s.x (a int); CREATE TYPE s.ty AS (a int, b regclass);
             CREATE FUNCTION s.fx(s.ty) RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE OPERATOR s.@#@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
             CREATE TEXT SEARCH CONFIGURATION s.cfg (COPY = simple);
             CREATE TEXT SEARCH DICTIONARY s.dict (TEMPLATE = simple);
             CREATE COLLATION s.coll FROM \"C\";
             CREATE DOMAIN s.dom AS regclass;
             CREATE TABLE t (id int PRIMARY KEY, a regclass, b regtype, c regproc, d regprocedure, e regoper,
                 f regoperator, g regconfig, h regdictionary, i regcollation, j regnamespace, k regclass[],
                 l s.ty, m s.dom, n money, o s.ty[], p regrole);
             SELECT cdc_track('t');
             SET search_path = s, public; SET quote_all_identifiers = on; SET lc_monetary = 'C';
             INSERT INTO public.t VALUES (1, 'x', 'ty', 'fx', 'fx(ty)', '@#@', '@#@(int,int)', 'cfg', 'dict', 'coll', 's',
                 '[0:1]={x,t}', '(1,x)', 'x', 1234.56, '{\"(1,x)\"}', 'postgres');
             RESET search_path; RESET quote_all_identifiers; SET lc_monetary = 'C.UTF-8';
             UPDATE t SET id = 2;",
        )
        .expect("one row under two settings");
    let records = database.records("t");
    let mut images: Vec<serde_json::Value> = records
        .iter()
        .filter(|record| record.op() == "c")
        .map(|record| record.json()["after"].clone())
        .collect();
    assert_eq!(images.len(), 2, "{images:?}");
    for image in &mut images {
        image["id"] = 0.into();
    }
    assert_eq!(images[0], images[1]);
    assert_eq!(images[0]["a"], "s.x");
    assert_eq!(images[0]["d"], "s.fx(s.ty)");
    assert_eq!(images[0]["k"], "[0:1]={s.x,public.t}");
    assert_eq!(images[0]["l"], json!({"a": 1, "b": "s.x"}));
    assert_eq!(images[0]["n"], "1234.56");
}

#[test]
fn changed_types_of_columns_are_seen_by_the_next_row() {
    let database = TestBed::shared().database("changed_types");
    let mut client = database.source();
    // A new label of an enum cannot be used before it is committed: so statement by statement.
    for statement in [
        "CREATE TYPE mood AS ENUM ('bad', 'good')",
        "CREATE TYPE address AS (street text, zip int)",
        "CREATE TABLE t (id int PRIMARY KEY, mood mood, home address, homes address[])",
        "SELECT cdc_track('t')",
        "INSERT INTO t VALUES (1, 'bad', ROW('a', 1), ARRAY[ROW('b', 2)::address])",
        "ALTER TYPE mood RENAME VALUE 'bad' TO 'sad'",
        "ALTER TYPE mood ADD VALUE 'great'",
        "ALTER TYPE address ADD ATTRIBUTE city text",
        "UPDATE t SET id = 2",
        "ALTER TYPE address DROP ATTRIBUTE zip",
        "UPDATE t SET mood = 'great', home = ROW('c', 'Bern')",
    ] {
        client
            .batch_execute(statement)
            .unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
    let images: Vec<serde_json::Value> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.json()["after"].clone())
        .filter(|image| !image.is_null())
        .collect();
    assert_eq!(
        images,
        [
            json!({"id": 1, "mood": "bad", "home": {"street": "a", "zip": 1}, "homes": [{"street": "b", "zip": 2}]}),
            json!({"id": 2, "mood": "sad", "home": {"street": "a", "zip": 1, "city": null}, "homes": [{"street": "b", "zip": 2, "city": null}]}),
            json!({"id": 2, "mood": "great", "home": {"street": "c", "city": "Bern"}, "homes": [{"street": "b", "city": null}]}),
        ]
    );
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
    let definitions: std::collections::BTreeSet<&str> = records
        .iter()
        .filter(|r| r.is_row_change())
        .filter_map(|r| r.header("cdc.control"))
        .collect();
    assert_eq!(definitions.len(), 3, "one for each list of columns");
}
