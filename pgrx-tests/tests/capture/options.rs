//! What a DBA chooses in `cdc_track`: which rows and columns are shipped, in which form, and where to.

use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, TestBed, refusal, replica, wait::wait_for};
use postgres::Client;
use serde_json::{Value, json};

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Gives the server a key for masks, as a DBA does; the same one for every test of this file.
fn give_mask_key(client: &mut Client) {
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

/// Operation, before and after of every row change, in the order of their versions.
fn changes(records: &[Record]) -> Vec<(String, Value, Value)> {
    let mut rows: Vec<&Record> = records.iter().filter(|r| r.is_row_change()).collect();
    rows.sort_by(|one, other| one.version().cmp(other.version()));
    rows.into_iter()
        .map(|record| {
            let event = record.json();
            (
                record.op().to_owned(),
                event["before"].clone(),
                event["after"].clone(),
            )
        })
        .collect()
}

fn change(op: &str, before: Value, after: Value) -> (String, Value, Value) {
    (op.to_owned(), before, after)
}

#[test]
fn only_the_operations_asked_for_are_shipped() {
    let database = database("operations");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int);
             SELECT cdc_track('t', operations => 'insert, DELETE');
             INSERT INTO t VALUES (1, 1); UPDATE t SET n = 2; DELETE FROM t; TRUNCATE t;",
        )
        .expect("the changes");
    let ops: Vec<String> = changes(&database.records("t"))
        .into_iter()
        .map(|c| c.0)
        .collect();
    assert_eq!(ops, ["c", "d"]);
    let events: Vec<String> = client
        .query(
            "SELECT DISTINCT event_manipulation::text FROM information_schema.triggers WHERE event_object_table = 't' ORDER BY 1",
            &[],
        )
        .expect("triggers")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        events,
        ["DELETE", "INSERT"],
        "what is not shipped costs nothing"
    );
}

#[test]
fn columns_are_left_out_where_asked() {
    let database = database("left_out");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text, secret text);
             SELECT cdc_track('t', exclude => '{secret}');
             INSERT INTO t VALUES (1, 'a', 's');
             UPDATE t SET secret = 'S', name = 'b';
             SELECT cdc_track('t', include => '{id, secret}');
             UPDATE t SET name = 'c';
             SELECT cdc_track('t', include => '{}');
             DELETE FROM t;",
        )
        .expect("the changes");
    let records = database.records("t");
    assert_eq!(
        changes(&records),
        [
            change("c", Value::Null, json!({"id": 1, "name": "a"})),
            change(
                "u",
                json!({"id": 1, "name": "a"}),
                json!({"id": 1, "name": "b"})
            ),
            change(
                "u",
                json!({"id": 1, "secret": "S"}),
                json!({"id": 1, "secret": "S"})
            ),
            change(
                "d",
                json!({"id": 1, "name": "c", "secret": "S"}),
                Value::Null
            ),
        ]
    );
    // What is left out is not in the event that describes the table either.
    let described = records
        .iter()
        .find(|r| r.op() == "schema")
        .expect("a schema event");
    assert!(!described.value_text().contains("secret"), "{described:?}");
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
    // Another database has another key: nobody there can try out what stands here.
    let elsewhere = self::database("masked_elsewhere");
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
    owner
        .batch_execute(
            "SET search_path = me, public;
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
                             colors color[], tags text[], x xml, v varchar(9));",
        )
        .expect("types");
    for filter in [
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
    ] {
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

    // What every writer means is taken.
    for filter in [
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
    ] {
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

#[test]
fn an_update_that_changes_nothing_shipped_can_be_left_out() {
    let database = database("unchanged");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int, big text, ignored int);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             SELECT cdc_track('t', skip_unchanged => true, exclude => '{ignored}');
             INSERT INTO t VALUES (1, 1, repeat('abc', 10000), 1);
             UPDATE t SET ignored = 2;
             UPDATE t SET n = 1, big = big || '';
             BEGIN; UPDATE t SET ignored = 3; UPDATE t SET n = 2; UPDATE t SET ignored = 4; COMMIT;
             SELECT cdc_track('t', skip_unchanged => false);
             UPDATE t SET ignored = 5;",
        )
        .expect("the changes");
    let records = database.records("t");
    let ops: Vec<String> = changes(&records).into_iter().map(|c| c.0).collect();
    assert_eq!(ops, ["c", "u", "u"]);
    let counts_no_others = |r: &Record| r.json()["transaction"]["event_count"] == 3;
    assert!(records.iter().any(counts_no_others));
}

#[test]
fn operations_can_have_topics_of_their_own() {
    let database = database("topics");
    let mut client = database.source();
    client
        .batch_execute(
            r#"CREATE TABLE t (id int PRIMARY KEY, n int);
             SELECT cdc_track('t', topics => '{"insert": "topics.created", "delete": "topics.deleted"}');
             INSERT INTO t VALUES (1, 1); UPDATE t SET n = 2; UPDATE t SET id = 2; DELETE FROM t;"#,
        )
        .expect("the changes");
    database.wait_until_in_kafka();
    let ops = |topic: &str| -> Vec<String> {
        let records = topic::read(database.bed().kafka(), topic);
        let mut records: Vec<&Record> = records.iter().filter(|r| r.op() != "schema").collect();
        records.sort_by(|one, other| one.version().cmp(other.version()));
        records.into_iter().map(|r| r.op().to_owned()).collect()
    };
    assert_eq!(ops(&database.topic("t")), ["u"]);
    assert_eq!(ops("topics.created"), ["c", "c"]);
    assert_eq!(ops("topics.deleted"), ["d", "d"], "no tombstones there");
    // Whoever reads one of them alone learns the columns.
    for topic in ["topics.created", "topics.deleted"] {
        let records = topic::read_control(database.bed().kafka(), "topics", topic);
        assert!(records.iter().any(|r| r.op() == "schema"), "{topic}");
    }
}

#[test]
fn rows_of_a_subscription_are_left_out_where_asked() {
    let database = database("local_rows");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t', origin => 'local'), pg_replication_origin_create('upstream')",
        )
        .expect("track");
    client
        .batch_execute(
            "SELECT pg_replication_origin_session_setup('upstream'); INSERT INTO t VALUES (1)",
        )
        .expect("a row of the origin");
    client
        .batch_execute("SELECT pg_replication_origin_session_reset(); INSERT INTO t VALUES (2)")
        .expect("a row of our own");
    assert_eq!(
        changes(&database.records("t")),
        [change("c", Value::Null, json!({"id": 2}))]
    );
}

#[test]
fn options_stay_until_they_are_changed_and_can_be_seen() {
    let database = database("kept");
    let mut client = database.source();
    give_mask_key(&mut client);
    client
        .batch_execute(
            r#"CREATE TABLE t (id int PRIMARY KEY, "a,b" text, c int);
             SELECT cdc_track('t', mask => '{"a,b": "truncate:2"}', filter => 'c > 0', operations => 'insert,update');
             SELECT cdc_track('t', exclude => '{c}');"#,
        )
        .expect("tracked twice");
    let definition = |client: &mut Client| -> String {
        client
            .query_one(
                "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = '_cdc'",
                &[],
            )
            .expect("the trigger")
            .get(0)
    };
    let shown = definition(&mut client);
    for part in [
        "AFTER INSERT OR UPDATE",
        "'operations=insert,update'",
        "'exclude=c'",
        r"'mask=a\,b:truncate:2'",
        "'filter=c > 0'",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    client
        .batch_execute(
            "SELECT cdc_track('t', mask => '{}', filter => '', exclude => '{}', operations => '')",
        )
        .expect("taken away");
    let shown = definition(&mut client);
    for gone in ["mask=", "filter=", "exclude=", "operations="] {
        assert!(!shown.contains(gone), "{gone} in {shown}");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let database = database("senseless");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY); SELECT cdc_track('other'); CREATE TYPE unused AS ENUM ('a');
             CREATE TABLE bare (a int, b int)")
        .expect("tables");
    let nothing_left = "SELECT cdc_track('bare', exclude => '{a, b}')";
    refusal::coded(&mut client, nothing_left, "22023", "CDC0110");
    for (arguments, sqlstate, code) in [
        ("exclude => '{nam}'", "42703", "CDC0103"),
        (r#"mask => '{"nam": "redact"}'"#, "42703", "CDC0103"),
        ("include => '{id}', exclude => '{name}'", "22023", "CDC0110"),
        ("exclude => '{id}'", "22023", "CDC0110"),
        (r#"mask => '{"id": "redact"}'"#, "22023", "CDC0110"),
        (r#"mask => '{"name": "scramble"}'"#, "22023", "CDC0110"),
        (r#"mask => '{"name": 1}'"#, "22023", "CDC0110"),
        (
            r#"mask => '{"name": "redact"}', exclude => '{name}'"#,
            "22023",
            "CDC0110",
        ),
        ("operations => 'upsert'", "22023", "CDC0110"),
        ("operations => 'truncate'", "22023", "CDC0110"),
        ("origin => 'remote'", "22023", "CDC0110"),
        (
            r#"topics => '{"merge": "senseless.x"}'"#,
            "22023",
            "CDC0110",
        ),
        (
            r#"topic => 'senseless.a', topics => '{"insert": "senseless.b"}'"#,
            "22023",
            "CDC0110",
        ),
        (
            r#"topics => '{"insert": "senseless.public.other"}'"#,
            "42710",
            "CDC0106",
        ),
        ("filter => 'id > '", "0A000", "CDC0111"),
        ("filter => 'nam = 1'", "0A000", "CDC0111"),
        ("filter => 'id'", "0A000", "CDC0111"),
        ("filter => 'id = (SELECT 1)'", "0A000", "CDC0111"),
        ("filter => 'random() > 0.5'", "0A000", "CDC0111"),
        ("filter => 'true) ORDER BY (1'", "0A000", "CDC0111"),
        ("filter => 'true), (false'", "0A000", "CDC0111"),
        ("filter => 'xmin = 1'", "0A000", "CDC0111"),
        ("filter => 'public.t.id = 1'", "0A000", "CDC0111"),
        (
            "filter => $$'a'::public.unused IS NULL$$",
            "0A000",
            "CDC0111",
        ),
        ("filter => 'count(id) > 0'", "0A000", "CDC0111"),
    ] {
        refusal::coded(
            &mut client,
            &format!("SELECT cdc_track('t', {arguments})"),
            sqlstate,
            code,
        );
    }
    let triggers = client.query(
        "SELECT 1 FROM pg_trigger WHERE tgrelid = 't'::regclass",
        &[],
    );
    assert!(
        triggers.expect("triggers").is_empty(),
        "what was refused left no trigger"
    );
}

#[test]
fn only_an_administrator_chooses_a_topic_outside_the_prefix() {
    let database = database("outside");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE ROLE an_owner; CREATE SCHEMA his AUTHORIZATION an_owner; SET ROLE an_owner;
             CREATE TABLE his.t (id int PRIMARY KEY)",
        )
        .expect("a table of his own");
    for arguments in [
        "topic => 'bank.accounts'",
        r#"topics => '{"insert": "bank.accounts"}'"#,
    ] {
        let statement = format!("SELECT cdc_track('his.t', {arguments})");
        refusal::coded(&mut client, &statement, "42501", "CDC0102");
    }
    client
        .batch_execute("SELECT cdc_track('his.t', topic => 'outside.anything')")
        .expect("inside the prefix");
    client
        .batch_execute("RESET ROLE; GRANT cdc_admin TO an_owner; SET ROLE an_owner; SELECT cdc_track('his.t', topic => 'bank.accounts')")
        .expect("as an administrator");
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
    let results = |client: &mut Client, call: &str| -> Vec<String> {
        let rows = client.query(&format!("SELECT relation::text, result FROM {call}"), &[]);
        let rows = rows.unwrap_or_else(|e| panic!("{call}: {e:?}"));
        rows.iter()
            .map(|row| format!("{} {}", row.get::<_, String>(0), row.get::<_, String>(1)))
            .collect()
    };
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
    // What cannot be read as a whole is tracked all the same.
    client
        .batch_execute("RESET ROLE; CREATE TABLE app.keyless (n int); SELECT cdc_untrack('app.keyless'); SET ROLE schema_admin")
        .expect("a table without a key");
    let call = "cdc_track_schema('app', new_tables => true, exclude => '{app.left_out}', snapshot => true)";
    let found = results(&mut client, call);
    let keyless = "app.keyless tracked without a snapshot: table \"keyless\" has no key to snapshot by: A snapshot is read";
    assert!(
        found.iter().any(|result| result.starts_with(keyless)),
        "{found:?}"
    );
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

#[test]
fn a_column_named_twice_in_a_key_counts_once() {
    let database = database("twice");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int);
             SELECT cdc_track('t', key => '{n,id,n}');
             INSERT INTO t VALUES (1, 2)",
        )
        .expect("a tracked table");
    let key: Vec<String> = client
        .query_one("SELECT key::text[] FROM cdc_tables", &[])
        .expect("cdc_tables")
        .get(0);
    assert_eq!(key, ["n", "id"]);
    let events = database.events("t");
    let row = events.iter().find(|event| event.op() == "c");
    assert_eq!(row.expect("the row").key_text(), r#"{"n":2,"id":1}"#);
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
