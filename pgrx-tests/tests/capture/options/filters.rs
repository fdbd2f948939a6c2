//! Which rows are shipped: those that a condition holds for, which means the same for every writer.

use pg_cdc_tests::refusal;
use postgres::Client;
use serde_json::{Value, json};

use super::{change, changes, database};

#[test]
fn a_row_that_crosses_the_filter_is_created_or_deleted() {
    let database = database("filter");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, country text, n int);
             SELECT cdc_track('t', filter => $$country = 'CH' AND n > 0 -- both$$);
             INSERT INTO t VALUES (1, 'CH', 1), (2, 'DE', 1), (3, NULL, 1);
             UPDATE t SET n = n + 1;
             UPDATE t SET country = 'CH' WHERE id = 2;
             UPDATE t SET country = 'AT', n = 9 WHERE id = 1;
             UPDATE t SET id = 5 WHERE id = 2;
             DELETE FROM t;",
        )
        .expect("the changes");
    let row = |id: i32, n: i32| json!({"id": id, "country": "CH", "n": n});
    assert_eq!(
        changes(&database.records("t")),
        [
            change("c", Value::Null, row(1, 1)),
            change("u", row(1, 1), row(1, 2)),
            change("c", Value::Null, row(2, 2)),
            change("d", row(1, 2), Value::Null),
            change("d", row(2, 2), Value::Null),
            change("c", Value::Null, row(5, 2)),
            change("d", row(5, 2), Value::Null),
        ]
    );
}

#[test]
fn a_filter_means_the_same_for_every_writer() {
    let database = database("filter_path");
    let mut client = database.source();
    // An operator of somebody's own, first in his search_path, must not decide what is shipped.
    client
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
             CREATE TABLE t (id int PRIMARY KEY, country text);
             SELECT cdc_track('t', filter => $$country = 'CH'$$);
             SET search_path = evil, pg_catalog, public;
             INSERT INTO t VALUES (1, 'CH'), (2, 'DE');",
        )
        .expect("the rows");
    assert_eq!(
        changes(&database.records("t")),
        [change("c", Value::Null, json!({"id": 1, "country": "CH"}))]
    );
    refusal::coded(
        &mut client,
        "SELECT public.cdc_track('t', filter => $$country OPERATOR(evil.=) 'CH'$$)",
        "0A000",
        "CDC0111",
    );
}

/// Types with functions and operators of somebody's own, and a table of them.
const TYPES_OF_OTHERS: &str = "
    SET search_path = me, public;
    CREATE FUNCTION f(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN RAISE WARNING ''called''; RAISE EXCEPTION ''called''; END';
    CREATE FUNCTION same(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT f($1)';
    CREATE OPERATOR = (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
    CREATE DOMAIN d AS int CHECK (f(VALUE));
    CREATE FUNCTION differ(d[], d[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE OPERATOR <> (LEFTARG = d[], RIGHTARG = d[], FUNCTION = differ);
    CREATE DOMAIN name_of AS text;
    CREATE TYPE color AS ENUM ('red', 'green');
    CREATE TYPE comp AS (a d);
    CREATE TYPE rng AS RANGE (subtype = d);
    CREATE TABLE t (id int PRIMARY KEY, c citext, dom d, doms d[], comp comp, rng rng, named name_of, color color,
                    colors color[], tags text[], x xml, v varchar(9));";

/// Filters that would run something that is not PostgreSQL's own, or are more than a condition on one row.
const REFUSED: &[&str] = &[
    "id::me.d IS NOT NULL",
    "CAST(id AS me.d) > 0",
    "'{1}'::me.d[] IS NOT NULL",
    "me._d('{1}') IS NOT NULL",
    "doms = '{1}'",
    "'{1}' = doms",
    "doms OPERATOR(me.<>) '{1}'",
    "'{1}' OPERATOR(me.<>) '{1}'",
    "doms(t) = '{1}'",
    "(t).doms = '{1}'",
    "t.doms = '{1}'",
    "comp = '(1)'",
    "(comp).a = 1",
    "ROW(1)::me.comp IS NOT NULL",
    "'(1)'::me.comp IS NOT NULL",
    "rng = '[1,2]'",
    "'[1,2]'::me.rng IS NOT NULL",
    "me.rng(1, 2) IS NOT NULL",
    "c = 'x'",
    "c::text = 'x'",
    "lower(c) = 'x'",
    "id OPERATOR(me.=) 1",
    "me.f(id)",
    "NULLIF(id, 1::me.d) = 2",
    "COALESCE(id, 1::me.d) = 2",
    "id IN (1::me.d)",
    "t IS NOT NULL",
    "t.* IS NOT NULL",
    "xmlserialize(content x as me.name_of) = 'a'",
    "true) OR (true",
    "true) OR (id = 1",
    "id = 1 AS a",
    "(SELECT true)",
    "EXISTS (TABLE me.t)",
    "color::text = 'red'",
    "'[1,2]'::me.rng @> 1",
];

/// What every writer means.
const TAKEN: &[&str] = &[
    "named = 'x' OR named IS NULL",
    "color = 'red'",
    "color IN ('red', 'green')",
    "color < 'green' AND 'red' = ANY (colors)",
    "dom > 0 AND dom IN (1, 2)",
    "tags @> '{a}' AND tags[1] = 'a'",
    "id::text LIKE '1%'",
    "v = 'x' AND length(v) < 3",
    "CASE WHEN id > 1 THEN v ~ 'a' ELSE COALESCE(id, 3) = 3 END",
    "(id, v) > (1, 'a')",
    "t.id BETWEEN 1 AND 5 -- so",
    "NOT (id IS DISTINCT FROM GREATEST(1, 2))",
];

/// What a filter would run is PostgreSQL's own, whoever made the types; refused before anything of them is called.
#[test]
fn a_filter_runs_nothing_of_others() {
    let database = database("filter_rights");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE EXTENSION citext;
             CREATE ROLE filtering LOGIN;
             CREATE SCHEMA me AUTHORIZATION filtering;
             CREATE TABLE calls (n int);
             GRANT INSERT ON calls TO filtering;",
        )
        .expect("a role");
    let url = database.bed().source().url(database.name());
    let mut owner = Client::connect(&url.replace("postgres@", "filtering@"), postgres::NoTls)
        .expect("the owner");
    owner.batch_execute(TYPES_OF_OTHERS).expect("types");
    for filter in REFUSED {
        for call in [
            "cdc_track('t', filter => $1)",
            "cdc_snapshot('t', filter => $1)",
        ] {
            let statement = call.replace("$1", &format!("$filter${filter}$filter$"));
            if call.starts_with("cdc_snapshot") {
                owner.batch_execute("SELECT cdc_track('t')").expect("track");
            }
            let error = refusal::coded(
                &mut owner,
                &format!("SELECT {statement}"),
                "0A000",
                "CDC0111",
            );
            assert!(
                !format!("{error:?}").contains("called"),
                "{filter}: {error:?}"
            );
        }
        owner
            .batch_execute("SELECT cdc_untrack('t')")
            .expect("untrack");
    }
    let log = database.bed().source().log();
    assert!(!log.contains("WARNING:  called"), "a function was called");

    for filter in TAKEN {
        let statement = format!("SELECT cdc_track('t', filter => $filter${filter}$filter$)");
        owner
            .batch_execute(&statement)
            .unwrap_or_else(|error| panic!("{filter}: {error:?}"));
    }
}

#[test]
fn a_filter_sees_what_rows_have_in_younger_columns() {
    let database = database("filter_default");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
             ALTER TABLE t ADD country text NOT NULL DEFAULT 'CH';
             SELECT cdc_track('t', filter => $$country = 'CH'$$);
             DELETE FROM t WHERE id = 1;
             UPDATE t SET country = 'CH' WHERE id = 2;
             DELETE FROM t WHERE id = 2;
             UPDATE t SET country = 'DE' WHERE id = 3;",
        )
        .expect("the changes");
    let row = |id: i32| json!({"id": id, "country": "CH"});
    assert_eq!(
        changes(&database.records("t")),
        [
            change("d", row(1), Value::Null),
            change("u", row(2), row(2)),
            change("d", row(2), Value::Null),
            change("d", row(3), Value::Null),
        ]
    );
}

/// A constant is what it was to who called cdc_track, and the same for every writer.
#[test]
fn dates_in_a_filter_mean_the_same_for_everybody() {
    let database = database("dated");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, day date, at timestamptz);
             SET DateStyle = 'ISO, DMY'; SET TimeZone = 'Pacific/Auckland';
             SELECT cdc_track('t', filter => $$day >= '13/02/2020' AND at < '2020-02-14' OR day = 'today'$$)",
        )
        .expect("a tracked table");
    for settings in [
        "SET DateStyle = 'ISO, MDY'; SET TimeZone = 'America/Los_Angeles'",
        "SET DateStyle = 'SQL, DMY'; SET TimeZone = 'UTC'",
    ] {
        let mut writer = database.source();
        writer.batch_execute(settings).expect("settings");
        // The day begins in Auckland at 11 o'clock of the day before.
        writer
            .batch_execute(
                "INSERT INTO t VALUES (1, '2020-02-13', '2020-02-13 10:59:59+00'), (2, '2020-02-13', '2020-02-13 11:00:00+00'),
                    (3, '2020-02-12', '2020-02-12 00:00:00+00');
                 DELETE FROM t",
            )
            .expect("rows");
    }
    let events = database.events("t");
    let rows = events.iter().filter(|event| event.is_row_change());
    let rows: Vec<String> = rows
        .map(|event| format!("{} {}", event.op(), event.key_text()))
        .collect();
    let once = [r#"c {"id":1}"#, r#"d {"id":1}"#];
    assert_eq!(rows, [once, once].concat());
    let filter: String = client
        .query_one("SELECT filter FROM cdc_tables", &[])
        .expect("cdc_tables")
        .get(0);
    assert!(!filter.contains("today"), "{filter}");
    // Said once more, nothing of it is another.
    client
        .batch_execute("RESET DateStyle; SELECT cdc_track('t')")
        .expect("the same table");
    assert_eq!(database.events("t").len(), events.len());
}
