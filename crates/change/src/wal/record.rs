//! Records of a body: what happened to rows, in the order in which capture has seen it.

use crate::wire::{WireError, put_signed, put_varint};

pub(super) const CODE_CONTEXT: u8 = 16;
pub(super) const CODE_STATEMENT: u8 = 17;
pub(super) const CODE_KEY_CHANGED: u8 = 0x80;
/// Of an insert or a delete: an UPDATE by which the row began or ceased to pass the table's filter.
pub(super) const CODE_CROSSED_FILTER: u8 = 0x40;
/// Bytes of a record before its content.
const RECORD_LENGTH_BYTES: usize = 4;

/// What happened to a row (or to the table).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
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
    /// Before the rows of a snapshot's chunk; the image is a [`crate::event::snapshot_window::ChunkBegin`].
    ChunkBegin = 10,
    /// Behind them; the image is a [`crate::event::snapshot_window::ChunkEnd`].
    ChunkEnd = 11,
}

impl RecordKind {
    pub(super) fn from_code(code: u8) -> Result<RecordKind, WireError> {
        Ok(match code {
            1 => RecordKind::Insert,
            2 => RecordKind::Update,
            3 => RecordKind::Delete,
            4 => RecordKind::Truncate,
            5 => RecordKind::Schema,
            6 => RecordKind::KeyDelete,
            7 => RecordKind::KeyCreate,
            8 => RecordKind::Emit,
            9 => RecordKind::Read,
            10 => RecordKind::ChunkBegin,
            11 => RecordKind::ChunkEnd,
            _ => return Err(WireError::Invalid("row code")),
        })
    }
}

/// What a row inherits from the record before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordState {
    /// Order of capture inside the transaction, from 1; rolled back savepoints leave holes.
    pub sequence: u64,
    /// PostgreSQL's command id: a row changes at most once per command, and a later command has a higher one.
    pub command: u32,
    /// Index into the contexts of the chunk.
    pub context: u32,
    /// Start of the statement, microseconds since 2000-01-01.
    pub statement_us: i64,
}

impl RecordState {
    pub const START: RecordState = RecordState {
        sequence: 0,
        command: 0,
        context: u32::MAX,
        statement_us: i64::MIN,
    };
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
pub fn switch_context(out: &mut Vec<u8>, state: &mut RecordState, context: u32) {
    if state.context != context {
        state.context = context;
        let start = begin_record(out, CODE_CONTEXT);
        put_varint(out, u64::from(context));
        end_record(out, start);
    }
}

/// Appends the start of another statement, if it is another one.
#[inline]
pub fn switch_statement(out: &mut Vec<u8>, state: &mut RecordState, statement_us: i64) {
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
    state: &mut RecordState,
    op: RecordKind,
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
