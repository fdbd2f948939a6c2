//! Snapshots of several owners.

use pg_cdc_tests::statements::{run, text};
use pg_cdc_tests::{TestBed, refusal};
use postgres::{Client, NoTls};

use super::owners::{owner, wait_for};

/// Who asks without end, and whose tables are being written without end, keeps nobody else waiting.
#[test]
fn snapshots_of_one_owner_keep_no_other_owner_and_no_other_database_waiting() {
    let bed = TestBed::start();
    let other = bed.database("other");
    let database = bed.database("shop");
    let mut client = database.source();
    let mut ann = owner(&database, "ann");
    let mut bob = owner(&database, "bob");
    let tables = [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t SELECT generate_series(1, 1000)",
        "SELECT cdc_track('t')",
    ];
    run(&mut ann, &tables);
    run(&mut bob, &tables);
    run(&mut other.source(), &tables);
    run(
        &mut ann,
        &[
            "CREATE TABLE busy (id int PRIMARY KEY)",
            "SELECT cdc_track('busy')",
        ],
    );
    // One that is never done, and one that waits for somebody who never ends.
    let mut writer = {
        let url = format!("postgres://ann@127.0.0.1:{}/shop", bed.source().port());
        Client::connect(&url, NoTls).expect("the owner connects")
    };
    run(&mut writer, &["BEGIN", "INSERT INTO busy VALUES (1)"]);
    let waiting = text(&mut ann, "SELECT cdc_snapshot('busy')::text").expect("an id");
    let ask = "SELECT cdc_snapshot('t', rows_per_second => 1)::text";
    let asked: Vec<String> = (0..10).filter_map(|_| text(&mut ann, ask)).collect();
    refusal::coded(&mut ann, ask, "53400", "CDC0508");
    refusal::coded(
        &mut ann,
        "SELECT cdc_track('t', snapshot => true)",
        "53400",
        "CDC0508",
    );
    let state = |id: &str| format!("SELECT state FROM cdc_snapshots WHERE snapshot_id = {id}");
    wait_for(&mut ann, &state(&waiting), "waiting_for_writers");
    let theirs = text(&mut bob, "SELECT cdc_snapshot('t')::text").expect("an id");
    let elsewhere = text(&mut other.source(), "SELECT cdc_snapshot('t')::text").expect("an id");
    wait_for(&mut bob, &state(&theirs), "done");
    wait_for(&mut other.source(), &state(&elsewhere), "done");
    // It has its turns as well, and is stopped though it waits.
    run(
        &mut ann,
        &[&format!("SELECT cdc_snapshot_cancel({waiting})")],
    );
    let moves = format!(
        "SELECT (rows_done > 0)::text FROM cdc_snapshots WHERE snapshot_id = {}",
        asked[0]
    );
    wait_for(&mut ann, &moves, "true");
    run(&mut writer, &["ROLLBACK"]);

    all_end_whoever_asked_for_them(&asked, &mut client, &mut ann);
    nothing_piles_up(&mut client, &mut bob);
    bed.source().assert_never_crashed();
}

/// A definition is never refused for it; an administrator is not bounded.
fn all_end_whoever_asked_for_them(asked: &[String], client: &mut Client, ann: &mut Client) {
    run(ann, &["ALTER TABLE t ALTER id TYPE bigint"]);
    run(client, &["SELECT cdc_snapshot('ann.t')"]);
    for id in asked {
        let still = format!(
            "SELECT count(*)::text FROM cdc_snapshots WHERE snapshot_id = {id} AND state IN ('waiting_for_writers', 'running')"
        );
        if text(ann, &still).as_deref() == Some("1") {
            run(ann, &[&format!("SELECT cdc_snapshot_cancel({id})")]);
        }
    }
    let unfinished = "SELECT count(*)::text FROM cdc_snapshots WHERE relation = 'ann.t'::regclass AND state IN ('waiting_for_writers', 'running')";
    wait_for(ann, unfinished, "0");
}

/// What is finished does not pile up, nor what is left of tables that are gone.
fn nothing_piles_up(client: &mut Client, bob: &mut Client) {
    for _ in 0..30 {
        run(
            bob,
            &[
                "CREATE TABLE gone (id int PRIMARY KEY)",
                "SELECT cdc_track('gone', snapshot => true)",
                "DROP TABLE gone",
                "DO $$ BEGIN PERFORM cdc_snapshot_cancel(cdc_snapshot('t')); END $$",
            ],
        );
    }
    let kept = "SELECT (count(*) < 20)::text FROM cdc_snapshot_jobs WHERE relation = 'bob.t'::regclass OR relation NOT IN (SELECT oid FROM pg_class)";
    assert_eq!(text(client, kept).as_deref(), Some("true"));
}
