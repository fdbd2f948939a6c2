//! The collections of a view: its documents, and the rows that they are made of.
//!
//! What is written is guarded by its version, so that nobody who was held up writes over what is newer: where a newer one is
//! there, the filter does not find it, and the insert that follows meets its `_id`.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Collection, Database, IndexModel};

use change::trouble::Trouble;

use crate::config::IndexSettings;
use crate::error::{Code, Result};
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::failure::{classify, is_missing_collection};
use crate::sink::mongo_view::affected::Rows;
use crate::sink::mongo_view::assembly::Assembled;
use crate::sink::mongo_view::names::ViewNames;
use crate::sink::mongo_view::plan::{ID, VERSION};
use crate::sink::mongo_view::row::StoredRow;
use crate::sink::mongo_view::target::statement::{
    COMMAND_BYTES_MAX, Kind, Statement, limit_is_left_out, replacing, statement,
};

const COMMAND_STATEMENTS_MAX: usize = 1000;
/// Commands that are under way together.
const COMMANDS_AT_ONCE: usize = 8;
/// So few values are looked up in FerretDB each by itself: for `$in` it fetches all rows of a collection, and decodes them.
const VALUES_ONE_BY_ONE: usize = 64;
/// How often documents are written that a unique index keeps back: others may give the value up meanwhile.
const UNIQUE_TURNS: usize = 3;
const DUPLICATE_KEY: i32 = 11000;

/// The collections of a view.
pub(crate) struct Store {
    /// Where they are.
    pub(crate) database: Database,
    /// How the server takes names.
    pub(crate) names: Names,
    documents: String,
    rows: Collection<Document>,
}

impl Store {
    /// Those of `names` in `database`.
    pub(crate) fn new(database: &Database, view: &ViewNames, names: Names) -> Self {
        Store {
            database: database.clone(),
            names,
            documents: view.documents.clone(),
            rows: database.collection(&view.rows),
        }
    }

    /// Makes the indexes that are missing. An index of the view that is there already is left as it is.
    pub(crate) async fn make_indexes(&self, indexes: &[IndexSettings]) -> Result<()> {
        let by = |keys: Document| IndexModel::builder().keys(keys).build();
        let of_rows = [
            by(doc! { "links": 1 }),
            by(doc! { "table": 1, "version": 1 }),
            by(doc! { "gone": 1 }),
        ];
        make(&self.rows, &of_rows).await?;
        let of_documents = indexes.iter().map(|index| {
            let keys = index.keys.iter();
            let keys = keys.map(|(field, way)| {
                let way = way.as_integer().unwrap_or(1);
                (field.clone(), Bson::Int32(if way < 0 { -1 } else { 1 }))
            });
            let options = index
                .unique
                .then(|| IndexOptions::builder().unique(true).build());
            IndexModel::builder()
                .keys(keys.collect::<Document>())
                .options(options)
                .build()
        });
        let documents: Collection<Document> = self.database.collection(&self.documents);
        make(&documents, &of_documents.collect::<Vec<_>>()).await
    }

    /// Makes the collection of the documents, if it is not there: one without documents is one for readers as well.
    pub(crate) async fn make_collection(&self) -> Result<()> {
        const NAMESPACE_EXISTS: i32 = 48;
        let made = self
            .database
            .create_collection(self.documents.as_str())
            .await;
        match made {
            Ok(()) => Ok(()),
            Err(error) if code_of(&error) == Some(NAMESPACE_EXISTS) => Ok(()),
            Err(error) => Err(classify("making the view's collection", &error)),
        }
    }

    /// Writes rows, of which no newer ones are there.
    pub(crate) async fn write_rows(&self, rows: &[StoredRow]) -> Result<()> {
        let statements = rows.iter().map(|row| {
            statement(doc! {
                "q": { ID: &row.id, "version": { "$lt": &row.version } },
                "u": row.to_document(),
                "upsert": true,
            })
        });
        let (name, statements) = (self.rows.name(), statements.collect::<Vec<_>>());
        let errors = self.command(Kind::Update, name, &statements).await?;
        match self.refused(name, &statements, errors).await?.first() {
            None => Ok(()),
            Some((_, code)) => Err(Trouble::new(
                Code::TargetRefuses,
                format!("mongodb refused a row in {name} (code {code})"),
                "Look at the server's log; correct it there, then send SIGHUP.",
            )),
        }
    }

    /// Writes documents as they are at the commit `version`, and deletes those that are none.
    pub(crate) async fn write_documents(
        &self,
        assembled: Vec<Assembled>,
        version: &str,
    ) -> Result<()> {
        let name = self.documents.as_str();
        let mut gone = Vec::new();
        let mut there = Vec::new();
        for Assembled { id, document } in assembled {
            match document {
                None => gone.push(statement(doc! {
                    "q": { ID: id, VERSION: { "$lte": version } }, "limit": 1,
                })),
                Some(document) => there.push(replacing(id, document, version)),
            }
        }
        // What is deleted may give up values of a unique index.
        let errors = self.command(Kind::Delete, name, &gone).await?;
        if let Some((_, code)) = errors.first() {
            return Err(refused(name, *code));
        }
        let mut turn = 1;
        while !there.is_empty() {
            let errors = self.command(Kind::Update, name, &there).await?;
            let kept_back = self.refused(name, &there, errors).await?;
            if let Some((_, code)) = kept_back.first()
                && (turn == UNIQUE_TURNS || *code != DUPLICATE_KEY)
            {
                return Err(refused(name, *code));
            }
            there = kept_back
                .into_iter()
                .map(|(statement, _)| statement.clone())
                .collect();
            turn += 1;
            if turn == UNIQUE_TURNS {
                // They keep each other back: values of a unique index went from one to the other.
                let ids = there.iter().filter_map(Statement::without_document);
                let ids: Vec<Statement> = ids.collect();
                self.command(Kind::Delete, name, &ids).await?;
            }
        }
        Ok(())
    }

    /// Forgets rows that are gone, up to a version: nothing older comes any more.
    pub(crate) async fn forget_gone(&self, version: &str) -> Result<()> {
        let gone = doc! { "gone": true, "version": { "$lte": version } };
        let deleted = self.rows.delete_many(gone).await;
        deleted
            .map(drop)
            .map_err(|error| classify("forgetting rows that are gone", &error))
    }

    /// Up to `limit` rows of a table that are there, whose field `by` is below `version`.
    pub(crate) async fn older(
        &self,
        table: &str,
        by: &str,
        version: &str,
        limit: i64,
    ) -> Result<Vec<StoredRow>> {
        let filter = doc! { "table": table, "gone": { "$ne": true }, by: { "$lt": version } };
        self.find(filter, Some(limit)).await
    }

    /// The columns by which a row of a table goes that is there; none where no row is.
    pub(crate) async fn key_of_a_row(&self, table: &str) -> Result<Option<BTreeSet<String>>> {
        let rows = self.older(table, "version", "~", 1).await?;
        Ok(rows.first().and_then(|row| {
            let key = row.key.as_document()?;
            Some(key.keys().cloned().collect())
        }))
    }

    /// Up to `limit` rows of a table that were changed as of `version`, in the order of their ids behind `after`.
    pub(crate) async fn at(
        &self,
        table: &str,
        version: &str,
        after: &str,
        limit: i64,
    ) -> Result<Vec<StoredRow>> {
        let filter = doc! { "table": table, "version": version, ID: { "$gt": after } };
        self.find(filter, Some(limit)).await
    }

    /// Notes that a snapshot of the source knows of these rows.
    pub(crate) async fn note_met(&self, ids: &[String], version: &str) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let known = doc! { ID: { "$in": ids }, "met": { "$lt": version } };
        let noted = self
            .rows
            .update_many(known, doc! { "$set": { "met": version } })
            .await;
        noted
            .map(drop)
            .map_err(|error| classify("noting rows of a snapshot", &error))
    }

    async fn find(&self, filter: Document, limit: Option<i64>) -> Result<Vec<StoredRow>> {
        let failed = |error| classify("reading rows", &error);
        let mut find = self.rows.find(filter);
        if let Some(limit) = limit {
            find = find.sort(doc! { ID: 1 }).limit(limit);
        }
        let mut found = find.await.map_err(failed)?;
        let mut rows = Vec::new();
        while let Some(document) = found.try_next().await.map_err(failed)? {
            let row = StoredRow::of_document(document).ok_or_else(|| {
                Trouble::new(
                    Code::TargetRefuses,
                    format!(
                        "mongodb: a document of {} has an unknown form",
                        self.rows.name()
                    ),
                    "Build the view anew: companion-sink rebuild.",
                )
            })?;
            rows.push(row);
        }
        Ok(rows)
    }

    /// Gives statements to the server, in as many commands as it takes; the errors with the places of their statements.
    async fn command(
        &self,
        kind: Kind,
        collection: &str,
        statements: &[Statement],
    ) -> Result<Vec<(usize, i32)>> {
        let commands = self.commands(statements);
        let mut errors = Vec::new();
        for together in commands.chunks(COMMANDS_AT_ONCE) {
            let runs = together
                .iter()
                .map(|(_, some)| self.run(kind, collection, some));
            let ended = try_join_all(runs).await?;
            for ((first, some), _) in together.iter().zip(ended).filter(|(_, end)| end.is_some()) {
                // Not every server goes on behind a statement that it refuses, or says which one it was.
                for (place, one) in some.iter().enumerate() {
                    let error = self
                        .run(kind, collection, std::slice::from_ref(one))
                        .await?;
                    errors.extend(error.map(|code| (first + place, code)));
                }
            }
        }
        Ok(errors)
    }

    /// The statements by commands, with the place of the first one.
    fn commands<'s>(&self, statements: &'s [Statement]) -> Vec<(usize, &'s [Statement])> {
        // FerretDB holds what an update has looked at until the command ends: a hundred of them wait for each other for ever.
        let statements_max = match self.names {
            Names::AsTheyAre => COMMAND_STATEMENTS_MAX,
            Names::WithoutDots => 1,
        };
        let mut commands = Vec::new();
        let mut first = 0;
        while first < statements.len() {
            let mut bytes = 0;
            let rest = statements[first..].iter().take(statements_max);
            let fits = rest.take_while(|statement| {
                let is_first = bytes == 0;
                bytes += statement.bytes;
                is_first || bytes <= COMMAND_BYTES_MAX
            });
            let end = first + fits.count();
            commands.push((first, &statements[first..end]));
            first = end;
        }
        commands
    }

    /// One command; the code of the first statement that is refused.
    async fn run(
        &self,
        kind: Kind,
        collection: &str,
        statements: &[Statement],
    ) -> Result<Option<i32>> {
        let (command, field) = match kind {
            Kind::Update => ("update", "updates"),
            Kind::Delete => ("delete", "deletes"),
        };
        let documents = statements
            .iter()
            .map(|statement| statement.document.clone());
        let told = self
            .database
            .run_command(doc! {
                command: collection, field: documents.collect::<Vec<_>>(), "ordered": false,
                "writeConcern": { "w": "majority", "j": true },
            })
            .await;
        let told = match told {
            Ok(told) => told,
            Err(error) if code_of(&error) == Some(DUPLICATE_KEY) => return Ok(Some(DUPLICATE_KEY)),
            Err(error) => return Err(classify("writing the view", &error)),
        };
        if let Ok(concern) = told.get_document("writeConcernError") {
            return Err(Trouble::new(
                Code::Unreachable,
                format!(
                    "mongodb: writing the view: write concern not met (code {})",
                    concern.get_i32("code").unwrap_or_default()
                ),
                "Look at the server's log; it is tried again.",
            ));
        }
        let mut errors = told.get_array("writeErrors").into_iter().flatten();
        let error = errors.find_map(Bson::as_document);
        Ok(error.map(|error| error.get_i32("code").unwrap_or_default()))
    }

    /// Whether a newer document is in the place of the one that a statement writes.
    async fn is_newer_there(&self, collection: &str, statement: &Statement) -> Result<bool> {
        let Ok(query) = statement.document.get_document("q") else {
            return Ok(false);
        };
        let newer = query.iter().map(|(field, value)| match value {
            Bson::Document(limit) if field != ID => {
                let limit = limit.values().next().cloned().unwrap_or(Bson::Null);
                let at_least = match limit_is_left_out(query) {
                    true => "$gte",
                    false => "$gt",
                };
                (field.clone(), Bson::Document(doc! { at_least: limit }))
            }
            value => (field.clone(), value.clone()),
        });
        let newer: Document = newer.collect();
        let found = self
            .database
            .collection::<Document>(collection)
            .find_one(newer)
            .await;
        found
            .map(|found| found.is_some())
            .map_err(|error| classify("reading the view", &error))
    }

    /// Those of the errors that are not about a newer document in the same place.
    async fn refused<'s>(
        &self,
        collection: &str,
        statements: &'s [Statement],
        errors: Vec<(usize, i32)>,
    ) -> Result<Vec<(&'s Statement, i32)>> {
        let mut refused = Vec::new();
        for (place, code) in errors {
            let Some(statement) = statements.get(place) else {
                continue;
            };
            if code != DUPLICATE_KEY || !self.is_newer_there(collection, statement).await? {
                refused.push((statement, code));
            }
        }
        Ok(refused)
    }
}

impl Rows for Store {
    async fn by_ids(&self, ids: &[String]) -> Result<Vec<StoredRow>> {
        self.with_any(ID, ids, doc! {}).await
    }

    async fn by_links(&self, links: &[String]) -> Result<Vec<StoredRow>> {
        self.with_any("links", links, doc! { "gone": { "$ne": true } })
            .await
    }
}

impl Store {
    /// The rows of which a field is, or holds, one of these values.
    async fn with_any(
        &self,
        field: &str,
        values: &[String],
        and: Document,
    ) -> Result<Vec<StoredRow>> {
        let with = |wanted: Bson| {
            let mut filter = doc! { field: wanted };
            filter.extend(and.clone());
            self.find(filter, None)
        };
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let one_by_one = match self.names {
            Names::AsTheyAre => 1,
            Names::WithoutDots => VALUES_ONE_BY_ONE,
        };
        if values.len() > one_by_one {
            return with(Bson::Document(doc! { "$in": values })).await;
        }
        let found: Vec<_> = values.iter().map(|value| with(Bson::from(value))).collect();
        let found: Vec<_> = stream::iter(found)
            .buffered(COMMANDS_AT_ONCE)
            .try_collect()
            .await?;
        let found = found.into_iter().flatten();
        // A row may have several of the values.
        let found = found.map(|row| (row.id.clone(), row));
        Ok(found.collect::<BTreeMap<_, _>>().into_values().collect())
    }
}

fn refused(collection: &str, code: i32) -> Trouble {
    match code {
        DUPLICATE_KEY => Trouble::new(
            Code::TargetRefuses,
            format!(
                "mongodb: two documents of the view {collection} have equal values in a unique index"
            ),
            "Drop the index on the server and remove unique from the sink's indexes, or correct the rows at the source and drop the index until the sink has passed them; then send SIGHUP.",
        ),
        code => Trouble::new(
            Code::TargetRefuses,
            format!("mongodb refused a document of the view {collection} (code {code})"),
            "Look at the collection's validation rules and indexes; correct them, then send SIGHUP.",
        ),
    }
}

fn code_of(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

async fn make(collection: &Collection<Document>, wanted: &[IndexModel]) -> Result<()> {
    let failed = |error: &mongodb::error::Error| classify("making the view's indexes", error);
    let there = match collection.list_index_names().await {
        Ok(names) => names,
        Err(error) if is_missing_collection(&error) => Vec::new(),
        Err(error) => return Err(failed(&error)),
    };
    let name = |index: &IndexModel| {
        let keys = index.keys.iter();
        let parts = keys.map(|(field, way)| format!("{field}_{}", way.as_i32().unwrap_or(1)));
        parts.collect::<Vec<_>>().join("_")
    };
    let missing: Vec<IndexModel> = wanted
        .iter()
        .filter(|index| !there.contains(&name(index)))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    collection
        .create_indexes(missing)
        .await
        .map(drop)
        .map_err(|error| failed(&error))
}
