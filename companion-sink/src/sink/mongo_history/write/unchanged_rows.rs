//! A snapshot reads rows whose history is known already: only those that differ from it are a fact of their own.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use mongodb::Collection;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

use crate::error::Result;
use crate::sink::mongo_history::write::newest_versions::NewestVersions;
use crate::sink::mongo_history::write::newest_versions::truncates;
use crate::sink::mongo_history::write::pending::Pending;

/// Images of rows by their versions, no image for one that is gone. The events of a row may come in two topics, of a table that got
/// another name, and then in any order.
#[derive(Default)]
struct Images(HashMap<String, BTreeMap<String, Option<Bson>>>);

impl Images {
    fn note(&mut self, entity: &str, version: &str, image: Option<Bson>) {
        let of_row = self.0.entry(entity.to_owned()).or_default();
        of_row.insert(version.to_owned(), image);
    }

    /// The newest one that is older than `version`, and its version.
    fn before(&self, entity: &str, version: &str) -> Option<(&str, &Option<Bson>)> {
        let older = (Bound::Unbounded, Bound::Excluded(version));
        let newest = self.0.get(entity)?.range::<str, _>(older).next_back()?;
        Some((newest.0, newest.1))
    }
}

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
    let mut images = last_images(collection, &first_reads(&documents)).await?;
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
        let known = images.before(entity, version).filter(|(since, _)| {
            let before = truncated.partition_point(|truncate| truncate.as_str() < version);
            before == 0 || truncated[before - 1].as_str() < *since
        });
        if is(document, "read") && known.is_some_and(|(_, known)| *known == image) {
            sifted.left_out.push((pending.place, entity.to_owned()));
        } else {
            images.note(entity, version, image);
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
) -> Result<Images> {
    let entities: Vec<&str> = first.keys().copied().collect();
    let mut newest = NewestVersions::of(
        collection,
        doc! { "entity": { "$in": entities } },
        doc! { "entity": 1, "version": 1, "after": 1 },
    )
    .await?;
    let is_older =
        |entity: &str, version: &str| first.get(entity).is_none_or(|first| version < *first);
    let mut last = Images::default();
    while let Some(document) = newest.next(is_older).await? {
        if let Ok(document) = Document::try_from(document.as_ref())
            && let Some((entity, version)) = parts(&document)
        {
            let image = image_of(&document);
            last.note(entity, version, image);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_later_and_is_older_is_not_the_newest() {
        let mut images = Images::default();
        images.note("a", "3", Some(Bson::Int32(3)));
        images.note("a", "1", Some(Bson::Int32(1)));
        images.note("a", "7", None);
        assert_eq!(images.before("a", "5"), Some(("3", &Some(Bson::Int32(3)))));
        assert_eq!(images.before("a", "8"), Some(("7", &None)));
        assert_eq!(images.before("a", "1"), None);
        assert_eq!(images.before("b", "5"), None);
    }
}
