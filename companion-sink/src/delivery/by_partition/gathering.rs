//! Events that are gathered up to a batch.

use crate::sink::batch::BATCH_BYTES;
use crate::sink::batch::Batch;

#[derive(Default)]
pub(crate) struct Gathered {
    pub(super) batch: Batch,
    pub(super) bytes: usize,
    pub(super) duplicates: u64,
    /// Whether any position moved.
    pub(super) touched: bool,
}

impl Gathered {
    pub(super) fn is_full(&self, rows: usize) -> bool {
        self.batch.records.len() >= rows || self.bytes >= BATCH_BYTES
    }
}
