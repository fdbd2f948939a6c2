//! Changes of a table's definition arrive as events, in order with the rows, and die with what is rolled back.

use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, refusal};
use serde_json::{Value, json};

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Runs statements one by one, as a client that sends each alone.
/// What happened, shortly: the operation of a row, the type of a definition's change.
fn kinds(events: &[Record]) -> Vec<String> {
    let kind = |event: &Record| match event.op() {
        "schema" => event.json()["type"].as_str().expect("a type").to_owned(),
        op => op.to_owned(),
    };
    events.iter().map(kind).collect()
}

fn change(event: &Record) -> Value {
    event.json()
}

fn columns(event: &Record) -> Vec<String> {
    let columns = change(event)["tableChanges"][0]["table"]["columns"].clone();
    let columns = columns.as_array().expect("columns").clone();
    let shown = columns.iter().map(|column| {
        let text = |name: &str| column[name].as_str().expect("a text").to_owned();
        format!("{} {}", text("name"), text("typeExpression"))
    });
    shown.collect()
}

#[test]
fn every_change_of_a_definition_is_an_event_between_the_rows() {
    let database = database("altered");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE SCHEMA archive",
            "CREATE TABLE t (id int PRIMARY KEY, n int)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1, 1)",
            "ALTER TABLE t ADD note text DEFAULT 'none', ADD plain int",
            "INSERT INTO t VALUES (2, 2, 'two', 2)",
            "ALTER TABLE t RENAME n TO number",
            "ALTER TABLE t ALTER number TYPE numeric(9,2)",
            "ALTER TABLE t DROP plain",
            "ALTER TABLE t ADD later int",
            "UPDATE t SET number = 3 WHERE id = 2",
            // Not about the definition.
            "ALTER TABLE t SET (fillfactor = 50)",
            "ALTER TABLE t ALTER note SET STATISTICS 10",
            "ALTER TABLE t RENAME TO renamed",
            "ALTER TABLE renamed SET SCHEMA archive",
            "DELETE FROM archive.renamed WHERE id = 1",
            "DROP TABLE archive.renamed",
        ],
    );
    let mut events = database.events("t");
    // Those of the snapshots that some of these begin, come when they come.
    events.retain(|event| !matches!(event.op(), "snapshot" | "r"));
    assert_eq!(
        kinds(&events),
        [
            "CREATE", "c", "ALTER", "c", "ALTER", "ALTER", "ALTER", "ALTER", "u", "RENAME",
            "RENAME", "d", "UNTRACK", "DROP"
        ]
    );
    assert_eq!(columns(&events[0]), ["id integer", "n integer"]);
    assert_eq!(
        change(&events[2])["ddl"],
        "ALTER TABLE t ADD note text DEFAULT 'none', ADD plain int"
    );
    assert_eq!(
        columns(&events[2]),
        ["id integer", "n integer", "note text", "plain integer"]
    );
    assert_eq!(change(&events[4])["renames"], json!({"n": "number"}));
    assert_eq!(
        columns(&events[5]),
        [
            "id integer",
            "number numeric(9,2)",
            "note text",
            "plain integer"
        ]
    );
    let contents_changed: Vec<Value> = [2, 4, 5, 6, 7]
        .map(|place| change(&events[place])["contents_changed"].clone())
        .to_vec();
    assert_eq!(contents_changed, [true, false, true, false, false]);
    // A row has the columns that the definition before it announced.
    for (definition, row) in [(0, 1), (2, 3), (7, 8), (10, 11)] {
        assert_eq!(
            Some(events[definition].version()),
            events[row].header("cdc.control"),
            "{:?} and {:?}",
            events[definition],
            events[row]
        );
    }
    assert_eq!(
        events[8].json()["after"],
        json!({"id": 2, "number": "3.00", "note": "two", "later": null})
    );
    let tables: Vec<&str> = [8, 9, 11, 13]
        .map(|place| events[place].header("cdc.table").expect("a table"))
        .to_vec();
    assert_eq!(
        tables,
        [
            "altered.public.t",
            "altered.public.renamed",
            "altered.archive.renamed",
            "altered.archive.renamed"
        ]
    );
}

#[test]
fn definitions_and_rows_of_one_transaction_are_in_their_order() {
    let database = database("mixed");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, n int)",
            "SELECT cdc_track('app.t', topic => 'mixed.public.t')",
            "SET search_path = public, app",
            "BEGIN",
            "INSERT INTO t VALUES (1, 1)",
            "SAVEPOINT s",
            "ALTER TABLE t ADD gone text",
            "INSERT INTO t VALUES (9, 9, 'x')",
            "ROLLBACK TO s",
            "INSERT INTO t VALUES (2, 2)",
            "ALTER TABLE t ADD kept text",
            "INSERT INTO t VALUES (3, 3, 'x')",
            "COMMIT",
            "BEGIN",
            "DROP TABLE t",
            "ROLLBACK",
            "ALTER SCHEMA app RENAME TO common",
            "DELETE FROM common.t WHERE id = 1",
        ],
    );
    let events = database.events("t");
    assert_eq!(
        kinds(&events),
        ["CREATE", "c", "c", "ALTER", "c", "RENAME", "d"]
    );
    assert_eq!(events[2].json()["after"], json!({"id": 2, "n": 2}));
    assert_eq!(
        columns(&events[3]),
        ["id integer", "n integer", "kept text"]
    );
    assert_eq!(
        events[4].json()["after"],
        json!({"id": 3, "n": 3, "kept": "x"})
    );
    assert_eq!(events[6].header("cdc.table"), Some("mixed.common.t"));
    let tx = |event: &Record| event.json()["transaction"]["event_count"].clone();
    assert_eq!(
        tx(&events[3]),
        json!(4),
        "counted among the events of the transaction"
    );
}

#[test]
fn whatever_drops_a_table_or_its_trigger_says_so() {
    let database = database("dropped");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE owner_of_much; CREATE SCHEMA s; GRANT ALL ON SCHEMA s TO owner_of_much",
            "CREATE TABLE s.a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)",
            "CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE d (id int PRIMARY KEY)",
            "CREATE TABLE e (id int PRIMARY KEY); ALTER TABLE c OWNER TO owner_of_much",
            "SELECT cdc_track('s.a', topic => 'dropped.public.a'), cdc_track('b'), cdc_track('c'), cdc_track('d'), cdc_track('e')",
            "SELECT cdc_track('e', exclude => '{}')",
            "DROP SCHEMA s CASCADE",
            "DROP TRIGGER _cdc ON b",
            "DROP OWNED BY owner_of_much",
            "SELECT cdc_untrack('d')",
            "DROP TABLE d",
            "INSERT INTO e VALUES (1)",
        ],
    );
    for (table, expected) in [
        ("a", &["CREATE", "UNTRACK", "DROP"][..]),
        ("b", &["CREATE", "UNTRACK"]),
        ("c", &["CREATE", "UNTRACK", "DROP"]),
        ("d", &["CREATE", "UNTRACK"]),
        ("e", &["CREATE", "c"]),
    ] {
        assert_eq!(kinds(&database.events(table)), expected, "{table}");
    }
    // Without the extension there is no cdc_wait: another database of the server has one.
    let other = TestBed::shared().database("dropped_too");
    run(&mut client, &["DROP EXTENSION pg_cdc CASCADE"]);
    other.wait_until_in_kafka();
    let topic = database.topic("e");
    let records = database.records_of_topic(&topic);
    assert!(
        records
            .iter()
            .any(|r| r.op() == "schema" && r.json()["type"] == "UNTRACK"),
        "{records:?}"
    );
    database.bed().source().assert_never_crashed();
}

#[test]
fn what_would_lose_changes_is_refused_or_said() {
    let database = database("lossy");
    let (mut client, heard) = database
        .bed()
        .source()
        .connect_with_notices(database.name());
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
        ],
    );
    let notices = || std::mem::take(&mut *heard.lock().expect("the notices"));
    refusal::coded(
        &mut client,
        "ALTER TABLE t SET UNLOGGED",
        "22023",
        "CDC0101",
    );
    for statement in [
        "ALTER TABLE t DISABLE TRIGGER _cdc",
        "ALTER TABLE t ENABLE TRIGGER _cdc",
        "ALTER TABLE t DISABLE TRIGGER ALL",
    ] {
        notices();
        run(&mut client, &[statement]);
        let warnings = notices();
        let [warning] = warnings.as_slice() else {
            panic!("{statement}: {warnings:?}")
        };
        refusal::assert_coded(warning, "01000", "CDC0203");
    }
    notices();
    run(&mut client, &["ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc"]);
    assert!(notices().is_empty());
}

/// Columns that identify a row, in the newest definition.
fn key(event: &Record) -> Value {
    change(event)["tableChanges"][0]["table"]["primaryKeyColumnNames"].clone()
}

/// A session of a role that may make tables and nothing else.
fn owner(database: &Database<'_>, role: &str) -> postgres::Client {
    let mut client = database.source();
    run(
        &mut client,
        &[
            &format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}"),
            &format!("GRANT CREATE ON DATABASE {} TO {role}", database.name()),
            &format!("SET SESSION AUTHORIZATION {role}"),
        ],
    );
    client
}

#[test]
fn options_follow_their_columns_by_every_road() {
    let database = database("followed");
    let mut client = owner(&database, "follower");
    run(
        &mut client,
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
    let shown = |table: &str| -> Vec<String> {
        let events = database.events(table);
        for event in &events {
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
    };
    assert_eq!(
        shown("t"),
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
    refusal::coded(
        &mut client,
        "ALTER TABLE renamed DROP mail",
        "2BP01",
        "CDC0119",
    );
    refusal::coded(
        &mut client,
        "ALTER TABLE renamed DROP land",
        "55000",
        "CDC0120",
    );
    refusal::coded(
        &mut client,
        "ALTER TABLE renamed ALTER mail TYPE int USING 1",
        "55000",
        "CDC0120",
    );

    // Names that come from a parent, a type, or the root of partitions.
    run(
        &mut client,
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
    run(
        &mut client,
        &[
            "CREATE TABLE late (n int PRIMARY KEY, c int REFERENCES c DEFERRABLE INITIALLY DEFERRED, secret text)",
            r#"SELECT cdc_track('late', mask => '{"secret": "redact"}')"#,
            "BEGIN; INSERT INTO late VALUES (1, 1, 'SECRET')",
        ],
    );
    refusal::coded(
        &mut client,
        "ALTER TABLE late RENAME secret TO open",
        "55006",
        "CDC0121",
    );
    run(
        &mut client,
        &[
            "ROLLBACK",
            "BEGIN; INSERT INTO late VALUES (1, 1, 'SECRET'); SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE late RENAME secret TO open; COMMIT",
        ],
    );
    // The last column of a list that says what is shipped: without it all would be.
    refusal::coded(
        &mut client,
        "ALTER TYPE ty DROP ATTRIBUTE shown CASCADE, DROP ATTRIBUTE n CASCADE",
        "2BP01",
        "CDC0119",
    );

    // Where nobody told us of a new name, rows are refused until somebody says what shall hold.
    run(
        &mut database.source(),
        &["ALTER EVENT TRIGGER cdc_ddl_end DISABLE"],
    );
    run(&mut client, &["ALTER TABLE p RENAME hidden TO open"]);
    run(
        &mut database.source(),
        &["ALTER EVENT TRIGGER cdc_ddl_end ENABLE ALWAYS"],
    );
    refusal::coded(
        &mut client,
        "INSERT INTO c VALUES (2, 'SECRET')",
        "55000",
        "CDC0118",
    );
    run(
        &mut client,
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
fn whatever_changes_a_definition_says_so() {
    let database = database("roads");
    let mut client = owner(&database, "builder");
    run(
        &mut client,
        &[
            "CREATE SCHEMA things; CREATE SCHEMA elsewhere",
            "CREATE DOMAIN d AS int; CREATE DOMAIN key AS int; CREATE TYPE mood AS ENUM ('low', 'high')",
            "CREATE TYPE things.part AS ENUM ('a'); CREATE TYPE pair AS (one int, two int); CREATE TYPE ty AS (n int, x int)",
            "CREATE DOMAIN filtered AS int",
            "CREATE TABLE a (id int PRIMARY KEY, m d NOT NULL)",
            "CREATE TABLE b (id key PRIMARY KEY, n int)",
            "CREATE TABLE c (id int PRIMARY KEY, p things.part, q things.part[])",
            "CREATE TABLE parent (n int); CREATE TABLE child (PRIMARY KEY (n)) INHERITS (parent)",
            "CREATE TABLE typed OF ty (PRIMARY KEY (n))",
            "CREATE TABLE felt (id int PRIMARY KEY, m mood, p pair)",
            "CREATE TABLE f (id int PRIMARY KEY, c filtered)",
            "CREATE TABLE moved (id int PRIMARY KEY, v varchar(50))",
            "SELECT cdc_track('a'), cdc_track('b'), cdc_track('c'), cdc_track('child'), cdc_track('typed'), cdc_track('felt')",
            "SELECT cdc_track('f', filter => 'c > 0'), cdc_track('moved')",
            "INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); INSERT INTO child VALUES (1); INSERT INTO typed VALUES (1)",
            "INSERT INTO felt VALUES (1, 'low', (1, 2)); INSERT INTO moved VALUES (1, 'x')",
            "DROP DOMAIN d CASCADE",
            "INSERT INTO a VALUES (2)",
            "DROP DOMAIN key CASCADE",
            "DROP SCHEMA things CASCADE",
            "ALTER TABLE parent ADD x int",
            "ALTER TABLE parent ALTER x TYPE text",
            "ALTER TABLE parent RENAME x TO y",
            "ALTER TABLE parent ALTER n TYPE bigint",
            "ALTER TABLE parent DROP y",
            "ALTER TABLE child NO INHERIT parent",
            "ALTER TABLE parent ADD z int",
            "ALTER TYPE ty ADD ATTRIBUTE z int CASCADE",
            "ALTER TYPE ty ALTER ATTRIBUTE x TYPE text CASCADE",
            "ALTER TYPE ty DROP ATTRIBUTE x CASCADE",
            "ALTER TYPE mood ADD VALUE 'middle'",
            "ALTER TYPE mood RENAME TO feeling",
            "ALTER TYPE feeling SET SCHEMA elsewhere",
            "ALTER TYPE elsewhere.feeling RENAME VALUE 'low' TO 'down'",
            "ALTER TYPE pair ADD ATTRIBUTE three int",
            "ALTER SCHEMA elsewhere RENAME TO there",
            // Nothing is written anew: nothing is to be read again.
            "ALTER TABLE moved ALTER v TYPE varchar(100)",
            "ALTER TABLE moved ALTER v TYPE text",
            "ALTER TABLE moved ALTER v SET NOT NULL",
            "ALTER TABLE moved ADD w int",
            "ALTER TABLE moved ALTER v TYPE text USING upper(v)",
            "ALTER TABLE moved DROP CONSTRAINT moved_pkey",
            "ALTER TABLE moved ADD PRIMARY KEY (v)",
            "ALTER TABLE moved SET SCHEMA there",
        ],
    );
    let of = |table: &str| -> Vec<String> {
        let events = database.events(table);
        let shown = events.iter().map(|event| {
            let again = event.op() == "schema" && change(event)["contents_changed"] == true;
            let again = if again { "!" } else { "" };
            format!("{}{again}", kinds(std::slice::from_ref(event))[0])
        });
        // Snapshots follow, whenever their worker gets to them.
        shown
            .filter(|kind| !matches!(kind.as_str(), "r" | "snapshot"))
            .collect()
    };
    assert_eq!(of("a"), ["CREATE", "c", "ALTER", "c"]);
    assert_eq!(columns(&database.events("a")[2]), ["id integer"]);
    assert_eq!(of("b"), ["CREATE", "c", "ALTER"]);
    assert_eq!(key(&database.events("b")[2]), json!([]));
    assert_eq!(of("c"), ["CREATE", "ALTER"]);
    assert_eq!(columns(&database.events("c")[1]), ["id integer"]);
    let altered = |table: &str, count: usize| -> Vec<Vec<String>> {
        let mut events = database.events(table);
        events.retain(|event| event.op() == "schema" && change(event)["type"] != "CREATE");
        assert_eq!(events.len(), count, "{table}: {:?}", of(table));
        events.iter().map(columns).collect()
    };
    assert_eq!(
        of("child"),
        ["CREATE", "c", "ALTER", "ALTER!", "ALTER", "ALTER!", "ALTER"]
    );
    let child = altered("child", 5);
    assert_eq!(child[1], ["n integer", "x text"]);
    assert_eq!(child[4], ["n bigint"]);
    assert_eq!(of("typed"), ["CREATE", "c", "ALTER", "ALTER!", "ALTER"]);
    assert_eq!(altered("typed", 3)[2], ["n integer", "z integer"]);
    assert_eq!(
        of("felt"),
        ["CREATE", "c", "ALTER", "ALTER", "ALTER!", "ALTER", "ALTER"]
    );
    let felt: Vec<String> = altered("felt", 5)
        .iter()
        .map(|columns| columns[1].clone())
        .collect();
    assert_eq!(
        felt,
        [
            "m feeling",
            "m elsewhere.feeling",
            "m elsewhere.feeling",
            "m elsewhere.feeling",
            "m there.feeling"
        ]
        .map(|text| text.replace("m feeling", "m public.feeling"))
    );
    assert_eq!(
        of("moved"),
        [
            "CREATE", "c", "ALTER", "ALTER", "ALTER", "ALTER", "ALTER!", "ALTER", "ALTER", "RENAME"
        ]
    );
    let mut moved = database.events("moved");
    moved.retain(|event| event.op() == "schema");
    assert_eq!(key(moved.last().expect("the move")), json!(["v"]));
    let snapshots: Vec<String> = client
        .query(
            "SELECT DISTINCT relation::text FROM cdc_snapshots ORDER BY 1",
            &[],
        )
        .expect("snapshots")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(snapshots, ["child", "felt", "there.moved", "typed"]);

    // A table that another session just drops stands in nobody's way.
    let mut other = database.source();
    run(&mut other, &["BEGIN", "DROP TABLE there.moved"]);
    std::thread::scope(|scope| {
        let renaming = scope.spawn(|| run(&mut client, &["ALTER SCHEMA there RENAME TO here"]));
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'there.moved'::regclass";
        let mut watcher = database.source();
        pg_cdc_tests::wait_until("the lock to be waited for", Duration::from_secs(30), || {
            match watcher
                .query_one(waiting, &[])
                .expect("locks")
                .get::<_, i64>(0)
            {
                1 => Ok(()),
                others => Err(others),
            }
        });
        run(&mut other, &["COMMIT"]);
        renaming.join().expect("renamed");
    });

    // What would make every write fail is refused, and writes go on.
    refusal::coded(
        &mut client,
        "DROP DOMAIN filtered CASCADE",
        "55000",
        "CDC0120",
    );
    run(
        &mut client,
        &["INSERT INTO f VALUES (1, 1)", "DROP TABLE f"],
    );
    assert_eq!(of("f"), ["CREATE", "c", "UNTRACK", "DROP"]);
    database.bed().source().assert_never_crashed();
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
