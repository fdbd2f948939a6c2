//! A snapshot reads rows whose history is known already: only those that differ from it are a fact of their own.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

use super::Pending;
use super::failure::classify;
use crate::error::Result;

/// The last image of each row, `None` for one that is gone.
type LastImages = HashMap<String, Option<Bson>>;

/// Leaves out the rows of snapshots that equal the newest image of their entity.
pub async fn leave_out(
    collection: &Collection<RawDocumentBuf>,
    pending: Vec<Pending>,
) -> Result<Vec<Pending>> {
    // Looked at as it is: outside of snapshots nothing is parsed.
    let is_of_snapshot = |pending: &Pending| pending.document.get_str("op") == Ok("snapshot");
    if !pending.iter().any(is_of_snapshot) {
        return Ok(pending);
    }
    let documents: Vec<Option<Document>> = pending
        .iter()
        .map(|pending| Document::try_from(pending.document.as_ref()).ok())
        .collect();
    let read: Vec<&str> = documents
        .iter()
        .flatten()
        .filter(|document| is_read(document))
        .filter_map(|document| document.get_str("entity").ok())
        .collect();
    let mut last = last_images(collection, &read).await?;
    let mut kept = Vec::with_capacity(pending.len());
    for (pending, document) in pending.into_iter().zip(documents) {
        let Some((document, entity)) = document
            .as_ref()
            .and_then(|document| Some((document, document.get_str("entity").ok()?)))
        else {
            kept.push(pending);
            continue;
        };
        let image = image_of(document);
        if !is_read(document) || last.get(entity) != Some(&image) {
            last.insert(entity.to_owned(), image);
            kept.push(pending);
        }
    }
    Ok(kept)
}

fn is_read(document: &Document) -> bool {
    document.get_str("op") == Ok("snapshot")
}

fn image_of(document: &Document) -> Option<Bson> {
    document
        .get("after")
        .filter(|after| **after != Bson::Null)
        .cloned()
}

async fn last_images(
    collection: &Collection<RawDocumentBuf>,
    entities: &[&str],
) -> Result<LastImages> {
    let failed = |error| classify("reading the newest versions", &error);
    let mut last = LastImages::new();
    let mut found = collection
        .clone_with_type::<Document>()
        .find(doc! { "entity": { "$in": entities } })
        .sort(doc! { "entity": 1, "version": -1 })
        .projection(doc! { "entity": 1, "after": 1 })
        .await
        .map_err(failed)?;
    while let Some(document) = found.try_next().await.map_err(failed)? {
        if let Ok(entity) = document.get_str("entity")
            && !last.contains_key(entity)
        {
            last.insert(entity.to_owned(), image_of(&document));
        }
    }
    Ok(last)
}
