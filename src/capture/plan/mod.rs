//! The plan of a tracked table: everything about it that capture needs for a row, made once and kept until the
//! relation cache says that the table changed.

mod attributes;
mod build;
pub(crate) mod cache;
mod columns;
pub(crate) mod dropping;
mod keys;
pub(crate) mod table_plan;
mod validity;
