//! One document for each change of a row.

pub(crate) mod column_types;

mod array_text;
pub(crate) mod bodies;
pub(crate) mod bson_value;
mod diff;
pub(crate) mod document;
pub(crate) mod edited;
pub(crate) mod history_body;
