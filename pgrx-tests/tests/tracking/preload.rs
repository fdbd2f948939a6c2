//! The library is not preloaded: the extension can be created (so that a restore works), nothing can be tracked.

use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::{bed, port, refusal};

#[test]
fn without_preload_creation_warns_and_tracking_fails() {
    let folder = bed::temporary_folder();
    let server = Postgres::create(&folder.path().join("pg"), port::free(), &[]);
    server.start();
    let (mut client, notices) = server.connect_with_notices("postgres");

    client
        .batch_execute("CREATE EXTENSION pg_cdc")
        .expect("CREATE EXTENSION without preload");
    let warnings = notices.lock().expect("notices").clone();
    let [warning] = &warnings[..] else {
        panic!("one warning, not {warnings:?}")
    };
    assert_eq!(warning.severity(), "WARNING");
    assert_eq!(warning.message(), "pg_cdc is not loaded");
    refusal::assert_coded(warning, warning.code().code(), "CDC0001");

    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .expect("create a table");
    let error = refusal::coded(&mut client, "SELECT cdc_track('t')", "55000", "CDC0001");
    assert_eq!(error.message(), "pg_cdc is not loaded");
    assert_eq!(
        error.detail(),
        Some("The library must be loaded at server start; shared_preload_libraries is \"\".")
    );

    let status = client
        .query_one("SELECT state FROM cdc_status()", &[])
        .expect("cdc_status");
    assert_eq!(status.get::<_, &str>("state"), "not_preloaded");
    client
        .batch_execute("INSERT INTO t VALUES (1)")
        .expect("writers are not touched");
    server.assert_never_crashed();
}
