//! The event: Debezium's envelope with `id` and `audit`, its key and its headers (interface 3.1).

use std::collections::HashMap;
use std::ffi::CStr;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::body::{self, Body, Column, Context, Emission, Masked, Op, Relation, Row, Value};
use crate::datetime::EPOCH_US;
use crate::hex::put_hex;
use crate::json::{put_integer, put_optional_string, put_string};
use crate::snapshot::{self, TableId, Verdict, Windows};
use crate::topic_name;
use crate::value::{Mark, put_bounded, put_value};
use crate::version::{self, Version, put_emitted_id, put_event_number};
use crate::wire::{Cursor, WireError, make_room};

/// `source.version` of the events.
const PRODUCT_VERSION: &str = env!("CARGO_PKG_VERSION");
/// A buffer that one large row made larger is given back to this.
const KEPT_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Values that are not longer than this are no stubs, for a stub would not be shorter.
const SHORTEST_STUB_BYTES: usize = 256;
/// Images that are longer than this are looked at before they are rendered: a few bytes can become many times as much (a
/// `numeric` of 131072 digits has 8).
const LOOKED_AT_BYTES: usize = 4096;
/// What the values of a key have together at most, before they are rendered; a longer value, or one that becomes more than six
/// times as long, is a stub, in images too.
const MAX_KEY_BYTES: usize = 64 * 1024;
/// A value of a key may have so much however many columns the key has.
const SHORT_IN_KEY_BYTES: usize = 2048;
/// What is sent of a snapshot's chunk about rows that were changed meanwhile: if it is more, the chunk is read again.
const MAX_CHANGED_BYTES: usize = 256 * 1024;
const TRUNCATE_KEY: &[u8] = br#"{"__cdc":"truncate"}"#;
const SNAPSHOT_KEY: &[u8] = br#"{"__cdc":"snapshot"}"#;
const SCHEMA_KEY: &[u8] = br#"{"__cdc":"schema"}"#;

/// What the commit record says about a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    pub nonce: [u8; 16],
    pub xid8: u64,
    pub database_oid: u32,
    pub generation: u16,
    pub timeline: u32,
    /// Where the commit record begins.
    pub lsn: u64,
    /// The captured commit before this one.
    pub previous_lsn: Option<u64>,
    /// Commit time, microseconds since 2000-01-01.
    pub commit_us: i64,
    /// Events of the transaction, tombstones not counted.
    pub event_count: u64,
}

/// Who gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The partition of the key.
    Key,
    /// Every partition of the topic, with one id: events about the table as a whole.
    EveryPartition,
}

/// A record for Kafka, borrowed from the renderer until the next one.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its number in its transaction, from 1. A delete and its tombstone have the same.
    pub sequence: u64,
    pub topic: &'a str,
    pub audience: Audience,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: &'a Headers,
    /// Large values of the images can still become stubs.
    pub can_shrink: bool,
    /// What is to be done with it.
    pub stage: Stage,
    /// A definition: it is the table's last event.
    pub is_last: bool,
}

/// What is to be done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is sent.
    Sent,
    /// It is not rendered yet: how long its value may become is asked, and answered with [`Sent::Room`].
    Asked,
    /// It cannot be rendered, for no topic takes a value of so many bytes.
    Unsendable { bytes: usize },
    /// It is not sent, as [`Circumstances::is_withheld`] has said, and so nothing of it is decoded.
    PassedOver,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Taken,
    /// Its topic takes values of so many bytes at most: it comes again with stubs. Only for [`Event::can_shrink`].
    TooLarge {
        limit_bytes: usize,
    },
    /// For [`Stage::Asked`]: how long the value may become, and whether stubs are wanted where it is longer.
    Room {
        limit_bytes: usize,
        stubs: bool,
    },
}

/// Takes the records.
pub type Emit<'e, E> = dyn FnMut(&Event<'_>) -> Result<Sent, E> + 'e;

/// Headers of one record, in one buffer that is used again and again.
#[derive(Debug, Default)]
pub struct Headers {
    bytes: Vec<u8>,
    entries: Vec<(Name, Range<usize>)>,
}

/// A header's name: ours, or the application's, with a zero byte behind it.
#[derive(Debug)]
enum Name {
    Ours(&'static CStr),
    Given(Range<usize>),
}

impl Headers {
    pub fn iter(&self) -> impl Iterator<Item = (&CStr, &[u8])> {
        self.entries.iter().map(|(name, range)| {
            let name = match name {
                Name::Ours(name) => name,
                Name::Given(range) => {
                    CStr::from_bytes_with_nul(&self.bytes[range.clone()]).unwrap_or_default()
                }
            };
            (name, &self.bytes[range.clone()])
        })
    }

    /// What they take in a record, about, and not less.
    pub fn size_bytes(&self) -> usize {
        const NAME_BYTES: usize = 32;
        self.bytes.len() + NAME_BYTES * self.entries.len()
    }

    fn add_given(&mut self, name: &str, value: &str) {
        let start = self.bytes.len();
        self.bytes.extend(name.bytes().filter(|byte| *byte != 0));
        self.bytes.push(0);
        let name = start..self.bytes.len();
        self.bytes.extend_from_slice(value.as_bytes());
        self.entries
            .push((Name::Given(name.clone()), name.end..self.bytes.len()));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    fn add(&mut self, name: &'static CStr, put: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        put(&mut self.bytes);
        self.entries
            .push((Name::Ours(name), start..self.bytes.len()));
    }
}

/// Renders the rows of one transaction after the other.
#[derive(Debug)]
pub struct Renderer {
    commit: Commit,
    texts: CommitTexts,
    sequence: u64,
    /// Events so far per relation (by oid), for `data_collection_order`.
    orders: HashMap<u32, u64>,
    buffers: Buffers,
    windows: Windows,
    /// The snapshot's chunk that this transaction is.
    chunk: Option<Chunk>,
}

/// A snapshot's chunk while it is rendered.
#[derive(Debug)]
struct Chunk {
    slot: u32,
    number: u64,
    verdict: Verdict,
    /// `"snapshot":{"id":3,"chunk":12`
    text: Vec<u8>,
    /// JSON array of sinks, or `null`.
    sinks: Vec<u8>,
    /// Rows that were sent.
    rows: u64,
}

impl Chunk {
    fn is_rejected(&self) -> bool {
        self.verdict == Verdict::Rejected
    }

    fn is_out_of_date(&self, key: &[u8]) -> bool {
        match &self.verdict {
            Verdict::Rejected => true,
            Verdict::Accepted(keys) => keys.contains(key),
        }
    }
}

/// What was decided about a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    pub slot: u32,
    pub chunk: u64,
    pub accepted: bool,
}

/// What rendering needs to know besides the rows.
pub struct Circumstances<'c> {
    /// Now, microseconds since 1970.
    pub sent_us: i64,
    /// Adds a tombstone after each delete of a table that allows it.
    pub tombstones: bool,
    /// The sender's session: chunks of another one are rejected.
    pub session: u64,
    /// Whether a snapshot of a table is being made.
    pub is_snapshot: &'c dyn Fn(TableId) -> bool,
    /// Whether nothing of this transaction is sent into a topic.
    pub is_withheld: &'c dyn Fn(&str) -> bool,
}

#[derive(Debug, Default)]
struct Buffers {
    /// Kafka key and identity.
    keys: [Vec<u8>; 2],
    other_key: Vec<u8>,
    value: Vec<u8>,
    headers: Headers,
    marks: [Vec<u8>; 2],
    /// Where each column of the first image stands in `value`, with the comma in front; empty if it has a mark.
    texts: Vec<Range<usize>>,
}

/// What is the same for every event of a transaction: rendered once.
#[derive(Debug, Default)]
struct CommitTexts {
    /// Event id up to the sequence.
    id: Vec<u8>,
    /// `cdc.version` up to the sequence.
    version: Vec<u8>,
    /// `"transaction":{…` up to the sequence.
    transaction: Vec<u8>,
    /// `event_count`
    event_count: Vec<u8>,
}

impl CommitTexts {
    fn render(&mut self, commit: &Commit) {
        let CommitTexts {
            id,
            version,
            transaction,
            event_count,
        } = self;
        for text in [&mut *id, version, transaction, event_count] {
            text.clear();
        }
        put_hex(id, &commit.nonce);
        id.push(b'-');
        Version {
            generation: commit.generation,
            timeline: commit.timeline,
            commit_lsn: commit.lsn,
            sequence: 0,
            sub: 0,
        }
        .put_place(version);
        transaction.extend_from_slice(b",\"transaction\":{\"id\":\"");
        put_integer(transaction, commit.xid8);
        transaction.push(b':');
        put_integer(transaction, commit.lsn);
        transaction.extend_from_slice(b"\",\"total_order\":");
        put_integer(event_count, commit.event_count);
    }
}

enum ChunkEvent<'a> {
    Begin,
    End(snapshot::ChunkEnd<'a>),
}

/// What is the same for many rows of a body: rendered once.
struct BodyTexts {
    /// `"ts_ms":…` and the other two, when it is sent.
    sent: Vec<u8>,
    /// Per relation: `"source":{…` up to the origin, the `cdc.table` header and the `cdc.schema` header.
    relations: Vec<Option<RelationTexts>>,
    /// `"audit":{…}` of the context and statement in use.
    audit: Vec<u8>,
    audit_of: Option<(u32, i64)>,
    /// Name of the replication origin in the same context, or `null`.
    origin: Vec<u8>,
    traceparent: Option<String>,
}

struct RelationTexts {
    source: Vec<u8>,
    table: String,
    schema_hash: String,
    columns: Vec<Vec<u8>>,
    /// Its changes must be remembered, for a snapshot of it is being made.
    is_snapshot: bool,
}

/// The row at hand, and what its events need besides.
struct Here<'a> {
    texts: &'a BodyTexts,
    relation: &'a Relation<'a>,
    relation_texts: &'a RelationTexts,
    row: &'a Row<'a>,
    /// A delete of this row is followed by a tombstone.
    tombstone: bool,
}

/// The pieces of one event before it is put together.
struct Shape<'a> {
    op: &'static str,
    audience: Audience,
    key: Option<&'a [u8]>,
    before: Option<&'a [Value<'a>]>,
    after: Option<&'a [Value<'a>]>,
    schema_change: Option<&'a str>,
    /// The `snapshot` object of a row, or of the beginning or end of a chunk.
    snapshot: Option<&'a [u8]>,
    /// `__debezium.newkey` or `__debezium.oldkey`, and that key.
    other_key: Option<(&'static CStr, &'a [u8])>,
    identity: Option<&'a [u8]>,
}

impl<'a> Shape<'a> {
    /// An event without images.
    fn of(op: &'static str, audience: Audience, key: Option<&'a [u8]>) -> Shape<'a> {
        Shape {
            op,
            audience,
            key,
            before: None,
            after: None,
            schema_change: None,
            snapshot: None,
            other_key: None,
            identity: None,
        }
    }
}

impl Renderer {
    /// Begins with the first event of `commit`. Changes of tables of which a snapshot is being made take
    /// `max_window_bytes` at most.
    pub fn new(commit: Commit, max_window_bytes: usize) -> Renderer {
        let mut texts = CommitTexts::default();
        texts.render(&commit);
        Renderer {
            windows: Windows::new(max_window_bytes),
            chunk: None,
            commit,
            texts,
            sequence: 0,
            orders: HashMap::new(),
            buffers: Buffers::default(),
        }
    }

    /// Begins the next transaction, keeping the buffers unless a large row made them large.
    pub fn begin(&mut self, commit: Commit) {
        self.buffers.value.clear();
        self.buffers.value.shrink_to(KEPT_BUFFER_BYTES);
        self.texts.render(&commit);
        self.commit = commit;
        self.sequence = 0;
        self.orders.clear();
        self.chunk = None;
    }

    /// What was decided about the chunk that this transaction is, if it is one.
    pub fn judged(&self) -> Option<Judged> {
        self.chunk.as_ref().map(|chunk| Judged {
            slot: chunk.slot,
            chunk: chunk.number,
            accepted: !chunk.is_rejected(),
        })
    }

    /// Forgets changes of tables of which no snapshot is made any more.
    pub fn forget_snapshots(&mut self, is_snapshot: &dyn Fn(TableId) -> bool) {
        self.windows.keep(is_snapshot);
    }

    /// Events rendered so far of this transaction.
    pub fn rendered(&self) -> u64 {
        self.sequence
    }

    /// Renders every row of `body`, in its order.
    pub fn render<E: From<WireError>>(
        &mut self,
        body: &Body<'_>,
        circumstances: &Circumstances<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let mut texts = BodyTexts {
            sent: sent(circumstances.sent_us),
            relations: (0..body.relations()).map(|_| None).collect(),
            audit: Vec::new(),
            audit_of: None,
            origin: Vec::new(),
            traceparent: None,
        };
        let mut before = Vec::new();
        let mut after = Vec::new();
        for row in body.rows() {
            let row = row?;
            if row.op == Op::ChunkBegin {
                self.begin_chunk(body, &row, circumstances)?;
            }
            if self.passes_over(body, &row, circumstances, emit)? {
                continue;
            }
            self.prepare(&mut texts, body, &row, circumstances)?;
            let relation = body.relation(row.relation)?;
            let here = Here {
                texts: &texts,
                relation,
                relation_texts: texts.relations[row.relation]
                    .as_ref()
                    .ok_or(WireError::Invalid("relation index"))?,
                row: &row,
                // In a topic of deletes alone a tombstone would only let compaction drop them.
                tombstone: circumstances.tombstones
                    && relation.tombstones
                    && !relation.key.is_empty()
                    && relation.topics[2].is_none(),
            };
            let mut images = Cursor::new(row.images);
            // Taken out while it is in use: the events borrow from it.
            let mut buffers = std::mem::take(&mut self.buffers);
            let buffers_in_use = &mut buffers;
            let done = match row.op {
                Op::Insert => {
                    body::read_image(&mut images, &relation.columns, &mut after)?;
                    self.row_event(&here, buffers_in_use, "c", None, Some(&after), emit)
                }
                Op::Delete => {
                    body::read_image(&mut images, &relation.columns, &mut before)?;
                    self.row_event(&here, buffers_in_use, "d", Some(&before), None, emit)
                }
                Op::Update | Op::KeyDelete | Op::KeyCreate => {
                    body::read_image(&mut images, &relation.columns, &mut before)?;
                    body::read_new_image(&mut images, &relation.columns, &before, &mut after)?;
                    self.update(&here, buffers_in_use, &before, &after, emit)
                }
                Op::Emit => {
                    let emission = Emission::read(row.images)?;
                    let context = body.context(&row.state)?;
                    let headers = &mut buffers_in_use.headers;
                    self.emitted(&here, headers, &emission, &context, emit)
                }
                Op::Read => {
                    body::read_image(&mut images, &relation.columns, &mut after)?;
                    self.row_event(&here, buffers_in_use, "r", None, Some(&after), emit)
                }
                Op::ChunkBegin => self.chunk_event(&here, buffers_in_use, &ChunkEvent::Begin, emit),
                Op::ChunkEnd => {
                    let end = ChunkEvent::End(snapshot::ChunkEnd::read(row.images)?);
                    self.chunk_event(&here, buffers_in_use, &end, emit)
                }
                Op::Truncate => {
                    self.touch(&here, None);
                    let shape = Shape::of("t", Audience::EveryPartition, Some(TRUNCATE_KEY));
                    self.event(&here, buffers_in_use, &shape, emit)
                }
                Op::Schema => {
                    let change = std::str::from_utf8(row.images)
                        .map_err(|_| WireError::Invalid("schema change"))?;
                    let shape = Shape {
                        schema_change: Some(change),
                        ..Shape::of("m", Audience::EveryPartition, Some(SCHEMA_KEY))
                    };
                    self.event(&here, buffers_in_use, &shape, emit)
                }
            };
            self.buffers = buffers;
            done?;
        }
        Ok(())
    }

    /// Whether nothing of a row is sent, whatever it is: then it is counted, and not decoded, so that one that cannot be decoded can
    /// be given up.
    fn passes_over<E: From<WireError>>(
        &mut self,
        body: &Body<'_>,
        row: &Row<'_>,
        circumstances: &Circumstances<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<bool, E> {
        let addressed = body.addressed(row.relation)?;
        let (table_topic, own) = (addressed.topic, addressed.topics);
        let topics: &[&str] = match row.op {
            Op::Update if row.key_changed => &[
                own_topic(table_topic, own, "d"),
                own_topic(table_topic, own, "c"),
            ],
            Op::Update => &[own_topic(table_topic, own, "u")],
            Op::Insert | Op::KeyCreate => &[own_topic(table_topic, own, "c")],
            Op::Delete | Op::KeyDelete => &[own_topic(table_topic, own, "d")],
            Op::Truncate => &[own_topic(table_topic, own, "t")],
            Op::Schema
                if own
                    .iter()
                    .flatten()
                    .any(|topic| !(circumstances.is_withheld)(topic)) =>
            {
                return Ok(false);
            }
            Op::Schema | Op::Emit | Op::Read | Op::ChunkBegin | Op::ChunkEnd => &[table_topic],
        };
        if !topics
            .iter()
            .all(|topic| (circumstances.is_withheld)(topic))
        {
            return Ok(false);
        }
        if matches!(row.op, Op::Read | Op::ChunkBegin | Op::ChunkEnd) {
            if self.chunk.as_ref().is_some_and(Chunk::is_rejected) {
                self.sequence += 1;
                return Ok(true);
            }
        } else if row.op != Op::Emit {
            // Which row it was is not looked at.
            let table = (self.commit.database_oid, addressed.oid);
            if (circumstances.is_snapshot)(table) {
                self.windows.touch(table, self.commit.xid8, None);
            }
        }
        let headers = Headers::default();
        for topic in topics {
            self.sequence += 1;
            if row.op != Op::Emit {
                self.next_order(addressed.oid);
            }
            emit(&Event {
                sequence: self.sequence,
                topic,
                audience: Audience::Key,
                key: None,
                value: Some(&[]),
                headers: &headers,
                can_shrink: false,
                stage: Stage::PassedOver,
                is_last: false,
            })?;
        }
        Ok(true)
    }

    /// An event of the application's own: its payload alone, who and why as headers.
    fn emitted<E: From<WireError>>(
        &mut self,
        here: &Here<'_>,
        headers: &mut Headers,
        emission: &Emission<'_>,
        context: &Context<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        self.sequence += 1;
        headers.clear();
        headers.add(c"cdc.id", |out| {
            put_emitted_id(out, &self.commit.nonce, here.row.state.sequence);
        });
        headers.add(c"cdc.version", |out| self.put_version(out, 0));
        headers.add(c"cdc.op", |out| out.extend_from_slice(b"emit"));
        headers.add(c"cdc.tx", |out| self.put_order(out));
        for (name, text) in [
            (c"cdc.actor", context.actor),
            (c"cdc.reason", context.reason),
            (c"cdc.request_id", context.request_id),
            (c"traceparent", here.texts.traceparent.as_deref()),
        ] {
            if let Some(text) = text {
                headers.add(name, |out| out.extend_from_slice(text.as_bytes()));
            }
        }
        for (name, value) in &emission.headers {
            headers.add_given(name, value);
        }
        emit(&Event {
            sequence: self.sequence,
            topic: here.relation.topic,
            audience: Audience::Key,
            key: emission.key.map(str::as_bytes),
            value: emission.payload.map(str::as_bytes),
            headers,
            can_shrink: false,
            stage: Stage::Sent,
            is_last: false,
        })
        .map(drop)
    }

    /// The newest event's id.
    fn put_id(&self, out: &mut Vec<u8>, sub: u8) {
        out.extend_from_slice(&self.texts.id);
        put_event_number(out, self.sequence, sub);
    }

    /// The newest event's version.
    fn put_version(&self, out: &mut Vec<u8>, sub: u8) {
        out.extend_from_slice(&self.texts.version);
        version::put_order(out, self.sequence, sub);
    }

    /// The newest event's number among those of its transaction.
    fn put_order(&self, out: &mut Vec<u8>) {
        put_integer(out, self.sequence);
        out.push(b'/');
        out.extend_from_slice(&self.texts.event_count);
    }

    /// Fills the texts that this row needs.
    fn prepare(
        &self,
        texts: &mut BodyTexts,
        body: &Body<'_>,
        row: &Row<'_>,
        circumstances: &Circumstances<'_>,
    ) -> Result<(), WireError> {
        if texts.relations[row.relation].is_none() {
            let relation = body.relation(row.relation)?;
            texts.relations[row.relation] = Some(RelationTexts {
                source: self.source(body, relation),
                table: topic_name::join(&[body.database, relation.schema, relation.table]),
                schema_hash: format!("{:08x}", relation.schema_hash),
                columns: relation.columns.iter().map(column_name).collect(),
                is_snapshot: self.chunk.is_none()
                    && (circumstances.is_snapshot)((self.commit.database_oid, relation.oid)),
            });
        }
        let audit_of = (row.state.context, row.state.statement_us);
        if texts.audit_of != Some(audit_of) {
            let context = body.context(&row.state)?;
            put_audit(&mut texts.audit, &context, row.state.statement_us);
            texts.origin.clear();
            put_optional_string(&mut texts.origin, context.origin);
            texts.traceparent = traceparent(&context);
            texts.audit_of = Some(audit_of);
        }
        Ok(())
    }

    fn source(&self, body: &Body<'_>, relation: &Relation<'_>) -> Vec<u8> {
        let commit = &self.commit;
        let commit_us = commit.commit_us.saturating_add(EPOCH_US);
        let mut out = Vec::with_capacity(384);
        out.extend_from_slice(b"\"source\":{\"version\":\"");
        out.extend_from_slice(PRODUCT_VERSION.as_bytes());
        out.extend_from_slice(b"\",\"connector\":\"postgresql\",\"name\":");
        put_string(&mut out, body.prefix);
        out.extend_from_slice(b",\"ts_ms\":");
        put_integer(&mut out, commit_us.div_euclid(1000));
        out.extend_from_slice(b",\"snapshot\":\"");
        out.extend_from_slice(match self.chunk {
            None => b"false",
            Some(_) => b"incremental",
        });
        out.extend_from_slice(b"\",\"db\":");
        put_string(&mut out, body.database);
        out.extend_from_slice(b",\"sequence\":\"[");
        match commit.previous_lsn {
            Some(lsn) => {
                out.extend_from_slice(b"\\\"");
                put_integer(&mut out, lsn);
                out.extend_from_slice(b"\\\"");
            }
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\\\"");
        put_integer(&mut out, commit.lsn);
        out.extend_from_slice(b"\\\"]\",\"ts_us\":");
        put_integer(&mut out, commit_us);
        out.extend_from_slice(b",\"ts_ns\":");
        put_nanoseconds(&mut out, commit_us);
        out.extend_from_slice(b",\"schema\":");
        put_string(&mut out, relation.schema);
        out.extend_from_slice(b",\"table\":");
        put_string(&mut out, relation.table);
        // The row is as old as the chunk's snapshot, whichever transaction made it.
        let is_event = self.chunk.is_none();
        for (name, number) in [
            (&b",\"txId\":"[..], commit.xid8),
            (b",\"lsn\":", commit.lsn),
        ] {
            out.extend_from_slice(name);
            match is_event {
                true => put_integer(&mut out, number),
                false => out.extend_from_slice(b"null"),
            }
        }
        out.extend_from_slice(b",\"xmin\":null,\"origin\":");
        out
    }

    /// One event, or, where the key changed, a delete under the old key and a create under the new one: both halves
    /// here, or the one that sorting put here.
    fn update<E: From<WireError>>(
        &mut self,
        here: &Here<'_>,
        buffers: &mut Buffers,
        before: &[Value<'_>],
        after: &[Value<'_>],
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let key = &here.relation.key;
        if here.row.op == Op::Update && !here.row.key_changed {
            return self.row_event(here, buffers, "u", Some(before), Some(after), emit);
        }
        if here.row.op != Op::KeyCreate {
            put_key(&mut buffers.other_key, here, key, after)?;
            self.row_event(here, buffers, "d", Some(before), None, emit)?;
        }
        if here.row.op != Op::KeyDelete {
            put_key(&mut buffers.other_key, here, key, before)?;
            self.row_event(here, buffers, "c", None, Some(after), emit)?;
        }
        Ok(())
    }

    /// Remembers a changed row where a snapshot of its table is being made.
    fn touch(&mut self, here: &Here<'_>, key: Option<&[u8]>) {
        if here.relation_texts.is_snapshot {
            let table = (self.commit.database_oid, here.relation.oid);
            let key = key.filter(|key| !key.is_empty());
            self.windows.touch(table, self.commit.xid8, key);
        }
    }

    /// Decides what becomes of the chunk that this transaction is.
    fn begin_chunk(
        &mut self,
        body: &Body<'_>,
        row: &Row<'_>,
        circumstances: &Circumstances<'_>,
    ) -> Result<(), WireError> {
        let begin = snapshot::ChunkBegin::read(row.images)?;
        let table = (self.commit.database_oid, body.addressed(row.relation)?.oid);
        let verdict = if begin.session == circumstances.session {
            self.windows
                .judge(table, &begin.visibility)
                .within(MAX_CHANGED_BYTES)
        } else {
            Verdict::Rejected
        };
        let mut text = Vec::new();
        snapshot::put_snapshot(&mut text, &begin);
        self.chunk = Some(Chunk {
            slot: begin.slot,
            number: begin.chunk,
            verdict,
            text,
            sinks: begin.sinks.unwrap_or("null").as_bytes().to_vec(),
            rows: 0,
        });
        Ok(())
    }

    /// The event before or behind a chunk's rows, in every partition.
    fn chunk_event<E: From<WireError>>(
        &mut self,
        here: &Here<'_>,
        buffers: &mut Buffers,
        event: &ChunkEvent<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let Some(chunk) = self.chunk.as_ref().filter(|chunk| !chunk.is_rejected()) else {
            self.sequence += 1;
            return Ok(());
        };
        let mut text = chunk.text.clone();
        match event {
            ChunkEvent::Begin => text.extend_from_slice(b",\"event\":\"chunk_begin\""),
            ChunkEvent::End(end) => {
                text.extend_from_slice(b",\"event\":\"chunk_end\",\"from\":");
                text.extend_from_slice(end.from.unwrap_or("null").as_bytes());
                text.extend_from_slice(b",\"to\":");
                text.extend_from_slice(end.to.unwrap_or("null").as_bytes());
                text.extend_from_slice(b",\"partial\":");
                text.extend_from_slice(if end.partial { b"true" } else { b"false" });
                text.extend_from_slice(b",\"rows\":");
                put_integer(&mut text, chunk.rows);
                // Rows of the range that are there though the chunk has not got them.
                text.extend_from_slice(b",\"changed\":[");
                if let Verdict::Accepted(keys) = &chunk.verdict {
                    for (place, key) in keys.iter().enumerate() {
                        if place > 0 {
                            text.push(b',');
                        }
                        text.extend_from_slice(key);
                    }
                }
                text.push(b']');
            }
        }
        text.extend_from_slice(b",\"sinks\":");
        text.extend_from_slice(&chunk.sinks);
        text.push(b'}');
        let shape = Shape {
            snapshot: Some(&text),
            ..Shape::of("m", Audience::EveryPartition, Some(SNAPSHOT_KEY))
        };
        self.event(here, buffers, &shape, emit)
    }

    fn row_event<E: From<WireError>>(
        &mut self,
        here: &Here<'_>,
        buffers: &mut Buffers,
        op: &'static str,
        before: Option<&[Value<'_>]>,
        after: Option<&[Value<'_>]>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let mut keys = std::mem::take(&mut buffers.keys);
        let other_key = std::mem::take(&mut buffers.other_key);
        let [key, identity] = &mut keys;
        let image = after.or(before).unwrap_or(&[]);
        let has_key = !here.relation.key.is_empty();
        if has_key {
            put_key(key, here, &here.relation.key, image)?;
        }
        if let Some(columns) = &here.relation.identity {
            put_key(identity, here, columns, image)?;
        }
        let row_key = match &here.relation.identity {
            Some(_) => identity.as_slice(),
            None => key.as_slice(),
        };
        self.touch(here, Some(row_key));
        let mut snapshot = Vec::new();
        if let Some(chunk) = self.chunk.as_mut().filter(|_| op == "r") {
            if chunk.is_out_of_date(row_key) {
                self.sequence += 1;
                buffers.keys = keys;
                buffers.other_key = other_key;
                return Ok(());
            }
            chunk.rows += 1;
            snapshot.extend_from_slice(&chunk.text);
            snapshot.extend_from_slice(b",\"sinks\":");
            snapshot.extend_from_slice(&chunk.sinks);
            snapshot.push(b'}');
        }
        let other_key_name = if op == "d" {
            c"__debezium.newkey"
        } else {
            c"__debezium.oldkey"
        };
        let shape = Shape {
            before,
            after,
            other_key: (here.row.key_changed && has_key)
                .then_some((other_key_name, other_key.as_slice())),
            identity: here.relation.identity.as_ref().map(|_| identity.as_slice()),
            snapshot: (!snapshot.is_empty()).then_some(snapshot.as_slice()),
            ..Shape::of(op, Audience::Key, has_key.then_some(key.as_slice()))
        };
        let mut done = self.event(here, buffers, &shape, emit);
        if op == "d" && here.tombstone && done.is_ok() {
            done = self.tombstone(here, buffers, &shape, emit);
        }
        buffers.keys = keys;
        buffers.other_key = other_key;
        done
    }

    fn event<E: From<WireError>>(
        &mut self,
        here: &Here<'_>,
        buffers: &mut Buffers,
        shape: &Shape<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        self.sequence += 1;
        let order = self.next_order(here.relation.oid);
        let mut bounds = Bounds::NONE;
        if here.row.images.len() > LOOKED_AT_BYTES {
            bounds = self.bounds(here, buffers, shape, emit)?;
        }
        loop {
            let limit_bytes = match self.put_event(here, buffers, shape, order, &bounds) {
                Ok(()) => match self.send(here, buffers, shape, bounds.longest, emit)? {
                    Sent::TooLarge { limit_bytes } => limit_bytes,
                    Sent::Taken | Sent::Room { .. } => return Ok(()),
                },
                Err(WireError::TooLong) => {
                    let bytes = bounds.most.unwrap_or(usize::MAX);
                    if !bounds.stubs || bounds.longest < SHORTEST_STUB_BYTES {
                        let stage = Stage::Unsendable { bytes };
                        return self.emit_stage(here, buffers, shape, stage, emit).map(drop);
                    }
                    bytes
                }
                Err(error) => return Err(error.into()),
            };
            bounds.longest = bounds.longest.min(limit_bytes / 2) / 2;
        }
    }

    /// How large the value of an event with large images may become.
    fn bounds<E: From<WireError>>(
        &self,
        here: &Here<'_>,
        buffers: &Buffers,
        shape: &Shape<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<Bounds, E> {
        Ok(
            match self.emit_stage(here, buffers, shape, Stage::Asked, emit)? {
                Sent::Room { limit_bytes, stubs } => Bounds {
                    most: Some(limit_bytes),
                    stubs,
                    ..Bounds::NONE
                },
                Sent::Taken | Sent::TooLarge { .. } => Bounds::NONE,
            },
        )
    }

    /// Says something of an event that is not rendered.
    fn emit_stage<E: From<WireError>>(
        &self,
        here: &Here<'_>,
        buffers: &Buffers,
        shape: &Shape<'_>,
        stage: Stage,
        emit: &mut Emit<'_, E>,
    ) -> Result<Sent, E> {
        emit(&Event {
            sequence: self.sequence,
            topic: topic_of(here.relation, shape.op),
            audience: shape.audience,
            key: shape.key,
            value: Some(&[]),
            headers: &buffers.headers,
            can_shrink: false,
            stage,
            is_last: false,
        })
    }

    /// Renders the value; values of the images that are too long become stubs.
    fn put_event(
        &self,
        here: &Here<'_>,
        buffers: &mut Buffers,
        shape: &Shape<'_>,
        order: u64,
        bounds: &Bounds,
    ) -> Result<(), WireError> {
        let out = &mut buffers.value;
        out.clear();
        out.extend_from_slice(b"{\"id\":\"");
        self.put_id(out, 0);
        out.extend_from_slice(b"\",\"op\":\"");
        out.extend_from_slice(shape.op.as_bytes());
        out.extend_from_slice(&here.texts.sent);
        out.extend_from_slice(&here.relation_texts.source);
        out.extend_from_slice(&here.texts.origin);
        out.extend_from_slice(b",\"origin_lsn\":null}");
        out.extend_from_slice(&self.texts.transaction);
        put_integer(out, self.sequence);
        out.extend_from_slice(b",\"data_collection_order\":");
        put_integer(out, order);
        out.extend_from_slice(b",\"event_count\":");
        out.extend_from_slice(&self.texts.event_count);
        out.extend_from_slice(b"},");
        out.extend_from_slice(&here.texts.audit);
        if let Some(snapshot) = shape.snapshot {
            out.push(b',');
            out.extend_from_slice(snapshot);
        }
        out.extend_from_slice(b",\"before\":");
        let [before_marks, after_marks] = &mut buffers.marks;
        let texts = &mut buffers.texts;
        texts.clear();
        put_image(out, before_marks, here, shape.before, None, texts, bounds)?;
        out.extend_from_slice(b",\"after\":");
        let before = shape.before;
        put_image(out, after_marks, here, shape.after, before, texts, bounds)?;
        let crossed = here.row.crossed_filter.then_some(match here.row.op {
            Op::Delete => "left",
            _ => "entered",
        });
        put_marks(out, before_marks, after_marks, crossed);
        if let Some(change) = shape.schema_change {
            out.extend_from_slice(b",\"schema_change\":");
            out.extend_from_slice(change.as_bytes());
        }
        out.push(b'}');
        Ok(())
    }

    fn send<E: From<WireError>>(
        &self,
        here: &Here<'_>,
        buffers: &mut Buffers,
        shape: &Shape<'_>,
        longest: usize,
        emit: &mut Emit<'_, E>,
    ) -> Result<Sent, E> {
        let op = if shape.schema_change.is_some() {
            "schema"
        } else if shape.key == Some(SNAPSHOT_KEY) {
            "snapshot"
        } else {
            shape.op
        };
        self.put_headers(&mut buffers.headers, here, op, 0, shape);
        let mut send = |topic| {
            emit(&Event {
                sequence: self.sequence,
                topic,
                audience: shape.audience,
                key: shape.key,
                value: Some(&buffers.value),
                headers: &buffers.headers,
                can_shrink: (shape.before.is_some() || shape.after.is_some())
                    && longest >= SHORTEST_STUB_BYTES,
                stage: Stage::Sent,
                is_last: shape.schema_change.is_some_and(ends_the_table),
            })
        };
        let sent = send(topic_of(here.relation, shape.op))?;
        if shape.schema_change.is_some() {
            // Whoever reads only one of the table's topics learns its columns as well.
            let topics = &here.relation.topics;
            for (place, topic) in topics.iter().enumerate() {
                if let Some(topic) = topic.filter(|topic| !topics[..place].contains(&Some(topic))) {
                    send(topic)?;
                }
            }
        }
        Ok(sent)
    }

    /// The null record after a delete, so that compaction can forget the key.
    fn tombstone<E: From<WireError>>(
        &mut self,
        here: &Here<'_>,
        buffers: &mut Buffers,
        delete: &Shape<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let shape = Shape {
            identity: delete.identity,
            ..Shape::of("tombstone", Audience::Key, delete.key)
        };
        self.put_headers(&mut buffers.headers, here, "tombstone", 1, &shape);
        emit(&Event {
            sequence: self.sequence,
            topic: topic_of(here.relation, "d"),
            audience: Audience::Key,
            key: shape.key,
            value: None,
            headers: &buffers.headers,
            can_shrink: false,
            stage: Stage::Sent,
            is_last: false,
        })
        .map(drop)
    }

    fn put_headers(
        &self,
        headers: &mut Headers,
        here: &Here<'_>,
        op: &str,
        sub: u8,
        shape: &Shape<'_>,
    ) {
        headers.clear();
        headers.add(c"cdc.id", |out| self.put_id(out, sub));
        headers.add(c"cdc.version", |out| self.put_version(out, sub));
        headers.add(c"cdc.op", |out| out.extend_from_slice(op.as_bytes()));
        headers.add(c"cdc.table", |out| {
            out.extend_from_slice(here.relation_texts.table.as_bytes());
        });
        headers.add(c"cdc.schema", |out| {
            out.extend_from_slice(here.relation_texts.schema_hash.as_bytes());
        });
        if let Some(identity) = shape.identity {
            headers.add(c"cdc.identity", |out| out.extend_from_slice(identity));
        }
        headers.add(c"cdc.tx", |out| self.put_order(out));
        if let Some((name, key)) = shape.other_key {
            headers.add(name, |out| out.extend_from_slice(key));
        }
        if let Some(traceparent) = &here.texts.traceparent {
            headers.add(c"traceparent", |out| {
                out.extend_from_slice(traceparent.as_bytes());
            });
        }
        if let Some(chunk) = self.chunk.as_ref().filter(|chunk| chunk.sinks != b"null") {
            headers.add(c"cdc.sinks", |out| out.extend_from_slice(&chunk.sinks));
        }
    }

    fn next_order(&mut self, oid: u32) -> u64 {
        let order = self.orders.entry(oid).or_default();
        *order += 1;
        *order
    }
}

/// The topic of an operation's events: its own, or the table's.
fn topic_of<'a>(relation: &Relation<'a>, op: &str) -> &'a str {
    own_topic(relation.topic, relation.topics, op)
}

fn own_topic<'a>(table_topic: &'a str, topics: [Option<&'a str>; 4], op: &str) -> &'a str {
    let [insert, update, delete, truncate] = topics;
    let own = match op {
        "c" => insert,
        "u" => update,
        "d" => delete,
        "t" => truncate,
        _ => None,
    };
    own.unwrap_or(table_topic)
}

/// `"name":`, rendered once per body.
fn column_name(column: &Column<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(column.name.len() + 3);
    put_string(&mut out, column.name);
    out.push(b':');
    out
}

fn put_key(
    out: &mut Vec<u8>,
    here: &Here<'_>,
    columns: &[usize],
    image: &[Value<'_>],
) -> Result<(), WireError> {
    out.clear();
    for &index in columns {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(&here.relation_texts.columns[index]);
        match image.get(index).ok_or(WireError::Invalid("key column"))? {
            // Equal values still go to one partition.
            Value::Given(bytes) if bytes.len() > longest_in_key(here.relation) => {
                put_digest(out, &Sha256::digest(bytes));
            }
            Value::Given(bytes) => {
                let kind = &here.relation.columns[index].kind;
                let start = out.len();
                let most = start + most_in_key(here.relation);
                let put = put_bounded(out, kind, bytes, most);
                if put == Err(WireError::TooLong) || out.len() > most {
                    out.truncate(start);
                    put_digest(out, &Sha256::digest(bytes));
                } else {
                    put?;
                }
            }
            Value::Null => out.extend_from_slice(b"null"),
            Value::Stub { sha256, .. } => put_digest(out, sha256),
        }
    }
    out.push(b'}');
    Ok(())
}

/// What stands in a key instead of a value that is not shipped.
fn put_digest(out: &mut Vec<u8>, sha256: &[u8]) {
    out.push(b'"');
    put_hex(out, sha256);
    out.push(b'"');
}

/// How long a value of the key or of the identity may be.
fn longest_in_key(relation: &Relation<'_>) -> usize {
    let identity = relation.identity.as_ref().map_or(0, Vec::len);
    let columns = relation.key.len().max(identity).max(1);
    (MAX_KEY_BYTES / columns).max(SHORT_IN_KEY_BYTES)
}

/// How long it may become: a text of control characters is six times as long, but a few bytes can be an array of thousands of
/// names.
fn most_in_key(relation: &Relation<'_>) -> usize {
    6 * longest_in_key(relation) + 2
}

/// Whether a column belongs to the key or to the identity.
fn is_in_key(relation: &Relation<'_>, column: usize) -> bool {
    let has = |columns: &[usize]| columns.contains(&column);
    has(&relation.key) || relation.identity.as_deref().is_some_and(has)
}

/// How long values of a column may be.
#[cold]
fn longest_of_column(relation: &Relation<'_>, column: usize, longest: usize) -> usize {
    match is_in_key(relation, column) {
        true => longest.min(longest_in_key(relation)),
        false => longest,
    }
}

/// Whether a value that became so long is a stub, for the key has its digest.
#[cold]
fn is_too_long_in_key(relation: &Relation<'_>, column: usize, became: usize) -> bool {
    became > most_in_key(relation) && is_in_key(relation, column)
}

/// Whether a definition is the last that is told of a table.
fn ends_the_table(schema_change: &str) -> bool {
    let change = serde_json::from_str::<serde_json::Value>(schema_change);
    change.is_ok_and(|change| matches!(change["type"].as_str(), Some("UNTRACK" | "DROP")))
}

/// How large an event may become.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Values that are longer become stubs.
    longest: usize,
    /// The event, in bytes; none where it is small anyway.
    most: Option<usize>,
    /// Values become stubs where it is larger.
    stubs: bool,
}

impl Bounds {
    const NONE: Bounds = Bounds {
        longest: usize::MAX,
        most: None,
        stubs: true,
    };
}

/// Appends an image as a JSON object; names of columns with a mark go to `marks`, comma after each. Values that are too long
/// become stubs. What has not changed since the image `before`, which is in `out` already, is copied from
/// there: `texts` has its places, and gets them from the first image.
fn put_image(
    out: &mut Vec<u8>,
    marks: &mut Vec<u8>,
    here: &Here<'_>,
    image: Option<&[Value<'_>]>,
    before: Option<&[Value<'_>]>,
    texts: &mut Vec<Range<usize>>,
    bounds: &Bounds,
) -> Result<(), WireError> {
    marks.clear();
    let Some(image) = image else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    out.push(b'{');
    let mut index = 0;
    while let Some(value) = image.get(index) {
        let unchanged = before.map_or(0, |before| {
            let pairs = before[index..].iter().zip(&image[index..]);
            let places = texts[index..].iter();
            pairs
                .zip(places)
                .take_while(|((old, new), place)| is_same(old, new) && !place.is_empty())
                .count()
        });
        if unchanged > 0 {
            let copied = texts[index].start..texts[index + unchanged - 1].end;
            if let Some(most) = bounds.most {
                if out.len() + copied.len() > most {
                    return Err(WireError::TooLong);
                }
                make_room(out, copied.len())?;
            }
            out.extend_from_within(copied);
            index += unchanged;
            continue;
        }
        let (start, marks_before) = (out.len(), marks.len());
        if index > 0 {
            out.push(b',');
        }
        put_column(out, marks, here, index, *value, bounds)?;
        if before.is_none() {
            let has_mark = marks.len() > marks_before;
            texts.push(start..if has_mark { start } else { out.len() });
        }
        index += 1;
    }
    out.push(b'}');
    Ok(())
}

/// Whether a column of the new image refers to the old one.
fn is_same(old: &Value<'_>, new: &Value<'_>) -> bool {
    match (old, new) {
        (Value::Null, Value::Null) => true,
        (Value::Given(old), Value::Given(new)) => std::ptr::eq(*old, *new),
        _ => false,
    }
}

/// Appends name and value of one column, and what is to be said of it.
fn put_column(
    out: &mut Vec<u8>,
    marks: &mut Vec<u8>,
    here: &Here<'_>,
    index: usize,
    value: Value<'_>,
    bounds: &Bounds,
) -> Result<(), WireError> {
    let name = &here.relation_texts.columns[index];
    out.extend_from_slice(name);
    let Column { kind, masked, .. } = &here.relation.columns[index];
    let digest;
    let mut given = None;
    let value = match value {
        Value::Given(bytes)
            if bytes.len() > bounds.longest.min(SHORT_IN_KEY_BYTES)
                && bytes.len() > longest_of_column(here.relation, index, bounds.longest) =>
        {
            digest = Sha256::digest(bytes);
            Value::Stub {
                bytes: bytes.len() as u64,
                sha256: &digest,
            }
        }
        Value::Given(bytes) => {
            let start = out.len();
            given = match bounds.most {
                None => put_value(out, kind, bytes)?,
                Some(most) => put_bounded(out, kind, bytes, most)?,
            };
            let became = out.len() - start;
            if became > 6 * SHORT_IN_KEY_BYTES && is_too_long_in_key(here.relation, index, became) {
                out.truncate(start);
                digest = Sha256::digest(bytes);
                Value::Stub {
                    bytes: bytes.len() as u64,
                    sha256: &digest,
                }
            } else {
                value
            }
        }
        value => value,
    };
    let mark: &[u8] = match (value, masked) {
        (Value::Null, masked) => {
            out.extend_from_slice(b"null");
            // Whether it was NULL is not to be told either.
            match masked {
                Some(Masked::Redacted) => b"\"redacted\",",
                _ => return Ok(()),
            }
        }
        (Value::Given(_), masked) => match (given, masked) {
            (_, Some(Masked::Hashed)) => b"\"hashed\",",
            (_, Some(Masked::Truncated)) => b"\"truncated\",",
            (Some(Mark::Base64), _) => b"\"base64\",",
            (None, _) => return Ok(()),
        },
        (Value::Stub { bytes, sha256 }, _) => {
            out.extend_from_slice(b"null");
            marks.extend_from_slice(name);
            marks.extend_from_slice(b"{\"stub\":{\"bytes\":");
            put_integer(marks, bytes);
            marks.extend_from_slice(b",\"sha256\":\"");
            put_hex(marks, sha256);
            marks.extend_from_slice(b"\"}},");
            return Ok(());
        }
    };
    marks.extend_from_slice(name);
    marks.extend_from_slice(mark);
    Ok(())
}

/// `crossed` says how an update made the row cross the table's filter.
fn put_marks(out: &mut Vec<u8>, before: &[u8], after: &[u8], crossed: Option<&str>) {
    if before.is_empty() && after.is_empty() && crossed.is_none() {
        return;
    }
    out.extend_from_slice(b",\"marks\":");
    let mut separator = b'{';
    for (name, marks) in [(&b"\"before\":{"[..], before), (&b"\"after\":{"[..], after)] {
        if let Some(marks) = marks.strip_suffix(b",") {
            out.push(separator);
            out.extend_from_slice(name);
            out.extend_from_slice(marks);
            out.push(b'}');
            separator = b',';
        }
    }
    if let Some(crossed) = crossed {
        out.push(separator);
        out.extend_from_slice(b"\"filter\":\"");
        out.extend_from_slice(crossed.as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
}

fn put_audit(out: &mut Vec<u8>, context: &Context<'_>, statement_us: i64) {
    out.clear();
    let mut name = b"\"audit\":{\"actor\":".as_slice();
    for (text, next) in [
        (context.actor, b",\"reason\":".as_slice()),
        (context.reason, b",\"request_id\":"),
        (context.request_id, b",\"session_user\":"),
        (context.session_user, b",\"current_user\":"),
        (context.current_user, b",\"application_name\":"),
        (context.application_name, b",\"client_addr\":"),
        (context.client_addr, b",\"pid\":"),
    ] {
        out.extend_from_slice(name);
        put_optional_string(out, text);
        name = next;
    }
    out.extend_from_slice(name);
    put_integer(out, context.pid);
    out.extend_from_slice(b",\"transaction_ts_us\":");
    put_integer(out, context.transaction_us.saturating_add(EPOCH_US));
    out.extend_from_slice(b",\"statement_ts_us\":");
    put_integer(out, statement_us.saturating_add(EPOCH_US));
    out.extend_from_slice(b",\"context\":");
    out.extend_from_slice(context.context.unwrap_or("{}").as_bytes());
    out.push(b'}');
}

/// W3C trace context that the application put into its `cdc_context`.
fn traceparent(context: &Context<'_>) -> Option<String> {
    let context = context
        .context
        .filter(|context| context.contains("\"traceparent\""))?;
    let parsed: serde_json::Value = serde_json::from_str(context).ok()?;
    parsed.get("traceparent")?.as_str().map(str::to_owned)
}

/// The three times of the envelope itself.
fn sent(us: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(b"\",\"ts_ms\":");
    put_integer(&mut out, us.div_euclid(1000));
    out.extend_from_slice(b",\"ts_us\":");
    put_integer(&mut out, us);
    out.extend_from_slice(b",\"ts_ns\":");
    put_nanoseconds(&mut out, us);
    out.push(b',');
    out
}

/// Microseconds as nanoseconds: three zeros more, so that no product can overflow.
fn put_nanoseconds(out: &mut Vec<u8>, us: i64) {
    put_integer(out, us);
    if us != 0 {
        out.extend_from_slice(b"000");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{
        Bitmaps, Head, State, begin_image, begin_row, end_record, mark_key_changed, put_context,
        put_head, switch_context,
    };
    use crate::kind::Kind;
    use crate::wire::put_varint;

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
            schema_hash: 1,
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
    fn body(relations: &[Relation<'_>], rows: &[(Op, usize, &[u8])]) -> Vec<u8> {
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
                base: State::START,
                contexts: (1, &contexts),
                relations: (relations.len() as u32, &blobs),
            },
        );
        let mut state = State::START;
        switch_context(&mut bytes, &mut state, 0);
        for (place, (op, relation, image)) in rows.iter().enumerate() {
            let sequence = place as u64 + 1;
            let start = begin_row(&mut bytes, &mut state, *op, *relation as u32, sequence, 1);
            if *op == Op::Update {
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
        let mut renderer = Renderer::new(COMMIT, 1000);
        let circumstances = Circumstances {
            sent_us: 1,
            tombstones: false,
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
                (Op::Insert, 0, b"\xff"),
                (Op::Insert, 1, &good),
                (Op::Update, 0, b"\xff"),
                (Op::Schema, 0, b"\xff"),
                (Op::Emit, 0, b"\xff"),
                (Op::Insert, 1, &good),
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
        let mut array = vec![crate::kind::ARRAY_ITEMS, 1];
        put_varint(&mut array, 400);
        array.resize(array.len() + 50, 0);
        for _ in 0..400 {
            put_varint(&mut array, 125);
            array.resize(array.len() + 125, 0xff);
        }
        put_varint(&mut image, array.len() as u64);
        image.extend_from_slice(&array);
        let bytes = body(&[relation("wide", kind)], &[(Op::Insert, 0, &image)]);
        let (done, events) = render(&bytes, "");
        assert_eq!(done, Ok(()));
        let mut expected = b"{\"c\":".to_vec();
        put_digest(&mut expected, &Sha256::digest(&array));
        expected.push(b'}');
        let (.., key) = events.last().unwrap();
        assert_eq!(*key, expected);
    }
}
