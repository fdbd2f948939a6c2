//! Which documents are of one row: keys that changed, tables and columns that were renamed.

pub(crate) mod entity;

pub mod lineage;
pub mod links;
pub mod rekeyed_rows;
pub mod renames;
