//! What events ask a view for.

use std::collections::{BTreeMap, BTreeSet};

use crate::sink::mongo_view::row::Change;

/// What an event asks for.
pub(crate) enum Step {
    /// Something happened to a row.
    Row(Change),
    /// All rows of a table are gone.
    Empty { table: String, version: String },
    /// Columns of a table have other names, or are gone.
    Columns {
        table: String,
        version: String,
        renames: BTreeMap<String, String>,
        columns: BTreeSet<String>,
    },
    /// What own events with a key have told is gone.
    KeyGone {
        table: String,
        link: String,
        version: String,
    },
    /// The source has dropped a table.
    Dropped { table: String },
    /// The source begins to send a table: of one that it dropped the rows are gone.
    Begun { table: String, version: String },
    /// A snapshot begins.
    SnapshotBegins {
        topic: String,
        id: i64,
        version: String,
    },
    /// A chunk of a snapshot ends.
    ChunkEnds(ChunkEnd),
}

/// The end of a snapshot's chunk, which left these rows out, for they were changed before it.
pub(crate) struct ChunkEnd {
    pub(crate) topic: String,
    pub(crate) table: String,
    pub(crate) id: i64,
    pub(crate) version: String,
    pub(crate) changed: Vec<String>,
    pub(crate) is_partial: bool,
    pub(crate) is_last: bool,
}
