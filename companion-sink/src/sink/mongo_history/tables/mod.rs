//! The tables of the history: their collections, their columns, and the topics that may write them.

pub(crate) mod admission;
mod collection_name;
pub(crate) mod registry;
pub(crate) mod schemas;
