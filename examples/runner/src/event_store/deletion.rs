//! What was deleted is in no topic any more.

use std::time::Instant;

use pg_cdc_tests::topics::topic_admin;
use pg_cdc_tests::wait_until;
use serde_json::json;

use super::figures::wait_for_figures;
use super::system::{EventStore, TIMEOUT, expect};
use crate::service::Service;

/// What the topics do after days, here within seconds.
const SOON: [(&str, &str); 6] = [
    ("segment.ms", "50"),
    ("delete.retention.ms", "50"),
    ("file.delete.delay.ms", "50"),
    ("min.cleanable.dirty.ratio", "0"),
    ("min.compaction.lag.ms", "0"),
    ("max.compaction.lag.ms", "50"),
];
/// How the broker looks for them: often, and without 128 MB to be cleared for each small log.
const CLEANER: [(&str, &str); 2] = [
    ("log.cleaner.backoff.ms", "100"),
    ("log.cleaner.dedupe.buffer.size", "4194304"),
];
const GONE: [&str; 2] = ["zoe-to-be-forgotten", "secret-event-id"];

/// Deletes an account with events, and looks into the files of the broker.
pub(super) fn leaves_nothing(example: &mut EventStore) -> String {
    let [account, event] = GONE;
    example.create(0, account);
    let path = format!("/accounts/{account}");
    for number in 0..3 {
        let body = json!({"id": format!("{event}-{number}"), "type": "deposit", "amount_cents": 1, "time": "2026-11-24T00:00:00Z"});
        let events = format!("{path}/events");
        expect(
            201,
            &example.instance(1).ask_with("POST", &events, &[], &body),
        );
        example.note("2026-11-24", "deposit", 1);
    }
    let before = found_in(example);
    assert!(before.iter().all(|found| *found), "{before:?}");
    expect(204, &example.instance(2).ask("DELETE", &path, &[]));
    let start = Instant::now();
    let kafka = example.bed.kafka();
    topic_admin::set_for_broker(kafka, &CLEANER);
    for (topic, policy) in [("account", "compact"), ("event", "compact,delete")] {
        let settings = [&SOON[..], &[("cleanup.policy", policy)]].concat();
        topic_admin::set_all(kafka, topic, &settings);
    }
    // One instance is enough, with what it does once a day done every second; nobody else writes.
    for instance in &mut example.instances {
        instance.running.take().into_iter().for_each(Service::stop);
    }
    example.roll_seconds = "1";
    example.start_instance(0);
    example.wait_until_served();
    wait_until("compaction", TIMEOUT, || match found_in(example) {
        [false, false] => Ok(()),
        found => Err(format!("{found:?}")),
    });
    expect(404, &example.instance(0).ask("GET", &path, &[]));
    wait_for_figures(example);
    format!(
        "{:.1} s after it was deleted",
        start.elapsed().as_secs_f64()
    )
}

/// Whether the account and its events are in the files of the two topics.
fn found_in(example: &EventStore) -> [bool; 2] {
    let data = example.bed.path("kafka").join("data");
    let mut found = [false; 2];
    for folder in std::fs::read_dir(data).expect("the broker's folder") {
        let folder = folder.expect("a folder");
        let name = folder.file_name().to_string_lossy().into_owned();
        let is_ours = matches!(name.rsplit_once('-'), Some(("account" | "event", _)));
        if !is_ours {
            continue;
        }
        for file in std::fs::read_dir(folder.path()).expect("a partition") {
            let file = file.expect("a file").path();
            // Indexes have offsets only, and are large.
            if !file.to_string_lossy().contains(".log") {
                continue;
            }
            // A segment may go while one looks.
            let bytes = std::fs::read(file).unwrap_or_default();
            for (found, text) in found.iter_mut().zip(GONE) {
                *found |= bytes
                    .windows(text.len())
                    .any(|part| part == text.as_bytes());
            }
        }
    }
    found
}
