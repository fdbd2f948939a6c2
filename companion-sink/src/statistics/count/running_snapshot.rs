//! A snapshot of the source that is under way, as the store has it.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::statistics::kept::codec::Malformed;
use crate::statistics::kept::store::damaged;

/// A snapshot that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningSnapshot {
    /// The source's number of it.
    pub(crate) id: i64,
    /// The version of its beginning.
    pub(crate) begin: String,
    /// It says nothing of rows that it has not got.
    pub(crate) is_partial: bool,
    /// Nothing of the topic was counted when it began: rows without a key count only then, for nobody knows them again.
    pub(crate) is_first: bool,
}

impl RunningSnapshot {
    /// As the store has it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // A text, numbers and two truths are JSON always.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what the store has.
    pub(crate) fn read(bytes: &[u8]) -> Result<RunningSnapshot> {
        serde_json::from_slice(bytes).map_err(|_| damaged(Malformed))
    }
}
