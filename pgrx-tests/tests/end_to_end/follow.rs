//! The replica follows the source's definitions: whatever is done to a tracked table, rows and definition stay equal.

use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, replica, wait_until};
use postgres::Client;

pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// The columns of a table: name, type, whether NULL is refused.
const COLUMNS: &str = "SELECT coalesce(string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull, ', ' ORDER BY a.attname), 'none')
    FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";

/// A change, then rows: of which table, which columns, with which values.
const CHANGES: [(&str, &str, &str, &str); 11] = [
    (
        "ALTER TABLE person ADD COLUMN city text",
        "person",
        "name, city",
        "'n', 'Bern'",
    ),
    (
        "ALTER TABLE person RENAME COLUMN age TO years",
        "person",
        "name, years",
        "'n', n",
    ),
    (
        "ALTER TABLE person DROP COLUMN old",
        "person",
        "name, years",
        "'n', n",
    ),
    (
        "ALTER TABLE person ALTER COLUMN name DROP NOT NULL",
        "person",
        "name",
        "NULL",
    ),
    (
        "ALTER TABLE person ALTER COLUMN years TYPE bigint",
        "person",
        "years",
        "n * 10000000000",
    ),
    (
        "ALTER TABLE person ALTER COLUMN name TYPE varchar(40)",
        "person",
        "name",
        "repeat('x', 40)",
    ),
    (
        "ALTER TABLE person RENAME TO people",
        "people",
        "name",
        "'n'",
    ),
    (
        "ALTER TABLE people SET SCHEMA hr",
        "hr.people",
        "name",
        "'n'",
    ),
    // Names change places, in steps that a reader of the target must not mix up.
    (
        "ALTER TABLE hr.people RENAME COLUMN name TO spare",
        "hr.people",
        "spare",
        "'n'",
    ),
    (
        "ALTER TABLE hr.people RENAME COLUMN city TO name",
        "hr.people",
        "name",
        "'Basel'",
    ),
    (
        "ALTER TABLE hr.people ADD COLUMN n2 int NOT NULL DEFAULT 7",
        "hr.people",
        "name",
        "'x'",
    ),
];

pub(super) fn start(
    database: &Database<'_>,
    consistency: &'static str,
    more_toml: &str,
) -> CompanionSink {
    let plan = pg_cdc_tests::companion_sink::Plan {
        consistency,
        topics: vec![format!("{}.*", database.name())],
        more_toml: more_toml.to_owned(),
        ..database.plan_companion_sink()
    };
    let sink = database.bed().companion_sink(plan);
    sink.start_only(&["replica"]);
    sink
}

pub(super) fn applied(database: &Database<'_>, sink: &CompanionSink, topic: &str) {
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", database.bed().kafka(), &[topic.to_owned()]);
}

fn columns(client: &mut Client, table: &str) -> String {
    client
        .query_one(COLUMNS, &[&table])
        .expect("the columns")
        .get(0)
}

pub(super) fn assert_follows(database: &Database<'_>, table: &str) {
    let (mut source, mut copy) = (database.source(), database.replica());
    assert_eq!(columns(&mut copy, table), columns(&mut source, table));
    replica::assert_equal(&mut source, &mut copy, table);
}

#[test]
fn every_change_of_a_definition_is_followed_between_the_rows() {
    for consistency in ["row", "transaction"] {
        let database = TestBed::shared().database(&format!("follow_{consistency}"));
        let mut source = database.source();
        run(
            &mut source,
            &[
                "CREATE TABLE person (id int PRIMARY KEY, name varchar(20) NOT NULL, age int, old text)",
                "CREATE SCHEMA hr",
                "SELECT cdc_track('person')",
            ],
        );
        let topic = database.topic("person");
        let sink = start(&database, consistency, "");
        let mut next = 0;
        let mut rows = |source: &mut Client, table: &str, columns: &str, values: &str| {
            next += 1;
            let insert = format!(
                "INSERT INTO {table} (id, {columns}) SELECT n, {values} FROM generate_series({next} * 100, {next} * 100 + 49) AS n"
            );
            source.batch_execute(&insert).expect("rows");
        };
        rows(
            &mut source,
            "person",
            "name, age, old",
            "'n' || n, n, 'o' || n",
        );
        for (statement, table, columns, values) in CHANGES {
            source.batch_execute(statement).expect(statement);
            rows(&mut source, table, columns, values);
            let update = format!("UPDATE {table} SET id = id + 50 WHERE id % 100 < 3");
            source.batch_execute(&update).expect("changed keys");
        }
        // Everything in one transaction: what comes before a change must not be mixed with what comes after.
        run(
            &mut source,
            &[
                "BEGIN",
                "INSERT INTO hr.people (id, name) VALUES (1, 'gone')",
                "TRUNCATE hr.people",
                "INSERT INTO hr.people (id, name) VALUES (1, 'one'), (2, 'two')",
                "ALTER TABLE hr.people ADD COLUMN more numeric",
                "UPDATE hr.people SET more = 1.50 WHERE id = 1",
                "COMMIT",
            ],
        );
        // Another key. A snapshot that is under way would meet a table without one.
        database.wait_until_snapshots_end();
        run(
            &mut source,
            &[
                "ALTER TABLE hr.people DROP CONSTRAINT person_pkey",
                "ALTER TABLE hr.people ADD PRIMARY KEY (name)",
                "SELECT cdc_track('hr.people', key => '{name}')",
                "UPDATE hr.people SET id = 10 WHERE name = 'two'",
            ],
        );
        applied(&database, &sink, &topic);
        // A rewriting ALTER changed rows without events: the snapshots that it started are applied as well.
        database.wait_until_snapshots_end();
        applied(&database, &sink, &topic);
        let mut copy = database.replica();
        replica::assert_equal(&mut source, &mut copy, "hr.people");
        let (there, here) = (
            columns(&mut copy, "hr.people"),
            columns(&mut source, "hr.people"),
        );
        // A column that is filled by the source's default is left open on the target until the snapshot has filled it.
        assert_eq!(there.replace("n2 integer false", "n2 integer true"), here);
        assert_eq!(columns(&mut copy, "person"), "none");
    }
}

#[test]
fn tables_and_columns_may_have_other_names_on_the_target() {
    for consistency in ["row", "transaction"] {
        let database = TestBed::shared().database(&format!("mapped_{consistency}"));
        let mut source = database.source();
        run(
            &mut source,
            &[
                "CREATE TABLE customer (id int PRIMARY KEY, name text)",
                "CREATE TABLE other (id int PRIMARY KEY)",
                "SELECT cdc_track('customer'), cdc_track('other')",
                "INSERT INTO customer VALUES (1, 'Eva'), (2, 'Ann')",
                "INSERT INTO other VALUES (1)",
                "UPDATE customer SET id = 3, name = 'Bob' WHERE id = 2",
                "ALTER TABLE customer ADD COLUMN city text",
                "INSERT INTO customer VALUES (4, 'Cy', 'Bern')",
                "DELETE FROM customer WHERE id = 1",
            ],
        );
        let mapping = "schema = \"from_{database}\"\ntables = {\"public.customer\" = \"crm.kunde\"}\n\
            columns = {\"public.customer.id\" = \"kunde_id\", \"public.customer.city\" = \"ort\"}\n";
        let sink = start(&database, consistency, mapping);
        applied(&database, &sink, &database.topic("customer"));
        applied(&database, &sink, &database.topic("other"));
        let mut copy = database.replica();
        let rows = copy
            .query_one("SELECT string_agg(k::text, ' ' ORDER BY k.kunde_id) FROM (SELECT kunde_id, name, ort FROM crm.kunde) k", &[])
            .expect("the mapped table");
        assert_eq!(rows.get::<_, String>(0), "(3,Bob,) (4,Cy,Bern)");
        let other = format!("SELECT count(*) FROM from_{}.other", database.name());
        assert_eq!(
            copy.query_one(&other, &[])
                .expect("the schema")
                .get::<_, i64>(0),
            1
        );
    }
}

#[test]
fn a_table_that_is_dropped_and_made_anew_has_none_of_the_old_rows() {
    for consistency in ["row", "transaction"] {
        let database = TestBed::shared().database(&format!("anew_{consistency}"));
        let mut source = database.source();
        run(
            &mut source,
            &[
                "SELECT cdc_track_schema('public', new_tables => true)",
                "CREATE TABLE t (id int PRIMARY KEY, place text)",
                "CREATE TABLE keyless (place text)",
                "CREATE TABLE empty ()",
                "INSERT INTO t VALUES (1, 'old'), (2, 'old')",
                "INSERT INTO keyless VALUES ('old')",
            ],
        );
        let sink = start(&database, consistency, "");
        // No text is a box: the old rows must be gone before the columns change.
        run(
            &mut source,
            &[
                "ALTER TABLE empty ADD COLUMN id int PRIMARY KEY",
                "INSERT INTO empty VALUES (1)",
                "DROP TABLE t, keyless",
                "CREATE TABLE t (id int PRIMARY KEY, place box, more int)",
                "INSERT INTO t VALUES (2, '(1,1),(0,0)', 2)",
                "BEGIN",
                "CREATE TABLE keyless (place int)",
                "INSERT INTO keyless VALUES (1)",
                "DROP TABLE keyless",
                "CREATE TABLE keyless (place text)",
                "INSERT INTO keyless VALUES ('new')",
                "COMMIT",
                // As a whole schema, and by who owned it.
                "CREATE SCHEMA hr",
                "SELECT cdc_track_schema('hr', new_tables => true)",
                "CREATE TABLE hr.person (id int PRIMARY KEY)",
                "INSERT INTO hr.person VALUES (1)",
                "DROP SCHEMA hr CASCADE",
                "CREATE SCHEMA hr",
                "SELECT cdc_track_schema('hr', new_tables => true)",
                "CREATE TABLE hr.person (id int PRIMARY KEY)",
                "INSERT INTO hr.person VALUES (2)",
            ],
        );
        for table in ["t", "keyless", "empty"] {
            applied(&database, &sink, &database.topic(table));
            replica::assert_equal(&mut source, &mut database.replica(), table);
        }
        let of_hr = format!("{}.hr.person", database.name());
        applied(&database, &sink, &of_hr);
        replica::assert_equal(&mut source, &mut database.replica(), "hr.person");
    }
}

#[test]
fn values_that_cannot_be_cast_come_with_the_snapshot_and_keys_go() {
    for consistency in ["row", "transaction"] {
        let database = TestBed::shared().database(&format!("computed_{consistency}"));
        let mut source = database.source();
        run(
            &mut source,
            &[
                "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL)",
                "CREATE TABLE u (id int PRIMARY KEY, a text)",
                "SELECT cdc_track('t'), cdc_track('u')",
                "INSERT INTO t VALUES (1, 'one'), (2, 'three')",
                "INSERT INTO u VALUES (1, 'one')",
            ],
        );
        let sink = start(&database, consistency, "");
        let topics = [database.topic("t"), database.topic("u")];
        topics
            .iter()
            .for_each(|topic| applied(&database, &sink, topic));
        run(
            &mut source,
            &[
                "ALTER TABLE t ALTER COLUMN a TYPE int USING length(a)",
                "INSERT INTO t VALUES (3, 4)",
                // No key any more: rows may be alike in it, or have no value.
                "ALTER TABLE u DROP CONSTRAINT u_pkey",
                "ALTER TABLE u ALTER COLUMN id DROP NOT NULL",
                "INSERT INTO u VALUES (1, 'again'), (NULL, 'none')",
                "DELETE FROM u WHERE a = 'one'",
            ],
        );
        database.wait_until_in_kafka();
        wait_until("the snapshot", TIMEOUT, || {
            let query = "SELECT count(*) FROM cdc_snapshots WHERE state = 'done'";
            match source
                .query_one(query, &[])
                .expect("snapshots")
                .get::<_, i64>(0)
            {
                0 => Err("not done".to_owned()),
                _ => Ok(()),
            }
        });
        topics
            .iter()
            .for_each(|topic| applied(&database, &sink, topic));
        replica::assert_equal(&mut source, &mut database.replica(), "t");
        replica::assert_equal(&mut source, &mut database.replica(), "u");
    }
}
