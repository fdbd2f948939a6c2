//! Options follow their columns: other names and types, whoever changes them, change nothing of what is shipped.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, refusal};
use postgres::Client;
use serde_json::json;

use crate::definitions::{change, database, kinds, owner};

#[test]
fn options_follow_their_columns_by_every_road() {
    let database = database("followed");
    let mut client = owner(&database, "follower");
    columns_get_other_names(&database, &mut client);
    what_an_option_needs_stays(&mut client);
    names_come_from_a_parent_a_type_or_the_root(&database, &mut client);
    rows_with_checks_to_come_are_waited_for(&mut client);
    // The last column of a list that says what is shipped: without it all would be.
    refusal::coded(
        &mut client,
        "ALTER TYPE ty DROP ATTRIBUTE shown CASCADE, DROP ATTRIBUTE n CASCADE",
        "2BP01",
        "CDC0119",
    );
    rows_are_refused_where_nobody_told_of_a_name(&database, &mut client);
}

fn columns_get_other_names(database: &Database<'_>, client: &mut Client) {
    run(
        client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, name text, iban text, photo bytea, email text, country varchar(2))",
            r#"SELECT cdc_track('t', key => '{email}', exclude => '{photo}', mask => '{"iban": "redact", "name": "truncate:1"}',
                 filter => $$t.country = 'CH' AND email LIKE '%@%'$$)"#,
            "INSERT INTO t VALUES (1, 'ann SECRET', 'SECRET', 'SECRET', 'a@x', 'CH')",
            r#"ALTER TABLE t RENAME iban TO "i,b:a\n""#,
            "ALTER TABLE t RENAME photo TO pic",
            "ALTER TABLE t RENAME email TO mail",
            "ALTER TABLE t RENAME country TO land",
            "DO $$ BEGIN ALTER TABLE t RENAME name TO called; END $$",
            "INSERT INTO t VALUES (2, 'bob SECRET', 'SECRET', 'SECRET', 'b@x', 'CH'), (3, 'c', 'SECRET', 'SECRET', 'c@x', 'DE')",
            "UPDATE t SET called = 'eve SECRET' WHERE id = 1",
            // Two columns that take each other's name, once for nothing.
            "BEGIN; ALTER TABLE t RENAME pic TO u; SAVEPOINT s; ALTER TABLE t RENAME called TO pic; ROLLBACK TO s;
             INSERT INTO t VALUES (4, 'dan SECRET', 'SECRET', 'SECRET', 'd@x', 'CH');
             ALTER TABLE t RENAME called TO pic; ALTER TABLE t RENAME u TO called; COMMIT",
            "INSERT INTO t VALUES (5, 'fay SECRET', 'SECRET', 'SECRET', 'f@x', 'CH')",
            // The filter names the table.
            "ALTER TABLE t RENAME TO renamed",
            "DELETE FROM renamed WHERE id = 2",
            // A mask and an exclusion go with their columns.
            r#"ALTER TABLE renamed DROP called, DROP "i,b:a\n""#,
            "INSERT INTO renamed VALUES (6, 'gil SECRET', 'g@x', 'CH')",
        ],
    );
    assert_eq!(
        rows_without_a_secret(&database.events("t")),
        [
            r#"c {"email":"a@x"}"#,
            r#"c {"mail":"b@x"}"#,
            r#"u {"mail":"a@x"}"#,
            r#"c {"mail":"d@x"}"#,
            r#"c {"mail":"f@x"}"#,
            r#"d {"mail":"b@x"}"#,
            r#"c {"mail":"g@x"}"#,
        ]
    );
}

/// Operation and key of every row change; none of the events, also of definitions, tells a secret.
fn rows_without_a_secret(events: &[Record]) -> Vec<String> {
    for event in events {
        let text = event.value_text().replace(" SECRET", "");
        assert!(
            !text.contains("SECRET") && !text.contains("U0VDUkVU"),
            "{event:?}"
        );
        let name = &event.json()["after"];
        assert!(!name.to_string().contains("SECRET"), "{event:?}");
    }
    let rows = events.iter().filter(|event| event.is_row_change());
    rows.map(|event| format!("{} {}", event.op(), event.key_text()))
        .collect()
}

fn what_an_option_needs_stays(client: &mut Client) {
    refusal::coded(client, "ALTER TABLE renamed DROP mail", "2BP01", "CDC0119");
    refusal::coded(client, "ALTER TABLE renamed DROP land", "55000", "CDC0120");
    refusal::coded(
        client,
        "ALTER TABLE renamed ALTER mail TYPE int USING 1",
        "55000",
        "CDC0120",
    );
}

fn names_come_from_a_parent_a_type_or_the_root(database: &Database<'_>, client: &mut Client) {
    run(
        client,
        &[
            "CREATE TABLE p (n int, secret text); CREATE TABLE c (PRIMARY KEY (n)) INHERITS (p)",
            "CREATE TYPE ty AS (n int, secret text, other text); CREATE TABLE o OF ty (PRIMARY KEY (n))",
            "CREATE TABLE r (n int PRIMARY KEY, secret text) PARTITION BY RANGE (n)",
            "CREATE TABLE r_1 PARTITION OF r FOR VALUES FROM (0) TO (9)",
            r#"SELECT cdc_track('c', mask => '{"secret": "redact"}', filter => 'secret IS NOT NULL')"#,
            r#"SELECT cdc_track('o', include => '{n, other}')"#,
            r#"SELECT cdc_track('r', exclude => '{secret}', filter => $$secret <> 'x'$$)"#,
            "ALTER TABLE p RENAME secret TO hidden",
            "ALTER TYPE ty RENAME ATTRIBUTE other TO shown CASCADE",
            "ALTER TABLE r RENAME secret TO hidden",
            "INSERT INTO c VALUES (1, 'SECRET'); INSERT INTO o VALUES (1, 'SECRET', 'x'); INSERT INTO r VALUES (1, 'SECRET'), (2, 'x')",
        ],
    );
    for (table, row) in [
        ("c", json!({"n": 1, "hidden": null})),
        ("o", json!({"n": 1, "shown": "x"})),
        ("r", json!({"n": 1})),
    ] {
        let events = database.events(table);
        assert_eq!(kinds(&events), ["CREATE", "ALTER", "c"], "{table}");
        assert_eq!(events[2].json()["after"], row, "{table}");
    }
    assert_eq!(
        change(&database.events("c")[1])["renames"],
        json!({"secret": "hidden"})
    );
}

/// A column gets no other name between a row and its deferred checks.
fn rows_with_checks_to_come_are_waited_for(client: &mut Client) {
    run(
        client,
        &[
            "CREATE TABLE late (n int PRIMARY KEY, c int REFERENCES c DEFERRABLE INITIALLY DEFERRED, secret text)",
            r#"SELECT cdc_track('late', mask => '{"secret": "redact"}')"#,
            "BEGIN; INSERT INTO late VALUES (1, 1, 'SECRET')",
        ],
    );
    refusal::coded(
        client,
        "ALTER TABLE late RENAME secret TO open",
        "55006",
        "CDC0121",
    );
    run(
        client,
        &[
            "ROLLBACK",
            "BEGIN; INSERT INTO late VALUES (1, 1, 'SECRET'); SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE late RENAME secret TO open; COMMIT",
        ],
    );
}

/// Until somebody says what shall hold.
fn rows_are_refused_where_nobody_told_of_a_name(database: &Database<'_>, client: &mut Client) {
    run(
        &mut database.source(),
        &["ALTER EVENT TRIGGER cdc_ddl_end DISABLE"],
    );
    run(client, &["ALTER TABLE p RENAME hidden TO open"]);
    run(
        &mut database.source(),
        &["ALTER EVENT TRIGGER cdc_ddl_end ENABLE ALWAYS"],
    );
    refusal::coded(
        client,
        "INSERT INTO c VALUES (2, 'SECRET')",
        "55000",
        "CDC0118",
    );
    run(
        client,
        &[
            r#"SELECT cdc_track('c', mask => '{"open": "redact"}', filter => '')"#,
            "INSERT INTO c VALUES (2, 'SECRET')",
        ],
    );
    let events = database.events("c");
    assert_eq!(
        events.last().expect("a row").json()["after"],
        json!({"n": 2, "open": null})
    );
}

#[test]
fn filters_follow_types_and_labels_of_other_people() {
    let database = database("labels");
    let mut tables = owner(&database, "of_tables");
    let mut types = owner(&database, "of_types");
    run(
        &mut types,
        &[
            "CREATE SCHEMA kinds; GRANT USAGE ON SCHEMA kinds TO PUBLIC",
            "CREATE TYPE kinds.mood AS ENUM ('x', 'y')",
            "CREATE SCHEMA later",
        ],
    );
    run(
        &mut tables,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, m kinds.mood)",
            "CREATE TABLE p (id int PRIMARY KEY, ms kinds.mood[]) PARTITION BY RANGE (id)",
            "CREATE TABLE p_1 PARTITION OF p DEFAULT",
            "SELECT cdc_track('t', filter => $$m = 'x'$$)",
            "SELECT cdc_track('p', filter => $$'x' = ANY (ms)$$)",
            // From here on the text names the type.
            "ALTER TABLE t RENAME m TO mood",
        ],
    );
    let mut write = |id: i32, label: &str| {
        let rows = format!(
            "INSERT INTO t VALUES ({id}, '{label}'), ({id} + 100, 'y');
             INSERT INTO p VALUES ({id}, '{{{label},y}}'), ({id} + 100, '{{y}}')"
        );
        run(&mut tables, &[&rows]);
    };
    write(1, "x");
    for (id, command, label) in [
        (
            2,
            "ALTER TYPE kinds.mood RENAME VALUE 'x' TO 'it''s'",
            "it''s",
        ),
        (3, "ALTER TYPE kinds.mood RENAME TO humour", "it''s"),
        (4, "ALTER SCHEMA kinds RENAME TO sorts", "it''s"),
        (5, "ALTER TYPE sorts.humour SET SCHEMA later", "it''s"),
        (6, "ALTER TYPE later.humour ADD VALUE 'z'", "it''s"),
        (
            7,
            "BEGIN; SAVEPOINT s; ALTER TYPE later.humour RENAME VALUE 'it''s' TO 'no'; ROLLBACK TO s; COMMIT",
            "it''s",
        ),
    ] {
        run(&mut types, &[command]);
        write(id, label);
    }
    for table in ["t", "p"] {
        let events = database.events(table);
        let created = events.iter().filter(|event| event.op() == "c");
        let created: Vec<&str> = created.map(Record::key_text).collect();
        let expected: Vec<String> = (1..8).map(|id| format!(r#"{{"id":{id}}}"#)).collect();
        assert_eq!(created, expected, "{table}");
    }
}

#[test]
fn what_was_said_of_a_column_goes_for_the_one_that_takes_its_place() {
    let database = database("replaced");
    let (mut client, notices) = database.bed().source().connect_with_notices("replaced");
    run(
        &mut client,
        &[
            "CREATE ROLE replacer; GRANT CREATE ON SCHEMA public TO replacer; SET SESSION AUTHORIZATION replacer",
            "CREATE TABLE t (id int PRIMARY KEY, iban varchar(20), photo text, pin text)",
            r#"SELECT cdc_track('t', mask => '{"iban": "redact", "pin": "redact"}', exclude => '{photo}')"#,
        ],
    );
    notices.lock().expect("the notices").clear();
    run(
        &mut client,
        &[
            "ALTER TABLE t DROP iban, ADD iban text, DROP photo, ADD photo bytea",
            "INSERT INTO t VALUES (1, 'SECRET', 'SECRET', 'SECRET')",
        ],
    );
    assert!(notices.lock().expect("the notices").is_empty());
    run(&mut client, &["ALTER TABLE t DROP photo, DROP pin"]);
    let told: Vec<String> = {
        let notices = notices.lock().expect("the notices");
        notices.iter().map(|it| it.message().to_owned()).collect()
    };
    assert_eq!(
        told,
        [
            "exclude of column \"photo\" of table \"t\" went with the column",
            "mask \"redact\" of column \"pin\" of table \"t\" went with the column"
        ]
    );
    let events = database.events("t");
    let row = events.iter().find(|event| event.op() == "c");
    assert_eq!(
        row.expect("the row").json()["after"],
        json!({"id": 1, "pin": null, "iban": null})
    );
}

#[test]
fn a_generated_column_that_tells_of_a_masked_one_is_warned_of() {
    let database = database("computed");
    let (mut client, notices) = database.bed().source().connect_with_notices("computed");
    let told = || -> Vec<String> {
        let mut notices = notices.lock().expect("the notices");
        notices
            .drain(..)
            .map(|it| format!("{} {}", it.message(), it.hint().unwrap_or_default()))
            .filter(|it| it.contains("CDC02"))
            .collect()
    };
    run(
        &mut client,
        &[
            "CREATE ROLE computer; GRANT CREATE ON SCHEMA public TO computer; SET SESSION AUTHORIZATION computer",
            "CREATE TABLE t (id int PRIMARY KEY, iban text, name text, loud text GENERATED ALWAYS AS (upper(name)) STORED,
                up text GENERATED ALWAYS AS (upper(iban)) STORED)",
            r#"SELECT cdc_track('t', mask => '{"iban": "redact"}')"#,
        ],
    );
    let warned = told();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("\"up\" of table \"t\" is shipped, and is computed from \"iban\""),
        "{warned:?}"
    );
    assert!(warned[0].contains("CDC0210"), "{warned:?}");
    run(
        &mut client,
        &[r#"SELECT cdc_track('t', mask => '{"iban": "redact", "up": "redact"}')"#],
    );
    assert_eq!(told(), Vec::<String>::new());
    run(
        &mut client,
        &[
            "ALTER TABLE t ADD plain text",
            "ALTER TABLE t ADD short text GENERATED ALWAYS AS (left(iban, 4)) STORED",
        ],
    );
    let warned = told();
    assert!(
        warned.len() == 1 && warned[0].contains("\"short\""),
        "{warned:?}"
    );
}
