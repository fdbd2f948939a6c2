//! What a view knows of itself, in the collection `companion_views`: of which settings its documents are, how far its rows are
//! ahead of them, and what the source said of whole tables.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

use change::trouble::Trouble;

use crate::error::{Code, Result};
use crate::sink::mongo_history::failure::{classify, is_duplicate_id};
use crate::sink::mongo_view::plan::Plan;

const COLLECTION: &str = "companion_views";

/// A snapshot of the source that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// The source's number of it.
    pub(crate) id: i64,
    /// The version of its beginning.
    pub(crate) begin: String,
    /// It says nothing of rows that it has not got.
    pub(crate) is_partial: bool,
}

/// Whether what a rebuild has built takes the place of a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Switch {
    /// No.
    #[default]
    None,
    /// It is about to: sinks wait. Nothing has changed yet.
    Held,
    /// It does: whoever comes next carries that on.
    Decided,
}

impl Switch {
    fn name(self) -> &'static str {
        match self {
            Switch::None => "",
            Switch::Held => "held",
            Switch::Decided => "decided",
        }
    }

    fn of_name(name: &str) -> Self {
        match name {
            "held" => Switch::Held,
            "decided" => Switch::Decided,
            _ => Switch::None,
        }
    }
}

/// What a view knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ViewState {
    /// Who has read another one may not write.
    pub(crate) epoch: i64,
    /// Whether a rebuild takes its place.
    pub(crate) switch: Switch,
    /// The plan that its documents were made by; empty before the first.
    pub(crate) plan: String,
    /// Rows may be there of events up to this version.
    pub(crate) rows_up_to: String,
    /// Tables that the source has dropped.
    pub(crate) dropped: BTreeSet<String>,
    /// The view's tables by their topics, also where they have another name by now.
    pub(crate) topics: BTreeMap<String, String>,
    /// Snapshots by their topics.
    pub(crate) snapshots: BTreeMap<String, Running>,
}

/// Where it is kept.
pub(crate) struct States {
    collection: Collection<Document>,
    sink: String,
}

impl States {
    /// That of `sink` in `database`.
    pub(crate) fn new(database: &Database, sink: &str) -> Self {
        States {
            collection: database.collection(COLLECTION),
            sink: sink.to_owned(),
        }
    }

    /// What was written; of a view that never was, that it is new.
    pub(crate) async fn read(&self) -> Result<ViewState> {
        let failed = |error| classify("reading the view's state", &error);
        let one = || self.collection.find_one(doc! { "_id": &self.sink });
        if let Some(found) = one().await.map_err(failed)? {
            return Ok(parse(&found));
        }
        let mut document = as_document(&ViewState::default());
        document.insert("_id", &self.sink);
        document.insert("epoch", 0_i64);
        match self.collection.insert_one(document).await {
            Ok(_) => {}
            Err(error) if is_duplicate_id(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        let found = one().await.map_err(failed)?;
        Ok(found.map_or_else(ViewState::default, |found| parse(&found)))
    }

    /// Writes it, unless a rebuild, or somebody who went on after one, has begun another epoch (CDC1009).
    pub(crate) async fn write(&self, state: &ViewState) -> Result<()> {
        self.write_from(state.epoch, state).await
    }

    /// As [`States::write`], and begins the epoch of `state` where that of `epoch` is.
    pub(crate) async fn write_from(&self, epoch: i64, state: &ViewState) -> Result<()> {
        let mut document = as_document(state);
        document.insert("epoch", state.epoch);
        let of_epoch = doc! { "_id": &self.sink, "epoch": epoch };
        let written = self
            .collection
            .update_one(of_epoch, doc! { "$set": document })
            .await
            .map_err(|error| classify("writing the view's state", &error))?;
        match written.matched_count {
            0 => Err(in_other_hands()),
            _ => Ok(()),
        }
    }

    /// Begins another epoch, in which nobody writes but who holds the view; the state in it.
    pub(crate) async fn hold(&self) -> Result<ViewState> {
        let before = self.read().await?;
        let of_epoch = doc! { "_id": &self.sink, "epoch": before.epoch };
        // Nothing else: the sink may have written since.
        let held = doc! { "epoch": before.epoch + 1, "switch": Switch::Held.name() };
        let written = self
            .collection
            .update_one(of_epoch, doc! { "$set": held })
            .await
            .map_err(|error| classify("holding the view", &error))?;
        match written.matched_count {
            0 => Err(in_other_hands()),
            _ => self.read().await,
        }
    }

    /// Forgets it.
    pub(crate) async fn forget(&self) -> Result<()> {
        let deleted = self.collection.delete_one(doc! { "_id": &self.sink }).await;
        deleted
            .map(drop)
            .map_err(|error| classify("forgetting the view's state", &error))
    }
}

/// What documents are made by, as text: of another plan they are others.
pub(crate) fn plan_text(plan: &Plan) -> String {
    let own = plan.own.as_ref().map(|own| format!("{own:?}"));
    format!("{:?}{}", plan.nodes, own.unwrap_or_default())
}

fn in_other_hands() -> Trouble {
    Trouble::new(
        Code::OtherInstance,
        "mongodb: a rebuild, or another instance, has the view",
        "Nothing is lost; this one looks again.",
    )
}

fn as_document(state: &ViewState) -> Document {
    let topics = state.topics.iter();
    let topics =
        topics.map(|(topic, table)| doc! { "topic": topic.as_str(), "table": table.as_str() });
    let snapshots = state.snapshots.iter().map(|(topic, running)| {
        doc! {
            "topic": topic.as_str(), "id": running.id, "begin": running.begin.as_str(),
            "partial": running.is_partial,
        }
    });
    doc! {
        "plan": &state.plan,
        "switch": state.switch.name(),
        "rows_up_to": &state.rows_up_to,
        "dropped": state.dropped.iter().cloned().collect::<Vec<_>>(),
        "topics": topics.collect::<Vec<_>>(),
        "snapshots": snapshots.collect::<Vec<_>>(),
    }
}

fn parse(found: &Document) -> ViewState {
    let text =
        |document: &Document, name: &str| document.get_str(name).unwrap_or_default().to_owned();
    let documents = |name: &str| {
        let items = found.get_array(name).into_iter().flatten();
        items.filter_map(Bson::as_document)
    };
    let dropped = found.get_array("dropped").into_iter().flatten();
    ViewState {
        epoch: found.get_i64("epoch").unwrap_or_default(),
        switch: Switch::of_name(found.get_str("switch").unwrap_or_default()),
        plan: text(found, "plan"),
        rows_up_to: text(found, "rows_up_to"),
        dropped: dropped
            .filter_map(|table| table.as_str().map(str::to_owned))
            .collect(),
        topics: documents("topics")
            .map(|topics| (text(topics, "topic"), text(topics, "table")))
            .collect(),
        snapshots: documents("snapshots")
            .map(|snapshot| {
                let running = Running {
                    id: snapshot.get_i64("id").unwrap_or_default(),
                    begin: text(snapshot, "begin"),
                    is_partial: snapshot.get_bool("partial").unwrap_or(true),
                };
                (text(snapshot, "topic"), running)
            })
            .collect(),
    }
}
