//! A history that parks events is killed between any two of its writes.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Document, doc};
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{PARTITIONS, Source, TIMEOUT};
use pg_cdc_tests::wait_until;

use super::history_dlq::{
    COLUMNS, collection, create, dlq, documents, refused_row, row, start, wait_until_applied,
};

/// Each of the events is in the history or parked, and none is in the history that comes behind a parked one of its row.
fn assert_complete(source: &Source, sent: &BTreeMap<u64, Vec<String>>) {
    let ids = |documents: Vec<Document>, name: &str| -> BTreeSet<String> {
        let id = |document: Document| document.get_str(name).expect(name).to_owned();
        documents.into_iter().map(id).collect()
    };
    let there = ids(source.history("t").all(), "_id");
    let parked = ids(documents(source, "companion_parked"), "event");
    for (id, events) in sent {
        let first_parked = events.iter().position(|event| parked.contains(event));
        for (place, event) in events.iter().enumerate() {
            let waits = first_parked.is_some_and(|first| place >= first);
            let found = (there.contains(event), parked.contains(event));
            assert_eq!(found, (!waits, waits), "event {place} of row {id}");
        }
    }
}

/// Waits until so many events are parked.
fn wait_for_parked(source: &Source, count: usize) {
    wait_until("events to be parked", TIMEOUT, || {
        let found = documents(source, "companion_parked").len();
        if found >= count {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
}

#[test]
fn a_kill_between_any_two_writes_loses_nothing_and_lets_nothing_overtake() {
    let mut source = Source::new("killed_history");
    source.more_toml = "[dead_letters]\nmax_parked_keys_per_minute = 1000\n";
    source.track("t", &COLUMNS, &["id"]);
    let sink = start(&source);
    let mut sent: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for round in 0..4 {
        let before = documents(&source, "companion_parked").len();
        send_round(&mut source, round, &mut sent);
        // Each time at another step: before anything is parked, in the middle, and when all is there.
        wait_for_parked(
            &source,
            [0, before + 1, before + 15, before + 30][round as usize],
        );
        sink.kill();
        sink.start_only(&["history"]);
    }
    wait_until_applied(&source, &sink);
    assert_complete(&source, &sent);
    what_was_not_noted_is_parked_again(&source, &sink, &sent);
    an_edit_is_carried_out_once(&source, &sink);
}

/// Twenty rows of four events each; of every other row the second event is refused.
fn send_round(source: &mut Source, round: u64, sent: &mut BTreeMap<u64, Vec<String>>) {
    let mut events = Vec::new();
    for step in 0..4 {
        for id in (1..=20).map(|id| round * 100 + id) {
            let after = if step == 1 && id % 2 == 0 {
                refused_row(id, step)
            } else {
                row(id, step)
            };
            events.push((id, after));
        }
    }
    for (id, after) in events {
        let event = create(source, &after);
        sent.entry(id).or_default().push(event.id());
    }
    source.flush();
}

fn parked_ids(source: &Source) -> BTreeSet<String> {
    let parked = documents(source, "companion_parked").into_iter();
    parked
        .map(|document| document.get_str("event").expect("event").to_owned())
        .collect()
}

/// The states that kills leave behind: before the offset moved; and with nothing, or only what is behind, parked.
fn what_was_not_noted_is_parked_again(
    source: &Source,
    sink: &CompanionSink,
    sent: &BTreeMap<u64, Vec<String>>,
) {
    let (history, parked) = (source.history("t").all(), parked_ids(source));
    assert_eq!(parked.len(), 4 * 10 * 3);
    for forgotten in [None, Some(doc! {}), Some(doc! {"parked_behind": false})] {
        assert!(sink.stop().expect("it ran").success());
        if let Some(forgotten) = forgotten {
            let parked = collection(source, "companion_parked");
            let deleted = parked.delete_many(forgotten);
            assert!(deleted.run().expect("forget").deleted_count > 0);
        }
        (0..PARTITIONS).for_each(|partition| sink.rewind_history(partition));
        sink.start_only(&["history"]);
        wait_until_applied(source, sink);
        wait_until("all to be parked again", TIMEOUT, || {
            let found = parked_ids(source);
            if found == parked {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        source.history("t").assert_is(&history);
        assert_complete(source, sent);
    }
}

/// A decision that was carried out up to its last step, or up to the one before.
fn an_edit_is_carried_out_once(source: &Source, sink: &CompanionSink) {
    let head = dlq(sink, &["list"]).remove(0);
    let (event, key) = (head["event"].as_str().expect("an id"), head["key"].clone());
    let is_of_key = |document: &Document| {
        let key_bytes = document.get_binary_generic("key").expect("a key");
        key == String::from_utf8_lossy(key_bytes).as_ref()
    };
    let kept = documents(source, "companion_parked").into_iter();
    let kept: Vec<Document> = kept.filter(is_of_key).collect();
    dlq(
        sink,
        &["edit", event, "--set", "after.a=null", "--reason", "a test"],
    );
    wait_until_settled(source);
    let history = source.history("t").all();
    assert_eq!(kept.len(), 3);
    for left in [&kept[..], &kept[..1], &kept[1..], &[]] {
        assert!(sink.stop().expect("it ran").success());
        let reopened = collection(source, "companion_actions")
            .update_many(doc! {}, doc! {"$set": {"open": true}})
            .run();
        assert_eq!(reopened.expect("open it again").modified_count, 1);
        if !left.is_empty() {
            let parked = collection(source, "companion_parked");
            parked.insert_many(left).run().expect("park it again");
        }
        sink.start_only(&["history"]);
        wait_until_settled(source);
        source.history("t").assert_is(&history);
    }
}

/// Waits until no decision is open, and the three events of the key that was decided about are not parked any more.
fn wait_until_settled(source: &Source) {
    wait_until("the decision to be carried out", TIMEOUT, || {
        let open = documents(source, "companion_actions").into_iter();
        let open = open
            .filter(|action| action.get_bool("open") == Ok(true))
            .count();
        match (open, parked_ids(source).len()) {
            (0, 117) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
}
