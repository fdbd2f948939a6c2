//! What was deleted is in no topic any more.

use std::time::Instant;

use pg_cdc_tests::topics::topic_admin;
use pg_cdc_tests::wait_until;
use serde_json::json;

use super::{EventStore, TIMEOUT, expect};

/// What the topics have after days, here within seconds.
const SOON: [(&str, &str); 6] = [
    ("segment.ms", "50"),
    ("delete.retention.ms", "50"),
    ("file.delete.delay.ms", "50"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("min.compaction.lag.ms", "0"),
    ("max.compaction.lag.ms", "50"),
];
const GONE: [&str; 2] = ["zoe-to-be-forgotten", "secret-event-id"];

/// Deletes an account with events, and looks into the files of the broker.
pub(super) fn leaves_nothing(example: &EventStore) -> String {
    let [account, event] = GONE;
    example.create(0, account);
    let path = format!("/accounts/{account}");
    for number in 0..3 {
        let body = json!({"id": format!("{event}-{number}"), "type": "deposit", "amount_cents": 1, "time": "2026-11-24T00:00:00Z"});
        let events = format!("{path}/events");
        expect(201, &example.instance(1).ask_with("POST", &events, &[], &body));
        example.note("2026-11-24", "deposit", 1);
    }
    let before = found_in(example);
    assert!(before.iter().all(|found| *found), "{before:?}");
    expect(204, &example.instance(2).ask("DELETE", &path, &[]));
    let start = Instant::now();
    let kafka = example.bed.kafka();
    topic_admin::set_for_broker(kafka, &[("log.cleaner.backoff.ms", "100")]);
    for (topic, policy) in [("account", "compact"), ("event", "compact,delete")] {
        let settings = [&SOON[..], &[("cleanup.policy", policy)]].concat();
        topic_admin::set_all(kafka, topic, &settings);
    }
    wait_until("compaction", TIMEOUT, || {
        // The newest part of a partition is compacted when something newer came.
        for number in 0..12 {
            let id = format!("a{number:03}");
            let path = format!("/accounts/{id}");
            let tag = super::tag(&example.instance(0).ask("GET", &path, &[]));
            let body = json!({"name": id});
            expect(200, &example.instance(0).ask_with("PUT", &path, &[("if-match", &tag)], &body));
            example.publish(0, &id, "2026-11-24", "tick", 1);
        }
        match found_in(example) {
            [false, false] => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    expect(404, &example.instance(1).ask("GET", &path, &[]));
    format!("{:.1} s after it was deleted", start.elapsed().as_secs_f64())
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
            // A segment may go while one looks.
            let bytes = file.ok().and_then(|file| std::fs::read(file.path()).ok());
            let bytes = bytes.unwrap_or_default();
            for (found, text) in found.iter_mut().zip(GONE) {
                *found |= bytes.windows(text.len()).any(|part| part == text.as_bytes());
            }
        }
    }
    found
}
