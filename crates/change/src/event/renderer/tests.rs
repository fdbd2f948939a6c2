use super::*;
use crate::event::row_key::put_digest;
use crate::value::kind::Kind;
use crate::wal::body::{Head, put_head};
use crate::wal::context::Context;
use crate::wal::context::put_context;
use crate::wal::image::{Bitmaps, begin_image};
use crate::wal::record::{RecordState, begin_row, end_record, mark_key_changed, switch_context};
use crate::wal::relation::Column;
use crate::wire::put_varint;
use sha2::{Digest, Sha256};

const COMMIT: Commit = Commit {
    nonce: [1; 16],
    xid8: 9,
    database_oid: 5,
    generation: 1,
    timeline: 1,
    lsn: 100,
    previous_lsn: None,
    commit_us: 1,
    event_count: 7,
};

fn relation<'a>(topic: &'a str, kind: Kind) -> Relation<'a> {
    Relation {
        oid: topic.len() as u32,
        schema: "s",
        table: "t",
        topic,
        topics: [None; 4],
        columns: vec![Column {
            name: "c",
            kind,
            masked: None,
        }],
        key: vec![0],
        identity: None,
        tombstones: true,
    }
}

/// A body with these relations, and of each row its operation, relation and image.
fn body(relations: &[Relation<'_>], rows: &[(RecordKind, usize, &[u8])]) -> Vec<u8> {
    let (mut contexts, mut blobs) = (Vec::new(), Vec::new());
    put_context(&mut contexts, &Context::default());
    for relation in relations {
        relation.put(&mut blobs);
    }
    let mut bytes = Vec::new();
    put_head(
        &mut bytes,
        &Head {
            database: "d",
            prefix: "d",
            base: RecordState::START,
            contexts: (1, &contexts),
            relations: (relations.len() as u32, &blobs),
        },
    );
    let mut state = RecordState::START;
    switch_context(&mut bytes, &mut state, 0);
    for (place, (op, relation, image)) in rows.iter().enumerate() {
        let sequence = place as u64 + 1;
        let start = begin_row(&mut bytes, &mut state, *op, *relation as u32, sequence, 1);
        if *op == RecordKind::Update {
            mark_key_changed(&mut bytes, start);
        }
        bytes.extend_from_slice(image);
        end_record(&mut bytes, start);
    }
    bytes
}

/// Sequence, topic, what is to be done, and the key.
type Seen = (u64, String, Stage, Vec<u8>);

fn render(bytes: &[u8], withheld: &str) -> (Result<(), WireError>, Vec<Seen>) {
    let mut renderer = Renderer::new(COMMIT, 1000, Controls::default());
    let circumstances = RenderOptions {
        sent_us: 1,
        tombstones: false,
        truncates: false,
        session: 1,
        is_snapshot: &|_| false,
        is_withheld: &|topic| topic == withheld,
    };
    let mut events = Vec::new();
    let body = Body::parse(bytes).unwrap();
    let done = renderer.render::<WireError>(&body, &circumstances, &mut |event| {
        let value = event.value.unwrap_or_default().to_vec();
        let key = event.key.unwrap_or_default();
        let shown = if value.is_empty() {
            value
        } else {
            key.to_vec()
        };
        events.push((event.sequence, event.topic.to_owned(), event.stage, shown));
        Ok(match event.stage {
            Stage::Asked => Sent::Room {
                limit_bytes: usize::MAX,
                stubs: true,
            },
            _ => Sent::Taken,
        })
    });
    (done, events)
}

#[test]
fn what_is_given_up_is_not_decoded() {
    let good = {
        let mut image = Vec::new();
        begin_image(&mut image, 1, Bitmaps::default());
        image.extend_from_slice(&7i32.to_le_bytes());
        image
    };
    let mut relations = [relation("bad", Kind::Int4), relation("good", Kind::Int4)];
    relations[0].columns[0].name = "broken";
    let mut bytes = body(
        &relations,
        &[
            (RecordKind::Insert, 0, b"\xff"),
            (RecordKind::Insert, 1, &good),
            (RecordKind::Update, 0, b"\xff"),
            (RecordKind::Schema, 0, b"\xff"),
            (RecordKind::Emit, 0, b"\xff"),
            (RecordKind::Insert, 1, &good),
        ],
    );
    // The names of its columns are no text any more.
    let place = bytes.windows(6).position(|part| part == b"broken").unwrap();
    bytes[place] = 0xff;
    assert!(render(&bytes, "").0.is_err(), "it is poison");
    let (done, events) = render(&bytes, "bad");
    assert_eq!(done, Ok(()));
    let bad = |sequence| (sequence, "bad".to_owned(), Stage::PassedOver, Vec::new());
    let good = |sequence| {
        let key = b"{\"c\":7}".to_vec();
        (sequence, "good".to_owned(), Stage::Sent, key)
    };
    assert_eq!(
        events,
        [bad(1), good(2), bad(3), bad(4), bad(5), bad(6), good(7)]
    );
}

#[test]
fn a_key_that_becomes_many_times_as_long_has_its_digest() {
    let attributes = (0..1000).map(|number| (format!("{number:0>60}"), Kind::Bool));
    let kind = Kind::Array(Box::new(Kind::Composite(attributes.collect())));
    // Elements of NULLs alone: 125 bytes become 67 kB.
    let mut image = Vec::new();
    begin_image(&mut image, 1, Bitmaps::default());
    let mut array = vec![crate::value::kind::ARRAY_ITEMS, 1];
    put_varint(&mut array, 400);
    array.resize(array.len() + 50, 0);
    for _ in 0..400 {
        put_varint(&mut array, 125);
        array.resize(array.len() + 125, 0xff);
    }
    put_varint(&mut image, array.len() as u64);
    image.extend_from_slice(&array);
    let bytes = body(
        &[relation("wide", kind)],
        &[(RecordKind::Insert, 0, &image)],
    );
    let (done, events) = render(&bytes, "");
    assert_eq!(done, Ok(()));
    let mut expected = b"{\"c\":".to_vec();
    put_digest(&mut expected, &Sha256::digest(&array));
    expected.push(b'}');
    let (.., key) = events.last().unwrap();
    assert_eq!(*key, expected);
}

/// Topic, where it goes and the version in that, the header of the newest control event, and the key.
fn sent_with_controls(bytes: &[u8], truncates: bool) -> Vec<(String, String, String, String)> {
    let known = [("t".to_owned(), "before".to_owned())];
    let mut renderer = Renderer::new(COMMIT, 1000, Controls::new(known.into()));
    let circumstances = RenderOptions {
        sent_us: 1,
        tombstones: true,
        truncates,
        session: 1,
        is_snapshot: &|_| false,
        is_withheld: &|_| false,
    };
    let mut events = Vec::new();
    let body = Body::parse(bytes).unwrap();
    let done = renderer.render::<WireError>(&body, &circumstances, &mut |event| {
        let header = |name: HeaderName| {
            let mut headers = event.headers.iter();
            let found = headers.find(|(known, _)| *known == name.c_str());
            found.map_or(String::new(), |(_, value)| {
                String::from_utf8(value.to_vec()).unwrap()
            })
        };
        let to = match event.destination {
            Destination::Topic => String::new(),
            Destination::Control(control) => {
                assert_eq!(header(HeaderName::TOPIC), event.topic);
                assert_eq!(header(HeaderName::VERSION), control.version);
                format!("{} {}", control.topic, &control.version[31..])
            }
        };
        let key = String::from_utf8(event.key.unwrap_or_default().to_vec()).unwrap();
        let control = header(HeaderName::CONTROL);
        let control = control.get(31..).unwrap_or(&control).to_owned();
        events.push((event.topic.to_owned(), to, control, key));
        Ok(Sent::Taken)
    });
    assert_eq!(done, Ok(()));
    events
}

#[test]
fn rows_name_the_newest_control_event_about_their_topic() {
    let row = {
        let mut image = Vec::new();
        begin_image(&mut image, 1, Bitmaps::default());
        image.extend_from_slice(&7i32.to_le_bytes());
        image
    };
    let mut table = relation("t", Kind::Int4);
    table.topics[2] = Some("deletes");
    let bytes = body(
        &[table],
        &[
            (RecordKind::Insert, 0, &row),
            (RecordKind::Delete, 0, &row),
            (RecordKind::Schema, 0, b"{\"type\":\"ALTER\"}"),
            (RecordKind::Insert, 0, &row),
            (RecordKind::Delete, 0, &row),
            (RecordKind::Truncate, 0, b""),
            (RecordKind::Insert, 0, &row),
            (RecordKind::Delete, 0, &row),
        ],
    );
    let key = "{\"c\":7}";
    let of = |topic: &str, to: &str, control: &str, key: &str| {
        (
            topic.to_owned(),
            to.to_owned(),
            control.to_owned(),
            key.to_owned(),
        )
    };
    let expected = |truncate: Option<(String, String, String, String)>| {
        let mut events = vec![
            of("t", "", "before", key),
            of("deletes", "", "", key),
            of(
                "t",
                "d.cdc-control 0000000003-00",
                "",
                "{\"topic\":\"t\",\"event\":\"schema\"}",
            ),
            of(
                "deletes",
                "d.cdc-control 0000000003-01",
                "",
                "{\"topic\":\"deletes\",\"event\":\"schema\"}",
            ),
            of("t", "", "0000000003-00", key),
            of("deletes", "", "0000000003-01", key),
            of(
                "t",
                "d.cdc-control 0000000006-00",
                "",
                "{\"topic\":\"t\",\"event\":\"truncate\"}",
            ),
        ];
        events.extend(truncate);
        events.push(of("t", "", "0000000006-00", key));
        events.push(of("deletes", "", "0000000003-01", key));
        events
    };
    assert_eq!(sent_with_controls(&bytes, false), expected(None));
    let truncate = of("t", "", "0000000003-00", "");
    assert_eq!(sent_with_controls(&bytes, true), expected(Some(truncate)));
}
