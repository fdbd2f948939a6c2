//! The prefix rule: in every partition the events at any offset are a prefix of what is owed to that partition; a
//! later copy has a version not above the highest seen there, and is a copy of something that was seen.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::topic::Record;

/// Checks the rule and returns the records without the later copies, by partition.
///
/// # Errors
/// The first record that breaks the rule, and what it breaks.
pub fn check(records: &[Record]) -> Result<BTreeMap<i32, Vec<&Record>>, String> {
    let mut seen: HashMap<(i32, &str), &Record> = HashMap::new();
    let mut first_copies: BTreeMap<i32, Vec<&Record>> = BTreeMap::new();
    for record in records {
        let version = record.version();
        let place = format!("partition {}, offset {}", record.partition, record.offset);
        if version.len() != "0001-00000001-00000000015a3098-0000000001-00".len() {
            return Err(format!(
                "{place}: version {version} has not the fixed width"
            ));
        }
        let kept = first_copies.entry(record.partition).or_default();
        match kept.last() {
            Some(highest) if version <= highest.version() => {
                let Some(original) = seen.get(&(record.partition, version)) else {
                    return Err(format!(
                        "{place}: version {version} is below {}, and was never seen: out of order",
                        highest.version()
                    ));
                };
                if original.id() != record.id()
                    || original.key != record.key
                    || original.op() != record.op()
                {
                    return Err(format!(
                        "{place}: version {version} has the id {}, at offset {} it had {}",
                        record.id(),
                        original.offset,
                        original.id()
                    ));
                }
            }
            _ => {
                seen.insert((record.partition, version), record);
                kept.push(record);
            }
        }
    }
    Ok(first_copies)
}

/// As [`check`], and returns the records without the later copies, over all partitions in the order of their versions.
///
/// # Panics
/// With what breaks the rule.
pub fn assert_holds(records: &[Record]) -> Vec<&Record> {
    let by_partition = check(records).unwrap_or_else(|e| panic!("the prefix rule is broken: {e}"));
    let mut all: Vec<&Record> = by_partition.into_values().flatten().collect();
    all.sort_by(|a, b| a.version().cmp(b.version()));
    all
}

/// The rows that events leave behind, by key: what a replica would hold. Each is compared with what was there before it.
///
/// # Panics
/// When a row is created twice, or is not what the event says it was.
pub fn fold<'a>(events: impl IntoIterator<Item = &'a Record>) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for event in events {
        let image = |name: &str| event.json()[name].clone();
        let key = event.key_text().to_owned();
        match event.op() {
            "c" => {
                let there = rows.insert(key, image("after"));
                assert_eq!(there, None, "created twice: {event:?}");
            }
            "u" => {
                let there = rows.insert(key, image("after"));
                assert_eq!(there, Some(image("before")), "before of {event:?}");
            }
            "d" => assert_eq!(
                rows.remove(&key),
                Some(image("before")),
                "before of {event:?}"
            ),
            "t" => rows.clear(),
            _ => {}
        }
    }
    rows
}

/// The ids of the rows that were inserted, in the order of their versions; each has a column `id`.
///
/// # Panics
/// As [`assert_holds`], and where an insert has no id.
pub fn inserted_ids(records: &[Record]) -> Vec<i64> {
    let events = assert_holds(records).into_iter();
    let inserts = events.filter(|event| event.op() == "c");
    inserts
        .map(|event| event.json()["after"]["id"].as_i64().expect("id"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64, lsn: u32, id: &str) -> Record {
        let version = format!("0001-00000001-{lsn:016x}-0000000001-00");
        Record {
            partition,
            offset,
            key: None,
            value: None,
            timestamp_ms: 0,
            headers: vec![
                ("cdc.version".into(), version.into()),
                ("cdc.id".into(), id.into()),
                ("cdc.op".into(), "u".into()),
            ],
        }
    }

    #[test]
    fn copies_are_dropped() {
        let records = [
            record(0, 0, 1, "a"),
            record(0, 1, 2, "b"),
            record(0, 2, 1, "a"),
            record(0, 3, 2, "b"),
            record(0, 4, 3, "c"),
        ];
        let kept: Vec<&str> = check(&records).expect("holds")[&0]
            .iter()
            .map(|r| r.id())
            .collect();
        assert_eq!(kept, ["a", "b", "c"]);
    }

    #[test]
    fn partitions_have_their_own_order() {
        let records = [record(0, 0, 5, "e"), record(1, 0, 1, "a")];
        let ids: Vec<&str> = assert_holds(&records).iter().map(|r| r.id()).collect();
        assert_eq!(ids, ["a", "e"]);
    }

    #[test]
    fn an_earlier_event_after_a_later_one_breaks_it() {
        let records = [
            record(0, 0, 1, "a"),
            record(0, 1, 3, "c"),
            record(0, 2, 2, "b"),
        ];
        assert!(
            check(&records)
                .expect_err("broken")
                .contains("out of order")
        );
    }

    #[test]
    fn one_version_for_two_events_breaks_it() {
        let records = [record(0, 0, 1, "a"), record(0, 1, 1, "x")];
        assert!(check(&records).expect_err("broken").contains("it had a"));
    }
}
