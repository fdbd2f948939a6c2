//! What becomes of events that cannot be written: they and the later ones of their keys are put aside before the offset moves.

use std::collections::{BTreeMap, HashMap};

use mongodb::bson::{RawDocumentBuf, doc};

use crate::error::Result;
use crate::event::Headers;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::{DeadLetters, Failure};
use crate::rejected::guarded::guarded;
use crate::sink::Batch;
use crate::sink::mongo_history::documents::document::identity;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::parked::keys::{key_of, version_of};
use crate::sink::mongo_history::parked::store::Aside;
use crate::sink::mongo_history::tables::admission::Told;
use crate::sink::mongo_history::{DOCUMENT_BYTES_MAX, MongoHistory, Pending, not_connected};

/// Documents by collection.
pub type Documents = BTreeMap<String, Vec<Pending>>;

/// What became of documents.
#[derive(Default)]
pub struct Inserted {
    /// Rows of snapshots that the history knows: the places of their events, and their entities.
    pub left_out: Vec<(usize, String)>,
    /// Those that the server refused, by the places of their events.
    pub refused: BTreeMap<usize, Failure>,
    /// Where each was to go, by the places of their events.
    collections: HashMap<usize, String>,
}

impl MongoHistory {
    /// The document of an event with its collection, none if it makes none; or why it is refused.
    pub(crate) async fn made(
        &mut self,
        record: &Record,
    ) -> Result<std::result::Result<Option<(String, RawDocumentBuf)>, Failure>> {
        let made = match guarded(self.document(record)).await {
            Ok(made) => made?,
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(match made {
            Ok(Some((_, document))) if document.as_bytes().len() > DOCUMENT_BYTES_MAX => {
                Err(Failure::refused("the document is larger than 16 MB".into()))
            }
            made => made,
        })
    }

    /// Builds the documents of a batch; what is refused, and what is behind that, goes aside.
    pub(crate) async fn documents<'b>(
        &mut self,
        batch: &'b Batch,
        asides: &mut Vec<Aside<'b>>,
    ) -> Result<Documents> {
        let mut documents = Documents::new();
        self.let_topics_go(batch).await?;
        for (place, record) in batch.records.iter().enumerate() {
            if self.is_beyond(record) || self.put_behind(place, record, asides) {
                continue;
            }
            match self.made(record).await? {
                Ok(None) => {}
                Ok(Some((collection, document))) => {
                    let pending = Pending { place, document };
                    documents.entry(collection).or_default().push(pending);
                }
                Err(failure) => self.put_aside(place, record, failure, asides),
            }
        }
        Ok(documents)
    }

    /// Looks first at what gives a table up: the topic that has it from now on may stand before it in the batch.
    async fn let_topics_go(&mut self, batch: &Batch) -> Result<()> {
        let definitions = batch.records.iter();
        for record in definitions.filter(|record| record.op() == Some("schema")) {
            let Ok(headers) = Headers::read(record) else {
                continue;
            };
            if let Ok(Some(told)) = Told::by(record, &headers)
                && told.is_farewell
                && !record.is_disbelieved
            {
                let admission = &mut self.connection()?.admission;
                // What is refused is so once more in its turn.
                let _ = admission.refused(record, &headers, &told, &[]).await?;
            }
        }
        Ok(())
    }

    /// Inserts documents, whatever their order.
    pub(crate) async fn insert_all(&mut self, documents: Documents) -> Result<Inserted> {
        let mut inserted = Inserted::default();
        for (collection, pending) in documents {
            let places = pending.iter().map(|pending| pending.place);
            let collections = places.map(|place| (place, collection.clone()));
            inserted.collections.extend(collections);
            self.insert(&collection, pending, &mut inserted).await?;
        }
        Ok(inserted)
    }

    /// Puts aside what the server refused. Later events of the same keys that went in with it are taken out again, to wait.
    pub(crate) async fn put_refused_aside<'b>(
        &mut self,
        batch: &'b Batch,
        inserted: &mut Inserted,
        asides: &mut Vec<Aside<'b>>,
    ) -> Result<()> {
        if inserted.refused.is_empty() {
            return Ok(());
        }
        let mut refused = std::mem::take(&mut inserted.refused);
        let mut behind = Vec::new();
        for (place, record) in batch.records.iter().enumerate() {
            if let Some(failure) = refused.remove(&place) {
                self.put_aside(place, record, failure, asides);
            } else if inserted.collections.contains_key(&place)
                && self.put_behind(place, record, asides)
            {
                behind.push((place, record));
            }
        }
        asides.sort_by_key(|aside| aside.place);
        self.take_out(&behind, inserted).await
    }

    /// Takes the documents of events out again.
    pub(crate) async fn take_out(
        &mut self,
        events: &[(usize, &Record)],
        inserted: &mut Inserted,
    ) -> Result<()> {
        for (place, record) in events {
            inserted.left_out.retain(|(left_out, _)| left_out != place);
            if let Some(name) = inserted.collections.get(place) {
                let database = &self.connection()?.database;
                let deleted = database
                    .collection::<RawDocumentBuf>(name)
                    .delete_one(doc! { "_id": record.event_id() })
                    .await;
                deleted.map_err(|error| classify("taking out what has to wait", &error))?;
            }
        }
        Ok(())
    }

    /// Keeps what is aside, and sends what was refused to the dead letters.
    pub(crate) async fn park(
        &mut self,
        batch: &Batch,
        asides: &mut [Aside<'_>],
        dead_letters: &DeadLetters,
    ) -> Result<()> {
        if asides.is_empty() {
            return Ok(());
        }
        for aside in asides.iter_mut() {
            let headers = Headers::read(aside.record).ok();
            if let Some(headers) = headers.filter(|headers| headers.op.is_row()) {
                let identity = identity(aside.record, &headers);
                aside.entity = self
                    .entity_of(&aside.record.topic, &headers, identity)
                    .await?;
            }
        }
        let asides = &*asides;
        // Where another instance has gone on, people may have decided already.
        self.connection()?.offsets.check(&batch.moves).await?;
        let refused = asides
            .iter()
            .filter_map(|aside| Some((aside.record, aside.failure.as_ref()?)));
        let letters: Vec<_> = refused.collect();
        if !letters.is_empty() {
            dead_letters.send(&self.name, &letters).await?;
        }
        let connection = self.connection.as_ref().ok_or_else(not_connected)?;
        connection.parked_events.park(asides).await
    }

    fn put_aside<'b>(
        &mut self,
        place: usize,
        record: &'b Record,
        failure: Failure,
        asides: &mut Vec<Aside<'b>>,
    ) {
        // Nothing waits behind what cannot come from the topic's table.
        let key = key_of(record).filter(|_| !failure.is_forged());
        let key: Option<Box<[u8]>> = key.map(Box::from);
        self.parked
            .add(&record.topic, version_of(record), key.clone(), None);
        asides.push(Aside {
            place,
            record,
            key,
            waits_for: None,
            entity: None,
            failure: Some(failure),
        });
    }

    /// Puts an event aside that has to wait; whether it has to.
    fn put_behind<'b>(
        &mut self,
        place: usize,
        record: &'b Record,
        asides: &mut Vec<Aside<'b>>,
    ) -> bool {
        let Some(held) = self.parked.holding_back(record) else {
            return false;
        };
        let key: Option<Box<[u8]>> = Some(held.key.into());
        let waits_for: Option<Box<[u8]>> = held.waits_for.map(Box::from);
        let version = version_of(record);
        self.parked
            .add(&record.topic, version, key.clone(), waits_for.clone());
        asides.push(Aside {
            place,
            record,
            key,
            waits_for,
            entity: None,
            failure: None,
        });
        true
    }
}
