//! How far a companion-sink is, as its targets have it.

use mongodb::bson::{Document, doc};
use postgres::Client;

use crate::topic;

/// Where a sink stands, as stored in its target under `sink`.
pub(crate) struct AppliedOffsets {
    sink: String,
    store: Store,
}

enum Store {
    Mongo(mongodb::sync::Collection<Document>),
    Postgres(Box<Client>),
}

impl AppliedOffsets {
    /// Of the sink `history` or `replica` of an instance.
    pub(crate) fn of(
        instance: &str,
        (mongo_url, mongo_database): (&str, &str),
        replica_url: &str,
        sink: &str,
    ) -> AppliedOffsets {
        let store = match sink {
            "history" => {
                let client = mongodb::sync::Client::with_uri_str(mongo_url);
                let database = client.expect("a MongoDB client").database(mongo_database);
                Store::Mongo(database.collection("companion_offsets"))
            }
            "replica" => {
                let client = Client::connect(replica_url, postgres::NoTls);
                Store::Postgres(Box::new(client.expect("connect to the replica")))
            }
            other => panic!("there is no sink {other}: history or replica"),
        };
        AppliedOffsets {
            sink: format!("{}.{sink}", instance),
            store,
        }
    }

    /// The offset of the next record to apply, and the highest version before; an error as long as none is stored.
    pub(crate) fn position(
        &mut self,
        topic: &str,
        partition: i32,
    ) -> Result<(i64, String), String> {
        match &mut self.store {
            Store::Mongo(collection) => {
                let filter =
                    doc! {"_id.sink": &self.sink, "_id.topic": topic, "_id.partition": partition};
                let found = collection
                    .find_one(filter)
                    .run()
                    .map_err(|e| e.to_string())?;
                let position = found.as_ref().and_then(|found| {
                    let version = found.get_str("version").ok()?;
                    Some((found.get_i64("next_offset").ok()?, version.to_owned()))
                });
                position.ok_or_else(|| format!("no offset in companion_offsets: {found:?}"))
            }
            Store::Postgres(client) => {
                let query = "SELECT next_offset, version FROM companion.offsets
                             WHERE sink = $1 AND topic = $2 AND partition = $3";
                let row = client.query_opt(query, &[&self.sink, &topic, &partition]);
                let row = row.map_err(|e| format!("{e:?}"))?;
                row.map(|row| (row.get(0), row.get(1)))
                    .ok_or_else(|| "no offset in companion.offsets".to_owned())
            }
        }
    }

    /// Whether it has done the control event of `version` about a topic, in all of its partitions.
    pub(crate) fn has_done(
        &mut self,
        topic: &str,
        partitions: i32,
        version: &str,
    ) -> Result<(), String> {
        let mut highest = |partition| self.position(topic, partition).map(|(_, version)| version);
        let together = highest(topic::CONTROL).unwrap_or_default();
        for partition in 0..partitions {
            let done = highest(partition)?;
            if done.as_str() < version && together.as_str() < version {
                return Err(format!("partition {partition} is at {done}"));
            }
        }
        Ok(())
    }
}
