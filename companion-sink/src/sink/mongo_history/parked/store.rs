//! Events that were put aside, in the collection `companion_parked`: refused ones, and the later ones of their keys. They are
//! written before the offset moves, and once more changes nothing: their `_id` is made of sink and event.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

use crate::error::{Code, Result};
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::rejected::parked_event::Refused;
use crate::sink::mongo_history::connection::make_indexes;
use crate::sink::mongo_history::documents::bodies::{Bodies, binary, bytes_of};
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::parked::actions::Actions;
use crate::sink::mongo_history::parked::keys::{Key, ParkedKeys, version_of};
use crate::sink::mongo_history::write::insert::insert_new;
use crate::timestamp::{now_us, rfc3339};

const COLLECTION: &str = "companion_parked";
const INDEXES: [&[&str]; 3] = [
    &["sink", "topic", "offset"],
    &["sink", "parked_behind"],
    &["sink", "entity"],
];
/// Everything but what can be long.
const ALL_BUT_VALUE: &str = "value";

/// The parked events of one sink.
pub(crate) struct ParkedDocuments {
    database: Database,
    collection: Collection<Document>,
    bodies: Bodies,
    /// What was decided about them.
    pub(crate) actions: Actions,
    sink: String,
}

/// An event that is put aside: refused, or behind another one of its key.
pub(crate) struct Aside<'b> {
    /// Its place in the batch.
    pub(crate) place: usize,
    /// The event.
    pub(crate) record: &'b Record,
    /// The row that it is about; none if nothing waits for it.
    pub(crate) key: Option<Box<[u8]>>,
    /// The key that its row had before, if it waits for that one.
    pub(crate) waits_for: Option<Box<[u8]>>,
    /// What the history calls its row; noted when it is parked.
    pub(crate) entity: Option<String>,
    /// Why it was refused.
    pub(crate) failure: Option<Failure>,
}

/// A refused event, without its value.
pub(crate) struct Head {
    /// The event.
    pub(crate) record: Record,
    /// Its id.
    pub(crate) event_id: String,
    /// The row that it is about; none if nothing waits for it.
    pub(crate) key: Option<Box<[u8]>>,
    /// Why it was refused.
    pub(crate) failure: Refused,
}

/// A parked event, with its value.
pub(crate) struct Waiting {
    id: String,
    /// The event.
    pub(crate) record: Record,
    /// Its id.
    pub(crate) event_id: String,
    /// It was refused; otherwise it is behind another one.
    pub(crate) is_refused: bool,
    /// Its value as the document has it.
    kept: Bson,
}

impl ParkedDocuments {
    /// The parked events of `sink` (`<name>.<sink>`, as its offsets), kept in `database`.
    pub(crate) fn new(database: &Database, sink: &str) -> Self {
        ParkedDocuments {
            database: database.clone(),
            collection: database.collection(COLLECTION),
            bodies: Bodies::new(database),
            actions: Actions::new(database, sink),
            sink: sink.to_owned(),
        }
    }

    /// Where they are kept.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The keys that are parked.
    pub(crate) async fn keys(&self) -> Result<ParkedKeys> {
        let failed = |error| classify("reading the parked events", &error);
        let mut found = self
            .collection
            .find(doc! { "sink": &self.sink })
            .projection(doc! { "topic": 1, "version": 1, "key": 1, "waits_for": 1 })
            .await
            .map_err(failed)?;
        let mut keys = ParkedKeys::default();
        while let Some(found) = found.try_next().await.map_err(failed)? {
            let topic = found.get_str("topic").unwrap_or_default().into();
            let version = found.get_str("version").unwrap_or_default();
            let key = bytes(&found, "key").map(Box::from);
            let waits_for = bytes(&found, "waits_for").map(Box::from);
            keys.add(&topic, version, key, waits_for);
        }
        Ok(keys)
    }

    /// Ids of events that the history does not have as they were sent: they wait, or people edited or skipped them.
    pub(crate) async fn not_as_sent(&self) -> Result<HashSet<String>> {
        let failed = |error| classify("reading the parked events", &error);
        let mut found = self
            .collection
            .find(doc! { "sink": &self.sink })
            .projection(doc! { "event": 1 })
            .await
            .map_err(failed)?;
        let mut ids = self.actions.changed_events().await?;
        while let Some(found) = found.try_next().await.map_err(failed)? {
            ids.insert(found.get_str("event").unwrap_or_default().to_owned());
        }
        Ok(ids)
    }

    /// Keeps events, in their order.
    pub(crate) async fn park(&self, asides: &[Aside<'_>]) -> Result<()> {
        make_indexes(&self.collection, &INDEXES).await?;
        let mut documents = Vec::with_capacity(asides.len());
        for aside in asides {
            documents.push(self.document(aside).await?);
        }
        match insert_new(&self.collection, &documents).await?.first() {
            None => Ok(()),
            Some(refused) => Err(Trouble::new(
                Code::TargetRefuses,
                format!("mongodb refused to keep an event: {}", refused.why),
                format!("Look at the validation rules of {COLLECTION}, then send SIGHUP."),
            )),
        }
    }

    async fn document(&self, aside: &Aside<'_>) -> Result<Document> {
        let Aside { record, .. } = aside;
        let event_id = clean(&record.event_id()).into_owned();
        let id = self.id(&event_id);
        let headers: Vec<Document> = record
            .headers()
            .map(|(name, value)| doc! { "name": &*clean(name), "value": value.map(binary) })
            .collect();
        let now = rfc3339(now_us());
        let value = self.bodies.keep(&id, record.value()).await?;
        let mut document = doc! {
            "_id": id, "sink": &self.sink, "event": event_id, "topic": &*record.topic, "partition": record.partition,
            "offset": record.offset, "version": version_of(record), "key": aside.key.as_deref().map(binary),
            "waits_for": aside.waits_for.as_deref().map(binary), "parked_behind": aside.failure.is_none(),
            "entity": aside.entity.as_deref(), "parked_at": &now, "record_key": record.key().map(binary), "headers": headers, "value": value,
        };
        if let Some(failure) = &aside.failure {
            document.extend(failed_at(failure, 1, &now));
            document.insert("first_failed", now);
        }
        Ok(document)
    }

    /// The refused events, the oldest of each partition first.
    pub(crate) async fn refused(&self) -> Result<Vec<Head>> {
        let failed = |error| classify("reading the parked events", &error);
        let found = self
            .collection
            .find(doc! { "sink": &self.sink, "parked_behind": false })
            .projection(doc! { ALL_BUT_VALUE: 0 })
            .await
            .map_err(failed)?;
        let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
        let mut heads: Vec<Head> = found.iter().map(head).collect();
        heads.sort_by(|a, b| {
            let (a, b) = (&a.record, &b.record);
            (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset))
        });
        Ok(heads)
    }

    /// Those keys that a refused event holds back.
    pub(crate) fn held_by(heads: &[Head]) -> HashSet<Key> {
        let keys = heads.iter().filter_map(|head| {
            let key = head.key.clone()?;
            Some((Arc::clone(&head.record.topic), key))
        });
        keys.collect()
    }

    /// How many events wait behind a refused one of a key.
    pub(crate) async fn count_behind(&self, topic: &str, key: &[u8]) -> Result<i64> {
        let mut behind = self.of_key(topic, key);
        behind.insert("parked_behind", true);
        let count = self.collection.count_documents(behind).await;
        count
            .map(|count| count as i64)
            .map_err(|error| classify("counting parked events", &error))
    }

    /// The first events of a key in their order: as many as `count_max`, and as `bytes_max` hold, one at least. The second says
    /// whether these are all.
    pub(crate) async fn first_of_key(
        &self,
        (topic, key): &Key,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Waiting>, bool)> {
        let failed = |error| classify("reading the parked events", &error);
        let mut places = self
            .collection
            .find(self.of_key(topic, key))
            .projection(doc! { "partition": 1, "offset": 1 })
            .sort(doc! { "partition": 1, "offset": 1 })
            .limit(count_max as i64 + 1)
            .await
            .map_err(failed)?;
        let mut first = Vec::new();
        let mut first_bytes = 0;
        while let Some(place) = places.try_next().await.map_err(failed)? {
            if first.len() == count_max || first_bytes >= bytes_max {
                return Ok((first, false));
            }
            let id = place.get_str("_id").unwrap_or_default();
            if let Some(waiting) = self.load(id).await? {
                first_bytes += waiting.record.size_bytes();
                first.push(waiting);
            }
        }
        Ok((first, true))
    }

    /// An event.
    pub(crate) async fn event(&self, event_id: &str) -> Result<Option<Waiting>> {
        self.load(&self.id(event_id)).await
    }

    async fn load(&self, id: &str) -> Result<Option<Waiting>> {
        let Some(mut found) = self.document_of(id).await? else {
            return Ok(None);
        };
        let kept = found.remove("value").unwrap_or(Bson::Null);
        let value = self.bodies.load(&kept).await?;
        Ok(Some(Waiting {
            id: id.to_owned(),
            record: record(&found, value.as_deref()),
            event_id: found.get_str("event").unwrap_or_default().to_owned(),
            is_refused: found.get_bool("parked_behind") == Ok(false),
            kept,
        }))
    }

    /// An event's value.
    pub(crate) async fn value(&self, event_id: &str) -> Result<Option<Vec<u8>>> {
        match self.kept_value(event_id).await? {
            Some(kept) => self.bodies.load(&kept).await,
            None => Ok(None),
        }
    }

    /// What the history calls the row of an event.
    pub(crate) async fn entity(&self, event_id: &str) -> Result<Option<String>> {
        let found = self.document_of(&self.id(event_id)).await?;
        Ok(found.and_then(|found| found.get_str("entity").ok().map(str::to_owned)))
    }

    /// How many refused events of a row there are, or events `behind` such: of one of the `entities`.
    pub(crate) async fn count_waiting(&self, entities: &[String], behind: bool) -> Result<u64> {
        let waiting = doc! {
            "sink": &self.sink, "entity": { "$in": entities }, "parked_behind": behind,
        };
        let count = self.collection.count_documents(waiting).await;
        count.map_err(|error| classify("counting parked events", &error))
    }

    /// An event's value as its document has it.
    pub(crate) async fn kept_value(&self, event_id: &str) -> Result<Option<Bson>> {
        let found = self.document_of(&self.id(event_id)).await?;
        Ok(found.and_then(|mut found| found.remove("value")))
    }

    async fn document_of(&self, id: &str) -> Result<Option<Document>> {
        let found = self.collection.find_one(doc! { "_id": id }).await;
        found.map_err(|error| classify("reading a parked event", &error))
    }

    /// Events are no longer aside. What the record of an edit needs stays.
    pub(crate) async fn forget(&self, events: &[Waiting]) -> Result<()> {
        let failed = |error| classify("forgetting parked events", &error);
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        if !ids.is_empty() {
            let deleted = self
                .collection
                .delete_many(doc! { "_id": { "$in": ids } })
                .await;
            deleted.map_err(failed)?;
        }
        for event in events {
            let is_in_pieces = event.kept.as_document().is_some();
            if is_in_pieces && !self.actions.need_value_of(&event.event_id).await? {
                self.bodies.forget(&event.kept).await?;
            }
        }
        Ok(())
    }

    /// A parked event was refused, once more or for the first time.
    pub(crate) async fn refuse(&self, event: &Waiting, failure: &Failure) -> Result<()> {
        let found = self.document_of(&event.id).await?.unwrap_or_default();
        let attempts = found.get_i32("attempts").unwrap_or(0);
        let now = rfc3339(now_us());
        let mut set = failed_at(failure, attempts + 1, &now);
        set.insert("parked_behind", false);
        set.insert(
            "first_failed",
            found.get_str("first_failed").unwrap_or(&now),
        );
        let updated = self
            .collection
            .update_one(doc! { "_id": &event.id }, doc! { "$set": set })
            .await;
        updated
            .map(drop)
            .map_err(|error| classify("noting a refused event", &error))
    }

    fn of_key(&self, topic: &str, key: &[u8]) -> Document {
        doc! { "sink": &self.sink, "topic": topic, "key": binary(key) }
    }

    fn id(&self, event_id: &str) -> String {
        format!("{} {event_id}", self.sink)
    }
}

fn failed_at(failure: &Failure, attempts: i32, now: &str) -> Document {
    doc! {
        "code": failure.code.to_string(), "reason": failure.reason.to_string(), "message": &failure.message,
        "attempts": attempts, "last_failed": now,
    }
}

/// A malformed record may hold zero bytes in its texts, which not all servers take.
fn clean(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

fn bytes<'d>(document: &'d Document, name: &str) -> Option<&'d [u8]> {
    document.get(name).and_then(bytes_of)
}

fn head(found: &Document) -> Head {
    let text = |name: &str| found.get_str(name).unwrap_or_default().to_owned();
    Head {
        record: record(found, None),
        event_id: text("event"),
        key: bytes(found, "key").map(Box::from),
        failure: Refused {
            code: text("code"),
            reason: text("reason"),
            message: text("message"),
            attempts: found.get_i32("attempts").unwrap_or_default(),
            first_failed: text("first_failed"),
            last_failed: text("last_failed"),
        },
    }
}

fn record(found: &Document, value: Option<&[u8]>) -> Record {
    let headers = found.get_array("headers").map_or(&[][..], Vec::as_slice);
    let headers = headers.iter().filter_map(|header| {
        let header = header.as_document()?;
        Some((header.get_str("name").ok()?, bytes(header, "value")))
    });
    Record::new(
        found.get_str("topic").unwrap_or_default().into(),
        found.get_i32("partition").unwrap_or_default(),
        found.get_i64("offset").unwrap_or_default(),
        bytes(found, "record_key"),
        value,
        headers,
    )
}
