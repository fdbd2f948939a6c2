//! Figures by day, which companion-sink counts.

use pg_cdc_tests::topics::{topic, topic_admin};
use pg_cdc_tests::wait_until;

use super::system::{EventStore, Figures, TIMEOUT, expect};

/// Waits until the figures are what was published, each event once.
pub(super) fn as_published(example: &EventStore) -> String {
    let figures = wait_for_figures(example);
    let day = example
        .instance(1)
        .ask("GET", "/statistics?from=2026-11-22&to=2026-11-23", &[]);
    expect(200, &day);
    let rows = day.body["rows"].as_array().expect("rows");
    let periods: Vec<_> = rows.iter().map(|row| row["period"].as_str()).collect();
    assert_eq!(periods, [Some("2026-11-22")], "{day:?}");
    let wrong = example
        .instance(1)
        .ask("GET", "/statistics?from=yesterday", &[]);
    assert!((400..500).contains(&wrong.status), "{wrong:?}");
    figures
}

/// Every event goes, as after 30 days, and the disk of companion-sink is lost.
pub(super) fn outlive(example: &EventStore) -> String {
    let kafka = example.bed.kafka();
    example.publish(0, "a001", "2026-11-25", "deposit", 5);
    wait_for_figures(example);
    for (partition, offsets) in topic::offsets(kafka, "event").expect("the topic") {
        // What is left is the end of the last transaction.
        topic_admin::trim(kafka, "event", partition, offsets.end - 1);
    }
    // A new owner may have written what only has the topic compacted.
    let left = topic::read(kafka, "event");
    assert!(left.iter().all(|left| left.value.is_none()), "{left:?}");
    let events = example.instance(1).ask("GET", "/accounts/a001/events", &[]);
    assert_eq!(
        events.body["events"].as_array().map(Vec::len),
        Some(0),
        "{events:?}"
    );
    wait_until(
        "the stores to forget the events",
        TIMEOUT,
        || match example.status().events {
            0 => Ok(()),
            events => Err(events),
        },
    );
    example.sink.kill();
    std::fs::remove_dir_all(example.folder.join("figures")).expect("its store");
    example.sink.start();
    let figures = wait_for_figures(example);
    example.publish(0, "a001", "2026-11-25", "deposit", 6);
    wait_for_figures(example);
    figures
}

/// Waits for them; how many they are.
pub(super) fn wait_for_figures(example: &EventStore) -> String {
    let wanted = example.published.borrow().clone();
    wait_until("the figures", TIMEOUT, || {
        let answer = example
            .instance(0)
            .ask("GET", "/statistics?limit=10000", &[]);
        let rows = answer.body["rows"]
            .as_array()
            .ok_or(format!("{answer:?}"))?;
        let mut found = Figures::new();
        for row in rows {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let count = row["count"].as_u64().unwrap_or_default();
            let sum = text("total_cents").parse().unwrap_or_default();
            found.insert((text("period"), text("type")), (count, sum));
        }
        match found == wanted {
            true => Ok(()),
            false => Err(format!("{found:?} instead of {wanted:?}")),
        }
    });
    let events: u64 = wanted.values().map(|(count, _)| count).sum();
    format!("{events} events on {} days and types", wanted.len())
}
