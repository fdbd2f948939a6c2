//! A snapshot reads rows whose history is known already: only those that differ from it are a fact of their own.

use std::collections::HashMap;

use mongodb::Collection;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

use crate::error::Result;
use crate::sink::mongo_history::write::newest_versions::NewestVersions;
use crate::sink::mongo_history::write::newest_versions::truncates;
use crate::sink::mongo_history::write::pending::Pending;

/// The last version and image of each row, no image for one that is gone.
type LastImages = HashMap<String, (String, Option<Bson>)>;

/// What a batch has for a collection.
pub(crate) struct Sifted<'p> {
    /// To be written.
    pub(crate) kept: Vec<&'p Pending>,
    /// Rows of snapshots that the history knows: the places of their events in the batch, and their entities.
    pub(crate) left_out: Vec<(usize, String)>,
}

/// Leaves out the rows of snapshots that equal the newest image of their entity. Only what is older than a row counts, so
/// that reading the same events again leaves out the same rows.
pub(crate) async fn leave_out<'p>(
    collection: &Collection<RawDocumentBuf>,
    table: &str,
    pending: Vec<&'p Pending>,
) -> Result<Sifted<'p>> {
    let mut sifted = Sifted {
        kept: Vec::with_capacity(pending.len()),
        left_out: Vec::new(),
    };
    // Looked at as it is: outside of snapshots nothing is parsed.
    let is_of_snapshot = |pending: &&Pending| pending.document.get_str("op") == Ok("read");
    if !pending.iter().any(is_of_snapshot) {
        sifted.kept = pending;
        return Ok(sifted);
    }
    let documents: Vec<Option<Document>> = pending
        .iter()
        .map(|pending| Document::try_from(pending.document.as_ref()).ok())
        .collect();
    let mut last = last_images(collection, &first_reads(&documents)).await?;
    let mut truncated = truncates(collection, table, doc! {}).await?;
    let of_batch = documents
        .iter()
        .flatten()
        .filter(|document| is(document, "truncate"));
    truncated.extend(of_batch.filter_map(|document| Some(parts(document)?.1.to_owned())));
    truncated.sort_unstable();
    for (pending, document) in pending.into_iter().zip(documents) {
        let Some((document, (entity, version))) = document
            .as_ref()
            .and_then(|document| Some((document, parts(document)?)))
        else {
            sifted.kept.push(pending);
            continue;
        };
        let image = image_of(document);
        let known = last.get(entity).filter(|(since, _)| {
            let before = truncated.partition_point(|truncate| truncate.as_str() < version);
            before == 0 || truncated[before - 1] < *since
        });
        if is(document, "read") && known.is_some_and(|(_, known)| *known == image) {
            sifted.left_out.push((pending.place, entity.to_owned()));
        } else {
            last.insert(entity.to_owned(), (version.to_owned(), image));
            sifted.kept.push(pending);
        }
    }
    Ok(sifted)
}

fn is(document: &Document, op: &str) -> bool {
    document.get_str("op") == Ok(op)
}

/// Entity and version.
fn parts(document: &Document) -> Option<(&str, &str)> {
    Some((
        document.get_str("entity").ok()?,
        document.get_str("version").ok()?,
    ))
}

fn image_of(document: &Document) -> Option<Bson> {
    document
        .get("after")
        .filter(|after| **after != Bson::Null)
        .cloned()
}

/// The entities that a snapshot read, with the version of their first row in the batch.
fn first_reads(documents: &[Option<Document>]) -> HashMap<&str, &str> {
    let mut first = HashMap::new();
    let read = documents
        .iter()
        .flatten()
        .filter(|document| is(document, "read"));
    for (entity, version) in read.filter_map(parts) {
        first.entry(entity).or_insert(version);
    }
    first
}

async fn last_images(
    collection: &Collection<RawDocumentBuf>,
    first: &HashMap<&str, &str>,
) -> Result<LastImages> {
    let entities: Vec<&str> = first.keys().copied().collect();
    let mut newest = NewestVersions::of(
        collection,
        doc! { "entity": { "$in": entities } },
        doc! { "entity": 1, "version": 1, "after": 1 },
    )
    .await?;
    let is_older =
        |entity: &str, version: &str| first.get(entity).is_none_or(|first| version < *first);
    let mut last = LastImages::new();
    while let Some(document) = newest.next(is_older).await? {
        if let Ok(document) = Document::try_from(document.as_ref())
            && let Some((entity, version)) = parts(&document)
        {
            let image = image_of(&document);
            last.insert(entity.to_owned(), (version.to_owned(), image));
        }
    }
    Ok(last)
}
