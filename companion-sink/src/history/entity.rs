//! One row's versions.

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};

use crate::error::Result;
use crate::error::misconfigured;
use crate::history::cursor::Cursor;
use crate::history::key::meant;
use crate::history::moment;
use crate::history::moment::Moment;
use crate::history::table::HistoryTable;
use crate::history::table::Missing;
use crate::sink::mongo_history::failure::classify;

/// A row that has a history.
pub(crate) struct Entity {
    table: HistoryTable,
    /// As documents may have it: whether `42` is a number or a text, only they know.
    names: Vec<String>,
    /// The first version.
    first: String,
}

/// One of a row's versions, with its rank.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) document: Document,
}

impl Version {
    /// The document, with its number.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut value = crate::history::json(&self.document);
        value["sequence_number"] = self.number.into();
        value
    }
}

/// Which versions are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Range {
    /// Commit times, both included.
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
    /// Only those behind this place, the oldest first. Without it the newest are meant.
    pub(crate) after: Option<Cursor>,
    /// So many at most.
    pub(crate) limit: Option<u32>,
}

impl Range {
    /// All that was committed between two times, as people write them.
    pub(crate) fn of_times(since: Option<&str>, until: Option<&str>) -> Result<Range> {
        Ok(Range {
            since: since.map(moment::time).transpose()?,
            until: until.map(moment::time).transpose()?,
            ..Range::default()
        })
    }

    /// What finds its documents.
    pub(crate) fn conditions(&self) -> Vec<Document> {
        let bound = |operator: &str, time: &Option<String>| {
            let time = time.as_ref()?;
            Some(doc! { "when.effective": { operator: time } })
        };
        let after = self.after.as_ref().map(Cursor::filter);
        let bounds = [
            bound("$gte", &self.since),
            bound("$lte", &self.until),
            after,
        ];
        bounds.into_iter().flatten().collect()
    }

    /// In which order documents are to be read, so that a limit keeps the right ones.
    pub(crate) fn order(&self) -> Document {
        Cursor::order(self.after.is_none())
    }
}

fn failed(error: mongodb::error::Error) -> Trouble {
    classify("reading the history", &error)
}

impl Entity {
    /// The row of a key; none where it has no history.
    pub(crate) async fn of_key(table: &HistoryTable, key: &str) -> Result<Option<Entity>> {
        if table.key_columns.is_empty() {
            return Err(misconfigured(
                format!("the rows of {} have no key", table.name),
                "Their changes are found with --where, --actor, --request-id or --transaction.",
            ));
        }
        let mut refused = None;
        for (number, columns) in table.keys() {
            let values = match meant(key, &columns) {
                Ok(values) => values,
                // An earlier key may be meant.
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            let names = table.entities(number, &values).await?;
            if let Some(entity) = Entity::find(table, names).await? {
                return Ok(Some(entity));
            }
            refused = None;
        }
        refused.map_or(Ok(None), Err)
    }

    /// The row of one of these names.
    pub(crate) async fn find(table: &HistoryTable, names: Vec<String>) -> Result<Option<Entity>> {
        let first = table
            .collection
            .find_one(doc! { "entity": { "$in": &names } })
            .sort(doc! { "entity": 1, "version": 1 })
            .await
            .map_err(failed)?;
        Ok(first.and_then(|first| {
            Some(Entity {
                table: table.clone(),
                names,
                first: first.get_str("version").ok()?.to_owned(),
            })
        }))
    }

    pub(crate) fn table(&self) -> &HistoryTable {
        &self.table
    }

    /// What the history has not of it.
    pub(crate) async fn missing(&self) -> Result<Missing> {
        self.table.missing_of(&self.names).await
    }

    /// All its versions that `more` lets through. A truncate belongs to the table, and ended the row as well.
    fn filter(&self, more: Vec<Document>) -> Document {
        let own = doc! { "entity": { "$in": &self.names } };
        let truncates = doc! {
            "entity": &self.table.id,
            "op": "truncate",
            "version": { "$gt": &self.first },
        };
        let mut all = vec![doc! { "$or": [own, truncates] }];
        all.extend(more);
        doc! { "$and": all }
    }

    async fn count(&self, more: Vec<Document>) -> Result<u64> {
        let filter = self.filter(more);
        self.table
            .collection
            .count_documents(filter)
            .await
            .map_err(failed)
    }

    /// How many there are in all.
    pub(crate) async fn version_count(&self) -> Result<u64> {
        self.count(Vec::new()).await
    }

    /// The versions of a range, oldest first.
    pub(crate) async fn versions(&self, range: &Range) -> Result<Vec<Version>> {
        let found = self
            .table
            .collection
            .find(self.filter(range.conditions()))
            .sort(range.order())
            .limit(range.limit.map_or(0, i64::from))
            .await
            .map_err(failed)?;
        let mut documents: Vec<Document> = found.try_collect().await.map_err(failed)?;
        if range.after.is_none() {
            documents.reverse();
        }
        let earlier = match documents
            .first()
            .and_then(|first| first.get_str("version").ok())
        {
            Some(first) => {
                self.count(vec![doc! { "version": { "$lt": first } }])
                    .await?
            }
            None => 0,
        };
        // Times may go back where versions do not: then a range leaves out some in between.
        let has_gaps = range.since.is_some() || range.until.is_some();
        let all = match documents.first().filter(|_| has_gaps) {
            Some(first) => self.versions_from(first).await?,
            None => Vec::new(),
        };
        let numbered = documents.into_iter().enumerate().map(|(place, document)| {
            let version = document.get_str("version").unwrap_or_default();
            let rank = match has_gaps {
                true => all.partition_point(|other| other.as_str() <= version),
                false => place + 1,
            };
            Version {
                number: earlier + rank as u64,
                document,
            }
        });
        Ok(numbered.collect())
    }

    /// The fields `version` of a version and of all behind it, in their order.
    async fn versions_from(&self, first: &Document) -> Result<Vec<String>> {
        let from = first.get_str("version").unwrap_or_default();
        let found = self
            .table
            .collection
            .find(self.filter(vec![doc! { "version": { "$gte": from } }]))
            .projection(doc! { "version": 1 })
            .sort(doc! { "version": 1 })
            .await
            .map_err(failed)?;
        let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
        let versions = found.iter().map(|document| document.get_str("version"));
        Ok(versions.flatten().map(str::to_owned).collect())
    }

    /// The newest version at a moment; none before the first, and of a number that is not there.
    pub(crate) async fn at(&self, moment: &Moment) -> Result<Option<Version>> {
        let (filter, order, skip) = match self.table.until(moment) {
            Some(until) => (self.filter(vec![until]), -1, 0),
            None => {
                let Moment::Number(number @ 1..) = moment else {
                    return Ok(None);
                };
                (self.filter(Vec::new()), 1, number - 1)
            }
        };
        let found = self
            .table
            .collection
            .find_one(filter)
            .sort(doc! { "version": order })
            .skip(skip)
            .await
            .map_err(failed)?;
        let Some(document) = found else {
            return Ok(None);
        };
        let number = match (moment, document.get_str("version")) {
            (Moment::Number(number), _) => *number,
            (_, Ok(version)) => {
                self.count(vec![doc! { "version": { "$lte": version } }])
                    .await?
            }
            (_, Err(_)) => 0,
        };
        Ok(Some(Version { number, document }))
    }

    /// The newest version.
    pub(crate) async fn newest(&self) -> Result<Option<Version>> {
        let newest = Range {
            limit: Some(1),
            ..Range::default()
        };
        Ok(self.versions(&newest).await?.pop())
    }
}

/// The row of a key in the first of the tables that has it.
pub(crate) async fn find(tables: &[HistoryTable], key: &str) -> Result<Option<Entity>> {
    let mut refused = None;
    for table in tables {
        match Entity::of_key(table, key).await {
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
