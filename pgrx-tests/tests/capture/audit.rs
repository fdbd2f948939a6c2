//! Who changed a row and why, and where it came from.

use pg_cdc_tests::TestBed;
use serde_json::json;

#[test]
fn who_and_why_are_in_every_event() {
    let database = TestBed::shared().database("who");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE ROLE app_rw;
             CREATE TABLE t (id int PRIMARY KEY, v int); GRANT ALL ON t TO app_rw;
             SELECT cdc_track('t');
             SET application_name = 'crm';
             SET ROLE app_rw;
             BEGIN; SELECT cdc_context('ann', 'moved', 'r-17', '{\"tenant\": \"t1\"}');
               INSERT INTO t VALUES (1, 1);
               SELECT cdc_context(reason => 'another', context => '{\"ticket\": 7}');
               UPDATE t SET v = 2;
             COMMIT;
             DELETE FROM t;",
        )
        .expect("the changes");
    let audits: Vec<_> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| r.json()["audit"].clone())
        .collect();
    let shown: Vec<_> = audits
        .iter()
        .map(|a| {
            json!([
                a["actor"],
                a["reason"],
                a["request_id"],
                a["session_user"],
                a["current_user"],
                a["application_name"],
                a["client_addr"],
                a["context"]
            ])
        })
        .collect();
    assert_eq!(
        shown,
        [
            json!(["ann", "moved", "r-17", "postgres", "app_rw", "crm", "127.0.0.1", {"tenant": "t1"}]),
            json!(["ann", "another", "r-17", "postgres", "app_rw", "crm", "127.0.0.1", {"tenant": "t1", "ticket": 7}]),
            json!([
                null,
                null,
                null,
                "postgres",
                "app_rw",
                "crm",
                "127.0.0.1",
                {}
            ]),
        ]
    );
}

#[test]
fn rows_that_a_replication_origin_applies_name_it() {
    let database = TestBed::shared().database("origins");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t'), pg_replication_origin_create('far_away')")
        .expect("track");
    client
        .batch_execute(
            "SELECT pg_replication_origin_session_setup('far_away'); INSERT INTO t VALUES (1)",
        )
        .expect("a row of the origin");
    client
        .batch_execute("SELECT pg_replication_origin_session_reset(); INSERT INTO t VALUES (2)")
        .expect("a row of our own");
    let origins: std::collections::BTreeMap<String, serde_json::Value> = database
        .records("t")
        .iter()
        .filter(|r| r.is_row_change())
        .map(|r| {
            (
                r.key_text().to_owned(),
                r.json()["source"]["origin"].clone(),
            )
        })
        .collect();
    assert_eq!(origins["{\"id\":1}"], json!("far_away"));
    assert_eq!(origins["{\"id\":2}"], json!(null));
}
