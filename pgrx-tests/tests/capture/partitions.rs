//! A partitioned table is one table to those who read: the root's name, topic and columns, whatever partition a row is in.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, TestBed, refusal, replica};
use postgres::Client;
use serde_json::json;

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Operation and key of a row, `t` for a truncate, the type of a definition's change and whether contents changed.
fn shown(events: &[Record]) -> Vec<String> {
    let show = |event: &Record| match event.op() {
        "schema" => {
            let change = event.json();
            let kind = change["type"].as_str().expect("a type").to_owned();
            if change["contents_changed"] == true {
                format!("{kind}!")
            } else {
                kind
            }
        }
        "t" => "t".to_owned(),
        op => format!("{op} {}", event.key_text()),
    };
    events.iter().map(show).collect()
}

const TABLE: &str = "
    CREATE TABLE t (id int, region text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE t_ch PARTITION OF t FOR VALUES IN ('CH');
    CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('DE', 'FR') PARTITION BY RANGE (id);
    CREATE TABLE t_eu_low PARTITION OF t_eu FOR VALUES FROM (0) TO (100);
    CREATE TABLE t_other (gone int, note text, id int NOT NULL, region text NOT NULL);
    ALTER TABLE t_other DROP gone;
    ALTER TABLE t ATTACH PARTITION t_other DEFAULT;";

#[test]
fn rows_of_every_partition_come_as_rows_of_the_table() {
    let database = database("partitioned");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1, 'CH', 'a'), (2, 'DE', 'b'), (3, 'US', 'c')",
            // Into another partition: a delete and an insert of one transaction.
            "UPDATE t SET region = 'CH', note = 'moved' WHERE id = 2",
            "INSERT INTO t_other VALUES ('direct', 4, 'JP')",
            "CREATE TABLE t_eu_high PARTITION OF t_eu FOR VALUES FROM (100) TO (200)",
            "INSERT INTO t SELECT n, 'FR', 'new' FROM generate_series(100, 102) AS n",
            "SET session_replication_role = replica",
            "UPDATE t SET note = 'applied' WHERE id = 100",
            "RESET session_replication_role",
            "ALTER TABLE t RENAME note TO remark",
            "DELETE FROM t WHERE id = 3",
        ],
    );
    refusal::coded(&mut client, "SELECT cdc_track('t_ch')", "22023", "CDC0112");
    let events = database.events("t");
    assert_eq!(
        shown(&events),
        [
            "CREATE",
            r#"c {"id":1,"region":"CH"}"#,
            r#"c {"id":2,"region":"DE"}"#,
            r#"c {"id":3,"region":"US"}"#,
            r#"d {"id":2,"region":"DE"}"#,
            r#"c {"id":2,"region":"CH"}"#,
            r#"c {"id":4,"region":"JP"}"#,
            r#"c {"id":100,"region":"FR"}"#,
            r#"c {"id":101,"region":"FR"}"#,
            r#"c {"id":102,"region":"FR"}"#,
            r#"u {"id":100,"region":"FR"}"#,
            "ALTER",
            r#"d {"id":3,"region":"US"}"#,
        ]
    );
    for event in &events {
        assert_eq!(event.header("cdc.table"), Some("partitioned.public.t"));
    }
    let moved = [4, 5].map(|place| events[place].json()["transaction"]["id"].clone());
    assert_eq!(moved[0], moved[1], "one transaction");
    assert_eq!(
        events[6].json()["after"],
        json!({"id": 4, "region": "JP", "note": "direct"})
    );
    // The order of the columns is the root's, also in a partition that was made with another one.
    assert!(
        events[6]
            .value_text()
            .contains(r#""after":{"id":4,"region":"JP","note":"direct"}"#)
    );
}

#[test]
fn what_empties_or_moves_partitions_is_said() {
    let database = database("emptied");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "CREATE TABLE child (id int PRIMARY KEY, t_id int, t_region text, FOREIGN KEY (t_id, t_region) REFERENCES t)",
            "SELECT cdc_track('t'), cdc_track('child')",
            "INSERT INTO t VALUES (1, 'CH', 'a'), (2, 'DE', 'b')",
            "TRUNCATE t CASCADE",
            "INSERT INTO t VALUES (3, 'CH', 'a'), (4, 'DE', 'b')",
            "BEGIN",
            "ALTER TABLE child DROP CONSTRAINT child_t_id_t_region_fkey",
            "COMMIT",
            "TRUNCATE t_eu",
            "CREATE TABLE t_new PARTITION OF t FOR VALUES IN ('AT')",
            "INSERT INTO t VALUES (5, 'AT', 'x')",
            "TRUNCATE t_new",
            "BEGIN",
            "TRUNCATE t",
            "INSERT INTO t VALUES (6, 'CH', 'x')",
            "TRUNCATE t_ch",
            "COMMIT",
            "ALTER TABLE t DETACH PARTITION t_new",
            "INSERT INTO t_new VALUES (7, 'AT', 'detached')",
            "TRUNCATE t_new",
            "INSERT INTO t_new VALUES (8, 'AT', 'comes back')",
            "ALTER TABLE t ATTACH PARTITION t_new FOR VALUES IN ('AT')",
            "TRUNCATE t_new",
            "DROP TABLE t_new",
            "INSERT INTO t VALUES (9, 'CH', 'x')",
            // What goes with its schema cannot be read any more.
            "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t_new PARTITION OF t FOR VALUES IN ('AT')",
            "INSERT INTO t VALUES (10, 'AT', 'x')",
            "DROP SCHEMA elsewhere CASCADE",
        ],
    );
    // Snapshots follow, whenever their worker gets to them.
    let mut events = database.events("t");
    events.retain(|event| !matches!(event.op(), "r" | "snapshot"));
    assert_eq!(
        shown(&events),
        [
            "CREATE",
            r#"c {"id":1,"region":"CH"}"#,
            r#"c {"id":2,"region":"DE"}"#,
            "t",
            r#"c {"id":3,"region":"CH"}"#,
            r#"c {"id":4,"region":"DE"}"#,
            "ALTER!",
            "ALTER!",
            r#"c {"id":5,"region":"AT"}"#,
            "ALTER!",
            "t",
            r#"c {"id":6,"region":"CH"}"#,
            "ALTER!",
            "DETACH",
            "ATTACH",
            // A row that comes with its partition is inserted for readers.
            r#"c {"id":8,"region":"AT"}"#,
            "ALTER!",
            "DETACH",
            r#"c {"id":9,"region":"CH"}"#,
            r#"c {"id":10,"region":"AT"}"#,
            "DETACH!",
        ]
    );
    assert_eq!(
        shown(&database.events("child"))[..2],
        ["CREATE", "t"],
        "CASCADE"
    );
}

#[test]
fn untracking_leaves_no_trigger_on_any_partition() {
    let database = database("partitions_left");
    let mut client = database.source();
    run(&mut client, &[TABLE, "SELECT cdc_track('t')"]);
    let ours = |client: &mut Client| -> i64 {
        let count = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
        client.query_one(count, &[]).expect("triggers").get(0)
    };
    assert_eq!(
        ours(&mut client),
        10,
        "two for the root and each of four partitions"
    );
    run(
        &mut client,
        &["SELECT cdc_track('t', operations => 'insert')"],
    );
    assert_eq!(ours(&mut client), 5, "no TRUNCATE");
    run(
        &mut client,
        &[
            "SELECT cdc_track('t', operations => '')",
            "SELECT cdc_untrack('t')",
        ],
    );
    assert_eq!(ours(&mut client), 0);
}

#[test]
fn partitions_have_the_options_of_the_root() {
    let database = database("partition_options");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "SELECT cdc_track('t', filter => $$note <> '{}'$$, exclude => '{}')",
            "INSERT INTO t VALUES (1, 'CH', '{}'), (2, 'CH', 'a'), (3, 'DE', '{}'), (4, 'DE', 'b')",
        ],
    );
    let kinds = client
        .query_one(
            "SELECT count(DISTINCT tgargs), count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'",
            &[],
        )
        .expect("triggers");
    let kinds: (i64, i64) = (kinds.get(0), kinds.get(1));
    assert_eq!(kinds, (1, 10), "all triggers have the same arguments");
    assert_eq!(
        shown(&database.events("t"))[1..],
        [r#"c {"id":2,"region":"CH"}"#, r#"c {"id":4,"region":"DE"}"#]
    );
}

/// As pg_partman and others make partitions: stand-alone, then attached.
const ATTACH_LIKE: [&str; 3] = [
    "CREATE TABLE s.ev_2 (LIKE s.ev INCLUDING ALL)",
    "INSERT INTO s.ev_2 VALUES (200, 'in ev_2')",
    "ALTER TABLE s.ev ATTACH PARTITION s.ev_2 FOR VALUES FROM (200) TO (300)",
];

#[test]
fn an_owner_without_rights_makes_and_attaches_partitions() {
    let database = database("midnight");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE app_owner LOGIN",
            "CREATE ROLE helper LOGIN IN ROLE app_owner",
            "CREATE SCHEMA s AUTHORIZATION app_owner",
            "GRANT ALL ON SCHEMA s TO helper",
            "SELECT cdc_track_schema('s', new_tables => true)",
            // What other people's event triggers are told.
            "CREATE TABLE told (what text)",
            "GRANT ALL ON told TO PUBLIC",
            "CREATE FUNCTION tell() RETURNS event_trigger LANGUAGE plpgsql AS $$
             DECLARE seen text;
             BEGIN
                 IF TG_EVENT = 'ddl_command_end' THEN
                     SELECT string_agg(object_type || ' ' || command_tag, ',') INTO seen FROM pg_event_trigger_ddl_commands();
                 ELSIF TG_EVENT = 'sql_drop' THEN
                     SELECT string_agg(object_type, ',') INTO seen FROM pg_event_trigger_dropped_objects();
                 END IF;
                 INSERT INTO public.told VALUES (TG_EVENT || ' ' || TG_TAG || ': ' || coalesce(seen, ''));
             END $$",
            "CREATE EVENT TRIGGER zz_start ON ddl_command_start EXECUTE FUNCTION tell()",
            "CREATE EVENT TRIGGER zz_end ON ddl_command_end EXECUTE FUNCTION tell()",
            "CREATE EVENT TRIGGER zz_drop ON sql_drop EXECUTE FUNCTION tell()",
        ],
    );
    let server = database.bed().source();
    let (mut owner, heard) = server.connect_with_notices("midnight");
    run(
        &mut owner,
        &[
            "SET SESSION AUTHORIZATION app_owner",
            "CREATE TABLE s.ev (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        ],
    );
    heard.lock().expect("the notices").clear();
    let mut helper = server.connect_as("helper", "midnight");
    run(
        &mut owner,
        &["CREATE TABLE s.ev_1 PARTITION OF s.ev FOR VALUES FROM (0) TO (100)"],
    );
    // A partition of another role's, with partitions of its own.
    run(
        &mut helper,
        &[
            "CREATE TABLE s.ev_h PARTITION OF s.ev FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id)",
            "CREATE TABLE s.ev_h_rest PARTITION OF s.ev_h DEFAULT",
        ],
    );
    run(&mut owner, &ATTACH_LIKE);
    run(
        &mut owner,
        &[
            "CREATE TABLE s.tree (id int PRIMARY KEY, up int REFERENCES s.tree)",
            // Partitions that are tracked by themselves, in a table that is attached.
            "CREATE TABLE s.ev_3 (LIKE s.ev INCLUDING ALL) PARTITION BY LIST (id)",
            "CREATE TABLE s.ev_3_rest (LIKE s.ev INCLUDING ALL)",
            "ALTER TABLE s.ev_3 ATTACH PARTITION s.ev_3_rest DEFAULT",
            "ALTER TABLE s.ev ATTACH PARTITION s.ev_3 FOR VALUES FROM (300) TO (400)",
            "INSERT INTO s.ev VALUES (1, 'a'), (101, 'b'), (201, 'c'), (301, 'd')",
            "TRUNCATE s.ev_2",
            "CREATE INDEX ev_v ON ONLY s.ev (v)",
            "CREATE INDEX ev_2_v ON s.ev_2 (v)",
            "ALTER INDEX s.ev_v ATTACH PARTITION s.ev_2_v",
            "ALTER TABLE s.ev DETACH PARTITION s.ev_1 CONCURRENTLY",
            "ALTER TABLE s.ev ATTACH PARTITION s.ev_1 FOR VALUES FROM (0) TO (100)",
            "UPDATE s.ev SET v = 'again'",
        ],
    );
    {
        let heard = heard.lock().expect("the notices");
        let told: Vec<&str> = heard.iter().map(|notice| notice.message()).collect();
        assert_eq!(
            told,
            ["ev_2", "tree", "ev_3", "ev_3_rest"].map(|table| format!(
                "table \"{table}\" is tracked: every change goes to topic \"midnight.s.{table}\" (key: id)"
            )),
            "nothing that is not for the person"
        );
    }
    refusal::coded(
        &mut owner,
        "ALTER TRIGGER _cdc ON s.ev_1 RENAME TO x",
        "55000",
        "CDC0116",
    );
    refusal::coded(
        &mut owner,
        "SELECT cdc_untrack('s.ev_1')",
        "22023",
        "CDC0112",
    );
    let ours = "SELECT count(*) FILTER (WHERE tgname = '_cdc'), count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
    let ours = client.query_one(ours, &[]).expect("triggers");
    assert_eq!((ours.get(0), ours.get(1)), (8i64, 16i64), "two each");
    let told = client.query("SELECT what FROM told", &[]).expect("told");
    for row in told {
        let told: &str = row.get(0);
        assert!(
            !told.contains("trigger"),
            "our own commands are told of: {told}"
        );
    }
    run(
        &mut client,
        &[
            "DROP EVENT TRIGGER zz_start",
            "DROP EVENT TRIGGER zz_end",
            "DROP EVENT TRIGGER zz_drop",
        ],
    );
    let of = |table: &str| {
        let records = topic::read(database.bed().kafka(), &format!("midnight.s.{table}"));
        let mut events: Vec<Record> = records.into_iter().filter(Record::is_row_change).collect();
        events.sort_by(|one, other| one.version().cmp(other.version()));
        events.retain(|event| event.op() != "r");
        shown(&events)
    };
    database.wait_until_in_kafka();
    assert_eq!(
        of("ev"),
        [
            // Came with ev_2.
            r#"c {"id":200}"#,
            r#"c {"id":1}"#,
            r#"c {"id":101}"#,
            r#"c {"id":201}"#,
            r#"c {"id":301}"#,
            // Went and came with ev_1.
            r#"d {"id":1}"#,
            r#"c {"id":1}"#,
            r#"u {"id":1}"#,
            r#"u {"id":101}"#,
            r#"u {"id":301}"#,
        ]
    );
    assert_eq!(of("ev_2"), [r#"c {"id":200}"#], "while it stood alone");

    // Attached to a table that is not tracked it stays what it was, until that is tracked; detached too.
    run(
        &mut owner,
        &[
            "SELECT cdc_untrack('s.ev')",
            "CREATE TABLE s.alone (LIKE s.ev INCLUDING ALL)",
            "ALTER TABLE s.ev ATTACH PARTITION s.alone FOR VALUES FROM (400) TO (500)",
            "INSERT INTO s.ev VALUES (401, 'x'), (2, 'untracked')",
            "ALTER TABLE s.ev DETACH PARTITION s.alone",
            "INSERT INTO s.alone VALUES (402, 'x')",
            "ALTER TABLE s.ev ATTACH PARTITION s.alone FOR VALUES FROM (400) TO (500)",
            "TRUNCATE s.ev",
            "SELECT cdc_track('s.alone', exclude => '{v}')",
            "INSERT INTO s.ev VALUES (403, 'x')",
            "SELECT cdc_track('s.ev')",
            "INSERT INTO s.ev VALUES (404, 'x')",
        ],
    );
    let heard = heard.lock().expect("the notices");
    assert!(
        heard
            .iter()
            .any(|notice| notice.message().contains("stays tracked by itself")),
        "{heard:?}"
    );
    database.wait_until_in_kafka();
    let alone = database.records_of_topic("midnight.s.alone");
    let mut alone: Vec<Record> = alone
        .into_iter()
        .filter(|record| record.op() != "tombstone")
        .collect();
    alone.sort_by(|one, other| one.version().cmp(other.version()));
    alone.dedup_by(|one, other| one.id() == other.id());
    let expected = [
        "CREATE",
        r#"c {"id":401}"#,
        r#"c {"id":402}"#,
        "t",
        "CREATE",
        r#"c {"id":403}"#,
        "UNTRACK",
    ];
    assert_eq!(shown(&alone), expected);
    assert_eq!(of("ev").last().map(String::as_str), Some(r#"c {"id":404}"#));
}

#[test]
fn the_replica_of_a_partitioned_table_equals_it() {
    let database = database("partitioned_replica");
    let mut client = database.source();
    run(&mut client, &[TABLE, "SELECT cdc_track('t')"]);
    let sink = database.start_companion_sink();
    run(
        &mut client,
        &[
            "INSERT INTO t SELECT n, (ARRAY['CH', 'DE', 'FR', 'US'])[1 + n % 4], md5(n::text) FROM generate_series(0, 99) AS n",
            "UPDATE t SET region = (ARRAY['US', 'CH', 'DE', 'FR'])[1 + id % 4] WHERE id % 3 = 0",
            "UPDATE t SET note = note || '!' WHERE id % 2 = 0",
            "DELETE FROM t WHERE id % 7 = 0",
            "CREATE TABLE t_at (note text, region text NOT NULL, id int NOT NULL); INSERT INTO t_at SELECT n, 'AT', n FROM generate_series(1, 50) AS n",
            "ALTER TABLE t ATTACH PARTITION t_at FOR VALUES IN ('AT')",
            "CREATE TABLE t_it PARTITION OF t FOR VALUES IN ('IT')",
            "INSERT INTO t SELECT n, 'IT', 'x' FROM generate_series(1, 50) AS n",
            "DROP TABLE t_it",
        ],
    );
    let equal = |client: &mut Client| {
        database.wait_until_in_kafka();
        sink.wait_until_sink_applied("replica", database.bed().kafka(), &[database.topic("t")]);
        replica::assert_equal(client, &mut database.replica(), "public.t")
    };
    assert_eq!(equal(&mut client), 135);
    run(
        &mut client,
        &[
            "ALTER TABLE t DETACH PARTITION t_at",
            "ALTER TABLE t ALTER note TYPE varchar",
        ],
    );
    assert_eq!(equal(&mut client), 85);
}

/// The newest state of each row, as somebody has it who applies every event.
fn folded(events: &[Record]) -> Vec<String> {
    let mut rows = std::collections::BTreeSet::new();
    for event in events.iter().filter(|event| event.is_row_change()) {
        match event.op() {
            "d" => rows.remove(event.key_text()),
            "t" => {
                rows.clear();
                true
            }
            _ => rows.insert(event.key_text().to_owned()),
        };
    }
    rows.into_iter().collect()
}

#[test]
fn rows_that_come_and_go_with_a_partition_are_events_and_nothing_else_is_read() {
    let database = database("moving");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int, at int, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)",
            "CREATE TABLE t_2a PARTITION OF t_2 FOR VALUES FROM (0) TO (100)",
            "SELECT cdc_track('t', mask => '{\"note\": \"truncate:5\"}')",
            // Long values that lie outside of the table are read as well.
            "ALTER TABLE t_1 ALTER note SET STORAGE EXTERNAL",
            "INSERT INTO t SELECT n, 5, repeat(md5(n::text), 200) FROM generate_series(1, 3) AS n",
            "INSERT INTO t SELECT n, 15, 'x' FROM generate_series(1, 3) AS n",
            // Another order of columns, a fast default, and rows of before.
            "CREATE TABLE t_3 (gone int, note text, at int NOT NULL); INSERT INTO t_3 VALUES (0, 'y', 25)",
            "ALTER TABLE t_3 DROP gone, ADD id int NOT NULL DEFAULT 7",
            "CREATE TABLE t_4 (LIKE t)",
            "ALTER TABLE t ATTACH PARTITION t_3 FOR VALUES FROM (20) TO (30)",
            "ALTER TABLE t ATTACH PARTITION t_4 FOR VALUES FROM (30) TO (40)",
            "BEGIN; DROP TABLE t_1; ROLLBACK",
            "BEGIN; SAVEPOINT s; ALTER TABLE t DETACH PARTITION t_2; ROLLBACK TO s; COMMIT",
            "UPDATE t SET note = 'z' WHERE at = 25",
            "ALTER TABLE t DETACH PARTITION t_4 CONCURRENTLY",
            "DO $$ BEGIN DROP TABLE IF EXISTS t_4, t_1; END $$",
            "ALTER TABLE t DETACH PARTITION t_2",
            "INSERT INTO t_2 VALUES (9, 15, 'not shipped')",
        ],
    );
    let events = database.events("t");
    assert_eq!(
        shown(&events)[7..],
        [
            "ATTACH".to_owned(),
            r#"c {"id":7,"at":25}"#.to_owned(),
            "ATTACH".to_owned(),
            r#"u {"id":7,"at":25}"#.to_owned(),
            "DETACH".to_owned(),
            r#"d {"id":1,"at":5}"#.to_owned(),
            r#"d {"id":2,"at":5}"#.to_owned(),
            r#"d {"id":3,"at":5}"#.to_owned(),
            "DETACH".to_owned(),
            "DETACH".to_owned(),
            r#"d {"id":1,"at":15}"#.to_owned(),
            r#"d {"id":2,"at":15}"#.to_owned(),
            r#"d {"id":3,"at":15}"#.to_owned(),
        ]
    );
    assert_eq!(
        events[8].json()["after"],
        json!({"id": 7, "at": 25, "note": "y"})
    );
    let deleted = events[12].json();
    let before = &deleted["before"];
    assert_eq!(before["note"].as_str().map(str::len), Some(5), "{before}");
    run(
        &mut client,
        &[
            "INSERT INTO t VALUES (8, 25, 'kept')",
            "SET cdc.dropped_partitions = keep; DROP TABLE t_3; RESET cdc.dropped_partitions",
            // What goes with all of it is not read.
            "CREATE TABLE t_5 PARTITION OF t FOR VALUES FROM (40) TO (50); INSERT INTO t VALUES (1, 45, '')",
            "DROP TABLE t, t_5",
        ],
    );
    let events = database.events("t");
    assert_eq!(
        shown(&events)[20..],
        [
            r#"c {"id":8,"at":25}"#,
            "DETACH",
            r#"c {"id":1,"at":45}"#,
            "UNTRACK",
            "DROP"
        ]
        .map(str::to_owned)
    );
    assert_eq!(
        folded(&events),
        [
            r#"{"id":1,"at":45}"#,
            r#"{"id":7,"at":25}"#,
            r#"{"id":8,"at":25}"#
        ]
    );
    let snapshots: i64 = client
        .query_one("SELECT count(*) FROM cdc_snapshots", &[])
        .expect("snapshots")
        .get(0);
    assert_eq!(snapshots, 0);
}

#[test]
fn what_stops_triggers_of_a_partition_is_said_and_healed() {
    let database = database("partition_triggers");
    let (mut client, heard) = database
        .bed()
        .source()
        .connect_with_notices(database.name());
    run(&mut client, &[TABLE, "SELECT cdc_track('t')"]);
    let states = |client: &mut Client| -> String {
        let query = "SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
        client.query_one(query, &[]).expect("triggers").get(0)
    };
    let told = |client: &mut Client| -> (String, Option<String>, i64) {
        let query = "SELECT state, warning, (SELECT count(*) FROM cdc_check() WHERE code = 'CDC0203') FROM cdc_tables";
        let row = client.query_one(query, &[]).expect("cdc_tables");
        (row.get(0), row.get(1), row.get(2))
    };
    for (stop, part) in [
        ("ALTER TABLE t_ch DISABLE TRIGGER USER", "public.t_ch"),
        (
            "ALTER TABLE t_eu_low DISABLE TRIGGER _cdc",
            "public.t_eu_low",
        ),
        (
            "ALTER TABLE t_eu_low DISABLE TRIGGER _cdc_truncate",
            "public.t_eu_low",
        ),
        ("ALTER TABLE t_ch ENABLE TRIGGER USER", "public.t_ch"),
        (
            "ALTER TABLE t_ch ENABLE REPLICA TRIGGER _cdc",
            "public.t_ch",
        ),
        ("DROP TRIGGER _cdc_truncate ON t_other", "public.t_other"),
        (
            "DO $$ BEGIN ALTER TABLE t DISABLE TRIGGER ALL; END $$",
            "public.t",
        ),
    ] {
        heard.lock().expect("the notices").clear();
        run(&mut client, &[stop]);
        let warnings = std::mem::take(&mut *heard.lock().expect("the notices"));
        let [warning] = warnings.as_slice() else {
            panic!("{stop}: {warnings:?}")
        };
        refusal::assert_coded(warning, "01000", "CDC0203");
        let name = part.trim_start_matches("public.");
        assert!(
            warning.message().contains(&format!("\"{name}\"")),
            "{warning:?}"
        );
        let (state, warning, checks) = told(&mut client);
        assert_eq!((state.as_str(), checks), ("trigger_disabled", 1), "{stop}");
        let warning = warning.expect("a warning");
        assert!(
            warning.starts_with("CDC0203: ") && warning.contains(part),
            "{warning}"
        );
        run(&mut client, &["SELECT cdc_track('t')"]);
        assert_eq!(states(&mut client), "A", "{stop}");
        assert_eq!(
            told(&mut client),
            ("capturing".to_owned(), None, 0),
            "{stop}"
        );
    }
    refusal::coded(
        &mut client,
        "ALTER TABLE t_ch SET UNLOGGED",
        "22023",
        "CDC0101",
    );
    heard.lock().expect("the notices").clear();
    run(
        &mut client,
        &["CREATE UNLOGGED TABLE t_at PARTITION OF t FOR VALUES IN ('AT')"],
    );
    let warnings = std::mem::take(&mut *heard.lock().expect("the notices"));
    let warning = warnings.iter().find(|one| one.code().code() == "01000");
    refusal::assert_coded(warning.expect("a warning"), "01000", "CDC0207");
    assert_eq!(told(&mut client).0, "capturing");
    assert!(
        told(&mut client)
            .1
            .is_some_and(|warning| warning.starts_with("CDC0207: "))
    );
    run(&mut client, &["ALTER TABLE t_at SET LOGGED"]);
    assert_eq!(told(&mut client).1, None);
}

#[test]
fn partitions_on_other_servers_are_passed_over() {
    let database = database("foreign_parts");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER s FOREIGN DATA WRAPPER nothing",
            "CREATE TABLE q (id int, n int) PARTITION BY RANGE (id)",
            "CREATE FOREIGN TABLE q_1 PARTITION OF q FOR VALUES FROM (0) TO (9) SERVER s",
            "CREATE TABLE q_2 PARTITION OF q FOR VALUES FROM (10) TO (20)",
            "SELECT cdc_track('q', key => '{id}')",
            "CREATE FOREIGN TABLE q_3 PARTITION OF q FOR VALUES FROM (30) TO (40) SERVER s",
            "CREATE FOREIGN TABLE q_4 (id int, n int) SERVER s",
            "ALTER TABLE q ATTACH PARTITION q_4 FOR VALUES FROM (40) TO (50)",
            "INSERT INTO q VALUES (10, 1)",
            "SELECT cdc_track('q', key => '{id}')",
            "ALTER TABLE q DETACH PARTITION q_4",
            "DROP FOREIGN TABLE q_1, q_3",
            "DELETE FROM q",
            "SELECT cdc_untrack('q')",
        ],
    );
    assert_eq!(
        shown(&database.events("q")),
        [
            "CREATE",
            "ATTACH",
            r#"c {"id":10}"#,
            "DETACH",
            "DETACH",
            "DETACH",
            r#"d {"id":10}"#,
            "UNTRACK"
        ]
    );
}
