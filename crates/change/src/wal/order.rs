//! The true order of a transaction's rows, where capture could not write them in it.
//!
//! Capture writes a chunk of an inner subtransaction before the outer rows that happened earlier, and user triggers
//! that change the same rows fire in another order than the changes were made in. Such a
//! transaction is sorted by (command id, sequence); one that changes keys sends, within a command, all deletes
//! before all creates, so that shifted keys do not delete each other (A2).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;

use crate::memory::may_fail;
use crate::wal::body::{Body, Head, Row, put_head};
use crate::wal::record;
use crate::wal::record::{RecordKind, RecordState};
use crate::wire::{WireError, make_room, put_varint};

/// Records that are gathered before a sorted body is handed on.
const OUTPUT_BYTES: usize = 256 * 1024;
/// What their contexts and relations have at most before it is.
const OUTPUT_HEAD_BYTES: usize = 4 * 1024 * 1024;

/// A row's place: sorted by this, rows are in the order in which they must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RowPlace {
    command: u32,
    /// 0: deletes and delete halves, 1: all others.
    phase: u8,
    sequence: u64,
    chunk: u32,
    half: Half,
    offset: u32,
    before: StateKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Whole,
    Delete,
    Create,
}

/// The state before a record, in a form that sorts (only ever compared after everything that decides).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct StateKey(u64, u32, u32, i64);

/// The places of a chunk's rows, sorted.
struct Opened {
    chunk: u32,
    bytes: Rc<Vec<u8>>,
    places: Vec<RowPlace>,
}

impl Opened {
    fn size_bytes(&self) -> usize {
        self.places.capacity() * size_of::<RowPlace>()
    }
}

/// Sorts the rows of `chunks` bodies, which `fetch` gives by index (each at least twice), and hands the sorted bodies
/// to `emit`. Each body is sorted by itself and then they are merged: what is in memory is a place for each body, and the
/// places of the rows of those that are being read, of about `max_bytes` or one body.
pub fn sort<E: From<WireError>>(
    chunks: u32,
    max_bytes: usize,
    fetch: &mut dyn FnMut(u32) -> Result<Rc<Vec<u8>>, E>,
    emit: &mut dyn FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    // The next place of every body.
    let mut waiting = BinaryHeap::new();
    for chunk in 0..chunks {
        let bytes = fetch(chunk)?;
        let mut first: Option<RowPlace> = None;
        for row in Body::parse(&bytes)?.rows() {
            for place in places_of(&row?, chunk)?.into_iter().flatten() {
                first = Some(first.map_or(place, |first| first.min(place)));
            }
        }
        may_fail(|| waiting.try_reserve(1)).map_err(|_| WireError::OutOfMemory)?;
        waiting.extend(first.map(Reverse));
    }

    let mut output = Output::default();
    let mut opened: VecDeque<Opened> = VecDeque::new();
    let mut opened_bytes = 0;
    while let Some(Reverse(first)) = waiting.pop() {
        let found = opened.iter().position(|known| known.chunk == first.chunk);
        let current = match found.and_then(|found| opened.remove(found)) {
            Some(known) => {
                opened_bytes -= known.size_bytes();
                known
            }
            None => open(first.chunk, fetch(first.chunk)?)?,
        };
        let start = current.places.partition_point(|place| *place < first);
        let others = waiting.peek().map(|Reverse(place)| *place);
        // Parse a body once for a run of rows out of it, not once a row.
        let run = current.places[start..]
            .iter()
            .take_while(|place| others.is_none_or(|others| **place < others))
            .count();
        let body = Body::parse(&current.bytes)?;
        for place in &current.places[start..start + run] {
            let StateKey(sequence, command, context, statement_us) = place.before;
            let row = body.row_at(
                place.offset as usize,
                RecordState {
                    sequence,
                    command,
                    context,
                    statement_us,
                },
            )?;
            output.push(&body, &row, place)?;
            if output.is_full() {
                emit(output.take()?)?;
            }
        }
        if let Some(next) = current.places.get(start + run) {
            waiting.push(Reverse(*next));
            opened_bytes += current.size_bytes();
            opened.push_back(current);
            while opened_bytes > max_bytes
                && let Some(oldest) = opened.pop_front()
            {
                opened_bytes -= oldest.size_bytes();
            }
        }
    }
    if !output.records.is_empty() {
        emit(output.take()?)?;
    }
    Ok(())
}

fn open(chunk: u32, bytes: Rc<Vec<u8>>) -> Result<Opened, WireError> {
    let mut places = Vec::new();
    for row in Body::parse(&bytes)?.rows() {
        for place in places_of(&row?, chunk)?.into_iter().flatten() {
            make_room(&mut places, 1)?;
            places.push(place);
        }
    }
    places.sort_unstable();
    Ok(Opened {
        chunk,
        bytes,
        places,
    })
}

/// Where a row belongs; a changed key has two places.
fn places_of(row: &Row<'_>, chunk: u32) -> Result<[Option<RowPlace>; 2], WireError> {
    let offset = u32::try_from(row.offset).map_err(|_| WireError::Invalid("record offset"))?;
    let before = StateKey(
        row.before.sequence,
        row.before.command,
        row.before.context,
        row.before.statement_us,
    );
    let place = |phase: u8, half: Half| RowPlace {
        command: row.state.command,
        phase,
        sequence: row.state.sequence,
        chunk,
        half,
        offset,
        before,
    };
    Ok(match row.op {
        RecordKind::Update if row.key_changed => {
            [Some(place(0, Half::Delete)), Some(place(1, Half::Create))]
        }
        RecordKind::Delete => [Some(place(0, Half::Whole)), None],
        _ => [Some(place(1, Half::Whole)), None],
    })
}

/// A body under construction, with the contexts and relations its rows need, each once.
#[derive(Default)]
struct Output {
    database: String,
    prefix: String,
    contexts: Dictionary,
    relations: Dictionary,
    state: Option<RecordState>,
    records: Vec<u8>,
}

#[derive(Default)]
struct Dictionary {
    /// By the digest of what they are, and by chunk and place there.
    indexes: HashMap<[u8; 32], u32>,
    known: HashMap<(u32, u32), u32>,
    blobs: Vec<u8>,
}

impl Dictionary {
    /// The place of what a chunk has at `place`.
    fn index<'a>(
        &mut self,
        chunk: u32,
        place: u32,
        blob: impl FnOnce() -> Option<&'a [u8]>,
    ) -> Result<u32, WireError> {
        if let Some(index) = self.known.get(&(chunk, place)) {
            return Ok(*index);
        }
        let blob = blob().ok_or(WireError::Invalid("index"))?;
        let next = self.indexes.len() as u32;
        let index = *self
            .indexes
            .entry(*blake3::hash(blob).as_bytes())
            .or_insert(next);
        if index == next {
            make_room(&mut self.blobs, blob.len() + 10)?;
            put_varint(&mut self.blobs, blob.len() as u64);
            self.blobs.extend_from_slice(blob);
        }
        self.known.insert((chunk, place), index);
        Ok(index)
    }
}

impl Output {
    fn is_full(&self) -> bool {
        self.records.len() >= OUTPUT_BYTES
            || self.contexts.blobs.len() + self.relations.blobs.len() >= OUTPUT_HEAD_BYTES
    }

    fn push(&mut self, body: &Body<'_>, row: &Row<'_>, place: &RowPlace) -> Result<(), WireError> {
        if self.records.is_empty() {
            self.database = body.database.to_owned();
            self.prefix = body.prefix.to_owned();
        }
        let (chunk, context) = (place.chunk, row.state.context);
        let context = self
            .contexts
            .index(chunk, context, || body.context_blob(context))?;
        let relation = self.relations.index(chunk, row.relation as u32, || {
            Some(body.relation_blob(row.relation))
        })?;
        let state = self.state.get_or_insert(RecordState::START);
        record::switch_context(&mut self.records, state, context);
        record::switch_statement(&mut self.records, state, row.state.statement_us);
        let op = match place.half {
            Half::Whole => row.op,
            Half::Delete => RecordKind::KeyDelete,
            Half::Create => RecordKind::KeyCreate,
        };
        let start = record::begin_row(
            &mut self.records,
            state,
            op,
            relation,
            row.state.sequence,
            row.state.command,
        );
        if row.key_changed {
            record::mark_key_changed(&mut self.records, start);
        }
        if row.crossed_filter {
            record::mark_crossed_filter(&mut self.records, start);
        }
        make_room(&mut self.records, row.images.len())?;
        self.records.extend_from_slice(row.images);
        record::end_record(&mut self.records, start);
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<u8>, WireError> {
        let done = std::mem::take(self);
        let mut bytes = Vec::new();
        let head_bytes = done.contexts.blobs.len() + done.relations.blobs.len();
        make_room(&mut bytes, head_bytes + done.records.len() + 1024)?;
        put_head(
            &mut bytes,
            &Head {
                database: &done.database,
                prefix: &done.prefix,
                base: RecordState::START,
                contexts: (done.contexts.indexes.len() as u32, &done.contexts.blobs),
                relations: (done.relations.indexes.len() as u32, &done.relations.blobs),
            },
        );
        bytes.extend_from_slice(&done.records);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::kind::Kind;
    use crate::wal::context::{Context, put_context};
    use crate::wal::image::{Bitmaps, begin_image};
    use crate::wal::record::{begin_row, end_record, mark_key_changed};
    use crate::wal::relation::{Column, Relation};
    use proptest::prelude::*;

    /// A captured row: its command, what it is, and the chunk that capture put it into.
    #[derive(Debug, Clone, Copy)]
    struct Given {
        command: u32,
        op: RecordKind,
        key_changed: bool,
        chunk: usize,
    }

    fn given() -> impl Strategy<Value = Given> {
        let ops = prop_oneof![
            Just(RecordKind::Insert),
            Just(RecordKind::Update),
            Just(RecordKind::Delete),
            Just(RecordKind::Truncate)
        ];
        (0u32..6, ops, any::<bool>(), 0usize..4).prop_map(|(command, op, changed, chunk)| Given {
            command,
            op,
            key_changed: changed && op == RecordKind::Update,
            chunk,
        })
    }

    fn put_images(out: &mut Vec<u8>, op: RecordKind, sequence: u64) {
        let mut image = |changed: bool| {
            let marks = begin_image(
                out,
                1,
                Bitmaps {
                    changed,
                    ..Bitmaps::default()
                },
            );
            marks.set_changed(out, 0);
            out.extend_from_slice(&sequence.to_le_bytes());
        };
        match op {
            RecordKind::Insert | RecordKind::Delete => image(false),
            RecordKind::Update => {
                image(false);
                image(true);
            }
            _ => {}
        }
    }

    /// One body per chunk, rows in the order of their sequence, each with its own context now and then.
    fn bodies(rows: &[Given]) -> Vec<Rc<Vec<u8>>> {
        let chunks = rows.iter().map(|row| row.chunk + 1).max().unwrap_or(0);
        (0..chunks)
            .map(|chunk| {
                let mut contexts = Vec::new();
                for actor in ["ann", "bob"] {
                    put_context(
                        &mut contexts,
                        &Context {
                            actor: Some(actor),
                            ..Context::default()
                        },
                    );
                }
                let mut relations = Vec::new();
                let id = Column {
                    name: "id",
                    kind: Kind::Int8,
                    masked: None,
                };
                let relation = Relation {
                    oid: 1,
                    schema: "s",
                    table: "t",
                    topic: "d.s.t",
                    topics: [None; 4],
                    columns: vec![id],
                    key: vec![0],
                    identity: None,
                    tombstones: true,
                };
                relation.put(&mut relations);
                let mut bytes = Vec::new();
                put_head(
                    &mut bytes,
                    &Head {
                        database: "d",
                        prefix: "d",
                        base: RecordState::START,
                        contexts: (2, &contexts),
                        relations: (1, &relations),
                    },
                );
                let mut state = RecordState::START;
                for (index, row) in rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| row.chunk == chunk)
                {
                    let sequence = index as u64 + 1;
                    record::switch_context(&mut bytes, &mut state, (sequence / 3 % 2) as u32);
                    record::switch_statement(&mut bytes, &mut state, sequence as i64 / 2);
                    let start = begin_row(&mut bytes, &mut state, row.op, 0, sequence, row.command);
                    if row.key_changed {
                        mark_key_changed(&mut bytes, start);
                    }
                    put_images(&mut bytes, row.op, sequence);
                    end_record(&mut bytes, start);
                }
                Rc::new(bytes)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn sorted_rows_are_all_there_in_the_order_of_their_changes(rows in prop::collection::vec(given(), 0..60), max_bytes in 0usize..8000) {
            let bodies = bodies(&rows);
            let mut sorted = Vec::new();
            sort::<WireError>(
                bodies.len() as u32,
                max_bytes,
                &mut |chunk| Ok(Rc::clone(&bodies[chunk as usize])),
                &mut |body| {
                    sorted.push(body);
                    Ok(())
                },
            )
            .unwrap();

            // What must come out, said without the code under test: by command, deletes first, then as captured.
            let mut expected = Vec::new();
            for command in 0..6 {
                for deletes in [true, false] {
                    for (index, row) in rows.iter().enumerate().filter(|(_, row)| row.command == command) {
                        let sequence = index as u64 + 1;
                        match (row.op, row.key_changed, deletes) {
                            (RecordKind::Update, true, true) => expected.push((RecordKind::KeyDelete, sequence)),
                            (RecordKind::Update, true, false) => expected.push((RecordKind::KeyCreate, sequence)),
                            (RecordKind::Delete, _, true) => expected.push((RecordKind::Delete, sequence)),
                            (op, _, false) if op != RecordKind::Delete => expected.push((op, sequence)),
                            _ => {}
                        }
                    }
                }
            }
            let mut found = Vec::new();
            for bytes in &sorted {
                let body = Body::parse(bytes).unwrap();
                for row in body.rows() {
                    let row = row.unwrap();
                    let sequence = row.state.sequence;
                    found.push((row.op, sequence));
                    prop_assert_eq!(row.state.command, rows[sequence as usize - 1].command);
                    prop_assert_eq!(row.state.statement_us, sequence as i64 / 2);
                    let actor = body.context(&row.state).unwrap().actor;
                    prop_assert_eq!(actor, Some(if sequence / 3 % 2 == 0 { "ann" } else { "bob" }));
                    let mut images = Vec::new();
                    put_images(&mut images, rows[sequence as usize - 1].op, sequence);
                    prop_assert_eq!(row.images, images);
                }
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            if let Ok(body) = Body::parse(&bytes) {
                let _: Vec<_> = body.rows().collect();
            }
        }
    }
}
