//! Which table each topic belongs to, in the collection `companion_topics`: the one that it was first seen with, and what that
//! was called since. Events of another one are set aside, so that whoever may write a topic, or own a table of the source, adds
//! nothing to another table's history.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::{Collection, Database};

use crate::config::topic_pattern::matches;
use crate::error::{Code, Result};
use crate::event::Headers;
use crate::event::Op;
use crate::event::TableName;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::rejected::origin;
use crate::sink::mongo_history::failure::classify;
use crate::sink::postgres::schema::schema_event::SchemaBody;

const COLLECTION: &str = "companion_topics";

/// What the topics of a sink belong to.
pub(crate) struct Admission {
    collection: Collection<Document>,
    sink: String,
    topics: HashMap<String, BoundTopic>,
    /// Topics that begin with a table which another one still has, and since when they wait for that.
    waiting: HashMap<String, Instant>,
    /// A replay changes nothing.
    is_replay: bool,
}

/// What a topic belongs to.
#[derive(Default)]
struct BoundTopic {
    /// The events' `cdc.table`, the newest last. Partitions are read independently: some come to another name later.
    tables: Vec<String>,
    /// The version from which on the topic has its table.
    began: String,
    /// The version at which the source ended it, empty for none.
    ended: String,
    /// What was found to be the same as the newest header.
    agreed: Option<TableName<'static>>,
}

impl BoundTopic {
    fn has(&self) -> Option<&str> {
        let newest = self.tables.last()?;
        (self.began > self.ended || self.ended.is_empty()).then_some(newest.as_str())
    }
}

/// What an event says of its table.
pub(crate) struct Claim<'t> {
    /// The table that its body names.
    pub(crate) source: TableName<'t>,
    /// The table has another name from here on.
    pub(crate) is_rename: bool,
    /// The source begins to send it.
    pub(crate) is_first: bool,
    /// The source ends it.
    pub(crate) is_farewell: bool,
}

impl<'t> Claim<'t> {
    /// By a row.
    pub(crate) fn by_row(source: TableName<'t>) -> Self {
        Claim {
            source,
            is_rename: false,
            is_first: false,
            is_farewell: false,
        }
    }

    /// By an event about the whole table, of which only its definitions and snapshots are looked at here.
    pub(crate) fn by(
        record: &'t Record,
        headers: &Headers<'_>,
    ) -> std::result::Result<Option<Self>, Failure> {
        Ok(match headers.op {
            Op::Schema => {
                let body = SchemaBody::parse(record)?;
                Some(Claim {
                    is_rename: body.is_rename(),
                    is_first: body.is_first(),
                    is_farewell: body.is_farewell(),
                    source: body.source,
                })
            }
            Op::Snapshot => Some(Claim::by_row(SnapshotBody::parse(record)?.source)),
            _ => None,
        })
    }
}

/// Whether events may go to a collection.
pub(crate) fn may_be_written(collection: &str) -> bool {
    let is_ours = collection.starts_with("companion_");
    let is_servers = collection.starts_with("system.") || collection.contains(['$', '\0']);
    !is_ours && !is_servers && !collection.is_empty()
}

impl Admission {
    /// What `sink` has noted in `database`; `before` is what was known until the connection was lost.
    pub(crate) async fn read(
        database: &Database,
        sink: &str,
        is_replay: bool,
        before: Option<Admission>,
    ) -> Result<Self> {
        let mut admission = Admission {
            collection: database.collection(COLLECTION),
            sink: sink.to_owned(),
            topics: HashMap::new(),
            waiting: before.map_or_else(HashMap::new, |before| before.waiting),
            is_replay,
        };
        admission.read_again().await?;
        Ok(admission)
    }

    async fn read_again(&mut self) -> Result<()> {
        let failed = |error| classify("reading the topics' tables", &error);
        let found = self.collection.find(doc! { "sink": &self.sink }).await;
        let mut found = found.map_err(failed)?;
        self.topics.clear();
        while let Some(found) = found.try_next().await.map_err(failed)? {
            let text = |name: &str| found.get_str(name).unwrap_or_default().to_owned();
            let tables = found.get_array("tables").into_iter().flatten();
            let tables = tables.filter_map(|table| table.as_str().map(str::to_owned));
            let bound = BoundTopic {
                tables: tables.collect(),
                began: text("began"),
                ended: text("ended"),
                agreed: None,
            };
            self.topics.insert(text("topic"), bound);
        }
        Ok(())
    }

    /// Whether an event is refused whatever comes, as far as is known.
    pub(crate) fn is_plainly_refused(&self, record: &Record) -> bool {
        let Ok(headers) = Headers::read(record) else {
            return true;
        };
        let Ok(Some(told)) = Claim::by(record, &headers) else {
            return true;
        };
        let bound = self.topics.get(&*record.topic);
        let is_other = bound.is_some_and(|bound| {
            !bound.tables.is_empty() && !bound.tables.iter().any(|table| table == headers.table)
        });
        is_other || origin::check(headers.table, &told.source).is_err()
    }

    /// Why an event is refused; one that is not binds its topic to its table.
    pub(crate) async fn refused(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        told: &Claim<'_>,
        several_topics: &[String],
    ) -> Result<Option<Failure>> {
        let topic = &*record.topic;
        let header = headers.table;
        if !told.is_rename
            && !told.is_first
            && !told.is_farewell
            && let Some(bound) = self.topics.get(topic)
            && bound.tables.last().is_some_and(|newest| newest == header)
            && bound.agreed.as_ref() == Some(&told.source)
        {
            return Ok(None);
        }
        if let Err(failure) = origin::check(header, &told.source) {
            return Ok(Some(failure));
        }
        let mut failure = self.why(topic, headers, told, several_topics);
        if failure.is_some() {
            // Another instance may have noted meanwhile that it is right.
            self.read_again().await?;
            failure = self.why(topic, headers, told, several_topics);
        }
        if failure.is_some() && told.is_first && self.may_still_be_free(topic) {
            return Err(Trouble::new(
                Code::Unreachable,
                format!("topic {topic} waits until another topic has given its table up"),
                "Nothing to do: it is looked at again.",
            ));
        }
        if failure.is_some() {
            return Ok(failure);
        }
        self.waiting.remove(topic);
        let bound = self.topics.entry(topic.to_owned()).or_default();
        let is_known = bound.tables.iter().any(|table| table == header);
        let mut is_changed = !is_known;
        if !is_known {
            bound.tables.push(header.to_owned());
        }
        if bound.began.is_empty() || (told.is_first && *headers.version > *bound.began) {
            headers.version.clone_into(&mut bound.began);
            is_changed = true;
        }
        if told.is_farewell && *headers.version > *bound.ended {
            headers.version.clone_into(&mut bound.ended);
            is_changed = true;
        }
        let is_newest = bound.tables.last().is_some_and(|newest| newest == header);
        bound.agreed = is_newest.then(|| told.source.clone().into_owned());
        if is_changed && !self.is_replay {
            self.write(topic).await?;
        }
        Ok(None)
    }

    /// Whether another topic may still give the table up: topics are read independently.
    fn may_still_be_free(&mut self, topic: &str) -> bool {
        const LONGEST: Duration = Duration::from_secs(20);
        let since = self.waiting.entry(topic.to_owned());
        since.or_insert_with(Instant::now).elapsed() < LONGEST
    }

    fn why(
        &self,
        topic: &str,
        headers: &Headers<'_>,
        told: &Claim<'_>,
        several_topics: &[String],
    ) -> Option<Failure> {
        let header = headers.table;
        if let Some(bound) = self.topics.get(topic) {
            if bound.tables.iter().any(|table| table == header) {
                return None;
            }
            let is_free = told.is_first && bound.has().is_none();
            if !told.is_rename && !is_free {
                let owner = bound.tables.last().map_or("", String::as_str);
                return Some(origin::foreign(topic, owner, header));
            }
            // Names go from table to table in one transaction, and topics are read independently: the one that gives the
            // name up may not have come to that yet.
            if told.is_rename {
                return None;
            }
        }
        let named = format!("{}.{}", told.source.schema, told.source.table);
        let mut several = several_topics.iter();
        if told.is_farewell || several.any(|pattern| matches(pattern, &named)) {
            return None;
        }
        let mut others = self.topics.iter().filter(|(other, _)| *other != topic);
        let owner = others.find(|(_, bound)| bound.has() == Some(header));
        owner.map(|(owner, _)| origin::taken(header, owner))
    }

    async fn write(&self, topic: &str) -> Result<()> {
        let Some(bound) = self.topics.get(topic) else {
            return Ok(());
        };
        let id = format!("{} {topic}", self.sink);
        let document = doc! {
            "_id": &id, "sink": &self.sink, "topic": topic, "tables": &bound.tables, "began": &bound.began, "ended": &bound.ended,
        };
        let written = self
            .collection
            .replace_one(doc! { "_id": &id }, document)
            .upsert(true)
            .await;
        written
            .map(drop)
            .map_err(|error| classify("noting a topic's table", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_of_nobody_are_not_written() {
        for name in [
            "companion_offsets",
            "companion_x",
            "system.users",
            "",
            "a$b",
            "a\0",
        ] {
            assert!(!may_be_written(name), "{name}");
        }
        for name in ["customer_history", "companion", "x_companion_offsets"] {
            assert!(may_be_written(name), "{name}");
        }
    }
}
