//! Inserting documents of which some may be there already.

use std::borrow::Borrow;

use change::trouble::Trouble;
use mongodb::Collection;
use serde::Serialize;

use crate::error::{Code, Result};
use crate::sink::mongo_history::failure::{
    Rejected, classify, refused_collection, refused_document, rejected,
};

/// A document that the server refuses for what it holds.
pub(crate) struct RefusedDocument {
    /// Its place among the documents.
    pub(crate) place: usize,
    /// What the server does not take.
    pub(crate) why: String,
}

/// Inserts the documents that are not there yet, by their `_id`; returns those that are refused. CDC1018 where the collection is.
pub(crate) async fn insert_new<T: Serialize + Send + Sync>(
    collection: &Collection<T>,
    documents: impl IntoIterator<Item = impl Borrow<T>>,
) -> Result<Vec<RefusedDocument>> {
    let documents: Vec<_> = documents.into_iter().collect();
    let mut refused = Vec::new();
    // Of a command that is refused as a whole the halves are tried, until the document is alone.
    let mut ranges = Vec::new();
    let mut next = Some(0..documents.len());
    while let Some(range) = next.take().or_else(|| ranges.pop()) {
        let some = documents[range.clone()].iter().map(Borrow::borrow);
        let Err(error) = collection.insert_many(some).ordered(false).await else {
            continue;
        };
        if let Some(why) = refused_collection(&error) {
            return Err(collection_refused(collection.name(), &why));
        }
        let failed = || classify("inserting", &error);
        if let Some(all) = rejected(&error) {
            for (place, rejected) in all {
                let place = range.start + place;
                match rejected {
                    Rejected::AlreadyThere => {}
                    Rejected::Document(why) => refused.push(RefusedDocument { place, why }),
                    Rejected::Passing => return Err(failed()),
                }
            }
            continue;
        }
        let why = refused_document(&error).ok_or_else(failed)?;
        if range.len() <= 1 {
            let place = range.start;
            refused.push(RefusedDocument { place, why });
            continue;
        }
        let middle = range.start + range.len() / 2;
        ranges.push(middle..range.end);
        ranges.push(range.start..middle);
    }
    Ok(refused)
}

/// A collection of which the server takes nothing (CDC1018).
pub(crate) fn collection_refused(collection: &str, why: &str) -> Trouble {
    Trouble::new(
        Code::CollectionRefused,
        format!("mongodb refuses the collection {collection}: {why}"),
        "Correct it on the server, then `companion-sink dlq retry --all`.",
    )
}
