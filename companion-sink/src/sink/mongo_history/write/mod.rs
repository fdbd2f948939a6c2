//! Documents into the collections, and how far the history is.

pub mod insert;
pub mod newest_commit;
pub mod newest_versions;
pub mod offsets;
pub mod pending;
pub mod unchanged_rows;
