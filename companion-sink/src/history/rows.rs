//! All rows of a table as they were at a moment.

use change::trouble::Trouble;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use serde_json::{Value, json};

use crate::error::{Result, misconfigured};
use crate::history::moment::Moment;
use crate::history::state;
use crate::history::table::HistoryTable;
use crate::sink::mongo_history::write::newest_versions::NewestVersions;
use crate::sink::mongo_history::write::newest_versions::truncates;

/// The rows, one after the other in the order of their entities: there may be many.
pub(crate) struct Rows {
    newest: NewestVersions,
    /// The last truncate until then.
    emptied: String,
}

impl Rows {
    /// Those behind the entity `after`.
    pub(crate) async fn at(
        table: &HistoryTable,
        moment: &Moment,
        after: Option<&str>,
    ) -> Result<Rows> {
        let Some(until) = table.until(moment) else {
            return Err(misconfigured(
                "a number tells versions of one row apart",
                "Name a time, or a row.",
            ));
        };
        let collection = table.collection.clone_with_type::<RawDocumentBuf>();
        let mut truncates = truncates(&collection, &table.id, until.clone()).await?;
        let filter = match after {
            Some(after) => doc! { "$and": [until, { "entity": { "$gt": after } }] },
            None => until,
        };
        let fields = doc! { "entity": 1, "version": 1, "key": 1, "op": 1, "after": 1, "marks": 1, "edited": 1, "when": 1 };
        Ok(Rows {
            newest: NewestVersions::of(&collection, filter, fields).await?,
            emptied: truncates.pop().unwrap_or_default(),
        })
    }

    /// The newest version of the next row that was there.
    pub(crate) async fn next(&mut self) -> Result<Option<Document>> {
        let emptied = self.emptied.as_str();
        while let Some(row) = self.newest.next(|_, version| version > emptied).await? {
            let row = Document::try_from(row).map_err(unreadable)?;
            if state(&row).is_some() {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

/// A row as answers have it.
pub(crate) fn row_json(row: &Document) -> Value {
    json!({
        "key": row.get_document("key").ok().map(crate::history::json),
        "version": row.get_str("version").ok(),
        "state": state(row).map(crate::history::json),
        "marks": crate::history::marks(row).map(crate::history::json),
        "edited": crate::history::edited(row).map(crate::history::json),
    })
}

fn unreadable(error: mongodb::bson::raw::Error) -> Trouble {
    misconfigured(
        format!("a document cannot be read: {error}"),
        "Look at the collection with a client of the database.",
    )
}
