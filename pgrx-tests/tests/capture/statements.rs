//! Every way in which SQL changes rows is captured, and nothing else: the events, folded, are the table (G1, G2, G4).

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, prefix_rule, wait_until};
use postgres::Client;
use serde_json::{Value, json};

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Row changes and truncates in the order of their versions.
fn changes(database: &Database<'_>, table: &str) -> Vec<Record> {
    let events = database.events(table).into_iter();
    events
        .filter(|r| r.is_row_change() || r.op() == "t")
        .collect()
}

fn ops(changes: &[Record]) -> String {
    changes.iter().map(Record::op).collect()
}

/// Asserts that the folded events are the table: `id` is its key, the columns are integers and texts.
fn assert_table(client: &mut Client, database: &Database<'_>, table: &str) -> Vec<Record> {
    let changes = changes(database, table);
    let rows = client
        .query(
            &format!("SELECT to_jsonb(t)::text FROM {table} AS t ORDER BY id"),
            &[],
        )
        .expect("the table");
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| serde_json::from_str(row.get(0)).expect("a row"))
        .collect();
    let mut folded: Vec<Value> = prefix_rule::fold(&changes).into_values().collect();
    folded.sort_by_key(|row| row["id"].as_i64());
    assert_eq!(folded, rows, "{table}");
    changes
}

#[test]
fn every_kind_of_statement_is_captured() {
    let database = database("kinds");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int, note text)",
            "CREATE TABLE plain (id int)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b') RETURNING id",
            "INSERT INTO t VALUES (2, 20, 'c'), (3, 3, 'c') ON CONFLICT (id) DO UPDATE SET n = excluded.n",
            "INSERT INTO t VALUES (3, 30, 'd'), (4, 4, 'd') ON CONFLICT DO NOTHING",
            "MERGE INTO t USING (VALUES (1, 100), (3, NULL), (5, 5)) AS s(id, n) ON t.id = s.id
               WHEN MATCHED AND s.n IS NULL THEN DELETE
               WHEN MATCHED THEN UPDATE SET n = s.n
               WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.n, 'merged')",
            "WITH moved AS (DELETE FROM t WHERE id = 4 RETURNING *) INSERT INTO t SELECT id + 10, n, note FROM moved",
            "UPDATE t SET n = t.n + o.n FROM (SELECT 5 AS n) AS o WHERE id = 5",
            "CREATE RULE log AS ON INSERT TO plain DO ALSO INSERT INTO t VALUES (new.id, 0, 'rule')",
            "INSERT INTO plain VALUES (20), (21)",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
               FOR i IN 30..32 LOOP INSERT INTO t VALUES (i, i, 'function'); END LOOP; DELETE FROM t WHERE id = 31; END $$",
            "SELECT f()",
            "DO $$ BEGIN UPDATE t SET note = 'do' WHERE id = 30; END $$",
            "PREPARE p AS UPDATE t SET n = $1 WHERE id = 1",
            "EXECUTE p(7)",
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT * FROM t WHERE id = 2 FOR UPDATE",
            "MOVE c",
            "UPDATE t SET note = 'cursor' WHERE CURRENT OF c",
            "COMMIT",
            "CREATE VIEW v AS SELECT id, n FROM t",
            "UPDATE v SET n = 8 WHERE id = 1",
            "UPDATE t SET n = 0 WHERE false",
        ],
    );
    let mut copy = client.copy_in("COPY t FROM STDIN").expect("COPY");
    std::io::Write::write_all(&mut copy, b"40\t40\tcopied\n41\t41\t\\N\n").expect("rows");
    copy.finish().expect("the end of COPY");
    let changes = assert_table(&mut client, &database, "t");
    assert_eq!(
        ops(&changes),
        "ccucc".to_owned() + "udc" + "dc" + "u" + "cc" + "cccd" + "u" + "u" + "u" + "u" + "cc"
    );
}

#[test]
fn truncate_of_several_tables_and_their_references() {
    let database = database("truncated");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)",
            "CREATE TABLE b_child (id int PRIMARY KEY REFERENCES b); CREATE TABLE untouched (id int PRIMARY KEY)",
            "SELECT cdc_track('a'), cdc_track('b'), cdc_track('b_child'), cdc_track('untouched')",
            "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO b_child VALUES (1); INSERT INTO untouched VALUES (1)",
            "BEGIN",
            "INSERT INTO a VALUES (2)",
            "TRUNCATE a, b CASCADE",
            "INSERT INTO a VALUES (3)",
            "COMMIT",
            "BEGIN; TRUNCATE a; ROLLBACK",
        ],
    );
    for (table, expected) in [
        ("a", "cctc"),
        ("b", "ct"),
        ("b_child", "ct"),
        ("untouched", "c"),
    ] {
        let changes = assert_table(&mut client, &database, table);
        assert_eq!(ops(&changes), expected, "{table}");
    }
}

#[test]
fn cascading_foreign_keys_are_captured_in_the_order_of_the_changes() {
    let database = database("cascades");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE parent (id int PRIMARY KEY)",
            "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)",
            "CREATE TABLE loose (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE SET NULL)",
            "SELECT cdc_track('parent'), cdc_track('child'), cdc_track('loose')",
            "INSERT INTO parent VALUES (1), (2), (3)",
            "INSERT INTO child SELECT n, 1 + n % 3 FROM generate_series(1, 9) AS n",
            "INSERT INTO loose VALUES (1, 1), (2, 2)",
            "UPDATE parent SET id = 10 WHERE id = 3",
            "DELETE FROM parent WHERE id = 1",
        ],
    );
    for table in ["parent", "child", "loose"] {
        assert_table(&mut client, &database, table);
    }
    let parents = changes(&database, "parent");
    let (deleted, children) = (
        parents.last().expect("a delete"),
        changes(&database, "child"),
    );
    assert!(
        deleted.version() < children.last().expect("a delete").version(),
        "the cause before what it caused"
    );
}

#[test]
fn triggers_that_change_the_same_rows_are_captured_in_the_true_order() {
    let database = database("same_rows");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int)",
            "CREATE TABLE log (id serial PRIMARY KEY, t_id int, n int)",
            // Fires before ours by name; changes the other rows of the statement again.
            "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF pg_trigger_depth() < 3 THEN UPDATE t SET n = n + 1000 WHERE n < 5000; END IF; RETURN NULL; END $$",
            "CREATE TRIGGER \"A_more\" AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION more()",
            "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO log (t_id, n) SELECT new.id, n FROM t WHERE id = new.id; RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later()",
            "CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.n := new.n * 2; RETURN new; END $$",
            "CREATE TRIGGER before BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION before()",
            "SELECT cdc_track('t'), cdc_track('log')",
            "INSERT INTO t SELECT n, n FROM generate_series(1, 4) AS n",
            "BEGIN; UPDATE t SET n = n + 10; SAVEPOINT s; UPDATE t SET n = n + 20; ROLLBACK TO s; UPDATE t SET n = n + 30 WHERE id < 3; COMMIT",
        ],
    );
    assert_table(&mut client, &database, "t");
    assert_table(&mut client, &database, "log");
}

#[test]
fn random_transactions_fold_to_the_table() {
    let database = database("folded");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int, note text)",
            "SELECT cdc_track('t')",
            "SET cdc.capture_buffer = '64kB'",
        ],
    );
    let seed: f64 = client
        .query_one("SELECT random() AS seed", &[])
        .expect("a seed")
        .get(0);
    println!("seed {seed}");
    client
        .execute("SELECT setseed($1)", &[&seed])
        .expect("setseed");
    // Savepoints by exception blocks, nested, one in three of them rolled back; large rows so that parts go out early.
    run(
        &mut client,
        &["CREATE PROCEDURE change(depth int) LANGUAGE plpgsql AS $$
            DECLARE low int := (random() * 200)::int; BEGIN
              FOR i IN 1..(random() * 4)::int + 1 LOOP
                CASE (random() * 4)::int
                  WHEN 0 THEN INSERT INTO t SELECT n, depth, repeat('x', (random() * 3000)::int) FROM generate_series(low, low + 9) AS n ON CONFLICT DO NOTHING;
                  WHEN 1 THEN DELETE FROM t WHERE id BETWEEN low AND low + 4;
                  WHEN 2 THEN UPDATE t SET n = n + 1, note = note || 'y' WHERE id BETWEEN low AND low + 19;
                  WHEN 3 THEN UPDATE t SET id = id + 1000 WHERE id BETWEEN low AND low + 2 AND NOT EXISTS (SELECT FROM t o WHERE o.id = t.id + 1000);
                  ELSE UPDATE t SET id = id - 1000 WHERE id BETWEEN low + 1000 AND low + 1010 AND NOT EXISTS (SELECT FROM t o WHERE o.id = t.id - 1000);
                END CASE;
                IF depth < 4 AND random() < 0.6 THEN
                  BEGIN
                    CALL change(depth + 1);
                    IF random() < 0.33 THEN RAISE EXCEPTION 'back'; END IF;
                  EXCEPTION WHEN raise_exception THEN NULL;
                  END;
                END IF;
              END LOOP;
            END $$"],
    );
    for round in 0..60 {
        run(
            &mut client,
            &[
                "BEGIN",
                "CALL change(0)",
                if round % 5 == 4 { "ROLLBACK" } else { "COMMIT" },
            ],
        );
    }
    let changes = assert_table(&mut client, &database, "t");
    assert!(changes.len() > 100, "{} changes", changes.len());
}

#[test]
fn rows_that_a_subscription_applies_are_captured() {
    let bed = TestBed::start_with(&[("wal_level", "logical")]);
    let (upstream, database) = (bed.database("upstream"), bed.database("downstream"));
    let (mut publisher, mut client) = (upstream.source(), database.source());
    run(
        &mut publisher,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE mine (id int PRIMARY KEY)",
            "INSERT INTO t VALUES (1, 1), (2, 2)",
            "CREATE PUBLICATION p FOR TABLE t, mine",
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
        ],
    );
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE mine (id int PRIMARY KEY)",
            "SELECT cdc_track('t'), cdc_track('mine', origin => 'local')",
        ],
    );
    let subscribe = format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false, slot_name = 's')",
        bed.source().url("upstream")
    );
    run(&mut client, &[&subscribe]);
    let synced = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel";
    wait_until(
        "the first copy",
        std::time::Duration::from_secs(60),
        || match client.query_one(synced, &[]).expect("the state").get(0) {
            true => Ok(()),
            false => Err("not yet"),
        },
    );
    run(
        &mut publisher,
        &[
            "INSERT INTO t VALUES (3, 3); UPDATE t SET n = 10 WHERE id = 1; DELETE FROM t WHERE id = 2",
            "INSERT INTO mine VALUES (1)",
        ],
    );
    run(&mut client, &["INSERT INTO mine VALUES (100)"]);
    wait_until(
        "the subscription",
        std::time::Duration::from_secs(60),
        || {
            let count = "SELECT (SELECT count(*) FROM mine) || ' ' || (SELECT string_agg(id || ':' || n, ',' ORDER BY id) FROM t)";
            let now: Option<String> = client.query_one(count, &[]).expect("the rows").get(0);
            if now.as_deref() == Some("2 1:10,3:3") {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        },
    );
    let changes = assert_table(&mut client, &database, "t");
    assert_eq!(
        ops(&changes),
        "cccud",
        "two by the first copy, three by the stream"
    );
    let mine = self::changes(&database, "mine");
    assert_eq!(
        mine.iter()
            .map(|r| r.json()["after"].clone())
            .collect::<Vec<_>>(),
        [json!({"id": 100})]
    );
    run(&mut client, &["DROP SUBSCRIPTION s"]);
    bed.stop();
}

#[test]
fn names_and_encodings_of_all_kinds() {
    let bed = TestBed::shared();
    let mut server = bed.source().connect("postgres");
    run(
        &mut server,
        &[
            "CREATE DATABASE \"Latin 1\" ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        ],
    );
    let mut client = bed.source().connect("Latin 1");
    run(
        &mut client,
        &[
            "CREATE EXTENSION pg_cdc",
            "SET client_encoding = 'UTF8'",
            "CREATE SCHEMA \"Größe\"",
            "CREATE TABLE \"Größe\".\"Tab\"\"elle, :1\" (\"Schlüssel, a\" text PRIMARY KEY, \"n\\ü\" text, \"e\" \"char\"[])",
            "SELECT cdc_track('\"Größe\".\"Tab\"\"elle, :1\"', topic => 'latin', key => ARRAY['Schlüssel, a'], mask => '{\"n\\\\ü\": \"truncate:3\"}')",
            "INSERT INTO \"Größe\".\"Tab\"\"elle, :1\" VALUES ('Zürich', 'äöüß', '{x}')",
            "SELECT cdc_wait()",
        ],
    );
    let records = pg_cdc_tests::topic::read(bed.kafka(), "latin");
    let row = records.iter().find(|r| r.op() == "c").expect("the row");
    assert_eq!(row.key_text(), r#"{"Schlüssel, a":"Zürich"}"#);
    assert_eq!(
        row.json()["after"],
        json!({"Schlüssel, a": "Zürich", "n\\ü": "äöü", "e": ["x"]})
    );
    assert_eq!(row.json()["source"]["schema"], "Größe");
    assert_eq!(row.json()["source"]["table"], "Tab\"elle, :1");
    assert_eq!(row.json()["source"]["db"], "Latin 1");
}

#[test]
fn tables_with_sixteen_hundred_columns_and_none() {
    let database = database("wide");
    let mut client = database.source();
    let columns: Vec<String> = (1..1600).map(|n| format!("c{n} int")).collect();
    run(
        &mut client,
        &[
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, {})",
                columns.join(", ")
            ),
            "CREATE TABLE nothing ()",
            "SELECT cdc_track('t'), cdc_track('nothing')",
            "INSERT INTO t (id, c1, c1599) VALUES (1, 1, 1599)",
            "UPDATE t SET c800 = 800",
            "INSERT INTO nothing DEFAULT VALUES",
        ],
    );
    let changes = assert_table(&mut client, &database, "t");
    assert_eq!(ops(&changes), "cu");
    let after = changes[1].json()["after"].clone();
    assert_eq!(after.as_object().map(serde_json::Map::len), Some(1600));
    assert_eq!(
        [&after["c1"], &after["c800"], &after["c1599"]],
        [1, 800, 1599]
    );
    assert_eq!(
        self::changes(&database, "nothing")[0].json()["after"],
        json!({})
    );
}

#[test]
fn generated_identity_and_inherited_columns() {
    let database = database("computed");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, made text DEFAULT 'default')",
            "CREATE TABLE child (extra int) INHERITS (t)",
            "SELECT cdc_track('t'), cdc_track('child', key => '{id}')",
            "INSERT INTO t (n) VALUES (1), (2)",
            "UPDATE t SET n = 5 WHERE id = 1",
            "INSERT INTO child (id, n, extra) VALUES (7, 7, 7)",
        ],
    );
    let changes = changes(&database, "t");
    assert_eq!(ops(&changes), "ccu", "rows of a child are its own");
    assert_eq!(
        changes[2].json()["after"],
        json!({"id": 1, "n": 5, "twice": 10, "made": "default"})
    );
    let child = self::changes(&database, "child");
    assert_eq!(child[0].json()["after"]["twice"], 14);
    assert_eq!(child[0].json()["after"]["extra"], 7);
}

#[test]
fn generated_columns_have_their_values_whether_the_row_holds_them_or_not() {
    let database = database("generated");
    let mut client = database.source();
    let version: i32 = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .expect("version")
        .get(0);
    // Virtual ones are new in 18: they are computed when read, and a tuple does not hold them.
    let kinds: &[&str] = if version >= 180_000 {
        &["STORED", "VIRTUAL"]
    } else {
        &["STORED"]
    };
    for kind in kinds {
        let table = format!("t_{}", kind.to_lowercase());
        run(
            &mut client,
            &[
                &format!(
                    "CREATE TABLE {table} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int,
                       twice int GENERATED ALWAYS AS (a * 2) {kind}, note text,
                       loud text GENERATED ALWAYS AS (upper(note)) {kind})"
                ),
                &format!("SELECT cdc_track('{table}', filter => 'twice IS NULL OR twice < 100')"),
                &format!(
                    "INSERT INTO {table} (a, note) VALUES (1, 'one'), (2, NULL), (NULL, 'three')"
                ),
                &format!("UPDATE {table} SET a = a + 10 WHERE id = 1"),
                &format!("UPDATE {table} SET note = 'two' WHERE id = 2"),
                &format!("DELETE FROM {table} WHERE id = 3"),
                &format!("INSERT INTO {table} (a) VALUES (50)"),
                &format!("DELETE FROM {table} WHERE a = 50"),
            ],
        );
        let changes = assert_table(&mut client, &database, &table);
        assert_eq!(
            ops(&changes),
            "cccuud",
            "the filter leaves the last row out"
        );
        let [.., first, second, _] = changes.as_slice() else {
            panic!("six events");
        };
        assert_eq!(
            first.json()["after"],
            json!({"id": 1, "a": 11, "twice": 22, "note": "one", "loud": "ONE"})
        );
        assert_eq!(first.json()["before"]["twice"], json!(2));
        assert_eq!(second.json()["after"]["loud"], json!("TWO"));
    }
}
