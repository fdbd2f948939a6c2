//! What an event tells of its table.

use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;

/// A table in its database. A server that was made from another one's backup may give a number to another table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableOid {
    /// Of the source, as versions have it.
    pub(crate) generation: String,
    /// The number.
    pub(crate) oid: i64,
}

/// A name of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Name {
    /// From which version on; empty for ever.
    pub(crate) from: String,
    /// `database.schema.table`, escaped as events have it.
    pub(crate) header: String,
    /// As it is.
    pub(crate) database: String,
    /// As it is.
    pub(crate) schema: String,
    /// As it is.
    pub(crate) table: String,
}

/// What an event says about a table's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told<'a> {
    /// The event's.
    pub(crate) version: &'a str,
    /// Where it was read.
    pub(crate) topic: &'a str,
    /// It says that the table has another name, or schema, than before.
    pub(crate) is_renaming: bool,
    /// What the table is called.
    pub(crate) name: Name,
    /// The table in its database, where the event says it.
    pub(crate) oid: Option<i64>,
    /// New names of columns, by the old ones.
    pub(crate) renames: &'a BTreeMap<String, String>,
    /// The columns that identify rows; none where nothing does, or where nobody says it.
    pub(crate) key: &'a [String],
    /// Columns and their types as SQL has them; none where nobody says it.
    pub(crate) types: Vec<(&'a str, &'a str)>,
}

impl Told<'_> {
    /// Which table it is, where the event says it.
    pub(crate) fn oid(&self) -> Option<TableOid> {
        Some(TableOid {
            generation: self.version.get(..4)?.to_owned(),
            oid: self.oid?,
        })
    }
}
