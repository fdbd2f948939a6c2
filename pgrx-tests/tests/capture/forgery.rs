//! Only capture makes events (G9): forged messages and genuine ones sent again are ignored, counted and logged.

use std::process::Command;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, parts, process, refusal, topic};
use postgres::{Client, NoTls};

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

/// The arguments of a table's row trigger, as SQL literals.
fn arguments_of(client: &mut Client, table: &str) -> Vec<String> {
    let query =
        "SELECT tgargs FROM pg_trigger WHERE tgname = '_cdc' AND tgrelid = $1::text::regclass";
    let row = client.query_one(query, &[&table]).expect("the trigger");
    let arguments: Vec<u8> = row.get(0);
    arguments
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(|argument| {
            format!(
                "'{}'",
                String::from_utf8_lossy(argument).replace('\'', "''")
            )
        })
        .collect()
}

/// Everything that makes events of a tracked table, done to `mine`, whose trigger is forged.
const EVERYTHING: &[&str] = &[
    "INSERT INTO f.mine VALUES (1, 'forged'), (2, 'forged')",
    "UPDATE f.mine SET v = 'again' WHERE id = 1",
    "DELETE FROM f.mine WHERE id = 2",
    "ALTER TABLE f.mine ALTER v SET DEFAULT 'x'",
    "ALTER TABLE f.mine ADD w int DEFAULT 7",
    "BEGIN; ALTER TABLE f.mine ALTER v SET DEFAULT 'y'; INSERT INTO f.mine VALUES (3, 'forged'); COMMIT",
    "TRUNCATE f.mine",
    "ALTER SCHEMA f RENAME TO g",
    "ALTER SCHEMA g RENAME TO f",
    "ALTER TABLE f.mine RENAME TO yours",
    "ALTER TABLE f.yours RENAME TO mine",
    "ALTER TABLE f.mine RENAME v TO text",
    "ALTER TABLE f.mine RENAME text TO v",
    "ALTER TABLE f.mine ALTER w TYPE bigint",
    "ALTER TABLE f.mine ALTER w TYPE int",
    "ALTER TABLE f.mine SET UNLOGGED",
    "ALTER TABLE f.mine SET LOGGED",
    "ALTER TABLE f.mine DISABLE TRIGGER ALL",
    "ALTER TABLE f.mine ENABLE TRIGGER ALL",
];

/// What makes events of a tracked table's partitions, done to `root`, whose trigger is forged.
const WITH_PARTITIONS: &[&str] = &[
    "CREATE TABLE f.part (id int, v text)",
    "INSERT INTO f.part VALUES (9, 'forged')",
    "ALTER TABLE f.root ATTACH PARTITION f.part DEFAULT",
    "ALTER TABLE f.root RENAME v TO text",
    "ALTER TABLE f.root RENAME text TO v",
    "ALTER TABLE f.root DETACH PARTITION f.part",
    "ALTER TABLE f.root ATTACH PARTITION f.part DEFAULT",
    "TRUNCATE f.part",
    "INSERT INTO f.root VALUES (10, 'forged')",
    "DROP TABLE f.part",
    "DROP TABLE f.root",
];

#[test]
fn only_what_cdc_track_sealed_says_anything() {
    let bed = TestBed::start(); // Topics of other tests would be taken for the forger's.
    let victims = bed.database("victims");
    run(
        &mut victims.source(),
        &[
            "CREATE TABLE employees (id int PRIMARY KEY, v text)",
            "SELECT cdc_track('employees')",
            "INSERT INTO employees VALUES (1, 'genuine')",
        ],
    );
    let database = bed.database("forgers");
    run(
        &mut database.source(),
        &[
            "CREATE ROLE forger LOGIN",
            "GRANT CREATE ON DATABASE forgers TO forger",
        ],
    );
    let (mut forger, heard) = {
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = heard.clone();
        let place = bed.source().url("forgers").replace("postgres@", "forger@");
        let mut config: postgres::Config = place.parse().expect("a connection string");
        config.notice_callback(move |notice| kept.lock().expect("the notices").push(notice));
        (config.connect(NoTls).expect("the forger"), heard)
    };
    run(
        &mut forger,
        &[
            "CREATE SCHEMA f",
            "CREATE FUNCTION f.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TABLE f.own (id int PRIMARY KEY, v text)",
            "SELECT cdc_track('f.own')",
        ],
    );
    // Options follow their columns, for an owner who is nobody else, sealed and without a word.
    heard.lock().expect("the notices").clear();
    run(
        &mut forger,
        &[
            "SELECT cdc_track('f.own', mask => '{\"v\": \"redact\"}', filter => 'v <> ''''')",
            "ALTER TABLE f.own RENAME v TO secret",
            "INSERT INTO f.own VALUES (1, 'captured')",
        ],
    );
    assert_eq!(heard.lock().expect("the notices").len(), 1, "of cdc_track");
    let own = arguments_of(&mut forger, "f.own");
    assert!(own.iter().any(|argument| argument.contains("secret")));
    let insert_rows = "SELECT _cdc_insert_rows('f.own')";
    let refused = refusal::of(&mut forger, insert_rows);
    assert_eq!(refused.code().code(), "42501", "{refused:?}");
    assert!(
        own.last().is_some_and(|last| last.starts_with("'seal=")),
        "{own:?}"
    );
    let source = own.iter().find(|argument| argument.starts_with("'source="));
    let (source, seal) = (
        source.expect("a source").clone(),
        own[own.len() - 1].clone(),
    );
    let victim = "'topic=victims.public.employees'";
    let forged = "'topic=forgers.f.forged'";
    let nothing = format!("{victim}, 'topics=delete:x.dlq', {source}");
    let (sealed, legal) = (
        format!("{victim}, {source}, {seal}"),
        format!("{forged}, {source}, {seal}"),
    );
    let mut ways = Vec::new();
    for arguments in [&nothing, &sealed, &legal, &own.join(", ")] {
        for (name, function) in [
            ("_cdc", "f.noop"),
            ("_cdc", "cdc_capture"),
            ("zzz", "cdc_capture"),
        ] {
            ways.push(format!(
                "CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON f.mine FOR EACH ROW EXECUTE FUNCTION {function}({arguments})"
            ));
        }
        ways.push(format!(
            "CREATE TRIGGER _cdc_truncate AFTER TRUNCATE ON f.mine EXECUTE FUNCTION cdc_capture_truncate({arguments})"
        ));
    }
    let names_before = topic::names(bed.kafka());
    for way in &ways {
        run(
            &mut forger,
            &["CREATE TABLE f.mine (id int PRIMARY KEY, v text)", way],
        );
        let arguments = "SELECT tgname::text, tgargs FROM pg_trigger WHERE tgrelid = 'f.mine'::regclass ORDER BY 1";
        let arguments = |forger: &mut Client| -> Vec<(String, Vec<u8>)> {
            let rows = forger.query(arguments, &[]).expect("the triggers");
            rows.iter().map(|row| (row.get(0), row.get(1))).collect()
        };
        let made = arguments(&mut forger);
        run(&mut forger, EVERYTHING);
        assert_eq!(
            made,
            arguments(&mut forger),
            "{way}: nobody else's trigger is touched"
        );
        let refused = refusal::of(&mut forger, "SELECT cdc_snapshot('f.mine')");
        assert_eq!(refused.code().code(), "55000", "{way}: {refused:?}");
        // As a partition, and as a table with one.
        run(
            &mut forger,
            &[
                "CREATE TABLE f.root (id int, v text, w int) PARTITION BY LIST (id)",
                "INSERT INTO f.mine VALUES (8, 'forged')",
                "ALTER TABLE f.root ATTACH PARTITION f.mine DEFAULT",
                "INSERT INTO f.root VALUES (7, 'forged')",
                "ALTER TABLE f.root RENAME v TO text",
                "ALTER TABLE f.root RENAME text TO v",
                "ALTER TABLE f.root DETACH PARTITION f.mine",
                "ALTER TABLE f.root ATTACH PARTITION f.mine DEFAULT",
                "TRUNCATE f.root",
                "ALTER TABLE f.root DETACH PARTITION f.mine",
                "DROP TABLE f.root",
                "CREATE TABLE f.root (id int, v text) PARTITION BY LIST (id)",
                &way.replace("f.mine", "f.root"),
            ],
        );
        run(&mut forger, WITH_PARTITIONS);
        let name = way.split(' ').nth(2).expect("a name");
        run(
            &mut forger,
            &[
                &format!("DROP TRIGGER {name} ON f.mine"),
                way,
                "DROP TABLE f.mine",
            ],
        );
    }
    // A new table of a schema whose tables are tracked, that was made with such a trigger.
    run(
        &mut database.source(),
        &[
            "CREATE SCHEMA h",
            "SELECT cdc_track_schema('h', new_tables => true)",
            "DROP SCHEMA h",
        ],
    );
    heard.lock().expect("the notices").clear();
    run(
        &mut forger,
        &["CREATE SCHEMA h CREATE TABLE t (id int PRIMARY KEY)
               CREATE TRIGGER _cdc AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f.noop()"],
    );
    {
        let heard = heard.lock().expect("the notices");
        let [warning] = heard.as_slice() else {
            panic!("one warning: {heard:?}")
        };
        refusal::assert_coded(warning, "01000", "CDC0203");
    }
    // Beside a genuine one: nothing takes its place, nobody takes its name, and arguments that held once do not hold again.
    run(
        &mut forger,
        &[
            "CREATE TABLE f.mine (id int PRIMARY KEY, v text)",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.first')",
        ],
    );
    let first = arguments_of(&mut forger, "f.mine").join(", ");
    let rename = "ALTER TRIGGER _cdc ON f.mine RENAME TO aside";
    refusal::coded(&mut forger, rename, "55000", "CDC0116");
    let rename = "ALTER TRIGGER _cdc_truncate ON f.mine RENAME TO aside";
    refusal::coded(&mut forger, rename, "55000", "CDC0116");
    let make = |name: &str, what: &str, arguments: &str| {
        format!(
            "CREATE OR REPLACE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON f.mine FOR EACH ROW {what} EXECUTE FUNCTION cdc_capture({arguments})"
        )
    };
    run(
        &mut forger,
        &[
            &make("aaa", "", &sealed),
            "BEGIN; ALTER TABLE f.mine ALTER v SET DEFAULT 'y'; INSERT INTO f.mine VALUES (1, 'captured once'); COMMIT",
            "DROP TRIGGER aaa ON f.mine",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.second')",
        ],
    );
    let second = arguments_of(&mut forger, "f.mine").join(", ");
    run(
        &mut forger,
        &[
            &make("_cdc", "", &first),
            "INSERT INTO f.mine VALUES (2, 'not captured')",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.second')",
            &make("_cdc", "", &second),
            "INSERT INTO f.mine VALUES (3, 'not captured')",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.second')",
        ],
    );
    let third = arguments_of(&mut forger, "f.mine").join(", ");
    run(
        &mut forger,
        &[
            &make("_cdc", "WHEN (NEW.id = 0)", &third).replace("OR UPDATE OR DELETE ", ""),
            "INSERT INTO f.mine VALUES (0, 'not captured')",
        ],
    );
    heard.lock().expect("the notices").clear();
    run(
        &mut forger,
        &[
            &make("_cdc", "", forged),
            &make("_cdc", "", &format!("{victim}, {source}")),
            "INSERT INTO f.mine VALUES (4, 'not captured')",
            "INSERT INTO f.mine VALUES (5, 'not captured')",
        ],
    );
    {
        let heard = heard.lock().expect("the notices");
        let [warning] = heard.as_slice() else {
            panic!("one warning: {heard:?}")
        };
        refusal::assert_coded(warning, "01000", "CDC0114");
    }
    let mut client = database.source();
    let seen = "SELECT state, left(warning, 7) FROM cdc_tables WHERE relation = 'f.mine'::regclass";
    let seen = client.query_one(seen, &[]).expect("a row of cdc_tables");
    assert_eq!(
        (seen.get::<_, &str>(0), seen.get::<_, &str>(1)),
        ("not_sealed", "CDC0114")
    );
    let check = "SELECT code FROM cdc_check() WHERE item = 'table f.mine'";
    let line = client.query_one(check, &[]).expect("a line of cdc_check()");
    assert_eq!(line.get::<_, &str>(0), "CDC0114");

    // A forged topic keeps it from nobody, and is nobody's by being sealed by an administrator.
    run(
        &mut forger,
        &[
            "CREATE TABLE f.other (id int PRIMARY KEY)",
            &make("_cdc", "", &format!("'topic=forgers.f.other', {source}")),
            "SELECT cdc_track('f.other')",
            &make(
                "_cdc",
                "",
                &format!(
                    "{victim}, 'topics=insert:victims.public.employees', 'skip_unchanged=true', {source}"
                ),
            ),
        ],
    );
    run(&mut client, &["SELECT cdc_track('f.mine')"]);
    run(&mut forger, &["INSERT INTO f.mine VALUES (6, 'captured')"]);
    let seen = "SELECT topic, topics::text, state, skip_unchanged FROM cdc_tables WHERE relation = 'f.mine'::regclass";
    let seen = client.query_one(seen, &[]).expect("a row of cdc_tables");
    assert_eq!(seen.get::<_, &str>(0), "forgers.f.mine");
    assert_eq!(seen.get::<_, Option<&str>>(1), None);
    assert_eq!(seen.get::<_, &str>(2), "capturing");
    assert!(seen.get::<_, bool>(3), "the other options are kept");

    let events = victims.events("employees");
    let shown: Vec<&str> = events.iter().map(topic::Record::op).collect();
    assert_eq!(shown, ["schema", "c"], "nothing of the forger's");
    let rows = |topic: &str| -> Vec<String> {
        let records = topic::read(bed.kafka(), topic);
        let rows = records.iter().filter(|record| record.is_row_change());
        rows.map(|record| record.key_text().to_owned()).collect()
    };
    assert_eq!(rows("forgers.f.own"), ["{\"id\":1}"]);
    assert_eq!(rows("forgers.f.first"), ["{\"id\":1}"]);
    assert!(rows("forgers.f.second").is_empty());
    assert_eq!(rows("forgers.f.mine"), ["{\"id\":6}"]);
    let mut made = topic::names(bed.kafka());
    // Its own table's may have come a little later.
    made.retain(|name| !names_before.contains(name) && name != "forgers.f.own");
    let expected = ["cdc-control", "f.first", "f.mine", "f.other", "f.second"];
    let expected = expected.map(|name| format!("forgers.{name}"));
    made.sort();
    assert_eq!(made, expected);
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
