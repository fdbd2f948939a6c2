//! Values keep their worth: types with their extremes, as the table of types says (G8).

use pg_cdc_tests::TestBed;
use serde_json::json;

/// Types that the tests make for themselves.
const OWN_TYPES: &str = "
    CREATE EXTENSION hstore; CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('so lala', 'good');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN numbers AS int[];
    CREATE TYPE address AS (street text, zip int, floors int[]);
    CREATE TYPE person AS (name text, home address, mood mood);";

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

/// Type, and an expression for a random value of it, over the row's number `n`.
const RANDOM: [(&str, &str); 60] = [
    ("boolean", "random() < 0.5"),
    ("smallint", "(random() * 65535 - 32768)::int::smallint"),
    (
        "integer",
        "(random() * 4294967295 - 2147483648)::bigint::int",
    ),
    ("bigint", "(random() * 1.8e19 - 9e18)::numeric::bigint"),
    ("oid", "(random() * 4294967295)::bigint::oid"),
    (
        "real",
        "CASE n % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE ((random() - 0.5) * 10 ^ (random() * 70 - 35))::real END",
    ),
    (
        "double precision",
        "CASE n % 5 WHEN 0 THEN 'Infinity' WHEN 1 THEN '-0' ELSE (random() - 0.5) * 10 ^ (random() * 600 - 300) END",
    ),
    (
        "numeric",
        "CASE n % 9 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE ((random() - 0.5) * 10 ^ (random() * 100 - 50))::numeric END",
    ),
    (
        "numeric",
        "(repeat((1 + n % 9)::text, (random() * 1000)::int + 1) || '.' || repeat(n::text, (random() * 300)::int))::numeric",
    ),
    ("numeric(30,10)", "((random() - 0.5) * 1e15)::numeric"),
    ("money", "(random() * 2e13 - 1e13)::numeric::money"),
    (
        "text",
        "(SELECT string_agg(chr(1 + (random() * 55000)::int), '') FROM generate_series(n, n + (random() * 30)::int))",
    ),
    (
        "varchar(40)",
        "repeat(chr(32 + n % 90), (random() * 40)::int)",
    ),
    ("char(9)", "chr(33 + n % 90)"),
    ("\"char\"", "chr(33 + n % 90)::\"char\""),
    ("name", "md5(random()::text)::name"),
    ("citext", "upper(md5(random()::text))"),
    (
        "bytea",
        "substr(decode(repeat(md5(random()::text), 4), 'hex'), 1, (random() * 64)::int)",
    ),
    ("uuid", "md5(random()::text)::uuid"),
    (
        "json",
        "json_build_object(md5(n::text), random(), 'q\"', NULL)",
    ),
    (
        "jsonb",
        "jsonb_build_array(n, NULL, jsonb_build_object('a', md5(random()::text)))",
    ),
    ("xml", "('<a b=\"' || n || '\">&amp;</a>')::xml"),
    (
        "hstore",
        "hstore(ARRAY[md5(n::text), 'q\"\\'], ARRAY[chr(1 + (random() * 55000)::int), NULL])",
    ),
    (
        "date",
        "CASE n % 9 WHEN 0 THEN 'infinity' ELSE '2000-01-01'::date + (random() * 9e6 - 2.4e6)::int END",
    ),
    ("time", "'00:00'::time + random() * interval '1 day'"),
    (
        "timetz",
        "(('00:00'::time + random() * interval '1 day')::text || (ARRAY['+00', '-12:30', '+05:45:10'])[1 + n % 3])::timetz",
    ),
    (
        "timestamp",
        "CASE n % 9 WHEN 0 THEN '-infinity' ELSE '2000-01-01'::timestamp + make_interval(secs => random() * 4e11 - 2e11) END",
    ),
    (
        "timestamptz",
        "CASE n % 9 WHEN 0 THEN 'infinity' ELSE '2000-01-01'::timestamptz + make_interval(secs => random() * 4e11 - 2e11) END",
    ),
    (
        "interval",
        "make_interval((random() * 200 - 100)::int, (random() * 40 - 20)::int, 0, (random() * 90 - 45)::int, 0, 0, random() * 2e6 - 1e6)",
    ),
    ("bit(1)", "(n % 2)::bit(1)"),
    ("bit(5)", "(random() * 31)::int::bit(5)"),
    (
        "varbit",
        "substring((random() * 2147483647)::int::bit(32) FROM 1 FOR n % 33)",
    ),
    ("inet", "('10.' || n % 256 || '.0.7/' || n % 33)::inet"),
    ("cidr", "('fe80::' || to_hex(n) || '/128')::cidr"),
    ("macaddr", "substr(md5(random()::text), 1, 12)::macaddr"),
    ("macaddr8", "substr(md5(random()::text), 1, 16)::macaddr8"),
    (
        "int4range",
        "CASE n % 4 WHEN 0 THEN 'empty' WHEN 1 THEN int4range(NULL, n) ELSE int4range(n, 2 * n) END",
    ),
    ("numrange", "numrange((random() * n)::numeric, n + 1, '(]')"),
    (
        "tstzrange",
        "tstzrange('2000-01-01'::timestamptz + random() * interval '90 years', NULL)",
    ),
    (
        "datemultirange",
        "datemultirange(daterange('2000-01-01', '2000-01-01'::date + n + 1), daterange('2020-01-01', NULL))",
    ),
    ("point", "point(random() * n, -random())"),
    ("line", "line(point(0, random()), point(n + 1, random()))"),
    ("lseg", "lseg(point(0, random()), point(n, random()))"),
    ("box", "box(point(0, random()), point(n, random()))"),
    (
        "path",
        "CASE n % 2 WHEN 0 THEN pclose(path '((0,1),(2,3))') ELSE popen(path '((0,1),(2,3))') END",
    ),
    ("polygon", "polygon(box(point(0, random()), point(n, 1)))"),
    ("circle", "circle(point(random(), n), random())"),
    (
        "tsvector",
        "to_tsvector('english', md5(random()::text) || ' fat cats')",
    ),
    ("tsquery", "to_tsquery('english', 'fat & !rat' || n)"),
    ("pg_lsn", "'0/0'::pg_lsn + (random() * 1e15)::numeric"),
    ("xid8", "(random() * 1e15)::bigint::text::xid8"),
    ("mood", "(ARRAY['so lala', 'good'])[1 + n % 2]::mood"),
    ("positive", "n + 1"),
    ("numbers", "ARRAY[n, NULL, -n]"),
    (
        "integer[]",
        "CASE n % 4 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY[[n, NULL::int], [3, 4]] WHEN 2 THEN '[-1:0]={1,NULL}' ELSE ARRAY[n] END",
    ),
    (
        "text[]",
        "ARRAY[md5(random()::text), NULL, '', 'NULL', '{a,\"b\\', chr(1 + (random() * 55000)::int)]",
    ),
    (
        "timestamptz[]",
        "ARRAY['infinity', '2000-01-01'::timestamptz + random() * interval '100 years', '0044-03-15 BC', NULL]",
    ),
    (
        "bytea[]",
        "ARRAY[decode(md5(random()::text), 'hex'), '', NULL]",
    ),
    (
        "address[]",
        "ARRAY[ROW('(\"', n, ARRAY[n])::address, NULL, ROW('', NULL, '{}')::address]",
    ),
    (
        "person",
        "ROW(chr(1 + (random() * 55000)::int), ROW(',\\', n, ARRAY[[n], [NULL::int]])::address, 'good')::person",
    ),
];

#[test]
fn random_values_of_every_type_are_the_same_in_the_replica() {
    const ROWS: usize = 300;
    let database = TestBed::shared().database("random_types");
    let sink = database
        .bed()
        .companion_sink(database.plan_companion_sink());
    let (mut source, mut copy) = (database.source(), database.replica());
    for client in [&mut source, &mut copy] {
        client.batch_execute(OWN_TYPES).expect("types");
    }
    let seed: f64 = source
        .query_one("SELECT random() AS seed", &[])
        .expect("a seed")
        .get(0);
    println!("seed {seed}");
    source
        .execute("SELECT setseed($1)", &[&seed])
        .expect("setseed");
    let columns: Vec<String> = RANDOM
        .iter()
        .enumerate()
        .map(|(place, (kind, _))| format!("c{place} {kind}"))
        .collect();
    let values: Vec<String> = RANDOM
        .iter()
        .map(|(kind, value)| format!("CASE WHEN random() > 0.1 THEN ({value})::{kind} END"))
        .collect();
    let (columns, values) = (columns.join(", "), values.join(", "));
    let names: Vec<String> = (0..RANDOM.len()).map(|place| format!("c{place}")).collect();
    let names = names.join(", ");
    source
        .batch_execute(&format!(
            "SET standard_conforming_strings = on;
             CREATE TABLE t (id int PRIMARY KEY, {columns}); SELECT cdc_track('t');
             INSERT INTO t SELECT n, {values} FROM generate_series(1, {ROWS}) AS n;
             UPDATE t SET ({names}) = (SELECT {values} FROM (SELECT t.id AS n) AS one) WHERE id % 2 = 0;
             DELETE FROM t WHERE id % 10 = 0;"
        ))
        .expect("random rows");
    sink.start();
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", database.bed().kafka(), &[database.topic("t")]);
    let rows = pg_cdc_tests::replica::assert_equal(&mut source, &mut copy, "public.t");
    assert_eq!(rows, ROWS - ROWS / 10);
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
