//! Rows into the target: the fast way, the careful one, and events about whole tables.

pub mod batch;
pub mod change;
pub mod newest_versions;
pub mod pg_text;
pub mod refusal;
pub mod rows;
pub mod snapshot;
pub mod statements;
pub mod stream;
pub mod text_array;
pub mod whole_table;
