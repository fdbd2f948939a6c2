//! Events of the application's own: with their transaction or not at all, in order with the rows, with the same promises.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, TestBed, refusal};
use serde_json::json;

fn emitted(database: &Database<'_>, topic: &str) -> Vec<Record> {
    database.wait_until_in_kafka();
    let mut records = topic::read(database.bed().kafka(), topic);
    records.sort_by(|one, other| one.version().cmp(other.version()));
    records
}

#[test]
fn an_emitted_event_is_its_payload_with_who_and_why_as_headers() {
    let database = TestBed::shared().database("emitted");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "BEGIN",
            "SELECT cdc_context('ann', 'a sale', 'r-1', '{\"traceparent\": \"00-ab-cd-01\"}')",
        ],
    );
    let row = client.query_one(
        "SELECT cdc_emit(topic => 'product-sold', key => '42', payload => '{\"sku\": \"A1\", \"price\": 1.50, \"n\": 12345678901234567890}', headers => '{\"kind\": \"sale\", \"n\": 7}')",
        &[],
    );
    let id: String = row.expect("cdc_emit").get(0);
    run(&mut client, &["COMMIT"]);
    let records = emitted(&database, "product-sold");
    let [record] = records.as_slice() else {
        panic!("{records:?}")
    };
    assert_eq!(record.key_text(), "42");
    // As PostgreSQL writes its jsonb: no digit is lost.
    assert_eq!(
        record.value_text(),
        r#"{"n": 12345678901234567890, "sku": "A1", "price": 1.50}"#
    );
    assert_eq!(record.id(), id);
    for (name, value) in [
        ("cdc.op", "emit"),
        ("cdc.tx", "1/1"),
        ("cdc.actor", "ann"),
        ("cdc.reason", "a sale"),
        ("cdc.request_id", "r-1"),
        ("traceparent", "00-ab-cd-01"),
        ("kind", "sale"),
        ("n", "7"),
    ] {
        assert_eq!(record.header(name), Some(value), "{name}");
    }
}

#[test]
fn emitted_events_are_in_order_with_the_rows_and_die_with_what_is_rolled_back() {
    let database = TestBed::shared().database("emit_order");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "BEGIN",
            "SELECT cdc_emit('emit-order', 'a', '1')",
            "INSERT INTO t VALUES (1)",
            "SAVEPOINT s",
            "SELECT cdc_emit('emit-order', 'a', '2')",
            "ROLLBACK TO s",
            "SELECT cdc_emit('emit-order', 'a', '3')",
            "INSERT INTO t VALUES (2)",
            "SELECT cdc_emit('emit-order', NULL, NULL)",
            "COMMIT",
            "BEGIN; SELECT cdc_emit('emit-order', 'a', '4'); ROLLBACK",
            "DO $$ BEGIN PERFORM cdc_emit('emit-order', 'a', '5'); RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN NULL; END $$",
            "SELECT cdc_emit('emit-order', 'a', to_jsonb(n)) FROM generate_series(10, 12) AS n",
        ],
    );
    let events = emitted(&database, "emit-order");
    let values: Vec<&str> = events.iter().map(Record::value_text).collect();
    assert_eq!(values, ["1", "3", "", "10", "11", "12"]);
    assert_eq!(events[2].value, None, "no payload, no value");
    assert_eq!(events[2].key, None);
    let places: Vec<Option<&str>> = events[..3]
        .iter()
        .map(|event| event.header("cdc.tx"))
        .collect();
    assert_eq!(
        places,
        [Some("1/5"), Some("3/5"), Some("5/5")],
        "rows lie between them"
    );
    let rows = database.records("t");
    let places: Vec<Option<&str>> = {
        let mut rows: Vec<&Record> = rows.iter().filter(|r| r.is_row_change()).collect();
        rows.sort_by(|one, other| one.version().cmp(other.version()));
        rows.iter().map(|row| row.header("cdc.tx")).collect()
    };
    assert_eq!(places, [Some("2/5"), Some("4/5")]);
    let ids: std::collections::HashSet<&str> = events.iter().map(Record::id).collect();
    assert_eq!(ids.len(), events.len(), "each id once");
}

#[test]
fn emitting_is_granted_and_not_into_the_topic_of_a_table() {
    let database = TestBed::shared().database("emit_rights");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_emit('emit_rights.public.later', 'a', '{}')",
            "SELECT cdc_track('t')",
            "CREATE ROLE emitter; CREATE ROLE nobody_special",
            "GRANT EXECUTE ON FUNCTION cdc_emit TO emitter",
            "SET ROLE emitter",
            "SELECT cdc_emit('emit_rights.events', 'a', '{}')",
        ],
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_emit('emit_rights.public.t', 'a', '{}')",
        "42710",
        "CDC0106",
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_emit('not a topic', 'a', '{}')",
        "42602",
        "CDC0108",
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_emit('emit_rights.events', 'a', '{}', '{\"cdc.id\": \"x\"}')",
        "22023",
        "CDC0110",
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_emit('emit_rights.events', 'a', '{}', '[]')",
        "22023",
        "CDC0110",
    );
    // A table that is tracked later owns its topic from then on, also in a session that emitted into it before.
    run(
        &mut client,
        &[
            "RESET ROLE",
            "CREATE TABLE later (id int PRIMARY KEY); SELECT cdc_track('later')",
        ],
    );
    refusal::coded(
        &mut client,
        "SELECT cdc_emit('emit_rights.public.later', 'a', '{}')",
        "42710",
        "CDC0106",
    );
    run(&mut client, &["SET ROLE nobody_special"]);
    let error = refusal::of(
        &mut client,
        "SELECT cdc_emit('emit_rights.events', 'a', '{}')",
    );
    assert_eq!(error.code().code(), "42501");
    run(&mut client, &["RESET ROLE"]);
    assert_eq!(emitted(&database, "emit_rights.events").len(), 1);
    assert_eq!(
        emitted(&database, "emit_rights.events")[0].json(),
        json!({})
    );
}
