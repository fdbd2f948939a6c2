//! Keys of all types, collations, directions and operator classes.

use pg_cdc_tests::TestBed;
use pg_cdc_tests::statements::run;
use postgres::Client;

use super::progress::{snapshot, wait_for_state};
use super::reader::{fold, ops};

/// Capitals and small letters take turns: byte order and the type's own order differ everywhere.
const MIXED: &str = "CASE WHEN n % 2 = 0 THEN 'an' ELSE 'Bn' END || lpad(n::text, 3, '0')";

/// Columns, key and values. A key behind `!` is the identity by another index than the primary key.
const CASES: [(&str, &str, &str); 24] = [
    ("a text, b int", "a, b", "md5((n / 7)::text), n"),
    (
        "a text COLLATE \"C\", b text",
        "a, b",
        "repeat('\u{e4}', n % 5) || n, 'B'",
    ),
    (
        "a numeric, b float8",
        "a, b",
        "CASE WHEN n % 3 = 0 THEN numeric 'NaN' ELSE n / 7.0 END, CASE WHEN n = 5 THEN float8 'NaN' ELSE n END",
    ),
    (
        "a timestamptz, b bytea",
        "a, b",
        "timestamptz '2026-01-01' + n * interval '1 hour', decode(lpad(to_hex(n), 4, '0'), 'hex')",
    ),
    (
        "a uuid, b date",
        "a",
        "md5(n::text)::uuid, date '2026-01-01' + n",
    ),
    ("a char(5), b varchar(9)", "b, a", "n, 'it''s ' || n"),
    ("a citext, b int", "a", "{mixed}, n"),
    ("a int, b citext", "a, b", "n % 3, {mixed}"),
    (
        "a citext, b int",
        "a, b",
        "CASE WHEN n % 2 = 0 THEN 'a' ELSE 'B' END, n",
    ),
    ("a ltree, b int", "a", "({mixed})::ltree, n"),
    ("a hstore, b int", "a", "hstore({mixed}, 'v'), n"),
    (
        "a isbn, b int",
        "a",
        "('978' || lpad(n::text, 9, '0') || '?')::isbn13::isbn, n",
    ),
    ("a mails, b int", "a", "{mixed}, n"),
    (
        "a mood, b int",
        "a",
        "(CASE WHEN n % 2 = 0 THEN 'a' ELSE 'B' END || n)::mood, n",
    ),
    ("a citext[], b int", "a", "ARRAY[{mixed}]::citext[], n"),
    ("a pair, b int", "a", "(n % 3, {mixed})::pair, n"),
    (
        "a span, b int4range",
        "a, b",
        "span(n, n + 1.5), int4range(n, n + 2)",
    ),
    ("a text COLLATE lax, b int", "a", "{mixed}, n"),
    (
        "a \"char\", b name, c oid",
        "a, b, c",
        "chr(65 + n % 50)::\"char\", 'n' || n, n",
    ),
    (
        "a bit(12), b inet, c interval",
        "b, a",
        "n::bit(12), inet '10.0.0.0' + n, n * interval '1 day'",
    ),
    // The identity is another index than the primary key: its directions, classes and collations count.
    (
        "a citext NOT NULL, b int NOT NULL",
        "!a DESC, b",
        "{mixed}, n",
    ),
    (
        "a citext NOT NULL, b int NOT NULL",
        "!a DESC, b DESC NULLS LAST",
        "{mixed}, n % 7",
    ),
    (
        "a int NOT NULL, b text NOT NULL",
        "!a, b COLLATE backwards DESC NULLS LAST",
        "n % 3, {mixed}",
    ),
    (
        "a text NOT NULL, b varchar(9) NOT NULL",
        "!a text_pattern_ops, b varchar_pattern_ops DESC",
        "{mixed}, n",
    ),
];

fn make_types(client: &mut Client) {
    run(
        client,
        &[
            "CREATE EXTENSION citext",
            "CREATE EXTENSION ltree",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION isn",
            "CREATE COLLATION lax (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "CREATE COLLATION backwards (provider = icu, locale = 'de-u-co-phonebk')",
            "CREATE DOMAIN mail AS citext CHECK (VALUE LIKE '%n%')",
            "CREATE DOMAIN mails AS mail",
            "CREATE TYPE pair AS (x int, y citext)",
            "CREATE TYPE span AS RANGE (subtype = numeric)",
        ],
    );
    // Not in the order of their names, and more than a chunk.
    let labels: Vec<String> = (1..=300)
        .map(|n: u32| format!("'{}{n}'", if n.is_multiple_of(2) { 'a' } else { 'B' }))
        .collect();
    run(
        client,
        &[&format!("CREATE TYPE mood AS ENUM ({})", labels.join(", "))],
    );
}

/// A table for each case, and its snapshot: which one, of which table and columns.
fn ask_for_snapshots(client: &mut Client) -> Vec<(i64, String, &'static str)> {
    let index = "CREATE UNIQUE INDEX i_{t} ON {t} ({i}); ALTER TABLE {t} REPLICA IDENTITY USING INDEX i_{t}";
    let mut asked = Vec::new();
    for (number, (columns, key, values)) in CASES.into_iter().enumerate() {
        let values = values.replace("{mixed}", MIXED);
        let table = format!("t{number}");
        let identity = match key.strip_prefix('!') {
            None => format!("ALTER TABLE {table} ADD PRIMARY KEY ({key})"),
            Some(key) => index.replace("{t}", &table).replace("{i}", key),
        };
        run(
            client,
            &[
                &format!("CREATE TABLE {table} ({columns})"),
                &identity,
                &format!("INSERT INTO {table} SELECT {values} FROM generate_series(1, 300) AS n"),
                &format!("SELECT cdc_track('{table}')"),
            ],
        );
        let id = snapshot(client, &format!("cdc_snapshot('{table}')"));
        asked.push((id, table, columns));
    }
    asked
}

/// The snapshot that a rewrite asks for by itself.
fn a_rewrite_is_read_again(client: &mut Client) {
    run(client, &["ALTER TABLE t6 ALTER b TYPE bigint"]);
    let again: i64 = client
        .query_one("SELECT max(snapshot_id) FROM cdc_snapshots", &[])
        .expect("the snapshot")
        .get(0);
    wait_for_state(client, again, "done");
    let rows: i64 = client
        .query_one(
            "SELECT rows_done FROM cdc_snapshots WHERE snapshot_id = $1",
            &[&again],
        )
        .expect("the snapshot")
        .get(0);
    assert_eq!(rows, 300);
}

/// An order that contradicts itself is found out before a reader takes rows for deleted.
fn an_order_that_contradicts_itself_is_found_out(client: &mut Client) {
    let compare = |result: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION turned(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {result}btint4cmp($1, $2)'"
        )
    };
    run(
        client,
        &[
            &compare(""),
            "CREATE OPERATOR CLASS turned_ops FOR TYPE int USING btree AS
                 OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 turned(int, int)",
            "CREATE TABLE turning (a int NOT NULL)",
            "INSERT INTO turning SELECT generate_series(0, 9)",
            "CREATE UNIQUE INDEX turning_a ON turning (a turned_ops)",
            "ALTER TABLE turning REPLICA IDENTITY USING INDEX turning_a",
            "SELECT cdc_track('turning')",
            &compare("-"),
        ],
    );
    let id = snapshot(client, "cdc_snapshot('turning')");
    wait_for_state(
        client,
        id,
        "failed: CDC0506 rows of table \"turning\" do not come in the order of their key",
    );
}

#[test]
fn keys_of_all_kinds_are_read_in_their_own_order() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    let database = bed.database("keys");
    let mut client = database.source();
    make_types(&mut client);
    let asked = ask_for_snapshots(&mut client);
    for (id, table, columns) in asked {
        wait_for_state(&mut client, id, "done");
        let records = database.records(&table);
        // A chunk that was on its way when a session of the sender ended is there twice.
        assert!(
            ops(&records, "r") >= 300,
            "{columns}: {} rows",
            ops(&records, "r")
        );
        assert_eq!(fold(&records).len(), 300, "{columns}");
    }
    a_rewrite_is_read_again(&mut client);
    an_order_that_contradicts_itself_is_found_out(&mut client);
    bed.source().assert_never_crashed();
}
