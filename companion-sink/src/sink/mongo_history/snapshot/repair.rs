//! Brings documents to what the topics say, where they are missing or different. Nothing is ever deleted: the history may hold
//! more than the topics still do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

use crate::error::Result;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::changes::Changes;
use crate::sink::mongo_history::failure::{classify, is_about_document};
use crate::sink::mongo_history::write::insert::{RefusedDocument, insert_new};

/// What a replay of a history does instead of only inserting.
#[derive(Debug, Default)]
pub(crate) struct Mending {
    /// Nothing is written, only counted.
    pub(crate) is_dry_run: bool,
    /// Where the history is: what lies behind it is still to be applied, by others.
    pub(crate) until: HashMap<TopicPartition, i64>,
    /// Ids of events that wait, or of which people decided that they are not as they were sent.
    pub(crate) left_alone: HashSet<String>,
    /// What was different, by collection.
    changes: Mutex<BTreeMap<String, Changes>>,
}

impl Mending {
    /// Of a history that is at `until`.
    pub(crate) fn new(
        until: HashMap<TopicPartition, i64>,
        left_alone: HashSet<String>,
        is_dry_run: bool,
    ) -> Mending {
        Mending {
            is_dry_run,
            until,
            left_alone,
            changes: Mutex::default(),
        }
    }

    /// Whether the history has applied this record already, as it is.
    pub(crate) fn covers(&self, record: &Record) -> bool {
        let until = self.until.get(&TopicPartition::of(record));
        let is_applied = until.is_some_and(|until| record.offset < *until);
        is_applied && !self.left_alone.contains(&record.event_id())
    }

    /// What was different until now.
    pub(crate) fn changes(&self) -> Vec<Changes> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.values().cloned().collect()
    }

    /// Inserts those of the documents that are missing, and replaces those that are different; what is refused.
    pub(crate) async fn write(
        &self,
        collection: &Collection<RawDocumentBuf>,
        documents: &[&RawDocumentBuf],
    ) -> Result<Vec<RefusedDocument>> {
        let there = find(collection, documents).await?;
        let mut missing = Vec::new();
        let mut different = Vec::new();
        for (place, document) in documents.iter().enumerate() {
            match document.get_str("_id").ok().and_then(|id| there.get(id)) {
                None => missing.push((place, *document)),
                Some(there) if !is_same(there, document) => different.push((place, *document)),
                Some(_) => {}
            }
        }
        let changes = Changes {
            table: collection.name().to_owned(),
            inserted: missing.len() as u64,
            updated: different.len() as u64,
            deleted: 0,
        };
        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(changes.table.clone())
            .or_insert_with(|| Changes {
                table: changes.table.clone(),
                ..Changes::default()
            })
            .add(&changes);
        let mut refused = Vec::new();
        if self.is_dry_run {
            return Ok(refused);
        }
        if !missing.is_empty() {
            let documents = missing.iter().map(|(_, document)| *document);
            for RefusedDocument { place, why } in insert_new(collection, documents).await? {
                let place = missing.get(place).map_or(place, |(place, _)| *place);
                refused.push(RefusedDocument { place, why });
            }
        }
        for (place, document) in different {
            let id = document.get_str("_id").unwrap_or_default();
            let replaced = collection.replace_one(doc! { "_id": id }, document).await;
            match replaced {
                Ok(_) => {}
                Err(error) if is_about_document(&error) => {
                    let why = "another document in the place of the one that is there".to_owned();
                    refused.push(RefusedDocument { place, why });
                }
                Err(error) => return Err(classify("replacing a document", &error)),
            }
        }
        Ok(refused)
    }
}

/// Those of the documents that are there, by their ids.
async fn find(
    collection: &Collection<RawDocumentBuf>,
    documents: &[&RawDocumentBuf],
) -> Result<HashMap<String, RawDocumentBuf>> {
    let ids: Vec<&str> = documents
        .iter()
        .filter_map(|document| document.get_str("_id").ok())
        .collect();
    let failed = |error| classify("reading documents", &error);
    let found = collection.find(doc! { "_id": { "$in": ids } }).await;
    let mut found = found.map_err(failed)?;
    let mut there = HashMap::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        if let Ok(id) = document.get_str("_id").map(str::to_owned) {
            there.insert(id, document);
        }
    }
    Ok(there)
}

/// Whether two documents tell the same. Of several copies of an event either may have been the first one that was read.
fn is_same(one: &RawDocumentBuf, other: &RawDocumentBuf) -> bool {
    one.as_bytes() == other.as_bytes() || told(one).is_some_and(|one| told(other) == Some(one))
}

/// The document without the place of its record, as bytes, in which also what is no number equals itself.
fn told(document: &RawDocumentBuf) -> Option<Vec<u8>> {
    let mut document = Document::try_from(document.as_ref()).ok()?;
    if let Some(Bson::Document(source)) = document.get_mut("source") {
        source.remove("partition");
        source.remove("offset");
    }
    let raw = RawDocumentBuf::try_from(&document).ok()?;
    Some(raw.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_copy_of_an_event_is_the_same() {
        let document = |offset: i64, city: &str| {
            RawDocumentBuf::try_from(&doc! {
                "_id": "n-1", "after": { "city": city, "n": f64::NAN }, "source": { "topic": "t", "partition": 0, "offset": offset },
            })
            .unwrap()
        };
        assert!(is_same(&document(1, "Bern"), &document(2, "Bern")));
        assert!(!is_same(&document(1, "Bern"), &document(1, "Basel")));
    }
}
