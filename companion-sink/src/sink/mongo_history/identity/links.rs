//! Rows that were known by an earlier key than the one that they have now, in the collection `companion_links`: what such a row
//! is called by its key now, and its entity.

use std::collections::HashMap;

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::{Collection, Database};

use crate::error::{Code, Result};
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::write::insert::insert_new;

const COLLECTION: &str = "companion_links";

/// The links of all tables.
#[derive(Clone)]
pub(crate) struct Links(Collection<Document>);

impl Links {
    /// Those of `database`.
    pub(crate) fn of(database: &Database) -> Links {
        Links(database.collection(COLLECTION))
    }

    /// The entities of those that have a link.
    pub(crate) async fn find(&self, links: &[&str]) -> Result<HashMap<String, String>> {
        let mut entities = HashMap::new();
        if links.is_empty() {
            return Ok(entities);
        }
        let failed = |error| classify("reading the links of rows", &error);
        let wanted = match links {
            // Not every server has its index for a list.
            [one] => doc! { "_id": one },
            all => doc! { "_id": { "$in": all } },
        };
        let mut found = self.0.find(wanted).await.map_err(failed)?;
        while let Some(found) = found.try_next().await.map_err(failed)? {
            if let (Ok(link), Ok(entity)) = (found.get_str("_id"), found.get_str("entity")) {
                entities.insert(link.to_owned(), entity.to_owned());
            }
        }
        Ok(entities)
    }

    /// Notes the entities of links. What is there stays.
    pub(crate) async fn note(&self, links: &[(String, String)]) -> Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        let documents = links
            .iter()
            .map(|(link, entity)| doc! { "_id": link, "entity": entity });
        match insert_new(&self.0, documents).await?.first() {
            None => Ok(()),
            Some(refused) => Err(Trouble::new(
                Code::TargetRefuses,
                format!("mongodb refused the link of a row: {}", refused.why),
                "Allow the sink's user to write every collection of its database, then send SIGHUP.",
            )),
        }
    }
}
