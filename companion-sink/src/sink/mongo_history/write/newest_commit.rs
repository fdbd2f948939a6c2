//! Up to which commit a history has everything, in the collection `companion_complete_up_to`: a question for a later moment has no
//! answer yet.

use mongodb::Database;
use mongodb::bson::{Document, doc};

use crate::delivery::watermark::Complete;
use crate::error::Result;
use crate::sink::mongo_history::failure::classify;

const COLLECTION: &str = "companion_complete_up_to";

/// Writes it for `sink` (`<name>.<sink>`).
pub(crate) async fn write(database: &Database, sink: &str, complete: &Complete) -> Result<()> {
    database
        .collection::<Document>(COLLECTION)
        .update_one(
            doc! { "_id": sink },
            doc! { "$set": { "version": &complete.version, "commit_time": &complete.commit_time } },
        )
        .upsert(true)
        .await
        .map(drop)
        .map_err(|error| classify("writing how far the history is complete", &error))
}

/// What was written; none where the sink has not come to a position of the sender yet.
pub(crate) async fn read(database: &Database, sink: &str) -> Result<Option<Complete>> {
    let found = database
        .collection::<Document>(COLLECTION)
        .find_one(doc! { "_id": sink })
        .await
        .map_err(|error| classify("reading how far the history is complete", &error))?;
    Ok(found.and_then(|found| {
        Some(Complete {
            version: found.get_str("version").ok()?.to_owned(),
            commit_time: found.get_str("commit_time").ok()?.to_owned(),
        })
    }))
}
