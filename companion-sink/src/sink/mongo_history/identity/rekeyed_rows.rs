//! Where the documents of an event's row go: the collection of its table, and the entity that the row had from the beginning,
//! also where the table has had another key since.
//!
//! When a table gets another key, links are noted for the rows that are there: from what the new key calls them to their
//! entities. A row whose newest document has not got the new key's columns gets its link with its next event, as long as that
//! still has the columns of the key before.

use std::collections::HashMap;

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::{Collection, Database};
use serde_json::value::RawValue;

use crate::error::Result;
use crate::event::Headers;
use crate::event::Op;
use crate::event::image::Image;
use crate::event::pg_type::PgType;
use crate::history::state;
use crate::kafka::record::Record;
use crate::rejected::failure::NotApplied;
use crate::sink::mongo_history::documents::bson_value::{Names, value_of};
use crate::sink::mongo_history::documents::document::identity;
use crate::sink::mongo_history::documents::history_body::HistoryBody;
use crate::sink::mongo_history::identity::lineage::Key;
use crate::sink::mongo_history::identity::lineage::Lineage;
use crate::sink::mongo_history::identity::lineage::Natural;
use crate::sink::mongo_history::identity::told::Told;
use crate::sink::mongo_history::tables::registry::{HistoryTables, no_renames};
use crate::sink::mongo_history::write::newest_versions::NewestVersions;
use crate::sink::mongo_history::write::newest_versions::truncates;

/// Links that are written at once.
const PAGE: usize = 1000;

/// Where a document goes.
pub(crate) struct DocumentPlace {
    /// Of the table.
    pub(crate) collection: String,
    /// What the history calls the row, or the table.
    pub(crate) entity: String,
}

/// What an event of a row says about its table: the columns of `key` identify it.
pub(crate) fn told_by_row<'t>(
    record: &'t Record,
    headers: &Headers<'t>,
    body: &HistoryBody<'_>,
    key: &'t [String],
) -> Told<'t> {
    Told {
        version: headers.version,
        topic: &record.topic,
        is_renaming: false,
        name: body.name(headers),
        oid: None,
        renames: no_renames(),
        key,
        types: Vec::new(),
    }
}

/// Where the document of an event goes.
pub(crate) async fn place(
    tables: &mut HistoryTables,
    record: &Record,
    headers: &Headers<'_>,
    body: &HistoryBody<'_>,
    template: &str,
    names: Names,
) -> std::result::Result<DocumentPlace, NotApplied> {
    let identity = identity(record, headers);
    let lineage = match tables.of(&record.topic, headers.table, headers.version) {
        // What identifies the rows of a table without a primary key only they say.
        Some(lineage) if identity.is_none() || !lineage.keys.is_empty() => lineage,
        _ => {
            let key = match identity.map(|json| Image::parse(json.as_bytes())) {
                Some(Ok(key)) => key
                    .0
                    .into_iter()
                    .map(|(name, _)| name.into_owned())
                    .collect(),
                Some(Err(malformed)) => return Err(malformed.into()),
                None => Vec::new(),
            };
            let told = told_by_row(record, headers, body, &key);
            tables.learn(&told, template).await?
        }
    };
    let collection = lineage.collection.clone();
    let natural = lineage.natural(identity, headers.version);
    if matches!(natural, Natural::Entity(_)) {
        let entity = tables.entity(natural);
        return Ok(DocumentPlace { collection, entity });
    }
    tables.look_up([&natural]).await?;
    if tables.is_unlinked(&natural) && matches!(headers.op, Op::Update | Op::Delete | Op::Read) {
        let lineage = lineage_of(tables, record, headers);
        link_by_former_key(tables, lineage.as_ref(), &natural, headers, body, names).await?;
        tables.look_up([&natural]).await?;
    }
    let entity = tables.entity(natural);
    Ok(DocumentPlace { collection, entity })
}

/// It was there a moment ago.
fn lineage_of(tables: &HistoryTables, record: &Record, headers: &Headers<'_>) -> Option<Lineage> {
    let lineage = tables.of(&record.topic, headers.table, headers.version);
    lineage.cloned()
}

/// Notes the link of a row whose last document, from before it had its present key, has not got that key's columns.
async fn link_by_former_key(
    tables: &mut HistoryTables,
    lineage: Option<&Lineage>,
    natural: &Natural,
    headers: &Headers<'_>,
    body: &HistoryBody<'_>,
    names: Names,
) -> Result<()> {
    let Some(lineage) = lineage else {
        return Ok(());
    };
    let now = lineage.key_at(headers.version);
    let former = now.and_then(|now| lineage.keys.iter().find(|key| key.number == now.number - 1));
    let (Some(now), Some(former), Some(image)) = (now, former, body.known_image()) else {
        return Ok(());
    };
    let members: Option<Vec<(&str, String)>> = former
        .columns
        .iter()
        .map(|column| {
            let value = image.get(&lineage.column_at(column, headers.version))?;
            Some((column.as_str(), json_of(value, former)?))
        })
        .collect();
    let Some(members) = members else {
        return Ok(());
    };
    let members = members
        .iter()
        .map(|(column, json)| (*column, json.as_str()));
    let former = lineage.link(members, former.number);
    tables.look_up([&former]).await?;
    let entity = tables.entity(former);
    let last = tables
        .database()
        .collection::<Document>(&lineage.collection)
        .find_one(doc! { "entity": &entity, "version": { "$lt": &now.from } })
        .sort(doc! { "version": -1 })
        .await;
    let last = last.map_err(|error| {
        crate::sink::mongo_history::failure::classify("reading the newest versions", &error)
    })?;
    let is_meant = last.as_ref().is_some_and(|last| {
        state(last).is_some() && members_of(lineage, now, last, names).is_none()
    });
    match is_meant {
        true => {
            tables
                .note_links(&[(natural.text().to_owned(), entity)])
                .await
        }
        false => Ok(()),
    }
}

/// A value as links have it; of the first key as entities have it.
fn json_of(value: &RawValue, key: &Key) -> Option<String> {
    match key.number {
        1 if value.get() != "null" => Some(value.get().to_owned()),
        _ => match Bson::try_from(value_of(value, &PgType::Plain, Names::AsTheyAre).ok()?).ok()? {
            Bson::Null => None,
            value => Some(value.into_relaxed_extjson().to_string()),
        },
    }
}

/// The values of a key in a row's document, by the first names of the columns; none where it lacks one of them.
fn members_of<'k>(
    lineage: &Lineage,
    key: &'k Key,
    document: &Document,
    names: Names,
) -> Option<Vec<(&'k str, String)>> {
    let version = document.get_str("version").ok()?;
    let after = state(document)?;
    let members = key.columns.iter().map(|column| {
        let name = lineage.column_at(column, version);
        let value = after.get(names.write(&name).as_ref());
        let value = value.filter(|value| **value != Bson::Null)?;
        Some((
            column.as_str(),
            value.clone().into_relaxed_extjson().to_string(),
        ))
    });
    members.collect()
}

/// Notes links for the rows that are there before `told` gives their table another key; returns how many.
pub(crate) async fn link_rows(
    database: &Database,
    tables: &mut HistoryTables,
    told: &Told<'_>,
    names: Names,
) -> Result<u64> {
    let Some(lineage) = tables.learnt(told) else {
        return Ok(0);
    };
    let Some(key) = lineage.key_at(told.version) else {
        return Ok(0);
    };
    let collection: Collection<RawDocumentBuf> = database.collection(&lineage.collection);
    let table = lineage.id.as_str();
    let before = doc! { "version": { "$lt": told.version } };
    let emptied = truncates(&collection, table, before)
        .await?
        .pop()
        .unwrap_or_default();
    let mut newest = NewestVersions::of(
        &collection,
        doc! {
            "entity": { "$gte": format!("{table}:{{"), "$lt": format!("{table}:|") },
            "version": { "$lt": told.version },
        },
        doc! { "entity": 1, "version": 1, "op": 1, "after": 1 },
    )
    .await?;
    let mut linked = 0;
    let mut page: HashMap<String, String> = HashMap::new();
    loop {
        let next = newest.next(|_, version| version > emptied.as_str()).await?;
        let is_last = next.is_none();
        let document = next.and_then(|next| Document::try_from(next).ok());
        if let Some(document) = document
            && let Ok(entity) = document.get_str("entity")
            && let Some(members) = members_of(&lineage, key, &document, names)
        {
            let members = members
                .iter()
                .map(|(column, json)| (*column, json.as_str()));
            let link = lineage.link(members, key.number);
            page.insert(link.text().to_owned(), entity.to_owned());
        }
        if is_last || page.len() >= PAGE {
            linked += page.len() as u64;
            let links: Vec<(String, String)> = page.drain().collect();
            tables.note_links(&links).await?;
        }
        if is_last {
            return Ok(linked);
        }
    }
}
