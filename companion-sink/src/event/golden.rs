//! The records in `crates/change/golden`, which the sender's tests write, are read as what they are.

use std::path::Path;

use change::version::Version;

use super::snapshot::SnapshotBody;
use super::{Headers, Op, RowBody, commit_time_us, is_for_others};
use crate::kafka::record::Record;
use crate::sink::postgres::schema::schema_event::SchemaBody;

/// A record of a file: topic, key and headers, one a line, and the value behind an empty one.
fn record(text: &str) -> Record {
    let (head, value) = match text.split_once("\n\n") {
        Some((head, value)) => (head, Some(value.trim_end_matches('\n'))),
        None => (text, None),
    };
    let lines = || head.lines().map(|line| line.split_once(": ").expect(line));
    let of = |wanted: &str| lines().find(|(name, _)| *name == wanted);
    let (_, topic) = of("topic").expect("a topic");
    let key = of("key").map(|(_, key)| key.as_bytes());
    let headers = lines().filter(|(name, _)| !matches!(*name, "topic" | "key"));
    let headers = headers.map(|(name, value)| (name, Some(value.as_bytes())));
    Record::new(topic.into(), 0, 0, key, value.map(str::as_bytes), headers)
}

#[test]
fn every_kind_of_record_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/change/golden");
    let mut seen = Vec::new();
    for file in folder.read_dir().expect("the folder") {
        let file = file.expect("a file").path();
        let record = record(&std::fs::read_to_string(&file).expect("a record"));
        let place = file.display();
        let headers = Headers::read(&record).unwrap_or_else(|e| panic!("{place}: {}", e.0));
        assert!(Version::parse(headers.version).is_some(), "{place}");
        seen.push(headers.op);
        if matches!(headers.op, Op::Emit | Op::Tombstone) {
            continue;
        }
        assert_eq!(headers.table, "shop.public.customer", "{place}");
        assert_eq!(
            commit_time_us(&record),
            Some(1_795_257_600_123_456),
            "{place}"
        );
        let body = RowBody::parse(&record).unwrap_or_else(|e| panic!("{place}: {}", e.0));
        let (has_before, has_after) = match headers.op {
            Op::Create | Op::Read => (false, true),
            Op::Update => (true, true),
            Op::Delete => (true, false),
            _ => (false, false),
        };
        assert_eq!(
            (body.before.is_some(), body.after.is_some()),
            (has_before, has_after),
            "{place}"
        );
        match headers.op {
            Op::Schema => {
                let body =
                    SchemaBody::parse(&record).unwrap_or_else(|e| panic!("{place}: {}", e.0));
                let definition = body.definition().expect("a definition");
                assert_eq!(definition.primary_key_column_names, ["id"]);
                assert_eq!(definition.columns.len(), 5);
            }
            Op::Snapshot => {
                let body =
                    SnapshotBody::parse(&record).unwrap_or_else(|e| panic!("{place}: {}", e.0));
                assert_eq!(body.id(), 7);
                assert!(is_for_others(&record, "history") && !is_for_others(&record, "replica"));
            }
            _ => {}
        }
    }
    for op in [
        Op::Create,
        Op::Update,
        Op::Delete,
        Op::Read,
        Op::Truncate,
        Op::Schema,
        Op::Snapshot,
        Op::Tombstone,
        Op::Emit,
    ] {
        assert!(seen.contains(&op), "{op:?}");
    }
}
