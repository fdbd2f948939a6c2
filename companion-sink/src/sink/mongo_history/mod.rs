//! The history: one document for each change of a row, in a collection for each table.

pub mod connection;
pub mod documents;
pub mod failure;
pub mod identity;
pub mod parked;
pub mod snapshot;
pub mod tables;
pub mod write;

use crate::sink::mongo_history::documents::document;
use crate::sink::mongo_history::identity::rekeyed_rows;
use crate::sink::mongo_history::tables::schemas;
use crate::sink::mongo_history::write::newest_commit;
use crate::sink::mongo_history::write::unchanged_rows;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use mongodb::bson::RawDocumentBuf;
use mongodb::bson::oid::ObjectId;
use mongodb::options::CollectionOptions;
use mongodb::{Collection, Database};

use crate::config;
use crate::delivery::watermark::Complete;
use crate::error::{Code, Error, Result};
use crate::event::{Headers, Op, SnapshotBody};
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::{DeadLetters, Failure};
use crate::rejected::origin;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::rule::Rules;
pub use crate::sink::mongo_history::connection::{connect, connect_to_primary};
use crate::sink::mongo_history::connection::{durable, make_indexes};
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::documents::document::{Body, identity};
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::parked::keys::ParkedKeys;
use crate::sink::mongo_history::parked::parking::Inserted;
use crate::sink::mongo_history::parked::store::{Aside, ParkedEvents};
use crate::sink::mongo_history::snapshot::repair::Mending;
use crate::sink::mongo_history::snapshot::snapshots::Snapshots;
use crate::sink::mongo_history::snapshot::vanished_rows::End;
use crate::sink::mongo_history::tables::admission::{Admission, Told, may_be_written};
use crate::sink::mongo_history::tables::registry::Tables;
use crate::sink::mongo_history::tables::schemas::{Definition, Schemas, type_of};
use crate::sink::mongo_history::write::insert::insert_new;
use crate::sink::mongo_history::write::offsets::Offsets;
use crate::sink::mongo_history::write::unchanged_rows::Sifted;
use crate::sink::{Applied, Batch, Move, Position, Sink, unreadable_snapshot};

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
    tables: Tables,
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
            return match Definition::parse(record) {
                Ok(definition) => {
                    self.learn(record, &headers, &definition).await?;
                    Ok(Ok(None))
                }
                Err(malformed) => Ok(Err(malformed.into())),
            };
        }
        if headers.op == Op::Snapshot {
            return Ok(SnapshotBody::parse(record)
                .map(|_| None)
                .map_err(Failure::from));
        }
        if !headers.op.is_row() && headers.op != Op::Truncate {
            return Ok(Ok(None));
        }
        let body = match Body::parse(record, headers.op) {
            Ok(body) => body,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        let told = Told::by_row(body.table_name().into_owned());
        let admission = &mut connection.admission;
        let refused = admission.refused(record, &headers, &told, several_topics);
        if let Some(failure) = refused.await? {
            return Ok(Err(failure));
        }
        let template = &self.settings.collection;
        let names = connection.names;
        let tables = &mut connection.tables;
        let place = rekeyed_rows::place(tables, record, &headers, &body, template, names).await?;
        let place = match place {
            Ok(place) => place,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        if !may_be_written(&place.collection) {
            let why = format!(
                "collection {} may not be written: it is not a history's",
                place.collection
            );
            return Ok(Err(Failure::not_allowed(origin::shown(&why))));
        }
        let types = connection
            .schemas
            .types(&connection.database, &headers)
            .await;
        let types = types.map_err(|error| classify("reading a schema", &error))?;
        let entity = &place.entity;
        let built = body.document(record, &headers, entity, &self.source_name, types, names);
        let document = match built {
            Ok(document) => document,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        if headers.op.is_row()
            && let Err(failure) = self.rules.check(record, &|column| type_of(types, column))
        {
            return Ok(Err(failure));
        }
        Ok(Ok(Some((place.collection, document))))
    }

    /// Takes in what a schema event says: types, names, and the key. Of rows that get another key links are noted first.
    async fn learn(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        definition: &Definition,
    ) -> Result<()> {
        let template = &self.settings.collection;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let schemas = &mut connection.schemas;
        let learnt = schemas
            .learn(&connection.database, definition, headers)
            .await;
        learnt.map_err(|error| classify("writing a schema", &error))?;
        let told = definition.told(record, headers);
        if connection.tables.other_key(&told).is_some() {
            let (database, names) = (&connection.database, connection.names);
            let linked =
                rekeyed_rows::link_rows(database, &mut connection.tables, &told, names).await?;
            tracing::info!(
                sink = self.name,
                table = headers.table,
                linked,
                "rows of a table have another key"
            );
        }
        connection.tables.learn(&told, template).await.map(drop)
    }

    /// What the history calls a row that an event is about; none if that cannot be told.
    pub(self) async fn entity_of(
        &mut self,
        topic: &str,
        headers: &Headers<'_>,
        identity: Option<&str>,
    ) -> Result<Option<String>> {
        let Some(identity) = identity else {
            return Ok(None);
        };
        let tables = &mut self.connection()?.tables;
        let Some(lineage) = tables.of(topic, headers.table, headers.version) else {
            return Ok(Some(document::entity(headers.table, Some(identity))));
        };
        let natural = lineage.natural(Some(identity), headers.version);
        tables.look_up([&natural]).await?;
        Ok(Some(tables.entity(natural)))
    }

    /// The entities of rows that a chunk left out, for they were changed before it.
    async fn changed(
        &mut self,
        topic: &str,
        headers: &Headers<'_>,
        body: &SnapshotBody<'_>,
    ) -> Result<Vec<String>> {
        let mut entities = Vec::new();
        for key in body.changed() {
            let key = std::str::from_utf8(key).ok();
            entities.extend(self.entity_of(topic, headers, key).await?);
        }
        Ok(entities)
    }

    /// Inserts the documents of a collection that are not there yet.
    async fn insert(
        &mut self,
        name: &str,
        pending: Vec<Pending>,
        inserted: &mut Inserted,
    ) -> Result<()> {
        let tried = self.try_insert(name, &pending, inserted).await;
        match tried {
            Err(error) if error.code == Code::CollectionRefused => {
                for pending in &pending {
                    let failure = Failure::collection_refused(error.what.clone());
                    inserted.refused.insert(pending.place, failure);
                }
                Ok(())
            }
            tried => tried,
        }
    }

    async fn try_insert(
        &mut self,
        name: &str,
        pending: &[Pending],
        inserted: &mut Inserted,
    ) -> Result<()> {
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let table = connection
            .tables
            .all()
            .iter()
            .find(|table| table.collection == name);
        let table = table.map(|table| table.id.clone()).unwrap_or_default();
        let collection = connection.collection(name).await?;
        let pending: Vec<&Pending> = pending.iter().collect();
        let Sifted { kept, left_out } =
            unchanged_rows::leave_out(&collection, &table, pending).await?;
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
            let why = format!("mongodb refused the document: {}", refused.why);
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
                Ok(headers) if headers.op.is_row() => {
                    match self
                        .entity_of(&record.topic, &headers, identity(record, &headers))
                        .await?
                    {
                        Some(entity) => {
                            there.entry(&record.topic).or_default().insert(entity);
                        }
                        None => {
                            partial.insert(&*record.topic);
                        }
                    }
                }
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
                    .extend(self.changed(&record.topic, &headers, &body).await?);
            }
        }
        let snapshots = &mut self.connection()?.snapshots;
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
        let template = self.settings.collection.clone();
        let connection = self.connection()?;
        if body.is_partial() {
            connection.snapshots.set_partial(&record.topic).await?;
        }
        if let Some(snapshot) = connection.snapshots.whole(&record.topic, body.id()) {
            // What waits may say otherwise.
            let parked = self.parked.of_topic(&record.topic);
            let parked: Vec<Vec<u8>> = parked.map(<[u8]>::to_vec).collect();
            let mut there = BTreeSet::from_iter(self.changed(&record.topic, headers, body).await?);
            for key in parked {
                let key = std::str::from_utf8(&key).ok();
                there.extend(self.entity_of(&record.topic, headers, key).await?);
            }
            let connection = self.connection.as_mut().ok_or_else(not_connected)?;
            connection.snapshots.note(&record.topic, &there).await?;
            let told = rekeyed_rows::told_by_row(record, headers, &event, &[]);
            let lineage = connection.tables.learn(&told, &template).await?;
            let (table, name) = (lineage.id.clone(), lineage.collection.clone());
            let collection = match connection.collection(&name).await {
                Ok(collection) => collection,
                // Nothing of the table is there that could be gone.
                Err(error) if error.code == Code::CollectionRefused => {
                    return connection.snapshots.end(&record.topic, body.id()).await;
                }
                Err(error) => return Err(error),
            };
            let end = End {
                collection: &collection,
                table: &table,
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
        let snapshots = &mut self.connection()?.snapshots;
        snapshots.end(&record.topic, body.id()).await
    }

    /// Whether an event gives a table's rows another key, as far as is known: which rows are there must be known then.
    fn may_change_key(&self, record: &Record) -> bool {
        let Some(connection) = &self.connection else {
            return false;
        };
        let (Ok(headers), Ok(definition)) = (Headers::read(record), Definition::parse(record))
        else {
            return false;
        };
        let told = definition.told(record, &headers);
        match connection.tables.knows(&told) {
            true => connection.tables.other_key(&told).is_some(),
            // What it was before may be in the batch that is being gathered.
            false => !definition.is_first() && !told.key.is_empty(),
        }
    }
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
            tables: Tables::read(&database).await?,
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
            self.park(batch, &mut asides, dead_letters).await?;
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
        newest_commit::write(&self.connection()?.database, &name, complete).await
    }

    fn waits_together(&self, record: &Record) -> bool {
        // The copies of a truncate have one id: they are one document anyway.
        let waits = match record.op() {
            Some("snapshot") => true,
            Some("schema") => self.may_change_key(record),
            _ => false,
        };
        let admission = self.connection.as_ref().map(|known| &known.admission);
        waits && admission.is_none_or(|admission| !admission.is_plainly_refused(record))
    }

    async fn apply_together(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        let headers = Headers::read(record).map_err(unreadable_snapshot)?;
        if headers.op == Op::Schema {
            if let (false, Ok(definition)) = (self.is_beyond(record), Definition::parse(record)) {
                self.learn(record, &headers, &definition).await?;
            }
            return self.connection()?.offsets.advance(moves).await;
        }
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
        Code::Unreachable,
        "mongodb: not connected",
        "It is tried again.",
    )
}
