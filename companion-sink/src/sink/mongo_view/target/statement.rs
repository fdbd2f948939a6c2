//! Statements that write a view.

use mongodb::bson::{Bson, Document, doc, to_vec};

use crate::sink::mongo_view::plan::{ID, REFUSED, VERSION};

/// MongoDB's limit of a document, in bytes, less what a command adds.
const DOCUMENT_BYTES_MAX: usize = (16 << 20) - 1024;
/// What goes into one command.
pub(crate) const COMMAND_BYTES_MAX: usize = 8 << 20;

/// What a command does.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Replaces documents, or inserts them.
    Update,
    /// Deletes documents.
    Delete,
}

/// A statement of a command, and what it takes.
#[derive(Clone)]
pub(crate) struct Statement {
    /// As the command has it.
    pub(crate) document: Document,
    /// Its size.
    pub(crate) bytes: usize,
}

impl Statement {
    /// Deletes the document that this one writes.
    pub(crate) fn without_document(&self) -> Option<Statement> {
        let query = self.document.get_document("q").ok()?;
        let id = query.get(ID)?.clone();
        Some(statement(doc! { "q": { ID: id }, "limit": 1 }))
    }
}

/// Whether what has the limit itself is not found by a statement's filter.
pub(crate) fn limit_is_left_out(query: &Document) -> bool {
    let mut limits = query.values().filter_map(Bson::as_document);
    limits.any(|limit| limit.contains_key("$lt"))
}

/// A statement and its size.
pub(crate) fn statement(document: Document) -> Statement {
    // What cannot be measured is refused when it is sent.
    let bytes = to_vec(&document).map_or(COMMAND_BYTES_MAX, |bytes| bytes.len());
    Statement { document, bytes }
}

/// Writes a document. In the place of one that no server takes there is one that says so.
pub(crate) fn replacing(id: Bson, mut document: Document, version: &str) -> Statement {
    document.insert(VERSION, version);
    let of = |document: Document| {
        statement(doc! {
            "q": { ID: id.clone(), VERSION: { "$lte": version } },
            "u": document,
            "upsert": true,
        })
    };
    let whole = of(document);
    match whole.bytes > DOCUMENT_BYTES_MAX {
        false => whole,
        true => of(doc! {
            ID: id.clone(), VERSION: version, REFUSED: ["the document is larger than 16 MB"],
        }),
    }
}
