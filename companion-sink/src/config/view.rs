//! What a `mongo_view` sink has of its own: which rows of which tables make a document.

use serde::{Deserialize, Serialize};

/// What a `mongo_view` sink has of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MongoViewSettings {
    /// The database of the documents, of the rows that they are made of, and of the offsets.
    pub(crate) database: String,
    /// The collection of the documents; empty for the sink's name.
    pub(crate) collection: String,
    /// The source's table (`schema.table`) of which each row makes a document.
    pub(crate) root: String,
    /// Instead of it: the topic of an application's own events of which each makes a document.
    pub(crate) root_topic: String,
    /// Where such an event has the document's id; empty for the record's key.
    pub(crate) id: String,
    /// A condition on such an event; empty for none.
    pub(crate) r#where: String,
    /// Columns of the root, or paths in events, by the names that they have in documents; empty for all, under their own names.
    pub(crate) fields: toml::Table,
    /// What else a document has.
    pub(crate) join: Vec<JoinSettings>,
    /// Indexes of the documents.
    pub(crate) indexes: Vec<IndexSettings>,
    /// Names or `*` patterns of the source's tables (`schema.table`) that may come in more than one topic.
    pub(crate) several_topics: Vec<String>,
}

/// `join`: rows of another table that are part of a document, or of a part of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JoinSettings {
    /// The source's table.
    pub(crate) table: String,
    /// `column = column`: of this table, and of the one that it is joined to.
    pub(crate) on: String,
    /// The field that its rows become.
    #[serde(rename = "as")]
    pub(crate) field: String,
    /// All rows, as an array; else one, as an object.
    pub(crate) many: bool,
    /// As those of the root.
    pub(crate) fields: toml::Table,
    /// The column by which an array is in order; `-column` for the opposite. Empty for the key.
    pub(crate) order_by: String,
    /// The collection that `$ref` names: instead of a row only its key is there. Empty for the row.
    pub(crate) reference: String,
    /// What is joined to this one.
    pub(crate) join: Vec<JoinSettings>,
}

/// `indexes`: an index of the documents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct IndexSettings {
    /// Fields in their order, each with 1 or -1.
    pub(crate) keys: toml::Table,
    /// No two documents have the same values.
    pub(crate) unique: bool,
}

impl Default for MongoViewSettings {
    fn default() -> Self {
        MongoViewSettings {
            database: "views".into(),
            collection: String::new(),
            root: String::new(),
            root_topic: String::new(),
            id: String::new(),
            r#where: String::new(),
            fields: toml::Table::new(),
            join: Vec::new(),
            indexes: Vec::new(),
            several_topics: Vec::new(),
        }
    }
}
