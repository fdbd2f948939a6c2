//! Changes of tracked tables' definitions: each becomes a schema event of its own transaction, in order with the rows.

pub mod before;
pub mod drop_hook;
pub mod event_trigger;
pub mod partitions;
pub mod schema_change;
