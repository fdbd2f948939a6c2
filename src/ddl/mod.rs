//! Changes of tracked tables' definitions: each becomes a schema event of its own transaction, in order with the rows.

pub mod before;
pub mod changed_types;
pub mod command;
pub mod drop_hook;
pub mod dropped_partitions;
pub mod event_trigger;
pub mod option_names;
pub mod partition_rows;
pub mod partitions;
pub mod schema_change;
pub mod table_changes;
pub mod touched;
pub mod truncate;
pub mod type_names;
pub mod untracking;
