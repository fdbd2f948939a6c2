//! Changes of tracked tables' definitions: each becomes a schema event of its own transaction, in order with the rows.

pub(crate) mod before;
pub(crate) mod command;
pub(crate) mod drop_hook;
pub(crate) mod event_trigger;
pub(crate) mod partitions;
pub(crate) mod renames;
pub(crate) mod schema_change;
pub(crate) mod table_changes;
pub(crate) mod touched;
pub(crate) mod truncate;
pub(crate) mod untracking;
