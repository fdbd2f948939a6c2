//! Owners without other rights make, attach and detach partitions, and notice nothing of capture.

use pg_cdc_tests::postgres::Notices;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, refusal};
use postgres::Client;

use super::{database, shown};

/// A role that owns a schema, with all that it makes there tracked, and one that may do as it does.
const ROLES: &[&str] = &[
    "CREATE ROLE app_owner LOGIN",
    "CREATE ROLE helper LOGIN IN ROLE app_owner",
    "CREATE SCHEMA s AUTHORIZATION app_owner",
    "GRANT ALL ON SCHEMA s TO helper",
    "SELECT cdc_track_schema('s', new_tables => true)",
];

/// Event triggers of other people's, that write down what they are told.
const TELLTALE: &[&str] = &[
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
];

/// A partition of another role's, with partitions of its own.
const OF_THE_HELPER: &[&str] = &[
    "CREATE TABLE s.ev_h PARTITION OF s.ev FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id)",
    "CREATE TABLE s.ev_h_rest PARTITION OF s.ev_h DEFAULT",
];

/// As pg_partman and others make partitions: stand-alone, then attached.
const ATTACH_LIKE: [&str; 3] = [
    "CREATE TABLE s.ev_2 (LIKE s.ev INCLUDING ALL)",
    "INSERT INTO s.ev_2 VALUES (200, 'in ev_2')",
    "ALTER TABLE s.ev ATTACH PARTITION s.ev_2 FOR VALUES FROM (200) TO (300)",
];

/// Partitions that are tracked by themselves, in a table that is attached; and rows, indexes and a detached partition.
const ATTACH_TREE: &[&str] = &[
    "CREATE TABLE s.tree (id int PRIMARY KEY, up int REFERENCES s.tree)",
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
];

#[test]
fn an_owner_without_rights_makes_and_attaches_partitions() {
    let database = database("midnight");
    let mut client = database.source();
    run(&mut client, ROLES);
    run(&mut client, TELLTALE);
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
    run(&mut helper, OF_THE_HELPER);
    run(&mut owner, &ATTACH_LIKE);
    run(&mut owner, ATTACH_TREE);
    only_what_is_for_the_person_is_told(&heard);
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
    our_triggers_are_there_and_nobody_was_told_of_them(&mut client);
    database.wait_until_in_kafka();
    assert_eq!(
        rows_of(&database, "ev"),
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
    assert_eq!(
        rows_of(&database, "ev_2"),
        [r#"c {"id":200}"#],
        "while it stood alone"
    );
    a_table_in_one_that_is_not_tracked_stays_what_it_was(&database, &mut owner, &heard);
}

fn only_what_is_for_the_person_is_told(heard: &Notices) {
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

fn our_triggers_are_there_and_nobody_was_told_of_them(client: &mut Client) {
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
        client,
        &[
            "DROP EVENT TRIGGER zz_start",
            "DROP EVENT TRIGGER zz_end",
            "DROP EVENT TRIGGER zz_drop",
        ],
    );
}

/// What happened to the rows of a table of the schema, but for snapshots.
fn rows_of(database: &Database<'_>, table: &str) -> Vec<String> {
    let records = topic::read(database.bed().kafka(), &format!("midnight.s.{table}"));
    let mut events: Vec<Record> = records.into_iter().filter(Record::is_row_change).collect();
    events.sort_by(|one, other| one.version().cmp(other.version()));
    events.retain(|event| event.op() != "r");
    shown(&events)
}

/// Attached to a table that is not tracked it stays what it was, until that is tracked; detached too.
fn a_table_in_one_that_is_not_tracked_stays_what_it_was(
    database: &Database<'_>,
    owner: &mut Client,
    heard: &Notices,
) {
    run(
        owner,
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
    assert_eq!(
        rows_of(database, "ev").last().map(String::as_str),
        Some(r#"c {"id":404}"#)
    );
}
