//! All tables of a schema, and those that it gets later.

use pg_cdc_tests::postgres::Notices;
use pg_cdc_tests::{Database, refusal, topic};
use postgres::Client;
use serde_json::{Value, json};

use super::{change, changes, database};

#[test]
fn a_whole_schema_is_tracked_and_what_it_gets_later() {
    let database = database("whole_schema");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE SCHEMA app; CREATE TABLE app.one (id int PRIMARY KEY); CREATE TABLE app.left_out (id int PRIMARY KEY);
             CREATE TABLE app.parts (id int PRIMARY KEY) PARTITION BY HASH (id);
             CREATE TABLE app.parts_0 PARTITION OF app.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             CREATE UNLOGGED TABLE app.volatile (id int PRIMARY KEY); CREATE VIEW app.a_view AS SELECT 1;
             CREATE ROLE not_an_admin; CREATE ROLE schema_admin; GRANT cdc_admin TO schema_admin; GRANT USAGE ON SCHEMA app TO schema_admin;
             SELECT cdc_track('app.one'); SET ROLE schema_admin",
        )
        .expect("a schema");
    let call = "cdc_track_schema('app', new_tables => true, exclude => '{app.left_out}')";
    assert_eq!(
        results(&mut client, call),
        [
            "app.left_out skipped: excluded",
            "app.one already tracked",
            "app.parts tracked",
            "app.volatile skipped: cannot track relation \"volatile\": It is unlogged: a crash empties it without a trace",
        ]
    );
    let (mut other, heard) = database
        .bed()
        .source()
        .connect_with_notices(database.name());
    somebody_else_makes_tables(&database, &mut other, &heard);
    what_has_no_key_is_tracked_without_a_snapshot(&mut client);
    let error = refusal::of(&mut other, "SELECT cdc_track_schema('app')");
    assert_eq!(error.code().code(), "42501");
    assert_eq!(
        results(&mut client, "cdc_untrack_schema('app')"),
        [
            "app.keyless untracked",
            "app.later untracked",
            "app.one untracked",
            "app.parts untracked",
            "app.selected untracked",
            "app.taken untracked"
        ]
    );
    other
        .batch_execute("CREATE TABLE app.after (id int PRIMARY KEY)")
        .expect("a table");
    let triggers = client.query("SELECT 1 FROM pg_trigger WHERE tgname LIKE '\\_cdc%'", &[]);
    assert!(triggers.expect("triggers").is_empty());
}

/// Relation and result, one text for each.
fn results(client: &mut Client, call: &str) -> Vec<String> {
    let rows = client.query(&format!("SELECT relation::text, result FROM {call}"), &[]);
    let rows = rows.unwrap_or_else(|e| panic!("{call}: {e:?}"));
    rows.iter()
        .map(|row| format!("{} {}", row.get::<_, String>(0), row.get::<_, String>(1)))
        .collect()
}

/// They are tracked by whatever statement they are made, or their maker is told why not.
fn somebody_else_makes_tables(database: &Database<'_>, other: &mut Client, heard: &Notices) {
    for statement in [
        "GRANT ALL ON SCHEMA app TO not_an_admin; SET ROLE not_an_admin",
        "CREATE TABLE app.later (id int PRIMARY KEY)",
        "CREATE TABLE app.selected AS SELECT 1 AS id",
        "SELECT 1 AS id INTO app.taken",
        "CREATE TABLE public_like (id int)",
    ] {
        // The last one fails: this role may not create in public.
        let _ = other.batch_execute(statement);
    }
    other
        .batch_execute("INSERT INTO app.later VALUES (1); INSERT INTO app.selected VALUES (2); ALTER TABLE app.taken ADD PRIMARY KEY (id)")
        .expect("rows");
    heard.lock().expect("the notices").clear();
    other
        .batch_execute("CREATE UNLOGGED TABLE app.more_volatile (id int PRIMARY KEY)")
        .expect("made all the same");
    {
        let notices = heard.lock().expect("the notices");
        let [notice] = notices.as_slice() else {
            panic!("{notices:?}")
        };
        assert_eq!(
            (notice.severity(), notice.message()),
            (
                "NOTICE",
                "table \"app.more_volatile\" is not tracked: it is unlogged"
            )
        );
    }
    database.wait_until_in_kafka();
    // A table that is made with rows has them inserted.
    for (table, ids) in [("later", &[1][..]), ("selected", &[1, 2]), ("taken", &[1])] {
        let records = topic::read(database.bed().kafka(), &format!("whole_schema.app.{table}"));
        let expected = ids
            .iter()
            .map(|id| change("c", Value::Null, json!({"id": id})));
        assert_eq!(changes(&records), expected.collect::<Vec<_>>(), "{table}");
    }
}

/// What cannot be read as a whole is tracked all the same.
fn what_has_no_key_is_tracked_without_a_snapshot(client: &mut Client) {
    client
        .batch_execute("RESET ROLE; CREATE TABLE app.keyless (n int); SELECT cdc_untrack('app.keyless'); SET ROLE schema_admin")
        .expect("a table without a key");
    let call = "cdc_track_schema('app', new_tables => true, exclude => '{app.left_out}', snapshot => true)";
    let found = results(client, call);
    let keyless = "app.keyless tracked without a snapshot: table \"keyless\" has no key to snapshot by: A snapshot is read";
    assert!(
        found.iter().any(|result| result.starts_with(keyless)),
        "{found:?}"
    );
}
