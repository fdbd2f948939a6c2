//! The wire format: one record of each kind, as it stands in `crates/change/golden`. `PG_CDC_GOLDEN=write` writes them anew.

use std::fmt::Write;
use std::path::Path;

use super::*;
use crate::value::kind::Kind;
use crate::wal::body::{Head, put_head};
use crate::wal::context::{Context, put_context};
use crate::wal::image::{Bitmaps, begin_image};
use crate::wal::record::{
    RecordState, begin_row, end_record, mark_key_changed, switch_context, switch_statement,
};
use crate::wal::relation::Column;
use crate::wal::snapshot_chunk::Visibility;
use crate::wire::put_bytes;

const COMMIT: Commit = Commit {
    nonce: [0xab; 16],
    xid8: 745,
    database_oid: 16384,
    generation: 1,
    timeline: 1,
    lsn: 27_768_672,
    previous_lsn: Some(27_766_328),
    commit_us: 848_572_800_123_456,
    event_count: 0,
};

/// What happens to the table, in the order of the events; each with a name for what it is.
const CHANGES: [(&str, RecordKind); 7] = [
    ("definition", RecordKind::Schema),
    ("insert", RecordKind::Insert),
    ("update", RecordKind::Update),
    ("changed_key", RecordKind::Update),
    ("delete", RecordKind::Delete),
    ("truncate", RecordKind::Truncate),
    ("emit", RecordKind::Emit),
];
const CHUNK: [(&str, RecordKind); 3] = [
    ("chunk_begin", RecordKind::ChunkBegin),
    ("snapshot_row", RecordKind::Read),
    ("chunk_end", RecordKind::ChunkEnd),
];
const DEFINITION: &str = concat!(
    r#"{"type":"ALTER","ddl":"ALTER TABLE customer ADD at timestamp","contents_changed":false,"renames":{},"table_oid"#,
    r#"":16400,"tableChanges":[{"type":"ALTER","id":"\"shop\".\"public\".\"customer\"","table":{"primaryKeyColumnName"#,
    r#"s":["id"],"columns":[{"name":"id","position":1,"typeName":"int4","typeExpression":"integer","optional":false,""#,
    r#"generated":false,"defaultValueExpression":null},{"name":"name","position":2,"typeName":"text","typeExpression""#,
    r#":"text","optional":true,"generated":false,"defaultValueExpression":null},{"name":"born","position":3,"typeName"#,
    r#"":"date","typeExpression":"date","optional":true,"generated":false,"defaultValueExpression":null},{"name":"see"#,
    r#"n","position":4,"typeName":"timestamptz","typeExpression":"timestamp with time zone","optional":true,"generate"#,
    r#"d":false,"defaultValueExpression":null},{"name":"at","position":5,"typeName":"timestamp","typeExpression":"tim"#,
    r#"estamp without time zone","optional":true,"generated":false,"defaultValueExpression":null}]}}]}"#,
);

fn relation<'a>(topic: &'a str) -> Relation<'a> {
    let column = |name, kind| Column {
        name,
        kind,
        masked: None,
    };
    Relation {
        oid: 16400,
        schema: "public",
        table: "customer",
        topic,
        topics: [None; 4],
        columns: vec![
            column("id", Kind::Int4),
            column("name", Kind::Text),
            column("born", Kind::Date),
            column("seen", Kind::TimestampTz),
            column("at", Kind::Timestamp),
        ],
        key: vec![0],
        identity: None,
        tombstones: true,
    }
}

fn image(out: &mut Vec<u8>, id: i32, name: Option<&str>) {
    let nulls = Bitmaps {
        nulls: true,
        ..Bitmaps::default()
    };
    let marks = begin_image(out, 5, nulls);
    out.extend_from_slice(&id.to_le_bytes());
    match name {
        Some(name) => put_bytes(out, name.as_bytes()),
        None => marks.set_null(out, 1),
    }
    out.extend_from_slice(&(-3648i32).to_le_bytes());
    for _ in 0..2 {
        out.extend_from_slice(&848_572_800_500_000i64.to_le_bytes());
    }
}

/// The new image of an UPDATE: what has changed.
fn new_image(out: &mut Vec<u8>, id: Option<i32>, name: &str) {
    let changed = Bitmaps {
        changed: true,
        ..Bitmaps::default()
    };
    let marks = begin_image(out, 5, changed);
    if let Some(id) = id {
        marks.set_changed(out, 0);
        out.extend_from_slice(&id.to_le_bytes());
    }
    marks.set_changed(out, 1);
    put_bytes(out, name.as_bytes());
}

fn put_content(out: &mut Vec<u8>, name: &str) {
    match name {
        "definition" => out.extend_from_slice(DEFINITION.as_bytes()),
        "insert" | "snapshot_row" => image(out, 42, Some("Zürich \"x\"\n")),
        "update" => {
            image(out, 42, None);
            new_image(out, None, "Ann");
        }
        "changed_key" => {
            image(out, 42, Some("Ann"));
            new_image(out, Some(43), "Eva");
        }
        "delete" => image(out, 43, Some("Eva")),
        "truncate" => {}
        "emit" => Emission {
            key: Some("42"),
            payload: Some(r#"{"mail": "sent"}"#),
            headers: vec![("kind", "welcome")],
        }
        .put(out),
        "chunk_begin" => ChunkBegin {
            snapshot_id: 7,
            chunk: 1,
            session: 1,
            slot: 0,
            visibility: Visibility {
                xmin: 700,
                xmax: 745,
                in_progress: vec![710],
            },
            sinks: Some(r#"["replica"]"#),
        }
        .put(out),
        "chunk_end" => ChunkEnd {
            from: None,
            to: Some(r#"{"id":42}"#),
            partial: false,
        }
        .put(out),
        _ => unreachable!("{name}"),
    }
}

fn body(changes: &[(&str, RecordKind)]) -> Vec<u8> {
    let (mut contexts, mut relations) = (Vec::new(), Vec::new());
    put_context(
        &mut contexts,
        &Context {
            transaction_us: 848_572_800_000_000,
            pid: 4711,
            session_user: Some("app"),
            current_user: Some("app"),
            application_name: Some("shop"),
            client_addr: Some("10.0.0.7"),
            actor: Some("ann"),
            reason: Some("moved to Bern"),
            request_id: Some("r-17"),
            context: Some(r#"{"app.tenant":"t1"}"#),
            origin: None,
        },
    );
    for topic in ["shop.public.customer", "mails"] {
        relation(topic).put(&mut relations);
    }
    let mut bytes = Vec::new();
    put_head(
        &mut bytes,
        &Head {
            database: "shop",
            prefix: "shop",
            base: RecordState::START,
            contexts: (1, &contexts),
            relations: (2, &relations),
        },
    );
    let mut state = RecordState::START;
    switch_context(&mut bytes, &mut state, 0);
    switch_statement(&mut bytes, &mut state, 848_572_800_100_000);
    for (sequence, (name, kind)) in (1..).zip(changes) {
        let table = u32::from(*kind == RecordKind::Emit);
        let start = begin_row(&mut bytes, &mut state, *kind, table, sequence, 1);
        if *name == "changed_key" {
            mark_key_changed(&mut bytes, start);
        }
        put_content(&mut bytes, name);
        end_record(&mut bytes, start);
    }
    bytes
}

/// A record as a file has it: topic, key and headers, one a line, and the value behind an empty one.
fn text(event: &Event<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let topic = match event.destination {
        Destination::Topic => event.topic,
        Destination::Control(control) => control.topic,
    };
    let mut out = format!("topic: {topic}\n");
    if let Some(key) = event.key {
        writeln!(out, "key: {}", text(key)).unwrap();
    }
    for (name, value) in event.headers.iter() {
        writeln!(out, "{}: {}", name.to_str().unwrap(), text(value)).unwrap();
    }
    if let Some(value) = event.value {
        writeln!(out, "\n{}", text(value)).unwrap();
    }
    out
}

/// The records of one transaction, each with the name of its file.
fn records(transaction: &str, changes: &[(&str, RecordKind)]) -> Vec<(String, String)> {
    // A delete and a create.
    let key_changes = changes.iter().filter(|(name, _)| *name == "changed_key");
    let commit = Commit {
        event_count: (changes.len() + key_changes.count()) as u64,
        ..COMMIT
    };
    let mut renderer = Renderer::new(commit, 1 << 20, Controls::default());
    let options = RenderOptions {
        sent_us: 1_795_257_600_223_456,
        tombstones: true,
        truncates: true,
        session: 1,
        is_snapshot: &|_| true,
        is_withheld: &|_| false,
    };
    let bytes = body(changes);
    let body = Body::parse(&bytes).unwrap();
    let mut records: Vec<(u64, String, String)> = Vec::new();
    let done = renderer.render::<WireError>(&body, &options, &mut |event| {
        let mut headers = event.headers.iter();
        let op = headers.find(|(name, _)| *name == HeaderName::OP.c_str());
        let (_, op) = op.expect("cdc.op");
        let op = String::from_utf8_lossy(op);
        // An event and its tombstone, or the same in another topic, have one number.
        let sequence = event.sequence;
        let before = records
            .iter()
            .filter(|(place, ..)| *place == sequence)
            .count();
        let name = format!("{transaction}-{sequence}.{before}-{op}.txt");
        records.push((sequence, name, text(event)));
        Ok(Sent::Taken)
    });
    assert_eq!(done, Ok(()));
    let named = records.into_iter().map(|(_, name, text)| (name, text));
    named.collect()
}

#[test]
fn every_kind_of_record_is_as_its_file_has_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut records = records("changes", &CHANGES);
    records.extend(self::records("chunk", &CHUNK));
    if std::env::var_os("PG_CDC_GOLDEN").is_some_and(|value| value == "write") {
        for (name, text) in &records {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut names: Vec<&str> = records.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(files, names);
    for (name, text) in &records {
        assert_eq!(
            std::fs::read_to_string(folder.join(name)).unwrap(),
            *text,
            "{name}"
        );
    }
}
