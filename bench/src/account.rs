//! The table and the statements that are measured: nine columns of the usual types.

use std::path::Path;

use pg_cdc_tests::{TestBed, c_library};
use postgres::Client;

/// Rows of the large statements in a run whose figures count.
pub(crate) const FULL_ROWS: i64 = 500_000;

/// Rows of the large statements: `$PG_CDC_BENCH_ROWS`, else [`FULL_ROWS`].
///
/// # Panics
/// When the variable is not a number.
pub(crate) fn rows() -> i64 {
    match std::env::var("PG_CDC_BENCH_ROWS") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("PG_CDC_BENCH_ROWS={text} is not a number")),
        Err(_) => FULL_ROWS,
    }
}

/// Makes the table `account` anew, without rows.
pub(crate) fn create(client: &mut Client) {
    run(
        client,
        "DROP TABLE IF EXISTS account;
         CREATE TABLE account (
             id bigint PRIMARY KEY, name text NOT NULL, email text, city text, balance numeric(12, 2),
             active boolean, born date, created timestamptz, note text)",
    );
}

/// The statement that fills it with `rows` rows.
pub(crate) fn insert(rows: i64) -> String {
    format!(
        "INSERT INTO account
         SELECT n, 'Customer ' || n, 'customer' || n || '@example.org', (ARRAY['Bern', 'Basel', 'Chur'])[1 + n % 3],
                n * 1.25, n % 2 = 0, date '1960-01-01' + (n % 15000)::int, now(), repeat('note ', 8)
         FROM generate_series(1, {rows}) AS n"
    )
}

/// The statement that changes every row.
pub(crate) const UPDATE: &str = "UPDATE account SET balance = balance + 1";

/// Leaves nothing to do in the background before the next measurement.
pub(crate) fn settle(client: &mut Client) {
    run(client, "VACUUM ANALYZE account");
    run(client, "CHECKPOINT");
}

/// Runs statements, as one transaction.
///
/// # Panics
/// When one fails.
pub(crate) fn run(client: &mut Client, statements: &str) {
    client
        .batch_execute(statements)
        .unwrap_or_else(|e| panic!("{statements}: {e:?}"));
}

/// Makes the function `empty_trigger()`, a trigger in C that does nothing.
pub(crate) fn make_empty_trigger(bed: &TestBed, client: &mut Client) {
    let library = bed.path("empty_trigger.so");
    c_library::compile(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/empty_trigger.c"),
        &library,
    );
    run(
        client,
        &format!(
            "CREATE FUNCTION empty_trigger() RETURNS trigger LANGUAGE c AS '{}'",
            library.display()
        ),
    );
}
