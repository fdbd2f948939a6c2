//! Where events go.

use pg_cdc_tests::refusal;
use pg_cdc_tests::topic::{self, Record};

use super::database;

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
