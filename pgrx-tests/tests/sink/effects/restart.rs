//! Nothing is lost when an instance dies, whoever goes on; what is done twice has the same id.

use std::time::Duration;

use pg_cdc_tests::hand_made_events::{Event, bed};
use pg_cdc_tests::webhook_receiver::{Reply, WebhookReceiver};
use pg_cdc_tests::{port, topic, topic_admin, wait_until};

use super::{
    SINK, TIMEOUT, companion_sink, ids, insert, plan, row, source, wait_until_done,
    wait_until_nothing_waits, wait_until_waiting, webhook,
};

const EVENTS: u64 = 300;

#[test]
fn unfinished_effects_survive_kills_and_the_loss_of_their_topic() {
    let mut source = source("effects_killed");
    let receiver = WebhookReceiver::start();
    receiver.answer(|_| Reply::Status(503));
    let sink = companion_sink(&source, &webhook(&source, &receiver, ""));
    let events = insert(&mut source, 1..=EVENTS);
    sink.start_only(&[SINK]);
    wait_until_waiting(&sink, events.len());
    sink.kill();
    // The events' own topic has lost them by then.
    let ends = topic::offsets(bed().kafka(), &source.topic("t")).expect("the topic");
    for (partition, offsets) in ends {
        topic_admin::trim(bed().kafka(), &source.topic("t"), partition, offsets.end);
    }

    receiver.answer(|_| Reply::Late(200, Duration::from_millis(20)));
    for share in [3, 2] {
        sink.start_only(&[SINK]);
        wait_until("some requests", TIMEOUT, || {
            match receiver.done_ids().len() {
                done if done >= events.len() / share => Ok(()),
                done => Err(format!("{done}")),
            }
        });
        sink.kill();
    }
    sink.start_only(&[SINK]);
    let done = wait_until_done(&receiver, &events);
    wait_until_nothing_waits(&sink);
    assert_eq!(done.keys().cloned().collect::<Vec<_>>(), ids(&events));
    let twice = done.values().filter(|times| **times > 1).count();
    assert!(twice < events.len() / 2, "{twice} were had twice");
}

#[test]
fn a_second_instance_stands_by_and_takes_over() {
    let mut source = source("effects_taken_over");
    let receiver = WebhookReceiver::start();
    receiver.answer(|_| Reply::Status(503));
    let toml = webhook(&source, &receiver, "");
    let first = companion_sink(&source, &toml);
    let mut second = plan(&source, &toml);
    second.http_port = port::free();
    let second = bed().companion_sink(second);
    let events = insert(&mut source, 1..=50);
    first.start_only(&[SINK]);
    wait_until_waiting(&first, events.len());
    second.start_only(&[SINK]);
    wait_until("the second one to stand by", TIMEOUT, || {
        let state = second.state_of(SINK);
        let code = &state["last_error"]["code"];
        match state["state"] == "standby" && code == "CDC1009" {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    assert_eq!(first.state_of(SINK)["state"], "running");
    first.kill();
    receiver.answer(|_| Reply::Status(200));
    wait_until_done(&receiver, &events);
    let more = insert(&mut source, 51..=60);
    wait_until_done(&receiver, &more);
    wait_until_nothing_waits(&second);
    // The first one comes back, and stands by in its turn; then it has the sink again.
    first.start_only(&[SINK]);
    wait_until("the first one to stand by", TIMEOUT, || {
        let state = first.state_of(SINK);
        match state["state"] == "standby" {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    second.stop();
    let last = insert(&mut source, 61..=70);
    wait_until_done(&receiver, &last);
}

#[test]
fn what_is_under_way_comes_to_its_end_when_the_process_stops() {
    let mut source = source("effects_stopped");
    let receiver = WebhookReceiver::start();
    receiver.answer(|_| Reply::Late(200, Duration::from_millis(300)));
    let sink = companion_sink(&source, &webhook(&source, &receiver, ""));
    let events = insert(&mut source, 1..=40);
    for stops in 1..=3 {
        sink.start_only(&[SINK]);
        wait_until("some requests", TIMEOUT, || {
            match receiver.done_ids().len() {
                done if done >= stops * 8 => Ok(()),
                done => Err(format!("{done}")),
            }
        });
        let ended = sink.stop().expect("it ran");
        assert!(ended.success(), "{ended}");
    }
    sink.start_only(&[SINK]);
    let done = wait_until_done(&receiver, &events);
    assert!(done.values().all(|times| *times == 1), "{done:?}");
}

#[test]
fn a_first_start_begins_at_the_senders_position() {
    let mut source = source("effects_begin");
    let receiver = WebhookReceiver::start();
    insert(&mut source, 1..=3);
    // They are in Kafka, and no position says so yet.
    let not_covered: Vec<Event> = (4..=6).map(|id| row(&mut source, id)).collect();
    not_covered.iter().for_each(|event| source.send(event));
    source.flush_without_position();
    let toml = webhook(&source, &receiver, "").replace("\"beginning\"", "\"now\"");
    let sink = companion_sink(&source, &toml);
    sink.start_only(&[SINK]);
    wait_until_done(&receiver, &not_covered);
    // The sender sends them once more, as it does after a crash.
    not_covered.iter().for_each(|event| source.send(event));
    source.flush();
    let later = insert(&mut source, 7..=8);
    wait_until_done(&receiver, &later);
    wait_until_nothing_waits(&sink);
    let mut expected = ids(&[not_covered, later].concat());
    expected.sort();
    let mut done = receiver.done_ids();
    done.sort();
    assert_eq!(done, expected);
}
