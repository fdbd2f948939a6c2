//! A table whose topic has everything that a row can go through.

use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed};
use postgres::Client;

/// How long a reader may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// Rows that a snapshot sends, and rows that are inserted, changed, deleted and given another key later.
const STATEMENTS: &[&str] = &[
    "CREATE TABLE reading (
        id int PRIMARY KEY, day date, clock time(3), at timestamp, seen timestamptz, price numeric(12,3),
        note text, raw bytea, is_ok boolean, ratio double precision)",
    "INSERT INTO reading VALUES
        (1, '1990-01-05', '10:11:12', '2026-11-27 16:40:00.5', '2026-11-27 16:40:00.5+02', 1.5, 'Zürich \"x\" \\', '\\x00ff10', true, 0.1),
        (2, '0001-01-01', '00:00:00', '1969-12-31 23:59:59.999999', '1969-12-31 23:59:59+00', -999999999.999, '', '\\x', false, -2.5),
        (3, '9999-12-31', '23:59:59.999', '2000-02-29 00:00:00', '2000-02-29 00:00:00.000001+00', 0, NULL, NULL, NULL, NULL),
        (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    "SELECT cdc_track('reading', snapshot => true)",
    "INSERT INTO reading SELECT i, date '2026-01-01' + i, '12:00:00', '2026-01-01', '2026-01-01 00:00:00+00', i, 'row ' || i,
        convert_to('row', 'UTF8'), true, 1.25 FROM generate_series(10, 29) i",
    "UPDATE reading SET note = note || '!', price = price + 0.125, day = day + 1 WHERE id BETWEEN 10 AND 15",
    "UPDATE reading SET day = NULL, at = NULL, seen = NULL, price = NULL, raw = NULL WHERE id = 12",
    "UPDATE reading SET id = id + 100 WHERE id IN (2, 16, 17)",
    "DELETE FROM reading WHERE id IN (18, 19, 116)",
    "BEGIN; INSERT INTO reading (id) VALUES (50); UPDATE reading SET note = 'in one transaction' WHERE id = 50; \
     DELETE FROM reading WHERE id = 20; INSERT INTO reading (id, note) VALUES (20, 'again'); COMMIT",
    "BEGIN; INSERT INTO reading (id) VALUES (60); ROLLBACK",
    "UPDATE reading SET note = 'changed after the snapshot' WHERE id = 1",
];

/// Makes the table `reading` in a new database, and sends it.
pub(crate) fn send<'a>(bed: &'a TestBed, name: &str) -> (Database<'a>, Client) {
    let database = bed.database(name);
    let mut client = database.source();
    for statement in STATEMENTS {
        run(&mut client, &[statement]);
        database.wait_until_snapshots_end();
    }
    database.wait_until_in_kafka();
    (database, client)
}

/// The table's rows by a query of one text column.
pub(crate) fn rows(client: &mut Client, query: &str) -> Vec<String> {
    let rows = client.query(query, &[]).expect(query);
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    rows
}
