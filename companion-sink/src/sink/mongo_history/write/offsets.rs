//! How far the history is, in the collection `companion_offsets`. Written after the documents are acknowledged: a
//! crash in between inserts them again, which their `_id` makes harmless.

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Collection, Database};

use crate::error::{Code, Result};
use crate::kafka::reader::TopicPartition;
use crate::sink::batch::Move;
use crate::sink::batch::Position;
use crate::sink::mongo_history::failure::{classify, is_duplicate_id};

const COLLECTION: &str = "companion_offsets";

/// The offsets of one sink.
pub(crate) struct Offsets {
    collection: Collection<Document>,
    sink: String,
}

impl Offsets {
    /// The offsets of `sink` (`<name>.<sink>`, as its consumer group), kept in `database`.
    pub(crate) fn new(database: &Database, sink: &str) -> Self {
        Offsets {
            collection: database.collection(COLLECTION),
            sink: sink.to_owned(),
        }
    }

    /// The positions of `wanted`.
    pub(crate) async fn read(&self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        let mut positions = vec![None; wanted.len()];
        for (at, position) in self.all().await? {
            if let Some(place) = wanted.iter().position(|wanted| *wanted == at) {
                positions[place] = Some(position);
            }
        }
        Ok(positions)
    }

    /// All positions.
    pub(crate) async fn all(&self) -> Result<Vec<(TopicPartition, Position)>> {
        let failed = |error| classify("reading the offsets", &error);
        let mut cursor = self
            .collection
            .find(doc! { "_id.sink": &self.sink })
            .await
            .map_err(failed)?;
        let mut positions = Vec::new();
        while let Some(found) = cursor.try_next().await.map_err(failed)? {
            let Some((topic, partition, position)) = parse(&found) else {
                return Err(Trouble::new(
                    Code::TargetRefuses,
                    format!("mongodb: a document of {COLLECTION} has an unknown form"),
                    "Restore or remove it, then send SIGHUP.",
                ));
            };
            let topic = topic.into();
            positions.push((TopicPartition { topic, partition }, position));
        }
        Ok(positions)
    }

    /// Notes where unknown partitions begin.
    pub(crate) async fn begin(&self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        let starts = starts.iter().map(|(at, next_offset)| {
            let position = Position {
                next_offset: *next_offset,
                version: String::new(),
            };
            (at.clone(), position)
        });
        self.begin_at(&starts.collect::<Vec<_>>()).await
    }

    /// As [`Offsets::begin`], with the highest versions before.
    pub(crate) async fn begin_at(&self, starts: &[(TopicPartition, Position)]) -> Result<()> {
        for (at, start) in starts {
            let document = doc! {
                "_id": self.id(at), "next_offset": start.next_offset, "version": &start.version,
                "updated_at": DateTime::now(),
            };
            match self.collection.insert_one(document).await {
                Ok(_) => {}
                Err(error) if is_duplicate_id(&error) => return Err(other_instance(at)),
                Err(error) => return Err(classify("writing the offsets", &error)),
            }
        }
        Ok(())
    }

    /// Fails if another instance has moved a position since the batch began.
    pub(crate) async fn check(&self, moves: &[Move]) -> Result<()> {
        let wanted: Vec<TopicPartition> = moves.iter().map(|moved| moved.at.clone()).collect();
        for (moved, stored) in moves.iter().zip(self.read(&wanted).await?) {
            if stored.is_none_or(|stored| stored.next_offset != moved.begin) {
                return Err(other_instance(&moved.at));
            }
        }
        Ok(())
    }

    /// Moves the positions, each only from where the batch began.
    pub(crate) async fn advance(&self, moves: &[Move]) -> Result<()> {
        let writes = moves.iter().map(|moved| async move {
            let updated = self
                .collection
                .update_one(
                    doc! { "_id": self.id(&moved.at), "next_offset": moved.begin },
                    doc! { "$set": {
                        "next_offset": moved.end, "version": &moved.version, "updated_at": DateTime::now(),
                    } },
                )
                .await
                .map_err(|error| classify("writing the offsets", &error))?;
            match updated.matched_count {
                0 => Err(other_instance(&moved.at)),
                _ => Ok(()),
            }
        });
        try_join_all(writes).await.map(|_| ())
    }

    /// Forgets all of the sink's offsets.
    pub(crate) async fn forget(&self) -> Result<()> {
        let deleted = self
            .collection
            .delete_many(doc! { "_id.sink": &self.sink })
            .await;
        deleted
            .map(drop)
            .map_err(|error| classify("forgetting the offsets", &error))
    }

    fn id(&self, at: &TopicPartition) -> Document {
        doc! { "sink": &self.sink, "topic": &*at.topic, "partition": at.partition }
    }
}

fn parse(found: &Document) -> Option<(String, i32, Position)> {
    let id = found.get_document("_id").ok()?;
    let position = Position {
        next_offset: found.get_i64("next_offset").ok()?,
        version: found.get_str("version").ok()?.to_owned(),
    };
    Some((
        id.get_str("topic").ok()?.to_owned(),
        id.get_i32("partition").ok()?,
        position,
    ))
}

fn other_instance(at: &TopicPartition) -> Trouble {
    Trouble::new(
        Code::OtherInstance,
        format!(
            "mongodb: another instance moved {}-{}",
            at.topic, at.partition
        ),
        "Nothing is lost; this one reads the offsets again. Run one instance of a sink.",
    )
}
