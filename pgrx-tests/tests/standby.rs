//! Nothing is sent before a synchronous standby has it (G3; reviews/capture.md B6, F4).

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, port, prefix_rule, topic, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(60);

fn state(client: &mut Client) -> (String, Option<String>) {
    let row = client
        .query_one("SELECT state, waiting_for FROM cdc_status()", &[])
        .expect("cdc_status");
    (row.get(0), row.get(1))
}

fn wait_for(client: &mut Client, wanted: &str) -> Option<String> {
    wait_until(&format!("state {wanted}"), TIMEOUT, || {
        let (state, waiting_for) = state(client);
        if state == wanted {
            Ok(waiting_for)
        } else {
            Err(format!("{state}, {waiting_for:?}"))
        }
    })
}

fn ids(database: &Database<'_>) -> BTreeSet<i64> {
    let records = topic::read(database.bed().kafka(), &database.topic("t"));
    prefix_rule::inserted_ids(&records).into_iter().collect()
}

#[test]
fn nothing_is_sent_before_the_synchronous_standby_has_it() {
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut client = database.source();
    run(
        &mut client,
        &[
            // The writer does not wait: so it is the sender that does.
            "SET synchronous_commit = local",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1)",
        ],
    );
    database.wait_until_in_kafka();
    let standby = bed
        .source()
        .standby(&bed.path("standby"), port::free(), "second");

    // `auto`: from the moment a standby is named.
    bed.source().set("synchronous_standby_names", "second");
    bed.source().reload();
    // None has confirmed anything yet. From here on the reload counts.
    let waiting_for = wait_for(&mut client, "waiting for standby");
    assert_eq!(waiting_for.as_deref(), Some("a synchronous standby"));
    run(
        &mut client,
        &["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)"],
    );
    assert_eq!(ids(&database), BTreeSet::from([1]));
    standby.start();
    wait_for(&mut client, "streaming");
    database.wait_until_in_kafka();
    assert_eq!(ids(&database), BTreeSet::from([1, 2, 3]));

    // What is sent is at the standby, also under load.
    for id in 4..200 {
        client
            .execute("INSERT INTO t VALUES ($1)", &[&id])
            .expect("a row");
    }
    database.wait_until_in_kafka();
    let sent = "SELECT count(*) = 0 FROM pg_stat_replication WHERE flush_lsn < (SELECT sent_lsn FROM cdc_status())";
    assert!(
        client
            .query_one(sent, &[])
            .expect("the standby")
            .get::<_, bool>(0)
    );

    standby.stop();
    run(&mut client, &["INSERT INTO t VALUES (200)"]);
    wait_for(&mut client, "waiting for standby");
    assert_eq!(ids(&database).len(), 199);
    bed.source().set("cdc.wait_for_standby", "off");
    bed.source().reload();
    wait_for(&mut client, "streaming");
    database.wait_until_in_kafka();
    assert_eq!(ids(&database).len(), 200);

    // `on` without a standby's name is a contradiction: it is said, and nothing is sent.
    bed.source().set("synchronous_standby_names", "");
    bed.source().set("cdc.wait_for_standby", "on");
    bed.source().reload();
    let waiting_for = wait_for(&mut client, "waiting for standby").expect("what it waits for");
    run(&mut client, &["INSERT INTO t VALUES (201)"]);
    assert!(
        waiting_for.starts_with("synchronous_standby_names to be set"),
        "{waiting_for}"
    );
    assert_eq!(ids(&database).len(), 200);
    bed.source().assert_never_crashed();
}
