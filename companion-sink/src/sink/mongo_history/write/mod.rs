//! Documents into the collections, and how far the history is.

pub(crate) mod insert;
pub(crate) mod newest_commit;
pub(crate) mod newest_versions;
pub(crate) mod offsets;
pub(crate) mod pending;
pub(crate) mod unchanged_rows;
