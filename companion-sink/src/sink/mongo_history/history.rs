//! The history as it is written: what a document is made of, and where it goes.

use crate::sink::mongo_history::identity::rekeyed_rows;
use crate::sink::mongo_history::write::unchanged_rows;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use change::trouble::Trouble;
use mongodb::bson::RawDocumentBuf;
use mongodb::bson::oid::ObjectId;
use mongodb::options::CollectionOptions;
use mongodb::{Collection, Database};

use crate::config;
use crate::error::{Code, Result};
use crate::event::Headers;
use crate::event::Op;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, NotApplied};
use crate::rejected::guarded::guarded;
use crate::sink::mongo_history::write::pending::{Documents, Inserted, Pending};

use crate::rejected::origin;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::rule::Rules;
use crate::sink::mongo_history::connection::{durable, make_indexes};
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::documents::column_types::type_of;
use crate::sink::mongo_history::documents::document;
use crate::sink::mongo_history::documents::history_body::HistoryBody;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::parked::keys::ParkedKeys;
use crate::sink::mongo_history::parked::store::ParkedDocuments;
use crate::sink::mongo_history::snapshot::repair::Mending;
use crate::sink::mongo_history::snapshot::snapshots::HistorySnapshots;
use crate::sink::mongo_history::tables::admission::Admission;
use crate::sink::mongo_history::tables::admission::Claim;
use crate::sink::mongo_history::tables::admission::may_be_written;
use crate::sink::mongo_history::tables::registry::HistoryTables;
use crate::sink::mongo_history::tables::schemas::Schemas;
use crate::sink::mongo_history::tables::schemas::TableDefinition;
use crate::sink::mongo_history::write::insert::insert_new;
use crate::sink::mongo_history::write::offsets::Offsets;
use crate::sink::mongo_history::write::unchanged_rows::Sifted;

/// MongoDB's limit of a document, in bytes.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
const INDEXES: [&[&str]; 5] = [
    &["entity", "version"],
    &["entity", "when.effective", "version"],
    &["transaction.id"],
    &["who.actor", "version"],
    &["why.request_id", "version"],
];

/// The sink of kind `mongo_history`.
pub(crate) struct History {
    pub(super) name: String,
    pub(super) live: Live,
    pub(super) rules: Rules,
    pub(super) source_name: String,
    pub(super) settings: config::MongoHistorySettings,
    pub(super) refusals: RefusalLimit,
    pub(super) state_name: String,
    /// As `state_name`, of the sink itself where this is its replay.
    pub(super) sink_name: String,
    pub(super) connection: Option<HistoryConnection>,
    pub(super) parked: ParkedKeys,
    /// The partitions whose positions were asked for since the connection.
    pub(super) assigned: HashSet<TopicPartition>,
    /// When decisions are looked for again.
    pub(super) next_look: Instant,
    /// The open decisions that were found there.
    pub(super) known: HashSet<ObjectId>,
    /// Of a replay: documents that are there are compared.
    pub(super) mending: Option<Arc<Mending>>,
}

pub(super) struct HistoryConnection {
    pub(super) database: Database,
    pub(super) offsets: Offsets,
    pub(super) schemas: Schemas,
    pub(super) tables: HistoryTables,
    pub(super) snapshots: HistorySnapshots,
    pub(super) parked_events: ParkedDocuments,
    pub(super) admission: Admission,
    pub(super) names: Names,
    /// Collections whose indexes were made.
    pub(super) indexed: HashSet<String>,
}

impl HistoryConnection {
    /// The collection `name`, with its indexes.
    pub(super) async fn collection(&mut self, name: &str) -> Result<Collection<RawDocumentBuf>> {
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

impl History {
    /// The sink `name` of the instance `instance`, for the source `source_name`.
    pub(crate) fn new(
        instance: &str,
        name: &str,
        live: Live,
        source_name: &str,
        settings: config::MongoHistorySettings,
        refusals: RefusalLimit,
    ) -> Self {
        History {
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
    pub(crate) fn mending(self, mending: Arc<Mending>) -> Self {
        History {
            state_name: History::replay_state(&self.state_name),
            mending: Some(mending),
            ..self
        }
    }

    /// The name in the state of a replay of `sink`.
    pub(crate) fn replay_state(sink: &str) -> String {
        format!("{sink}/replay")
    }

    /// Whether a record is left to the sink that runs, for it has not come there.
    pub(super) fn is_beyond(&self, record: &Record) -> bool {
        let mending = self.mending.as_ref();
        mending.is_some_and(|mending| !mending.covers(record))
    }

    pub(super) fn connection(&mut self) -> Result<&mut HistoryConnection> {
        self.connection.as_mut().ok_or_else(not_connected)
    }

    /// The document of an event, none if it makes none.
    async fn document(
        &mut self,
        record: &Record,
    ) -> std::result::Result<Option<(String, RawDocumentBuf)>, NotApplied> {
        if record.is_disbelieved {
            return Err(Failure::unbelievable().into());
        }
        let headers = Headers::read(record)?;
        if let Some(told) = Claim::by(record, &headers)? {
            self.admit(record, &headers, &told).await?;
        }
        match headers.op {
            Op::Schema => {
                let definition = TableDefinition::parse(record)?;
                self.learn(record, &headers, &definition).await?;
                return Ok(None);
            }
            Op::Snapshot => {
                SnapshotBody::parse(record)?;
                return Ok(None);
            }
            Op::Truncate => {}
            op if op.is_row() => {}
            _ => return Ok(None),
        }
        let body = HistoryBody::parse(record, headers.op)?;
        let told = Claim::by_row(body.table_name().into_owned());
        self.admit(record, &headers, &told).await?;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let (names, template) = (connection.names, &self.settings.collection);
        let tables = &mut connection.tables;
        let place = rekeyed_rows::place(tables, record, &headers, &body, template, names).await?;
        if !may_be_written(&place.collection) {
            let why = format!(
                "collection {} may not be written: it is not a history's",
                place.collection
            );
            return Err(Failure::not_allowed(origin::shown(&why)).into());
        }
        let definition = connection
            .schemas
            .types(&connection.database, &headers)
            .await;
        let definition = definition.map_err(|error| classify("reading a schema", &error))?;
        let types = definition.map(|(_, types)| types);
        let entity = &place.entity;
        let document = document::of_event(
            &body,
            record,
            &headers,
            entity,
            &self.source_name,
            definition,
            names,
        )?;
        if headers.op.is_row() {
            self.rules.check(record, &|column| type_of(types, column))?;
        }
        Ok(Some((place.collection, document)))
    }

    /// Refuses an event that may not go to the table that it names.
    async fn admit(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        told: &Claim<'_>,
    ) -> std::result::Result<(), NotApplied> {
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let several_topics = &self.settings.several_topics;
        let refused = connection
            .admission
            .refused(record, headers, told, several_topics);
        match refused.await? {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    /// Takes in what a schema event says: types, names, and the key. Of rows that get another key links are noted first.
    pub(super) async fn learn(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        definition: &TableDefinition,
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
    pub(super) async fn entity_of(
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
            return Ok(Some(crate::sink::mongo_history::identity::entity::entity(
                headers.table,
                Some(identity),
            )));
        };
        let natural = lineage.natural(Some(identity), headers.version);
        tables.look_up([&natural]).await?;
        Ok(Some(tables.entity(natural)))
    }

    /// Inserts the documents of a collection that are not there yet.
    pub(super) async fn insert(
        &mut self,
        name: &str,
        pending: Vec<Pending>,
        inserted: &mut Inserted,
    ) -> Result<()> {
        let tried = self.try_insert(name, &pending, inserted).await;
        match tried {
            Err(error) if error.code == Code::CollectionRefused => {
                for pending in &pending {
                    let failure = Failure::collection_refused(error.message.clone());
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

    /// Whether an event gives a table's rows another key, as far as is known: which rows are there must be known then.
    pub(super) fn may_change_key(&self, record: &Record) -> bool {
        let Some(connection) = &self.connection else {
            return false;
        };
        let (Ok(headers), Ok(definition)) = (Headers::read(record), TableDefinition::parse(record))
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

    /// As [`History::document`]; neither a mistake of ours nor a document that is too large stops the others.
    pub(super) async fn made(
        &mut self,
        record: &Record,
    ) -> std::result::Result<Option<(String, RawDocumentBuf)>, NotApplied> {
        let made = guarded(self.document(record)).await?;
        match &made {
            Some((_, document)) if document.as_bytes().len() > DOCUMENT_BYTES_MAX => {
                Err(Failure::refused("the document is larger than 16 MB".into()).into())
            }
            _ => Ok(made),
        }
    }

    /// Inserts documents, whatever their order.
    pub(super) async fn insert_all(&mut self, documents: Documents) -> Result<Inserted> {
        let mut inserted = Inserted::default();
        for (collection, pending) in documents {
            let places = pending.iter().map(|pending| pending.place);
            let collections = places.map(|place| (place, collection.clone()));
            inserted.collections.extend(collections);
            self.insert(&collection, pending, &mut inserted).await?;
        }
        Ok(inserted)
    }
}

pub(super) fn not_connected() -> Trouble {
    Trouble::new(
        Code::Unreachable,
        "mongodb: not connected",
        "It is tried again.",
    )
}
