//! Orders that end with an error or are taken back, and the lag of a sender that is stopped.

use pg_cdc_tests::statements::{run, text};
use pg_cdc_tests::{Database, TestBed, refusal};
use postgres::{Client, NoTls};

use super::owners::{rows, wait_for};

/// What is told of the lag: whoever is stopped has some.
const LAG: &str = "SELECT concat_ws(' ', state, lag_seconds > 0, lag_bytes > 0, lag_bytes = pg_wal_lsn_diff(flush_lsn, sent_lsn),
        lag_events) FROM cdc_status()";

#[test]
fn orders_end_with_their_call_and_lag_is_told_whoever_stopped_the_sender() {
    let bed = TestBed::start();
    let other = bed.database("other");
    let database = bed.database("shop");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE operator LOGIN; GRANT cdc_admin TO operator",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1)",
        ],
    );
    run(
        &mut other.source(),
        &[
            "CREATE TABLE o (id int PRIMARY KEY)",
            "SELECT cdc_track('o')",
        ],
    );
    database.wait_until_in_kafka();
    orders_of_nonsense_or_about_others_are_refused(&database, &mut client);

    bed.kafka().freeze();
    run(&mut client, &["INSERT INTO t VALUES (2)"]);
    a_call_that_ends_with_an_error_has_ordered_nothing(&mut client);
    an_order_is_taken_back_while_its_call_runs(&database, &mut client);
    bed.kafka().thaw();
    assert_eq!(ids(&database), [1, 2]);

    lag_is_told_in_a_pause_and_behind_a_restart(&database, &mut client);
    lag_is_told_drained_and_without_kafka(&database, &mut client);
    assert_eq!(ids(&database), [1, 2, 3, 4]);
    bed.source().assert_never_crashed();
}

fn ids(database: &Database<'_>) -> Vec<u64> {
    let rows = rows(database, "shop.public.t");
    rows.iter()
        .filter_map(|row| row["after"]["id"].as_u64())
        .collect()
}

fn orders_of_nonsense_or_about_others_are_refused(database: &Database<'_>, client: &mut Client) {
    let skip = "SELECT cdc_skip_topic('shop.public.t', 'FFFFFFFF/FFFFFFFF')";
    refusal::coded(client, skip, "55000", "CDC0603");
    for order in [
        "cdc_skip_topic(E'shop\\nLOG:  all is well')".to_owned(),
        "cdc_pause(E'a\\nb')".to_owned(),
        format!("cdc_pause('{}')", "r".repeat(2000)),
        format!(
            "cdc_skip_topic('shop.public.t', reason => '{}')",
            "r".repeat(2000)
        ),
    ] {
        refusal::coded(client, &format!("SELECT {order}"), "22023", "CDC0606");
    }
    let port = database.bed().source().port();
    let url = format!("postgres://operator@127.0.0.1:{port}/shop");
    let mut operator = Client::connect(&url, NoTls).expect("the operator connects");
    refusal::coded(
        &mut operator,
        "SELECT cdc_skip_topic('other.public.o')",
        "42501",
        "CDC0607",
    );
}

/// Though the sender had taken it up.
fn a_call_that_ends_with_an_error_has_ordered_nothing(client: &mut Client) {
    let error = refusal::of(
        client,
        "SET statement_timeout = '3s'; SELECT cdc_skip_topic('shop.public.t')",
    );
    assert_eq!(error.code().code(), "57014", "{error:?}");
    run(client, &["SET statement_timeout = 0"]);
    assert_eq!(
        text(client, "SELECT topics_skipped::text FROM cdc_status()").as_deref(),
        Some("0")
    );
    refusal::coded(
        client,
        "SELECT cdc_unskip_topic('shop.public.t')",
        "55000",
        "CDC0608",
    );
}

/// While one runs, somebody else sees it and takes it back.
fn an_order_is_taken_back_while_its_call_runs(database: &Database<'_>, client: &mut Client) {
    let pause = "SELECT topics_skipped::text FROM cdc_status()";
    std::thread::scope(|scope| {
        let skipping = scope.spawn(move || {
            let skip = "SET statement_timeout = '30s'; SELECT cdc_skip_topic('shop.public.t')";
            database.source().batch_execute(skip).is_err()
        });
        wait_for(client, pause, "1");
        let check = "SELECT count(*)::text FROM cdc_check() WHERE code = 'CDC0609' AND item = 'topic shop.public.t'";
        assert_eq!(text(client, check).as_deref(), Some("1"));
        let taken_back = text(client, "SELECT cdc_unskip_topic('shop.public.t')::text");
        assert_eq!(taken_back.as_deref(), Some("1"));
        let end = "SELECT count(pg_cancel_backend(pid))::text FROM pg_stat_activity WHERE query LIKE 'SET statement_timeout%' AND pid <> pg_backend_pid()";
        text(client, end);
        assert!(
            skipping.join().expect("the other session"),
            "it was cancelled"
        );
    });
}

fn lag_is_told_in_a_pause_and_behind_a_restart(database: &Database<'_>, client: &mut Client) {
    run(client, &["SELECT cdc_pause('for a while')"]);
    wait_for(client, "SELECT state FROM cdc_status()", "paused");
    run(client, &["INSERT INTO t VALUES (3)"]);
    wait_for(client, LAG, "paused t t t");
    database.bed().source().restart();
    *client = database.source();
    wait_for(client, "SELECT state FROM cdc_status()", "paused");
    // How old it is nobody knows any more, but it is not 0.
    assert_eq!(
        text(client, "SELECT lag_seconds::text FROM cdc_status()"),
        None
    );
    assert_eq!(text(client, LAG).as_deref(), Some("paused t t"));
    run(client, &["SELECT cdc_resume()"]);
    database.wait_until_in_kafka();
    wait_for(
        client,
        "SELECT concat_ws(' ', state, lag_seconds, lag_bytes, lag_events) FROM cdc_status()",
        "streaming 0 0 0",
    );
}

fn lag_is_told_drained_and_without_kafka(database: &Database<'_>, client: &mut Client) {
    let kafka = database.bed().kafka();
    run(client, &["SELECT cdc_drain()", "INSERT INTO t VALUES (4)"]);
    wait_for(client, LAG, "drained t t t");
    kafka.kill();
    run(client, &["SELECT cdc_resume()"]);
    wait_for(client, LAG, "waiting_for_kafka t t t");
    kafka.start();
}
