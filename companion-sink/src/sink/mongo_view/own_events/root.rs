//! A root that is a topic of an application's own events, as a view's settings say it.

use std::collections::BTreeMap;

use crate::config::MongoViewSettings;
use crate::config::statistics::path::{Path, Root};
use crate::rule::condition::Condition;

/// What a row of such a root has besides paths: the whole value, and the record's key.
pub(crate) const WHOLE: &str = "value";
pub(crate) const KEY: &str = "key";

/// A root that is a topic of own events. Its rows have what the view uses of them, under the paths as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnRoot {
    /// The topic.
    pub(crate) topic: String,
    /// Where the document's id is; none for the record's key.
    pub(crate) id: Option<Path>,
    /// Which events make documents; empty for all.
    condition: String,
    /// What is kept of an event.
    paths: BTreeMap<String, Path>,
    /// The whole value is kept as well.
    pub(crate) has_whole_value: bool,
}

impl OwnRoot {
    /// That of the settings; none where the root is a table. What cannot be meant, with the name of its key.
    pub(crate) fn new(settings: &MongoViewSettings) -> std::result::Result<Option<Self>, String> {
        let of_events = [("id", &settings.id), ("where", &settings.r#where)];
        if settings.root_topic.is_empty() {
            let wrong = of_events.iter().find(|(_, text)| !text.is_empty());
            return match wrong {
                Some((key, _)) => Err(format!("{key}: it is about events of a root_topic")),
                None => Ok(None),
            };
        }
        if !settings.root.is_empty() {
            return Err("root_topic: root is set as well; a view has one of them".to_owned());
        }
        if !settings.r#where.is_empty() {
            Condition::read(&settings.r#where).map_err(|why| format!("where: {why}"))?;
        }
        let id = (!settings.id.is_empty()).then(|| path(&settings.id));
        Ok(Some(OwnRoot {
            topic: settings.root_topic.clone(),
            id: id.transpose().map_err(|why| format!("id: {why}"))?,
            condition: settings.r#where.clone(),
            paths: BTreeMap::new(),
            has_whole_value: false,
        }))
    }

    /// What stands for a table's name. No table is called so.
    pub(crate) fn table(&self) -> String {
        format!("topic..{}", self.topic)
    }

    /// Which events make documents; none for all.
    pub(crate) fn condition(&self) -> Option<Condition> {
        // It was read once before.
        let condition = (!self.condition.is_empty()).then(|| Condition::read(&self.condition));
        condition?.ok()
    }

    /// What is kept of an event: paths, as they are written, and what they are.
    pub(crate) fn paths(&self) -> &BTreeMap<String, Path> {
        &self.paths
    }

    /// Has what is at a path kept.
    pub(crate) fn add_path(&mut self, text: &str) -> std::result::Result<(), String> {
        self.paths.insert(text.to_owned(), path(text)?);
        Ok(())
    }
}

fn path(text: &str) -> std::result::Result<Path, String> {
    let path = Path::parse(text)?;
    match path.root {
        Root::Value | Root::Audit => Ok(path),
        Root::After | Root::Op => Err(format!(
            "\"{text}\" is nothing of an own event (value.NAME and audit.NAME are there)"
        )),
    }
}
