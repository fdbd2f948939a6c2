//! The collections of a view.

use crate::config::MongoViewSettings;

/// A view's own collections, besides what all sinks of a database share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewNames {
    /// Its documents.
    pub(crate) documents: String,
    /// The rows that they are made of.
    pub(crate) rows: String,
    /// As whom it keeps its offsets and all else.
    pub(crate) state: String,
}

impl ViewNames {
    /// Those of the sink `name` of `instance`.
    pub(crate) fn new(instance: &str, name: &str, settings: &MongoViewSettings) -> Self {
        let documents = collection(name, settings);
        ViewNames {
            rows: rows_of(&documents),
            documents,
            state: format!("{instance}.{name}"),
        }
    }

    /// Those of the view that is built anew beside it.
    pub(crate) fn rebuilt(&self) -> Self {
        let documents = format!("{}__new", self.documents);
        ViewNames {
            rows: rows_of(&documents),
            documents,
            state: format!("{}/rebuild", self.state),
        }
    }

    /// What was before the last rebuild.
    pub(crate) fn old(&self) -> String {
        format!("{}__old", self.documents)
    }
}

/// The collection of the documents of the sink `name`.
pub(crate) fn collection(name: &str, settings: &MongoViewSettings) -> String {
    match settings.collection.as_str() {
        "" => name.to_owned(),
        given => given.to_owned(),
    }
}

fn rows_of(documents: &str) -> String {
    format!("{documents}_rows")
}

/// All collections that a view may ever have.
pub(crate) fn own_collections(name: &str, settings: &MongoViewSettings) -> Vec<String> {
    let view = ViewNames::new("", name, settings);
    let (rebuilt, old) = (view.rebuilt(), view.old());
    vec![
        view.documents,
        view.rows,
        rebuilt.documents,
        rebuilt.rows,
        old,
    ]
}
