//! The collections of a history, and the tables that they belong to.

use change::topic_name;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};
use tokio::sync::OnceCell;

use super::entity::Entity;
use super::key::identities;
use super::moment::Moment;
use crate::config::{Config, Kind};
use crate::discovery::matches;
use crate::error::{Error, Result};
use crate::sink::mongo_history;
use crate::sink::mongo_history::complete;
use crate::sink::mongo_history::document::entity;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::schemas::{ColumnTypes, stored_types};
use crate::watermark::Complete;

/// The histories of all sinks of kind `mongo-history`.
pub struct Histories(Vec<History>);

struct History {
    /// `<name>.<sink>`, as its offsets have it.
    sink: String,
    url: String,
    database: String,
    /// Of its collections' names.
    template: String,
    /// Made when it is first asked.
    connection: OnceCell<Database>,
}

/// A table that has a history.
#[derive(Clone)]
pub struct Table {
    database: Database,
    pub collection: Collection<Document>,
    /// `database.schema.table`.
    pub name: String,
    /// Empty where rows have no key.
    pub key_columns: Vec<String>,
    /// Up to where it has everything.
    pub complete: Option<Complete>,
}

impl Histories {
    /// Those that are configured.
    pub fn new(config: &Config) -> Histories {
        let sinks = config.sinks.iter();
        let histories = sinks.filter_map(|(name, sink)| match &sink.kind {
            Kind::MongoHistory(settings) => Some(History {
                sink: format!("{}.{name}", config.name),
                url: sink.url.clone(),
                database: settings.database.clone(),
                template: settings.collection.clone(),
                connection: OnceCell::new(),
            }),
            Kind::Postgres(_) => None,
        });
        Histories(histories.collect())
    }

    /// The tables of a name, which may leave out schema and database; all without one. In the order of their names.
    pub async fn tables(&self, name: Option<&str>) -> Result<Vec<Table>> {
        if self.0.is_empty() {
            return Err(Error::configuration(
                "no sink of kind mongo-history is configured",
                "Add one: `companion-sink config --defaults` shows how.",
            ));
        }
        let mut tables = Vec::new();
        for history in &self.0 {
            let connect = || mongo_history::connect(&history.url, &history.database);
            let database = history.connection.get_or_try_init(connect).await?;
            let complete = complete::read(database, &history.sink).await?;
            let patterns = collection_patterns(&history.template, name);
            let names = database
                .list_collection_names()
                .await
                .map_err(|error| classify("looking for the collection", &error))?;
            for collection in names {
                let is_ours = collection.starts_with("companion_");
                let is_meant = patterns.iter().any(|pattern| matches(pattern, &collection));
                if !is_ours && is_meant {
                    tables.extend(Table::open(database, &collection, complete.clone()).await?);
                }
            }
        }
        tables.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(tables)
    }
}

/// A question that is about one table, and a name that several have.
pub fn several(tables: &[Table], name: &str) -> Error {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    Error::configuration(
        format!("several tables have the name {name}"),
        format!("Name one of {}.", names.join(", ")),
    )
}

/// The row of a key in the first of the tables that has it.
pub async fn find(tables: &[Table], key: &str) -> Result<Option<Entity>> {
    let mut refused = None;
    for table in tables {
        match table.entity(key).await {
            Ok(Some(entity)) => return Ok(Some(entity)),
            Ok(None) => {}
            // Another table of this name may have such a key.
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) => Err(error),
        None => Ok(None),
    }
}

/// The names that the collections of a table can have: by its real name, and by the one that topics and events have, in which
/// what Kafka does not allow is escaped.
fn collection_patterns(template: &str, name: Option<&str>) -> Vec<String> {
    let parts = name.map_or_else(Vec::new, parts_of);
    let with = |part: &dyn Fn(&str) -> String| {
        let mut parts = parts.iter().rev();
        let mut next = || {
            parts
                .next()
                .map_or_else(|| "*".to_owned(), |name| part(name))
        };
        let (table, schema, database) = (next(), next(), next());
        template
            .replace("{table}", &table)
            .replace("{schema}", &schema)
            .replace("{database}", &database)
    };
    let mut patterns = vec![
        with(&str::to_owned),
        with(&topic_name::unescape),
        with(&topic_name::escape),
    ];
    patterns.dedup();
    patterns
}

/// The parts of a name as SQL has them: what is in quotes may hold dots.
fn parts_of(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = name.chars().peekable();
    let mut in_quotes = false;
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            ('"', Some(part)) if in_quotes && chars.next_if_eq(&'"').is_some() => part.push('"'),
            ('"', Some(part)) if in_quotes || part.is_empty() => in_quotes = !in_quotes,
            ('.', _) if !in_quotes => parts.push(String::new()),
            (c, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    parts
}

impl Table {
    /// None where nothing is in the collection.
    async fn open(
        database: &Database,
        name: &str,
        complete: Option<Complete>,
    ) -> Result<Option<Table>> {
        let collection = database.collection::<Document>(name);
        let failed = |error| classify("reading the history", &error);
        // One document tells the names of the key's columns, and the table's full name.
        let keyed = doc! { "key": { "$ne": Bson::Null } };
        let sample = match collection.find_one(keyed).await.map_err(failed)? {
            Some(sample) => Some(sample),
            None => collection.find_one(doc! {}).await.map_err(failed)?,
        };
        let Some(sample) = sample else {
            return Ok(None);
        };
        let entity = sample.get_str("entity").unwrap_or_default();
        let columns = sample.get_document("key").map(Document::keys);
        Ok(Some(Table {
            database: database.clone(),
            name: table_of(entity).to_owned(),
            key_columns: columns.map_or_else(|_| Vec::new(), |names| names.cloned().collect()),
            collection,
            complete,
        }))
    }

    /// What finds everything up to a moment, as far as the history is complete; none for a number, which only one row's
    /// versions have.
    pub fn until(&self, moment: &Moment) -> Option<Document> {
        let until = moment.filter()?;
        Some(match &self.complete {
            Some(complete) => doc! { "$and": [until, { "version": { "$lt": complete.bound() } }] },
            None => until,
        })
    }

    /// The row of a key; none where it has no history.
    pub async fn entity(&self, key: &str) -> Result<Option<Entity>> {
        if self.key_columns.is_empty() {
            return Err(Error::configuration(
                format!("the rows of {} have no key", self.name),
                "Their changes are found with --where, --actor, --request or --transaction.",
            ));
        }
        let identities = identities(key, &self.key_columns)?;
        let names = identities
            .iter()
            .map(|identity| entity(&self.name, Some(identity)));
        Entity::find(self, names.collect()).await
    }

    /// The types of the columns at one of its versions, as far as they are known.
    pub async fn types(&self, version: &Document) -> Result<Option<ColumnTypes>> {
        let Ok(hash) = version.get_str("schema") else {
            return Ok(None);
        };
        stored_types(&self.database, &format!("{}:{hash}", self.name))
            .await
            .map_err(|error| classify("reading a schema", &error))
    }
}

/// The table of an entity: what is before its key.
fn table_of(entity: &str) -> &str {
    entity.split_once(":{").map_or(entity, |(table, _)| table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_leave_out_schema_and_database() {
        let template = "{database}.{schema}.{table}_history";
        for (name, pattern) in [
            (Some("customer"), "*.*.customer_history"),
            (Some("crm.customer"), "*.crm.customer_history"),
            (Some("shop.crm.customer"), "shop.crm.customer_history"),
            (None, "*.*.*_history"),
        ] {
            assert_eq!(collection_patterns(template, name), [pattern]);
        }
    }

    #[test]
    fn a_table_is_known_by_its_real_name_and_by_that_of_its_topic() {
        let patterns = |name| collection_patterns("{schema}.{table}", Some(name));
        for name in ["Order Items", "Order-x20Items", "\"Order Items\""] {
            let patterns = patterns(name);
            for wanted in ["*.Order Items", "*.Order-x20Items"] {
                assert!(patterns.iter().any(|found| found == wanted), "{patterns:?}");
            }
        }
        assert_eq!(parts_of("a.\"b.\"\"c\".d"), ["a", "b.\"c", "d"]);
        assert_eq!(patterns("s.t"), ["s.t"]);
    }

    #[test]
    fn an_entity_names_its_table() {
        assert_eq!(table_of(r#"shop.public.t:{"id":1}"#), "shop.public.t");
        assert_eq!(table_of("shop.public.t"), "shop.public.t");
    }
}
