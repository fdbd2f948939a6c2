//! What a snapshot of the source tells the history besides its rows: those that are gone, though no event said so.
//!
//! A row is gone if its newest document is from before the snapshot's beginning and is no delete, and the snapshot has not
//! met it. Of a row that the snapshot met there is a document since the beginning, or a note (`snapshots.rs`).

use change::trouble::Trouble;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};

use crate::error::{Code, Result};
use crate::event::Headers;
use crate::event::json::Malformed;
use crate::kafka::record::Record;
use crate::sink::batch::BATCH_BYTES;
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::documents::document;
use crate::sink::mongo_history::documents::history_body::HistoryBody;
use crate::sink::mongo_history::snapshot::repair::Mending;
use crate::sink::mongo_history::snapshot::snapshots::{HistorySnapshots, Snapshot};
use crate::sink::mongo_history::write::insert::insert_new;
use crate::sink::mongo_history::write::newest_versions::NewestVersions;
use crate::sink::mongo_history::write::newest_versions::truncates;
use crate::sink::unreadable_snapshot;

/// Entities that are looked up at once.
const PAGE: usize = 1000;

/// The end of a snapshot, and where what it says is written to.
pub(crate) struct End<'a> {
    pub(crate) collection: &'a Collection<RawDocumentBuf>,
    /// What the entities of its table begin with.
    pub(crate) table: &'a str,
    pub(crate) snapshots: &'a HistorySnapshots,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) record: &'a Record,
    pub(crate) headers: &'a Headers<'a>,
    pub(crate) body: &'a HistoryBody<'a>,
    pub(crate) source_name: &'a str,
    pub(crate) names: Names,
    /// Of a replay.
    pub(crate) mending: Option<&'a Mending>,
}

impl End<'_> {
    /// Writes a document for each row that is gone; returns how many. Once more writes the same.
    pub(crate) async fn write_inferred_deletes(&self) -> Result<u64> {
        let table = self.table;
        let end = self.headers.version;
        let truncates = truncates(self.collection, table, doc! {}).await?;
        let before = truncates.partition_point(|truncate| truncate.as_str() < end);
        let truncate = before.checked_sub(1).map(|place| truncates[place].as_str());
        // Identities are JSON objects: all of the table lie between `{` and the next character. The index has all that is read.
        let mut newest = NewestVersions::of(
            self.collection,
            doc! {
                "entity": { "$gte": format!("{table}:{{"), "$lt": format!("{table}:|") },
                "version": { "$lt": end },
            },
            doc! { "_id": 0, "entity": 1, "version": 1 },
        )
        .await?;
        let mut notes = self.snapshots.notes(self.snapshot);
        let mut written = 0;
        let mut page = Vec::with_capacity(PAGE);
        loop {
            let next = newest.next(|_, _| true).await?;
            let is_last = next.is_none();
            if let Some(document) = next
                && let (Ok(entity), Ok(version)) =
                    (document.get_str("entity"), document.get_str("version"))
            {
                let touched = version > self.snapshot.begin.as_str();
                let truncated = truncate.is_some_and(|truncate| version < truncate);
                if !touched && !truncated && !notes.contain(entity).await? {
                    page.push(entity.to_owned());
                }
            }
            if is_last || page.len() == PAGE {
                written += self.write_page(std::mem::take(&mut page)).await?;
            }
            if is_last {
                return Ok(written);
            }
        }
    }

    /// Writes the documents of those of the entities, which the snapshot has not met, that are there until now.
    async fn write_page(&self, entities: Vec<String>) -> Result<u64> {
        if entities.is_empty() {
            return Ok(0);
        }
        let mut newest = NewestVersions::of(
            self.collection,
            doc! { "entity": { "$in": entities }, "version": { "$lt": self.headers.version } },
            doc! { "entity": 1, "version": 1, "op": 1, "key": 1, "after": 1, "marks": 1, "schema": 1 },
        )
        .await?;
        let mut written = 0;
        let mut documents = Vec::new();
        let mut bytes = 0;
        loop {
            let next = newest.next(|_, _| true).await?;
            let is_last = next.is_none();
            if let Some(last) = next
                && let Some(document) = self.document(&last)?
            {
                bytes += document.as_bytes().len();
                documents.push(document);
            }
            if is_last || bytes >= BATCH_BYTES {
                written += documents.len() as u64;
                self.insert(std::mem::take(&mut documents)).await?;
                bytes = 0;
            }
            if is_last {
                return Ok(written);
            }
        }
    }

    fn document(&self, last: &RawDocument) -> Result<Option<RawDocumentBuf>> {
        let unreadable = || Malformed("the newest document of a row cannot be read".into());
        let built = Document::try_from(last)
            .map_err(|_| unreadable())
            .and_then(|last| {
                document::inferred_delete(
                    self.body,
                    self.record,
                    self.headers,
                    self.source_name,
                    self.names,
                    &last,
                )
            });
        built.map_err(unreadable_snapshot)
    }

    async fn insert(&self, documents: Vec<RawDocumentBuf>) -> Result<()> {
        if documents.is_empty() {
            return Ok(());
        }
        let topic = &self.record.topic;
        self.snapshots.check_running(topic, self.snapshot).await?;
        let refused = match self.mending {
            Some(mending) => {
                let documents: Vec<_> = documents.iter().collect();
                mending.write(self.collection, &documents).await?
            }
            None => insert_new(self.collection, &documents).await?,
        };
        match refused.first() {
            None => Ok(()),
            Some(refused) => Err(Trouble::new(
                Code::TargetRefuses,
                format!(
                    "mongodb refused the inferred delete of a row of {topic}: {}",
                    refused.why
                ),
                "Look at the collection's validation rules, then send SIGHUP.",
            )),
        }
    }
}
