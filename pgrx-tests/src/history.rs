//! Reading the history collections.

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

    /// All documents, by version.
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
        documents.sort_by(|a, b| {
            let version = |d: &Document| d.get_str("version").expect("version").to_owned();
            version(a).cmp(&version(b))
        });
        documents
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
