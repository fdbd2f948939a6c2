//! The WAL: reading it, what a record of it means, and what is held of it.

pub(crate) mod bound;
pub(super) mod event;
pub(crate) mod reader;
pub(crate) mod slot;
pub(super) mod standby;
