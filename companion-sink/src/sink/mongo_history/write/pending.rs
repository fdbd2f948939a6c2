//! Documents on their way into the collections.

use std::collections::{BTreeMap, HashMap};

use mongodb::bson::RawDocumentBuf;

use crate::rejected::failure::Failure;

/// A document to insert and the place of its event in the batch.
pub(crate) struct Pending {
    pub(crate) place: usize,
    pub(crate) document: RawDocumentBuf,
}

/// Documents by collection.
pub(crate) type Documents = BTreeMap<String, Vec<Pending>>;

/// What became of documents.
#[derive(Default)]
pub(crate) struct Inserted {
    /// Rows of snapshots that the history knows: the places of their events, and their entities.
    pub(crate) left_out: Vec<(usize, String)>,
    /// Those that the server refused, by the places of their events.
    pub(crate) refused: BTreeMap<usize, Failure>,
    /// Where each was to go, by the places of their events.
    pub(crate) collections: HashMap<usize, String>,
}
