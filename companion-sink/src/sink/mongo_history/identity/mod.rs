//! Which documents are of one row: keys that changed, tables and columns that were renamed.

pub(crate) mod told;

pub(crate) mod entity;

pub(crate) mod lineage;
pub(crate) mod links;
pub(crate) mod rekeyed_rows;
mod renames;
