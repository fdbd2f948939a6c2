//! A snapshot that is under way while its table is replayed.

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, replica, wait_until};
use postgres::Client;

use super::command::{TIMEOUT, applied, arguments, changes, one, start};

fn wait_for_snapshot(source: &mut Client, id: i64, wanted: &str) {
    let state = format!("SELECT state FROM cdc_snapshots WHERE snapshot_id = {id}");
    wait_until(
        &format!("the snapshot to be {wanted}"),
        TIMEOUT,
        || match one::<String>(source, &state) {
            state if state == wanted => Ok(()),
            state => Err(state),
        },
    );
}

#[test]
fn a_snapshot_under_way_goes_on_across_a_replay() {
    let bed = TestBed::start_with(&[("cdc.snapshot_chunk_rows", "100")]);
    for consistency in ["transaction", "row"] {
        let database = bed.database(&format!("under_way_{consistency}"));
        let mut source = database.source();
        run(
            &mut source,
            &[
                "CREATE TABLE t (id int PRIMARY KEY, v text)",
                "INSERT INTO t SELECT n, 'before' FROM generate_series(1, 1000) AS n",
                "SELECT cdc_track('t')",
                "INSERT INTO t SELECT n, 'event' FROM generate_series(1001, 1100) AS n",
                "INSERT INTO t VALUES (-1, 'gone')",
                // Rows come and go without an event, before and behind the place of the snapshot.
                "SET session_replication_role = replica",
                "ALTER TABLE t DISABLE TRIGGER _cdc",
                "INSERT INTO t VALUES (0, 'unseen')",
                "DELETE FROM t WHERE id IN (-1, 1001, 1100)",
                "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
                "RESET session_replication_role",
            ],
        );
        let sink = start(&database, consistency);
        applied(&database, &sink, &["t"]);
        let snapshot = "SELECT cdc_snapshot('t', rows_per_second => 100)";
        let id: i64 = one(&mut source, snapshot);
        let mut copy = database.replica();
        wait_until("the first chunks in the replica", TIMEOUT, || {
            let count = one::<i64>(&mut copy, "SELECT count(*) FROM t WHERE v = 'before'");
            if count >= 200 {
                Ok(())
            } else {
                Err(count.to_string())
            }
        });
        run(&mut source, &[&format!("SELECT cdc_snapshot_pause({id})")]);
        wait_for_snapshot(&mut source, id, "paused");
        applied(&database, &sink, &["t"]);
        run(&mut copy, &["DELETE FROM t WHERE id <= 10"]);
        let printed = sink.run_command(&arguments("replica", "BEGINNING", "--yes"));
        assert_eq!(changes(&printed, "public.t"), [12, 0, 0], "{printed}");

        run(&mut source, &[&format!("SELECT cdc_snapshot_resume({id})")]);
        wait_for_snapshot(&mut source, id, "done");
        applied(&database, &sink, &["t"]);
        replica::assert_equal(&mut source, &mut copy, "public.t");
    }
}
