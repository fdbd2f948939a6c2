//! The snapshots of the source that are under way, in the collection `companion_snapshots`: a document for each topic, of the
//! last snapshot that began. Rows that are there at the source though the history gets no document of them are noted in a
//! collection of the snapshot's own, which is dropped at its end.

use std::collections::{BTreeSet, HashMap, VecDeque};

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use mongodb::{Collection, Database};

use crate::error::{Code, Result};
use crate::sink::mongo_history::failure::{classify, is_duplicate_id};
use crate::sink::mongo_history::write::insert::insert_new;

const COLLECTION: &str = "companion_snapshots";
const SEEN_PREFIX: &str = "companion_seen_";
/// Notes that are read at once.
const PAGE: usize = 10_000;

/// A snapshot of one topic's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The source's number of it.
    pub(crate) id: i64,
    /// The version of its beginning.
    pub(crate) begin: String,
    /// The collection of the entities that are there.
    seen: String,
    /// It says nothing of rows that it has not got.
    partial: bool,
    ended: bool,
}

/// The snapshots of one sink.
pub(crate) struct HistorySnapshots {
    database: Database,
    collection: Collection<Document>,
    sink: String,
    /// Those that were not ended when they were read, by topic.
    running: HashMap<String, Snapshot>,
}

impl HistorySnapshots {
    /// The snapshots of `sink` (`<name>.<sink>`, as its offsets) in `database`.
    pub(crate) async fn read(database: &Database, sink: &str) -> Result<HistorySnapshots> {
        let collection: Collection<Document> = database.collection(COLLECTION);
        let failed = |error| classify("reading the snapshots", &error);
        let mut found = collection
            .find(doc! { "_id.sink": sink, "ended": false })
            .await
            .map_err(failed)?;
        let mut running = HashMap::new();
        while let Some(document) = found.try_next().await.map_err(failed)? {
            let snapshot = parse(&document)?;
            let id = document.get_document("_id");
            if let Some(topic) = id.ok().and_then(|id| id.get_str("topic").ok()) {
                running.insert(topic.to_owned(), snapshot);
            }
        }
        Ok(HistorySnapshots {
            database: database.clone(),
            collection,
            sink: sink.to_owned(),
            running,
        })
    }

    /// Notes a beginning. One that is known already, and one from before it, change nothing.
    pub(crate) async fn begin(&mut self, topic: &str, id: i64, version: &str) -> Result<()> {
        let snapshot = Snapshot {
            id,
            begin: version.to_owned(),
            seen: format!("{SEEN_PREFIX}{}", ObjectId::new().to_hex()),
            partial: false,
            ended: false,
        };
        let document = doc! {
            "_id": self.id(topic), "snapshot_id": id, "begin": version, "seen": &snapshot.seen,
            "partial": false, "ended": false,
        };
        let failed = |error| classify("noting a snapshot", &error);
        let is_first = match self.stored(topic).await? {
            Some(stored) if stored.begin.as_str() >= version => return Ok(()),
            Some(stored) => {
                // What a snapshot that was cancelled has left.
                self.drop_seen(&stored).await?;
                let same = doc! { "_id": self.id(topic), "begin": stored.begin };
                let replaced = self.collection.replace_one(same, document).await;
                replaced.map_err(failed)?.matched_count == 1
            }
            None => match self.collection.insert_one(document).await {
                Ok(_) => true,
                Err(error) if is_duplicate_id(&error) => false,
                Err(error) => return Err(failed(error)),
            },
        };
        if !is_first {
            return Err(other_instance(topic));
        }
        self.running.insert(topic.to_owned(), snapshot);
        Ok(())
    }

    /// Whether what is there of a topic's table must be noted.
    pub(crate) fn takes_notes(&self, topic: &str) -> bool {
        self.running
            .get(topic)
            .is_some_and(|snapshot| !snapshot.partial)
    }

    /// Notes entities that are there. Once more changes nothing.
    pub(crate) async fn note(&self, topic: &str, entities: &BTreeSet<String>) -> Result<()> {
        let Some(snapshot) = self.running.get(topic).filter(|_| !entities.is_empty()) else {
            return Ok(());
        };
        let documents = entities.iter().map(|entity| doc! { "_id": entity });
        match insert_new(&self.seen(snapshot), documents).await?.first() {
            None => Ok(()),
            Some(refused) => Err(Trouble::new(
                Code::TargetRefuses,
                format!("mongodb refused a note of a snapshot: {}", refused.why),
                "Allow the sink's user to write every collection of its database, then send SIGHUP.",
            )),
        }
    }

    /// Notes that the topic's snapshot says nothing of rows that it has not got.
    pub(crate) async fn set_partial(&mut self, topic: &str) -> Result<()> {
        let id = self.id(topic);
        let Some(snapshot) = self
            .running
            .get_mut(topic)
            .filter(|running| !running.partial)
        else {
            return Ok(());
        };
        let updated = self
            .collection
            .update_one(
                doc! { "_id": id, "begin": &snapshot.begin },
                doc! { "$set": { "partial": true } },
            )
            .await;
        updated.map_err(|error| classify("noting a snapshot", &error))?;
        snapshot.partial = true;
        Ok(())
    }

    /// The snapshot `id` of a topic, if it is to be ended: its beginning was noted, and nothing says that it is partial.
    pub(crate) fn whole(&self, topic: &str, id: i64) -> Option<Snapshot> {
        let snapshot = self.running.get(topic)?;
        (snapshot.id == id && !snapshot.partial).then(|| snapshot.clone())
    }

    /// What was noted of a snapshot.
    pub(crate) fn notes(&self, snapshot: &Snapshot) -> Notes {
        Notes {
            collection: self.seen(snapshot),
            page: VecDeque::new(),
            is_last_page: false,
            asked: String::new(),
        }
    }

    /// Fails if another instance has ended the snapshot: what was read of its rows before is all only if not.
    pub(crate) async fn check_running(&self, topic: &str, snapshot: &Snapshot) -> Result<()> {
        match self.stored(topic).await? {
            Some(stored) if stored == *snapshot => Ok(()),
            _ => Err(other_instance(topic)),
        }
    }

    /// Notes the end of a topic's snapshot `id`, whatever it was, and forgets its rows. Nothing if another one is running.
    pub(crate) async fn end(&mut self, topic: &str, id: i64) -> Result<()> {
        let Some(stored) = self.stored(topic).await?.filter(|stored| stored.id == id) else {
            return Ok(());
        };
        // First: rows that are forgotten would be gone for whoever looks for them.
        let updated = self
            .collection
            .update_one(
                doc! { "_id": self.id(topic), "begin": &stored.begin },
                doc! { "$set": { "ended": true } },
            )
            .await;
        updated.map_err(|error| classify("noting a snapshot's end", &error))?;
        self.running.remove(topic);
        self.drop_seen(&stored).await
    }

    /// Forgets all snapshots of the sink, with the rows that were noted.
    pub(crate) async fn forget(&self) -> Result<()> {
        let failed = |error| classify("forgetting the snapshots", &error);
        let mine = doc! { "_id.sink": &self.sink };
        let mut found = self.collection.find(mine.clone()).await.map_err(failed)?;
        while let Some(document) = found.try_next().await.map_err(failed)? {
            self.drop_seen(&parse(&document)?).await?;
        }
        let deleted = self.collection.delete_many(mine).await;
        deleted.map(drop).map_err(failed)
    }

    async fn stored(&self, topic: &str) -> Result<Option<Snapshot>> {
        let found = self
            .collection
            .find_one(doc! { "_id": self.id(topic) })
            .await;
        let found = found.map_err(|error| classify("reading the snapshots", &error))?;
        found.as_ref().map(parse).transpose()
    }

    async fn drop_seen(&self, snapshot: &Snapshot) -> Result<()> {
        let dropped = self.seen(snapshot).drop().await;
        dropped.map_err(|error| classify("forgetting rows of a snapshot", &error))
    }

    fn seen(&self, snapshot: &Snapshot) -> Collection<Document> {
        self.database.collection(&snapshot.seen)
    }

    fn id(&self, topic: &str) -> Document {
        doc! { "sink": &self.sink, "topic": topic }
    }
}

/// The entities that were noted of a snapshot, read in their order.
pub(crate) struct Notes {
    collection: Collection<Document>,
    page: VecDeque<String>,
    is_last_page: bool,
    /// The last entity that was asked for.
    asked: String,
}

impl Notes {
    /// Whether an entity was noted. Entities are asked for in their order, that of their bytes.
    pub(crate) async fn contain(&mut self, entity: &str) -> Result<bool> {
        if entity <= self.asked.as_str() {
            return Err(Trouble::new(
                Code::TargetRefuses,
                "mongodb: the collection of a history does not sort texts by their bytes",
                "Make it without a collation, and copy the documents; then send SIGHUP.",
            ));
        }
        entity.clone_into(&mut self.asked);
        loop {
            match self.page.front() {
                Some(noted) if noted.as_str() < entity => {
                    self.page.pop_front();
                }
                Some(noted) => return Ok(noted == entity),
                None if self.is_last_page => return Ok(false),
                None => self.read_page().await?,
            }
        }
    }

    /// Reads on from what was asked for. Page by page, for a cursor that nobody reads for a while is closed.
    async fn read_page(&mut self) -> Result<()> {
        let failed = |error| classify("reading rows of a snapshot", &error);
        let mut found = self
            .collection
            .find(doc! { "_id": { "$gte": &self.asked } })
            .sort(doc! { "_id": 1 })
            .limit(PAGE as i64)
            .await
            .map_err(failed)?;
        while let Some(document) = found.try_next().await.map_err(failed)? {
            self.page.extend(document.get_str("_id").map(str::to_owned));
        }
        self.is_last_page = self.page.len() < PAGE;
        Ok(())
    }
}

fn parse(document: &Document) -> Result<Snapshot> {
    let parsed = || {
        Some(Snapshot {
            id: document.get_i64("snapshot_id").ok()?,
            begin: document.get_str("begin").ok()?.to_owned(),
            seen: document.get_str("seen").ok()?.to_owned(),
            partial: document.get_bool("partial").ok()?,
            ended: document.get_bool("ended").ok()?,
        })
    };
    parsed().ok_or_else(|| {
        Trouble::new(
            Code::TargetRefuses,
            format!("mongodb: a document of {COLLECTION} has an unknown form"),
            "Remove it, and make another snapshot of its table; then send SIGHUP.",
        )
    })
}

fn other_instance(topic: &str) -> Trouble {
    Trouble::new(
        Code::OtherInstance,
        format!("mongodb: another instance went on with the snapshot of {topic}"),
        "Nothing is lost; this one reads the offsets again. Run one instance of a sink.",
    )
}
