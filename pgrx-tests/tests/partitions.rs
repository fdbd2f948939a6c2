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
            let change = event.json()["schema_change"].clone();
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
    let hashes = |places: &[usize]| -> Vec<Option<&str>> {
        places
            .iter()
            .map(|place| events[*place].header("cdc.schema"))
            .collect()
    };
    assert!(
        hashes(&[1, 2, 3, 6, 7])
            .iter()
            .all(|hash| *hash == hashes(&[0])[0]),
        "one list of columns"
    );
    assert_eq!(hashes(&[12]), hashes(&[11]));
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
            "DETACH!",
            "ATTACH!",
            "ALTER!",
            "DETACH!",
            r#"c {"id":9,"region":"CH"}"#,
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
            r#"c {"id":1}"#,
            r#"c {"id":101}"#,
            r#"c {"id":201}"#,
            r#"c {"id":301}"#,
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
    let alone = topic::read(database.bed().kafka(), "midnight.s.alone");
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
        ],
    );
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("replica", database.bed().kafka(), &[database.topic("t")]);
    let rows = replica::assert_equal(&mut client, &mut database.replica(), "public.t");
    assert_eq!(rows, 85);
}
