//! What a DBA chooses in `cdc_track`: which rows and columns are shipped, in which form, and where to.

mod arguments;
mod filters;
mod masks;
mod rows_and_columns;
mod schemas;
mod topics;

use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed};
use serde_json::Value;

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Operation, before and after of every row change, in the order of their versions.
fn changes(records: &[Record]) -> Vec<(String, Value, Value)> {
    let mut rows: Vec<&Record> = records.iter().filter(|r| r.is_row_change()).collect();
    rows.sort_by(|one, other| one.version().cmp(other.version()));
    rows.into_iter()
        .map(|record| {
            let event = record.json();
            (
                record.op().to_owned(),
                event["before"].clone(),
                event["after"].clone(),
            )
        })
        .collect()
}

fn change(op: &str, before: Value, after: Value) -> (String, Value, Value) {
    (op.to_owned(), before, after)
}
