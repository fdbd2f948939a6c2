//! Renders captured rows as events, one transaction after the other.

use self::controls::Controls;
use super::commit::{Commit, Numbers};
use super::emitted::emitted;
use super::envelope::{EventParts, Rendered, RowContext};
use super::headers::HeaderName;
use super::op::Op;
use super::passed_over::passes_over;
use super::record::{ControlEvent, Destination, Emit, Event, Sent, Stage};
use super::render_options::RenderOptions;
use super::routing::topic_of;
use super::row_key::put_key;
use super::snapshot_chunk::{ChunkEvent, Judged, Snapshots};
use super::snapshot_window::TableId;
use crate::event::envelope::row_image::{Bounds, SHORTEST_STUB_BYTES};
use crate::event::envelope::texts::BodyTexts;
use crate::wal::body::Body;
use crate::wal::emission::Emission;
use crate::wal::image::{Value, read_image, read_new_image};
use crate::wal::record::RecordKind;
use crate::wal::relation::Relation;
use crate::wal::snapshot_chunk::{ChunkBegin, ChunkEnd};
use crate::wire::{Cursor, WireError};

/// A buffer that one large row made larger is given back to this.
const KEPT_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Images that are longer than this are looked at before they are rendered: a few bytes can become many times as much (a
/// `numeric` of 131072 digits has 8).
const LOOKED_AT_BYTES: usize = 4096;

/// Renders the rows of one transaction after the other.
#[derive(Debug)]
pub struct Renderer {
    numbers: Numbers,
    snapshots: Snapshots,
    controls: Controls,
    buffers: Buffers,
}

#[derive(Debug, Default)]
struct Buffers {
    key: Vec<u8>,
    identity: Vec<u8>,
    other_key: Vec<u8>,
    /// The `snapshot` object of a row.
    snapshot: Vec<u8>,
    rendered: Rendered,
}

/// The images of the row at hand.
#[derive(Default)]
struct Images<'a> {
    before: Vec<Value<'a>>,
    after: Vec<Value<'a>>,
}

impl Renderer {
    /// Begins with the first event of `commit`; `controls` were sent before. Changes of tables of which a snapshot is being
    /// made take `max_window_bytes` at most.
    pub fn new(commit: Commit, max_window_bytes: usize, controls: Controls) -> Renderer {
        Renderer {
            numbers: Numbers::new(commit),
            snapshots: Snapshots::new(max_window_bytes),
            controls,
            buffers: Buffers::default(),
        }
    }

    /// Begins the next transaction, keeping the buffers unless a large row made them large.
    pub fn begin(&mut self, commit: Commit) {
        self.buffers.rendered.value.clear();
        self.buffers.rendered.value.shrink_to(KEPT_BUFFER_BYTES);
        self.numbers.begin(commit);
        self.snapshots.begin_transaction();
    }

    /// What was decided about the chunk that this transaction is, if it is one.
    pub fn judged(&self) -> Option<Judged> {
        self.snapshots.judged()
    }

    /// Forgets changes of tables of which no snapshot is made any more.
    pub fn forget_snapshots(&mut self, is_snapshot: &dyn Fn(TableId) -> bool) {
        self.snapshots.keep(is_snapshot);
    }

    /// Events rendered so far of this transaction.
    pub fn rendered(&self) -> u64 {
        self.numbers.sequence()
    }

    /// Renders every row of `body`, in its order.
    pub fn render<E: From<WireError>>(
        &mut self,
        body: &Body<'_>,
        options: &RenderOptions<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let mut texts = BodyTexts::new(body, options.sent_us);
        let mut images = Images::default();
        for row in body.rows() {
            let row = row?;
            if row.op == RecordKind::ChunkBegin {
                let begin = ChunkBegin::read(row.images)?;
                let table = (
                    self.numbers.commit().database_oid,
                    body.addressed(row.relation)?.oid,
                );
                self.snapshots.begin_chunk(table, &begin, options.session);
            }
            if passes_over(
                &mut self.numbers,
                &mut self.snapshots,
                body,
                &row,
                options,
                emit,
            )? {
                continue;
            }
            let is_chunk = self.snapshots.is_chunk();
            let commit = self.numbers.commit();
            texts.prepare(commit, is_chunk, body, &row, options, &self.controls)?;
            let relation = body.relation(row.relation)?;
            let here = RowContext {
                texts: &texts,
                relation,
                relation_texts: texts.relation(row.relation)?,
                row: &row,
                truncates: options.truncates,
                // In a topic of deletes alone a tombstone would only let compaction drop them.
                tombstone: options.tombstones
                    && relation.tombstones
                    && !relation.key.is_empty()
                    && relation.topics[2].is_none(),
            };
            // Taken out while they are in use: the events borrow from them.
            let mut buffers = std::mem::take(&mut self.buffers);
            let done = match row.op {
                RecordKind::Emit => {
                    let emission = Emission::read(row.images)?;
                    let context = body.context(&row.state)?;
                    let headers = &mut buffers.rendered.headers;
                    emitted(&mut self.numbers, headers, &here, &emission, &context, emit)
                }
                _ => self.table_event(&here, &mut images, &mut buffers, emit),
            };
            self.buffers = buffers;
            done?;
        }
        Ok(())
    }

    /// The events of one row, or one about its table.
    #[inline]
    fn table_event<'i, E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, 'i>,
        images: &mut Images<'i>,
        buffers: &mut Buffers,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let columns = &here.relation.columns;
        let Images { before, after } = images;
        let mut cursor = Cursor::new(here.row.images);
        match here.row.op {
            RecordKind::Insert => {
                read_image(&mut cursor, columns, after)?;
                self.row_event(here, buffers, Op::Create, None, Some(after), emit)
            }
            RecordKind::Delete => {
                read_image(&mut cursor, columns, before)?;
                self.row_event(here, buffers, Op::Delete, Some(before), None, emit)
            }
            RecordKind::Update | RecordKind::KeyDelete | RecordKind::KeyCreate => {
                read_image(&mut cursor, columns, before)?;
                read_new_image(&mut cursor, columns, before, after)?;
                self.update(here, buffers, before, after, emit)
            }
            RecordKind::Read => {
                read_image(&mut cursor, columns, after)?;
                self.row_event(here, buffers, Op::Read, None, Some(after), emit)
            }
            RecordKind::ChunkBegin => self.chunk_event(here, buffers, &ChunkEvent::Begin, emit),
            RecordKind::ChunkEnd => {
                let end = ChunkEvent::End(ChunkEnd::read(here.row.images)?);
                self.chunk_event(here, buffers, &end, emit)
            }
            RecordKind::Truncate => {
                self.touch(here, None);
                let event = EventParts::of(Op::Truncate, None);
                self.event(here, &mut buffers.rendered, &event, emit)
            }
            RecordKind::Schema => {
                let change = std::str::from_utf8(here.row.images)
                    .map_err(|_| WireError::Invalid("schema change"))?;
                let event = EventParts {
                    schema_change: Some(change),
                    ..EventParts::of(Op::Schema, None)
                };
                self.event(here, &mut buffers.rendered, &event, emit)
            }
            RecordKind::Emit => Err(WireError::Invalid("row code").into()),
        }
    }

    /// One event, or, where the key changed, a delete under the old key and a create under the new one: both halves
    /// here, or the one that sorting put here.
    fn update<E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, '_>,
        buffers: &mut Buffers,
        before: &[Value<'_>],
        after: &[Value<'_>],
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let Relation { key, .. } = here.relation;
        if here.row.op == RecordKind::Update && !here.row.key_changed {
            return self.row_event(here, buffers, Op::Update, Some(before), Some(after), emit);
        }
        let columns = (here.relation, here.relation_texts);
        if here.row.op != RecordKind::KeyCreate {
            put_key(&mut buffers.other_key, columns, key, after)?;
            self.row_event(here, buffers, Op::Delete, Some(before), None, emit)?;
        }
        if here.row.op != RecordKind::KeyDelete {
            put_key(&mut buffers.other_key, columns, key, before)?;
            self.row_event(here, buffers, Op::Create, None, Some(after), emit)?;
        }
        Ok(())
    }

    /// Remembers a changed row where a snapshot of its table is being made.
    fn touch(&mut self, here: &RowContext<'_, '_>, key: Option<&[u8]>) {
        if here.relation_texts.is_snapshot {
            let commit = self.numbers.commit();
            let table = (commit.database_oid, here.relation.oid);
            let key = key.filter(|key| !key.is_empty());
            self.snapshots.touch(table, commit.xid8, key);
        }
    }

    /// The event before or behind a chunk's rows.
    fn chunk_event<E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, '_>,
        buffers: &mut Buffers,
        event: &ChunkEvent<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let Some(text) = self.snapshots.event_text(event) else {
            self.numbers.count();
            return Ok(());
        };
        let event = EventParts {
            snapshot: Some(&text),
            ..EventParts::of(Op::Snapshot, None)
        };
        self.event(here, &mut buffers.rendered, &event, emit)
    }

    fn row_event<E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, '_>,
        buffers: &mut Buffers,
        op: Op,
        before: Option<&[Value<'_>]>,
        after: Option<&[Value<'_>]>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let Buffers {
            key,
            identity,
            other_key,
            snapshot,
            rendered,
        } = buffers;
        let image = after.or(before).unwrap_or(&[]);
        let columns = (here.relation, here.relation_texts);
        let has_key = !here.relation.key.is_empty();
        if has_key {
            put_key(key, columns, &here.relation.key, image)?;
        } else {
            key.clear();
        }
        if let Some(identity_columns) = &here.relation.identity {
            put_key(identity, columns, identity_columns, image)?;
        }
        let identity = here.relation.identity.as_ref().map(|_| &identity[..]);
        let row_key = identity.unwrap_or(key);
        self.touch(here, Some(row_key));
        snapshot.clear();
        if op == Op::Read && !self.snapshots.take_row(row_key, snapshot) {
            self.numbers.count();
            return Ok(());
        }
        let other_key_name = match op {
            Op::Delete => HeaderName::NEW_KEY,
            _ => HeaderName::OLD_KEY,
        };
        let event = EventParts {
            before,
            after,
            other_key: (here.row.key_changed && has_key)
                .then_some((other_key_name, other_key.as_slice())),
            identity,
            snapshot: (!snapshot.is_empty()).then_some(snapshot.as_slice()),
            ..EventParts::of(op, has_key.then_some(key.as_slice()))
        };
        self.event(here, rendered, &event, emit)?;
        if op == Op::Delete && here.tombstone {
            self.tombstone(here, rendered, &event, emit)?;
        }
        Ok(())
    }

    fn event<E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, '_>,
        rendered: &mut Rendered,
        event: &EventParts<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let order = self.numbers.count_of(here.relation.oid);
        let mut bounds = Bounds::NONE;
        if here.row.images.len() > LOOKED_AT_BYTES {
            let stage = Stage::Asked;
            if let Sent::Room { limit_bytes, stubs } =
                self.emit_stage(here, rendered, event, stage, emit)?
            {
                bounds.most = Some(limit_bytes);
                bounds.stubs = stubs;
            }
        }
        loop {
            let limit_bytes = match rendered.put_value(&self.numbers, here, event, order, &bounds) {
                Ok(()) => match self.send(here, rendered, event, bounds.longest, emit)? {
                    Sent::TooLarge { limit_bytes } => limit_bytes,
                    Sent::Taken | Sent::Room { .. } => return Ok(()),
                },
                Err(WireError::TooLong) => {
                    let bytes = bounds.most.unwrap_or(usize::MAX);
                    if !bounds.stubs || bounds.longest < SHORTEST_STUB_BYTES {
                        let stage = Stage::Unsendable { bytes };
                        return self
                            .emit_stage(here, rendered, event, stage, emit)
                            .map(drop);
                    }
                    bytes
                }
                Err(error) => return Err(error.into()),
            };
            bounds.longest = bounds.longest.min(limit_bytes / 2) / 2;
        }
    }

    /// Says something of an event that is not rendered.
    fn emit_stage<E: From<WireError>>(
        &self,
        here: &RowContext<'_, '_>,
        rendered: &Rendered,
        event: &EventParts<'_>,
        stage: Stage,
        emit: &mut Emit<'_, E>,
    ) -> Result<Sent, E> {
        let Relation { topic, topics, .. } = *here.relation;
        let (topic, destination) = match event.op.is_about_table() {
            false => (topic_of(topic, topics, event.op), Destination::Topic),
            true => (
                topic,
                Destination::Control(ControlEvent {
                    topic: &here.texts.control_topic,
                    version: "",
                    is_last: false,
                }),
            ),
        };
        emit(&Event {
            sequence: self.numbers.sequence(),
            topic,
            destination,
            key: event.key,
            value: Some(&[]),
            headers: &rendered.headers,
            can_shrink: false,
            stage,
        })
    }

    fn send<E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, '_>,
        rendered: &mut Rendered,
        event: &EventParts<'_>,
        longest: usize,
        emit: &mut Emit<'_, E>,
    ) -> Result<Sent, E> {
        let Relation { topic, topics, .. } = *here.relation;
        if event.op.is_about_table() {
            return self.send_control(here, rendered, event, emit);
        }
        let sinks = self.snapshots.sinks();
        rendered.put_headers(&self.numbers, here, event, 0, sinks, None);
        emit(&Event {
            sequence: self.numbers.sequence(),
            topic: topic_of(topic, topics, event.op),
            destination: Destination::Topic,
            key: event.key,
            value: Some(&rendered.value),
            headers: &rendered.headers,
            can_shrink: (event.before.is_some() || event.after.is_some())
                && longest >= SHORTEST_STUB_BYTES,
            stage: Stage::Sent,
        })
    }

    /// The null record after a delete, so that compaction can forget the key.
    fn tombstone<E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, '_>,
        rendered: &mut Rendered,
        delete: &EventParts<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<(), E> {
        let event = EventParts {
            identity: delete.identity,
            ..EventParts::of(Op::Tombstone, delete.key)
        };
        let sinks = self.snapshots.sinks();
        rendered.put_headers(&self.numbers, here, &event, 1, sinks, None);
        emit(&Event {
            sequence: self.numbers.sequence(),
            topic: topic_of(here.relation.topic, here.relation.topics, event.op),
            destination: Destination::Topic,
            key: event.key,
            value: None,
            headers: &rendered.headers,
            can_shrink: false,
            stage: Stage::Sent,
        })
        .map(drop)
    }
}

mod control;
pub mod controls;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
