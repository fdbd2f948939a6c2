//! Only triggers that `cdc_track` sealed capture anything (G9), whatever their owner makes by hand.

use pg_cdc_tests::postgres::Notices;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, refusal, topic};
use postgres::{Client, NoTls};

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

/// A role that makes tables and triggers in a database of its own, and what it is told.
struct Forger {
    client: Client,
    heard: Notices,
}

impl Forger {
    fn connect(bed: &TestBed) -> Forger {
        let heard = Notices::default();
        let kept = heard.clone();
        let place = bed.source().url("forgers").replace("postgres@", "forger@");
        let mut config: postgres::Config = place.parse().expect("a connection string");
        config.notice_callback(move |notice| kept.lock().expect("the notices").push(notice));
        let client = config.connect(NoTls).expect("the forger");
        Forger { client, heard }
    }

    fn forget_what_was_heard(&self) {
        self.heard.lock().expect("the notices").clear();
    }

    fn assert_warned_once(&self, code: &str) {
        let heard = self.heard.lock().expect("the notices");
        let [warning] = heard.as_slice() else {
            panic!("one warning: {heard:?}")
        };
        refusal::assert_coded(warning, "01000", code);
    }
}

/// The topic of somebody else's table.
const VICTIM: &str = "'topic=victims.public.employees'";

/// A topic that the forger might have.
const FORGED: &str = "'topic=forgers.f.forged'";

/// Arguments, as SQL literals, that `cdc_track` made and sealed for a table of the forger's own.
struct Sealed {
    all: Vec<String>,
    source: String,
    seal: String,
}

impl Sealed {
    /// These arguments with another topic: the seal is not for them.
    fn with(&self, topic: &str) -> String {
        format!("{topic}, {}, {}", self.source, self.seal)
    }
}

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
    let mut forger = Forger::connect(&bed);
    let own = options_follow_their_columns_sealed(&mut forger);
    let ways = ways_to_forge(&own);
    let names_before = topic::names(bed.kafka());
    for way in &ways {
        a_forged_trigger_does_nothing(&mut forger.client, way);
    }
    a_new_table_with_such_a_trigger_is_warned_of(&database, &mut forger);
    nothing_takes_the_place_of_a_genuine_trigger(&mut forger, &own);
    let mut client = database.source();
    it_is_shown_as_not_sealed(&mut client);
    a_forged_topic_keeps_it_from_nobody(&mut client, &mut forger.client, &own);

    let events = victims.events("employees");
    let shown: Vec<&str> = events.iter().map(topic::Record::op).collect();
    assert_eq!(shown, ["schema", "c"], "nothing of the forger's");
    only_what_was_sealed_is_in_topics(&bed, &names_before);
    bed.source().assert_never_crashed();
}

/// For an owner who is nobody else, and without a word.
fn options_follow_their_columns_sealed(forger: &mut Forger) -> Sealed {
    run(
        &mut forger.client,
        &[
            "CREATE SCHEMA f",
            "CREATE FUNCTION f.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TABLE f.own (id int PRIMARY KEY, v text)",
            "SELECT cdc_track('f.own')",
        ],
    );
    forger.forget_what_was_heard();
    run(
        &mut forger.client,
        &[
            "SELECT cdc_track('f.own', mask => '{\"v\": \"redact\"}', filter => 'v <> ''''')",
            "ALTER TABLE f.own RENAME v TO secret",
            "INSERT INTO f.own VALUES (1, 'captured')",
        ],
    );
    assert_eq!(
        forger.heard.lock().expect("the notices").len(),
        1,
        "of cdc_track"
    );
    let own = arguments_of(&mut forger.client, "f.own");
    assert!(own.iter().any(|argument| argument.contains("secret")));
    let insert_rows = "SELECT _cdc_insert_rows('f.own')";
    let refused = refusal::of(&mut forger.client, insert_rows);
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
    Sealed {
        all: own,
        source,
        seal,
    }
}

/// Statements that make triggers on `f.mine`, with our names or functions and arguments of all kinds.
fn ways_to_forge(own: &Sealed) -> Vec<String> {
    let nothing = format!("{VICTIM}, 'topics=delete:x.dlq', {}", own.source);
    let (sealed, legal) = (own.with(VICTIM), own.with(FORGED));
    let mut ways = Vec::new();
    for arguments in [&nothing, &sealed, &legal, &own.all.join(", ")] {
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
    ways
}

fn a_forged_trigger_does_nothing(forger: &mut Client, way: &str) {
    run(
        forger,
        &["CREATE TABLE f.mine (id int PRIMARY KEY, v text)", way],
    );
    let arguments =
        "SELECT tgname::text, tgargs FROM pg_trigger WHERE tgrelid = 'f.mine'::regclass ORDER BY 1";
    let arguments = |forger: &mut Client| -> Vec<(String, Vec<u8>)> {
        let rows = forger.query(arguments, &[]).expect("the triggers");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let made = arguments(forger);
    run(forger, EVERYTHING);
    assert_eq!(
        made,
        arguments(forger),
        "{way}: nobody else's trigger is touched"
    );
    let refused = refusal::of(forger, "SELECT cdc_snapshot('f.mine')");
    assert_eq!(refused.code().code(), "55000", "{way}: {refused:?}");
    // As a partition, and as a table with one.
    run(
        forger,
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
    run(forger, WITH_PARTITIONS);
    let name = way.split(' ').nth(2).expect("a name");
    run(
        forger,
        &[
            &format!("DROP TRIGGER {name} ON f.mine"),
            way,
            "DROP TABLE f.mine",
        ],
    );
}

/// A new table of a schema whose tables are tracked, that was made with a forged trigger.
fn a_new_table_with_such_a_trigger_is_warned_of(database: &Database<'_>, forger: &mut Forger) {
    run(
        &mut database.source(),
        &[
            "CREATE SCHEMA h",
            "SELECT cdc_track_schema('h', new_tables => true)",
            "DROP SCHEMA h",
        ],
    );
    forger.forget_what_was_heard();
    run(
        &mut forger.client,
        &["CREATE SCHEMA h CREATE TABLE t (id int PRIMARY KEY)
               CREATE TRIGGER _cdc AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f.noop()"],
    );
    forger.assert_warned_once("CDC0203");
}

/// A trigger of ours on `f.mine`, made or replaced by hand.
fn trigger_by_hand(name: &str, what: &str, arguments: &str) -> String {
    format!(
        "CREATE OR REPLACE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON f.mine FOR EACH ROW {what} EXECUTE FUNCTION cdc_capture({arguments})"
    )
}

/// Beside a genuine one: nothing takes its place, nobody takes its name, and arguments that held once do not hold again.
fn nothing_takes_the_place_of_a_genuine_trigger(forger: &mut Forger, own: &Sealed) {
    let client = &mut forger.client;
    run(
        client,
        &[
            "CREATE TABLE f.mine (id int PRIMARY KEY, v text)",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.first')",
        ],
    );
    let first = arguments_of(client, "f.mine").join(", ");
    let rename = "ALTER TRIGGER _cdc ON f.mine RENAME TO aside";
    refusal::coded(client, rename, "55000", "CDC0116");
    let rename = "ALTER TRIGGER _cdc_truncate ON f.mine RENAME TO aside";
    refusal::coded(client, rename, "55000", "CDC0116");
    run(
        client,
        &[
            &trigger_by_hand("aaa", "", &own.with(VICTIM)),
            "BEGIN; ALTER TABLE f.mine ALTER v SET DEFAULT 'y'; INSERT INTO f.mine VALUES (1, 'captured once'); COMMIT",
            "DROP TRIGGER aaa ON f.mine",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.second')",
        ],
    );
    let second = arguments_of(client, "f.mine").join(", ");
    run(
        client,
        &[
            &trigger_by_hand("_cdc", "", &first),
            "INSERT INTO f.mine VALUES (2, 'not captured')",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.second')",
            &trigger_by_hand("_cdc", "", &second),
            "INSERT INTO f.mine VALUES (3, 'not captured')",
            "SELECT cdc_track('f.mine', topic => 'forgers.f.second')",
        ],
    );
    let third = arguments_of(client, "f.mine").join(", ");
    run(
        client,
        &[
            &trigger_by_hand("_cdc", "WHEN (NEW.id = 0)", &third)
                .replace("OR UPDATE OR DELETE ", ""),
            "INSERT INTO f.mine VALUES (0, 'not captured')",
        ],
    );
    forger.forget_what_was_heard();
    run(
        &mut forger.client,
        &[
            &trigger_by_hand("_cdc", "", FORGED),
            &trigger_by_hand("_cdc", "", &format!("{VICTIM}, {}", own.source)),
            "INSERT INTO f.mine VALUES (4, 'not captured')",
            "INSERT INTO f.mine VALUES (5, 'not captured')",
        ],
    );
    forger.assert_warned_once("CDC0114");
}

fn it_is_shown_as_not_sealed(client: &mut Client) {
    let seen = "SELECT state, left(warning, 7) FROM cdc_tables WHERE relation = 'f.mine'::regclass";
    let seen = client.query_one(seen, &[]).expect("a row of cdc_tables");
    assert_eq!(
        (seen.get::<_, &str>(0), seen.get::<_, &str>(1)),
        ("not_sealed", "CDC0114")
    );
    let check = "SELECT code FROM cdc_check() WHERE item = 'table f.mine'";
    let line = client.query_one(check, &[]).expect("a line of cdc_check()");
    assert_eq!(line.get::<_, &str>(0), "CDC0114");
}

/// And it is nobody's by being sealed by an administrator.
fn a_forged_topic_keeps_it_from_nobody(client: &mut Client, forger: &mut Client, own: &Sealed) {
    let source = &own.source;
    run(
        forger,
        &[
            "CREATE TABLE f.other (id int PRIMARY KEY)",
            &trigger_by_hand("_cdc", "", &format!("'topic=forgers.f.other', {source}")),
            "SELECT cdc_track('f.other')",
            &trigger_by_hand(
                "_cdc",
                "",
                &format!(
                    "{VICTIM}, 'topics=insert:victims.public.employees', 'skip_unchanged=true', {source}"
                ),
            ),
        ],
    );
    run(client, &["SELECT cdc_track('f.mine')"]);
    run(forger, &["INSERT INTO f.mine VALUES (6, 'captured')"]);
    let seen = "SELECT topic, topics::text, state, skip_unchanged FROM cdc_tables WHERE relation = 'f.mine'::regclass";
    let seen = client.query_one(seen, &[]).expect("a row of cdc_tables");
    assert_eq!(seen.get::<_, &str>(0), "forgers.f.mine");
    assert_eq!(seen.get::<_, Option<&str>>(1), None);
    assert_eq!(seen.get::<_, &str>(2), "capturing");
    assert!(seen.get::<_, bool>(3), "the other options are kept");
}

fn only_what_was_sealed_is_in_topics(bed: &TestBed, names_before: &[String]) {
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
}
