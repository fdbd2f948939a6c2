//! A view whose root is a topic of an application's own events: each makes a document, or takes the place of the one with its id.

use std::collections::BTreeMap;

use change::trouble::Trouble;
use mongodb::bson::{Bson, Document, RawBson};
use serde_json::value::RawValue;

use crate::config::MongoViewSettings;
use crate::config::statistics::path::{Path, Root};
use crate::error::Code;
use crate::event::Headers;
use crate::event::Op;
use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::own::OwnEvent;
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, NotApplied};
use crate::rule::condition::Condition;
use crate::rule::expression::Judgement;
use crate::sink::mongo_history::documents::bson_value::{Names, document_of, value_of};
use crate::sink::mongo_view::plan::{ID, REFUSED, VERSION, link};
use crate::sink::mongo_view::row::{Change, ChangeKind, row_id};
use crate::sink::mongo_view::step::Step;
use crate::sink::mongo_view::view::{View, not_connected};

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

    /// Has what is at a path kept.
    pub(crate) fn add_path(&mut self, text: &str) -> std::result::Result<(), String> {
        self.paths.insert(text.to_owned(), path(text)?);
        Ok(())
    }

    /// The row of an event, and its key.
    fn row(
        &self,
        record: &Record,
        event: &OwnEvent<'_>,
        names: Names,
    ) -> std::result::Result<Document, Failure> {
        let mut row = Document::new();
        for (text, path) in &self.paths {
            if let Some(json) = at(event, path)? {
                row.insert(names.write(text), bson(json, names)?);
            }
        }
        if self.has_whole_value {
            let whole = event.value.map(|json| bson(json, names)).transpose()?;
            let Some(Bson::Document(whole)) = whole else {
                return Err(Failure::conversion(
                    "the value is no object, and fields names nothing of it".to_owned(),
                ));
            };
            let mut of_view = [ID, VERSION, REFUSED].into_iter();
            if let Some(name) = of_view.find(|name| whole.contains_key(name)) {
                return Err(Failure::conversion(format!(
                    "the value has a member {name}, which is the view's own: fields can give it another name"
                )));
            }
            row.insert(WHOLE, whole);
        }
        if self.id.is_some()
            && let Some(key) = key_text(record)
        {
            row.insert(KEY, key);
        }
        Ok(row)
    }

    /// Which document an event is: the identity of its row, and the row's key.
    fn identity(
        &self,
        record: &Record,
        event: &OwnEvent<'_>,
        names: Names,
    ) -> std::result::Result<(String, Bson), Failure> {
        let Some(path) = &self.id else {
            return identity_of_key(record, names);
        };
        let id = at(event, path)?.map(|json| bson(json, names)).transpose()?;
        match id {
            Some(id @ (Bson::String(_) | Bson::Int32(_) | Bson::Int64(_))) => {
                Ok((id.to_string(), id))
            }
            _ => Err(Failure::conversion(format!(
                "{} is no text and no whole number, and so no id",
                path.text()
            ))),
        }
    }
}

/// What an event of the root asks for.
pub(crate) fn step(
    view: &View,
    own: &OwnRoot,
    record: &Record,
    headers: &Headers<'_>,
) -> std::result::Result<Option<Step>, NotApplied> {
    if headers.op.is_row() {
        return Err(rows_instead(own, headers).into());
    }
    if headers.op != Op::Emit {
        return Ok(None);
    }
    let connection = view.connection.as_ref().ok_or_else(not_connected)?;
    let names = connection.store.names;
    let event = OwnEvent::read(record)?;
    let (table, version) = (own.table(), headers.version.to_owned());
    if event.value.is_none() && own.id.is_some() {
        let key = key_text(record).map(Bson::String);
        let link = key.and_then(|key| link(&table, KEY, &key));
        return Ok(link.map(|link| Step::KeyGone {
            table,
            link,
            version,
        }));
    }
    if event.value.is_some() && !is_chosen(view.condition.as_ref(), record)? {
        return Ok(None);
    }
    let (identity, key) = own.identity(record, &event, names)?;
    let kind = match event.value {
        Some(_) => ChangeKind::Put(own.row(record, &event, names)?),
        None => ChangeKind::Delete,
    };
    Ok(Some(Step::Row(Change {
        id: row_id(&table, &identity),
        table,
        key,
        version,
        kind,
    })))
}

/// Whether an event makes a document: as in SQL, NULL does not.
fn is_chosen(
    condition: Option<&Condition>,
    record: &Record,
) -> std::result::Result<bool, NotApplied> {
    let Some(condition) = condition else {
        return Ok(true);
    };
    match condition.judge(record)? {
        Judgement::True => Ok(true),
        Judgement::False | Judgement::Null | Judgement::Missing => Ok(false),
        Judgement::Unclear(why) => {
            Err(Failure::conversion(format!("where cannot be told: {why}")).into())
        }
    }
}

/// The record's key: the value of a single column, an object of several, or a text.
fn identity_of_key(record: &Record, names: Names) -> std::result::Result<(String, Bson), Failure> {
    let Some(key) = key_text(record) else {
        return Err(Failure::conversion(
            "the event has no key, and the view no id".to_owned(),
        ));
    };
    if !key.starts_with('{') {
        return Ok((key.clone(), Bson::String(key)));
    }
    let columns = document_of(&Image::parse(key.as_bytes())?, None, names)?;
    let columns = Document::try_from(columns.as_ref()).map_err(|_| unwritable())?;
    Ok((key, Bson::Document(columns)))
}

/// A key that is UTF-8.
fn key_text(record: &Record) -> Option<String> {
    let key = std::str::from_utf8(record.key()?).ok()?;
    Some(key.to_owned())
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

/// What is at a path of an event.
fn at<'e>(
    event: &'e OwnEvent<'_>,
    path: &Path,
) -> std::result::Result<Option<&'e RawValue>, Malformed> {
    let mut found = match path.root {
        Root::Audit => Some(&*event.audit),
        _ => event.value,
    };
    for name in &path.names {
        found = match found.filter(|json| json.get().starts_with('{')) {
            Some(json) => Image::parse(json.get().as_bytes())?.get(name),
            None => None,
        };
    }
    Ok(found)
}

fn bson(json: &RawValue, names: Names) -> std::result::Result<Bson, Failure> {
    let raw: RawBson = value_of(json, &PgType::Plain, names)?;
    Bson::try_from(raw).map_err(|_| unwritable())
}

fn unwritable() -> Failure {
    Failure::conversion("a value cannot be written as BSON".into())
}

/// The topic is a table's.
fn rows_instead(own: &OwnRoot, headers: &Headers<'_>) -> Trouble {
    Trouble::new(
        Code::Configuration,
        format!(
            "topic {} has rows of table {}, and no own events",
            own.topic, headers.table
        ),
        "Name the table with root instead of root_topic, then `companion-sink rebuild` the view and restart.",
    )
}
