//! Flink SQL with its format `debezium-json`.

use pg_cdc_tests::parts::Part;
use pg_cdc_tests::{TestBed, process, reader};

use crate::reading;

const COLUMNS: &str = "id INT, `day` DATE, clock TIME, `at` TIMESTAMP(6), seen TIMESTAMP_LTZ(6), price DECIMAL(12, 3), \
    note STRING, `raw` BYTES, is_ok BOOLEAN, ratio DOUBLE";
/// Beside the format's defaults, with which an error is an error: what timestamps look like.
const OPTIONS: &str = ", 'debezium-json.timestamp-format.standard' = 'ISO-8601'";
/// The rows as the reader prints them; Flink reads a time of day to the second.
const ROWS: &str = "SELECT array_to_string(ARRAY[id::text, to_char(day, 'YYYY-MM-DD'), to_char(clock, 'HH24:MI:SS'),
    to_char(at, 'YYYY-MM-DD HH24:MI:SS.US'), to_char(seen AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), price::text, note,
    encode(raw, 'hex'), is_ok::text, ratio::text], '|', 'NULL') FROM reading";

#[test]
fn a_table_of_flink_has_the_rows() {
    let (database, mut source) = reading::send(TestBed::shared(), "flink");
    let brokers = database.bed().kafka().brokers();
    let topic = database.topic("reading");
    let flink = reader::java(
        Part::Flink,
        "FlinkTable",
        &[&brokers, &topic, COLUMNS, OPTIONS],
    );
    let printed = process::run(flink, None);
    let mut found: Vec<&str> = printed.lines().collect();
    found.sort_unstable();
    assert_eq!(found, reading::rows(&mut source, ROWS));
}
