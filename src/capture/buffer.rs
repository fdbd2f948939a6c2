//! The rows of the running transaction, in sections per subtransaction.
//!
//! All sections lie one after the other in one buffer; a mark remembers where each began, with the state of the record
//! stream there. ROLLBACK TO SAVEPOINT cuts the buffer back to the mark, RELEASE hands the section to the parent. A full
//! buffer is written early, but only the innermost section: what is written carries the current subtransaction's xid,
//! so it dies exactly when its rows do.

use std::cell::Cell;
use std::time::{Duration, Instant};

use change::code::Code;
use change::mac_key::MacKey;
use change::trouble::Trouble;
use change::wal::body::{Head, head_capacity, put_head};
use change::wal::emission::Emission;
use change::wal::message;
use change::wal::message::{Compressor, Header, MESSAGE_PREFIX, Manifest};
use change::wal::record;
use change::wal::record::{RecordKind, RecordState};
use change::wal::snapshot_chunk::{ChunkBegin, ChunkEnd};
use pgrx::pg_sys;

use super::context::Who;
use super::image::{self, Changes, Deformed, Limits, TooLarge};
use super::nonce::Nonces;
use super::relation_plan::Plan;
use crate::catalog::database_name;
use crate::cluster_secret::chunk_key;
use crate::report::Raise;
use crate::reserve::reserve;
use crate::settings::{self, Compression};
use crate::{ffi, shared};

/// Rows captured since the last early write are looked at against `cdc.capture_buffer` once they reach this.
const MIN_CHUNK_BYTES: usize = 64 * 1024;

/// What a section's rows refer to is written early from here on: a chunk is read whole, and a table of thousands of attributes
/// takes many times in memory what it takes here.
const MAX_HEAD_BYTES: usize = 4 * 1024 * 1024;

/// Where a section began, and what of it survives so far.
struct Mark {
    subtransaction: u32,
    data_len: usize,
    relations: (u32, usize),
    contexts: (u32, usize),
    state: RecordState,
    /// In the buffer, and already in the WAL.
    rows: u64,
    key_changes: u64,
    chunks: u32,
}

/// Relations or contexts that buffered rows refer to: blobs one after the other.
#[derive(Default)]
struct Dictionary {
    count: u32,
    blobs: Vec<u8>,
}

impl Dictionary {
    fn add(&mut self, blob: &[u8]) -> u32 {
        reserve(&mut self.blobs, blob.len());
        self.blobs.extend_from_slice(blob);
        self.count += 1;
        self.count - 1
    }

    fn cut(&mut self, (count, len): (u32, usize)) {
        self.count = count;
        self.blobs.truncate(len);
    }

    fn place(&self) -> (u32, usize) {
        (self.count, self.blobs.len())
    }
}

/// What was captured in the running transaction.
pub(crate) struct Buffer {
    /// Local id of the transaction that all this belongs to; 0 for none.
    transaction: u32,
    nonce: [u8; 16],
    nonces: Nonces,
    /// The table that the newest event of this transaction truncated.
    pub truncated: Option<pg_sys::Oid>,
    next_sequence: u64,
    last_command: u32,
    unordered: bool,
    next_chunk: u32,
    first_lsn: u64,
    /// The manifest is written: what still comes must be written at once.
    pre_commit_ran: bool,
    /// Local id of the transaction for which our pre-commit callback ran last, whether it had rows then or not.
    ending: u32,
    marks: Vec<Mark>,
    data: Vec<u8>,
    state: RecordState,
    relations: Dictionary,
    /// Plan ids of the relations in the dictionary, by place.
    relation_plans: Vec<u64>,
    contexts: Dictionary,
    who: Who,
    old: Deformed,
    new: Deformed,
    body: Vec<u8>,
    sealed: Vec<u8>,
    compressor: Option<Compressor>,
    mac_key: Option<MacKey>,
    names: Names,
}

/// Names of the database, as every chunk has them.
#[derive(Default)]
struct Names {
    database: String,
    prefix: String,
    /// `cdc.topic_prefix`, from which `prefix` was made.
    setting: Vec<u8>,
}

impl Names {
    /// Follows the setting. The database keeps its name while this backend is connected to it.
    fn refresh(&mut self) {
        let setting = settings::raw(&settings::TOPIC_PREFIX);
        if self.database.is_empty() || self.setting != setting {
            self.database = database_name();
            self.prefix = settings::topic_prefix(&self.database);
            self.setting = setting.to_vec();
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer {
            transaction: 0,
            nonce: [0; 16],
            nonces: Nonces::default(),
            truncated: None,
            next_sequence: 1,
            last_command: 0,
            unordered: false,
            next_chunk: 0,
            first_lsn: 0,
            pre_commit_ran: false,
            ending: 0,
            marks: Vec::new(),
            data: Vec::new(),
            state: RecordState::START,
            relations: Dictionary::default(),
            relation_plans: Vec::new(),
            contexts: Dictionary::default(),
            who: Who::default(),
            old: Deformed::default(),
            new: Deformed::default(),
            body: Vec::new(),
            sealed: Vec::new(),
            compressor: None,
            mac_key: None,
            names: Names::default(),
        }
    }
}

/// Appends images, again and again with lower limits until the row is not too large (CDC0204).
#[inline]
fn within_limits<R>(
    plan: &Plan,
    data: &mut Vec<u8>,
    put: impl Fn(&mut Vec<u8>, Limits) -> Result<R, TooLarge>,
) -> R {
    let images = data.len();
    let mut limits = Limits::of_setting();
    loop {
        match put(data, limits) {
            Ok(done) => {
                if limits.has_stubs() {
                    tell_of_stub(plan, limits);
                }
                return done;
            }
            Err(TooLarge) => {
                data.truncate(images);
                limits = limits.lowered();
            }
        }
    }
}

/// Says so in the log, once a second: it is the writer's choice how often it happens.
#[cold]
fn tell_of_stub(plan: &Plan, limits: Limits) {
    const ONE_LINE_EVERY: Duration = Duration::from_secs(1);
    thread_local! {
        static TOLD: Cell<(Option<Instant>, u64)> = const { Cell::new((None, 0)) };
    }
    let (told_at, more) = TOLD.get();
    if told_at.is_some_and(|at| at.elapsed() < ONE_LINE_EVERY) {
        TOLD.set((told_at, more + 1));
        return;
    }
    TOLD.set((Some(Instant::now()), 0));
    let mut report = shipped_as_stub(plan, limits);
    if let (1.., Some(detail)) = (more, &mut report.detail) {
        detail.push_str(&format!(
            " So it was with {more} more rows of this session."
        ));
    }
    report.log();
}

fn shipped_as_stub(plan: &Plan, limits: Limits) -> Trouble {
    Trouble::new(Code::ValueStubbed,
        format!("a value of table \"{}\" is shipped as a stub", plan.name),
        "Raise cdc.max_value_size, or exclude the column, if readers need the value or do not need the stub.",
    )
    .detail(format!(
        "Values of a row are shipped up to {} bytes.",
        limits.value_bytes()
    ))
}

/// What a row is.
pub(crate) enum Captured<'a> {
    Inserted(pg_sys::HeapTuple),
    Deleted(pg_sys::HeapTuple),
    /// By an UPDATE: a delete, or an insert, for those who read.
    LeftFilter(pg_sys::HeapTuple),
    EnteredFilter(pg_sys::HeapTuple),
    Updated {
        old: pg_sys::HeapTuple,
        new: pg_sys::HeapTuple,
    },
    Truncated,
    /// The `schema_change` object, as JSON.
    SchemaChanged(&'a str),
    Emitted(&'a Emission<'a>),
    /// By a snapshot: the plan's columns alone, in their order.
    Found {
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    },
    ChunkBegin(&'a ChunkBegin<'a>),
    ChunkEnd(&'a ChunkEnd<'a>),
}

impl Buffer {
    /// Whether this transaction has captured rows that survive so far, in the buffer or in the WAL.
    pub(crate) fn holds_rows(&self) -> bool {
        self.transaction != 0
            && self.transaction == ffi::local_transaction_id()
            && !self.marks.is_empty()
    }

    /// Whether the newest event of the running transaction truncated this table.
    pub(crate) fn has_truncated(&self, table: pg_sys::Oid) -> bool {
        self.transaction == ffi::local_transaction_id() && self.truncated == Some(table)
    }

    /// Whether there is nothing at all to commit or abort.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.transaction == 0
    }

    /// Appends one row.
    ///
    /// # Safety
    /// The tuples belong to a relation with this plan and descriptor and are still there; the backend is in a
    /// transaction.
    pub(crate) unsafe fn capture(
        &mut self,
        plan: &Plan,
        descriptor: pg_sys::TupleDesc,
        command: u32,
        row: &Captured<'_>,
    ) {
        self.begin();
        self.truncated = None;
        if command < self.last_command {
            self.unordered = true;
        }
        self.last_command = command;
        let relation = self.relation_index(plan);
        self.put_who();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let op = match row {
            Captured::Inserted(_) | Captured::EnteredFilter(_) => RecordKind::Insert,
            Captured::Deleted(_) | Captured::LeftFilter(_) => RecordKind::Delete,
            Captured::Updated { .. } => RecordKind::Update,
            Captured::Truncated => RecordKind::Truncate,
            Captured::SchemaChanged(_) => RecordKind::Schema,
            Captured::Emitted(_) => RecordKind::Emit,
            Captured::Found { .. } => RecordKind::Read,
            Captured::ChunkBegin(_) => RecordKind::ChunkBegin,
            Captured::ChunkEnd(_) => RecordKind::ChunkEnd,
        };
        reserve(&mut self.data, 64);
        let before = (self.data.len(), self.state);
        let start = record::begin_row(
            &mut self.data,
            &mut self.state,
            op,
            relation,
            sequence,
            command,
        );
        if matches!(row, Captured::LeftFilter(_) | Captured::EnteredFilter(_)) {
            record::mark_crossed_filter(&mut self.data, start);
        }
        let mut key_changed = false;
        // SAFETY: as the caller promises.
        unsafe {
            match row {
                Captured::Inserted(tuple)
                | Captured::Deleted(tuple)
                | Captured::LeftFilter(tuple)
                | Captured::EnteredFilter(tuple) => {
                    self.new.deform(*tuple, descriptor, plan);
                    let new = &self.new;
                    within_limits(plan, &mut self.data, |data, limits| {
                        image::put_image(data, plan, new, limits)
                    });
                    record::end_record(&mut self.data, start);
                }
                Captured::Updated { old, new } => {
                    self.old.deform(*old, descriptor, plan);
                    self.new.deform(*new, descriptor, plan);
                    let (old, new) = (&self.old, &self.new);
                    let changes: Changes = within_limits(plan, &mut self.data, |data, limits| {
                        image::put_update(data, plan, start, old, new, limits)
                    });
                    if plan.skip_unchanged && !changes.any {
                        self.data.truncate(before.0);
                        self.state = before.1;
                        self.next_sequence = sequence;
                        return;
                    }
                    key_changed = changes.key;
                }
                Captured::Found { tuple, descriptor } => {
                    self.new.spread(*tuple, *descriptor, plan);
                    let new = &self.new;
                    within_limits(plan, &mut self.data, |data, limits| {
                        image::put_image(data, plan, new, limits)
                    });
                    record::end_record(&mut self.data, start);
                }
                Captured::ChunkBegin(begin) => {
                    reserve(&mut self.data, begin.capacity());
                    begin.put(&mut self.data);
                    record::end_record(&mut self.data, start);
                }
                Captured::ChunkEnd(end) => {
                    reserve(&mut self.data, end.capacity());
                    end.put(&mut self.data);
                    record::end_record(&mut self.data, start);
                }
                Captured::Truncated => record::end_record(&mut self.data, start),
                Captured::SchemaChanged(change) => {
                    reserve(&mut self.data, change.len());
                    self.data.extend_from_slice(change.as_bytes());
                    record::end_record(&mut self.data, start);
                }
                Captured::Emitted(emission) => {
                    reserve(&mut self.data, emission.capacity());
                    emission.put(&mut self.data);
                    record::end_record(&mut self.data, start);
                }
            }
        }
        let pre_commit_ran = self.pre_commit_ran;
        if let Some(mark) = self.marks.last_mut() {
            mark.rows += 1;
            mark.key_changes += u64::from(key_changed);
            let section_bytes = self.data.len() - mark.data_len;
            let head_bytes = self.relations.blobs.len() + self.contexts.blobs.len()
                - mark.relations.1
                - mark.contexts.1;
            if pre_commit_ran {
                self.write_last();
            } else if (section_bytes >= MIN_CHUNK_BYTES
                && section_bytes >= settings::CAPTURE_BUFFER.get() as usize * 1024)
                || head_bytes >= MAX_HEAD_BYTES
            {
                self.write_section(false);
            }
        }
    }

    /// Makes sure that buffer and section belong to the current (sub)transaction.
    fn begin(&mut self) {
        let transaction = ffi::local_transaction_id();
        if self.transaction != transaction {
            self.reset();
            self.nonce = self.nonces.take();
            // Another library's callback may write the first row after ours has run.
            self.pre_commit_ran = self.ending == transaction;
            self.transaction = transaction;
        }
        // SAFETY: inside a transaction.
        let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
        if self
            .marks
            .last()
            .is_none_or(|mark| mark.subtransaction != subtransaction)
        {
            self.marks.push(Mark {
                subtransaction,
                data_len: self.data.len(),
                relations: self.relations.place(),
                contexts: self.contexts.place(),
                state: self.state,
                rows: 0,
                key_changes: 0,
                chunks: 0,
            });
        }
    }

    fn relation_index(&mut self, plan: &Plan) -> u32 {
        // The newest entries first: a statement changes one table.
        match self.relation_plans.iter().rposition(|id| *id == plan.id) {
            Some(index) => index as u32,
            None => {
                self.relation_plans.push(plan.id);
                self.relations.add(&plan.blob)
            }
        }
    }

    /// Appends who and why, and the statement's start, where they differ from the row before.
    fn put_who(&mut self) {
        let (context, statement_us) = {
            let contexts = &mut self.contexts;
            self.who.current(contexts.count, |blob| contexts.add(blob))
        };
        reserve(&mut self.data, 64);
        record::switch_context(&mut self.data, &mut self.state, context);
        record::switch_statement(&mut self.data, &mut self.state, statement_us);
    }

    /// Writes the innermost section as a chunk; `last` adds the manifest of the whole transaction.
    fn write_section(&mut self, last: bool) {
        let Some(mark) = self.marks.last_mut() else {
            return;
        };
        if mark.data_len > 0 {
            // Outer rows that came first are written later.
            self.unordered = true;
        }
        self.names.refresh();
        let head = Head {
            database: &self.names.database,
            prefix: &self.names.prefix,
            base: mark.state,
            contexts: (self.contexts.count, &self.contexts.blobs),
            relations: (self.relations.count, &self.relations.blobs),
        };
        let rows = &self.data[mark.data_len..];
        self.body.clear();
        reserve(&mut self.body, head_capacity(&head) + rows.len());
        put_head(&mut self.body, &head);
        self.body.extend_from_slice(rows);
        self.sealed.clear();
        reserve(&mut self.sealed, message::sealed_capacity(self.body.len()));

        mark.chunks += 1;
        let manifest = Manifest {
            chunks: mark.chunks,
            unordered: self.unordered,
            rows: mark.rows,
            key_changes: mark.key_changes,
            first_lsn: self.first_lsn,
        };
        // SAFETY: inside a transaction; both calls assign ids where there are none yet. The record that follows carries
        // the current (sub)transaction's id.
        let (record_xid, xid8, database_oid) = unsafe {
            let record_xid = pg_sys::GetCurrentTransactionId();
            (
                u32::from(record_xid),
                pg_sys::GetTopFullTransactionId().value,
                pg_sys::MyDatabaseId.to_u32(),
            )
        };
        let header = Header {
            xid8,
            record_xid,
            number: self.next_chunk,
            nonce: self.nonce,
            database_oid,
        };
        let compressor = match settings::CHUNK_COMPRESSION.get() {
            Compression::Lz4 => Some(self.compressor.get_or_insert_default()),
            Compression::None => None,
        };
        let key = self.mac_key.get_or_insert_with(chunk_key);
        message::seal(
            &mut self.sealed,
            key,
            &header,
            last.then_some(&manifest),
            &self.body,
            compressor,
        );
        // SAFETY: inside a transaction. MESSAGE_PREFIX has no zero byte; the constant below is the same text.
        unsafe {
            debug_assert_eq!(MESSAGE_PREFIX.as_bytes(), MESSAGE_PREFIX_C.to_bytes());
            ffi::log_transactional_message(MESSAGE_PREFIX_C, &self.sealed);
            if self.first_lsn == 0 {
                self.first_lsn = pg_sys::ProcLastRecPtr;
            }
            // Of a large transaction the sender has then read most when it commits.
            if let Some(shared) = shared::shared() {
                shared.tell_of_wal(pg_sys::XactLastRecEnd);
            }
        }
        self.next_chunk += 1;

        let (data_len, relations, contexts, state) =
            (mark.data_len, mark.relations, mark.contexts, mark.state);
        self.cut(data_len, relations, contexts, state);
    }

    /// The transaction ends: from now on every row is written at once.
    pub(crate) fn pre_commit(&mut self) {
        self.ending = ffi::local_transaction_id();
        if !self.is_idle() {
            self.write_last();
            self.shrink();
        }
    }

    /// Writes what is left and the manifest: at pre-commit, before PREPARE, and at once for rows that come after that.
    fn write_last(&mut self) {
        self.pre_commit_ran = true;
        // Everything rolled back: no surviving row, no chunk that survives.
        if self
            .marks
            .last()
            .is_some_and(|mark| mark.rows > 0 || mark.chunks > 0)
        {
            self.write_section(true);
        }
    }

    fn cut(
        &mut self,
        data_len: usize,
        relations: (u32, usize),
        contexts: (u32, usize),
        state: RecordState,
    ) {
        self.data.truncate(data_len);
        self.relations.cut(relations);
        self.relation_plans.truncate(relations.0 as usize);
        self.contexts.cut(contexts);
        self.state = state;
    }

    /// A subtransaction ends well: its section becomes the parent's.
    pub(crate) fn subtransaction_committed(&mut self, subtransaction: u32, parent: u32) {
        while let Some(mut mark) = self
            .marks
            .pop_if(|mark| mark.subtransaction == subtransaction)
        {
            match self.marks.last_mut() {
                Some(outer) if outer.subtransaction == parent => {
                    outer.rows += mark.rows;
                    outer.key_changes += mark.key_changes;
                    outer.chunks += mark.chunks;
                }
                _ => {
                    mark.subtransaction = parent;
                    self.marks.push(mark);
                    return;
                }
            }
        }
    }

    /// A subtransaction is rolled back: its section never was.
    pub(crate) fn subtransaction_aborted(&mut self, subtransaction: u32) {
        while let Some(mark) = self
            .marks
            .pop_if(|mark| mark.subtransaction == subtransaction)
        {
            self.cut(mark.data_len, mark.relations, mark.contexts, mark.state);
        }
    }

    /// The transaction is over. Only forgets: allocates nothing, calls nothing. Returns how many rows were left that
    /// should have been written, which is a defect to be counted.
    pub(crate) fn reset(&mut self) -> u64 {
        let left = if self.data.is_empty() {
            0
        } else {
            self.marks.iter().map(|mark| mark.rows).sum()
        };
        self.transaction = 0;
        self.next_sequence = 1;
        self.last_command = 0;
        self.unordered = false;
        self.next_chunk = 0;
        self.first_lsn = 0;
        self.pre_commit_ran = false;
        self.truncated = None;
        self.marks.clear();
        self.cut(0, (0, 0), (0, 0), RecordState::START);
        self.who.forget();
        left
    }

    /// Gives back memory that an unusually large row took. Not for callbacks.
    fn shrink(&mut self) {
        const KEPT_BYTES: usize = 4 * 1024 * 1024;
        for buffer in [&mut self.data, &mut self.body, &mut self.sealed] {
            if buffer.capacity() > KEPT_BYTES {
                buffer.clear();
                buffer.shrink_to(KEPT_BYTES);
            }
        }
    }

    /// Nonce of the running transaction, and the sequence of its newest event.
    pub(crate) fn newest(&self) -> ([u8; 16], u64) {
        (self.nonce, self.next_sequence - 1)
    }

    /// Whether a chunk of this transaction is in the WAL.
    pub(crate) fn has_written(&self) -> bool {
        self.next_chunk > 0
    }
}

const MESSAGE_PREFIX_C: &std::ffi::CStr = c"pg_cdc";

/// Counts rows that could not be captured.
pub(crate) fn count_uncovered(rows: u64) {
    if let Some(shared) = shared::shared() {
        shared
            .uncovered_rows
            .fetch_add(rows, std::sync::atomic::Ordering::Relaxed);
    }
}
