//! The true order of a transaction's rows, where capture could not write them in it.
//!
//! Capture writes a chunk of an inner subtransaction before the outer rows that happened earlier, and user triggers
//! that change the same rows fire in another order than the changes were made in (`reviews/capture.md` A1). Such a
//! transaction is sorted by (command id, sequence); one that changes keys sends, within a command, all deletes
//! before all creates, so that shifted keys do not delete each other (A2).

use std::collections::HashMap;
use std::rc::Rc;

use crate::body::{self, Body, Head, Op, Row, State, put_head};
use crate::wire::{WireError, make_room, put_varint};

/// Records that are gathered before a sorted body is handed on.
const OUTPUT_BYTES: usize = 256 * 1024;

/// A row's place: sorted by this, rows are in the order in which they must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
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

/// Sorts the rows of `chunks` bodies, which `fetch` gives by index (each at least twice), and hands the sorted bodies
/// to `emit`. Takes 48 bytes of memory a row.
pub fn sort<E: From<WireError>>(
    chunks: u32,
    fetch: &mut dyn FnMut(u32) -> Result<Rc<Vec<u8>>, E>,
    emit: &mut dyn FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut places = Vec::new();
    for chunk in 0..chunks {
        let bytes = fetch(chunk)?;
        for row in Body::parse(&bytes)?.rows() {
            push_places(&mut places, &row?, chunk)?;
        }
    }
    places.sort_unstable();

    let mut output = Output::default();
    let mut held: Option<(u32, Rc<Vec<u8>>)> = None;
    let mut rest = places.as_slice();
    while let Some(first) = rest.first() {
        // Parse a body once for a run of rows out of it, not once a row.
        let run = rest
            .iter()
            .take_while(|place| place.chunk == first.chunk)
            .count();
        let bytes = match held.take() {
            Some((chunk, bytes)) if chunk == first.chunk => bytes,
            _ => fetch(first.chunk)?,
        };
        let body = Body::parse(&bytes)?;
        for place in &rest[..run] {
            let StateKey(sequence, command, context, statement_us) = place.before;
            let row = body.row_at(
                place.offset as usize,
                State {
                    sequence,
                    command,
                    context,
                    statement_us,
                },
            )?;
            output.push(&body, &row, place.half)?;
            if output.records.len() >= OUTPUT_BYTES {
                emit(output.take()?)?;
            }
        }
        held = Some((first.chunk, Rc::clone(&bytes)));
        rest = &rest[run..];
    }
    if !output.records.is_empty() {
        emit(output.take()?)?;
    }
    Ok(())
}

fn push_places(places: &mut Vec<Place>, row: &Row<'_>, chunk: u32) -> Result<(), WireError> {
    let offset = u32::try_from(row.offset).map_err(|_| WireError::Invalid("record offset"))?;
    let before = StateKey(
        row.before.sequence,
        row.before.command,
        row.before.context,
        row.before.statement_us,
    );
    // A changed key has two. Grows as `push` would, so that only this can fail.
    if places.capacity() - places.len() < 2 {
        make_room(places, places.len().max(1024))?;
    }
    let mut push = |phase: u8, half: Half| {
        places.push(Place {
            command: row.state.command,
            phase,
            sequence: row.state.sequence,
            chunk,
            half,
            offset,
            before,
        });
    };
    match row.op {
        Op::Update if row.key_changed => {
            push(0, Half::Delete);
            push(1, Half::Create);
        }
        Op::Delete => push(0, Half::Whole),
        _ => push(1, Half::Whole),
    }
    Ok(())
}

/// A body under construction, with the contexts and relations its rows need, each once.
#[derive(Default)]
struct Output {
    database: String,
    prefix: String,
    contexts: Dictionary,
    relations: Dictionary,
    state: Option<State>,
    records: Vec<u8>,
}

#[derive(Default)]
struct Dictionary {
    indexes: HashMap<Vec<u8>, u32>,
    blobs: Vec<u8>,
}

impl Dictionary {
    fn index(&mut self, blob: &[u8]) -> u32 {
        if let Some(index) = self.indexes.get(blob) {
            return *index;
        }
        let index = self.indexes.len() as u32;
        self.indexes.insert(blob.to_vec(), index);
        put_varint(&mut self.blobs, blob.len() as u64);
        self.blobs.extend_from_slice(blob);
        index
    }
}

impl Output {
    fn push(&mut self, body: &Body<'_>, row: &Row<'_>, half: Half) -> Result<(), WireError> {
        if self.records.is_empty() {
            self.database = body.database.to_owned();
            self.prefix = body.prefix.to_owned();
        }
        let context = self.contexts.index(
            body.context_blob(row.state.context)
                .ok_or(WireError::Invalid("context index"))?,
        );
        let relation = self.relations.index(body.relation_blob(row.relation));
        let state = self.state.get_or_insert(State::START);
        body::switch_context(&mut self.records, state, context);
        body::switch_statement(&mut self.records, state, row.state.statement_us);
        let op = match half {
            Half::Whole => row.op,
            Half::Delete => Op::KeyDelete,
            Half::Create => Op::KeyCreate,
        };
        let start = body::begin_row(
            &mut self.records,
            state,
            op,
            relation,
            row.state.sequence,
            row.state.command,
        );
        if row.key_changed {
            body::mark_key_changed(&mut self.records, start);
        }
        if row.crossed_filter {
            body::mark_crossed_filter(&mut self.records, start);
        }
        make_room(&mut self.records, row.images.len())?;
        self.records.extend_from_slice(row.images);
        body::end_record(&mut self.records, start);
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<u8>, WireError> {
        let done = std::mem::take(self);
        let mut bytes = Vec::new();
        make_room(&mut bytes, done.records.len() + 1024)?;
        put_head(
            &mut bytes,
            &Head {
                database: &done.database,
                prefix: &done.prefix,
                base: State::START,
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
    use crate::body::{
        Bitmaps, Column, Context, Relation, begin_image, begin_row, end_record, mark_key_changed,
        put_context,
    };
    use crate::kind::Kind;
    use proptest::prelude::*;

    /// A captured row: its command, what it is, and the chunk that capture put it into.
    #[derive(Debug, Clone, Copy)]
    struct Given {
        command: u32,
        op: Op,
        key_changed: bool,
        chunk: usize,
    }

    fn given() -> impl Strategy<Value = Given> {
        let ops = prop_oneof![
            Just(Op::Insert),
            Just(Op::Update),
            Just(Op::Delete),
            Just(Op::Truncate)
        ];
        (0u32..6, ops, any::<bool>(), 0usize..4).prop_map(|(command, op, changed, chunk)| Given {
            command,
            op,
            key_changed: changed && op == Op::Update,
            chunk,
        })
    }

    fn put_images(out: &mut Vec<u8>, op: Op, sequence: u64) {
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
            Op::Insert | Op::Delete => image(false),
            Op::Update => {
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
                    schema_hash: 2,
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
                        base: State::START,
                        contexts: (2, &contexts),
                        relations: (1, &relations),
                    },
                );
                let mut state = State::START;
                for (index, row) in rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| row.chunk == chunk)
                {
                    let sequence = index as u64 + 1;
                    body::switch_context(&mut bytes, &mut state, (sequence / 3 % 2) as u32);
                    body::switch_statement(&mut bytes, &mut state, sequence as i64 / 2);
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
        fn sorted_rows_are_all_there_in_the_order_of_their_changes(rows in prop::collection::vec(given(), 0..60)) {
            let bodies = bodies(&rows);
            let mut sorted = Vec::new();
            sort::<WireError>(
                bodies.len() as u32,
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
                            (Op::Update, true, true) => expected.push((Op::KeyDelete, sequence)),
                            (Op::Update, true, false) => expected.push((Op::KeyCreate, sequence)),
                            (Op::Delete, _, true) => expected.push((Op::Delete, sequence)),
                            (op, _, false) if op != Op::Delete => expected.push((op, sequence)),
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
                    let actor = body.contexts[row.state.context as usize].actor;
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
