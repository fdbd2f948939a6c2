//! The rows of a chunk as capture writes them, and how the sender reads them.
//!
//! ```text
//! body     database, topic prefix | base state: sequence, command, context, statement time
//!          contexts: count, (length, context)*     who and why, as the rows refer to them
//!          relations: count, (length, relation)*   names, topic, columns, key: no catalog is needed to read the rows
//!          records*
//! record   length (4) | code (1) | rest
//!          16 context switch: index                 17 statement: its start, microseconds since 2000-01-01
//!          1..11 row: relation, sequence and command as differences to the row before | images
//!          (+64: an UPDATE by which the row crossed the filter; +128: an UPDATE of the key)
//! image    flags (1): bit 0 null bitmap, bit 1 changed bitmap, bit 2 stub bitmap
//!          | [changed bitmap] [null bitmap] [stub bitmap] values
//! stub     bytes (8) | SHA-256 (32)      instead of a value that is too large to be shipped
//! ```
//! An UPDATE has the whole old image and, of the new one, only the columns that changed. Strings are UTF-8.

use std::cell::OnceCell;

use crate::kind::Kind;
use crate::value::take_value;
use crate::wire::{Cursor, WireError, make_room, put_bytes, put_optional, put_signed, put_varint};

const CODE_CONTEXT: u8 = 16;
const CODE_STATEMENT: u8 = 17;
const CODE_KEY_CHANGED: u8 = 0x80;
/// Of an insert or a delete: an UPDATE by which the row began or ceased to pass the table's filter.
const CODE_CROSSED_FILTER: u8 = 0x40;
const IMAGE_NULLS: u8 = 1;
const IMAGE_CHANGED: u8 = 2;
const IMAGE_STUBS: u8 = 4;
/// Bytes of a stub.
const STUB_BYTES: usize = 8 + 32;
/// Bytes of a record before its content.
const RECORD_LENGTH_BYTES: usize = 4;

/// What happened to a row (or to the table).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Insert = 1,
    Update = 2,
    Delete = 3,
    Truncate = 4,
    /// A change of the table's definition; the image is the `schema_change` JSON object.
    Schema = 5,
    /// The delete half of an UPDATE that changed the key, after sorting; the images are the UPDATE's.
    KeyDelete = 6,
    /// The create half.
    KeyCreate = 7,
    /// An event of the application's own; the image is an [`Emission`].
    Emit = 8,
    /// A row that a snapshot found.
    Read = 9,
    /// Before the rows of a snapshot's chunk; the image is a [`crate::snapshot::ChunkBegin`].
    ChunkBegin = 10,
    /// Behind them; the image is a [`crate::snapshot::ChunkEnd`].
    ChunkEnd = 11,
}

impl Op {
    fn from_code(code: u8) -> Result<Op, WireError> {
        Ok(match code {
            1 => Op::Insert,
            2 => Op::Update,
            3 => Op::Delete,
            4 => Op::Truncate,
            5 => Op::Schema,
            6 => Op::KeyDelete,
            7 => Op::KeyCreate,
            8 => Op::Emit,
            9 => Op::Read,
            10 => Op::ChunkBegin,
            11 => Op::ChunkEnd,
            _ => return Err(WireError::Invalid("row code")),
        })
    }
}

/// What a row inherits from the record before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Order of capture inside the transaction, from 1; rolled back savepoints leave holes.
    pub sequence: u64,
    /// PostgreSQL's command id: a row changes at most once per command, and a later command has a higher one.
    pub command: u32,
    /// Index into the contexts of the chunk.
    pub context: u32,
    /// Start of the statement, microseconds since 2000-01-01.
    pub statement_us: i64,
}

impl State {
    pub const START: State = State {
        sequence: 0,
        command: 0,
        context: u32::MAX,
        statement_us: i64::MIN,
    };
}

/// Who changed it and why, as read once per transaction and again when changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context<'a> {
    /// Start of the transaction, microseconds since 2000-01-01.
    pub transaction_us: i64,
    pub pid: i32,
    pub session_user: Option<&'a str>,
    pub current_user: Option<&'a str>,
    pub application_name: Option<&'a str>,
    pub client_addr: Option<&'a str>,
    pub actor: Option<&'a str>,
    pub reason: Option<&'a str>,
    pub request_id: Option<&'a str>,
    /// Further settings and what `cdc_context` was given: one JSON object.
    pub context: Option<&'a str>,
    /// Name of the replication origin whose changes these are, for rows that a subscription applied.
    pub origin: Option<&'a str>,
}

/// Appends a context with its length.
pub fn put_context(out: &mut Vec<u8>, context: &Context<'_>) {
    let mut blob = Vec::with_capacity(128);
    blob.extend_from_slice(&context.transaction_us.to_le_bytes());
    blob.extend_from_slice(&context.pid.to_le_bytes());
    for text in [
        context.session_user,
        context.current_user,
        context.application_name,
        context.client_addr,
        context.actor,
        context.reason,
        context.request_id,
        context.context,
        context.origin,
    ] {
        put_optional(&mut blob, text);
    }
    put_bytes(out, &blob);
}

/// Gives a context that [`put_context`] wrote another start of the transaction.
pub fn set_transaction(context: &mut [u8], transaction_us: i64) {
    // Behind the length.
    if let Some(length_bytes) = context.iter().position(|byte| *byte < 0x80)
        && let Some(place) = context.get_mut(length_bytes + 1..length_bytes + 9)
    {
        place.copy_from_slice(&transaction_us.to_le_bytes());
    }
}

fn read_context(blob: &[u8]) -> Result<Context<'_>, WireError> {
    let mut cursor = Cursor::new(blob);
    Ok(Context {
        transaction_us: cursor.i64()?,
        pid: cursor.u32()? as i32,
        session_user: cursor.optional()?,
        current_user: cursor.optional()?,
        application_name: cursor.optional()?,
        client_addr: cursor.optional()?,
        actor: cursor.optional()?,
        reason: cursor.optional()?,
        request_id: cursor.optional()?,
        context: cursor.optional()?,
        origin: cursor.optional()?,
    })
}

/// A column as it was when the row was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub masked: Option<Masked>,
}

/// What stands in an image instead of the column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Masked {
    Hashed = 1,
    /// The image has NULL.
    Redacted = 2,
    Truncated = 3,
}

impl Masked {
    fn from_code(code: u8) -> Result<Option<Masked>, WireError> {
        Ok(match code {
            0 => None,
            1 => Some(Masked::Hashed),
            2 => Some(Masked::Redacted),
            3 => Some(Masked::Truncated),
            _ => return Err(WireError::Invalid("mask")),
        })
    }
}

/// A tracked table as it was when the row was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation<'a> {
    pub oid: u32,
    /// First four bytes of the hash of the column list: changes with every change of names, types or order.
    pub schema_hash: u32,
    pub schema: &'a str,
    pub table: &'a str,
    pub topic: &'a str,
    /// Topics of inserts, updates, deletes and truncates, where they have one of their own.
    pub topics: [Option<&'a str>; 4],
    pub columns: Vec<Column<'a>>,
    /// Kafka key: indexes into `columns`, in key order; empty: no key.
    pub key: Vec<usize>,
    /// Identity of the row where it is not the Kafka key: indexes into `columns`.
    pub identity: Option<Vec<usize>>,
    /// Deletes of this table are followed by a tombstone.
    pub tombstones: bool,
}

impl Relation<'_> {
    /// Appends the relation with its length: capture does this once per plan and copies the bytes from then on.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut blob = Vec::with_capacity(64 + self.columns.len() * 16);
        blob.extend_from_slice(&self.oid.to_le_bytes());
        blob.extend_from_slice(&self.schema_hash.to_le_bytes());
        blob.push(u8::from(self.tombstones));
        for text in [self.schema, self.table, self.topic] {
            put_bytes(&mut blob, text.as_bytes());
        }
        for topic in self.topics {
            put_optional(&mut blob, topic);
        }
        put_varint(&mut blob, self.columns.len() as u64);
        for column in &self.columns {
            put_bytes(&mut blob, column.name.as_bytes());
            column.kind.put(&mut blob);
            blob.push(column.masked.map_or(0, |masked| masked as u8));
        }
        put_indexes(&mut blob, &self.key);
        match &self.identity {
            None => blob.push(0),
            Some(identity) => {
                blob.push(1);
                put_indexes(&mut blob, identity);
            }
        }
        put_bytes(out, &blob);
    }
}

fn put_indexes(out: &mut Vec<u8>, indexes: &[usize]) {
    put_varint(out, indexes.len() as u64);
    for index in indexes {
        put_varint(out, *index as u64);
    }
}

fn read_indexes(cursor: &mut Cursor<'_>, columns: usize) -> Result<Vec<usize>, WireError> {
    let count = cursor.varint()?;
    let mut indexes = Vec::new();
    for _ in 0..count {
        let index = cursor.varint()? as usize;
        if index >= columns {
            return Err(WireError::Invalid("column index"));
        }
        indexes.push(index);
    }
    Ok(indexes)
}

/// The relation in an entry that [`Relation::put`] wrote.
pub fn relation_of(entry: &[u8]) -> Result<Relation<'_>, WireError> {
    read_relation(Cursor::new(entry).bytes()?)
}

/// What the entry of a relation begins with: enough to know whom its rows are for.
#[derive(Debug, Clone, Copy)]
pub struct Addressed<'a> {
    pub oid: u32,
    schema_hash: u32,
    tombstones: bool,
    schema: &'a str,
    table: &'a str,
    pub topic: &'a str,
    pub topics: [Option<&'a str>; 4],
}

fn read_addressed<'a>(cursor: &mut Cursor<'a>) -> Result<Addressed<'a>, WireError> {
    Ok(Addressed {
        oid: cursor.u32()?,
        schema_hash: cursor.u32()?,
        tombstones: cursor.u8()? != 0,
        schema: cursor.text()?,
        table: cursor.text()?,
        topic: cursor.text()?,
        topics: [
            cursor.optional()?,
            cursor.optional()?,
            cursor.optional()?,
            cursor.optional()?,
        ],
    })
}

fn read_relation(blob: &[u8]) -> Result<Relation<'_>, WireError> {
    let mut cursor = Cursor::new(blob);
    let Addressed {
        oid,
        schema_hash,
        tombstones,
        schema,
        table,
        topic,
        topics,
    } = read_addressed(&mut cursor)?;
    let count = cursor.varint()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(Column {
            name: cursor.text()?,
            kind: Kind::read(&mut cursor)?,
            masked: Masked::from_code(cursor.u8()?)?,
        });
    }
    let key = read_indexes(&mut cursor, columns.len())?;
    let identity = match cursor.u8()? {
        0 => None,
        _ => Some(read_indexes(&mut cursor, columns.len())?),
    };
    Ok(Relation {
        oid,
        schema_hash,
        schema,
        table,
        topic,
        topics,
        columns,
        key,
        identity,
        tombstones,
    })
}

/// What stands before the records of a body.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub database: &'a str,
    /// Topic prefix of the database: `source.name` in the events.
    pub prefix: &'a str,
    pub base: State,
    /// Contexts with their lengths, one after the other, and their number.
    pub contexts: (u32, &'a [u8]),
    /// Relations likewise.
    pub relations: (u32, &'a [u8]),
}

/// Appends everything of a body but its records.
pub fn put_head(out: &mut Vec<u8>, head: &Head<'_>) {
    put_bytes(out, head.database.as_bytes());
    put_bytes(out, head.prefix.as_bytes());
    put_varint(out, head.base.sequence);
    put_varint(out, u64::from(head.base.command));
    out.extend_from_slice(&head.base.context.to_le_bytes());
    out.extend_from_slice(&head.base.statement_us.to_le_bytes());
    for (count, blobs) in [head.contexts, head.relations] {
        put_varint(out, u64::from(count));
        out.extend_from_slice(blobs);
    }
}

/// Bytes that `put_head` needs at most.
pub fn head_capacity(head: &Head<'_>) -> usize {
    head.database.len() + head.prefix.len() + head.contexts.1.len() + head.relations.1.len() + 64
}

/// Begins a record; `end_record` takes the returned position.
#[inline]
fn begin_record(out: &mut Vec<u8>, code: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, code]);
    start
}

/// Writes the length of the record that began at `start`.
#[inline]
pub fn end_record(out: &mut [u8], start: usize) {
    let len = (out.len() - start - RECORD_LENGTH_BYTES) as u32;
    out[start..start + RECORD_LENGTH_BYTES].copy_from_slice(&len.to_le_bytes());
}

/// Appends a switch to another context, if it is another one.
#[inline]
pub fn switch_context(out: &mut Vec<u8>, state: &mut State, context: u32) {
    if state.context != context {
        state.context = context;
        let start = begin_record(out, CODE_CONTEXT);
        put_varint(out, u64::from(context));
        end_record(out, start);
    }
}

/// Appends the start of another statement, if it is another one.
#[inline]
pub fn switch_statement(out: &mut Vec<u8>, state: &mut State, statement_us: i64) {
    if state.statement_us != statement_us {
        state.statement_us = statement_us;
        let start = begin_record(out, CODE_STATEMENT);
        out.extend_from_slice(&statement_us.to_le_bytes());
        end_record(out, start);
    }
}

/// Begins a row: its images follow, then `end_record`. `state` moves on to this row.
#[inline]
pub fn begin_row(
    out: &mut Vec<u8>,
    state: &mut State,
    op: Op,
    relation: u32,
    sequence: u64,
    command: u32,
) -> usize {
    let start = begin_record(out, op as u8);
    put_varint(out, u64::from(relation));
    put_signed(out, sequence.wrapping_sub(state.sequence) as i64);
    put_signed(out, i64::from(command) - i64::from(state.command));
    state.sequence = sequence;
    state.command = command;
    start
}

/// Marks the row that began at `start` as an UPDATE of its key.
#[inline]
pub fn mark_key_changed(out: &mut [u8], start: usize) {
    out[start + RECORD_LENGTH_BYTES] |= CODE_KEY_CHANGED;
}

/// Marks the insert or delete that began at `start` as an UPDATE by which the row crossed the table's filter.
#[inline]
pub fn mark_crossed_filter(out: &mut [u8], start: usize) {
    out[start + RECORD_LENGTH_BYTES] |= CODE_CROSSED_FILTER;
}

/// An event of the application's own: a key, a payload and headers, as it gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission<'a> {
    pub key: Option<&'a str>,
    /// JSON; none for a record without value.
    pub payload: Option<&'a str>,
    /// Names and values.
    pub headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Emission<'a> {
    /// Bytes that [`Emission::put`] needs at most.
    pub fn capacity(&self) -> usize {
        let len = |text: Option<&str>| text.map_or(0, str::len) + 10;
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + 20)
            .sum();
        len(self.key) + len(self.payload) + headers + 10
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        put_optional(out, self.key);
        put_optional(out, self.payload);
        put_varint(out, self.headers.len() as u64);
        for (name, value) in &self.headers {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }

    /// Reads what [`Emission::put`] wrote.
    pub fn read(image: &'a [u8]) -> Result<Emission<'a>, WireError> {
        let mut cursor = Cursor::new(image);
        let (key, payload) = (cursor.optional()?, cursor.optional()?);
        let mut headers = Vec::new();
        for _ in 0..cursor.varint()? {
            headers.push((cursor.text()?, cursor.text()?));
        }
        Ok(Emission {
            key,
            payload,
            headers,
        })
    }
}

/// Positions of the bitmaps of an image that is being written.
#[derive(Debug, Clone, Copy)]
pub struct ImageMarks {
    changed: Option<usize>,
    nulls: Option<usize>,
    stubs: Option<usize>,
}

/// Bytes that [`begin_image`] appends at most.
pub fn image_head_capacity(columns: usize) -> usize {
    1 + 3 * columns.div_ceil(8)
}

/// The bitmaps that an image has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bitmaps {
    pub nulls: bool,
    /// Only for the new image of an UPDATE.
    pub changed: bool,
    pub stubs: bool,
}

/// Begins an image of `columns` columns with room for the bitmaps it needs; the values follow in column order.
#[inline]
pub fn begin_image(out: &mut Vec<u8>, columns: usize, bitmaps: Bitmaps) -> ImageMarks {
    let bitmap_bytes = columns.div_ceil(8);
    let flag = |flag: u8, wanted: bool| if wanted { flag } else { 0 };
    out.push(
        flag(IMAGE_NULLS, bitmaps.nulls)
            | flag(IMAGE_CHANGED, bitmaps.changed)
            | flag(IMAGE_STUBS, bitmaps.stubs),
    );
    let mut bitmap = |wanted: bool| {
        wanted.then(|| {
            let start = out.len();
            out.resize(start + bitmap_bytes, 0);
            start
        })
    };
    ImageMarks {
        changed: bitmap(bitmaps.changed),
        nulls: bitmap(bitmaps.nulls),
        stubs: bitmap(bitmaps.stubs),
    }
}

impl ImageMarks {
    /// Says that column `index` is NULL. Only for images begun with `nulls`.
    #[inline]
    pub fn set_null(&self, out: &mut [u8], index: usize) {
        if let Some(start) = self.nulls {
            out[start + index / 8] |= 1 << (index % 8);
        }
    }

    /// Appends a stub for column `index`: the value has `bytes` bytes and this digest. Only for images begun with
    /// `stubs`.
    pub fn put_stub(&self, out: &mut Vec<u8>, index: usize, bytes: u64, sha256: &[u8; 32]) {
        if let Some(start) = self.stubs {
            out[start + index / 8] |= 1 << (index % 8);
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(sha256);
        }
    }

    /// Says that column `index` changed, and so is in the image. Only for images begun with `changed`.
    #[inline]
    pub fn set_changed(&self, out: &mut [u8], index: usize) {
        if let Some(start) = self.changed {
            out[start + index / 8] |= 1 << (index % 8);
        }
    }
}

/// A decoded body. Rows are decoded one by one, and what they refer to when it is asked for: what one table brings along
/// does not keep the rows of others from being read.
#[derive(Debug)]
pub struct Body<'a> {
    pub database: &'a str,
    pub prefix: &'a str,
    pub base: State,
    contexts: Vec<&'a [u8]>,
    relations: Vec<RelationEntry<'a>>,
    records: &'a [u8],
}

#[derive(Debug)]
struct RelationEntry<'a> {
    blob: &'a [u8],
    read: OnceCell<Box<Relation<'a>>>,
}

impl<'a> Body<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Body<'a>, WireError> {
        let mut cursor = Cursor::new(bytes);
        let database = cursor.text()?;
        let prefix = cursor.text()?;
        let base = State {
            sequence: cursor.varint()?,
            command: u32::try_from(cursor.varint()?)
                .map_err(|_| WireError::Invalid("command id"))?,
            context: cursor.u32()?,
            statement_us: cursor.i64()?,
        };
        let mut contexts = Vec::new();
        for _ in 0..cursor.varint()? {
            make_room(&mut contexts, 1)?;
            contexts.push(cursor.bytes()?);
        }
        let mut relations = Vec::new();
        for _ in 0..cursor.varint()? {
            make_room(&mut relations, 1)?;
            relations.push(RelationEntry {
                blob: cursor.bytes()?,
                read: OnceCell::new(),
            });
        }
        Ok(Body {
            database,
            prefix,
            base,
            contexts,
            relations,
            records: cursor.rest(),
        })
    }

    /// How many relations the rows refer to.
    pub fn relations(&self) -> usize {
        self.relations.len()
    }

    /// A relation that rows refer to, read once.
    pub fn relation(&self, index: usize) -> Result<&Relation<'a>, WireError> {
        let entry = self
            .relations
            .get(index)
            .ok_or(WireError::Invalid("relation index"))?;
        match entry.read.get() {
            Some(relation) => Ok(relation),
            None => {
                let relation = read_relation(entry.blob)?;
                Ok(entry.read.get_or_init(|| Box::new(relation)))
            }
        }
    }

    /// The same, as far as one must know it who does not want its rows.
    pub fn addressed(&self, index: usize) -> Result<Addressed<'a>, WireError> {
        read_addressed(&mut Cursor::new(self.relation_blob(index)))
    }

    /// Who and why, of a row with this state.
    pub fn context(&self, state: &State) -> Result<Context<'a>, WireError> {
        let blob = self.context_blob(state.context);
        read_context(blob.ok_or(WireError::Invalid("context index"))?)
    }

    /// The rows, from the first record on.
    pub fn rows(&self) -> Rows<'_, 'a> {
        Rows {
            body: self,
            state: self.base,
            rest: Cursor::new(self.records),
        }
    }

    /// The row whose record begins `offset` bytes into the records, `state` being that of the record before.
    pub fn row_at(&self, offset: usize, state: State) -> Result<Row<'a>, WireError> {
        let records = self.records.get(offset..).ok_or(WireError::Truncated)?;
        Rows {
            body: self,
            state,
            rest: Cursor::new(records),
        }
        .next()
        .unwrap_or(Err(WireError::Truncated))
    }

    pub fn context_blob(&self, index: u32) -> Option<&'a [u8]> {
        self.contexts.get(index as usize).copied()
    }

    pub fn relation_blob(&self, index: usize) -> &'a [u8] {
        self.relations[index].blob
    }
}

/// One row (or table event) of a body.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub op: Op,
    pub key_changed: bool,
    /// An insert or delete that is an UPDATE: the row entered or left the table's filter.
    pub crossed_filter: bool,
    /// Index into the body's relations, checked.
    pub relation: usize,
    /// With the row's own sequence, command, context and statement.
    pub state: State,
    /// State before this record and its position: what `row_at` needs to come back.
    pub before: State,
    pub offset: usize,
    pub images: &'a [u8],
}

/// Iterator over the rows of a body; stops after the first error.
#[derive(Debug)]
pub struct Rows<'b, 'a> {
    body: &'b Body<'a>,
    state: State,
    rest: Cursor<'a>,
}

impl<'a> Rows<'_, 'a> {
    fn advance(&mut self) -> Result<Option<Row<'a>>, WireError> {
        while !self.rest.is_empty() {
            let offset = self.body.records.len() - self.rest.rest().len();
            let before = self.state;
            let len = self.rest.u32()? as usize;
            let mut record = Cursor::new(self.rest.take(len)?);
            match record.u8()? {
                CODE_CONTEXT => {
                    self.state.context = u32::try_from(record.varint()?)
                        .map_err(|_| WireError::Invalid("context index"))?;
                }
                CODE_STATEMENT => self.state.statement_us = record.i64()?,
                code => {
                    let relation = record.varint()? as usize;
                    if relation >= self.body.relations.len() {
                        return Err(WireError::Invalid("relation index"));
                    }
                    self.state.sequence = self.state.sequence.wrapping_add(record.signed()? as u64);
                    self.state.command =
                        u32::try_from(i64::from(self.state.command).wrapping_add(record.signed()?))
                            .map_err(|_| WireError::Invalid("command id"))?;
                    return Ok(Some(Row {
                        op: Op::from_code(code & !(CODE_KEY_CHANGED | CODE_CROSSED_FILTER))?,
                        key_changed: code & CODE_KEY_CHANGED != 0,
                        crossed_filter: code & CODE_CROSSED_FILTER != 0,
                        relation,
                        state: self.state,
                        before,
                        offset,
                        images: record.rest(),
                    }));
                }
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Rows<'_, 'a> {
    type Item = Result<Row<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.rest = Cursor::new(&[]);
        }
        next.transpose()
    }
}

/// What an image has for a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Given(&'a [u8]),
    /// The value was too large: its length and SHA-256.
    Stub {
        bytes: u64,
        sha256: &'a [u8],
    },
}

/// Reads a whole image into `values`: one entry per column.
pub fn read_image<'a>(
    cursor: &mut Cursor<'a>,
    columns: &[Column<'_>],
    values: &mut Vec<Value<'a>>,
) -> Result<(), WireError> {
    read_values(cursor, columns, None, values)
}

/// Reads the new image of an UPDATE: unchanged columns are taken from `before`.
pub fn read_new_image<'a>(
    cursor: &mut Cursor<'a>,
    columns: &[Column<'_>],
    before: &[Value<'a>],
    values: &mut Vec<Value<'a>>,
) -> Result<(), WireError> {
    read_values(cursor, columns, Some(before), values)
}

fn read_values<'a>(
    cursor: &mut Cursor<'a>,
    columns: &[Column<'_>],
    before: Option<&[Value<'a>]>,
    values: &mut Vec<Value<'a>>,
) -> Result<(), WireError> {
    let flags = cursor.u8()?;
    if flags & !(IMAGE_NULLS | IMAGE_CHANGED | IMAGE_STUBS) != 0
        || (flags & IMAGE_CHANGED != 0) != before.is_some()
    {
        return Err(WireError::Invalid("image flags"));
    }
    let bitmap_bytes = columns.len().div_ceil(8);
    let mut bitmap = |flag: u8| match flags & flag {
        0 => Ok(None),
        _ => cursor.take(bitmap_bytes).map(Some),
    };
    let changed = bitmap(IMAGE_CHANGED)?;
    let nulls = bitmap(IMAGE_NULLS)?;
    let stubs = bitmap(IMAGE_STUBS)?;
    let is_set = |bitmap: Option<&[u8]>, index: usize| {
        bitmap.is_some_and(|bitmap| bitmap[index / 8] >> (index % 8) & 1 == 1)
    };
    values.clear();
    for (index, column) in columns.iter().enumerate() {
        let value = match before {
            Some(before) if !is_set(changed, index) => {
                *before.get(index).ok_or(WireError::Invalid("old image"))?
            }
            _ if is_set(nulls, index) => Value::Null,
            _ if is_set(stubs, index) => {
                let mut stub = Cursor::new(cursor.take(STUB_BYTES)?);
                Value::Stub {
                    bytes: stub.u64()?,
                    sha256: stub.rest(),
                }
            }
            _ => Value::Given(take_value(cursor, &column.kind)?),
        };
        values.push(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A value of a fixed and of a counted kind, or NULL.
    type Pair = (Option<i64>, Option<Vec<u8>>);

    fn put(out: &mut Vec<u8>, kind: &Kind, bytes: &[u8]) {
        if kind.fixed_len().is_none() {
            put_varint(out, bytes.len() as u64);
        }
        out.extend_from_slice(bytes);
    }

    fn flat(rows: &[Pair]) -> Vec<Option<Vec<u8>>> {
        rows.iter()
            .flat_map(|(number, bytes)| {
                [
                    number.map(|number| number.to_le_bytes().to_vec()),
                    bytes.clone(),
                ]
            })
            .collect()
    }

    #[test]
    fn only_the_transactions_start_is_replaced() {
        for reason in ["moved", &"long ".repeat(100)] {
            let before = Context {
                transaction_us: 1,
                pid: 7,
                reason: Some(reason),
                ..Context::default()
            };
            let mut blob = Vec::new();
            put_context(&mut blob, &before);
            set_transaction(&mut blob, -2);
            let read = Cursor::new(&blob).bytes().map(read_context);
            let after = Context {
                transaction_us: -2,
                ..before
            };
            assert_eq!(read, Ok(Ok(after)));
        }
    }

    proptest! {
        #[test]
        fn images_come_back(old: [Pair; 5], new: [Pair; 5], same in any::<[bool; 5]>(), large in 2usize..20, stubs: bool) {
            let kinds: Vec<Kind> = (0..5).flat_map(|_| [Kind::Int8, Kind::Bytea]).collect();
            let columns: Vec<Column<'_>> = kinds.iter().map(|kind| Column { name: "c", kind: kind.clone(), masked: None }).collect();
            let new: Vec<Pair> = old.iter().zip(&new).zip(same).map(|((old, new), same)| if same { old.clone() } else { new.clone() }).collect();
            let (old, new) = (flat(&old), flat(&new));
            let is_stub = |value: &[u8]| stubs && value.len() > large;
            let digest = [7; 32];

            let mut out = Vec::new();
            let put_one = |out: &mut Vec<u8>, marks: &ImageMarks, index: usize, value: &Option<Vec<u8>>| match value {
                None => marks.set_null(out, index),
                Some(value) if is_stub(value) => marks.put_stub(out, index, value.len() as u64, &digest),
                Some(value) => put(out, &kinds[index], value),
            };
            let marks = begin_image(&mut out, kinds.len(), Bitmaps { nulls: old.contains(&None), changed: false, stubs });
            old.iter().enumerate().for_each(|(index, value)| put_one(&mut out, &marks, index, value));
            let marks = begin_image(&mut out, kinds.len(), Bitmaps { nulls: new.contains(&None), changed: true, stubs });
            for (index, value) in new.iter().enumerate().filter(|(index, value)| old[*index] != **value) {
                marks.set_changed(&mut out, index);
                put_one(&mut out, &marks, index, value);
            }

            let mut cursor = Cursor::new(&out);
            let (mut before, mut after) = (Vec::new(), Vec::new());
            read_image(&mut cursor, &columns, &mut before).unwrap();
            read_new_image(&mut cursor, &columns, &before, &mut after).unwrap();
            prop_assert!(cursor.is_empty());
            for (read, written) in [(&before, &old), (&after, &new)] {
                let expected: Vec<Value<'_>> = written.iter().map(|value| match value {
                    None => Value::Null,
                    Some(value) if is_stub(value) => Value::Stub { bytes: value.len() as u64, sha256: &digest },
                    Some(value) => Value::Given(value),
                }).collect();
                prop_assert_eq!(read, &expected);
            }
        }
    }
}
