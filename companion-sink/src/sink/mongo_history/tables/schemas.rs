//! The types of a table's columns, for the diff: they come with the schema events and are kept in the collection
//! `companion_schemas`, because a later run does not see those events again.

use crate::sink::mongo_history::documents::column_types::ColumnTypes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde::Deserialize;

use crate::event::Headers;
use crate::event::json::Malformed;
use crate::event::parse_body;
use crate::kafka::record::Record;
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::identity::told::Name;
use crate::sink::mongo_history::identity::told::Told;

const COLLECTION: &str = "companion_schemas";

/// How the server takes names with a dot: MongoDB as they are, others not at all. Asked with a document that stays.
pub(crate) async fn accepted_names(database: &Database) -> Result<Names, mongodb::error::Error> {
    let probe = doc! { "_id": "names with dots", "dotted.name": true };
    match database
        .collection::<Document>(COLLECTION)
        .insert_one(probe)
        .await
    {
        Ok(_) => Ok(Names::AsTheyAre),
        Err(error) if crate::sink::mongo_history::failure::is_duplicate_id(&error) => {
            Ok(Names::AsTheyAre)
        }
        Err(error) if crate::sink::mongo_history::failure::is_about_document(&error) => {
            Ok(Names::WithoutDots)
        }
        Err(error) => Err(error),
    }
}

/// The known definitions, by table: the versions from which on they hold, in their order.
#[derive(Default)]
pub(crate) struct Schemas {
    known: HashMap<String, BTreeMap<String, ColumnTypes>>,
}

/// A schema event.
#[derive(Deserialize)]
pub(crate) struct TableDefinition {
    source: ToldSource,
    #[serde(flatten)]
    change: ToldSchema,
}

#[derive(Deserialize)]
struct ToldSource {
    db: String,
    schema: String,
    table: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldSchema {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default, rename = "table_oid")]
    oid: Option<i64>,
    #[serde(default)]
    renames: BTreeMap<String, String>,
    #[serde(default)]
    table_changes: Vec<ToldChange>,
}

#[derive(Deserialize)]
struct ToldChange {
    table: Option<ToldTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldTable {
    #[serde(default)]
    primary_key_column_names: Vec<String>,
    columns: Vec<ToldColumn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldColumn {
    name: String,
    type_name: String,
    #[serde(default)]
    type_expression: Option<String>,
}

impl ToldTable {
    fn types(&self) -> Vec<(&str, &str)> {
        let columns = self.columns.iter();
        columns
            .filter_map(|column| Some((column.name.as_str(), column.type_expression.as_deref()?)))
            .collect()
    }
}

impl TableDefinition {
    /// Parses a schema event.
    pub(crate) fn parse(record: &Record) -> Result<TableDefinition, Malformed> {
        parse_body(record)
    }

    /// Whether the source begins to send the table.
    pub(crate) fn is_first(&self) -> bool {
        self.change.kind == "CREATE"
    }

    fn table(&self) -> Option<&ToldTable> {
        let changes = &self.change.table_changes;
        changes.iter().find_map(|change| change.table.as_ref())
    }

    /// What it says about its table.
    pub(crate) fn told<'t>(&'t self, record: &'t Record, headers: &Headers<'t>) -> Told<'t> {
        let change = &self.change;
        Told {
            version: headers.version,
            topic: &record.topic,
            is_renaming: change.kind == "RENAME",
            name: Name {
                from: String::new(),
                header: headers.table.to_owned(),
                database: self.source.db.clone(),
                schema: self.source.schema.clone(),
                table: self.source.table.clone(),
            },
            oid: change.oid,
            renames: &change.renames,
            key: self
                .table()
                .map_or(&[], |table| &table.primary_key_column_names),
            types: self.table().map_or(Vec::new(), ToldTable::types),
        }
    }
}

impl Schemas {
    /// Learns from a schema event.
    pub(crate) async fn learn(
        &mut self,
        database: &Database,
        definition: &TableDefinition,
        headers: &Headers<'_>,
    ) -> Result<(), mongodb::error::Error> {
        let Some(table) = definition.table() else {
            return Ok(());
        };
        let known = self.of_table(database, headers.table).await?;
        if known.contains_key(headers.version) {
            return Ok(());
        }
        let columns: Vec<_> = table
            .columns
            .iter()
            .map(|column| {
                let expression = column.type_expression.as_ref();
                doc! { "name": &column.name, "type": &column.type_name, "expression": expression }
            })
            .collect();
        let id = id_of(headers.table, headers.version);
        let inserted = database
            .collection::<Document>(COLLECTION)
            .insert_one(doc! { "_id": &id, "columns": columns })
            .await;
        if let Err(error) = inserted
            && !crate::sink::mongo_history::failure::is_duplicate_id(&error)
        {
            return Err(error);
        }
        let types = table
            .columns
            .iter()
            .map(|column| (column.name.clone(), column.type_name.clone()));
        known.insert(headers.version.to_owned(), types.collect());
        Ok(())
    }

    /// The column types of an event, with the version of the definition that they are of, if it is known.
    pub(crate) async fn types(
        &mut self,
        database: &Database,
        headers: &Headers<'_>,
    ) -> Result<Option<(&str, &ColumnTypes)>, mongodb::error::Error> {
        let known = self.of_table(database, headers.table).await?;
        let newest = known
            .range::<str, _>((Bound::Unbounded, Bound::Included(headers.version)))
            .next_back();
        Ok(newest.map(|(version, types)| (version.as_str(), types)))
    }

    async fn of_table(
        &mut self,
        database: &Database,
        table: &str,
    ) -> Result<&mut BTreeMap<String, ColumnTypes>, mongodb::error::Error> {
        if !self.known.contains_key(table) {
            let mut stored = BTreeMap::new();
            let of_table = doc! { "_id": { "$gte": id_of(table, ""), "$lt": format!("{table};") } };
            let mut found = database
                .collection::<Document>(COLLECTION)
                .find(of_table)
                .await?;
            while let Some(found) = found.try_next().await? {
                let version = found.get_str("_id").ok();
                let version = version.and_then(|id| id.rsplit_once(':'));
                if let (Some((_, version)), Some(types)) = (version, types_of(&found, type_name)) {
                    stored.insert(version.to_owned(), types);
                }
            }
            self.known.insert(table.to_owned(), stored);
        }
        Ok(self.known.entry(table.to_owned()).or_default())
    }
}

/// Of the definition that holds for a table from a version on.
fn id_of(table: &str, version: &str) -> String {
    format!("{table}:{version}")
}

/// The column types of the definition of a table that begins at `version`.
pub(crate) async fn stored_types(
    database: &Database,
    table: &str,
    version: &str,
) -> Result<Option<ColumnTypes>, mongodb::error::Error> {
    let known = database.collection::<Document>(COLLECTION);
    let found = known
        .find_one(doc! { "_id": id_of(table, version) })
        .await?;
    Ok(found.and_then(|found| types_of(&found, type_name)))
}

/// Those of the newest definition of a table up to `version`, with their modifiers, as far as these were kept.
pub(crate) async fn expressions_at(
    database: &Database,
    table: &str,
    version: &str,
) -> Result<Option<ColumnTypes>, mongodb::error::Error> {
    let up_to = doc! { "_id": { "$gte": id_of(table, ""), "$lte": id_of(table, version) } };
    let found = database
        .collection::<Document>(COLLECTION)
        .find_one(up_to)
        .sort(doc! { "_id": -1 })
        .await?;
    let expression = |column: &Document| {
        let expression = column
            .get_str("expression")
            .or_else(|_| column.get_str("type"));
        expression.ok().map(str::to_owned)
    };
    Ok(found.and_then(|found| types_of(&found, expression)))
}

/// The columns of the newest definition of each table, by the events' `cdc.table`.
pub(crate) async fn newest_columns(
    database: &Database,
) -> Result<BTreeMap<String, BTreeSet<String>>, mongodb::error::Error> {
    let known = database.collection::<Document>(COLLECTION);
    let mut found = known.find(doc! {}).sort(doc! { "_id": 1 }).await?;
    let mut newest = BTreeMap::new();
    while let Some(found) = found.try_next().await? {
        let id = found.get_str("_id").unwrap_or_default();
        if let (Some((table, _)), Some(types)) = (id.rsplit_once(':'), types_of(&found, type_name))
        {
            newest.insert(table.to_owned(), types.into_keys().collect());
        }
    }
    Ok(newest)
}

fn type_name(column: &Document) -> Option<String> {
    column.get_str("type").ok().map(str::to_owned)
}

fn types_of(
    definition: &Document,
    type_of: impl Fn(&Document) -> Option<String>,
) -> Option<ColumnTypes> {
    let columns = definition.get_array("columns").ok()?.iter();
    let columns = columns.filter_map(|column| column.as_document());
    let types = columns.filter_map(|column| {
        let name = column.get_str("name").ok()?.to_owned();
        Some((name, type_of(column)?))
    });
    Some(types.collect())
}
