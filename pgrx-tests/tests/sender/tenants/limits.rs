//! What an event may bring along.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, wait_until};
use postgres::Client;
use serde_json::{Value, json};

use super::owners::{TIMEOUT, owner, rows, wait_for};

#[test]
fn what_an_event_brings_along_is_limited_where_it_is_captured() {
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut ann = owner(&database, "ann");
    write_much_of_everything(&mut ann);
    rows_are_whole_and_what_is_said_of_them_is_bounded(&database);
    equal_keys_that_are_too_long_share_a_partition(&database);
    settings_that_are_too_long_are_left_out(&database, &mut ann);
    messages_that_are_none_cost_the_log_little(&database, &mut ann);
    bed.source().assert_never_crashed();
}

/// Long rows, a long context, a long definition, and a long key that is another one later.
fn write_much_of_everything(ann: &mut Client) {
    run(
        ann,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, body text)",
            "SELECT cdc_track('t')",
            "CREATE TABLE keyed (id int PRIMARY KEY, name text)",
            "SELECT cdc_track('keyed', key => '{name}')",
            // Nothing that compression could make small.
            "INSERT INTO t SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 160000) AS i",
            "UPDATE t SET id = 2",
            "BEGIN; SELECT cdc_context('ann', context => jsonb_build_object('x', repeat('a', 2000000))); INSERT INTO t VALUES (3); COMMIT",
            "INSERT INTO t VALUES (4)",
        ],
    );
    ann.batch_execute(&format!(
        "ALTER TABLE t ALTER body SET DEFAULT '{}'",
        "d".repeat(2_000_000)
    ))
    .expect("a long definition");
    run(
        ann,
        &[
            "ALTER TABLE t ADD d text",
            "INSERT INTO keyed SELECT 1, repeat(E'\\x01', 2000000)",
            "UPDATE keyed SET name = 'short'",
            "INSERT INTO keyed VALUES (2, 'two')",
        ],
    );
}

fn rows_are_whole_and_what_is_said_of_them_is_bounded(database: &Database<'_>) {
    let found = rows(database, "shop.ann.t");
    let lengths: Vec<usize> = found[..3]
        .iter()
        .map(|row| {
            let image = if row["op"] == "d" { "before" } else { "after" };
            row[image]["body"].as_str().map_or(0, str::len)
        })
        .collect();
    assert_eq!(lengths, [160_000 * 32; 3], "5 MB, whole, by default");
    let of = |id: u64| {
        found
            .iter()
            .find(|row| row["op"] == "c" && row["after"]["id"] == id)
    };
    assert_eq!(
        of(3).expect("row 3")["audit"]["context"],
        json!({"__cdc": {"left_out_bytes": 2_000_008}})
    );
    assert_eq!(of(3).expect("row 3")["audit"]["actor"], "ann");
    assert_eq!(of(4).expect("row 4")["audit"]["context"], json!({}));
    let definitions = database.events_of_topic("shop.ann.t");
    let texts: Vec<Value> = definitions
        .iter()
        .filter(|event| event.op() == "schema")
        .map(|event| event.json()["ddl"].clone())
        .collect();
    assert_eq!(
        texts[texts.len() - 2..],
        [Value::Null, json!("ALTER TABLE t ADD d text")]
    );
}

fn equal_keys_that_are_too_long_share_a_partition(database: &Database<'_>) {
    let keyed = rows(database, "shop.ann.keyed");
    assert_eq!(keyed.len(), 4, "a changed key is two events: {keyed:?}");
    let stub = &keyed[0]["marks"]["after"]["name"]["stub"];
    assert_eq!(stub["bytes"], 2_000_000);
    let keys: Vec<String> = database
        .events_of_topic("shop.ann.keyed")
        .iter()
        .filter(|event| event.is_row_change())
        .map(|event| event.key_text().to_owned())
        .collect();
    let digest = format!("{{\"name\":{}}}", stub["sha256"]);
    assert_eq!(
        keys[..2],
        [digest.clone(), digest],
        "equal values share a partition"
    );
}

/// Settings that an administrator has recorded are not the writer's to make large.
fn settings_that_are_too_long_are_left_out(database: &Database<'_>, ann: &mut Client) {
    let bed = database.bed();
    bed.source()
        .set("cdc.context_settings", "app.large, app.small");
    bed.source().reload();
    wait_for(ann, "SHOW cdc.context_settings", "app.large, app.small");
    run(
        ann,
        &[
            "SELECT set_config('app.large', repeat('l', 100000), false), set_config('app.small', 's', false)",
            "INSERT INTO t VALUES (5)",
        ],
    );
    let found = rows(database, "shop.ann.t");
    assert_eq!(
        found.last().expect("row 5")["audit"]["context"],
        json!({"app.large": {"left_out_bytes": 100_000}, "app.small": "s"})
    );
}

/// Messages that are none cost the log one line a second.
fn messages_that_are_none_cost_the_log_little(database: &Database<'_>, ann: &mut Client) {
    let bed = database.bed();
    let lines = |bed: &TestBed| bed.source().log().matches("CDC0205").count();
    run(
        ann,
        &[
            "SELECT count(pg_logical_emit_message(false, 'pg_cdc', '')) FROM generate_series(1, 20000)",
        ],
    );
    database.wait_until_in_kafka();
    let mut client = database.source();
    wait_for(
        &mut client,
        "SELECT rejected_messages::text FROM cdc_status()",
        "20000",
    );
    wait_until("the count in the log", TIMEOUT, || {
        let log = bed.source().log();
        let told: u64 = log
            .lines()
            .filter(|line| line.contains("ignored") && line.contains("forged or replayed"))
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let place = words.iter().position(|word| *word == "forged").unwrap_or(1);
                words[place - 1].parse().unwrap_or(1)
            })
            .sum();
        if told == 20_000 { Ok(()) } else { Err(told) }
    });
    assert!(lines(bed) < 60, "{} lines", lines(bed));
}
