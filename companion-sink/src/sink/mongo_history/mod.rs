//! The history: one document for each change of a row, in a collection for each table.

pub mod bson_value;
pub mod complete;
pub mod diff;
pub mod document;
pub mod failure;
mod gone;
mod insert;
pub mod mend;
pub mod newest;
pub mod offsets;
pub mod schemas;
pub mod snapshots;
mod unchanged;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, DatabaseOptions, ReadPreference,
    SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};

use self::bson_value::Names;
use self::document::{Body, entity, entity_of};
use self::failure::classify;
use self::gone::End;
use self::insert::insert_new;
use self::mend::Mending;
use self::offsets::Offsets;
use self::schemas::Schemas;
use self::snapshots::Snapshots;
use self::unchanged::Sifted;
use super::refusal_limit::RefusalLimit;
use super::{Applied, Batch, Move, Position, Sink, unreadable_snapshot};
use crate::config;
use crate::consumer::TopicPartition;
use crate::dead_letter::{DeadLetters, Failure};
use crate::error::{Error, Result};
use crate::event::{Headers, Malformed, Op, SnapshotBody};
use crate::record::Record;
use crate::watermark::Complete;

/// MongoDB's limit of a document, in bytes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
const SELECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The sink of kind `mongo-history`.
pub struct MongoHistory {
    name: String,
    url: String,
    source_name: String,
    settings: config::MongoHistory,
    refusals: RefusalLimit,
    state_name: String,
    connection: Option<Connection>,
    /// Which table each collection belongs to.
    tables: HashMap<String, String>,
    /// Of a replay: documents that are there are compared.
    mending: Option<Arc<Mending>>,
}

struct Connection {
    database: Database,
    offsets: Offsets,
    schemas: Schemas,
    snapshots: Snapshots,
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
            make_indexes(&collection).await?;
            self.indexed.insert(name.to_owned());
        }
        Ok(collection)
    }
}

/// Connects to the database of a history.
pub async fn connect(url: &str, database: &str) -> Result<Database> {
    let mut options = ClientOptions::parse(url).await.map_err(|error| {
        Error::configuration(
            format!("mongodb: url: {error}"),
            "Write mongodb://user:password@host:port/.",
        )
    })?;
    options
        .app_name
        .get_or_insert_with(|| "companion-sink".into());
    options
        .server_selection_timeout
        .get_or_insert(SELECTION_TIMEOUT);
    options.connect_timeout.get_or_insert(SELECTION_TIMEOUT);
    options.write_concern = Some(durable());
    let client = Client::with_options(options).map_err(|error| classify("connecting", &error))?;
    let database = client.database(database);
    database
        .run_command(doc! { "ping": 1 })
        .await
        .map_err(|error| classify("connecting", &error))?;
    Ok(database)
}

/// Acknowledged means on disk at a majority: the offset moves after it.
fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

impl MongoHistory {
    /// The sink `name` of the instance `instance`, for the source `source_name`.
    pub fn new(
        instance: &str,
        name: &str,
        url: &str,
        source_name: &str,
        settings: config::MongoHistory,
        refusals: RefusalLimit,
    ) -> Self {
        MongoHistory {
            name: name.to_owned(),
            url: url.to_owned(),
            source_name: source_name.to_owned(),
            settings,
            refusals,
            state_name: format!("{instance}.{name}"),
            connection: None,
            tables: HashMap::new(),
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

    /// Builds the documents by collection; what cannot be decoded is set aside.
    async fn documents<'b>(
        &mut self,
        batch: &'b Batch,
        aside: &mut Vec<(&'b Record, Failure)>,
    ) -> Result<BTreeMap<String, Vec<Pending>>> {
        let mut documents: BTreeMap<String, Vec<Pending>> = BTreeMap::new();
        for (place, record) in batch.records.iter().enumerate() {
            if self.is_beyond(record) {
                continue;
            }
            match self.document(record).await? {
                Ok(None) => {}
                Ok(Some((_, document))) if document.as_bytes().len() > DOCUMENT_BYTES_MAX => {
                    aside.push((
                        record,
                        Failure::refused("the document is larger than 16 MB".into()),
                    ));
                }
                Ok(Some((collection, document))) => {
                    documents
                        .entry(collection)
                        .or_default()
                        .push(Pending { place, document });
                }
                Err(Malformed(why)) => aside.push((record, Failure::undecodable(why))),
            }
        }
        Ok(documents)
    }

    async fn document(
        &mut self,
        record: &Record,
    ) -> Result<std::result::Result<Option<(String, RawDocumentBuf)>, Malformed>> {
        let headers = match Headers::read(record) {
            Ok(headers) => headers,
            Err(malformed) => return Ok(Err(malformed)),
        };
        let Some(connection) = self.connection.as_mut() else {
            return Err(not_connected());
        };
        if headers.op == Op::Schema {
            let learnt = connection
                .schemas
                .learn(&connection.database, record, &headers)
                .await;
            let learnt = learnt.map_err(|error| classify("writing a schema", &error))?;
            return Ok(learnt.map(|()| None));
        }
        if headers.op == Op::Snapshot {
            return Ok(SnapshotBody::parse(record).map(|_| None));
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
            Ok((body.collection(&self.settings.collection), document))
        });
        let (collection, document) = match built {
            Ok(built) => built,
            Err(malformed) => return Ok(Err(malformed)),
        };
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

    /// Inserts the documents of a collection. Returns the rows of snapshots that the history knows: the places of their events,
    /// and their entities.
    async fn insert<'b>(
        &mut self,
        name: &str,
        pending: Vec<Pending>,
        batch: &'b Batch,
        aside: &mut Vec<(&'b Record, Failure)>,
    ) -> Result<Vec<(usize, String)>> {
        let table = self.tables.get(name).cloned().unwrap_or_default();
        let collection = self.connection()?.collection(name).await?;
        let Sifted { kept, left_out } = unchanged::leave_out(&collection, &table, pending).await?;
        if kept.is_empty() {
            return Ok(left_out);
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
            aside.push((&batch.records[pending.place], Failure::refused(why)));
        }
        Ok(left_out)
    }

    /// Notes for the snapshots under way which rows are there though the batch has brought no document of them, and what the
    /// ends of chunks say.
    async fn note(
        &mut self,
        batch: &Batch,
        left_out: Vec<(usize, String)>,
        aside: &[(&Record, Failure)],
    ) -> Result<()> {
        let snapshots = &mut self.connection()?.snapshots;
        let mut there: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut partial = BTreeSet::new();
        for (place, entity) in left_out {
            let topic = &*batch.records[place].topic;
            there.entry(topic).or_default().insert(entity);
        }
        for (record, _) in aside {
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
            if record.header("cdc.op") == Some("snapshot")
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
            let changed = changed(headers, body).collect();
            connection.snapshots.note(&record.topic, &changed).await?;
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
        self.connection = None;
        let database = connect(&self.url, &self.settings.database).await?;
        // What a secondary does not have yet would be gone.
        let options = DatabaseOptions::builder()
            .selection_criteria(SelectionCriteria::from(ReadPreference::Primary))
            .build();
        let database = database
            .client()
            .database_with_options(database.name(), options);
        let names = schemas::accepted_names(&database)
            .await
            .map_err(|error| classify("writing a schema", &error))?;
        self.connection = Some(Connection {
            names,
            offsets: Offsets::new(&database, &self.state_name),
            snapshots: Snapshots::read(&database, &self.state_name).await?,
            database,
            schemas: Schemas::default(),
            indexed: HashSet::new(),
        });
        Ok(())
    }

    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        self.connection()?.offsets.read(wanted).await
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        self.connection()?.offsets.begin(starts).await
    }

    async fn apply(&mut self, batch: &Batch, dead_letters: &DeadLetters) -> Result<Applied> {
        let mut aside = Vec::new();
        let documents = self.documents(batch, &mut aside).await?;
        let mut left_out = Vec::new();
        for (collection, pending) in documents {
            left_out.extend(self.insert(&collection, pending, batch, &mut aside).await?);
        }
        self.note(batch, left_out, &aside).await?;
        let letters: Vec<_> = aside
            .iter()
            .map(|(record, failure)| (*record, failure))
            .collect();
        // What a replay meets was sent there when the sink met it.
        if !letters.is_empty() && self.mending.is_none() {
            self.refusals
                .count(aside.iter().map(|(_, failure)| failure))?;
            dead_letters.send(&self.name, &letters).await?;
        }
        self.connection()?.offsets.advance(&batch.moves).await?;
        Ok(Applied {
            dead_letters: aside.iter().map(|(_, failure)| failure.reason).collect(),
            parked_keys: 0,
        })
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
        record.header("cdc.op") == Some("snapshot")
    }

    async fn apply_together(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        let headers = Headers::read(record).map_err(unreadable_snapshot)?;
        let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
        if self.is_beyond(record) {
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

/// Makes the indexes that are missing. (Not all servers take it well to be asked for one that is there.)
async fn make_indexes(collection: &Collection<RawDocumentBuf>) -> Result<()> {
    const KEYS: [&[&str]; 5] = [
        &["entity", "version"],
        &["entity", "when.effective", "version"],
        &["transaction.id"],
        &["who.actor", "version"],
        &["why.request_id", "version"],
    ];
    let there = match collection.list_index_names().await {
        Ok(names) => names,
        // The collection is not there yet.
        Err(error) if failure::is_missing_collection(&error) => Vec::new(),
        Err(error) => return Err(classify("reading the indexes", &error)),
    };
    let missing = KEYS.iter().filter_map(|fields| {
        let name: Vec<_> = fields.iter().map(|field| format!("{field}_1")).collect();
        let keys: Document = fields
            .iter()
            .map(|field| ((*field).to_owned(), Bson::Int32(1)))
            .collect();
        let index = IndexModel::builder().keys(keys).build();
        (!there.contains(&name.join("_"))).then_some(index)
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    collection
        .create_indexes(missing)
        .await
        .map(|_| ())
        .map_err(|error| classify("making the indexes", &error))
}
