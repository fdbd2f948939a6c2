//! A fault of pg_cdc's own in a thread of the sender.

use std::path::Path;

use pg_cdc_tests::sender_status::wait_for_state;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, bed, c_library, refusal};

/// How often it is tried before the sender halts.
const TRIES: usize = 5;

#[test]
fn a_thread_that_panics_again_and_again_halts_the_sender_until_somebody_resumes_it() {
    let folder = bed::temporary_folder();
    let library = folder.path().join("panics.so");
    c_library::compile(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sender/panics.c"),
        &library,
    );
    let bed = TestBed::start();
    let database = bed.database("panics");
    run(
        &mut database.source(),
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (0)",
        ],
    );
    database.wait_until_in_kafka();
    let server = bed.source();
    server.preload(&library);
    server.restart();
    let mut client = database.source();
    let broken_clock = server.data_folder().join("broken_clock");
    for (id, thread) in ["cdc kafka", "cdc position"].into_iter().enumerate() {
        let id = id + 1;
        wait_for_state(&mut client, "streaming", None);
        server.write_file("broken_clock", thread.as_bytes(), 0o644);
        // Both threads ask for the time of day for it.
        run(&mut client, &[&format!("INSERT INTO t VALUES ({id})")]);
        let halted = wait_for_state(&mut client, "halted", Some("CDC0319"));
        let what = halted
            .error
            .strip_prefix("a thread of the sender panicked: ");
        let what = what.unwrap_or_else(|| panic!("{halted:?}"));
        assert!(what.contains("InvalidInput"), "{what}");
        for inside in [".rs", "/", "backtrace"] {
            assert!(!what.contains(inside), "{inside}: {what}");
        }
        let tries = server
            .log()
            .matches("a thread of the sender panicked at")
            .count();
        assert!((id * TRIES..=id * TRIES + 1).contains(&tries), "{tries}");

        std::fs::remove_file(&broken_clock).expect("broken_clock");
        run(&mut client, &["SELECT cdc_resume()"]);
    }
    wait_for_state(&mut client, "streaming", None);
    refusal::coded(&mut client, "SELECT cdc_resume()", "55000", "CDC0604");
    let events = database.events("t");
    let mut ids: Vec<i64> = events
        .iter()
        .filter(|event| event.op() == "c")
        .map(|event| event.json()["after"]["id"].as_i64().expect("an id"))
        .collect();
    ids.dedup();
    assert_eq!(ids, [0, 1, 2]);
    server.assert_never_crashed();
}
