//! One document for each change of a row.

pub(crate) mod column_types;

pub mod array_text;
pub mod bodies;
pub mod bson_value;
pub mod diff;
pub mod document;
pub mod edited;
