//! A tracked table: its triggers, which are its configuration, and what may be known of it.

pub mod computed_columns;
pub mod definition;
pub mod own_trigger;
pub mod partitions;
pub mod place;
pub mod quiet;
pub mod rights;
pub mod seal;
pub mod statement;
pub mod table;
pub mod triggers;
pub mod unseen;
pub mod untrusted;
