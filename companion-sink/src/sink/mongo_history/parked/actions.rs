//! What people decided about refused events, in the collection `companion_actions`. A decision is one document: it is open
//! until the active instance has carried it out, and stays as the record of it.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

use crate::error::Result;
use crate::rejected::parked_event::{Action, Decider, Decision};
use crate::sink::mongo_history::documents::bodies::Bodies;
use crate::sink::mongo_history::failure::classify;
use crate::timestamp::{now_us, rfc3339};

const COLLECTION: &str = "companion_actions";

/// The actions of one sink.
pub(crate) struct Actions {
    collection: Collection<Document>,
    bodies: Bodies,
    sink: String,
}

/// A decision that is not carried out yet.
pub(crate) struct Open {
    /// Of the decision.
    pub(crate) id: ObjectId,
    /// About which event.
    pub(crate) event_id: String,
    /// What is to be done.
    pub(crate) decision: Decision,
    /// Who decided.
    pub(crate) by: String,
    /// RFC 3339.
    pub(crate) at: String,
    /// Why, if that was said.
    pub(crate) reason: Option<String>,
}

impl Actions {
    /// The actions of `sink` (`<name>.<sink>`, as its offsets), kept in `database`.
    pub(crate) fn new(database: &Database, sink: &str) -> Self {
        Actions {
            collection: database.collection(COLLECTION),
            bodies: Bodies::new(database),
            sink: sink.to_owned(),
        }
    }

    /// Notes a decision about an event; of an edit with the `original` value, as a document holds it. `entity` is the event's row,
    /// if it is known.
    pub(crate) async fn note(
        &self,
        event_id: &str,
        decision: &Decision,
        decider: Decider<'_>,
        original: Option<Bson>,
        entity: Option<String>,
    ) -> Result<()> {
        let id = ObjectId::new();
        let edited = match decision {
            Decision::Edit(body) => Some(body.as_slice()),
            Decision::Retry | Decision::Skip => None,
        };
        let edited = self.bodies.keep(&id.to_hex(), edited).await?;
        let document = doc! {
            "_id": id, "sink": &self.sink, "event": event_id, "action": decision.name(), "by": decider.by,
            "at": rfc3339(now_us()), "reason": decider.reason, "value": original, "edited_value": edited,
            "entity": entity, "open": true, "outcome": Bson::Null,
        };
        let noted = self.collection.insert_one(document).await;
        noted
            .map(drop)
            .map_err(|error| classify("noting a decision", &error))
    }

    /// The decisions that are not carried out yet, the oldest first.
    pub(crate) async fn open(&self) -> Result<Vec<Open>> {
        let mut open = Vec::new();
        for found in self.find(doc! { "sink": &self.sink, "open": true }).await? {
            let edited = self
                .bodies
                .load(found.get("edited_value").unwrap_or(&Bson::Null));
            let text = |name: &str| found.get_str(name).unwrap_or_default();
            open.push(Open {
                id: found.get_object_id("_id").unwrap_or_default(),
                event_id: text("event").to_owned(),
                decision: Decision::of(text("action"), edited.await?),
                by: text("by").to_owned(),
                at: text("at").to_owned(),
                reason: found.get_str("reason").ok().map(str::to_owned),
            });
        }
        Ok(open)
    }

    /// The decisions that are not carried out yet, without what they say.
    pub(crate) async fn open_ids(&self) -> Result<HashSet<ObjectId>> {
        let failed = |error| classify("reading the actions", &error);
        let open = doc! { "sink": &self.sink, "open": true };
        let found = self.collection.find(open).projection(doc! { "_id": 1 });
        let found: Vec<Document> = found
            .await
            .map_err(failed)?
            .try_collect()
            .await
            .map_err(failed)?;
        Ok(found
            .iter()
            .filter_map(|found| found.get_object_id("_id").ok())
            .collect())
    }

    /// What was decided about an event, the oldest first.
    pub(crate) async fn of_event(&self, event_id: &str) -> Result<Vec<Action>> {
        let found = self.find(self.about(event_id)).await?;
        let action = |found: &Document| {
            let text = |name: &str| found.get_str(name).unwrap_or_default().to_owned();
            Action {
                action: text("action"),
                by: text("by"),
                at: text("at"),
                reason: found.get_str("reason").ok().map(str::to_owned),
            }
        };
        Ok(found.iter().map(action).collect())
    }

    /// How many events of a row were skipped: of one of the `entities`.
    pub(crate) async fn count_skipped(&self, entities: &[String]) -> Result<u64> {
        let failed = |error| classify("reading the actions", &error);
        let skipped = doc! {
            "sink": &self.sink, "entity": { "$in": entities }, "action": "skip", "outcome": "done",
        };
        let events = self
            .collection
            .distinct("event", skipped)
            .await
            .map_err(failed)?;
        Ok(events.len() as u64)
    }

    /// Whether the record of an edit needs the event's value.
    pub(crate) async fn need_value_of(&self, event_id: &str) -> Result<bool> {
        let mut edits = self.about(event_id);
        edits.insert("action", "edit");
        let found = self.collection.find_one(edits).await;
        found
            .map(|found| found.is_some())
            .map_err(|error| classify("reading the actions", &error))
    }

    /// Ids of events that were edited or skipped.
    pub(crate) async fn changed_events(&self) -> Result<HashSet<String>> {
        let changed = doc! { "sink": &self.sink, "action": { "$in": ["edit", "skip"] } };
        let found = self.find(changed).await?;
        let ids = found.iter().filter_map(|found| found.get_str("event").ok());
        Ok(ids.map(str::to_owned).collect())
    }

    /// These decisions are carried out: `done`, or `refused` once more.
    pub(crate) async fn close(&self, open: &[&Open], outcome: &str) -> Result<()> {
        for action in open {
            let closed = self
                .collection
                .update_one(
                    doc! { "_id": action.id },
                    doc! { "$set": { "open": false, "outcome": outcome, "closed_at": rfc3339(now_us()) } },
                )
                .await;
            closed.map_err(|error| classify("noting what became of a decision", &error))?;
        }
        Ok(())
    }

    fn about(&self, event_id: &str) -> Document {
        doc! { "sink": &self.sink, "event": event_id }
    }

    /// By their time. Sorted here: they are few, and values of 16 MB are too much for the memory in which servers sort.
    async fn find(&self, filter: Document) -> Result<Vec<Document>> {
        let failed = |error| classify("reading the actions", &error);
        let without_original = doc! { "value": 0 };
        let found = self
            .collection
            .find(filter)
            .projection(without_original)
            .await
            .map_err(failed)?;
        let mut found: Vec<Document> = found.try_collect().await.map_err(failed)?;
        found.sort_by(|a, b| a.get_str("at").ok().cmp(&b.get_str("at").ok()));
        Ok(found)
    }
}
