//! Rows into the target: the fast way, the careful one, and events about whole tables.

pub(crate) mod batch;
pub(crate) mod change;
pub(crate) mod newest_versions;
pub(crate) mod pg_text;
pub(crate) mod refusal;
pub(crate) mod rows;
pub(crate) mod snapshot;
mod statements;
pub(crate) mod stream;
mod text_array;
pub(crate) mod whole_table;
