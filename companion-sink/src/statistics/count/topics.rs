//! What the store knows of topics: their numbers, the types of their columns, how far their partitions are.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::Result;
use crate::event::json::Malformed as MalformedEvent;
use crate::event::parse_body;
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::sink::batch::Position;
use crate::statistics::count::running_snapshot::RunningSnapshot;
use crate::statistics::kept::changes::Changes;
use crate::statistics::kept::codec::{Malformed, Reading, put_bytes, put_i64};
use crate::statistics::kept::keys;
use crate::statistics::kept::keys::TopicNumber;
use crate::statistics::kept::store::{Snapshot, damaged};

/// The topics that are counted.
#[derive(Default)]
pub(crate) struct Topics(HashMap<Arc<str>, Topic>);

/// What is known of a topic.
#[derive(Default)]
pub(crate) struct Topic {
    /// What stands for it in keys.
    pub(crate) number: TopicNumber,
    types: HashMap<String, PgType>,
    /// The snapshot that is under way.
    pub(crate) snapshot: Option<RunningSnapshot>,
}

/// A schema event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    #[serde(default)]
    table_changes: Vec<TableChange>,
}

#[derive(Deserialize)]
struct TableChange {
    table: Option<Columns>,
}

#[derive(Deserialize)]
struct Columns {
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

impl Topic {
    /// Whether the definition of a table has come for it.
    pub(crate) fn is_of_table(&self) -> bool {
        !self.types.is_empty()
    }

    /// The type of a column.
    pub(crate) fn type_of(&self, column: &str) -> Cow<'_, PgType> {
        match self.types.get(column) {
            Some(of) => Cow::Borrowed(of),
            None => Cow::Owned(PgType::Plain),
        }
    }
}

impl Topics {
    /// Those that a store knows.
    pub(crate) fn read(store: &Snapshot) -> Result<Topics> {
        let mut topics = HashMap::new();
        store.each(&keys::topics(), |key, number| {
            let name = keys::topic_name(key).map_err(damaged)?;
            let number: [u8; 2] = number.try_into().map_err(|_| damaged(Malformed))?;
            let number = TopicNumber::from_be_bytes(number);
            let types = store.get(&keys::definition(number))?;
            let types = types.map(|json| serde_json::from_slice::<HashMap<String, String>>(&json));
            let types = types.transpose().map_err(|_| damaged(Malformed))?;
            let snapshot = store.get(&keys::snapshot(number))?;
            let topic = Topic {
                number,
                types: typed(types.unwrap_or_default()),
                snapshot: snapshot.as_deref().map(RunningSnapshot::read).transpose()?,
            };
            topics.insert(name.into(), topic);
            Ok(())
        })?;
        Ok(Topics(topics))
    }

    /// What is known of a topic, which gets a number if it has none.
    pub(crate) fn of(&mut self, changes: &mut Changes, name: &Arc<str>) -> Result<&mut Topic> {
        if !self.0.contains_key(name) {
            let highest = self.0.values().map(|topic| topic.number).max();
            let number = highest.map_or(0, |number| number.saturating_add(1));
            changes.set(keys::topic(name), number.to_be_bytes().to_vec());
            let topic = Topic {
                number,
                ..Topic::default()
            };
            self.0.insert(Arc::clone(name), topic);
        }
        Ok(self.0.entry(Arc::clone(name)).or_default())
    }

    /// What is known of a topic, if it has a number.
    pub(crate) fn get(&self, name: &str) -> Option<&Topic> {
        self.0.get(name)
    }

    /// Takes in what a schema event says about columns.
    pub(crate) fn learn(
        &mut self,
        changes: &mut Changes,
        record: &Record,
    ) -> Result<std::result::Result<(), MalformedEvent>> {
        let definition: Definition = match parse_body(record) {
            Ok(definition) => definition,
            Err(malformed) => return Ok(Err(malformed)),
        };
        let table = definition
            .table_changes
            .into_iter()
            .find_map(|one| one.table);
        let Some(table) = table else {
            return Ok(Ok(()));
        };
        let types: HashMap<String, String> = table
            .columns
            .into_iter()
            .map(|column| {
                (
                    column.name,
                    column.type_expression.unwrap_or(column.type_name),
                )
            })
            .collect();
        let topic = self.of(changes, &record.topic)?;
        // A map of texts is JSON always.
        let json = serde_json::to_vec(&types).unwrap_or_default();
        changes.set(keys::definition(topic.number), json);
        topic.types = typed(types);
        Ok(Ok(()))
    }
}

fn typed(types: HashMap<String, String>) -> HashMap<String, PgType> {
    let types = types.into_iter();
    types
        .map(|(column, name)| (column, PgType::of_name(&name)))
        .collect()
}

/// How far a partition is, as the store has it.
pub(crate) fn position_bytes(position: &Position) -> Vec<u8> {
    let mut out = Vec::new();
    put_i64(&mut out, position.next_offset);
    put_bytes(&mut out, position.version.as_bytes());
    out
}

/// Reads what `position_bytes` wrote.
pub(crate) fn read_position(bytes: &[u8]) -> Result<Position> {
    let mut reading = Reading::new(bytes);
    let mut read = || {
        Ok(Position {
            next_offset: reading.i64()?,
            version: reading.text()?.to_owned(),
        })
    };
    read().map_err(damaged)
}
