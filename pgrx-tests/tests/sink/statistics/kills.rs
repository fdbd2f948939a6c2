//! Whatever is killed or lost: the figures are right, and another instance goes on.

use pg_cdc_tests::hand_made_events::{Source, TIMEOUT, bed};
use pg_cdc_tests::{topic, wait_until};

use super::{
    BY_DAY, COLUMNS, answer, companion_sink, create, folder, load, order, start, totals, update,
    wait_for_totals,
};

#[test]
fn kill_9_during_a_load_loses_and_doubles_nothing() {
    let mut source = Source::new("figures_killed");
    source.track("orders", &COLUMNS, &["id"]);
    let (count, cents) = load(&mut source, 0, 5000, 7);
    // Each once more, into another account.
    for id in 0..count {
        let amount = format!("0.{:02}", id % 100);
        let before = order(id, 1 + id % 30, &format!("a{}", id % 7), &amount);
        let after = order(id, 1 + id % 28, &format!("b{}", id % 5), &amount);
        let event = update(&mut source, &before, &after);
        source.send(&event);
    }
    source.flush();
    let counted = format!("batch = {{ rows = 150 }}\n{BY_DAY}");
    let sink = companion_sink(&source, &folder("killed"), &counted);
    let mut kills = 0;
    let mut position = 0;
    loop {
        start(&sink);
        // Until it has gone on.
        let moved = wait_until("the figures to move", 2 * TIMEOUT, || {
            let applied = sink.state_of("figures")["applied_total"].as_u64();
            applied
                .filter(|applied| *applied > 300)
                .ok_or("nothing yet")
        });
        sink.kill();
        kills += 1;
        position += moved;
        if kills >= 5 || position >= 2 * count {
            break;
        }
    }
    start(&sink);
    wait_until("every row to be moved", 4 * TIMEOUT, || {
        let rows = answer(&sink, &[])?;
        let mut accounts = rows.iter().filter_map(|row| row["account"].as_str());
        match accounts.find(|account| account.starts_with('a')) {
            None => Ok(()),
            Some(account) => Err(format!("{account} still has rows")),
        }
    });
    wait_for_totals(&sink, (count, cents));
}

#[test]
fn a_lost_store_is_restored_from_the_changelog_also_when_that_is_killed() {
    let mut source = Source::new("figures_lost");
    source.track("orders", &COLUMNS, &["id"]);
    let counted = load(&mut source, 0, 40_000, 50);
    let (place, toml) = (folder("lost"), BY_DAY);
    let sink = companion_sink(&source, &place, toml);
    start(&sink);
    wait_for_totals(&sink, counted);
    sink.stop();
    // Where no instance runs, the store itself answers.
    assert_eq!(totals(&sink), Ok(counted));
    std::fs::remove_dir_all(&place).expect("the store");
    std::fs::remove_file(sink.log_file()).expect("the log");
    start(&sink);
    sink.wait_for_log("restoring the figures");
    sink.kill();
    std::fs::remove_file(sink.log_file()).expect("the log");
    start(&sink);
    wait_for_totals(&sink, counted);
    let applied = sink.state_of("figures")["applied_total"].as_u64();
    assert_eq!(applied, Some(0), "nothing was read again");
    let late = create(&mut source, &order(1_000_000, 3, "late", "1.00"));
    source.send(&late);
    source.flush();
    wait_for_totals(&sink, (counted.0 + 1, counted.1 + 100));
}

#[test]
fn a_second_instance_stands_by_and_takes_over() {
    let mut source = Source::new("figures_second");
    source.track("orders", &COLUMNS, &["id"]);
    let first = companion_sink(&source, &folder("first"), BY_DAY);
    let second = companion_sink(&source, &folder("second"), BY_DAY);
    start(&first);
    let (count, cents) = load(&mut source, 0, 2000, 5);
    wait_for_totals(&first, (count, cents));
    start(&second);
    let state_is = |sink: &pg_cdc_tests::companion_sink::CompanionSink, wanted: &str| {
        let status = sink.state_of("figures");
        if status["state"] == wanted {
            Ok(())
        } else {
            Err(status.to_string())
        }
    };
    wait_until("the second to stand by", TIMEOUT, || {
        state_is(&second, "standby")
    });
    // It has what the first has counted.
    wait_for_totals(&second, (count, cents));
    state_is(&first, "running").expect("the first goes on");
    first.kill();
    let (more, more_cents) = load(&mut source, 10_000, 500, 5);
    let both = (count + more, cents + more_cents);
    wait_for_totals(&second, both);
    state_is(&second, "running").expect("the second counts");
    start(&first);
    wait_until("the first to stand by", TIMEOUT, || {
        state_is(&first, "standby")
    });
    wait_for_totals(&first, both);
    let changelog = format!("companion_{}.figures.changelog", source.name);
    let partitions = topic::offsets(bed().kafka(), &changelog).expect("the changelog");
    assert_eq!(partitions.len(), 1);
}
