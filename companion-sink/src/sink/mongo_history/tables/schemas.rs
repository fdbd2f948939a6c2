//! The types of a table's columns, for the diff: they come with the schema events and are kept in the collection
//! `companion_schemas`, because a later run does not see those events again.

use crate::sink::mongo_history::documents::column_types::ColumnTypes;

use std::collections::{BTreeMap, HashMap};

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

/// The known column lists, by table and hash. `None` is one that nobody told us about.
#[derive(Default)]
pub(crate) struct Schemas {
    known: HashMap<String, Option<ColumnTypes>>,
}

/// A schema event.
#[derive(Deserialize)]
pub(crate) struct Definition {
    source: Source,
    schema_change: Change,
}

#[derive(Deserialize)]
struct Source {
    db: String,
    schema: String,
    table: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default, rename = "table_oid")]
    oid: Option<i64>,
    #[serde(default)]
    renames: BTreeMap<String, String>,
    #[serde(default)]
    table_changes: Vec<TableChange>,
}

#[derive(Deserialize)]
struct TableChange {
    table: Option<Table>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    #[serde(default)]
    primary_key_column_names: Vec<String>,
    columns: Vec<Column>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Column {
    name: String,
    type_name: String,
    #[serde(default)]
    type_expression: Option<String>,
}

impl Table {
    fn types(&self) -> Vec<(&str, &str)> {
        let columns = self.columns.iter();
        columns
            .filter_map(|column| Some((column.name.as_str(), column.type_expression.as_deref()?)))
            .collect()
    }
}

impl Definition {
    /// Parses a schema event.
    pub(crate) fn parse(record: &Record) -> Result<Definition, Malformed> {
        parse_body(record)
    }

    /// Whether the source begins to send the table.
    pub(crate) fn is_first(&self) -> bool {
        self.schema_change.kind == "CREATE"
    }

    fn table(&self) -> Option<&Table> {
        let changes = &self.schema_change.table_changes;
        changes.iter().find_map(|change| change.table.as_ref())
    }

    /// What it says about its table.
    pub(crate) fn told<'t>(&'t self, record: &'t Record, headers: &Headers<'t>) -> Told<'t> {
        let change = &self.schema_change;
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
            types: self.table().map_or(Vec::new(), Table::types),
        }
    }
}

impl Schemas {
    /// Learns from a schema event. It has a copy in every partition; only the first is written.
    pub(crate) async fn learn(
        &mut self,
        database: &Database,
        definition: &Definition,
        headers: &Headers<'_>,
    ) -> Result<(), mongodb::error::Error> {
        let Some(hash) = headers.schema else {
            return Ok(());
        };
        let id = format!("{}:{hash}", headers.table);
        if matches!(self.known.get(&id), Some(Some(_))) {
            return Ok(());
        }
        let Some(table) = definition.table() else {
            return Ok(());
        };
        let columns: Vec<_> = table
            .columns
            .iter()
            .map(|column| {
                let expression = column.type_expression.as_ref();
                doc! { "name": &column.name, "type": &column.type_name, "expression": expression }
            })
            .collect();
        let known = database.collection::<Document>(COLLECTION);
        let inserted = known
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
        self.known.insert(id, Some(types.collect()));
        Ok(())
    }

    /// The column types of an event, if they are known.
    pub(crate) async fn types(
        &mut self,
        database: &Database,
        headers: &Headers<'_>,
    ) -> Result<Option<&ColumnTypes>, mongodb::error::Error> {
        let Some(hash) = headers.schema else {
            return Ok(None);
        };
        let id = format!("{}:{hash}", headers.table);
        if !self.known.contains_key(&id) {
            let types = stored_types(database, &id).await?;
            self.known.insert(id.clone(), types);
        }
        Ok(self.known.get(&id).and_then(Option::as_ref))
    }
}

/// The column types that were kept under `table:hash`.
pub(crate) async fn stored_types(
    database: &Database,
    id: &str,
) -> Result<Option<ColumnTypes>, mongodb::error::Error> {
    let type_name = |column: &Document| column.get_str("type").ok().map(str::to_owned);
    stored(database, id, type_name).await
}

/// The same with their modifiers, as far as these were kept.
pub(crate) async fn stored_expressions(
    database: &Database,
    id: &str,
) -> Result<Option<ColumnTypes>, mongodb::error::Error> {
    let expression = |column: &Document| {
        let expression = column
            .get_str("expression")
            .or_else(|_| column.get_str("type"));
        expression.ok().map(str::to_owned)
    };
    stored(database, id, expression).await
}

async fn stored(
    database: &Database,
    id: &str,
    type_of: impl Fn(&Document) -> Option<String>,
) -> Result<Option<ColumnTypes>, mongodb::error::Error> {
    let known = database.collection::<Document>(COLLECTION);
    let found = known.find_one(doc! { "_id": id }).await?;
    let columns = found
        .as_ref()
        .and_then(|found| found.get_array("columns").ok());
    Ok(columns.map(|columns| {
        let columns = columns.iter().filter_map(|column| column.as_document());
        columns
            .filter_map(|column| {
                let name = column.get_str("name").ok()?.to_owned();
                Some((name, type_of(column)?))
            })
            .collect()
    }))
}
