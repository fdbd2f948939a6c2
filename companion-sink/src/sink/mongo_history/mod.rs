//! The history: one document for each change of a row, in a collection for each table.

mod connection;
pub(crate) mod documents;
pub(crate) mod failure;
mod history;
pub(crate) mod identity;
pub(crate) mod parked;
pub(crate) mod snapshot;
pub(crate) mod tables;
pub(crate) mod write;

use crate::sink::mongo_history::tables::schemas;
use crate::sink::mongo_history::write::newest_commit;

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use crate::config;
use crate::delivery::watermark::Complete;
use crate::error::Result;
use crate::event::Headers;
use crate::event::Op;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::sink::batch::Applied;
use crate::sink::batch::Batch;
use crate::sink::batch::Move;
use crate::sink::batch::Position;
pub(crate) use crate::sink::mongo_history::connection::{connect, connect_to_primary};
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::parked::store::ParkedDocuments;
use crate::sink::mongo_history::snapshot::repair::Mending;
use crate::sink::mongo_history::snapshot::snapshots::HistorySnapshots;
use crate::sink::mongo_history::tables::admission::Admission;
use crate::sink::mongo_history::tables::registry::HistoryTables;
use crate::sink::mongo_history::tables::schemas::Schemas;
use crate::sink::mongo_history::tables::schemas::TableDefinition;
use crate::sink::mongo_history::write::offsets::Offsets;
use crate::sink::unreadable_snapshot;
use crate::sink::{NotShared, Positions, Sink};

use crate::sink::mongo_history::history::History;
use crate::sink::mongo_history::history::HistoryConnection;
use crate::sink::mongo_history::history::not_connected;
use crate::sink::mongo_history::parked::{parking, pending_actions};
use crate::sink::mongo_history::snapshot::notes;

/// The sink of kind `mongo_history`.
pub(crate) struct MongoHistory {
    history: History,
}

impl MongoHistory {
    /// The sink `name` of the instance `instance`, for the source `source_name`.
    pub(crate) fn new(
        instance: &str,
        name: &str,
        live: Live,
        source_name: &str,
        settings: config::MongoHistorySettings,
        refusals: RefusalLimit,
    ) -> Self {
        let history = History::new(instance, name, live, source_name, settings, refusals);
        MongoHistory { history }
    }

    /// The same for a replay, which has offsets of its own.
    pub(crate) fn mending(self, mending: Arc<Mending>) -> Self {
        MongoHistory {
            history: self.history.mending(mending),
        }
    }

    /// The name in the state of a replay of `sink`.
    pub(crate) fn replay_state(sink: &str) -> String {
        History::replay_state(sink)
    }
}

impl Positions for MongoHistory {
    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        let connection = self.history.connection.as_ref().ok_or_else(not_connected)?;
        let positions = connection.offsets.read(wanted).await?;
        // Another instance may have parked events of these.
        self.history.parked = connection.parked_events.keys().await?;
        self.history.assigned.extend(wanted.iter().cloned());
        self.history.next_look = Instant::now();
        Ok(positions)
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        self.history.connection()?.offsets.begin(starts).await
    }
}

impl Sink for MongoHistory {
    async fn connect(&mut self) -> Result<()> {
        let before = self.history.connection.take();
        let database = connect_to_primary(
            &self.history.live.url(&self.history.name),
            &self.history.settings.database,
        )
        .await?;
        let names = schemas::accepted_names(&database)
            .await
            .map_err(|error| classify("writing a schema", &error))?;
        let parked_events = ParkedDocuments::new(&database, &self.history.sink_name);
        self.history.parked = parked_events.keys().await?;
        self.history.assigned.clear();
        self.history.connection = Some(HistoryConnection {
            names,
            offsets: Offsets::new(&database, &self.history.state_name),
            parked_events,
            admission: Admission::read(
                &database,
                &self.history.sink_name,
                self.history.mending.is_some(),
                before.map(|before| before.admission),
            )
            .await?,
            snapshots: HistorySnapshots::read(&database, &self.history.state_name).await?,
            tables: HistoryTables::read(&database).await?,
            database,
            schemas: Schemas::default(),
            indexed: HashSet::new(),
        });
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch, dead_letters: &DeadLetters) -> Result<Applied> {
        let mut asides = Vec::new();
        let documents = parking::documents(&mut self.history, batch, &mut asides).await?;
        let mut inserted = self.history.insert_all(documents).await?;
        // What a replay meets was put aside when the sink met it.
        let is_replay = self.history.mending.is_some();
        if !is_replay {
            parking::put_refused_aside(&mut self.history, batch, &mut inserted, &mut asides)
                .await?;
            let failures = asides.iter().filter_map(|aside| aside.failure.as_ref());
            self.history.refusals.count(failures)?;
        }
        notes::note(&mut self.history, batch, inserted.left_out, &asides).await?;
        if !is_replay {
            parking::park(&mut self.history, batch, &mut asides, dead_letters).await?;
        }
        self.history
            .connection()?
            .offsets
            .advance(&batch.moves)
            .await?;
        Ok(Applied {
            dead_letters: asides
                .iter()
                .filter_map(|aside| Some(aside.failure.as_ref()?.reason.clone()))
                .collect(),
            parked_keys: self.history.parked.len(),
            unknown_rows: 0,
        })
    }

    async fn decided(&self) {
        // A replay leaves what is decided to the sink.
        match self.history.parked.is_empty() || self.history.mending.is_some() {
            true => pending().await,
            false => tokio::time::sleep_until(self.history.next_look.into()).await,
        }
    }

    async fn resumed(&mut self) {
        pending_actions::wait_for_decision(&mut self.history).await;
    }

    async fn carry_out(&mut self, dead_letters: &DeadLetters) -> Result<u64> {
        match self.history.mending {
            Some(_) => Ok(self.history.parked.len()),
            None => pending_actions::carry_out_decisions(&mut self.history, dead_letters).await,
        }
    }

    async fn note_complete(&mut self, complete: &Complete) -> Result<()> {
        if self.history.mending.is_some() {
            return Ok(());
        }
        let name = self.history.state_name.clone();
        newest_commit::write(&self.history.connection()?.database, &name, complete).await
    }

    fn waits_together(&self, record: &Record) -> bool {
        // The copies of a truncate have one id: they are one document anyway.
        let waits = match record.op() {
            Some(Op::Snapshot) => true,
            Some(Op::Schema) => self.history.may_change_key(record),
            _ => false,
        };
        let admission = self
            .history
            .connection
            .as_ref()
            .map(|known| &known.admission);
        waits && admission.is_none_or(|admission| !admission.is_plainly_refused(record))
    }

    async fn apply_together(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        let headers = Headers::read(record).map_err(unreadable_snapshot)?;
        if headers.op == Op::Schema {
            if let (false, Ok(definition)) = (
                self.history.is_beyond(record),
                TableDefinition::parse(record),
            ) {
                self.history.learn(record, &headers, &definition).await?;
            }
            return self.history.connection()?.offsets.advance(moves).await;
        }
        let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
        if self.history.is_beyond(record) {
            return self.history.connection()?.offsets.advance(moves).await;
        }
        if notes::is_refused_together(&mut self.history, record, &headers).await? {
            return self.history.connection()?.offsets.advance(moves).await;
        }
        let connection = self.history.connection()?;
        if body.is_beginning() {
            connection
                .snapshots
                .begin(&record.topic, body.id(), headers.version)
                .await?;
        }
        if body.is_end() {
            notes::end_snapshot(&mut self.history, record, &headers, &body).await?;
        }
        self.history.connection()?.offsets.advance(moves).await
    }

    type Shared = NotShared;

    fn shared(&self) -> Option<&NotShared> {
        None
    }

    fn shared_mut(&mut self) -> Option<&mut NotShared> {
        None
    }
}
