//! The history: one document for each change of a row, in a collection for each table.

mod actions;
mod admission;
mod bodies;
pub mod bson_value;
mod carry_out;
pub mod complete;
mod connection;
pub mod diff;
pub mod document;
pub mod failure;
mod gone;
mod insert;
pub mod mend;
pub mod newest;
pub mod offsets;
mod park;
pub mod parked;
mod parked_keys;
pub mod schemas;
pub mod snapshots;
mod unchanged;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use mongodb::bson::RawDocumentBuf;
use mongodb::bson::oid::ObjectId;
use mongodb::options::CollectionOptions;
use mongodb::{Collection, Database};

use self::admission::{Admission, Told, may_be_written};
use self::bson_value::Names;
pub use self::connection::{connect, connect_to_primary};
use self::connection::{durable, make_indexes};
use self::document::{Body, entity, entity_of};
use self::failure::classify;
use self::gone::End;
use self::insert::insert_new;
use self::mend::Mending;
use self::offsets::Offsets;
use self::park::Inserted;
use self::parked::{Aside, ParkedEvents};
use self::parked_keys::ParkedKeys;
use self::schemas::{Schemas, type_of};
use self::snapshots::Snapshots;
use self::unchanged::Sifted;
use super::refusal_limit::RefusalLimit;
use super::{Applied, Batch, Move, Position, Sink, origin, unreadable_snapshot};
use crate::config;
use crate::consumer::TopicPartition;
use crate::dead_letter::{DeadLetters, Failure};
use crate::error::{Error, Result};
use crate::event::{Headers, Op, SnapshotBody};
use crate::live::Live;
use crate::record::Record;
use crate::rule::Rules;
use crate::watermark::Complete;

/// MongoDB's limit of a document, in bytes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
const INDEXES: [&[&str]; 5] = [
    &["entity", "version"],
    &["entity", "when.effective", "version"],
    &["transaction.id"],
    &["who.actor", "version"],
    &["why.request_id", "version"],
];

/// The sink of kind `mongo-history`.
pub struct MongoHistory {
    name: String,
    live: Live,
    rules: Rules,
    source_name: String,
    settings: config::MongoHistory,
    refusals: RefusalLimit,
    state_name: String,
    /// As `state_name`, of the sink itself where this is its replay.
    sink_name: String,
    connection: Option<Connection>,
    /// Which table each collection belongs to.
    tables: HashMap<String, String>,
    parked: ParkedKeys,
    /// The partitions whose positions were asked for since the connection.
    assigned: HashSet<TopicPartition>,
    /// When decisions are looked for again.
    next_look: Instant,
    /// The open decisions that were found there.
    known: HashSet<ObjectId>,
    /// Of a replay: documents that are there are compared.
    mending: Option<Arc<Mending>>,
}

struct Connection {
    database: Database,
    offsets: Offsets,
    schemas: Schemas,
    snapshots: Snapshots,
    parked_events: ParkedEvents,
    admission: Admission,
    names: Names,
    /// Collections whose indexes were made.
    indexed: HashSet<String>,
}

/// A document to insert and the place of its event in the batch.
struct Pending {
    place: usize,
    document: RawDocumentBuf,
}

impl Connection {
    /// The collection `name`, with its indexes.
    async fn collection(&mut self, name: &str) -> Result<Collection<RawDocumentBuf>> {
        let options = CollectionOptions::builder()
            .write_concern(durable())
            .build();
        let collection = self.database.collection_with_options(name, options);
        if !self.indexed.contains(name) {
            make_indexes(&collection, &INDEXES).await?;
            self.indexed.insert(name.to_owned());
        }
        Ok(collection)
    }
}

impl MongoHistory {
    /// The sink `name` of the instance `instance`, for the source `source_name`.
    pub fn new(
        instance: &str,
        name: &str,
        live: Live,
        source_name: &str,
        settings: config::MongoHistory,
        refusals: RefusalLimit,
    ) -> Self {
        MongoHistory {
            name: name.to_owned(),
            rules: Rules::new(name, live.clone()),
            live,
            source_name: source_name.to_owned(),
            settings,
            refusals,
            sink_name: format!("{instance}.{name}"),
            state_name: format!("{instance}.{name}"),
            connection: None,
            tables: HashMap::new(),
            parked: ParkedKeys::default(),
            assigned: HashSet::new(),
            next_look: Instant::now(),
            known: HashSet::new(),
            mending: None,
        }
    }

    /// The same for a replay, which has offsets of its own.
    pub fn mending(self, mending: Arc<Mending>) -> Self {
        MongoHistory {
            state_name: MongoHistory::replay_state(&self.state_name),
            mending: Some(mending),
            ..self
        }
    }

    /// The name in the state of a replay of `sink`.
    pub fn replay_state(sink: &str) -> String {
        format!("{sink}/replay")
    }

    /// Whether a record is left to the sink that runs, for it has not come there.
    fn is_beyond(&self, record: &Record) -> bool {
        let mending = self.mending.as_ref();
        mending.is_some_and(|mending| !mending.covers(record))
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        self.connection.as_mut().ok_or_else(not_connected)
    }

    async fn document(
        &mut self,
        record: &Record,
    ) -> Result<std::result::Result<Option<(String, RawDocumentBuf)>, Failure>> {
        if record.is_disbelieved {
            return Ok(Err(Failure::unbelievable()));
        }
        let headers = match Headers::read(record) {
            Ok(headers) => headers,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        let several_topics = &self.settings.several_topics;
        let Some(connection) = self.connection.as_mut() else {
            return Err(not_connected());
        };
        match Told::by(record, &headers) {
            Err(failure) => return Ok(Err(failure)),
            Ok(None) => {}
            Ok(Some(told)) => {
                let admission = &mut connection.admission;
                let refused = admission.refused(record, &headers, &told, several_topics);
                if let Some(failure) = refused.await? {
                    return Ok(Err(failure));
                }
            }
        }
        if headers.op == Op::Schema {
            let learnt = connection
                .schemas
                .learn(&connection.database, record, &headers)
                .await;
            let learnt = learnt.map_err(|error| classify("writing a schema", &error))?;
            return Ok(learnt.map(|()| None).map_err(Failure::from));
        }
        if headers.op == Op::Snapshot {
            return Ok(SnapshotBody::parse(record)
                .map(|_| None)
                .map_err(Failure::from));
        }
        if !headers.op.is_row() && headers.op != Op::Truncate {
            return Ok(Ok(None));
        }
        let names = connection.names;
        let types = connection
            .schemas
            .types(&connection.database, &headers)
            .await;
        let types = types.map_err(|error| classify("reading a schema", &error))?;
        let built = Body::parse(record, headers.op).and_then(|body| {
            let document = body.document(record, &headers, &self.source_name, types, names)?;
            let collection = body.collection(&self.settings.collection);
            Ok((collection, document, body.table_name().into_owned()))
        });
        let (collection, document, source) = match built {
            Ok(built) => built,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        if !may_be_written(&collection) {
            let why = format!("collection {collection} may not be written: it is not a history's");
            return Ok(Err(Failure::not_allowed(origin::shown(&why))));
        }
        let admission = &mut connection.admission;
        let told = Told::by_row(source);
        let refused = admission.refused(record, &headers, &told, several_topics);
        if let Some(failure) = refused.await? {
            return Ok(Err(failure));
        }
        if headers.op.is_row()
            && let Err(failure) = self.rules.check(record, &|column| type_of(types, column))
        {
            return Ok(Err(failure));
        }
        match self.tables.get(&collection) {
            Some(table) if table == headers.table => {}
            Some(table) => {
                return Err(Error::configuration(
                    format!(
                        "tables {table} and {} would share the collection {collection}",
                        headers.table
                    ),
                    format!(
                        "Put {{schema}} or {{database}} into [sink.{}] collection, then restart.",
                        self.name
                    ),
                ));
            }
            None => {
                self.tables
                    .insert(collection.clone(), headers.table.to_owned());
            }
        }
        Ok(Ok(Some((collection, document))))
    }

    /// Inserts the documents of a collection that are not there yet.
    async fn insert(
        &mut self,
        name: &str,
        pending: Vec<Pending>,
        inserted: &mut Inserted,
    ) -> Result<()> {
        let table = self.tables.get(name).cloned().unwrap_or_default();
        let collection = self.connection()?.collection(name).await?;
        let Sifted { kept, left_out } = unchanged::leave_out(&collection, &table, pending).await?;
        inserted.left_out.extend(left_out);
        if kept.is_empty() {
            return Ok(());
        }
        let documents = kept.iter().map(|pending| &pending.document);
        let refused = match &self.mending {
            Some(mending) => {
                mending
                    .write(&collection, &documents.collect::<Vec<_>>())
                    .await?
            }
            None => insert_new(&collection, documents).await?,
        };
        for refused in refused {
            let why = format!("mongodb refused the document (code {})", refused.code);
            let pending = kept.get(refused.place).ok_or_else(not_connected)?;
            inserted
                .refused
                .insert(pending.place, Failure::refused(why));
        }
        Ok(())
    }

    /// Notes for the snapshots under way which rows are there though the batch has brought no document of them, and what the
    /// ends of chunks say.
    async fn note(
        &mut self,
        batch: &Batch,
        left_out: Vec<(usize, String)>,
        asides: &[Aside<'_>],
    ) -> Result<()> {
        let snapshots = &mut self.connection()?.snapshots;
        let mut there: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut partial = BTreeSet::new();
        for (place, entity) in left_out {
            let topic = &*batch.records[place].topic;
            there.entry(topic).or_default().insert(entity);
        }
        for Aside {
            record, failure, ..
        } in asides
        {
            // What is forged says nothing of the topic's table.
            if failure.as_ref().is_some_and(Failure::is_forged) {
                continue;
            }
            match Headers::read(record) {
                Ok(headers) if headers.op.is_row() => match entity_of(record, &headers) {
                    Some(entity) => {
                        there.entry(&record.topic).or_default().insert(entity);
                    }
                    None => {
                        partial.insert(&*record.topic);
                    }
                },
                Ok(headers) if headers.op != Op::Snapshot => {}
                // Nobody knows which row it is about.
                _ => {
                    partial.insert(&*record.topic);
                }
            }
        }
        for record in &batch.records {
            if record.op() == Some("snapshot")
                && let (Ok(headers), Ok(body)) =
                    (Headers::read(record), SnapshotBody::parse(record))
            {
                if body.is_partial() {
                    partial.insert(&*record.topic);
                }
                there
                    .entry(&record.topic)
                    .or_default()
                    .extend(changed(&headers, &body));
            }
        }
        for topic in partial {
            snapshots.set_partial(topic).await?;
        }
        for (topic, entities) in there {
            if snapshots.takes_notes(topic) {
                snapshots.note(topic, &entities).await?;
            }
        }
        Ok(())
    }

    /// Whether the beginning or end of a snapshot cannot come from its topic's table.
    async fn is_refused_together(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
    ) -> Result<bool> {
        let several_topics = self.settings.several_topics.clone();
        let told = Told::by(record, headers).ok().flatten();
        let Some(told) = told else { return Ok(true) };
        let admission = &mut self.connection()?.admission;
        let refused = admission
            .refused(record, headers, &told, &several_topics)
            .await?;
        if let Some(failure) = &refused {
            tracing::warn!(sink = self.name, topic = %record.topic, code = %failure.code, "passed over: {}", failure.message);
        }
        Ok(refused.is_some())
    }

    /// Writes what the end of a snapshot says.
    async fn end_snapshot(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        body: &SnapshotBody<'_>,
    ) -> Result<()> {
        let event = Body::parse(record, headers.op).map_err(unreadable_snapshot)?;
        let Some(connection) = self.connection.as_mut() else {
            return Err(not_connected());
        };
        if body.is_partial() {
            connection.snapshots.set_partial(&record.topic).await?;
        }
        if let Some(snapshot) = connection.snapshots.whole(&record.topic, body.id()) {
            // What waits may say otherwise.
            let parked = self.parked.of_topic(&record.topic);
            let parked = parked.map(|key| entity(headers.table, std::str::from_utf8(key).ok()));
            let there = changed(headers, body).chain(parked).collect();
            connection.snapshots.note(&record.topic, &there).await?;
            let name = event.collection(&self.settings.collection);
            let collection = connection.collection(&name).await?;
            let end = End {
                collection: &collection,
                snapshots: &connection.snapshots,
                snapshot: &snapshot,
                record,
                headers,
                body: &event,
                source_name: &self.source_name,
                names: connection.names,
                mending: self.mending.as_deref(),
            };
            let gone = end.write_inferred_deletes().await?;
            tracing::info!(
                sink = self.name,
                collection = name,
                gone,
                "a snapshot of the source ended"
            );
        }
        connection.snapshots.end(&record.topic, body.id()).await
    }
}

/// The entities of rows that a chunk left out, for they were changed before it.
fn changed(headers: &Headers<'_>, body: &SnapshotBody<'_>) -> impl Iterator<Item = String> {
    let keys = body.changed().map(|key| std::str::from_utf8(key).ok());
    keys.flatten().map(|key| entity(headers.table, Some(key)))
}

impl Sink for MongoHistory {
    async fn connect(&mut self) -> Result<()> {
        let before = self.connection.take();
        let database =
            connect_to_primary(&self.live.url(&self.name), &self.settings.database).await?;
        let names = schemas::accepted_names(&database)
            .await
            .map_err(|error| classify("writing a schema", &error))?;
        let parked_events = ParkedEvents::new(&database, &self.sink_name);
        self.parked = parked_events.keys().await?;
        self.assigned.clear();
        self.connection = Some(Connection {
            names,
            offsets: Offsets::new(&database, &self.state_name),
            parked_events,
            admission: Admission::read(
                &database,
                &self.sink_name,
                self.mending.is_some(),
                before.map(|before| before.admission),
            )
            .await?,
            snapshots: Snapshots::read(&database, &self.state_name).await?,
            database,
            schemas: Schemas::default(),
            indexed: HashSet::new(),
        });
        Ok(())
    }

    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        let connection = self.connection.as_ref().ok_or_else(not_connected)?;
        let positions = connection.offsets.read(wanted).await?;
        // Another instance may have parked events of these.
        self.parked = connection.parked_events.keys().await?;
        self.assigned.extend(wanted.iter().cloned());
        self.next_look = Instant::now();
        Ok(positions)
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        self.connection()?.offsets.begin(starts).await
    }

    async fn apply(&mut self, batch: &Batch, dead_letters: &DeadLetters) -> Result<Applied> {
        let mut asides = Vec::new();
        let documents = self.documents(batch, &mut asides).await?;
        let mut inserted = self.insert_all(documents).await?;
        // What a replay meets was put aside when the sink met it.
        let is_replay = self.mending.is_some();
        if !is_replay {
            self.put_refused_aside(batch, &mut inserted, &mut asides)
                .await?;
            let failures = asides.iter().filter_map(|aside| aside.failure.as_ref());
            self.refusals.count(failures)?;
        }
        self.note(batch, inserted.left_out, &asides).await?;
        if !is_replay {
            self.park(batch, &asides, dead_letters).await?;
        }
        self.connection()?.offsets.advance(&batch.moves).await?;
        Ok(Applied {
            dead_letters: asides
                .iter()
                .filter_map(|aside| Some(aside.failure.as_ref()?.reason.clone()))
                .collect(),
            parked_keys: self.parked.len(),
            unknown_rows: 0,
        })
    }

    async fn decided(&self) {
        // A replay leaves what is decided to the sink.
        match self.parked.is_empty() || self.mending.is_some() {
            true => pending().await,
            false => tokio::time::sleep_until(self.next_look.into()).await,
        }
    }

    async fn resumed(&mut self) {
        self.wait_for_decision().await;
    }

    async fn carry_out(&mut self, dead_letters: &DeadLetters) -> Result<u64> {
        match self.mending {
            Some(_) => Ok(self.parked.len()),
            None => self.carry_out_decisions(dead_letters).await,
        }
    }

    async fn note_complete(&mut self, complete: &Complete) -> Result<()> {
        if self.mending.is_some() {
            return Ok(());
        }
        let name = self.state_name.clone();
        complete::write(&self.connection()?.database, &name, complete).await
    }

    fn waits_together(&self, record: &Record) -> bool {
        // The copies of a truncate have one id: they are one document anyway.
        let admission = self.connection.as_ref().map(|known| &known.admission);
        record.op() == Some("snapshot")
            && admission.is_none_or(|admission| !admission.is_plainly_refused(record))
    }

    async fn apply_together(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        let headers = Headers::read(record).map_err(unreadable_snapshot)?;
        let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
        if self.is_beyond(record) {
            return self.connection()?.offsets.advance(moves).await;
        }
        if self.is_refused_together(record, &headers).await? {
            return self.connection()?.offsets.advance(moves).await;
        }
        let connection = self.connection()?;
        if body.is_beginning() {
            connection
                .snapshots
                .begin(&record.topic, body.id(), headers.version)
                .await?;
        }
        if body.is_end() {
            self.end_snapshot(record, &headers, &body).await?;
        }
        self.connection()?.offsets.advance(moves).await
    }
}

fn not_connected() -> Error {
    Error::new(
        crate::error::Code::Unreachable,
        "mongodb: not connected",
        "It is tried again.",
    )
}
