//! Whatever a record holds: it is an event or malformed, and never the end of the process.

use std::time::{Duration, Instant};

use change::version::Version;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::event::Headers;
use crate::event::Op;
use crate::event::RowBody;
use crate::event::commit_time_us;
use crate::event::image::Image;
use crate::event::is_for_others;
use crate::event::is_version;
use crate::event::json::Malformed;
use crate::event::pg_type::PgType;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::record::Record;
use crate::rejected::origin;
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::documents::document;
use crate::sink::mongo_history::documents::history_body::HistoryBody;
use crate::sink::postgres::schema::schema_event::SchemaBody;
use crate::sink::postgres::write::pg_text::to_text;

const BODY: &str = r#"{"id":"n-1","op":"u","ts_us":1,"source":{"db":"d","schema":"public","table":"t","ts_us":1,"txId":1,"lsn":2},
"transaction":{"id":"1:2","total_order":1,"event_count":1},"audit":{"actor":"ann","context":{"a.b":1}},
"marks":{"after":{"c":{"stub":{"bytes":1}}}},"before":{"id":1,"a":[1,null,[2]],"o":{"x":"y"}},"after":{"id":1,"a":"2026-01-01","b":"AQ=="},
"snapshot":{"id":1,"chunk":1,"event":"chunk_end","to":null,"changed":[{"id":1}]},
"databaseName":"d","schemaName":"public","type":"ALTER","contents_changed":true,"renames":{"a":"b"},"tableChanges":[{"table":{"primaryKeyColumnNames":["id"],
"columns":[{"name":"id","typeName":"int4","typeExpression":"integer","optional":false}]}}]}"#;

/// Cases of a round.
const ROUND: u32 = 2000;

/// Pieces that parsers stumble over.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"null".to_vec()),
        Just(b"{}".to_vec()),
        Just(b"[]".to_vec()),
        Just(b"\"\\u0000\"".to_vec()),
        Just(b"\"\\ud800\"".to_vec()),
        Just(b"-9223372036854775809".to_vec()),
        Just(b"1e999".to_vec()),
        Just(vec![0xff, 0xfe, 0]),
        Just(b"[".repeat(100_000)),
        Just("\u{202e}\u{0}".as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

/// A body with a few places overwritten, cut or doubled.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0usize..40, pieces());
    prop::collection::vec(change, 0..4).prop_map(|changes| {
        let mut body = BODY.as_bytes().to_vec();
        for (at, length, piece) in changes {
            let at = at.index(body.len() + 1);
            let end = (at + length).min(body.len());
            body.splice(at..end, piece);
        }
        body
    })
}

fn texts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"0001-00000001-00000000015a3098-0000000001-00".to_vec()),
        Just(b"ffff-ffffffff-ffffffffffffffff-9999999999-99".to_vec()),
        Just(b"d.public.t".to_vec()),
        Just(b"{\"id\":1}".to_vec()),
        Just(b"[\"replica\"]".to_vec()),
        prop::sample::select(vec!["c", "u", "d", "r", "t", "m", "schema", "snapshot"])
            .prop_map(|op| op.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..60),
        ".{0,40}".prop_map(String::into_bytes),
    ]
}

fn look_at(record: &Record) {
    let _ = (
        is_for_others(record, "replica"),
        commit_time_us(record),
        record.event_id(),
    );
    if let Ok(body) = RowBody::parse(record) {
        let _ = body.marks.as_ref().map(|marks| marks.stub().is_some());
        if let Ok(source) = body.source.table_name() {
            let header = origin::header_of(&source);
            assert!(origin::check(&header, &source).is_ok());
        }
        for (_, value) in body.after.iter().flat_map(|after| &after.0) {
            for of in [
                "integer",
                "bytea",
                "date",
                "timestamptz",
                "time",
                "hstore",
                "integer[]",
                "bit(3)",
                "text",
            ] {
                let _ = to_text(value, &PgType::of_name(of));
            }
        }
    }
    if let Ok(body) = SnapshotBody::parse(record) {
        let _ = (body.id(), body.is_beginning(), body.is_end());
        body.changed().for_each(|key| drop(Image::parse(key)));
    }
    if let Ok(body) = SchemaBody::parse(record) {
        let _ = (body.definition(), body.awaits_snapshot());
    }
    if let Ok(headers) = Headers::read(record) {
        assert!(Version::parse(headers.version).is_some());
        for op in [headers.op, Op::Update] {
            let made: Result<_, Malformed> = HistoryBody::parse(record, op).and_then(|body| {
                document::of_event(
                    &body,
                    record,
                    &headers,
                    "t:1",
                    "s",
                    None,
                    Names::WithoutDots,
                )
            });
            drop(made);
        }
    }
}

/// One round of cases; as many as fit into the seconds of `PG_CDC_FUZZ_SECONDS` where it is set, as `./dev fuzz` does.
fn rounds<S: Strategy>(strategy: &S, case: impl Fn(S::Value)) {
    let seconds =
        std::env::var("PG_CDC_FUZZ_SECONDS").map_or(0, |text| text.parse().expect("seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut cases = 0;
    loop {
        let result = TestRunner::new(ProptestConfig {
            cases: ROUND,
            failure_persistence: None,
            ..ProptestConfig::default()
        })
        .run(strategy, |value| {
            case(value);
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
        cases += ROUND;
        if Instant::now() >= end {
            break;
        }
    }
    println!("{cases} records");
}

#[test]
fn no_record_is_the_end() {
    let names = [
        "cdc.id",
        "cdc.version",
        "cdc.op",
        "cdc.table",
        "cdc.control",
        "cdc.topic",
        "cdc.identity",
        "cdc.sinks",
        "__debezium.oldkey",
    ];
    // Headers as they should be: what is behind them is reached.
    let good: [(&str, Option<&[u8]>); 4] = [
        ("cdc.id", Some(b"n-1")),
        (
            "cdc.version",
            Some(b"0001-00000001-00000000015a3098-0000000001-00"),
        ),
        ("cdc.op", Some(b"u")),
        ("cdc.table", Some(b"d.public.t")),
    ];
    let records = (
        prop::option::of(bodies()),
        prop::option::of(texts()),
        prop::collection::vec(prop::option::of(texts()), names.len()),
    );
    rounds(&records, |(body, key, values)| {
        let headers = names
            .iter()
            .copied()
            .zip(values.iter().map(|value| value.as_deref()));
        look_at(&Record::new(
            "t".into(),
            0,
            0,
            key.as_deref(),
            body.as_deref(),
            headers,
        ));
        look_at(&Record::new(
            "t".into(),
            0,
            0,
            key.as_deref(),
            body.as_deref(),
            good.into_iter(),
        ));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ROUND, ..ProptestConfig::default() })]

    #[test]
    fn what_is_a_version_is_the_only_spelling_of_it(text in "[0-9a-fA-F+ -]{0,50}|[0-9a-f]{4}-[0-9a-f]{8}-[0-9a-f]{16}-[0-9]{10}-[0-9]{2}") {
        if is_version(&text) {
            let version = Version::parse(&text).map(|version| version.to_string());
            prop_assert_eq!(version.as_deref(), Some(text.as_str()));
        }
    }

    #[test]
    fn shown_names_are_on_one_line(name in ".*") {
        let shown = origin::shown(&name);
        prop_assert!(!shown.chars().any(char::is_control));
    }
}
