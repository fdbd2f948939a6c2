//! Values that leave the server as digests, in part, or not at all.

use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{TestBed, refusal, replica, wait::wait_for};
use postgres::Client;
use serde_json::{Value, json};

use super::database;

/// Gives the server a key for masks, as a DBA does; the same one for every test that needs one.
pub(super) fn give_mask_key(client: &mut Client) {
    let bed = TestBed::shared();
    let path = bed.source().write_file("mask.key", &[7; 32], 0o600);
    bed.source().set("cdc.mask_key_file", &path);
    bed.source().reload();
    let setting = || {
        let row = client.query_one("SHOW cdc.mask_key_file", &[]);
        row.expect("the setting").get::<_, String>(0)
    };
    wait_for(
        "the setting",
        std::time::Duration::from_secs(10),
        setting,
        |now| *now == path,
    );
}

#[test]
fn masked_values_never_leave_the_server() {
    let database = database("masked");
    let mut client = database.source();
    give_mask_key(&mut client);
    client
        .batch_execute(
            r#"CREATE TABLE person (id int PRIMARY KEY, email text NOT NULL, iban text NOT NULL, notes text, born date);
             CREATE TABLE login (email varchar(50) PRIMARY KEY, n int);
             SELECT cdc_track('person', mask => '{"email": "hash", "iban": "redact", "notes": "truncate:4", "born": "hash"}'),
                    cdc_track('login', mask => '{"email": "hash"}');
             INSERT INTO person VALUES (1, 'ann@example.org', 'CH93 0076', 'Zürich and more', '1990-02-28');
             INSERT INTO login VALUES ('ann@example.org', 1);
             UPDATE person SET iban = 'CH00', notes = NULL;
             UPDATE login SET n = 2;"#,
        )
        .expect("the changes");
    let (people, logins) = (database.records("person"), database.records("login"));
    for record in people.iter().chain(&logins) {
        no_secret_is_in(record);
    }
    let people: Vec<Value> = people
        .iter()
        .filter(|r| r.is_row_change())
        .map(Record::json)
        .collect();
    let logins: Vec<Value> = logins
        .iter()
        .filter(|r| r.is_row_change())
        .map(Record::json)
        .collect();
    let email = people[0]["after"]["email"].as_str().expect("a digest");
    assert!(
        email.starts_with("hmac:") && email.len() == 5 + 64,
        "{email}"
    );
    assert_eq!(email, logins[0]["after"]["email"], "joins survive");
    another_database_has_another_digest(email);
    assert_eq!(people[0]["after"]["iban"], Value::Null);
    assert_eq!(people[0]["after"]["notes"], "Züri");
    assert_eq!(
        people[0]["marks"],
        json!({"after": {"email": "hashed", "iban": "redacted", "notes": "truncated", "born": "hashed"}})
    );
    assert_eq!(
        people[1]["marks"]["after"],
        json!({"email": "hashed", "iban": "redacted", "born": "hashed"}),
        "NULL is NULL, but where not even that is told"
    );
    assert_eq!(people[1]["before"]["email"], people[1]["after"]["email"]);
}

fn no_secret_is_in(record: &Record) {
    // None of them may be among digests, LSNs and times by chance.
    for secret in [
        "example.org",
        "CH93 0076",
        "\"CH00",
        "and more",
        "1990-02-28",
    ] {
        assert!(
            !record.value_text().contains(secret),
            "{secret} in {record:?}"
        );
        assert!(
            !record.key_text().contains(secret),
            "{secret} in {record:?}"
        );
    }
}

/// It has another key: nobody there can try out what stands here.
fn another_database_has_another_digest(email: &str) {
    let elsewhere = database("masked_elsewhere");
    elsewhere
        .source()
        .batch_execute(
            r#"CREATE TABLE guess (email text PRIMARY KEY); SELECT cdc_track('guess', mask => '{"email": "hash"}');
               INSERT INTO guess VALUES ('ann@example.org')"#,
        )
        .expect("the same value");
    let guesses = elsewhere.records("guess");
    let guess = guesses.iter().find(|record| record.is_row_change());
    let guess = guess.expect("the row").json()["after"]["email"].clone();
    assert!(
        guess
            .as_str()
            .is_some_and(|guess| guess.starts_with("hmac:") && guess != email)
    );
}

#[test]
fn a_replica_of_masked_rows_has_what_was_shipped() {
    let database = database("masked_replica");
    let mut client = database.source();
    give_mask_key(&mut client);
    client
        .batch_execute(
            r#"CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, secret int NOT NULL, gone text);
             SELECT cdc_track('t', mask => '{"n": "hash", "secret": "redact"}', exclude => '{gone}');
             INSERT INTO t SELECT i, i % 2, i, 'x' FROM generate_series(1, 4) AS i;
             UPDATE t SET n = 0 WHERE id = 1; DELETE FROM t WHERE id = 4;"#,
        )
        .expect("the changes");
    let sink = database.start_companion_sink();
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", database.bed().kafka(), &[database.topic("t")]);
    let mut copy = database.replica();
    assert_eq!(
        replica::columns(&mut copy, "public.t"),
        ["id", "n", "secret"]
    );
    let row = copy
        .query_one(
            "SELECT count(*), count(DISTINCT n), count(secret), bool_and(n LIKE 'hmac:%'), string_agg(id::text, ',' ORDER BY id) FROM t",
            &[],
        )
        .expect("the replica");
    let counts: (i64, i64, i64, bool, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    assert_eq!(counts, (3, 2, 0, true, "1,2,3".to_owned()));
}

#[test]
fn a_hash_needs_its_key() {
    // A server of its own: the setting is the whole server's.
    let bed = TestBed::start();
    let database = bed.database("no_key");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        .expect("a table");
    let track = r#"SELECT cdc_track('t', mask => '{"name": "hash"}')"#;
    let error = refusal::coded(&mut client, track, "F0000", "CDC0113");
    assert_eq!(error.detail(), Some("cdc.mask_key_file is not set."));
    let path = bed.source().write_file("mask.key", b"too short", 0o644);
    bed.source().set("cdc.mask_key_file", &path);
    bed.source().restart();
    let mut client = database.source();
    bed.wait_until_streaming("no_key");
    let error = refusal::coded(&mut client, track, "F0000", "CDC0113");
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("group or world access")),
        "{error:?}"
    );
    bed.source().write_file("mask.key", b"too short", 0o600);
    let error = refusal::coded(&mut client, track, "F0000", "CDC0113");
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("less than 32 bytes")),
        "{error:?}"
    );
    // Where the file is, is for those who may see the setting, and in the log.
    client
        .batch_execute("CREATE ROLE ordinary LOGIN; ALTER TABLE t OWNER TO ordinary")
        .expect("a role");
    let mut ordinary = bed.source().connect_as("ordinary", "no_key");
    let error = refusal::coded(&mut ordinary, track, "F0000", "CDC0113");
    assert!(!format!("{error:?}").contains("mask.key"), "{error:?}");
    assert!(
        bed.source()
            .log()
            .contains("mask.key\" has less than 32 bytes")
    );
    bed.stop();
}
