//! The copy of the store in Kafka, and who writes it.

pub(crate) mod changelog;
pub(crate) mod owner;
pub(crate) mod restore;
