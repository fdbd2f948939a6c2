//! Questions to the history: what a row was, who changed it, when and why. Read-only, for the command and for HTTP.
//!
//! A version's number is its rank among the versions of its row; nothing that is derived is stored. The order is that of
//! `version`, never that of clocks.

pub(crate) mod blame;
pub(crate) mod change_text;
pub(crate) mod changes;
pub(crate) mod cursor;
pub(crate) mod difference;
pub(crate) mod entity;
pub(crate) mod key;
pub(crate) mod key_value;
pub(crate) mod moment;
pub(crate) mod restore;
pub(crate) mod rows;
pub(crate) mod table;
mod table_name;

use mongodb::bson::{Bson, Document};

/// The row after a change; none where it is gone.
pub(crate) fn state(version: &Document) -> Option<&Document> {
    match version.get_str("op") {
        Ok("create" | "update" | "read") => version.get_document("after").ok(),
        _ => None,
    }
}

/// A text inside an object of a document, such as `who.actor`; none where it is NULL or empty.
pub(crate) fn text_at<'a>(version: &'a Document, object: &str, field: &str) -> Option<&'a str> {
    let object = version.get_document(object).ok()?;
    let text = object.get_str(field).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The mark of a column of the row after a change: `redacted`, `hashed`, `truncated`, `oversize`.
pub(crate) fn mark<'a>(version: &'a Document, column: &str) -> Option<&'a str> {
    mark_in(version, "after", column)
}

/// The same of an image, `before` or `after`.
pub(crate) fn mark_in<'a>(version: &'a Document, image: &str, column: &str) -> Option<&'a str> {
    let marks = version
        .get_document("marks")
        .ok()?
        .get_document(image)
        .ok()?;
    match marks.get(column)? {
        Bson::String(mark) => Some(mark),
        // A stub, with what is known of the value.
        Bson::Document(_) => Some("oversize"),
        _ => None,
    }
}

/// The marks of the row after a change, by column; none where it has none.
pub(crate) fn marks(version: &Document) -> Option<&Document> {
    let marks = version
        .get_document("marks")
        .ok()?
        .get_document("after")
        .ok()?;
    (!marks.is_empty()).then_some(marks)
}

/// `left` or `entered`, of an update by which the row crossed its table's filter.
pub(crate) fn crossed_filter(version: &Document) -> Option<&str> {
    version.get_document("marks").ok()?.get_str("filter").ok()
}

/// Who edited the event before it was applied, and why; the columns as the source had sent them.
pub(crate) fn edited(version: &Document) -> Option<&Document> {
    version.get_document("edited").ok()
}

/// A document as JSON, numbers as numbers.
pub(crate) fn json(document: &Document) -> serde_json::Value {
    Bson::Document(document.clone()).into_relaxed_extjson()
}
