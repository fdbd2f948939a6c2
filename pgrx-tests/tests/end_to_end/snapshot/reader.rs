//! A reader of the topic, and the table that it must have in the end.

use std::collections::BTreeMap;

use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, prefix_rule};
use postgres::Client;
use serde_json::Value;

pub(super) const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, note text)";

/// What somebody has who applies the records of each partition in their order.
pub(super) fn fold(records: &[Record]) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for record in records {
        let key = record.key_text().to_owned();
        match record.op() {
            "c" | "u" | "r" => {
                rows.insert(key, record.json()["after"].clone());
            }
            "d" => {
                rows.remove(&key);
            }
            "t" => rows.clear(),
            _ => {}
        }
    }
    rows
}

/// The table itself, in the same form; `id` is its key.
pub(super) fn table(client: &mut Client, name: &str) -> BTreeMap<String, Value> {
    let query = format!("SELECT id::bigint, to_jsonb(t)::text FROM {name} t");
    let rows = client.query(&query, &[]).expect("the table");
    rows.iter()
        .map(|row| {
            let key = format!("{{\"id\":{}}}", row.get::<_, i64>(0));
            (key, serde_json::from_str(row.get(1)).expect("JSON"))
        })
        .collect()
}

pub(super) fn assert_reader_has_the_table(database: &Database<'_>, name: &str) -> Vec<Record> {
    let records = database.records(name);
    prefix_rule::assert_holds(&records);
    let (read, there) = (fold(&records), table(&mut database.source(), name));
    let differ: Vec<&String> = there
        .keys()
        .chain(read.keys())
        .filter(|key| there.get(*key) != read.get(*key))
        .collect();
    assert!(
        differ.is_empty(),
        "{} of {} rows differ, {:?}: {:?} at the reader, {:?} in the table",
        differ.len(),
        there.len(),
        differ[0],
        read.get(differ[0]),
        there.get(differ[0])
    );
    records
}

pub(super) fn ops(records: &[Record], op: &str) -> usize {
    records.iter().filter(|record| record.op() == op).count()
}
