//! Only capture makes events (G9): forged messages and genuine ones sent again are ignored, counted and logged; and what
//! stands in the extension's schema does not take the place of its own functions.

use std::process::Command;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, parts, process, refusal};
use postgres::Client;

/// The prefix of pg_cdc's messages in the WAL.
const PREFIX: &str = "pg_cdc";

fn rejected_messages(client: &mut Client) -> i64 {
    client
        .query_one("SELECT rejected_messages FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0)
}

fn wal_position(client: &mut Client) -> String {
    client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .expect("WAL position")
        .get(0)
}

/// The payloads of the messages with our prefix between two WAL positions.
fn messages(database: &Database<'_>, from: &str, to: &str) -> Vec<Vec<u8>> {
    let mut waldump = Command::new(parts::postgres_bin().join("pg_waldump"));
    waldump
        .args([
            "--rmgr=LogicalMessage",
            "--start",
            from,
            "--end",
            to,
            "--path",
        ])
        .arg(database.bed().source().data_folder().join("pg_wal"));
    let text = process::run(waldump, None);
    let mark = format!("prefix \"{PREFIX}\"; payload (");
    text.lines()
        .filter_map(|line| line.split_once(&mark))
        .map(|(_, rest)| {
            let (_, bytes) = rest.split_once("): ").expect("the payload");
            let bytes = bytes.split_whitespace();
            bytes
                .map(|hex| u8::from_str_radix(hex, 16).expect("a byte in hex"))
                .collect()
        })
        .collect()
}

fn emit(client: &mut Client, transactional: bool, payload: &[u8]) {
    client
        .execute(
            "SELECT pg_logical_emit_message($1, $2, $3::bytea)",
            &[&transactional, &PREFIX, &payload],
        )
        .expect("pg_logical_emit_message");
}

#[test]
fn forged_and_replayed_messages_make_no_events() {
    // A bed of its own: the counter is the server's.
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t')")
        .expect("track");
    let before = wal_position(&mut client);
    client
        .batch_execute("INSERT INTO t VALUES (1)")
        .expect("a genuine change");
    let after = wal_position(&mut client);
    let genuine = messages(&database, &before, &after);
    assert_eq!(genuine.len(), 1, "one chunk for one small transaction");
    assert_eq!(
        database
            .records("t")
            .iter()
            .filter(|r| r.is_row_change())
            .count(),
        1
    );
    assert_eq!(rejected_messages(&mut client), 0);

    // A replay, a replay with one bit changed, and things that are no chunk at all.
    let mut flipped = genuine[0].clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let forgeries: [&[u8]; 5] = [&genuine[0], &flipped, b"", b"nonsense", &[0xff; 500]];
    for payload in forgeries {
        emit(&mut client, true, payload);
    }
    // As a non-transactional message it would even come before its commit.
    emit(&mut client, false, &genuine[0]);
    // Inside a transaction that changes rows itself, whose own changes must arrive.
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (2)")
        .expect("begin");
    emit(&mut client, true, &genuine[0]);
    client
        .batch_execute("INSERT INTO t VALUES (3); COMMIT")
        .expect("commit");

    let mut keys: Vec<String> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.key_text().to_owned())
        .collect();
    keys.sort();
    assert_eq!(keys, ["{\"id\":1}", "{\"id\":2}", "{\"id\":3}"]);
    assert_eq!(rejected_messages(&mut client), 7);
    assert!(
        bed.source().log().contains("CDC0205"),
        "the server log tells of it"
    );
    bed.source().assert_never_crashed();
}

/// What an ordinary role may have made in the extension's schema before: each fits a careless call in the extension's
/// script better than what was meant.
const HOSTILE: &str = "
    CREATE FUNCTION hijacked() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'hijacked' USING ERRCODE = 'XX001'; END $$;
    CREATE FUNCTION _cdc_request(text, text, text) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION cdc_track(regclass) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION cdc_track(regclass, boolean) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION cdc_untrack(oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION cdc_drain(interval) RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION cdc_capture(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION _cdc_snapshot_set(bigint, varchar) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION convert_to(text, text) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION times(numeric, int) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION times(float8, int) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION path(jsonb, jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION same(name, varchar) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION same(oid, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION same(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION same(oid, regproc) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION same(oid, regprocedure) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE FUNCTION joined(text, varchar) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM hijacked(); END $$;
    CREATE OPERATOR * (LEFTARG = numeric, RIGHTARG = int, FUNCTION = times);
    CREATE OPERATOR * (LEFTARG = float8, RIGHTARG = int, FUNCTION = times);
    CREATE OPERATOR #>> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = path);
    CREATE OPERATOR = (LEFTARG = name, RIGHTARG = varchar, FUNCTION = same);
    CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = int, FUNCTION = same);
    CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = same);
    CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regproc, FUNCTION = same);
    CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regprocedure, FUNCTION = same);
    CREATE OPERATOR || (LEFTARG = text, RIGHTARG = varchar, FUNCTION = joined);";

#[test]
fn nothing_in_the_schema_of_the_extension_stands_in_for_its_own_functions() {
    // A bed of its own: it is drained, and its role cdc_admin was there before.
    let bed = TestBed::start();
    let database = bed.database_without_extension("shared_schema");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE tenant LOGIN",
            "GRANT ALL ON SCHEMA public TO tenant",
            "CREATE ROLE cdc_admin LOGIN CREATEROLE",
            "GRANT cdc_admin TO tenant WITH ADMIN OPTION",
        ],
    );
    let mut tenant = bed.source().connect_as("tenant", "shared_schema");
    run(&mut tenant, &[HOSTILE]);
    let (mut client, heard) = bed.source().connect_with_notices("shared_schema");
    run(&mut client, &["CREATE EXTENSION pg_cdc"]);
    {
        let heard = heard.lock().expect("the notices");
        let [role, members] = heard.as_slice() else {
            panic!("two warnings: {heard:?}")
        };
        refusal::assert_coded(role, "01000", "CDC0117");
        refusal::assert_coded(members, "01000", "CDC0117");
        assert!(
            members.message().ends_with("tenant (may add others)"),
            "{members:?}"
        );
    }
    bed.wait_until_streaming("shared_schema");
    run(
        &mut client,
        &[
            "SELECT cdc_pause('a reason')",
            "SELECT cdc_resume()",
            "SELECT cdc_track_schema('public', new_tables => true)",
            "CREATE TABLE made (id int PRIMARY KEY)",
            "SELECT cdc_track('made', mask => '{}'::jsonb)",
            "INSERT INTO made VALUES (1)",
            "SELECT cdc_snapshot_cancel(cdc_snapshot('made'))",
            "SELECT * FROM cdc_snapshots, cdc_tables, pg_stat_cdc, cdc_check()",
            "SELECT cdc_emit('shared_schema.own', 'k', '{}'::jsonb), cdc_context(actor => 'a'::text)",
            "SELECT cdc_drain('1 min'::interval, false)",
            "SELECT cdc_resume()",
            "SELECT cdc_untrack_schema('public')",
            "CALL cdc_uninstall()",
        ],
    );
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
    assert_eq!(
        client
            .query_one(left, &[])
            .expect("triggers")
            .get::<_, i64>(0),
        0
    );
    bed.source().assert_never_crashed();
}
