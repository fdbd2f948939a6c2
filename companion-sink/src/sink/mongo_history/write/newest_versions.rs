//! The newest document of each entity, read in the order of the index `{entity, version}`.

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::{Collection, Cursor};

use crate::error::Result;
use crate::sink::mongo_history::failure::classify;

/// The newest documents of a query, one entity after the other.
pub(crate) struct NewestVersions {
    found: Cursor<RawDocumentBuf>,
    /// The newest document so far of the entity that is being read.
    newest: Option<RawDocumentBuf>,
}

impl NewestVersions {
    /// Of the documents that `filter` finds, with the fields of `projection`: `entity` and `version` are among them.
    pub(crate) async fn of(
        collection: &Collection<RawDocumentBuf>,
        filter: Document,
        projection: Document,
    ) -> Result<NewestVersions> {
        // As the index goes, or MongoDB sorts them in its memory.
        let found = collection
            .find(filter)
            .sort(doc! { "entity": 1, "version": 1 })
            .projection(projection)
            .await;
        Ok(NewestVersions {
            found: found.map_err(|error| failed(&error))?,
            newest: None,
        })
    }

    /// The next entity's newest document among those that `counts`, called with entity and version, lets through.
    pub(crate) async fn next(
        &mut self,
        counts: impl Fn(&str, &str) -> bool,
    ) -> Result<Option<RawDocumentBuf>> {
        while let Some(document) = self
            .found
            .try_next()
            .await
            .map_err(|error| failed(&error))?
        {
            let (Ok(entity), Ok(version)) =
                (document.get_str("entity"), document.get_str("version"))
            else {
                continue;
            };
            if !counts(entity, version) {
                continue;
            }
            let is_same = |newest: &RawDocumentBuf| newest.get_str("entity") == Ok(entity);
            let is_same = self.newest.as_ref().is_none_or(is_same);
            let before = self.newest.replace(document);
            if !is_same {
                return Ok(before);
            }
        }
        Ok(self.newest.take())
    }
}

fn failed(error: &mongodb::error::Error) -> Trouble {
    classify("reading the newest versions", error)
}

/// The versions of the truncates of `table` that `filter` finds, in their order.
pub(crate) async fn truncates(
    collection: &Collection<RawDocumentBuf>,
    table: &str,
    filter: Document,
) -> Result<Vec<String>> {
    let mut wanted = doc! { "entity": table, "op": "truncate" };
    wanted.extend(filter);
    let found = collection
        .find(wanted)
        .projection(doc! { "version": 1 })
        .await;
    let mut found = found.map_err(|error| failed(&error))?;
    let mut versions = Vec::new();
    while let Some(document) = found.try_next().await.map_err(|error| failed(&error))? {
        versions.extend(document.get_str("version").map(str::to_owned));
    }
    versions.sort_unstable();
    Ok(versions)
}
