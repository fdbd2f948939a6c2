//! What is captured and not written yet, in sections per subtransaction.
//!
//! All sections lie one after the other in one buffer; a mark remembers where each began, with the state of the record
//! stream there. ROLLBACK TO SAVEPOINT cuts the buffer back to the mark, RELEASE hands the section to the parent.

use change::wal::record::RecordState;

use crate::capture::plan::table_plan::Plan;
use crate::reserve::reserve;

/// Where a section begins.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub data_len: usize,
    relations: (u32, usize),
    contexts: (u32, usize),
    pub state: RecordState,
}

impl Start {
    const OF_ALL: Start = Start {
        data_len: 0,
        relations: (0, 0),
        contexts: (0, 0),
        state: RecordState::START,
    };
}

/// Where a section began, and what of it survives so far.
pub(super) struct Mark {
    subtransaction: u32,
    pub start: Start,
    /// In the buffer, and already in the WAL.
    pub rows: u64,
    pub key_changes: u64,
    pub messages: u32,
}

/// Relations or contexts that buffered rows refer to: blobs one after the other.
#[derive(Default)]
pub(super) struct Dictionary {
    pub count: u32,
    pub blobs: Vec<u8>,
}

impl Dictionary {
    pub(super) fn add(&mut self, blob: &[u8]) -> u32 {
        reserve(&mut self.blobs, blob.len());
        self.blobs.extend_from_slice(blob);
        self.count += 1;
        self.count - 1
    }

    fn cut(&mut self, (count, len): (u32, usize)) {
        self.count = count;
        self.blobs.truncate(len);
    }

    #[inline]
    fn end(&self) -> (u32, usize) {
        (self.count, self.blobs.len())
    }
}

/// The sections of the running transaction, the innermost last.
pub(super) struct Sections {
    pub marks: Vec<Mark>,
    pub data: Vec<u8>,
    pub state: RecordState,
    pub relations: Dictionary,
    /// Plan ids of the relations in the dictionary, in its order.
    relation_plans: Vec<u64>,
    pub contexts: Dictionary,
}

impl Default for Sections {
    fn default() -> Self {
        Sections {
            marks: Vec::new(),
            data: Vec::new(),
            state: RecordState::START,
            relations: Dictionary::default(),
            relation_plans: Vec::new(),
            contexts: Dictionary::default(),
        }
    }
}

impl Sections {
    /// Begins a section where the innermost one belongs to another subtransaction.
    #[inline]
    pub(super) fn enter(&mut self, subtransaction: u32) {
        if self
            .marks
            .last()
            .is_none_or(|mark| mark.subtransaction != subtransaction)
        {
            self.marks.push(Mark {
                subtransaction,
                start: Start {
                    data_len: self.data.len(),
                    relations: self.relations.end(),
                    contexts: self.contexts.end(),
                    state: self.state,
                },
                rows: 0,
                key_changes: 0,
                messages: 0,
            });
        }
    }

    /// Index of the plan's table in the dictionary.
    #[inline]
    pub(super) fn relation_index(&mut self, plan: &Plan) -> u32 {
        // The newest entries first: a statement changes one table.
        match self.relation_plans.iter().rposition(|id| *id == plan.id) {
            Some(index) => index as u32,
            None => {
                self.relation_plans.push(plan.id);
                self.relations.add(&plan.blob)
            }
        }
    }

    /// What the rows of a section that begins here refer to, bytes.
    #[inline]
    pub(super) fn head_bytes(&self, start: &Start) -> usize {
        self.relations.blobs.len() + self.contexts.blobs.len()
            - start.relations.1
            - start.contexts.1
    }

    /// Forgets what lies behind `start`.
    pub(super) fn cut(&mut self, start: &Start) {
        self.data.truncate(start.data_len);
        self.relations.cut(start.relations);
        self.relation_plans.truncate(start.relations.0 as usize);
        self.contexts.cut(start.contexts);
        self.state = start.state;
    }

    /// A subtransaction ends well: its section becomes the parent's.
    pub(super) fn committed(&mut self, subtransaction: u32, parent: u32) {
        while let Some(mut mark) = self
            .marks
            .pop_if(|mark| mark.subtransaction == subtransaction)
        {
            match self.marks.last_mut() {
                Some(outer) if outer.subtransaction == parent => {
                    outer.rows += mark.rows;
                    outer.key_changes += mark.key_changes;
                    outer.messages += mark.messages;
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
    pub(super) fn aborted(&mut self, subtransaction: u32) {
        while let Some(mark) = self
            .marks
            .pop_if(|mark| mark.subtransaction == subtransaction)
        {
            self.cut(&mark.start);
        }
    }

    /// Rows in the buffer that no message has.
    pub(super) fn unwritten_rows(&self) -> u64 {
        if self.data.is_empty() {
            0
        } else {
            self.marks.iter().map(|mark| mark.rows).sum()
        }
    }

    /// Forgets everything, and allocates nothing.
    pub(super) fn clear(&mut self) {
        self.marks.clear();
        self.cut(&Start::OF_ALL);
    }
}
