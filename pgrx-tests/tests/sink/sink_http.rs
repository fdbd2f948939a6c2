//! What monitoring reads: the sender's figures beside those of the sinks, by one process.

use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, wait_until};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `/metrics` has all these lines.
fn wait_for_metrics(sink: &CompanionSink, lines: &[&str]) -> String {
    wait_until(&format!("metrics {lines:?}"), TIMEOUT, || {
        let text = sink.get("/metrics");
        let has_all = lines
            .iter()
            .all(|line| text.lines().any(|found| found == *line));
        has_all.then(|| text.clone()).ok_or(text)
    })
}

#[test]
fn the_sender_is_in_metrics_and_status_while_the_source_lives_and_when_it_does_not() {
    let bed = TestBed::start();
    let database = bed.database("watched");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE ROLE watcher LOGIN IN ROLE pg_monitor",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "INSERT INTO t SELECT generate_series(1, 10)",
            "SELECT cdc_wait()",
        ],
    );
    let url = bed.source().url("watched");
    let url = url.replace("//postgres@", "//watcher@");
    let mut plan = database.plan_companion_sink();
    plan.more_toml = format!("[source]\nurl = \"{url}\"\n");
    let sink = bed.companion_sink(plan);
    sink.start();

    let labels = "{table=\"t\",topic=\"watched.public.t\"}";
    let captured = format!("pg_cdc_table_captured{labels} 1");
    let text = wait_for_metrics(
        &sink,
        &[
            "pg_cdc_up 1",
            "pg_cdc_state{state=\"streaming\"} 1",
            "pg_cdc_brokers_up 1",
            "pg_cdc_lag_events 0",
            &captured,
        ],
    );
    let events: i64 = client
        .query_one("SELECT events FROM cdc_tables", &[])
        .expect("cdc_tables")
        .get(0);
    assert!(events >= 10);
    let events = format!("pg_cdc_table_events_total{labels} {events}");
    assert!(text.lines().any(|line| line == events), "{events}\n{text}");
    assert!(sink.run_command(&["check"]).contains("sender is streaming"));
    wait_for_status(&sink);

    run(&mut client, &["ALTER TABLE t DISABLE TRIGGER _cdc"]);
    wait_for_metrics(&sink, &[&captured.replace("} 1", "} 0")]);
    let status = sink.get("/v1/status");
    assert!(
        status.contains("CDC0203") && status.contains("\"lag_bytes\""),
        "{status}"
    );

    drop(client);
    bed.source().stop();
    let text = wait_for_metrics(&sink, &["pg_cdc_up 0"]);
    assert!(
        text.contains("companion_sink_state"),
        "the sinks go on\n{text}"
    );
    assert!(
        !text.contains("pg_cdc_state"),
        "nothing old is told\n{text}"
    );
    bed.source().start();
    bed.wait_until_streaming("watched");
    wait_for_metrics(&sink, &["pg_cdc_up 1"]);
}

/// Waits until `status` has the figures of the sender and of the replica. Not at a terminal it is an object for each instance.
fn wait_for_status(sink: &CompanionSink) {
    wait_until("the replica's figures", TIMEOUT, || {
        let status: Value =
            serde_json::from_str(&sink.run_command(&["status"])).expect("an object");
        assert_eq!(status["source"]["sender"]["state"], "streaming");
        let position = &status["position"];
        let age = position["age_seconds"].as_f64().unwrap_or(f64::MAX);
        if age > 60.0 || position["timeline"] != 1 {
            return Err(status.to_string());
        }
        let replica = &status["sinks"]["replica"];
        let applied = replica["applied_total"].as_u64() >= Some(10);
        (applied && replica["state"] == "running")
            .then_some(())
            .ok_or(status.to_string())
    });
}
