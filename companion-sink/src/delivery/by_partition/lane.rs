//! A partition, as one run of a sink reads it.

use crate::delivery::endless_copies::EndlessCopies;
use crate::kafka::record::Record;
use change::version::Place;
use std::time::Instant;

/// A partition as this run reads it.
pub(crate) struct Lane {
    /// Position that the target has.
    pub(super) stored_next: i64,
    /// The offset that comes next in this run; ahead of the stored one while a batch is gathered.
    pub(super) next: i64,
    /// Highest version seen, empty for none.
    pub(super) version: String,
    pub(super) epoch: u32,
    /// When the reader was told to read it.
    pub(super) assigned: Instant,
    /// The version was raised by a control event, which has no offset here, and the target does not know yet.
    pub(super) is_version_new: bool,
    /// Nothing is known of what came before, and the log no longer has it.
    pub(super) is_cut: bool,
    /// The control event that the next record names, which was not read yet.
    pub(super) waits_for: Option<String>,
    /// The event for all partitions that this one waits at.
    pub(super) held: Option<Record>,
    /// The other instances know that it waits there.
    pub(super) is_noted: bool,
    /// The event, with its commit, that is beyond what the sender has come to: it is read again when that is clear.
    pub(super) doubted: Option<(Place, i64)>,
    /// The offset of one that turned out to be none.
    pub(super) disbelieved: Option<i64>,
    pub(super) copies: EndlessCopies,
}

impl Lane {
    /// Read from `next` on, the position that the target has.
    pub(super) fn new(next: i64, version: String, epoch: u32) -> Lane {
        Lane {
            stored_next: next,
            next,
            is_cut: version.is_empty() && next > 0,
            version,
            epoch,
            assigned: Instant::now(),
            is_version_new: false,
            waits_for: None,
            held: None,
            is_noted: false,
            doubted: None,
            disbelieved: None,
            copies: EndlessCopies::default(),
        }
    }

    /// Whether it is not read at present.
    pub(super) fn rests(&self) -> bool {
        self.held.is_some() || self.doubted.is_some() || self.waits_for.is_some()
    }
}
