//! What a replay changes.

/// What a replay changed in a table or a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The table or collection, as people name it.
    pub(crate) table: String,
    /// Rows or documents that were missing.
    pub(crate) inserted: u64,
    /// Those with other values.
    pub(crate) updated: u64,
    /// Those that should not have been there.
    pub(crate) deleted: u64,
}

impl Changes {
    /// Rows or documents that were written.
    pub(crate) fn total(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    /// Adds what was changed in the same table afterwards.
    pub(crate) fn add(&mut self, more: &Changes) {
        self.inserted += more.inserted;
        self.updated += more.updated;
        self.deleted += more.deleted;
    }
}
