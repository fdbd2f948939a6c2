//! Changes of tracked tables' definitions: each becomes a schema event of its own transaction, in order with the rows.

pub(crate) mod before;
pub(crate) mod changed_types;
pub(crate) mod command;
pub(crate) mod drop_hook;
pub(crate) mod dropped_partitions;
pub(crate) mod event_trigger;
pub(crate) mod option_names;
pub(crate) mod partition_rows;
pub(crate) mod partitions;
pub(crate) mod schema_change;
pub(crate) mod table_changes;
pub(crate) mod touched;
pub(crate) mod truncate;
pub(crate) mod type_names;
pub(crate) mod untracking;
