//! What is counted: rows as they are now, in the period that they are of.

use pg_cdc_tests::hand_made_events::{Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::wait_until;
use serde_json::json;

use super::{
    BY_DAY, COLUMNS, answer, companion_sink, create, dead_letters, delete, folder, order, start,
    update, wait_for_figures,
};

#[test]
fn late_events_and_changes_correct_the_periods_that_they_are_of() {
    let mut source = Source::new("figures_late");
    source.track("orders", &COLUMNS, &["id"]);
    let sink = companion_sink(&source, &folder("late"), BY_DAY);
    start(&sink);
    let [one, two, three] = [
        order(1, 20, "a", "10.50"),
        order(2, 21, "a", "0.25"),
        order(3, 21, "b", "7.00"),
    ];
    for row in [&one, &two, &three] {
        let event = create(&mut source, row);
        source.send(&event);
    }
    source.flush();
    wait_for_figures(
        &sink,
        &[
            ("2026-11-20", "a", 1, "10.50"),
            ("2026-11-21", "a", 1, "0.25"),
            ("2026-11-21", "b", 1, "7.00"),
        ],
    );
    // A late one, one that moves to another day and account, and one that goes.
    let late = create(&mut source, &order(4, 1, "a", "1.00"));
    source.send(&late);
    let moved = update(&mut source, &one, &order(1, 21, "b", "20.00"));
    source.send(&moved);
    let gone = delete(&mut source, &two);
    source.send(&gone);
    source.send(&Source::tombstone(&gone));
    // A copy of one that was sent before.
    source.send(&moved);
    source.flush();
    wait_for_figures(
        &sink,
        &[
            ("2026-11-01", "a", 1, "1.00"),
            ("2026-11-21", "b", 2, "27.00"),
        ],
    );
    let rows = answer(&sink, &["--from", "2026-11-21"]).expect("an answer");
    assert_eq!(
        rows,
        [
            json!({"period": "2026-11-21", "account": "b", "count": 2, "total": "27.00",
            "min_amount": "7.00", "max_amount": "20.00", "distinct_amount": 2})
        ]
    );
    let gone = delete(&mut source, &three);
    source.send(&gone);
    source.flush();
    wait_for_figures(
        &sink,
        &[
            ("2026-11-01", "a", 1, "1.00"),
            ("2026-11-21", "b", 1, "20.00"),
        ],
    );
    let rows = answer(&sink, &["--group", "account=b"]).expect("an answer");
    assert_eq!(rows[0]["min_amount"], "20.00", "the lowest is gone");
    let truncate = source.truncate("orders");
    source.send_control(&truncate);
    let after = create(&mut source, &order(9, 2, "a", "3.00"));
    source.send(&after);
    source.flush();
    wait_for_figures(&sink, &[("2026-11-02", "a", 1, "3.00")]);
}

#[test]
fn what_cannot_be_added_is_a_dead_letter_and_the_others_go_on() {
    let mut source = Source::new("figures_bad");
    source.track("orders", &COLUMNS, &["id"]);
    let sink = companion_sink(&source, &folder("bad"), BY_DAY);
    start(&sink);
    for (id, amount) in [(1, "1.00"), (2, "much"), (3, "2.00")] {
        let event = create(&mut source, &order(id, 5, "a", amount));
        source.send(&event);
    }
    let broken = create(&mut source, &order(4, 5, "a", "1.00")).with_value(b"{");
    source.send(&broken);
    source.flush();
    wait_for_figures(&sink, &[("2026-11-05", "a", 2, "3.00")]);
    wait_until("the dead letters", TIMEOUT, || {
        let letters = dead_letters(&source);
        let codes: Vec<_> = letters
            .iter()
            .filter_map(|letter| letter.header("cdc.dlq.code"))
            .collect();
        let mut codes = codes;
        codes.sort_unstable();
        if codes == ["CDC1005", "CDC1007"] {
            Ok(())
        } else {
            Err(format!("{codes:?}"))
        }
    });
}

#[test]
fn a_snapshot_changes_nothing_but_what_vanished() {
    let mut source = Source::new("figures_snapshot");
    source.track("orders", &COLUMNS, &["id"]);
    let sink = companion_sink(&source, &folder("snapshot"), BY_DAY);
    start(&sink);
    let rows: Vec<_> = (1..=6).map(|id| order(id, 7, "a", "1.00")).collect();
    for row in &rows {
        let event = create(&mut source, row);
        source.send(&event);
    }
    source.flush();
    wait_for_figures(&sink, &[("2026-11-07", "a", 6, "6.00")]);
    // The second one finds that the rows 5 and 6 are gone; the row 4 it names as changed before.
    for (snapshot, found, left) in [(1, 1..=6, vec![]), (2, 1..=3, vec![json!({"id": 4})])] {
        let begin = json!({"id": snapshot, "chunk": 1, "event": "chunk_begin", "sinks": null});
        let begin = source.snapshot("orders", &begin);
        source.send_control(&begin);
        for id in found {
            let row = &rows[id - 1];
            let event = source.read("orders", Some(&id_key(id as u64)), row);
            source.send(&event);
        }
        source.flush();
        let end = json!({"id": snapshot, "chunk": 1, "event": "chunk_end", "from": null, "to": null,
            "partial": false, "rows": 0, "changed": left, "sinks": null});
        let end = source.snapshot("orders", &end);
        source.send_control(&end);
        let mark = create(&mut source, &order(100 + snapshot, 8, "mark", "0"));
        source.send(&mark);
        source.flush();
        let (count, total) = if snapshot == 1 {
            (6, "6.00")
        } else {
            (4, "4.00")
        };
        // That of the first one the second one has not found.
        let marks = ("2026-11-08", "mark", 1, "0");
        wait_for_figures(&sink, &[("2026-11-07", "a", count, total), marks]);
    }
}

#[test]
fn own_events_of_an_application_are_counted_once() {
    let mut source = Source::new("figures_own");
    source.create_topic("sold");
    let counted = "time = \"value.at\"\nperiod = \"hour\"\ngroup_by = [\"value.shop\"]\nwhere = \"value.pieces > 0\"\n\
        measures = [\"count()\", \"sum(value.pieces) as pieces\"]\n";
    let sink = companion_sink(&source, &folder("own"), counted);
    start(&sink);
    let mut events = Vec::new();
    for (number, pieces) in [(1, 2), (2, 3), (3, 0)] {
        let value = json!({"shop": "bern", "pieces": pieces, "at": "2026-11-21T10:40:00Z", "number": number});
        events.push(source.own("sold", Some("42"), Some(&value)));
    }
    for _ in 0..2 {
        events.iter().for_each(|event| source.send(event));
    }
    source.flush();
    let expected =
        json!({"period": "2026-11-21T10:00:00+00:00", "shop": "bern", "count": 2, "pieces": "5"});
    wait_until("the figures", TIMEOUT, || {
        let rows = answer(&sink, &[])?;
        if rows == [expected.clone()] {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    });
    assert!(bed().path("figures-own").join("figures.redb").exists());
}
