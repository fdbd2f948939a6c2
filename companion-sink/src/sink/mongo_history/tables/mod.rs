//! The tables of the history: their collections, their columns, and the topics that may write them.

pub mod admission;
pub mod collection_name;
pub mod registry;
pub mod schemas;
