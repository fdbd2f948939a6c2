//! Instances that share the partitions: one, two, three and one again, and killed at any moment, while changes come.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::{port, wait_until};
use serde_json::Value;

use super::company::{Company, TIMEOUT};
use super::held::{change_config, decide};
use super::load::Load;
use crate::outcomes::Outcomes;

const KILLS: u64 = 12;

/// Looks at each outcome; at the end nothing is held any more.
pub(super) fn check(company: &Company<'_>, first: &CompanionSink, outcomes: &mut Outcomes<'_>) {
    outcomes.check(
        "offsets and lag are in sight: companion-sink status, /v1/status, the target",
        || sight(company, first),
    );
    let mut others = Vec::new();
    outcomes.check(
        "one, two, three instances and one again while changes come: equal",
        || {
            others.push(company.start_instance(port::free()));
            others.push(company.start_instance(port::free()));
            for other in &others {
                other.stop();
            }
            come_and_go(company, first, &others)
        },
    );
    outcomes.check(
        "instances killed (SIGKILL) at random moments under load: nothing is lost",
        || killed(company, &[first, &others[0], &others[1]]),
    );
    outcomes.check(
        "without rules, dlq retry --all: nothing is held, both sides are equal",
        || without_rules(company, first),
    );
}

/// How far the sink is, as its three places tell.
fn sight(company: &Company<'_>, sink: &CompanionSink) -> String {
    company.wait_until_applied();
    wait_until("no lag", TIMEOUT, || {
        let answer = sink.get("/v1/status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status: Value = serde_json::from_str(body).expect("JSON");
        let replica = &status["sinks"]["replica"];
        let right = replica["state"] == "running"
            && replica["apply_lag_events"] == 0
            && replica["partitions"] == 3
            && status["source"]["sender"]["state"] == "streaming"
            && status["position"]["lsn"].is_string();
        if right {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    let told = sink.run_command(&["status"]);
    assert!(told.contains("\"apply_lag_events\":0"), "{told}");
    let query = "SELECT string_agg(partition || ': ' || next_offset, ', ' ORDER BY partition) FROM companion.offsets
        WHERE sink = 'employees.replica' AND partition >= 0";
    let offsets = company.replica().query_one(query, &[]).expect(query);
    format!("next offsets {}", offsets.get::<_, &str>(0))
}

fn come_and_go(company: &Company<'_>, first: &CompanionSink, others: &[CompanionSink]) -> String {
    let [second, third] = others else {
        panic!("two others");
    };
    let load = Load::start(company);
    wait_for_shares(&[first], &[3]);
    second.start();
    wait_for_shares(&[first, second], &[1, 2]);
    third.start();
    let all = [first, second, third];
    wait_for_shares(&all, &[1, 1, 1]);
    for sink in all {
        let before = applied(sink);
        wait_until("each to apply some", TIMEOUT, || match applied(sink) {
            now if now > before => Ok(()),
            now => Err(now),
        });
    }
    third.stop();
    wait_for_shares(&[first, second], &[1, 2]);
    second.stop();
    wait_for_shares(&[first], &[3]);
    let changes = load.end();
    format!("{changes} changes; {}", company.assert_equal_but_held())
}

fn killed(company: &Company<'_>, all: &[&CompanionSink]) -> String {
    for sink in &all[1..] {
        sink.start();
    }
    let random = RandomState::new();
    let mut source = company.source();
    let load = Load::start(company);
    for kill in 0..KILLS {
        // Beside the small changes one that keeps them busy.
        let all_move = "UPDATE employees SET city = any_city()";
        source.execute(all_move, &[]).expect(all_move);
        let chance = random.hash_one(kill);
        // Nothing is waited for: any moment will do.
        thread::sleep(Duration::from_millis(chance % 500));
        // One of them, and now and then all.
        let victims = match kill % 4 {
            3 => all,
            _ => std::slice::from_ref(&all[(chance >> 32) as usize % all.len()]),
        };
        for victim in victims {
            victim.kill();
        }
        if victims.len() < all.len() {
            company.wait_for_progress();
        }
        for victim in victims {
            victim.start();
        }
    }
    let changes = load.end();
    let equal = company.assert_equal_but_held();
    for sink in &all[1..] {
        sink.stop();
    }
    format!("{KILLS} times, {changes} changes and {KILLS} of all rows; {equal}")
}

/// Takes the rules from the only instance: what was held comes, and both sides are equal.
pub(super) fn without_rules(company: &Company<'_>, sink: &CompanionSink) -> String {
    wait_for_shares(&[sink], &[3]);
    change_config(sink, |text| {
        let (without, _) = text.split_once("[[rule]]").expect("rules");
        without.to_owned()
    });
    wait_until("nothing to be held", TIMEOUT, || {
        let said = decide(sink, &["retry", "--all"]);
        match sink.objects(&["dlq", "list"]).len() {
            0 => Ok(()),
            _ => Err(said),
        }
    });
    format!("{} rows", company.assert_equal())
}

/// Waits until the instances have so many partitions, in any order.
fn wait_for_shares(sinks: &[&CompanionSink], expected: &[u64]) {
    wait_until("the partitions to be shared out", TIMEOUT, || {
        let shares = sinks
            .iter()
            .map(|sink| sink.state_of("replica")["partitions"].as_u64());
        let mut shares: Vec<Option<u64>> = shares.collect();
        shares.sort_unstable();
        match shares
            .iter()
            .copied()
            .eq(expected.iter().map(|share| Some(*share)))
        {
            true => Ok(()),
            false => Err(format!("{shares:?}")),
        }
    });
}

fn applied(sink: &CompanionSink) -> u64 {
    let status = sink.state_of("replica");
    status["applied_total"].as_u64().expect("a number")
}
