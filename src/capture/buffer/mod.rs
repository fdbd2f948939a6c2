//! The rows of the running transaction: encoded, kept in sections, and written to the WAL as messages.
//!
//! A full buffer is written early, but only the innermost section: what is written carries the current subtransaction's
//! xid, so it dies exactly when its rows do.

pub(crate) mod captured;
mod message_writer;
mod row_encoder;
mod sections;

use captured::Captured;
use change::wal::message::Manifest;
use change::wal::record;
use message_writer::{MessageWriter, shrink};
use pgrx::pg_sys;
use row_encoder::RowEncoder;
use sections::Sections;

use crate::capture::context::Who;
use crate::capture::nonce::Nonces;
use crate::capture::plan::table_plan::Plan;
use crate::reserve::reserve;
use crate::settings;
use crate::{ffi, shared};

/// Rows captured since the last early write are looked at against `cdc.capture_buffer` once they reach this.
const MIN_MESSAGE_BYTES: usize = 64 * 1024;

/// What a section's rows refer to is written early from here on: a message is read whole, and a table of thousands of attributes
/// takes many times in memory what it takes here.
const MAX_HEAD_BYTES: usize = 4 * 1024 * 1024;

/// What was captured in the running transaction.
pub(crate) struct Buffer {
    /// Local id of the transaction that all this belongs to; 0 for none.
    transaction: u32,
    nonces: Nonces,
    /// The table that the newest event of this transaction truncated.
    pub truncated: Option<pg_sys::Oid>,
    next_sequence: u64,
    last_command: u32,
    unordered: bool,
    /// The manifest is written: what still comes must be written at once.
    pre_commit_ran: bool,
    /// Local id of the transaction for which our pre-commit callback ran last, whether it had rows then or not.
    ending: u32,
    sections: Sections,
    who: Who,
    encoder: RowEncoder,
    messages: MessageWriter,
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer {
            transaction: 0,
            nonces: Nonces::default(),
            truncated: None,
            next_sequence: 1,
            last_command: 0,
            unordered: false,
            pre_commit_ran: false,
            ending: 0,
            sections: Sections::default(),
            who: Who::default(),
            encoder: RowEncoder::default(),
            messages: MessageWriter::default(),
        }
    }
}

impl Buffer {
    /// Whether this transaction has captured rows that survive so far, in the buffer or in the WAL.
    pub(crate) fn holds_rows(&self) -> bool {
        self.transaction != 0
            && self.transaction == ffi::local_transaction_id()
            && !self.sections.marks.is_empty()
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
        let relation = self.sections.relation_index(plan);
        self.put_who();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let sections = &mut self.sections;
        reserve(&mut sections.data, 64);
        let before = (sections.data.len(), sections.state);
        let start = record::begin_row(
            &mut sections.data,
            &mut sections.state,
            row.kind(),
            relation,
            sequence,
            command,
        );
        if row.has_crossed_filter() {
            record::mark_crossed_filter(&mut sections.data, start);
        }
        // SAFETY: as the caller promises.
        let changes = unsafe {
            self.encoder
                .put(&mut sections.data, start, plan, descriptor, row)
        };
        if plan.skip_unchanged && !changes.any {
            sections.data.truncate(before.0);
            sections.state = before.1;
            self.next_sequence = sequence;
            return;
        }
        if let Some(mark) = sections.marks.last_mut() {
            mark.rows += 1;
            mark.key_changes += u64::from(changes.key);
            self.write_if_full();
        }
    }

    /// Writes the innermost section early if it is large, and at once when the transaction ends.
    #[inline]
    fn write_if_full(&mut self) {
        let Some(mark) = self.sections.marks.last() else {
            return;
        };
        let section_bytes = self.sections.data.len() - mark.start.data_len;
        let head_bytes = self.sections.head_bytes(&mark.start);
        if self.pre_commit_ran {
            self.write_last();
        } else if (section_bytes >= MIN_MESSAGE_BYTES
            && section_bytes >= settings::CAPTURE_BUFFER.get() as usize * 1024)
            || head_bytes >= MAX_HEAD_BYTES
        {
            self.write_section(false);
        }
    }

    /// Makes sure that buffer and section belong to the current (sub)transaction.
    fn begin(&mut self) {
        let transaction = ffi::local_transaction_id();
        if self.transaction != transaction {
            self.reset();
            self.messages.nonce = self.nonces.take();
            // Another library's callback may write the first row after ours has run.
            self.pre_commit_ran = self.ending == transaction;
            self.transaction = transaction;
        }
        // SAFETY: inside a transaction.
        let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
        self.sections.enter(subtransaction);
    }

    /// Appends who and why, and the statement's start, where they differ from the row before.
    fn put_who(&mut self) {
        let sections = &mut self.sections;
        let (context, statement_us) = {
            let contexts = &mut sections.contexts;
            self.who.current(contexts.count, |blob| contexts.add(blob))
        };
        reserve(&mut sections.data, 64);
        record::switch_context(&mut sections.data, &mut sections.state, context);
        record::switch_statement(&mut sections.data, &mut sections.state, statement_us);
    }

    /// Writes the innermost section as a message; `last` adds the manifest of the whole transaction.
    fn write_section(&mut self, last: bool) {
        let Some(mark) = self.sections.marks.last_mut() else {
            return;
        };
        if mark.start.data_len > 0 {
            // Outer rows that came first are written later.
            self.unordered = true;
        }
        mark.messages += 1;
        let manifest = Manifest {
            chunks: mark.messages,
            unordered: self.unordered,
            rows: mark.rows,
            key_changes: mark.key_changes,
            first_lsn: self.messages.first_lsn(),
        };
        let start = mark.start;
        self.messages
            .write(&self.sections, &start, last.then_some(&manifest));
        self.sections.cut(&start);
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
        // Everything rolled back: no surviving row, no message that survives.
        if self
            .sections
            .marks
            .last()
            .is_some_and(|mark| mark.rows > 0 || mark.messages > 0)
        {
            self.write_section(true);
        }
    }

    /// A subtransaction ends well: its section becomes the parent's.
    pub(crate) fn subtransaction_committed(&mut self, subtransaction: u32, parent: u32) {
        self.sections.committed(subtransaction, parent);
    }

    /// A subtransaction is rolled back: its section never was.
    pub(crate) fn subtransaction_aborted(&mut self, subtransaction: u32) {
        self.sections.aborted(subtransaction);
    }

    /// The transaction is over. Only forgets: allocates nothing, calls nothing. Returns how many rows were left that
    /// should have been written, which is a defect to be counted.
    pub(crate) fn reset(&mut self) -> u64 {
        let left = self.sections.unwritten_rows();
        self.transaction = 0;
        self.next_sequence = 1;
        self.last_command = 0;
        self.unordered = false;
        self.pre_commit_ran = false;
        self.truncated = None;
        self.sections.clear();
        self.messages.reset();
        self.who.forget();
        left
    }

    /// Gives back memory that an unusually large row took. Not for callbacks.
    fn shrink(&mut self) {
        const KEPT_BYTES: usize = 4 * 1024 * 1024;
        shrink(&mut self.sections.data, KEPT_BYTES);
        self.messages.shrink(KEPT_BYTES);
    }

    /// Nonce of the running transaction, and the sequence of its newest event.
    pub(crate) fn newest(&self) -> ([u8; 16], u64) {
        (self.messages.nonce, self.next_sequence - 1)
    }

    /// Whether a message of this transaction is in the WAL.
    pub(crate) fn has_written(&self) -> bool {
        self.messages.has_written()
    }
}

/// Counts rows that could not be captured.
pub(crate) fn count_uncovered(rows: u64) {
    if let Some(shared) = shared::shared() {
        shared
            .uncovered_rows
            .fetch_add(rows, std::sync::atomic::Ordering::Relaxed);
    }
}
