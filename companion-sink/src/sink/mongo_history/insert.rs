//! Inserting documents of which some may be there already.

use std::borrow::Borrow;

use mongodb::Collection;
use serde::Serialize;

use super::failure::{Rejected, classify, rejected};
use crate::error::Result;

/// A document that the server refuses for what it holds.
pub struct Refused {
    /// Its place among the documents.
    pub place: usize,
    /// The server's code.
    pub code: i32,
}

/// Inserts the documents that are not there yet, by their `_id`; returns those that are refused.
pub async fn insert_new<T: Serialize + Send + Sync>(
    collection: &Collection<T>,
    documents: impl IntoIterator<Item = impl Borrow<T>>,
) -> Result<Vec<Refused>> {
    let Err(error) = collection.insert_many(documents).ordered(false).await else {
        return Ok(Vec::new());
    };
    let failed = || classify("inserting", &error);
    let mut refused = Vec::new();
    for (place, code, rejected) in rejected(&error).ok_or_else(failed)? {
        match rejected {
            Rejected::AlreadyThere => {}
            Rejected::Document => refused.push(Refused { place, code }),
            Rejected::Passing => return Err(failed()),
        }
    }
    Ok(refused)
}
