//! A tracked table: its triggers, which are its configuration, and what may be known of it.

pub(crate) mod computed_columns;
pub(crate) mod definition;
pub(crate) mod own_trigger;
pub(crate) mod partitions;
pub(crate) mod place;
pub(crate) mod quiet;
pub(crate) mod rights;
pub(crate) mod seal;
pub(crate) mod statement;
pub(crate) mod table;
pub(crate) mod triggers;
pub(crate) mod unseen;
pub(crate) mod untrusted;
