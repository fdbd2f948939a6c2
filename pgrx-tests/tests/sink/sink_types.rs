//! Values of all types.

use pg_cdc_tests::hand_made_events::Source;
use pg_cdc_tests::statements::one_text;
use serde_json::{Value, json};

/// A column's name and type, its value in an event, and as text on the replica.
type Column = (&'static str, &'static str, Value, &'static str);

fn booleans_and_numbers() -> Vec<Column> {
    vec![
        (
            "id",
            "bigint",
            json!(9_223_372_036_854_775_807_i64),
            "9223372036854775807",
        ),
        ("b", "boolean", json!(true), "true"),
        ("bit1", "bit(1)", json!(false), "0"),
        ("bits", "bit varying(8)", json!("0101"), "0101"),
        ("f4", "real", json!(0.1), "0.1"),
        ("f8", "double precision", json!(1e300), "1e+300"),
        ("nan", "double precision", json!("NaN"), "NaN"),
        ("inf", "real", json!("-Infinity"), "-Infinity"),
        ("num", "numeric(12,2)", json!("10.00"), "10.00"),
        (
            "huge",
            "numeric",
            json!("123456789012345678901234567890.000000000000000000000000000001"),
            "123456789012345678901234567890.000000000000000000000000000001",
        ),
        ("cash", "money", json!("1234.11"), "$1,234.11"),
    ]
}

/// Also a UUID, bytes and JSON, which stand in an event as texts.
fn texts() -> Vec<Column> {
    vec![
        ("txt", "text", json!("a\"b\\c\nä €"), "a\"b\\c\nä €"),
        ("chr", "character(4)", json!("ab  "), "ab"),
        (
            "uid",
            "uuid",
            json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
        ("raw", "bytea", json!("AQID/w=="), "\\x010203ff"),
        ("js", "json", json!("{\"a\":  1}"), "{\"a\":  1}"),
        ("jb", "jsonb", json!("null"), "null"),
    ]
}

fn times() -> Vec<Column> {
    vec![
        ("d", "date", json!("2026-11-21"), "2026-11-21"),
        ("bc", "date", json!("-0043-03-15"), "0044-03-15 BC"),
        ("far", "date", json!("+12026-01-01"), "12026-01-01"),
        ("never", "date", json!("infinity"), "infinity"),
        (
            "t",
            "time without time zone",
            json!("04:05:11.789"),
            "04:05:11.789",
        ),
        (
            "midnight",
            "time without time zone",
            json!("24:00:00"),
            "24:00:00",
        ),
        (
            "tz",
            "time with time zone",
            json!("13:51:30.123789+02:00"),
            "13:51:30.123789+02",
        ),
        (
            "ts",
            "timestamp without time zone",
            json!("2026-11-21T10:40:00.123456"),
            "2026-11-21 10:40:00.123456",
        ),
        (
            "tsbc",
            "timestamp without time zone",
            json!("-0043-03-15T01:02:03"),
            "0044-03-15 01:02:03 BC",
        ),
        (
            "tstz",
            "timestamp with time zone",
            json!("2026-11-21T10:40:00.123456Z"),
            "2026-11-21 10:40:00.123456+00",
        ),
        (
            "tsinf",
            "timestamp with time zone",
            json!("-infinity"),
            "-infinity",
        ),
        (
            "iv",
            "interval",
            json!("P1Y2M3DT4H5M6.78S"),
            "1 year 2 mons 3 days 04:05:06.78",
        ),
        (
            "ivneg",
            "interval",
            json!("P-1Y2M-3DT4H"),
            "-10 mons -3 days +04:00:00",
        ),
    ]
}

/// They stand in an event as PostgreSQL writes them.
fn types_of_postgresql_alone() -> Vec<Column> {
    vec![
        ("net", "inet", json!("10.0.0.1/8"), "10.0.0.1/8"),
        (
            "mac",
            "macaddr",
            json!("08:00:2b:01:02:03"),
            "08:00:2b:01:02:03",
        ),
        (
            "rng",
            "tstzrange",
            json!("[\"2026-01-01 00:00:00+00\",)"),
            "[\"2026-01-01 00:00:00+00\",)",
        ),
        ("pt", "point", json!("(1,2)"), "(1,2)"),
        ("vec", "tsvector", json!("'a' 'b'"), "'a' 'b'"),
        ("lsn", "pg_lsn", json!("0/15A3098"), "0/15A3098"),
    ]
}

fn arrays() -> Vec<Column> {
    vec![
        (
            "ints",
            "integer[]",
            json!([[1, 2], [3, null]]),
            "{{1,2},{3,NULL}}",
        ),
        ("shifted", "integer[]", json!("[0:1]={1,2}"), "[0:1]={1,2}"),
        (
            "texts",
            "text[]",
            json!(["a,b", "", null, "NULL", "\"{}\\"]),
            "{\"a,b\",\"\",NULL,\"NULL\",\"\\\"{}\\\\\"}",
        ),
        ("raws", "bytea[]", json!(["AQ=="]), "{\"\\\\x01\"}"),
        (
            "days",
            "date[]",
            json!(["-0043-03-15", null]),
            "{\"0044-03-15 BC\",NULL}",
        ),
        ("empty", "text[]", json!([]), "{}"),
    ]
}

/// Of an extension, and of types that somebody has made; and what is nothing or computed.
fn values_of_the_targets_own_types() -> Vec<Column> {
    vec![
        (
            "hs",
            "hstore",
            json!("{\"k\":\"v\\\"\",\"n\":null}"),
            "\"k\"=>\"v\\\"\", \"n\"=>NULL",
        ),
        ("feel", "mood", json!("happy"), "happy"),
        (
            "addr",
            "address",
            json!({"street": "a \"b\", (c)", "zip": null, "since": "2026-01-01"}),
            "(\"a \"\"b\"\", (c)\",,2026-01-01)",
        ),
        (
            "addrs",
            "address[]",
            json!([{"street": "x", "zip": 1, "since": null}]),
            "{\"(x,1,)\"}",
        ),
        ("dom", "price", json!("9.90"), "9.90"),
        ("nothing", "text", Value::Null, "NULL"),
        ("generated", "integer", json!(7), "7"),
    ]
}

#[test]
fn all_types_come_back() {
    let mut source = Source::new("typed");
    let columns = [
        booleans_and_numbers(),
        texts(),
        times(),
        types_of_postgresql_alone(),
        arrays(),
        values_of_the_targets_own_types(),
    ]
    .concat();
    source
        .replica()
        .batch_execute(
            "
        CREATE EXTENSION hstore;
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        CREATE TYPE address AS (street text, zip integer, since date);
        CREATE DOMAIN price AS numeric(6,2) CHECK (VALUE > 0)",
        )
        .expect("types of the target");
    let definitions: Vec<_> = columns
        .iter()
        .map(|(name, type_name, _, _)| (*name, *type_name))
        .collect();
    source.track("t", &definitions, &["id"]);
    let image: serde_json::Map<_, _> = columns
        .iter()
        .map(|(name, _, value, _)| ((*name).to_owned(), value.clone()))
        .collect();
    let event = source.create(
        "t",
        Some(r#"{"id":9223372036854775807}"#),
        &Value::Object(image),
    );
    source.send(&event);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let mut replica = source.replica();
    replica
        .batch_execute("SET timezone = 'UTC'; SET lc_monetary = 'en_US.UTF-8'")
        .or_else(|_| replica.batch_execute("SET timezone = 'UTC'"))
        .expect("a session");
    let parked = one_text(
        &mut replica,
        "SELECT string_agg(message, ';') FROM companion.parked",
    );
    assert_eq!(parked, "NULL");
    for (name, type_name, _, expected) in &columns {
        let expected = if *type_name == "money" {
            one_text(&mut replica, "SELECT 1234.11::money")
        } else {
            (*expected).to_owned()
        };
        let found = one_text(&mut replica, &format!("SELECT {name} FROM t"));
        assert_eq!(found, expected, "{name} {type_name}");
    }
}
