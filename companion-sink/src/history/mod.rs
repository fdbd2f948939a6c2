//! Questions to the history: what a row was, who changed it, when and why. Read-only, for the command and for HTTP.
//!
//! A version's number is its rank among the versions of its row; nothing that is derived is stored. The order is that of
//! `version`, never that of clocks.

pub mod blame;
pub mod changes;
pub mod difference;
pub mod entity;
mod key;
pub mod moment;
pub mod place;
pub mod restore;
pub mod rows;
pub mod table;

use mongodb::bson::{Bson, Document};

/// The row after a change; none where it is gone.
pub fn state(version: &Document) -> Option<&Document> {
    match version.get_str("op") {
        Ok("create" | "update" | "snapshot") => version.get_document("after").ok(),
        _ => None,
    }
}

/// A text inside an object of a document, such as `who.actor`; none where it is NULL or empty.
pub fn text_at<'a>(version: &'a Document, object: &str, field: &str) -> Option<&'a str> {
    let object = version.get_document(object).ok()?;
    let text = object.get_str(field).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The mark of a column of the row after a change: `redacted`, `hashed`, `oversize` and so on.
pub fn mark<'a>(version: &'a Document, column: &str) -> Option<&'a str> {
    let marks = version.get_document("marks").ok()?;
    marks.get_document("after").ok()?.get_str(column).ok()
}

/// A document as JSON, numbers as numbers.
pub fn json(document: &Document) -> serde_json::Value {
    Bson::Document(document.clone()).into_relaxed_extjson()
}
