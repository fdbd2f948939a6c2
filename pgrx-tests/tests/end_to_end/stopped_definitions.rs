//! Definitions that the replica does not follow or cannot follow: what stops, what is said, and how it goes on.

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, wait_until};
use postgres::Client;
use serde_json::Value;

use super::follow::{TIMEOUT, applied, assert_follows, start};

#[test]
fn what_is_not_to_be_followed_halts_with_the_statements_to_run() {
    let database = TestBed::shared().database("follow_add");
    let mut source = database.source();
    run(
        &mut source,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
            "SELECT cdc_track('t')",
        ],
    );
    let sink = start(&database, "transaction", "follow_schema = \"add\"\n");
    run(
        &mut source,
        &[
            "ALTER TABLE t ADD COLUMN c int",
            "INSERT INTO t VALUES (1, 'a', 'b', 3)",
            "ALTER TABLE t DROP COLUMN b",
            "INSERT INTO t VALUES (2, 'a', 4)",
        ],
    );
    let state = wait_until("the replica to halt", TIMEOUT, || {
        let answer = sink.get("/v1/status");
        match answer.contains("CDC1011") {
            true => Ok(answer),
            false => Err(answer),
        }
    });
    let mut copy = database.replica();
    let statement = "ALTER TABLE \"public\".\"t\" DROP COLUMN \"b\"";
    assert!(state.replace("\\\"", "\"").contains(statement), "{state}");
    let rows = copy.query("SELECT c FROM t", &[]).expect("rows");
    assert_eq!(rows.len(), 1, "up to the change");
    copy.batch_execute(statement).expect("what the remedy says");
    assert!(sink.stop().expect("it ran").success());
    sink.start_only(&["replica"]);
    applied(&database, &sink, &database.topic("t"));
    assert_follows(&database, "t");
}

fn wait_until_stopped(sink: &CompanionSink, topic: &str, code: &str) -> Value {
    wait_until("the topic to stop", TIMEOUT, || {
        let state = sink.state_of("replica");
        match state["stopped_topics"][topic]["code"] == code {
            true => Ok(state),
            false => Err(state.to_string()),
        }
    })
}

#[test]
fn a_definition_that_cannot_be_followed_stops_its_table_alone() {
    let database = TestBed::shared().database("stopped");
    let mut source = database.source();
    run(
        &mut source,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, a text)",
            "CREATE TABLE other (id int PRIMARY KEY, a text)",
            "CREATE TABLE cast_away (id int PRIMARY KEY, a text)",
            "SELECT cdc_track('t'), cdc_track('other'), cdc_track('cast_away')",
            "INSERT INTO t VALUES (1, 'a')",
            "INSERT INTO cast_away VALUES (1, 'a')",
        ],
    );
    let sink = start(&database, "row", "stuck_after = \"1s\"\n");
    let [topic, other, cast_away] = ["t", "other", "cast_away"].map(|table| database.topic(table));
    for topic in [&topic, &cast_away] {
        applied(&database, &sink, topic);
    }
    run(
        &mut source,
        &[
            "CREATE TYPE mood AS ENUM ('glad')",
            "ALTER TABLE t ADD COLUMN m mood",
            "INSERT INTO t VALUES (2, 'b', 'glad')",
            "UPDATE t SET m = 'glad' WHERE id = 1",
            "INSERT INTO other VALUES (1, 'goes on')",
        ],
    );
    the_table_stops_and_no_other(&database, &sink, [&topic, &other]);
    it_goes_on_when_the_target_is_mended(&database, &sink, &topic);
    a_person_leaves_out_what_cannot_be_done(&database, &sink, &mut source, &cast_away);
}

fn the_table_stops_and_no_other(
    database: &Database<'_>,
    sink: &CompanionSink,
    [topic, other]: [&str; 2],
) {
    let state = wait_until_stopped(sink, topic, "CDC1011");
    assert_eq!(state["state"], "running", "{state}");
    let told = &state["stopped_topics"][topic];
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|text| text.contains("mood")),
        "{told}"
    );
    applied(database, sink, other);
    assert_follows(database, "other");
    wait_until("the sink to be stuck", TIMEOUT, || {
        let answer = sink.get("/readyz");
        match answer.contains("503")
            && sink.state_of("replica")["stuck_because"]
                .to_string()
                .contains(topic)
        {
            true => Ok(()),
            false => Err(answer),
        }
    });
    let metrics = sink.get("/metrics");
    assert!(
        metrics.contains("companion_sink_stopped_topics{sink=\"replica\"} 1"),
        "{metrics}"
    );
    let list = sink.run_command(&["--json", "dlq", "list"]);
    let listed: Vec<Value> = list
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(listed.len(), 1, "{list}");
    assert_eq!(listed[0]["state"], "stops its topic", "{list}");
    assert_eq!(listed[0]["code"], "CDC1011", "{list}");
}

/// Nobody has to say so. After a restart as well.
fn it_goes_on_when_the_target_is_mended(
    database: &Database<'_>,
    sink: &CompanionSink,
    topic: &str,
) {
    assert!(sink.stop().expect("it ran").success());
    sink.start_only(&["replica"]);
    wait_until_stopped(sink, topic, "CDC1011");
    let mut copy = database.replica();
    copy.batch_execute("CREATE TYPE mood AS ENUM ('glad')")
        .expect("the type");
    applied(database, sink, topic);
    assert_follows(database, "t");
    wait_until("nothing to be stopped", TIMEOUT, || {
        let state = sink.state_of("replica");
        let none = state["stopped_topics"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        match none && state["stuck"] == false {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    let left = sink.run_command(&["--json", "dlq", "list"]);
    assert_eq!(left.trim(), "", "nothing is left");
}

fn a_person_leaves_out_what_cannot_be_done(
    database: &Database<'_>,
    sink: &CompanionSink,
    source: &mut Client,
    cast_away: &str,
) {
    let mut copy = database.replica();
    copy.batch_execute("CREATE VIEW seen AS SELECT a FROM cast_away")
        .expect("a view that holds the column");
    run(
        source,
        &[
            "ALTER TABLE cast_away ALTER COLUMN a TYPE int USING 7",
            "INSERT INTO cast_away VALUES (2, 8)",
        ],
    );
    wait_until_stopped(sink, cast_away, "CDC1011");
    let list = sink.run_command(&["--json", "dlq", "list"]);
    let event: Value = serde_json::from_str(list.lines().next().expect("a line")).expect("JSON");
    let id = event["event"].as_str().expect("an id");
    let told = format!("{:?}", sink.try_command(&["dlq", "retry", id]));
    assert!(told.contains("refused again"), "{told}");
    sink.run_command(&["dlq", "skip", id, "--reason", "the column stays text here"]);
    applied(database, sink, cast_away);
    let row = copy.query_one("SELECT a FROM cast_away WHERE id = 2", &[]);
    assert_eq!(row.expect("the row").get::<_, String>(0), "8");
}
