//! The types of a table's columns, for the diff: they come with the schema events and are kept in the collection
//! `companion_schemas`, because a later run does not see those events again.

use std::borrow::Cow;
use std::collections::HashMap;

use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde::Deserialize;

use super::bson_value::Names;
use crate::event::{Headers, Malformed, parse_body};
use crate::record::Record;
use crate::sink::postgres::pg_text::PgType;

const COLLECTION: &str = "companion_schemas";

/// How the server takes names with a dot: MongoDB as they are, others not at all. Asked with a document that stays.
pub async fn accepted_names(database: &Database) -> Result<Names, mongodb::error::Error> {
    let probe = doc! { "_id": "names with dots", "dotted.name": true };
    match database
        .collection::<Document>(COLLECTION)
        .insert_one(probe)
        .await
    {
        Ok(_) => Ok(Names::AsTheyAre),
        Err(error) if super::failure::is_duplicate_id(&error) => Ok(Names::AsTheyAre),
        Err(error) if super::failure::is_about_document(&error) => Ok(Names::WithoutDots),
        Err(error) => Err(error),
    }
}

/// Type names by column.
pub type ColumnTypes = HashMap<String, String>;

/// What is known of a column's type.
pub fn type_of<'t>(types: Option<&ColumnTypes>, column: &str) -> Cow<'t, PgType> {
    let name = types.and_then(|types| types.get(column));
    Cow::Owned(name.map_or(PgType::Plain, |name| PgType::of_name(name)))
}

/// The known column lists, by table and hash. `None` is one that nobody told us about.
#[derive(Default)]
pub struct Schemas {
    known: HashMap<String, Option<ColumnTypes>>,
}

#[derive(Deserialize)]
struct Body {
    schema_change: Change,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    #[serde(default)]
    table_changes: Vec<TableChange>,
}

#[derive(Deserialize)]
struct TableChange {
    table: Option<Table>,
}

#[derive(Deserialize)]
struct Table {
    columns: Vec<Column>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Column {
    name: String,
    type_name: String,
}

impl Schemas {
    /// Learns from a schema event. It has a copy in every partition; only the first is written.
    pub async fn learn(
        &mut self,
        database: &Database,
        record: &Record,
        headers: &Headers<'_>,
    ) -> Result<Result<(), Malformed>, mongodb::error::Error> {
        let Some(hash) = headers.schema else {
            return Ok(Ok(()));
        };
        let id = format!("{}:{hash}", headers.table);
        if matches!(self.known.get(&id), Some(Some(_))) {
            return Ok(Ok(()));
        }
        let body: Body = match parse_body(record) {
            Ok(body) => body,
            Err(malformed) => return Ok(Err(malformed)),
        };
        let tables = body.schema_change.table_changes;
        let Some(table) = tables.into_iter().find_map(|change| change.table) else {
            return Ok(Ok(()));
        };
        let columns: Vec<_> = table
            .columns
            .iter()
            .map(|column| doc! { "name": &column.name, "type": &column.type_name })
            .collect();
        let known = database.collection::<Document>(COLLECTION);
        let inserted = known
            .insert_one(doc! { "_id": &id, "columns": columns })
            .await;
        if let Err(error) = inserted
            && !super::failure::is_duplicate_id(&error)
        {
            return Err(error);
        }
        let types = table
            .columns
            .into_iter()
            .map(|column| (column.name, column.type_name));
        self.known.insert(id, Some(types.collect()));
        Ok(Ok(()))
    }

    /// The column types of an event, if they are known.
    pub async fn types(
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
pub async fn stored_types(
    database: &Database,
    id: &str,
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
                Some((name, column.get_str("type").ok()?.to_owned()))
            })
            .collect()
    }))
}
