//! Snapshots that tracking a table asks for, and changes of tables that are tracked.

use pg_cdc_tests::TestBed;
use pg_cdc_tests::statements::run;
use serde_json::json;

use super::progress::wait_for_state;
use super::reader::{TABLE, assert_reader_has_the_table, fold};

#[test]
fn tracking_with_a_snapshot_and_rewritten_and_attached_rows() {
    let bed = TestBed::start();
    let database = bed.database("repaired");
    let mut client = database.source();
    run(
        &mut client,
        &[
            TABLE,
            "INSERT INTO t SELECT n, n, 'old' FROM generate_series(1, 3000) AS n",
            "SELECT cdc_track('t', snapshot => true)",
        ],
    );
    wait_for_state(&mut client, 1, "done");
    assert_reader_has_the_table(&database, "t");
    run(
        &mut client,
        &["ALTER TABLE t ALTER n TYPE numeric USING n * 2, ADD added text DEFAULT 'x'"],
    );
    wait_for_state(&mut client, 2, "done");
    let records = database.records("t");
    let newest = fold(&records);
    assert_eq!(
        newest["{\"id\":7}"],
        json!({"id": 7, "n": "14", "note": "old", "added": "x"})
    );
    assert_eq!(newest.len(), 3000);

    run(
        &mut client,
        &[
            "CREATE TABLE p (id int, part text, PRIMARY KEY (part, id)) PARTITION BY LIST (part)",
            "CREATE TABLE p_a PARTITION OF p FOR VALUES IN ('a')",
            "CREATE TABLE p_b (id int, part text, PRIMARY KEY (part, id))",
            "INSERT INTO p SELECT n, 'a' FROM generate_series(1, 500) AS n",
            "INSERT INTO p_b SELECT n, 'b' FROM generate_series(1, 500) AS n",
            "SELECT cdc_track('p', snapshot => true)",
            "ALTER TABLE p ATTACH PARTITION p_b FOR VALUES IN ('b')",
        ],
    );
    // Rows that come with a partition are events; what was there is not read again for them.
    wait_for_state(&mut client, 3, "done");
    let jobs = client
        .query_one("SELECT count(*) FROM cdc_snapshots", &[])
        .expect("the view");
    assert_eq!(jobs.get::<_, i64>(0), 3);
    // Changes that come while a snapshot has not begun need no other one.
    run(
        &mut client,
        &["SELECT cdc_snapshot('p', rows_per_second => 1)"],
    );
    wait_for_state(&mut client, 4, "running");
    run(
        &mut client,
        &[
            "ALTER TABLE t ALTER n TYPE text",
            "ALTER TABLE t ALTER n TYPE bytea USING n::bytea",
            "ALTER TABLE t ADD more int DEFAULT 1",
            "SELECT cdc_snapshot_cancel(4)",
        ],
    );
    wait_for_state(&mut client, 5, "done");
    let jobs = client
        .query_one("SELECT count(*) FROM cdc_snapshots", &[])
        .expect("the view");
    assert_eq!(jobs.get::<_, i64>(0), 5);
    assert_eq!(fold(&database.records("t"))["{\"id\":7}"]["more"], 1);
    let rows = fold(&database.records("p"));
    assert_eq!(rows.len(), 1000);
    assert_eq!(
        rows["{\"part\":\"b\",\"id\":500}"],
        json!({"id": 500, "part": "b"})
    );
}
