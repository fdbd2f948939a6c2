//! The views: a document for each row of a root table, made of that row and of rows of other tables.

mod affected;
mod assembly;
pub(crate) mod columns;
pub(crate) mod configured;
mod decoding;
pub(crate) mod names;
pub(crate) mod own_events;
pub(crate) mod plan;
pub(crate) mod reading;
mod row;
mod step;
pub(crate) mod switch;
pub(crate) mod target;
mod view;

use std::future::pending;

use change::trouble::Trouble;
use change::version::Place;

use crate::config::{Loaded, MongoViewSettings};
use crate::error::Result;
use crate::event::is_version;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::rule::Rules;
use crate::sink::Positions;
use crate::sink::batch::{Applied, Position};
use crate::sink::mongo_view::decoding::{Decoded, decode};
use crate::sink::mongo_view::names::ViewNames;
use crate::sink::mongo_view::own_events::root::OwnRoot;
use crate::sink::mongo_view::plan::plan_of;
use crate::sink::mongo_view::view::{View, place_text};
use crate::sink::ordered::{
    Commit, OrderedSink, PartEnd, PartOutcome, Poison, Uncommitted, Why, about_event,
};

/// The sink of kind `mongo_view`.
pub(crate) struct MongoView {
    view: View,
}

impl MongoView {
    /// The sink `name`.
    pub(crate) fn new(
        config: &Loaded,
        name: &str,
        live: Live,
        settings: &MongoViewSettings,
        refusals: RefusalLimit,
    ) -> Result<Self> {
        let names = ViewNames::new(&config.name, name, settings);
        let plan = plan_of(name, settings)?;
        let view = View {
            name: name.to_owned(),
            rules: Rules::new(name, live.clone()),
            live,
            condition: plan.own.as_ref().and_then(OwnRoot::condition),
            plan,
            state_of_readers: names.state.clone(),
            names,
            settings: settings.clone(),
            refusals,
            is_rebuild: false,
            connection: None,
            held: None,
            awaits_rebuild: false,
        };
        Ok(MongoView { view })
    }

    /// The same for a rebuild, which has collections and positions of its own.
    pub(crate) fn rebuilding(self) -> Self {
        MongoView {
            view: View {
                names: self.view.names.rebuilt(),
                is_rebuild: true,
                ..self.view
            },
        }
    }

    /// Takes events; the one that stops the view comes back, and then nothing of these is written.
    async fn take(
        &mut self,
        records: &[Record],
        dead_letters: &DeadLetters,
    ) -> Result<Option<Box<Poison>>> {
        let view = &mut self.view;
        let Decoded {
            steps,
            letters,
            poison,
        } = decode(view, records).await?;
        if poison.is_some() {
            return Ok(poison);
        }
        view.refusals
            .count(letters.iter().map(|(_, failure)| failure))?;
        if !letters.is_empty() {
            let letters: Vec<_> = letters.iter().map(|(record, why)| (*record, why)).collect();
            dead_letters.send(&view.name, &letters).await?;
            let reasons = letters.iter().map(|(_, why)| why.reason.clone());
            view.connection()?.refused.extend(reasons);
        }
        let believed = records.iter().filter(|record| !record.is_disbelieved);
        let versions = believed.filter_map(Record::version);
        let newest = versions.filter(|version| is_version(version)).max();
        if let Some(newest) = newest {
            // Also where nothing follows: who may not write any more moves no position either.
            view.note_rows_up_to(newest).await?;
        }
        view.write_rows(steps).await?;
        Ok(None)
    }
}

impl Positions for MongoView {
    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        self.view.connection()?.offsets.read(wanted).await
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        self.view.connection()?.offsets.begin(starts).await
    }
}

impl OrderedSink for MongoView {
    async fn connect(&mut self) -> Result<()> {
        self.view.connect().await
    }

    fn takes_emitted(&self) -> bool {
        self.view.plan.own.is_some()
    }

    fn begun(&self) -> Option<Place> {
        self.view.begun()
    }

    async fn apply_part(
        &mut self,
        records: &[Record],
        dead_letters: &DeadLetters,
    ) -> Result<PartOutcome> {
        Ok(match self.take(records, dead_letters).await? {
            Some(poison) => PartOutcome::Poisoned(poison),
            None => PartOutcome::Applied,
        })
    }

    async fn commit_part(
        &mut self,
        records: &[Record],
        commit: &Commit<'_>,
        dead_letters: &DeadLetters,
    ) -> Result<PartEnd> {
        self.view.connection()?.offsets.check(commit.moves).await?;
        if let Some(poison) = self.take(records, dead_letters).await? {
            return Ok(PartEnd::Undone(Uncommitted::Poisoned(poison)));
        }
        let view = &mut self.view;
        let place = commit.place.map(place_text);
        if let Some(place) = &place {
            view.connection()?.offsets.check(commit.moves).await?;
            view.write_documents(place).await?;
        }
        view.connection()?.offsets.advance(commit.moves).await?;
        if let Some(place) = &place {
            view.shown(place).await?;
        }
        Ok(PartEnd::Committed(Applied {
            dead_letters: std::mem::take(&mut view.connection()?.refused),
            parked_keys: 0,
            unknown_rows: 0,
        }))
    }

    async fn stop_at(&mut self, poison: &Poison, _: &DeadLetters) -> Result<Trouble> {
        Ok(match &poison.why {
            Why::Target(error) => about_event(&poison.record, error.clone()),
            Why::Refused(failure) => Trouble::new(
                failure.code,
                format!("event {}: {}", poison.record.event_id(), failure.message),
                "Correct it, then send SIGHUP.",
            ),
        })
    }

    /// What is refused waits for nobody: the next event of its row says what the row is.
    async fn decided(&self) {
        pending().await
    }

    async fn carry_out(&mut self, _: &DeadLetters) -> Result<u64> {
        Ok(0)
    }

    async fn resumed(&mut self) {
        self.view.rebuilt().await;
    }
}
