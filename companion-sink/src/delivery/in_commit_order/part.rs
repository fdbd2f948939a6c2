//! Events that go to the target together.

use crate::kafka::record::Record;
use change::version::Place;

/// Events that go to the target at once: it is idle until the first of them are made ready, and that must be little of the whole.
const PART_BYTES: usize = 6 << 20;

/// Events that are gathered, all of commits up to `place`.
#[derive(Default)]
pub(crate) struct Part {
    pub(super) records: Vec<Record>,
    pub(super) bytes: usize,
    pub(super) place: Option<Place>,
    /// The target has events of it already, which are not committed.
    pub(super) is_begun: bool,
}

impl Part {
    pub(super) fn push(&mut self, record: Record, place: Place) {
        self.bytes += record.size_bytes();
        self.records.push(record);
        self.place = Some(place);
    }

    pub(super) fn is_full(&self, rows: usize) -> bool {
        self.records.len() >= rows || self.bytes >= PART_BYTES
    }

    /// Nothing is gathered, and the target has nothing that is not committed.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.is_begun
    }
}
