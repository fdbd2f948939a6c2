//! Reading the history collections.

use std::collections::BTreeMap;

use mongodb::bson::{Document, doc};
use mongodb::sync::{Client, Collection};

/// The history documents of one table.
#[derive(Debug)]
pub struct History {
    collection: Collection<Document>,
}

impl History {
    /// The collection `<table>_history` in `database`.
    pub fn of(client: &Client, database: &str, table: &str) -> History {
        History {
            collection: client
                .database(database)
                .collection(&format!("{table}_history")),
        }
    }

    /// All documents, by version (and `_id`, for those that the end of a snapshot makes).
    ///
    /// # Panics
    /// When the store does not answer.
    pub fn all(&self) -> Vec<Document> {
        let found = self
            .collection
            .find(doc! {})
            .run()
            .expect("the history's documents");
        let mut documents: Vec<Document> = found.map(|d| d.expect("a history document")).collect();
        documents.sort_by_cached_key(|document| {
            ["version", "_id"].map(|field| document.get_str(field).expect(field).to_owned())
        });
        documents
    }

    /// Asserts that it holds `documents`, as [`History::all`] had them.
    ///
    /// # Panics
    /// With the first that is different.
    pub fn assert_is(&self, documents: &[Document]) {
        let now = self.all();
        let different = now.iter().zip(documents).find(|(now, then)| now != then);
        assert_eq!(different, None, "the first that is different");
        assert_eq!(now.len(), documents.len(), "documents");
    }

    /// The number of documents.
    ///
    /// # Panics
    /// When the store does not answer.
    pub fn count(&self) -> u64 {
        self.collection
            .count_documents(doc! {})
            .run()
            .expect("the number of history documents")
    }
}

/// The rows that are there, by their identities (`{"id":42}`), as documents in their order tell it.
///
/// # Panics
/// When a row is deleted that is not there, or that was another one.
pub fn rows(documents: &[Document]) -> BTreeMap<String, Document> {
    let mut rows = BTreeMap::new();
    for document in documents {
        match document.get_str("op").expect("op") {
            "truncate" => rows.clear(),
            "delete" | "inferred_delete" => {
                let last = rows.remove(&identity(document));
                assert_eq!(
                    last.as_ref(),
                    document.get_document("before").ok(),
                    "{document}"
                );
            }
            _ => {
                let after = document.get_document("after").expect("an image");
                rows.insert(identity(document), after.clone());
            }
        }
    }
    rows
}

/// The identities of the rows that have an inferred delete, each as often as it has one.
pub fn inferred_deletes(documents: &[Document]) -> Vec<String> {
    documents
        .iter()
        .filter(|document| document.get_str("op") == Ok("inferred_delete"))
        .map(identity)
        .collect()
}

/// The row that a document is about.
fn identity(document: &Document) -> String {
    let entity = document.get_str("entity").expect("entity");
    let (_, identity) = entity.split_once(":{").expect("an identity");
    format!("{{{identity}")
}
