//! Something that the sender needs is missing: tracking is refused with the remedy, writers are not touched.

use std::time::Duration;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::{TestBed, refusal, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A bed whose source runs alone (no Kafka is needed to be refused), with the extension and a table.
fn source_with(settings: &[(&str, &str)]) -> (TestBed, Client) {
    let bed = TestBed::prepare(Ports::free(), settings, &[]);
    let database = bed.database_without_extension("shop");
    let mut client = database.source();
    client
        .batch_execute("CREATE EXTENSION pg_cdc; CREATE TABLE t (id int PRIMARY KEY)")
        .expect("extension and table");
    (bed, client)
}

/// Waits until `cdc_status()` has the code.
fn wait_for_error_code(client: &mut Client, code: &str) {
    wait_until(&format!("cdc_status().error_code {code}"), TIMEOUT, || {
        let row = client.query_one(
            "SELECT state, error_code, error_hint FROM cdc_status()",
            &[],
        );
        let row = row.map_err(|e| format!("{e:?}"))?;
        if row.get::<_, Option<&str>>("error_code") == Some(code) {
            assert!(
                row.get::<_, Option<&str>>("error_hint")
                    .is_some_and(|remedy| !remedy.is_empty())
            );
            return Ok(());
        }
        Err(format!(
            "{} {:?}",
            row.get::<_, &str>("state"),
            row.get::<_, Option<&str>>("error_code")
        ))
    });
}

#[test]
fn without_brokers_nothing_is_tracked() {
    let (bed, mut client) = source_with(&[("cdc.brokers", "")]);
    refusal::coded(&mut client, "SELECT cdc_track('t')", "55000", "CDC0003");
    let state: String = client
        .query_one("SELECT state FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0);
    assert_eq!(state, "unconfigured");
    let slots = client
        .query("SELECT slot_name FROM pg_replication_slots", &[])
        .expect("slots");
    assert!(
        slots.is_empty(),
        "no slot may hold WAL before brokers are set"
    );
    client
        .batch_execute("INSERT INTO t VALUES (1)")
        .expect("writers are not touched");
    bed.source().assert_never_crashed();
}

#[test]
fn without_a_free_slot_the_code_says_so_and_a_freed_one_is_taken() {
    let (bed, mut client) = source_with(&[("cdc.brokers", ""), ("max_replication_slots", "1")]);
    client
        .batch_execute("SELECT pg_create_physical_replication_slot('taken')")
        .expect("take the slot");
    bed.source()
        .set("cdc.brokers", &format!("127.0.0.1:{}", bed.kafka().port()));
    bed.source().reload();

    wait_for_error_code(&mut client, "CDC0004");
    let error = refusal::coded(&mut client, "SELECT cdc_track('t')", "55000", "CDC0007");
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("CDC0004")),
        "{error:?}"
    );
    // What the sender's error says of the whole server is for those who watch over it.
    client
        .batch_execute(
            "CREATE ROLE ordinary LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE TABLE own (id int PRIMARY KEY);
             ALTER TABLE own OWNER TO ordinary",
        )
        .expect("roles");
    let mut ordinary = bed.source().connect_as("ordinary", "shop");
    for (call, code) in [
        ("cdc_track('own')", "CDC0007"),
        ("cdc_wait('1 ms')", "CDC0601"),
    ] {
        let error = refusal::coded(&mut ordinary, &format!("SELECT {call}"), "55000", code);
        assert_eq!(error.detail(), None, "{error:?}");
        let hint = error.hint().unwrap_or_default();
        assert!(
            hint.contains("pg_monitor") && !hint.contains("max_replication_slots"),
            "{hint}"
        );
    }
    let mut watcher = bed.source().connect_as("watcher", "shop");
    let error = refusal::coded(&mut watcher, "SELECT cdc_wait('1 ms')", "55000", "CDC0601");
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("CDC0004")),
        "{error:?}"
    );
    client
        .batch_execute("INSERT INTO t VALUES (1)")
        .expect("writers are not touched");

    client
        .batch_execute("SELECT pg_drop_replication_slot('taken')")
        .expect("free the slot");
    bed.wait_until_streaming("shop");
    client
        .batch_execute("SELECT cdc_track('t')")
        .expect("tracked once there is a slot");
    bed.source().assert_never_crashed();
}

#[test]
fn without_a_free_worker_the_code_says_so() {
    // The only one is taken by PostgreSQL's logical replication launcher.
    let (bed, mut client) = source_with(&[("max_worker_processes", "1")]);
    refusal::coded(&mut client, "SELECT cdc_track('t')", "53400", "CDC0005");
    let checked = client.query_one(
        "SELECT level, item FROM cdc_check() WHERE code = 'CDC0005'",
        &[],
    );
    let checked = checked.expect("cdc_check() tells of it");
    assert_eq!(
        (checked.get("level"), checked.get("item")),
        ("error", "max_worker_processes")
    );
    client
        .batch_execute("INSERT INTO t VALUES (1)")
        .expect("writers are not touched");
    bed.source().assert_never_crashed();
}
