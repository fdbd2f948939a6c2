//! Every partition has triggers of ours, as long as its table is tracked.

use pg_cdc_tests::postgres::Notices;
use pg_cdc_tests::refusal;
use pg_cdc_tests::statements::run;
use postgres::Client;

use super::{TABLE, database};

#[test]
fn untracking_leaves_no_trigger_on_any_partition() {
    let database = database("partitions_left");
    let mut client = database.source();
    run(&mut client, &[TABLE, "SELECT cdc_track('t')"]);
    let ours = |client: &mut Client| -> i64 {
        let count = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
        client.query_one(count, &[]).expect("triggers").get(0)
    };
    assert_eq!(
        ours(&mut client),
        10,
        "two for the root and each of four partitions"
    );
    run(
        &mut client,
        &["SELECT cdc_track('t', operations => 'insert')"],
    );
    assert_eq!(ours(&mut client), 5, "no TRUNCATE");
    run(
        &mut client,
        &[
            "SELECT cdc_track('t', operations => '')",
            "SELECT cdc_untrack('t')",
        ],
    );
    assert_eq!(ours(&mut client), 0);
}

/// What stops triggers, and the table that is named for it.
const STOPPED: [(&str, &str); 7] = [
    ("ALTER TABLE t_ch DISABLE TRIGGER USER", "public.t_ch"),
    (
        "ALTER TABLE t_eu_low DISABLE TRIGGER _cdc",
        "public.t_eu_low",
    ),
    (
        "ALTER TABLE t_eu_low DISABLE TRIGGER _cdc_truncate",
        "public.t_eu_low",
    ),
    ("ALTER TABLE t_ch ENABLE TRIGGER USER", "public.t_ch"),
    (
        "ALTER TABLE t_ch ENABLE REPLICA TRIGGER _cdc",
        "public.t_ch",
    ),
    ("DROP TRIGGER _cdc_truncate ON t_other", "public.t_other"),
    (
        "DO $$ BEGIN ALTER TABLE t DISABLE TRIGGER ALL; END $$",
        "public.t",
    ),
];

#[test]
fn what_stops_triggers_of_a_partition_is_said_and_healed() {
    let database = database("partition_triggers");
    let (mut client, heard) = database
        .bed()
        .source()
        .connect_with_notices(database.name());
    run(&mut client, &[TABLE, "SELECT cdc_track('t')"]);
    let states = |client: &mut Client| -> String {
        let query = "SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgname LIKE '\\_cdc%'";
        client.query_one(query, &[]).expect("triggers").get(0)
    };
    for (stop, part) in STOPPED {
        heard.lock().expect("the notices").clear();
        run(&mut client, &[stop]);
        let warnings = std::mem::take(&mut *heard.lock().expect("the notices"));
        let [warning] = warnings.as_slice() else {
            panic!("{stop}: {warnings:?}")
        };
        refusal::assert_coded(warning, "01000", "CDC0203");
        let name = part.trim_start_matches("public.");
        assert!(
            warning.message().contains(&format!("\"{name}\"")),
            "{warning:?}"
        );
        let (state, warning, checks) = told(&mut client);
        assert_eq!((state.as_str(), checks), ("trigger_disabled", 1), "{stop}");
        let warning = warning.expect("a warning");
        assert!(
            warning.starts_with("CDC0203: ") && warning.contains(part),
            "{warning}"
        );
        run(&mut client, &["SELECT cdc_track('t')"]);
        assert_eq!(states(&mut client), "A", "{stop}");
        assert_eq!(
            told(&mut client),
            ("capturing".to_owned(), None, 0),
            "{stop}"
        );
    }
    an_unlogged_partition_is_warned_of(&mut client, &heard);
}

/// State and warning of the table, and for how many parts of it triggers that do not fire are reported.
fn told(client: &mut Client) -> (String, Option<String>, i64) {
    let query = "SELECT state, warning, (SELECT count(*) FROM cdc_check() WHERE code = 'CDC0203') FROM cdc_tables";
    let row = client.query_one(query, &[]).expect("cdc_tables");
    (row.get(0), row.get(1), row.get(2))
}

/// One that is there is not made unlogged; a new one is, until it is logged.
fn an_unlogged_partition_is_warned_of(client: &mut Client, heard: &Notices) {
    refusal::coded(client, "ALTER TABLE t_ch SET UNLOGGED", "22023", "CDC0101");
    heard.lock().expect("the notices").clear();
    run(
        client,
        &["CREATE UNLOGGED TABLE t_at PARTITION OF t FOR VALUES IN ('AT')"],
    );
    let warnings = std::mem::take(&mut *heard.lock().expect("the notices"));
    let warning = warnings.iter().find(|one| one.code().code() == "01000");
    refusal::assert_coded(warning.expect("a warning"), "01000", "CDC0207");
    assert_eq!(told(client).0, "capturing");
    assert!(
        told(client)
            .1
            .is_some_and(|warning| warning.starts_with("CDC0207: "))
    );
    run(client, &["ALTER TABLE t_at SET LOGGED"]);
    assert_eq!(told(client).1, None);
}
