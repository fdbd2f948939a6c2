//! The collections of a history, and the tables that they belong to.

use std::sync::Arc;

use change::topic_name;
use change::trouble::Trouble;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};
use tokio::sync::OnceCell;

use crate::config::shown_url::Url;
use crate::config::topic_pattern::matches;
use crate::config::{Kind, Loaded};
use crate::delivery::watermark::Complete;
use crate::error::{Result, misconfigured};
use crate::history::key::{KeyColumn, Values, meant};
use crate::history::moment::Moment;
use crate::history::table_name::{WantedTable, parts_of};
use crate::sink::mongo_history;
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::identity::lineage::{Lineage, Natural};
use crate::sink::mongo_history::identity::links::Links;
use crate::sink::mongo_history::parked::store::ParkedDocuments;
use crate::sink::mongo_history::tables::registry::{HistoryTables, table_of};
use crate::sink::mongo_history::tables::schemas::stored_types;
use crate::sink::mongo_history::write::newest_commit;

/// Events of a row that its history does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// They were refused.
    pub(crate) refused: u64,
    /// They are behind a refused one.
    pub(crate) behind: u64,
    /// People left them out.
    pub(crate) skipped: u64,
}

impl Missing {
    /// What is to be said about it; nothing where nothing is missing.
    pub(crate) fn texts(&self) -> Vec<String> {
        let events = |count: u64| if count == 1 { "event" } else { "events" };
        let waits = |count: u64| if count == 1 { "waits" } else { "wait" };
        let (refused, behind, skipped) = (self.refused, self.behind, self.skipped);
        let mut texts = Vec::new();
        if refused > 0 {
            let (events, waits) = (events(refused), waits(refused));
            texts.push(format!(
                "{refused} refused {events} of this row {waits} (companion-sink dlq list)"
            ));
        }
        if behind > 0 {
            let (events, waits) = (events(behind), waits(behind));
            texts.push(format!(
                "{behind} {events} of this row {waits} behind a refused one"
            ));
        }
        if skipped > 0 {
            let events = events(skipped);
            texts.push(format!(
                "{skipped} skipped: {events} of this row that somebody left out for good"
            ));
        }
        texts
    }
}

/// The histories of all sinks of kind `mongo_history`.
pub(crate) struct Histories(Vec<SinkHistory>);

struct SinkHistory {
    /// `<name>.<sink>`, as its offsets have it.
    sink: String,
    url: Url,
    database: String,
    /// Of its collections' names.
    template: String,
    /// Made when it is first asked.
    connection: OnceCell<Database>,
}

/// A table that has a history.
#[derive(Clone)]
pub(crate) struct HistoryTable {
    database: Database,
    /// `<name>.<sink>`, as its state has it.
    sink: String,
    pub(crate) collection: Collection<Document>,
    /// `database.schema.table`, as it is called now.
    pub(crate) name: String,
    /// What the entities of its rows begin with.
    pub(crate) id: String,
    /// As they are called now; empty where rows have no key.
    pub(crate) key_columns: Vec<String>,
    /// All its names and keys, where they are known.
    pub(crate) lineage: Option<Arc<Lineage>>,
    /// Up to where it has everything.
    pub(crate) complete: Option<Complete>,
}

impl Histories {
    /// Those that are configured.
    pub(crate) fn new(config: &Loaded) -> Histories {
        let sinks = config.sinks.iter();
        let histories = sinks.filter_map(|(name, sink)| match &sink.kind {
            Kind::MongoHistory(settings) => Some(SinkHistory {
                sink: format!("{}.{name}", config.name),
                url: sink.url.clone(),
                database: settings.database.clone(),
                template: settings.collection.clone(),
                connection: OnceCell::new(),
            }),
            Kind::Postgres(_)
            | Kind::MongoView(_)
            | Kind::Webhook(_)
            | Kind::Mail(_)
            | Kind::Statistics(_) => None,
        });
        Histories(histories.collect())
    }

    /// The tables of a name, which may leave out schema and database; all without one. In the order of their names.
    pub(crate) async fn tables(&self, name: Option<&str>) -> Result<Vec<HistoryTable>> {
        if self.0.is_empty() {
            return Err(misconfigured(
                "no sink of kind mongo_history is configured",
                "Add one: `companion-sink config --defaults` shows how.",
            ));
        }
        let mut tables = Vec::new();
        for history in &self.0 {
            let connect = || mongo_history::connect(history.url.reveal(), &history.database);
            let database = history.connection.get_or_try_init(connect).await?;
            let complete = newest_commit::read(database, &history.sink).await?;
            let known = HistoryTables::read(database).await?.into_all();
            let meant = meant_by(&known, name);
            let is_named = !meant.is_empty();
            for lineage in meant {
                tables.push(HistoryTable::of(
                    database,
                    &history.sink,
                    lineage.clone(),
                    complete.clone(),
                ));
            }
            if is_named && name.is_some() {
                continue;
            }
            // Collections of tables that have sent nothing since the history notes its tables.
            let patterns = collection_patterns(&history.template, name);
            let names = database
                .list_collection_names()
                .await
                .map_err(|error| classify("looking for the collection", &error))?;
            for collection in names {
                let is_ours = collection.starts_with("companion_")
                    || known.iter().any(|table| table.collection == collection);
                let is_meant = patterns.iter().any(|pattern| matches(pattern, &collection));
                if !is_ours && is_meant {
                    let table =
                        HistoryTable::open(database, &history.sink, &collection, complete.clone())
                            .await?;
                    let is_known = |table: &HistoryTable| {
                        known
                            .iter()
                            .any(|known| known.names.iter().any(|name| name.header == table.name))
                    };
                    tables.extend(table.filter(|table| !is_known(table)));
                }
            }
        }
        tables.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(tables)
    }
}

/// A question that is about one table, and a name that several have.
pub(crate) fn several(tables: &[HistoryTable], name: &str) -> Trouble {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    misconfigured(
        format!("several tables have the name {name}"),
        format!("Name one of {}.", names.join(", ")),
    )
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
            .replace("{schema_}", "*")
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

/// The tables of a name: those that have it now, else those that had it; all without one.
fn meant_by<'k>(known: &'k [Lineage], name: Option<&str>) -> Vec<&'k Lineage> {
    let Some(name) = name else {
        return known.iter().collect();
    };
    let wanted = WantedTable::parse(name);
    let mut now: Vec<&Lineage> = known
        .iter()
        .filter(|table| wanted.is_name_of(table))
        .collect();
    // One that had its name before another got it was dropped.
    now.sort_by_key(|table| {
        table
            .name()
            .map(|name| (&name.header, std::cmp::Reverse(&name.from)))
    });
    now.dedup_by_key(|table| table.name().map(|name| &name.header));
    match now.is_empty() {
        true => known
            .iter()
            .filter(|table| wanted.was_name_of(table))
            .collect(),
        false => now,
    }
}

impl HistoryTable {
    /// A table with its names.
    fn of(
        database: &Database,
        sink: &str,
        lineage: Lineage,
        complete: Option<Complete>,
    ) -> HistoryTable {
        let collection = database.collection::<Document>(&lineage.collection);
        let key = lineage.keys.last().map(|key| key.columns.as_slice());
        let key_columns = key.unwrap_or_default().iter();
        HistoryTable {
            database: database.clone(),
            sink: sink.to_owned(),
            collection,
            name: lineage
                .name()
                .map(|name| name.header.clone())
                .unwrap_or_default(),
            id: lineage.id.clone(),
            key_columns: key_columns
                .map(|column| lineage.column_now(column))
                .collect(),
            complete,
            lineage: Some(Arc::new(lineage)),
        }
    }

    /// None where nothing is in the collection.
    async fn open(
        database: &Database,
        sink: &str,
        name: &str,
        complete: Option<Complete>,
    ) -> Result<Option<HistoryTable>> {
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
        Ok(Some(HistoryTable {
            database: database.clone(),
            sink: sink.to_owned(),
            name: table_of(entity).to_owned(),
            id: table_of(entity).to_owned(),
            lineage: None,
            key_columns: columns.map_or_else(|_| Vec::new(), |names| names.cloned().collect()),
            collection,
            complete,
        }))
    }

    /// What finds everything up to a moment, as far as the history is complete; none for a number, which only one row's
    /// versions have.
    pub(crate) fn until(&self, moment: &Moment) -> Option<Document> {
        let until = moment.filter()?;
        Some(match &self.complete {
            Some(complete) => doc! { "$and": [until, { "version": { "$lt": complete.bound() } }] },
            None => until,
        })
    }

    /// What the history has not of the row of a key, whether it has anything of it or not.
    pub(crate) async fn missing(&self, key: &str) -> Result<Missing> {
        let mut entities = Vec::new();
        for (number, columns) in self.keys() {
            if let Ok(values) = meant(key, &columns) {
                entities.extend(self.entities(number, &values).await?);
            }
        }
        self.missing_of(&entities).await
    }

    /// The same of the row of one of the entities.
    pub(crate) async fn missing_of(&self, entities: &[String]) -> Result<Missing> {
        let parked = ParkedDocuments::new(&self.database, &self.sink);
        Ok(Missing {
            refused: parked.count_waiting(entities, false).await?,
            behind: parked.count_waiting(entities, true).await?,
            skipped: parked.actions.count_skipped(entities).await?,
        })
    }

    /// The keys that its rows have had, today's first, with their numbers.
    pub(super) fn keys(&self) -> Vec<(i32, Vec<KeyColumn>)> {
        let Some(lineage) = &self.lineage else {
            let columns = self.key_columns.iter().map(|name| KeyColumn {
                first: name.clone(),
                names: vec![name.clone()],
                type_name: None,
            });
            return vec![(1, columns.collect())];
        };
        let column = |first: &String| KeyColumn {
            first: first.clone(),
            names: lineage.names_of_column(first),
            type_name: lineage.type_of(first).map(str::to_owned),
        };
        let keys = lineage.keys.iter().rev();
        keys.map(|key| (key.number, key.columns.iter().map(column).collect()))
            .collect()
    }

    /// The entities that a key of a number can mean.
    pub(super) async fn entities(&self, number: i32, values: &[Values]) -> Result<Vec<String>> {
        let mut entities = Vec::new();
        let mut links = Vec::new();
        for values in values {
            let members = values
                .iter()
                .map(|(column, json)| (column.as_str(), json.as_str()));
            match Lineage::row(&self.id, members, number) {
                Natural::Entity(entity) => entities.push(entity),
                Natural::Link(link) => links.push(link),
            }
        }
        let wanted: Vec<&str> = links.iter().map(String::as_str).collect();
        let found = Links::of(&self.database).find(&wanted).await?;
        let linked = links
            .into_iter()
            .map(|link| found.get(&link).cloned().unwrap_or(link));
        entities.extend(linked);
        Ok(entities)
    }

    /// The types of the columns at one of its versions, as far as they are known.
    pub(crate) async fn types(&self, version: &Document) -> Result<Option<ColumnTypes>> {
        let Ok(definition) = version.get_str("schema") else {
            return Ok(None);
        };
        let names = match &self.lineage {
            Some(lineage) => lineage
                .names
                .iter()
                .rev()
                .map(|name| name.header.as_str())
                .collect(),
            None => vec![self.name.as_str()],
        };
        // The definition was noted under the name that the table had then.
        for name in names {
            let types = stored_types(&self.database, name, definition).await;
            let types = types.map_err(|error| classify("reading a schema", &error))?;
            if types.is_some() {
                return Ok(types);
            }
        }
        Ok(None)
    }
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
        assert_eq!(patterns("s.t"), ["s.t"]);
    }

    #[test]
    fn an_entity_names_its_table() {
        assert_eq!(table_of(r#"shop.public.t:{"id":1}"#), "shop.public.t");
        assert_eq!(table_of("shop.public.t"), "shop.public.t");
    }
}
