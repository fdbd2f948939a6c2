//! Random values of every type, on their way to the replica.

use pg_cdc_tests::TestBed;

use super::types::OWN_TYPES;

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
