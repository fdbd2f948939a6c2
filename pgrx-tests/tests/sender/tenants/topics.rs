//! Topics that an owner may not choose.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, refusal, topic};
use postgres::{Client, NoTls};

use super::owners::{owner, rows};

#[test]
fn topics_are_refused_where_they_are_chosen() {
    let bed = TestBed::start();
    let other = bed.database("other");
    let shop = bed.database("shop");
    run(
        &mut other.source(),
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t', topic => 'shop_ann.other')",
            "INSERT INTO t VALUES (1)",
        ],
    );
    other.wait_until_in_kafka();
    // What the sender knows outlives the server.
    bed.source().restart();
    bed.wait_until_streaming("shop");
    let mut ann = owner(&shop, "ann");
    topics_that_others_have_are_refused(&mut ann);
    let mut client = shop.source();
    reserved_names_are_refused(&mut client);
    emitting_ends_at_the_prefix(&mut client, &mut ann);
    events_that_are_too_long_are_refused(&mut ann);
    no_owner_makes_topics_without_end(&shop, &mut client, ann);
    bed.source().assert_never_crashed();
}

fn topics_that_others_have_are_refused(ann: &mut Client) {
    run(
        ann,
        &[
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t', topic => 'shop.x.y')",
        ],
    );
    for (choice, code) in [
        (
            "topics => '{\"insert\": \"shop.a.b\", \"update\": \"shop.a_b\"}'",
            "CDC0109",
        ),
        // The table had the other one before, another database has it.
        ("topic => 'shop.x_y'", "CDC0109"),
        ("topic => 'shop.ann_other'", "CDC0109"),
    ] {
        refusal::coded(
            ann,
            &format!("SELECT cdc_track('t', {choice})"),
            "42710",
            code,
        );
    }
}

fn reserved_names_are_refused(client: &mut Client) {
    run(client, &["CREATE TABLE mine (id int PRIMARY KEY)"]);
    for name in ["__consumer_offsets", "shop.x.dlq", "pg.cdc_positions"] {
        let track = format!("SELECT cdc_track('mine', topic => '{name}')");
        refusal::coded(client, &track, "42602", "CDC0108");
        let emit = format!("SELECT cdc_emit('{name}', NULL, '1')");
        refusal::coded(client, &emit, "42602", "CDC0108");
    }
}

/// Emitting is a right that ends at the database's prefix, and at that of a database below it.
fn emitting_ends_at_the_prefix(client: &mut Client, ann: &mut Client) {
    run(
        client,
        &[
            "GRANT EXECUTE ON FUNCTION cdc_emit TO ann",
            "CREATE DATABASE below",
            "ALTER DATABASE below SET cdc.topic_prefix = 'shop.below'",
            "SELECT cdc_emit('elsewhere', NULL, '1')",
        ],
    );
    for name in ["other.public.t", "elsewhere", "shop.below.public.t"] {
        let emit = format!("SELECT cdc_emit('{name}', NULL, '1')");
        refusal::coded(ann, &emit, "42501", "CDC0102");
        let track = format!("SELECT cdc_track('t', topic => '{name}')");
        refusal::coded(ann, &track, "42501", "CDC0102");
    }
    run(ann, &["SELECT cdc_emit('shop.events', NULL, '1')"]);
}

fn events_that_are_too_long_are_refused(ann: &mut Client) {
    for (what, emission) in [
        ("key", "repeat('k', 100000), '1'"),
        ("payload", "NULL, to_jsonb(repeat('p', 70000000))"),
        (
            "headers",
            "NULL, '1', jsonb_build_object('h', repeat('h', 100000))",
        ),
    ] {
        let emit = format!("SELECT cdc_emit('shop.events', {emission})");
        let error = refusal::coded(ann, &emit, "54000", "CDC0127");
        assert!(error.message().contains(what), "{error:?}");
    }
}

/// Kafka gets no more topics by one owner than were thought of.
fn no_owner_makes_topics_without_end(shop: &Database<'_>, client: &mut Client, ann: Client) {
    let bed = shop.bed();
    run(client, &["ALTER DATABASE shop SET cdc.max_topics = 10"]);
    let mut ann = {
        drop(ann);
        let url = format!("postgres://ann@127.0.0.1:{}/shop", bed.source().port());
        Client::connect(&url, NoTls).expect("the owner connects")
    };
    let many = "DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM cdc_track('ann.t', topic => 'shop.many' || i); END LOOP; END $$";
    refusal::coded(&mut ann, many, "53400", "CDC0126");
    for place in 1..20 {
        let track = format!("SELECT cdc_track('ann.t', topic => 'shop.many{place}')");
        if ann.batch_execute(&track).is_err() {
            refusal::coded(&mut ann, &track, "53400", "CDC0126");
        }
    }
    shop.wait_until_in_kafka();
    let made = topic::names(bed.kafka());
    let made = made.iter().filter(|name| name.starts_with("shop."));
    assert!(made.count() <= 10);
    run(&mut ann, &["INSERT INTO t VALUES (1)"]);
    run(
        client,
        &["SELECT cdc_track('mine'); INSERT INTO mine VALUES (1)"],
    );
    assert_eq!(rows(shop, "shop.public.mine").len(), 1);
}
