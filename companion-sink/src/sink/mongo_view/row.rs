//! A row of the source, as a view keeps it.

use mongodb::bson::{Bson, Document, doc};

use crate::sink::mongo_view::plan::Plan;

/// A row that documents are made of, or what is known of one that is gone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredRow {
    /// Table and identity.
    pub(crate) id: String,
    /// `schema.table`
    pub(crate) table: String,
    /// The row's key, as documents have it.
    pub(crate) key: Bson,
    /// Of the newest change.
    pub(crate) version: String,
    /// Of the newest event of the row itself; a definition that renames a column changes the row as well.
    pub(crate) met: String,
    /// Its columns; none of a row that is gone.
    pub(crate) row: Option<Document>,
    /// By what other rows find it, or found it last.
    pub(crate) links: Vec<String>,
    /// By what they found it before, as far as documents are not known to be written since.
    pub(crate) was: Vec<String>,
    /// The event that was refused, after which the row is not known.
    pub(crate) refused: Option<String>,
}

/// What an event does with a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    /// Table and identity.
    pub(crate) id: String,
    /// `schema.table`
    pub(crate) table: String,
    /// The row's key.
    pub(crate) key: Bson,
    /// The event's version.
    pub(crate) version: String,
    /// What is done.
    pub(crate) kind: ChangeKind,
}

/// What is done with a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ChangeKind {
    /// It is this now.
    Put(Document),
    /// It is gone.
    Delete,
    /// The event with this id is refused: what the row is now is not known.
    Refuse(String),
}

/// The id of a row in the collection of rows.
pub(crate) fn row_id(table: &str, identity: &str) -> String {
    format!("{table}:{identity}")
}

impl StoredRow {
    /// The row after a change; none if it has come further already. Documents of all up to `shown` are there.
    pub(crate) fn after(
        plan: &Plan,
        before: Option<&StoredRow>,
        change: &Change,
        shown: &str,
    ) -> Option<StoredRow> {
        if before.is_some_and(|before| before.version >= change.version) {
            return None;
        }
        let (row, refused) = match &change.kind {
            ChangeKind::Put(row) => (Some(row.clone()), None),
            ChangeKind::Delete => (None, None),
            ChangeKind::Refuse(event) => (
                before.and_then(|before| before.row.clone()),
                Some(event.clone()),
            ),
        };
        let links = match (&row, before) {
            (Some(row), _) => plan.links_of(&change.table, row),
            (None, Some(before)) => before.links.clone(),
            (None, None) => Vec::new(),
        };
        let mut was = Vec::new();
        if let Some(before) = before {
            was.clone_from(&before.links);
            if before.version.as_str() > shown {
                was.extend_from_slice(&before.was);
            }
        }
        was.retain(|link| !links.contains(link));
        was.sort_unstable();
        was.dedup();
        Some(StoredRow {
            id: change.id.clone(),
            table: change.table.clone(),
            key: change.key.clone(),
            version: change.version.clone(),
            met: change.version.clone(),
            row,
            links,
            was,
            refused,
        })
    }

    /// By what other rows find it or found it.
    pub(crate) fn all_links(&self) -> impl Iterator<Item = &String> {
        self.links.iter().chain(&self.was)
    }

    /// As the collection of rows has it.
    pub(crate) fn to_document(&self) -> Document {
        let mut document = doc! {
            "_id": &self.id,
            "table": &self.table,
            "key": self.key.clone(),
            "version": &self.version,
            "met": &self.met,
            "links": &self.links,
            "was": &self.was,
        };
        match &self.row {
            Some(row) => document.insert("row", row),
            None => document.insert("gone", true),
        };
        if let Some(refused) = &self.refused {
            document.insert("refused", refused);
        }
        document
    }

    /// What [`StoredRow::to_document`] made.
    pub(crate) fn of_document(mut document: Document) -> Option<StoredRow> {
        let text = |document: &Document, name: &str| document.get_str(name).ok().map(str::to_owned);
        let texts = |document: &Document, name: &str| {
            let texts = document.get_array(name).into_iter().flatten();
            texts
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        Some(StoredRow {
            id: text(&document, "_id")?,
            table: text(&document, "table")?,
            version: text(&document, "version")?,
            met: text(&document, "met")?,
            links: texts(&document, "links"),
            was: texts(&document, "was"),
            refused: text(&document, "refused"),
            row: match document.remove("row") {
                Some(Bson::Document(row)) => Some(row),
                _ => None,
            },
            key: document.remove("key")?,
        })
    }
}
